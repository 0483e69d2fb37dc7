"""What the devices hold and send each other, read from the compiled step against hand counts."""

import functools
import math

import jax
import numpy as np
import pytest

from configs import base
from imgjax import build, feed, models, sharding, state, train
from imgjax import config as config_lib
from imgjax.errors import ConfigError
from imgjax.perf import collectives, hlo
from imgjax.rundir import dataset_info

BATCH, SIDE, WIDTH, HEADS, DEPTH, TOKENS = 32, 16, 64, 4, 2, 17
VIT = dict(width=WIDTH, heads=HEADS, patch_size=4)
MESHES = {'dp': (8, 1, 1), 'fsdp': (1, 8, 1), 'dp-fsdp': (2, 4, 1), 'tp': (1, 1, 2),
          'dp-tp': (2, 1, 4), 'fsdp-tp': (2, 2, 2)}
# Scalars of a step (norms, metrics) and leaves too small to cut, in bytes.
SMALL = 16 * 2**10
RESIDENT = {'examples': {}, 'constants': {}}  # the pixels come with each batch


def job_of(sizes, model='tiny_vit', options=VIT, **changes):
    config = base.get_config()
    config.model.name, config.model.options = model, options
    config.update(batch_size=BATCH, steps=10, log_every=10,
                  mesh=dict(zip(sharding.AXES, sizes, strict=True)))
    config.update(changes)
    names = [str(k) for k in range(10)]
    dataset = dataset_info.DatasetInfo(names, [SIDE, SIDE, 3], 100, 10, 'a', 'b')
    return build.setup(config_lib.checked(config), dataset, jax.devices()[:math.prod(sizes)])


def inputs(setup) -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    batch = {'image': rng.integers(0, 255, (BATCH, SIDE, SIDE, 3), np.uint8),
             'label': rng.integers(0, 10, BATCH).astype(np.int32),
             'weight': np.ones(BATCH, np.float32)}
    return (sharding.place(batch, sharding.batch_sharding(setup.mesh)),
            sharding.place(state.hparams_of(setup.config), sharding.replicated(setup.mesh)))


@functools.cache
def compiled(mesh: str, scan_layers=False):
    setup = job_of(MESHES[mesh], options=VIT | {'scan_layers': scan_layers})
    dispatch = dispatch_of(setup)
    return setup, dispatch, collectives.find(
        hlo.parse(dispatch.as_text()), math.prod(MESHES[mesh]))


def sent(found, kind: str, group=None) -> int:
    return sum(one.bytes * one.runs for one in found
               if one.kind == kind and group in (None, one.group))


def bytes_of(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def bytes_here(tree) -> int:
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
               for leaf in jax.tree.leaves(tree))


def is_cut(leaf) -> bool:
    return not leaf.sharding.is_fully_replicated


@pytest.mark.parametrize('mesh', MESHES)
def test_each_device_holds_its_part_of_the_state(mesh):
    setup, dispatch, _ = compiled(mesh)
    parts = math.prod(MESHES[mesh][1:])
    for tree in (setup.target.params, setup.target.opt_state):
        cut = [leaf for leaf in jax.tree.leaves(tree) if is_cut(leaf)]
        whole = [leaf for leaf in jax.tree.leaves(tree) if not is_cut(leaf)]
        if parts > 1:
            assert bytes_here(cut) <= 1.05 * bytes_of(cut) / parts
            assert max(leaf.size for leaf in whole) < sharding.MIN_FSDP_ELEMENTS
            assert bytes_of(whole) < 0.05 * bytes_of(tree)
    placed = jax.tree.map(lambda leaf: leaf.sharding, setup.target)
    made = dispatch.output_shardings[0]
    assert jax.tree.all(jax.tree.map(
        lambda ours, leaf, theirs: ours.is_equivalent_to(theirs, leaf.ndim),
        placed, setup.target, made)), 'the step gives the state back as it is kept'


@pytest.mark.parametrize('scan_layers', [False, True])
def test_data_parallel_sums_the_gradients_once(scan_layers):
    setup, _, found = compiled('dp', scan_layers)
    assert {one.kind for one in found} == {'all-reduce'}
    assert sent(found, 'all-reduce') == pytest.approx(bytes_of(setup.target.params), rel=0.01)


@pytest.mark.parametrize('scan_layers', [False, True])
def test_fsdp_gathers_each_parameter_once_and_sums_its_gradient_once(scan_layers):
    setup, _, found = compiled('fsdp', scan_layers)
    cut = bytes_of([leaf for leaf in jax.tree.leaves(setup.target.params) if is_cut(leaf)])
    # A CPU's compiler has no reduce-scatter: it sums, and each device takes its part.
    assert {one.kind for one in found} == {'all-gather', 'all-reduce'}
    assert sent(found, 'all-gather') == cut
    assert sent(found, 'all-reduce') == pytest.approx(bytes_of(setup.target.params), rel=0.01)


