"""The train step and the loop, in this process: exactness under every way of running them."""

import functools
import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from imgjax import build, evaluate, feed, loop, sharding, state, train
from imgjax import config as config_lib
from imgjax import members as members_lib
from imgjax.data.sources import arrays
from imgjax.errors import ConfigError, DataError, DivergedError, OutOfMemoryError
from imgjax.process import backend
from imgjax.rundir import checkpoint, dataset_info, metrics_log


def config_of(family='mlp', **changes) -> dict:
    config = digits.get_config(family)
    config.model.options = {'mlp': {}, 'cnn': dict(norm='batch')}[family]
    config.model.name = f'tiny_{family}'
    config.update(steps=50, log_every=1, eval_every=0, batch_size=32, checkpoint=dict(every=0))
    config.unlock()
    config.update(changes)
    return config_lib.checked(config)


@pytest.fixture(scope='module')
def dataset(data_dir):
    train_split, test_split = build.open_dataset(config_of())
    return train_split, test_split, build.describe(config_of(), train_split, test_split)[1]


@pytest.fixture(scope='module')
def solo(dataset):
    """(losses, last state) of each family's plain config on one device."""
    return functools.cache(lambda family: losses_of(
        config_of(family, steps_per_dispatch=1), dataset, jax.devices()[:1]))


def losses_of(config: dict, dataset, devices=None, steps=20):
    """Returns (losses, last state) of the first steps on the given devices."""
    source, _, dataset = dataset
    setup = build.setup(config, dataset, devices)
    hparams = jax.device_put(state.hparams_of(config), sharding.replicated(setup.mesh))
    start = train.initial_state(setup, hparams)
    opened = feed.open_feed(setup, source, start, 0, hparams)
    now, found = start, []
    for item in itertools.islice(opened.items, steps // opened.steps):
        now, measured = opened.dispatch(now, item)
        found.append(measured['loss'])
    return np.array(jax.device_get(found)), jax.device_get(now)


@pytest.mark.parametrize('family, mesh', [
    ('mlp', {'data': 8, 'fsdp': 1, 'tensor': 1}), ('mlp', {'data': 2, 'fsdp': 2, 'tensor': 2}),
    ('cnn', {'data': 8, 'fsdp': 1, 'tensor': 1}), ('cnn', {'data': 2, 'fsdp': 4, 'tensor': 1})])
def test_devices_change_the_losses_by_rounding_only(family, mesh, dataset, solo):
    one, _ = solo(family)
    eight, now = losses_of(config_of(family, mesh=mesh, steps_per_dispatch=1), dataset)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    assert now.step == 20


def test_fsdp_cuts_parameters_and_moments(dataset):
    _, _, dataset = dataset
    setup = build.setup(config_of(mesh={'data': 1, 'fsdp': 8, 'tensor': 1}), dataset)
    cut = [leaf for leaf in jax.tree.leaves(setup.target) if leaf.size >= 1024]
    assert cut
    for leaf in cut:
        assert np.prod(leaf.sharding.shard_shape(leaf.shape)) == leaf.size // 8


@pytest.mark.parametrize('family', ['mlp', 'cnn'])
def test_streamed_equals_resident(family, dataset, solo):
    options = config_of(family)['data'] | {'resident': 'no'}
    streamed, _ = losses_of(config_of(family, data=options), dataset, jax.devices()[:1], 10)
    np.testing.assert_allclose(streamed, solo(family)[0][:10], rtol=1e-6)


def test_many_steps_a_dispatch_equal_one(dataset, solo):
    _, a = solo('mlp')
    found, b = losses_of(
        config_of(steps_per_dispatch=10, log_every=10), dataset, jax.devices()[:1])
    assert len(found) == 2
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a.params,
                 b.params)


def test_images_of_another_size_are_evaluated_in_one_way(dataset):
    """With image_size 0, in a run and by `evaluate.split` they are resized and not cropped."""
    train_source, _, _ = dataset
    images = np.random.default_rng(0).integers(0, 256, (24, 12, 12), np.uint8)
    larger = arrays.source(images, np.arange(24) % 10, train_source.class_names)
    setup = build.setup(*build.describe(config_of(), train_source, larger))
    hparams = evaluate.hparams_on(setup)
    start = train.initial_state(setup, hparams)
    own = evaluate.evaluator(setup, larger, lambda: None)(start, 0, setup)
    assert setup.dataset.image_shape == [8, 8, 1]
    np.testing.assert_array_equal(own['loss'], evaluate.split(setup, start, larger, '')['loss'])


