"""How many images are worked on at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgjax.evals import chunks
from imgjax.process import backend

IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)  # 1 KiB
ROOM = 4 * 2**10  # bytes that must be free for each image, as a chunk takes a quarter


@pytest.fixture
def free(monkeypatch):
    """Sets how much memory is free."""
    return lambda size: monkeypatch.setattr(backend, 'free_memory', lambda devices: size)


def doubled(images_NHWC):
    return images_NHWC + images_NHWC


@pytest.mark.parametrize('images, expected', [
    (1, 1), (2, 2), (3, 2), (4, 4), (63, 32), (64, 64), (10**6, 256)])
def test_the_largest_power_of_two_that_fits(free, images, expected):
    free(images * ROOM)
    assert chunks.images_at_once(doubled, IMAGE) == expected
    assert chunks.images_at_once(doubled, np.zeros((1, 8, 8, 4), np.float32)) == expected


@pytest.mark.parametrize('most, expected', [(1, 1), (2, 2), (100, 64), (128, 128), (1024, 1024)])
def test_at_most(free, most, expected):
    free(10**6 * ROOM)
    assert chunks.images_at_once(doubled, IMAGE, most=most) == expected


def test_one_image_is_tried_where_none_fits(free):
    for size in (1, ROOM - 1):
        free(size)
        assert chunks.images_at_once(doubled, IMAGE) == 1


def test_unknown_memory_is_a_gibibyte(free):
    free(None)
    large = jax.ShapeDtypeStruct((1, 1024, 1024, 4), jnp.float32)  # 16 MiB
    assert chunks.images_at_once(doubled, large) == 16


def in_a_scan(images_NHWC):
    def step(carry_NHWC, _):
        return carry_NHWC + carry_NHWC, None

    return jax.lax.scan(step, images_NHWC, length=3)[0]


@pytest.mark.parametrize('function, arrays', [
    (lambda x: x * 2 + 1, 2),
    (jax.jit(lambda x: x * 2 + 1), 3),  # those inside, and what the call returns
    (in_a_scan, 2),  # that of one iteration, and the result
    (lambda x: jax.grad(lambda x: jnp.sin(x).sum())(x), 2)])  # the cosine at least
def test_the_arrays_inside_of_calls_are_counted(free, function, arrays):
    free(2**20 * ROOM)
    assert chunks.images_at_once(function, IMAGE, most=2**20) <= 2**20 / arrays
    free(arrays * 32 * ROOM)
    assert chunks.images_at_once(function, IMAGE) <= 32


def test_other_arguments_are_counted_by_what_is_made_of_them(free):
    free(64 * ROOM)
    variables = {'params': {'kernel': jnp.ones((4, 64)), 'unused': jnp.ones((999, 999))}}

    def dense(variables, images_NHWC):  # 16 KiB an image
        return jnp.dot(images_NHWC, variables['params']['kernel'])

    assert chunks.images_at_once(dense, variables, IMAGE) == 4


def test_a_function_is_bound_once(free):
    """So that it is traced once, too."""
    traced = []

    def scaled(scale, images_NHWC):
        traced.append(1)
        return images_NHWC * scale()

    two = lambda: jnp.float32(2)  # noqa: E731
    assert chunks.bound(scaled, two) is chunks.bound(scaled, two)
    for size in (8, 16):  # the memory that is free is asked for each time
        free(size * ROOM)
        assert chunks.images_at_once(chunks.bound(scaled, two), IMAGE) == size
    assert len(traced) == 1


@pytest.mark.parametrize('count, size', [(0, 4), (1, 4), (8, 4), (9, 4), (3, 1), (5, 100)])
def test_chunks_have_all_rows_once(count, size):
    found = list(chunks.chunks(count, size))
    rows = np.arange(count)
    np.testing.assert_array_equal(np.concatenate([rows[:0], *(rows[one] for one in found)]), rows)
    assert all(one.stop - one.start == size for one in found[:-1])
    assert all(0 < one.stop - one.start <= size and one.stop <= count for one in found)
