import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax import sharding
from imgjax.errors import DataError
from imgjax.rundir import checkpoint, digests, result
from imgjax.state import TrainState

OPTIONS = {'keep_newest': 2, 'keep_every': 0, 'keep_best': True}


def make_state(step: int) -> TrainState:
    noise = jax.random.normal(jax.random.key(step), (64, 32))
    return TrainState(
        step=jnp.int32(step), params={'dense': {'kernel': noise, 'bias': noise[0]}},
        batch_stats={}, opt_state=(noise * 2, ()), ema={'kernel': noise * 3},
        extra={'target': {'kernel': noise * 4}},
        skipped={'loss': jnp.int32(0)}, skipped_in_a_row=jnp.int32(0), skipped_at=jnp.int32(-1),
        window={'loss': jnp.float32(step)})


def target_of(state, mesh_shape=None):
    mesh = sharding.make_mesh(mesh_shape or {'data': -1, 'fsdp': 1, 'tensor': 1})
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state, sharding.state_shardings(state, mesh))


def save_steps(workdir, *steps, options=OPTIONS, accuracy_of=lambda step: None):
    writer = checkpoint.Writer(str(workdir), options, accuracy_of)
    for step in steps:
        writer.save(make_state(step), 'hash')
        assert writer.wait()
    writer.close()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A run directory with the steps 1 and 2; to be copied, not changed."""
    path = tmp_path_factory.mktemp('saved')
    save_steps(path, 1, 2)
    return path


@pytest.fixture
def workdir(saved, tmp_path):
    shutil.copytree(saved, tmp_path / 'run')
    return tmp_path / 'run'


def test_steps_that_are_computed_again_can_be_saved_again(workdir):
    """Orbax alone saves none before the newest that is there."""
    checkpoint.drop_after(str(workdir), 1)
    assert checkpoint.steps(str(workdir)) == [1]
    save_steps(workdir, 2, 3)
    assert checkpoint.steps(str(workdir)) == [2, 3]
    checkpoint.drop_after(str(workdir), 0)
    assert checkpoint.restore_newest(str(workdir), None, 'hash', put_aside=False) is None, (
        'as before the first save')


def files_of(workdir, step):
    return sorted(p for p in (workdir / 'checkpoints' / str(step)).rglob('*') if p.is_file())


def test_what_comes_back_is_what_was_saved_on_any_mesh(saved):
    for sizes in ((8, 1, 1), (1, 8, 1), (4, 2, 1), (2, 2, 2)):
        shape = dict(zip(sharding.AXES, sizes, strict=True))
        state, meta = checkpoint.restore(str(saved), 2, target_of(make_state(0), shape), 'hash')
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state),
                     jax.device_get(make_state(2)))
        assert meta['state_digest'] == digests.state_digest(make_state(2))


def test_digest_tells_shape_dtype_and_place():
    base = {'a': jnp.zeros((2, 3)), 'b': jnp.ones(6)}
    others = [{'a': jnp.zeros((3, 2)), 'b': jnp.ones(6)},
              {'a': jnp.zeros((2, 3), jnp.int32), 'b': jnp.ones(6)},
              {'b': jnp.zeros((2, 3)), 'a': jnp.ones(6)},
              {'a': -jnp.zeros((2, 3)), 'b': jnp.ones(6)}]
    assert len({digests.state_digest(tree) for tree in (base, *others)}) == 5


def test_all_steps_damaged_never_starts_over(workdir):
    for step in (1, 2):
        for path in files_of(workdir, step):
            path.write_bytes(b'')
    for _ in range(2):  # also when asked again, with everything put aside
        with pytest.raises(DataError, match='none is usable'):
            checkpoint.restore_newest(
                str(workdir), target_of(make_state(0)), 'hash', put_aside=True)
    assert sorted(os.listdir(workdir / 'damaged')) == ['1', '2']


def test_steps_that_are_gone_are_no_new_run(workdir):
    shutil.rmtree(workdir / 'checkpoints')
    with pytest.raises(DataError, match='none is there'):
        checkpoint.restore_newest(str(workdir), target_of(make_state(0)), 'hash', put_aside=True)


def test_reading_changes_nothing(workdir):
    for path in files_of(workdir, 2):
        path.write_bytes(b'')
    before = sorted(workdir.rglob('*'))
    _, meta = checkpoint.restore_newest(
        str(workdir), target_of(make_state(0)), 'hash', put_aside=False)
    assert meta['step'] == 1
    assert sorted(workdir.rglob('*')) == before


def test_nothing_saved_yet(tmp_path):
    assert checkpoint.restore_newest(str(tmp_path), target_of(make_state(0)), 'hash',
                                     put_aside=True) is None
    with pytest.raises(DataError, match='the steps on disk are: none'):
        checkpoint.restore(str(tmp_path), 3, target_of(make_state(0)), 'hash')


def test_retention_keeps_the_newest_the_best_and_every_kth_also_after_a_restart(tmp_path):
    accuracy = {step: 0.9 if step == 3 else step / 100 for step in range(1, 13)}
    options = OPTIONS | {'keep_every': 4}
    save_steps(tmp_path, *range(1, 10), options=options, accuracy_of=accuracy.get)
    assert checkpoint.steps(str(tmp_path)) == [3, 4, 8, 9]
    save_steps(tmp_path, 10, 11, options=options, accuracy_of=accuracy.get)
    assert checkpoint.steps(str(tmp_path)) == [3, 4, 8, 10, 11]


def test_a_step_of_another_config_is_not_damaged_and_stays_where_it_is(workdir):
    with pytest.raises(DataError, match='2: it is whole, but of a run of another config, hash, not '
                                        'other; .* restore its history.json'):
        checkpoint.restore_newest(str(workdir), target_of(make_state(0)), 'other', put_aside=True)
    assert checkpoint.steps(str(workdir)) == [1, 2] and not (workdir / 'damaged').exists()


def test_a_state_of_another_version_stays_where_it_is(workdir):
    other = make_state(0).replace(ema={'kernal': make_state(0).ema['kernel']})
    with pytest.raises(DataError, match='another kind of state'):
        checkpoint.restore_newest(str(workdir), target_of(other), 'hash', put_aside=True)
    assert checkpoint.steps(str(workdir)) == [1, 2]
    assert not (workdir / 'damaged').exists()


def test_what_a_killed_save_left_is_taken_away(workdir):
    left = workdir / 'checkpoints' / '3.orbax-checkpoint-tmp'
    left.mkdir()
    (left / 'part').write_bytes(b'x')
    save_steps(workdir, 4)
    assert not left.exists()
    assert checkpoint.steps(str(workdir)) == [2, 4]


@pytest.mark.parametrize('scores, improves', [
    ({1: 0.5, 2: 0.9, 7: 0.91}, True), ({1: 0.5, 2: 0.9, 7: 0.9}, False), ({7: 0.1}, True),
    ({1: 0.5}, False),
    ({5: 0.9, 7: 0.6}, True)])  # that of step 5 could not be saved
def test_an_evaluation_improves_on_what_was_saved(scores, improves, saved, tmp_path):
    shutil.copytree(saved, tmp_path / 'run')  # the steps 1 and 2
    writer = checkpoint.Writer(str(tmp_path / 'run'), OPTIONS, scores.get)
    assert writer.improves(7) is improves
    writer.save(make_state(7), 'hash')
    assert writer.improves(7) is improves, 'it is not compared with itself'
    writer.close()


@pytest.mark.parametrize('left', ['3', '30.orbax-checkpoint-tmp'])
def test_a_last_state_that_is_not_there_is_a_failed_save(left, tmp_path):
    """Also where the failed save left files that look as if it was still running."""
    (tmp_path / 'checkpoints' / left).mkdir(parents=True)
    text = result._not_saved(str(tmp_path), 30)
    assert 'could not be saved; a save that failed is a warning above' in text
    assert 'close its checkpoint.Writer' in text


def test_donation_after_save_does_not_reach_the_checkpoint(tmp_path):
    writer = checkpoint.Writer(str(tmp_path), OPTIONS)
    state = make_state(5)
    expected = digests.state_digest(state)
    writer.save(state, 'hash')
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 + x.dtype.type(7), s),
                        donate_argnums=0)
    for _ in range(3):
        state = overwrite(state)
    assert writer.wait()
    writer.close()
    _, meta = checkpoint.restore(str(tmp_path), 5, target_of(make_state(0)), 'hash')
    assert meta['state_digest'] == expected