def test_steps_per_dispatch_follows_backend_and_model(dataset, monkeypatch):
    def chosen(family, first=0, **changes):
        config = config_of(family, log_every=10, steps=100, **changes)
        setup = build.setup(config, dataset[2])
        return feed.steps_per_dispatch(setup, state.hparams_of(config), first)

    assert chosen('mlp') == 10
    assert chosen('mlp', first=14) == 2
    assert chosen('cnn') == 1
    assert chosen('cnn', steps_per_dispatch=5) == 5
    with pytest.raises(ConfigError, match='config.steps_per_dispatch: 3 does not divide'):
        chosen('mlp', steps_per_dispatch=3)
    monkeypatch.setattr(backend, 'platform', lambda: 'gpu')
    monkeypatch.setattr(jax, 'make_jaxpr', None)  # a step is not traced only to choose this
    assert chosen('cnn') == 10


@pytest.fixture(scope='module')
def one_step(dataset):
    """(setup, initial state, a batch) of a small MLP with every optional part on."""
    _, _, dataset = dataset
    config = config_of(ema=True, accumulation_steps=2, log_every=4)
    setup = build.setup(config, dataset, jax.devices()[:1])
    rng = np.random.default_rng(0)
    batch = {'image': rng.integers(0, 255, (32, 8, 8, 1), np.uint8),
             'label': rng.integers(0, 10, 32).astype(np.int32), 'weight': np.ones(32, np.float32)}
    hparams = state.hparams_of(config)
    return setup, state.init(setup.model, config, (8, 8, 1), hparams), batch, hparams


def test_changing_an_hparam_does_not_recompile_and_vmap_equals_solo(one_step):
    setup, start, batch, hparams = one_step
    traces = []

    def step(start, hparams):
        traces.append(1)
        return setup.train_step(start, batch, hparams)

    arms = [hparams | {'learning_rate': jnp.float32(lr), 'seed': jnp.int32(seed),
                       'label_smoothing': jnp.float32(s)}
            for lr, seed, s in ((1e-3, 0, 0.0), (1e-2, 1, 0.1), (1e-4, 2, 0.3))]
    compiled = jax.jit(step)
    solo = [compiled(start, arm)[0].params for arm in arms]
    assert len(traces) == 1
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arms)
    population = jax.jit(jax.vmap(step, (None, 0)))(start, together)[0].params
    for i, params in enumerate(solo):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[i], rtol=2e-5, atol=1e-7),  # noqa: B023
                     params, population)


def test_a_non_finite_update_is_skipped_and_counted(one_step):
    setup, start, batch, hparams = one_step
    step = jax.jit(setup.train_step)
    after, _ = step(start, batch, hparams)
    bad, measured = step(after, batch, hparams | {'label_smoothing': jnp.float32(np.nan)})
    for name in ('params', 'opt_state', 'ema', 'batch_stats'):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(bad, name))
    assert bad.skipped == {'loss': 1, 'gradient': 0, 'update': 0}
    assert (int(bad.step), int(bad.skipped_in_a_row), int(bad.skipped_at)) == (2, 1, 1)
    assert np.isfinite(measured['loss']), 'the mean is over the finite updates'
    good, _ = step(bad, batch, hparams)
    assert good.skipped == bad.skipped
    assert (int(good.skipped_in_a_row), int(good.skipped_at)) == (0, 1)


def test_the_window_is_the_mean_since_the_last_logged_step(one_step):
    setup, start, batch, hparams = one_step
    step, now, single = jax.jit(setup.train_step), start, []
    for _ in range(4):
        before = now.window['loss']
        now, measured = step(now, batch, hparams)
        single.append(float(now.window['loss'] - (before if single else 0)))
    np.testing.assert_allclose(measured['loss'], np.mean(single), rtol=1e-5)
    now, measured = step(now, batch, hparams)
    assert int(now.window['count']) == 1


@pytest.mark.parametrize('step, decay, expected', [
    (0, 0.9, 0.1), (90, 0.9999, 0.91), (8990, 0.999, 0.999), (10**6, 0.9, 0.9)])
def test_ema_follows_the_parameters_and_warms_up(step, decay, expected, one_step):
    setup, start, batch, hparams = one_step
    at = start.replace(step=jnp.int32(step))
    after, _ = jax.jit(setup.train_step)(at, batch, hparams | {'ema_decay': jnp.float32(decay)})
    jax.tree.map(lambda mean, old, new: np.testing.assert_allclose(
        mean, expected * old + (1 - expected) * new, rtol=1e-5, atol=1e-7),
        after.ema, start.params, after.params)


def test_accumulation_is_the_mean_over_the_parts(dataset):
    one = jax.devices()[:1]
    whole, a = losses_of(config_of(steps_per_dispatch=1, augment=[]), dataset, one, 5)
    parts, b = losses_of(config_of(steps_per_dispatch=1, augment=[], accumulation_steps=4),
                         dataset, one, 5)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_bfloat16_compute_keeps_float32_parameters(dataset, solo):
    config = config_of()
    config |= {'model': config.model | {'dtype': 'bfloat16'}}
    found, now = losses_of(config, dataset, jax.devices()[:1])
    assert {leaf.dtype for leaf in jax.tree.leaves(now.params)} == {np.dtype('float32')}
    full, _ = solo('mlp')
    assert not np.array_equal(found, full)
    np.testing.assert_allclose(found, full, rtol=0.01)