@pytest.mark.parametrize('mesh, scan_layers', [
    ('tp', False), ('dp-tp', False), ('fsdp-tp', False), ('fsdp-tp', True)])
def test_tensor_parallel_sums_four_activations_a_block(mesh, scan_layers):
    """After attention and MLP, forward and backward, as in Megatron-LM (section 3)."""
    setup, _, found = compiled(mesh, scan_layers)
    data, fsdp, tensor = MESHES[mesh]
    activation = BATCH // (data * fsdp) * TOKENS * WIDTH * 4
    sums = [one for one in found if one.kind == 'all-reduce' and one.bytes == activation]
    assert sum(one.runs for one in sums) == 4 * DEPTH
    assert {one.group for one in sums} == {tensor}
    assert {one.kind for one in found} == {'all-reduce', 'all-gather'}
    rest = sent(found, 'all-reduce') - 4 * DEPTH * activation
    if data * fsdp == 1:
        assert rest < SMALL
    # What is gathered: qkv and its gradient, as its order is not that of the heads, and leaves
    # without a rule; with fsdp each device's part of all others too.
    named = [(jax.tree_util.keystr(path), leaf) for path, leaf in
             jax.tree_util.tree_leaves_with_path(setup.target.params) if is_cut(leaf)]
    qkv = bytes_of([leaf for name, leaf in named if 'qkv' in name])
    ruled = bytes_of([leaf for name, leaf in named
                      if any(part in name for part in ('proj', 'fc1', 'fc2'))
                      and 'patch_embed' not in name])
    free = bytes_of([leaf for _, leaf in named]) - qkv - ruled
    expected = 2 * qkv + free + (ruled / tensor + qkv / tensor if fsdp > 1 else 0)
    assert sent(found, 'all-gather') == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize('mesh', sorted(set(MESHES) - {'dp'}))
def test_three_steps_are_those_of_one_device(mesh):
    setup, dispatch, _ = compiled(mesh)
    assert three(setup, dispatch, at_start(setup)) == pytest.approx(alone(), rel=1e-5)


def test_three_steps_in_two_parts_are_those_of_one_device():
    """From a state that is also made where it is kept."""
    setup = job_of(MESHES['fsdp-tp'], accumulation_steps=2)
    now = train.initial_state(setup, inputs(setup)[1])
    assert three(setup, dispatch_of(setup), now) == pytest.approx(alone(), rel=1e-5)


def dispatch_of(setup):
    batch, hparams = inputs(setup)
    return feed.compile_step(setup, 1, setup.target, RESIDENT, batch, hparams)[0]


def three(setup, dispatch, now) -> list[float]:
    """Returns the losses of three steps."""
    batch, hparams = inputs(setup)
    found = []
    for _ in range(3):
        now, measured = dispatch(now, RESIDENT, batch, hparams)
        found.append(float(measured['loss']))
    return found


def at_start(setup, model='tiny_vit', **options):
    """Returns the state before the first step as one device makes it, placed as the run has it."""
    return sharding.place(made(model, **options or VIT), setup.shardings, own=True)


@functools.cache
def made(model, **options):
    setup = job_of((1, 1, 1), model, options)
    return jax.device_get(train.initial_state(setup, inputs(setup)[1]))


@functools.cache
def alone(model='tiny_vit', **options) -> list[float]:
    """Returns the losses of three steps on one device."""
    setup = job_of((1, 1, 1), model, options or VIT)
    return three(setup, dispatch_of(setup), at_start(setup, model, **options))


@pytest.mark.parametrize('sizes', [(1, 8, 1), (2, 2, 2)])
def test_a_network_without_rules_is_cut_where_it_is_kept(sizes):
    """A convolutional one: the same losses, and no collective but those of its parameters."""
    options = dict(widths=(32, 64))
    setup = job_of(sizes, 'tiny_resnet', options)
    for leaf in jax.tree.leaves(setup.target.params):
        if is_cut(leaf):
            assert math.prod(leaf.sharding.shard_shape(leaf.shape)) == leaf.size // 8 * (
                sizes[0] if sizes[0] > 1 else 1)
    dispatch = dispatch_of(setup)
    found = collectives.find(hlo.parse(dispatch.as_text()), 8)
    assert {one.kind for one in found} == {'all-gather', 'all-reduce'}
    cut = bytes_of([leaf for leaf in jax.tree.leaves(setup.target.params) if is_cut(leaf)])
    assert sent(found, 'all-gather') == pytest.approx(cut, rel=0.01)
    assert three(setup, dispatch, at_start(setup, 'tiny_resnet', **options)) == pytest.approx(
        alone('tiny_resnet', **options), rel=1e-5)


