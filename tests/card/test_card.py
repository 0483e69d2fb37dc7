"""The card of a run: what each part measures, what is stored, what is left out and refused."""

import json
import pathlib
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from sklearn.datasets import load_digits

from configs import digits
from imgjax import evaluate, train
from imgjax.card import parts
from imgjax.commands import card, run_directory
from imgjax.errors import ConfigError, DataError
from imgjax.evals import comparison, near_duplicates
from imgjax.interop import export

TRAIN, TEST = slice(0, 400), slice(400, 600)
# What can be said of a digit, several at once.
KINDS = {'even': (0, 2, 4, 6, 8), 'below five': (0, 1, 2, 3, 4), 'prime': (2, 3, 5, 7)}


def write_set(path, images, labels, splits=None, **more) -> str:
    """Writes a .npz of digits; splits is {split: rows}."""
    for split, rows in (splits or {'train': TRAIN, 'test': TEST}).items():
        more |= {f'{split}_images': images[rows], f'{split}_labels': labels[rows]}
    np.savez(path, **more)
    return str(path)


def trained(workdir, path, steps=1, learning_rate=None, **changes) -> str:
    """Trains an MLP on a .npz; one step leaves it as it was initialised."""
    config = digits.get_config()
    config.update(data=dict(name='arrays', path=path), augment=(), steps=steps, batch_size=64,
                  eval_batch_size=200, eval_every=30, log_every=30, checkpoint=dict(every=30),
                  schedule=dict(warmup_steps=min(10, steps // 2)))
    config.hparams.learning_rate = learning_rate or (5e-3 if steps > 1 else 0.0)
    config.hparams.augment = {}
    config.update(changes)
    train.run(config, str(workdir))
    return str(workdir)


def logits_of(workdir, images) -> np.ndarray:
    """Returns what the newest checkpoint answers, without anything of the card."""
    setup = run_directory.open_run(workdir)
    state, _ = run_directory.restore(setup, workdir, None)
    images_NHWC = jnp.asarray((images[..., None] / np.float32(255) - 0.3) / 0.37, jnp.float32)
    logits_NK, _ = setup.model.apply({'params': state.params}, images_NHWC, train=False)
    return np.asarray(logits_NK)


def content(folder) -> dict:
    return json.loads((pathlib.Path(folder) / 'card.json').read_text())


def files_of(folder) -> dict:
    """Returns {name: (content, when it was written)} of what is stored of the parts."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in (pathlib.Path(folder) / 'parts').iterdir()}


def findings(folder) -> list[tuple[str, str, str]]:
    """Returns (kind, text, part) of each sentence of the summary."""
    page = (pathlib.Path(folder) / 'card.html').read_text()
    return re.findall(r'<li class="is-(\w+)"><span>(.*?) <a href="#(\w+)"', page)


def complaint(error) -> str:
    text = str(error.value)
    assert '\n' not in text and len(text) < 400
    return text


@pytest.fixture(scope='module', autouse=True)
def fast():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'umap', None)  # it compiles for 10 s
        patch.setattr(near_duplicates, 'RANDOM_PAIRS', 1_000)  # 12,000 take 8 s
        yield


@pytest.fixture(scope='module')
def handwritten():
    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), found.target


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('card')


@pytest.fixture(scope='module')
def data(place, handwritten):
    return write_set(place / 'digits.npz', *handwritten)


@pytest.fixture(scope='module')
def run(place, data):
    return trained(place / 'run', data, 60)


@pytest.fixture(scope='module')
def untrained(place, data):
    return trained(place / 'untrained', data)


@pytest.fixture(scope='module')
def whole(run, untrained):
    """(folder, result) of a card with all parts."""
    return pathlib.Path(run) / 'card', card.of_run(run, compare=untrained)


# What is on it.


# Prepared sets are there with --sets only: tests/card/test_prepared_sets.py.
@pytest.mark.parametrize('name', [name for name in parts.NAMES if name != 'prepared_sets'])
def test_each_part_has_figures_and_a_section(name, whole):
    folder, result = whole
    assert result['left_out'] == []
    found = content(folder)['parts'][name]
    assert found and 'not_measured' not in found
    section = (folder / 'card.html').read_text().split(f'id="{name}"')[1].split('</details>')[0]
    assert len(re.findall(r'\d', section)) > 10 and 'This part is left out' not in section


def test_the_figures_are_those_of_the_model(whole, run, handwritten):
    folder, result = whole
    images, labels = handwritten
    right = logits_of(run, images[TEST]).argmax(1) == labels[TEST]
    assert result['accuracy'] == right.mean() > 0.6
    assert result['examples'] == 200 and result['step'] == 60
    found = content(folder)['parts']
    assert sorted([*found, 'prepared_sets']) == sorted(parts.NAMES)
    assert found['accuracy']['top1']['value'] == result['accuracy']
    assert result['linear_probe'] > 0.6 and result['neighbors'] > 0.6
    assert found['probes']['linear']['train_images'] == 400
    assert result['leaks'] == 0 and found['duplicates']['evaluated'] == 200
    assert 0.8 < result['set_coverage'] < 1 <= result['set_size'] < 10
    assert all(np.isfinite(value) for value in result.values() if isinstance(value, float))


def test_comparison_is_that_of_both_logits(whole, run, untrained, handwritten):
    images, labels = (array[TEST] for array in handwritten)
    expected = comparison.measure(logits_of(run, images), logits_of(untrained, images), labels)
    found = content(whole[0])['parts']['comparison']
    assert {name: found[name] for name in ('counts', 'agreement', 'different')} == {
        name: expected[name] for name in ('counts', 'agreement', 'different')}
    assert found['accuracy'] == pytest.approx(expected['accuracy'])
    assert found['nll'] == pytest.approx(expected['nll'], rel=1e-4)
    assert whole[1]['accuracy_difference'] == expected['accuracy']['difference'] > 0.3


def test_an_untrained_network_is_exposed(untrained, tmp_path):
    result = card.of_run(untrained, output=str(tmp_path / 'card'), images=150,
                         only='accuracy,calibration,probes')
    assert result['accuracy'] < 0.25
    told = findings(tmp_path / 'card')
    verdicts = [one['verdict'] for one in content(tmp_path / 'card')['parts']['accuracy'][
        'baselines'] if one['baseline'] == 'chance']
    assert verdicts and 'above' not in verdicts
    for part in ('accuracy', 'calibration', 'probes'):
        kinds = [kind for kind, _, of in told if of == part]
        assert 'look' in kinds and 'good' not in kinds, part


# What is stored.


def test_the_same_call_computes_nothing_again(whole, run, untrained, monkeypatch):
    folder, result = whole
    before, text = files_of(folder), (folder / 'card.json').read_bytes()
    monkeypatch.setattr(evaluate, 'split', None)  # what every forward pass goes through
    assert card.of_run(run, compare=untrained) == result
    assert files_of(folder) == before and (folder / 'card.json').read_bytes() == text


def test_a_process_reads_what_is_stored_and_prints_one_line(run, launch, tmp_path):
    result = card.of_run(run, output=str(tmp_path), only='accuracy,label_errors')
    before = files_of(tmp_path)
    process = launch('card', f'--workdir={run}', f'--output={tmp_path}',
                     '--only=accuracy,label_errors')
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    assert json.loads(out) == json.loads(json.dumps(result))
    assert files_of(tmp_path) == before


def test_what_is_damaged_is_computed_again(run, tmp_path):
    call = lambda: card.of_run(run, output=str(tmp_path), only='accuracy,conformal')  # noqa: E731
    result, before = call(), files_of(tmp_path)
    text = (tmp_path / 'card.json').read_bytes()
    (tmp_path / 'parts' / 'accuracy.json').write_bytes(before['accuracy.json'][0][:-200])
    stored = bytearray(before['evaluated.safetensors'][0])
    stored[-100] ^= 255
    (tmp_path / 'parts' / 'evaluated.safetensors').write_bytes(stored)
    (tmp_path / 'parts' / 'conformal.json').write_bytes(
        before['conformal.json'][0].replace(b'"images": 200', b'"images": 201'))
    assert call() == result and (tmp_path / 'card.json').read_bytes() == text
    after = files_of(tmp_path)
    was, now = (safetensors.numpy.load(files['evaluated.safetensors'][0])
                for files in (before, after))
    assert all((was[name] == now[name]).all() for name in was)
    assert all(after[f'{part}.json'][0] == before[f'{part}.json'][0]
               for part in ('accuracy', 'conformal'))


def test_another_seed_and_another_step_are_computed_anew(run, tmp_path):
    call = lambda **more: card.of_run(  # noqa: E731
        run, output=str(tmp_path), only='accuracy', **more)
    first = call()
    interval = content(tmp_path)['parts']['accuracy']['top1']
    assert call(seed=1)['accuracy'] == first['accuracy']
    other = content(tmp_path)['parts']['accuracy']['top1']
    assert other['value'] == interval['value'] and other != interval
    earlier = call(at=30)
    assert earlier['step'] == 30 and earlier['accuracy'] < first['accuracy']
    assert earlier['state_digest'] != first['state_digest']
    assert call() == first and content(tmp_path)['parts']['accuracy']['top1'] == interval


# What is asked for.


def test_only_some_parts_in_the_order_of_the_page(run, tmp_path):
    result = card.of_run(run, output=str(tmp_path), only='conformal, accuracy')
    assert list(content(tmp_path)['parts']) == ['accuracy', 'conformal']
    assert 'set_size' in result and 'linear_probe' not in result
    assert 'id="probes"' not in (tmp_path / 'card.html').read_text()


def test_kept_classes_and_label_sets(run, handwritten, tmp_path):
    images, labels = (array[TEST] for array in handwritten)
    logits_NK = logits_of(run, images)
    here, kept = np.isin(labels, (3, 8)), [3, 8]
    result = card.of_run(run, output=str(tmp_path), only='accuracy', kept=['3', '8'])
    answers = np.array(kept)[logits_NK[here][:, kept].argmax(1)]
    assert result['accuracy'] == (answers == labels[here]).mean()
    found = content(tmp_path)['parts']['accuracy']
    assert found['left_out'] == (~here).sum() and found['images'] == here.sum()
    sets = [[] if label == 0 else [int(label), 9] for label in labels]
    (tmp_path / 'sets.json').write_text(json.dumps(sets))
    result = card.of_run(run, output=str(tmp_path / 'sets'), only='accuracy',
                         label_sets=str(tmp_path / 'sets.json'))
    answers, judged = logits_NK.argmax(1), labels != 0
    right = (answers == labels) | (answers == 9)
    assert result['label_sets_accuracy'] == pytest.approx(right[judged].mean())
    assert result['accuracy'] == (answers == labels).mean()
    (tmp_path / 'sets.json').write_text(json.dumps([[k] for k in answers.tolist()]))
    result = card.of_run(run, output=str(tmp_path / 'sets'), only='accuracy',
                         label_sets=str(tmp_path / 'sets.json'))
    assert result['label_sets_accuracy'] == 1


def test_layers_are_those_of_the_model_that_is_compared_now(run, untrained, tmp_path):
    def call(**more) -> dict:
        only = 'representation' + (',comparison' if more else '')
        card.of_run(run, output=str(tmp_path), only=only, **more)
        return content(tmp_path)['parts']['representation']

    alone = call()
    assert not alone['other_layers']
    compared = call(compare=untrained)
    assert compared['other_layers'] and np.allclose(compared['cka'], alone['cka'], atol=1e-4)
    with_itself = call(compare=run)
    assert np.diag(with_itself['other_cka']) == pytest.approx(1, abs=1e-3)
    assert np.diag(compared['other_cka']).max() < 0.999
    assert call() == alone


def test_a_comparison_matches_classes_by_name(run, data, place, handwritten, tmp_path):
    images, labels = handwritten
    backwards = write_set(place / 'backwards.npz', images, 9 - labels,
                          class_names=np.array(list('9876543210')))
    other = trained(place / 'backwards', backwards, 30)
    result = card.of_run(run, output=str(tmp_path), only='comparison', compare=other,
                         changes={'data.path': data})
    expected = (logits_of(other, images[TEST]).argmax(1) == 9 - labels[TEST]).mean()
    assert result['other_accuracy'] == pytest.approx(expected) and expected > 0.4


def test_what_is_not_at_hand_is_left_out(run, place, handwritten, tmp_path, caplog):
    lone = write_set(place / 'lone.npz', *handwritten, {'test': TEST})
    result = card.of_run(run, output=str(tmp_path), changes={'data.path': lone},
                         only='accuracy,duplicates,odd_images,probes,map')
    assert result['left_out'] == ['probes'] and result['accuracy'] > 0.6
    assert 'probes is left out: ' in caplog.text
    assert any('not known' in text for _, text, of in findings(tmp_path) if of == 'duplicates')
    assert 'This part is left out: ' in (tmp_path / 'card.html').read_text()


def test_several_labels_per_image(place, handwritten, tmp_path):
    images, labels = handwritten
    several = np.stack([np.isin(labels, mine) for mine in KINDS.values()], 1).astype(np.uint8)
    path = write_set(place / 'several.npz', images, several, class_names=np.array(list(KINDS)))
    run = trained(place / 'several', path, 60, objective=dict(name='sigmoid'))
    result = card.of_run(run, output=str(tmp_path), images=100)
    assert result['left_out'] == ['conformal', 'ood', 'corruptions', 'shifts', 'attacks',
                                  'explanations', 'concepts']
    assert result['mean_average_precision'] > 0.7
    assert 'below five' in (tmp_path / 'card.html').read_text()
    assert content(tmp_path)['parts']['label_errors']['splits']['test']['labels'] > 0


def test_fewer_images_than_shots(place, tmp_path):
    labels = np.arange(24, dtype=np.uint8) % 2
    images = np.random.default_rng(0).integers(0, 100, (24, 8, 8), np.uint8)
    images += 100 * labels[:, None, None]
    splits = {'train': slice(12), 'test': slice(12, 24)}
    path = write_set(place / 'tiny.npz', images, labels, splits)
    run = trained(place / 'tiny', path, 10, batch_size=8)
    result = card.of_run(run, output=str(tmp_path), only='accuracy,label_errors,probes,map')
    assert result['left_out'] == [] and result['linear_probe'] > 0.7
    found = content(tmp_path)['parts']['probes']['few_shot']
    assert [row['shots'] for row in found['rows']] == [1, 5]
    assert any(note.startswith('10 shots are left out') for note in found['notes'])


# What is refused.


def test_a_diverged_model_is_refused_in_one_line(place, data, launch):
    """Its weights are finite, as no other state is saved; its logits overflow."""
    run = trained(place / 'diverged', data, learning_rate=1e15,
                  schedule=dict(name='constant', warmup_steps=0))
    process = launch('card', f'--workdir={run}', '--only=accuracy,odd_images')
    out, err = process.communicate(timeout=200)
    assert process.returncode == 3, err[-3000:]
    last = err.strip().splitlines()[-1]
    assert not out and 'Traceback' not in err and 'not finite' in last and len(last) < 400
    with pytest.raises(DataError, match='not finite'):
        card.of_run(run, only='odd_images')


BAD = [
    (dict(only='acuracy'), ConfigError, "--only: no part 'acuracy'; did you mean 'accuracy'"),
    (dict(layer='hiden1'), ConfigError, "--layer: .* did you mean 'hidden1'"),
    (dict(images=0), ConfigError, '--images: takes at least 1'),
    (dict(alpha=1.0), ConfigError, '--alpha: takes a number between 0 and 1'),
    (dict(kept=['3', 'eight']), ConfigError, "--kept: the model has no class 'eight'"),
    (dict(kept=['3']), ConfigError, 'kept'),
    (dict(split='trian'), ConfigError, "did you mean 'train'"),
    (dict(at=7), DataError, 'no such checkpoint'),
]


@pytest.mark.parametrize(('flags', 'error', 'message'), BAD, ids=lambda one: str(one)[:30])
def test_wrong_flags_are_one_line(flags, error, message, run, tmp_path):
    with pytest.raises(error, match=message) as raised:
        card.of_run(run, output=str(tmp_path / 'card'), **flags)
    complaint(raised)
    assert not (tmp_path / 'card' / 'card.html').exists()


@pytest.mark.parametrize('content', [None, '{"digits.npz:test[0]": [3]}'])
def test_wrong_label_sets_are_refused(content, run, tmp_path):
    # Fails for a file of other images: only the part accuracy is left out, with exit code 0.
    if content is not None:
        (tmp_path / 'sets.json').write_text(content)
    with pytest.raises((ConfigError, DataError), match='sets.json') as raised:
        card.of_run(run, output=str(tmp_path / 'card'), only='accuracy,conformal',
                    label_sets=str(tmp_path / 'sets.json'))
    complaint(raised)


@pytest.mark.parametrize('change', ['classes', 'images'])
def test_other_classes_and_other_images_are_not_compared(change, run, place, handwritten, tmp_path):
    images, labels = handwritten
    splits = {'train': TRAIN, 'test': slice(600, 800) if change == 'images' else TEST}
    more = {'class_names': np.array(list('abcdefghij'))} if change == 'classes' else {}
    path = write_set(place / f'{change}.npz', images, labels, splits, **more)
    other = trained(place / change, path)
    with pytest.raises(DataError, match=f'other {change}') as raised:
        card.of_run(run, output=str(tmp_path / 'card'), compare=other)
    assert '--compare' in complaint(raised)
    assert not (tmp_path / 'card').exists()


def test_a_folder_of_others_is_refused(run, tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ConfigError, match='notes.txt') as raised:
        card.of_run(run, output=str(tmp_path), only='accuracy')
    assert '--output' in complaint(raised)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


def test_a_card_folder_of_the_user_is_refused(untrained):
    mine = pathlib.Path(untrained) / 'card'
    mine.mkdir()
    (mine / 'card.html').write_text('mine')
    with pytest.raises(ConfigError) as raised:
        card.of_run(untrained, only='accuracy')
    complaint(raised)
    assert (mine / 'card.html').read_text() == 'mine'


def test_published_weights_have_a_card_like_the_run_they_are_from(run, whole, data, tmp_path):
    export.export(run, 'safetensors', str(tmp_path / 'export'))
    config = digits.get_config()
    config.update(data=dict(name='arrays', path=data), augment=())
    config.init.weights = f'timm:{tmp_path}/export/model.safetensors'
    result = card.of_weights(config, output=str(tmp_path / 'card'), only='accuracy,duplicates')
    assert result['accuracy'] == whole[1]['accuracy'] and result['left_out'] == []
    told = [text for _, text, part in findings(tmp_path / 'card') if part == 'duplicates']
    assert 'Whether the model was trained on train is not known.' in told
    with pytest.raises(ConfigError, match='--compare=.*is for a run') as raised:
        card.of_weights(config, output=str(tmp_path / 'other'), compare=run)
    complaint(raised)


def test_the_training_split_is_not_its_own_copy(run, tmp_path):
    result = card.of_run(run, split='train', output=str(tmp_path), only='duplicates,calibration')
    assert result['leaks'] == 0 and result['duplicate_groups'] < 20
    assert not (tmp_path / 'calibration.json').exists()
    told = [text for _, text, part in findings(tmp_path) if part == 'duplicates']
    assert any('leaks were not looked for' in text for text in told)