def test_divergence_goes_back_once_then_ends_with_the_last_checkpoint_and_the_images(
        tmp_path, caplog):
    config = config_of(max_skipped_updates=5, checkpoint={
        'every': 1, 'keep_newest': 20, 'keep_every': 0, 'keep_best': False})
    config |= {'hparams': config.hparams | {  # grows a few thousandfold a step
        'learning_rate': 1e5, 'clip_norm': 0.0}}
    with pytest.raises(DivergedError, match='updates in a row were not finite') as ended:
        train.run(config, str(tmp_path))
    assert sum('Starting once more from the newest' in line for line in caplog.messages) == 1
    steps = checkpoint.steps(str(tmp_path))
    setup = build.setup(config, dataset_info.read(str(tmp_path)))
    kept, _ = checkpoint.restore_newest(
        str(tmp_path), setup.target, config_lib.digest(config), put_aside=False)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(kept)))
    told = json.loads((tmp_path / 'diverged.json').read_text())
    assert told['first_skipped'] >= steps[-1], 'no step was saved while updates were skipped'
    assert [batch['step'] for batch in told['batches']] == list(
        range(told['first_skipped'], told['last_skipped'] + 1))
    assert len(told['batches'][0]['index']) == 32
    assert told['images_of_first_skipped'][0] in str(ended.value)
    assert len(told['images_of_first_skipped']) == 32 and told['batches_left_out'] == 0
    assert f'in a new --workdir: the checkpoints of this one, up to step {steps[-1]}, stay' in str(
        ended.value)


def test_only_the_images_that_a_line_names_are_read():
    class Examples:
        read = []

        def __getitem__(self, index: int) -> dict:
            self.read.append(index)
            if index == 2:
                raise DataError('broken')
            return {'name': f'{index}.png'}

    source = types.SimpleNamespace(examples=Examples())
    text = members_lib._first_names(source, np.arange(1, 101))
    assert text == '1.png, image 2, 3.png, 4.png, 5.png, 6.png, 7.png, 8.png and 92 more'
    assert len(Examples.read) == 8


def test_the_directory_of_a_run_that_diverged_before_it_saved_is_free(tmp_path, caplog):
    config = config_of(max_skipped_updates=5)
    with pytest.raises(DivergedError, match='in this --workdir or another: no checkpoint was'):
        train.run(config | {'hparams': config['hparams'] | {'learning_rate': 1e30}}, str(tmp_path))
    caplog.clear()
    train.run(config, str(tmp_path))
    [line] = [line for line in caplog.messages if 'is replaced' in line]
    assert 'with another config (hparams.learning_rate: 1e+30 -> ' in line
    assert not (tmp_path / 'diverged.json').exists()


@pytest.mark.parametrize('part', ['params', 'opt_state', 'ema', 'batch_stats'])
def test_a_state_that_is_not_finite_is_never_saved(part, tmp_path, dataset):
    config = config_of('cnn', ema=True)
    setup = build.setup(config, dataset[2])
    hparams = jax.device_put(state.hparams_of(config), sharding.replicated(setup.mesh))
    good = train.initial_state(setup, hparams)
    writer = checkpoint.Writer(str(tmp_path), config['checkpoint'])
    writer.save(good, 'hash')
    leaves, tree = jax.tree.flatten(getattr(good, part))
    place = next(i for i, leaf in enumerate(leaves) if leaf.ndim)
    leaves[place] = leaves[place].at[(0,) * leaves[place].ndim].set(jnp.nan)
    bad = good.replace(step=good.step + 1, **{part: jax.tree.unflatten(tree, leaves)})
    with pytest.raises(DivergedError, match=f'{part}/.*is not finite at step 1'):
        writer.save(bad, 'hash')
    writer.close()
    assert checkpoint.steps(str(tmp_path)) == [0]


def test_the_checkpoint_of_the_best_evaluation_is_kept(tmp_path, monkeypatch):
    """Also where none was due, and where the run is stopped and goes on after it."""
    accuracies = {2: 0.5, 4: 0.9, 6: 0.8, 8: 0.9, 10: 0.7}
    monkeypatch.setattr(metrics_log, 'scores', lambda rows, split, metric, higher_is_better: {
        row['step']: accuracies[row['step']] for row in rows if row['split'] == split})
    config = config_of(steps=10, eval_every=2, checkpoint={
        'every': 0, 'keep_newest': 1, 'keep_every': 0, 'keep_best': True})
    train.run_one(config, str(tmp_path), pause_at=6)
    assert checkpoint.steps(str(tmp_path)) == [4, 6]
    result = train.run_one(config, str(tmp_path))
    assert checkpoint.steps(str(tmp_path)) == [4, 10], 'the earliest of equals, and the newest'
    config |= {'checkpoint': config.checkpoint | {'keep_best': False}}
    other = train.run_one(config, str(tmp_path / 'other'))
    assert checkpoint.steps(str(tmp_path / 'other')) == [10]
    assert other['state_digest'] == result['state_digest']


