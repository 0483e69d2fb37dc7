"""A run that goes on with more steps, or with other intervals."""

import json
import shutil

import pytest

from configs import digits
from imgjax import build, feed, sharding, state, train
from imgjax import config as config_lib
from imgjax.commands import inspect
from imgjax.errors import ConfigError, DataError
from imgjax.rundir import checkpoint, digests, history
from imgjax.rundir import result as result_lib

OF_THE_END = ('environment.json', 'report.html', 'predictions.safetensors', 'result.json')


def config_of(steps: int = 20, **changes) -> dict:
    config = digits.get_config('mlp')
    config.model.name = 'tiny_mlp'
    config.update(batch_size=32, steps=steps, log_every=10, eval_every=0, ema=True,
                  checkpoint=dict(every=10, keep_newest=9), schedule=dict(warmup_steps=0.1))
    config.update(changes)
    return config_lib.checked(config)


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    """The directory of a run of 20 steps; to be copied."""
    path = tmp_path_factory.mktemp('done') / 'run'
    train.run(config_of(), str(path))
    return path


@pytest.fixture
def run(done, tmp_path):
    return shutil.copytree(done, tmp_path / 'run')


def test_more_steps_are_those_of_the_longer_schedule_bit_for_bit(run, tmp_path):
    killed = shutil.copytree(run, tmp_path / 'killed')
    longer = config_of(40, log_every=5)
    result = train.run(longer, str(run))
    assert (result['step'], checkpoint.steps(str(run))) == (40, [10, 20, 30, 40])

    # The rule: step 20 of the run that was done, and from there the step of the longer config.
    splits = build.open_dataset(longer)
    setup = build.setup(*build.describe(longer, *splits))
    config_hash = config_lib.digest(longer)
    now, _ = checkpoint.restore(str(run), 20, setup.target, config_hash)
    hparams = sharding.place(state.hparams_of(longer), sharding.replicated(setup.mesh))
    opened = feed.open_feed(setup, splits[0], now, 20, hparams)
    for item in opened.items:
        now, measured = opened.dispatch(now, item)
    assert digests.state_digest(now) == result['state_digest']
    # (The cosine from step 4 to 40, at step 39.)
    assert float(measured['learning_rate']) == pytest.approx(2e-3 * 0.0019, rel=0.01)

    # Stopped in between, and once more by the run directory's own config.
    before = {name: (killed / name).read_bytes() for name in OF_THE_END}
    train.run_one(longer, str(killed), pause_at=30)
    assert {path.name: path.read_bytes() for path in (killed / 'earlier/20').iterdir()} == before
    assert not any((killed / name).exists() for name in OF_THE_END)
    assert train.run(None, str(killed))['state_digest'] == result['state_digest']
    [line] = history.lines(str(killed))
    assert line == ('After step 20 the run went on with other settings: steps: 20 -> 40; '
                    'log_every: 10 -> 5.')
    assert 'After step 20 the run went on' in (run / 'report.html').read_text()
    assert sorted(path.name for path in (killed / 'earlier').iterdir()) == ['20']
    train.run(None, str(killed))  # is over: its result is written again, not put aside
    assert sorted(path.name for path in (killed / 'earlier').iterdir()) == ['20']
    assert result_lib.read(str(killed))['step'] == 40


def test_what_a_run_left_is_never_overwritten_and_a_failure_stays(tmp_path):
    for place in ('earlier/20', 'earlier/20.1'):
        (tmp_path / 'report.html').write_text(place)
        result_lib.put_aside(str(tmp_path), 20)
        assert (tmp_path / place / 'report.html').read_text() == place
    result_lib.write(str(tmp_path), {'state': 'failed'})
    result_lib.put_aside(str(tmp_path), 20)
    assert result_lib.read(str(tmp_path)) == {'state': 'failed'}


def test_a_step_is_of_the_config_that_did_it(run):
    """A fallback to before the change moves the change; no other config's steps are taken."""
    old, new = config_of(), config_of(40)
    hashes = [config_lib.digest(config) for config in (old, new)]
    history.go_on(str(run), new, 20)
    config_lib.write(str(run), old)  # killed between the two files, and started again
    history.go_on(str(run), new, 20)
    assert [entry['until'] for entry in history.read(str(run))] == [20]
    assert [history.hash_at(str(run), step, hashes[1]) for step in (10, 20, 30)] == [
        hashes[0], hashes[0], hashes[1]]
    history.go_on(str(run), new, 10)
    assert [history.hash_at(str(run), step, hashes[1]) for step in (10, 20)] == hashes


def test_without_its_history_nothing_is_damaged(run):
    config_lib.write(str(run), config_of(40))  # as of a run that went on and lost history.json
    for entry in inspect.inspect_run(str(run))['steps']:
        assert not entry['verified'] and 'it is whole, but of a run of another' in entry['error']
    with pytest.raises(DataError, match='restore its history.json'):
        train.run(None, str(run))
    assert checkpoint.steps(str(run)) == [10, 20]


@pytest.mark.parametrize('change, message', [
    ({'steps': 15}, 'config.steps: 15, and .* has done 20 already'),
    ({'steps': 40, 'batch_size': 16}, 'belongs to another config .batch_size: 32 -> 16.'),
    ({'steps': 40, 'ema': False}, 'belongs to another config .ema: True -> False.'),
])
def test_what_may_not_change(change, message, run):
    before = (run / 'config.json').read_text()
    with pytest.raises(ConfigError, match=message):
        train.run(config_of(**change), str(run))
    assert (run / 'config.json').read_text() == before and not (run / 'history.json').exists()


def test_a_cell_of_a_study_stays_as_it_is(run):
    cell = run.rename(run.with_name(f'{"a" * 16}-{"b" * 8}'))
    with pytest.raises(ConfigError, match='is a cell of a study, which stays as it is'):
        train.run(config_of(40), str(cell))


def forged(change):
    """Returns what writes a history of the run's config with something changed."""
    def write(path):
        entry = {'until': 20, 'config': config_lib.plain(config_of(10))}
        change(entry)
        path.write_text(json.dumps([entry]))
    return write


@pytest.mark.parametrize('harm, message', [
    (forged(lambda e: e['config']['hparams'].update(seed=1)), 'differs in config.hparams.seed'),
    (forged(lambda e: e.update(until=-1)), 'its steps are in no order'),
    (forged(lambda e: e.pop('config')), 'history.json: cannot be used'),
    (lambda path: path.write_text('{'), 'history.json: cannot be used'),
    (lambda path: path.symlink_to('config.json'), 'history.json: no plain file'),
])
def test_a_history_of_another_run_is_refused(harm, message, run):
    harm(run / 'history.json')
    with pytest.raises(ConfigError, match=message) as error:
        train.run(None, str(run))
    assert '\n' not in str(error.value)