def test_frozen_norms_stay_where_the_state_is_cut():
    """Of layers whose kernels are cut; the losses of a batch in parts are those of one device."""
    def run(sizes):
        setup = job_of(sizes, 'tiny_cnn', dict(widths=(8, 64, 64)), accumulation_steps=2,
                     optimizer=dict(freeze=('conv3', 'norm2', 'norm3')))
        batch, hparams = inputs(setup)
        now, found = train.initial_state(setup, hparams), []
        before = jax.device_get((now.params, now.batch_stats))
        assert is_cut(now.params['conv3']['kernel']) == (sizes[1] > 1)
        dispatch, _ = feed.compile_step(setup, 1, now, RESIDENT, batch, hparams)
        for _ in range(2):
            now, measured = dispatch(now, RESIDENT, batch, hparams)
            found.append(float(measured['loss']))
        after = jax.device_get((now.params, now.batch_stats))
        for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before),
                                    jax.tree.leaves(after), strict=True):
            assert np.array_equal(old, new) == (path[1].key in ('conv3', 'norm2', 'norm3')), path
        return found

    assert run((1, 2, 1)) == pytest.approx(run((1, 1, 1)), rel=1e-5)


@pytest.mark.parametrize('model', [
    name for name in models.variants()
    if name.startswith('tiny_') and models.tensor_rules(name) and name != 'tiny_vit'])  # as above
def test_a_split_family_is_the_whole_one(model):
    options = {'heads': (2, 4)} if 'swin' in model else {'heads': 2}
    setup = job_of((1, 1, 2), model, options)
    assert three(setup, dispatch_of(setup), at_start(setup, model, **options)) == pytest.approx(
        alone(model, **options), rel=1e-5)


def test_a_rule_that_matches_nothing_is_an_error():
    setup = job_of(MESHES['tp'])
    with pytest.raises(ConfigError, match="the rule 'attn/qvk' matches no parameter"):
        sharding.layout(setup.target.params, setup.mesh, (('attn/qvk', 'heads'),))


@pytest.mark.parametrize('sizes, model, words', [
    ((1, 1, 8), 'tiny_vit', '8 does not divide the 4 attention heads'),
    ((3, 1, 2), 'tiny_vit', 'data=3 x fsdp=1 x tensor=2 does not make 8 devices')])
def test_a_mesh_that_does_not_fit_is_named(sizes, model, words):
    config = base.get_config()
    config.model.name, config.model.options = model, VIT if model == 'tiny_vit' else {}
    config.update(batch_size=BATCH, steps=10, mesh=dict(zip(sharding.AXES, sizes, strict=True)))
    dataset = dataset_info.DatasetInfo(['a', 'b'], [SIDE, SIDE, 3], 100, 10, 'a', 'b')
    with pytest.raises(ConfigError, match=words):
        build.setup(config_lib.checked(config), dataset)


class Device:
    """As much of a TPU device as the mesh looks at."""

    platform, device_kind = 'cpu', 'none'

    def __init__(self, number: int, slice_index: int, process: int):
        self.id, self.slice_index, self.process_index = number, slice_index, process


def test_several_slices_are_joined_by_the_data_axis_only():
    devices = [Device(number, number // 4, number // 4) for number in range(8)]
    mesh = sharding.make_mesh({'data': -1, 'fsdp': 2, 'tensor': 2}, devices)
    assert [{device.slice_index for device in part.flat} for part in mesh.devices] == [{0}, {1}]
    with pytest.raises(ConfigError, match='config.mesh.data: 1 is not divisible by 2'):
        sharding.make_mesh({'data': 1, 'fsdp': 8, 'tensor': 1}, devices)


@pytest.mark.parametrize('sizes, processes, expected', [
    ((8, 1, 1), 2, [(0, 2), (1, 2)]), ((2, 4, 1), 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ((1, 1, 8), 2, [(0, 1), (0, 1)]), ((2, 1, 4), 4, [(0, 2), (0, 2), (1, 2), (1, 2)])])
def test_the_rows_of_a_process_are_those_of_its_devices(sizes, processes, expected):
    devices = [Device(number, 0, number * processes // 8) for number in range(8)]
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True)), devices)
    assert [sharding.rows_here(mesh, process) for process in range(processes)] == expected


def test_processes_that_share_no_equal_part_are_an_error():
    devices = [Device(number, 0, int(number >= 3)) for number in range(8)]
    mesh = sharding.make_mesh({'data': 8, 'fsdp': 1, 'tensor': 1}, devices)
    with pytest.raises(ConfigError, match='config.mesh: process 0 takes the parts'):
        sharding.rows_here(mesh, 0)
