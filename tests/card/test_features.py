"""The features of a split as a file: equal to the model's own, in the order of the split."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from configs import digits
from imgjax import train
from imgjax.card import store
from imgjax.commands import features, run_directory
from imgjax.errors import ConfigError

COUNT = 150  # images of the split
# Chunks of eight batches: three for the split, the last one not full.
SMALL = {'eval_batch_size': 8}


@pytest.fixture(scope='module')
def handwritten():
    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8)[:200 + COUNT], found.target


@pytest.fixture(scope='module')
def run(handwritten, tmp_path_factory):
    """The run directory of a small convolutional network."""
    place = tmp_path_factory.mktemp('features')
    images, labels = handwritten
    np.savez(place / 'digits.npz', train_images=images[:200], train_labels=labels[:200],
             test_images=images[200:], test_labels=labels[200:200 + COUNT])
    config = digits.get_config()
    config.update(data=dict(name='arrays', path=str(place / 'digits.npz')), augment=(), steps=3,
                  batch_size=64, eval_batch_size=64, eval_every=0, checkpoint=dict(every=0),
                  schedule=dict(warmup_steps=0))
    config.hparams.augment = {}
    config.model.name = 'tiny_cnn'
    train.run(config, str(place / 'run'))
    return str(place / 'run')


@pytest.fixture(scope='module')
def expected(run, handwritten):
    """{name: intermediate of the test images}, from the model alone."""
    setup = run_directory.open_run(run)
    state, _ = run_directory.restore(setup, run, None)
    images_NHWC = (handwritten[0][200:, ..., None] / np.float32(255) - 0.3) / 0.37
    _, out = setup.model.apply({'params': state.params, 'batch_stats': state.batch_stats},
                               jnp.asarray(images_NHWC, jnp.float32), train=False)
    return {name: np.asarray(array) for name, array in out.items()}


@pytest.fixture(scope='module')
def map_layer(expected):
    """The name of an intermediate with positions, (N, H, W, C)."""
    return next(name for name, array in expected.items() if array.ndim == 4)


def test_both_formats_hold_what_the_model_computes(run, expected, handwritten, tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    results = [features.write(run, 'pre_logits', str(tmp_path / f'out{ending}'), changes=SMALL)
               for ending in features.FORMATS]
    assert results[0]['shape'] == list(expected['pre_logits'].shape)
    assert results[0] | {'output': ''} == results[1] | {'output': ''}
    found = np.load(tmp_path / 'out.npz')
    assert {name: found[name].dtype.kind for name in found} == {
        'features': 'f', 'logits': 'f', 'labels': 'i', 'names': 'U', 'class_names': 'U'}
    for name, mine in (('features', 'pre_logits'), ('logits', 'logits')):
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[mine], rtol=1e-4, atol=1e-5)
    labels = handwritten[1][200:200 + COUNT]
    assert (found['labels'] == labels).all()
    assert [name.rpartition('[')[2] for name in found['names']] == [f'{i}]' for i in range(COUNT)]
    rows = parquet.read_table(tmp_path / 'out.parquet').to_pydict()
    for mine, theirs in (('features', 'features'), ('logits', 'logits'), ('label', 'labels')):
        assert np.array_equal(np.array(rows[mine], found[theirs].dtype), found[theirs]), mine
    assert rows['name'] == found['names'].tolist()
    assert rows['label_name'] == found['class_names'][labels].tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.npz', 'out.parquet']


def test_positions_are_averaged_or_kept(run, expected, map_layer, tmp_path):
    kept = features.write(run, map_layer, str(tmp_path / 'kept.npz'), pool='none')
    mean = features.write(run, map_layer, str(tmp_path / 'mean.npz'))
    assert kept['shape'] == list(expected[map_layer].shape)
    assert mean['shape'] == [COUNT, expected[map_layer].shape[-1]]
    kept, mean = (np.load(tmp_path / f'{name}.npz')['features'] for name in ('kept', 'mean'))
    np.testing.assert_allclose(kept, expected[map_layer], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, kept.mean((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('before', ['pre_logits', 'logits'])
def test_what_is_stopped_goes_on(before, run, expected, tmp_path, monkeypatch):
    """Chunks of the same command are used; those of another layer are not."""
    output, made = str(tmp_path / 'out.npz'), []
    stored = store.arrays

    def arrays(folder, name, key, make):
        def counted():
            if len(made) == stop_after:
                raise KeyboardInterrupt
            made.append(name)
            return make()

        return stored(folder, name, key, counted)

    monkeypatch.setattr(store, 'arrays', arrays)
    stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        features.write(run, before, output, changes=SMALL)
    assert not pathlib.Path(output).exists()
    stop_after = 99
    features.write(run, 'pre_logits', output, changes=SMALL)
    assert len(made) == (3 if before == 'pre_logits' else 5)
    np.testing.assert_allclose(np.load(output)['features'], expected['pre_logits'], rtol=1e-4,
                               atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ['out.npz']


def test_a_process_replaces_its_own_file(run, tmp_path, launch):
    output = tmp_path / 'out.npz'
    features.write(run, 'logits', str(output), split='train')
    assert len(np.load(output)['features']) == 200
    process = launch('features', f'--workdir={run}', f'--output={output}')
    out, err = process.communicate(timeout=200)
    result = json.loads(out.strip() or err[-3000:])
    assert result['layer'] == 'pre_logits' and result['output'] == str(output)
    assert len(np.load(output)['features']) == COUNT


BAD = [
    (dict(layer='pre_logit'), "--layer: tiny_cnn has no intermediate 'pre_logit'; did you mean "),
    (dict(output='out.csv'), '--output=.*out.csv: takes a name ending in .npz or .parquet'),
    (dict(output='mine.npz'), '--output=.*mine.npz: is there already, and launch.features did not'),
    (dict(output='missing/out.npz'), '--output=.*: no such folder'),
    (dict(output='run/checkpoints/out.npz'), '--output=.*is a name of the run directory'),
    (dict(split='tset'), "did you mean 'test'"),
    (dict(layer='MAP', output='out.parquet', pool='none'), '--pool=none: .* has 3 axes'),
]


@pytest.mark.parametrize(('flags', 'message'), BAD, ids=lambda one: str(one)[:40])
def test_wrong_flags_are_one_line(flags, message, run, map_layer, tmp_path):
    np.savez(tmp_path / 'mine.npz', features=np.zeros(3))
    mine = (tmp_path / 'mine.npz').read_bytes()
    flags = {'layer': 'pre_logits', 'output': 'out.npz'} | flags
    flags['layer'] = map_layer if flags['layer'] == 'MAP' else flags['layer']
    folder = pathlib.Path(run).parent if flags['output'].startswith('run') else tmp_path
    with pytest.raises(ConfigError, match=message) as raised:
        features.write(run, **flags | {'output': str(folder / flags['output'])})
    assert '\n' not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ['mine.npz']
    assert (tmp_path / 'mine.npz').read_bytes() == mine
