"""Collectives and memory traffic, read from what XLA prints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from imgjax.perf import collectives, hlo, roofline
from imgjax.perf.chips import CHIPS
from imgjax.perf.collectives import Collective

# As the compilers of CPU and TPU write them, cut to what is read.
TPU = '''HloModule jit_step, is_scheduled=true

%cond (arg: (s32[], f32[8,16])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(5)
  %arg = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}) parameter(0)
  %gte = s32[]{:T(128)} get-tuple-element(%arg), index=0
  ROOT %compare = pred[]{:T(512)} compare(%gte, %constant.1), direction=LT
}

%body (arg.1: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %arg.1 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}) parameter(0)
  %gte.1 = f32[8,16]{1,0:T(8,128)S(1)} get-tuple-element(%arg.1), index=1
  %ar = f32[8,16]{1,0:T(8,128)S(1)} all-reduce(%gte.1), replica_groups=mesh['a'=4,'b'=2] {'a'}
  ROOT %out = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}) tuple(%gte.0, %ar)
}

%all-reduce-scatter (input: f32[64,16]) -> f32[8,16] {
  %input = f32[64,16]{1,0:T(8,128)} parameter(0)
  %all-reduce.2 = f32[64,16]{1,0:T(8,128)} all-reduce(%input), replica_groups={{0,1,2,3,4,5,6,7}}
  ROOT %dynamic-slice.1 = f32[8,16]{1,0:T(8,128)} dynamic-slice(%all-reduce.2, %i)
}

%chain (p: bf16[4,16]) -> bf16[32,16] {
  %p = bf16[4,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %ag = bf16[32,16]{1,0:T(8,128)} all-gather(%p), channel_id=3, replica_groups={}, chain_id="0"
}

ENTRY %main (x: f32[8,16], y: bf16[4,16], z: f32[64,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0:T(8,128)} parameter(0)
  %y = bf16[4,16]{1,0:T(8,128)(2,1)} parameter(1)
  %z = f32[64,16]{1,0:T(8,128)} parameter(2)
  %while = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}) while(%tuple), condition=%cond, body=%body
  %fusion.1 = bf16[32,16]{1,0:T(8,128)(2,1)} fusion(%y), kind=kOutput, calls=%chain
  %fusion.2 = bf16[32,16]{1,0:T(8,128)(2,1)} fusion(%y), kind=kOutput, calls=%chain
  %fusion.3 = f32[8,16]{1,0:T(8,128)} fusion(%z), kind=kCustom, calls=%all-reduce-scatter
  %start = (bf16[4,16], bf16[32,16]) all-gather-start(%y), channel_id=4, replica_groups=[2,4]<=[8]
  %done = bf16[32,16]{1,0} all-gather-done(%start)
  ROOT %copy = f32[8,16]{1,0:T(8,128)} copy(%fusion.3)
}
'''


def test_every_way_of_writing_one():
    found = collectives.find(hlo.parse(TPU), 8)
    assert sorted(found) == [
        Collective('all-gather', 4, 2 * 32 * 16, 1),  # in two parts, of which one names both
        Collective('all-gather', 8, 2 * 32 * 16, 1),  # beside two fusions
        Collective('all-reduce', 4, 4 * 8 * 16, 5),  # in a loop
        Collective('reduce-scatter', 8, 4 * 64 * 16, 1)]
    assert collectives.totals(found) == {
        'reduce-scatter': {'count': 1, 'bytes': 4096}, 'all-reduce': {'count': 5, 'bytes': 2560},
        'all-gather': {'count': 2, 'bytes': 2048}}


@pytest.mark.parametrize('text, size', [
    ('replica_groups={{0,4},{1,5}}', 2), ('replica_groups=[2,4]<=[8]', 4),
    ('replica_groups=[2,4]<=[4,2]T(1,0)', 4), ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
    ('replica_groups={}', 8)])
def test_group_size(text, size):
    assert collectives.group_size(f'channel_id=1, {text}, use_global_device_ids=true', 8) == size


def compiled(function, *shapes, spec=()):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ('data',))
    rows = NamedSharding(mesh, PartitionSpec('data'))
    structs = [jax.ShapeDtypeStruct(s, np.float32, sharding=rows) for s in shapes]
    out = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.jit(function, out_shardings=out).lower(*structs).compile()


def test_a_real_program_of_this_backend():
    def looped(x):
        return jax.lax.scan(lambda carry, _: (carry + (x * carry[None]).sum(0), None),
                            jnp.ones(x.shape[1:]), None, length=6)[0]

    found = collectives.find(hlo.parse(compiled(looped, (64, 32)).as_text()), 8)
    assert [one for one in found if one.runs == 6] == [Collective('all-reduce', 8, 4 * 32, 6)]
    gathered = collectives.find(hlo.parse(compiled(lambda x: x * 2, (64, 32)).as_text()), 8)
    assert gathered == [Collective('all-gather', 8, 4 * 64 * 32, 1)]


def test_traffic_is_xlas_outside_of_loops_and_counts_them_inside():
    def product(x, y):
        return jnp.sin(x @ y.T) + 1

    step = compiled(product, (64, 32), (64, 32), spec=('data',))
    program = hlo.parse(step.as_text())
    assert hlo.traffic(program) == pytest.approx(step.cost_analysis()['bytes accessed'], rel=0.05)

    def chain(length):
        def looped(x):
            return jax.lax.scan(lambda c, _: (jnp.sin(c @ x), None), x, None, length=length)[0]
        one = jax.jit(looped).lower(jax.ShapeDtypeStruct((64, 64), np.float32)).compile()
        return hlo.traffic(hlo.parse(one.as_text()))

    assert chain(20) - chain(10) == pytest.approx(10 * 3 * 4 * 64**2, rel=0.8)
    assert chain(30) - chain(20) == chain(20) - chain(10)


def test_what_stays_on_the_chip_is_no_traffic():
    program = hlo.parse(TPU)
    moved = {i.name: hlo._moved(program, c, i) for c, i, _ in hlo.executed(program)}
    assert moved['ar'] == 0, 'S(1) is on-chip memory'
    assert moved['copy'] == 2 * 4 * 8 * 16


@pytest.mark.parametrize('kind, sent', [
    ('all-reduce', 2 * 0.75), ('all-gather', 0.75), ('reduce-scatter', 0.75), ('all-to-all', 0.75),
    ('collective-permute', 1)])
def test_bytes_sent_around_a_ring(kind, sent):
    assert roofline.sent_bytes(Collective(kind, 4, 10**6, 1)) == sent * 10**6


def test_bounds():
    found = roofline.seconds(CHIPS['v5e'], 197e12, 819e9, [Collective('all-gather', 2, 400e9, 3)])
    assert found == {'compute': 1.0, 'hbm': 1.0, 'interconnect': 3.0}