@pytest.mark.parametrize('members, saves', [
    ([(True, False), (True, True)], True),  # all go on from one step that they have in common
    ([(True, False), (True, False)], False), ([(False, True)], False)])
def test_all_members_are_saved_where_one_is_at_its_best(members, saves):
    made = [types.SimpleNamespace(
        setup=types.SimpleNamespace(config=config_lib.Config({'checkpoint': {'keep_best': keeps}})),
        writer=types.SimpleNamespace(improves={10: best}.get)) for keeps, best in members]
    found = members_lib.Members(made, feed=None, evaluator=None, source=None)
    assert found.improved(10) is saves


@pytest.mark.parametrize('there', [False, True])
def test_a_start_that_fails_before_its_first_state_leaves_nothing(there, tmp_path, monkeypatch):
    def fail(*_):
        raise DataError('weights of another model')

    monkeypatch.setattr(train, 'initial_state', fail)
    if there:
        (tmp_path / 'run').mkdir()
    with pytest.raises(DataError, match='weights of another model'):
        train.run(config_of(), f'{tmp_path}/run/')
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*')] == ['run'] * there


def test_a_finished_run_says_the_same_again(tmp_path):
    config = config_of(steps=20, log_every=10)
    first = train.run(config, str(tmp_path))
    again = train.run(None, str(tmp_path))
    assert {k: v for k, v in first.items() if k != 'seconds'} == {
        k: v for k, v in again.items() if k != 'seconds'}
    assert len(metrics_log.read_rows(str(tmp_path))) == 3
    assert json.loads((tmp_path / 'environment.json').read_text())['jax'] == jax.__version__
    assert (tmp_path / 'report.html').stat().st_size > 10_000


def test_too_little_memory_names_the_fields_that_need_less(tmp_path, monkeypatch):
    def too_large(*arguments, **options):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.')

    monkeypatch.setattr(loop, 'run', too_large)
    with pytest.raises(OutOfMemoryError, match=(
            r'training takes more memory .*RESOURCE_EXHAUSTED.*lower config.batch_size \(32\) or '
            r'raise config.accumulation_steps \(1\)')) as error:
        train.run(config_of(), str(tmp_path / 'mlp'))
    assert '\n' not in str(error.value) and error.value.exit_code == 2
    setup = types.SimpleNamespace(config=config_of(), model=types.SimpleNamespace(remat=False),
                                dataset=types.SimpleNamespace(image_shape=[224, 224, 3]))
    assert feed.memory_advice(setup).startswith('lower config.data.image_size (224), lower')
    assert 'or set config.model.options.remat=True' in feed.memory_advice(setup)


def test_a_step_that_needs_more_than_is_free_is_refused_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, 'free_memory', lambda mesh: 2**10)
    with pytest.raises(OutOfMemoryError, match=(
            r'a training step needs \d MiB of memory and 0 MiB are free; lower config.batch_size '
            r'\(32\) or raise config.accumulation_steps')):
        train.run(config_of(), str(tmp_path))


def test_every_row_has_the_time_of_its_own_steps(tmp_path, monkeypatch):
    """By a clock on which a step takes a second, also before an evaluation and at the end."""
    clock = {'now': 0.0}
    for module in (loop, members_lib):
        monkeypatch.setattr(module, 'time', types.SimpleNamespace(monotonic=lambda: clock['now']))
    opened = feed.open_feed

    def open_feed(*arguments):
        found = opened(*arguments)

        def dispatch(state, item):
            clock['now'] += found.steps
            return jax.block_until_ready(found.dispatch(state, item))

        return found._replace(dispatch=dispatch)

    monkeypatch.setattr(train, 'open_feed', open_feed)
    train.run(config_of(steps=60, log_every=10, eval_every=20), str(tmp_path))
    rows = [row['perf'] for row in metrics_log.read_rows(str(tmp_path)) if row['split'] == 'train']
    assert [perf['step_time'] for perf in rows] == [1.0] * 6
    assert [perf['images_per_second'] for perf in rows] == [32.0] * 6


def test_profile_of_chosen_steps(tmp_path):
    train.run(config_of(steps=20, log_every=5, profile={'start': 10, 'steps': 5}), str(tmp_path))
    assert list(tmp_path.rglob('profile/**/*.xplane.pb'))
