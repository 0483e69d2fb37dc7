"""Near duplicates: copies of an image that were resized, re-encoded, mirrored or cropped.

They are found without a trained network: each image is reduced to a small grey thumbnail
(`describe`), of which only the contours are compared, because most photographs share the slow
changes of brightness (bright above, dark below). An image is also compared with mirrored and
cropped versions of the other images; the best candidates are then confirmed by fitting the position
of the crop. The threshold is explained in `threshold_of`. What is found was measured with planted
copies: `python -m benchmarks.duplicates` prints the table.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgjax.errors import DataError

SIDE = 24  # pixels of a side of the thumbnail
GRID = 12  # pixels of a side of what is compared
BLUR = 1.5  # standard deviation, in pixels of GRID; slower changes are removed
FLAT = 1.0  # grey levels (of 255): an image with weaker contours has no near duplicates
FLOOR = 0.96  # the smallest threshold
SPREAD = 2.75  # see `threshold_of`
RANDOM_PAIRS = 12_000  # pairs of the set that show how similar different images are
NEIGHBOURS = 8  # candidates of each image
CANDIDATE = 0.5  # a candidate's least similarity before the fit
ROUNDS = 8  # rounds of the fit
BLOCK = 1024  # images, or pairs, in one call
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601

# Parts of an image, (top, bottom, left, right) as shares of its sides: all of it, and 80 % of each
# side at the centre and in the corners. The fit starts from these.
BOXES = np.array([[0, 1, 0, 1]] + [[y, y + 0.8, x, x + 0.8] for y, x in (
    (0.1, 0.1), (0, 0), (0, 0.2), (0.2, 0), (0.2, 0.2))], np.float32)


def describe(images_NHWC: np.ndarray) -> np.ndarray:
    """Returns the descriptors of images of one size: grey thumbnails, float32 (N, 576), 0 to 255.

    Each image is stretched to 24 x 24 pixels by a triangle filter as wide as an output pixel, so
    that images of every size and shape have comparable descriptors.

    Args:
      images_NHWC: uint8 (N, H, W, C) with 1 or 3 channels; a batch of any size.

    Raises:
      DataError: the images are not uint8 (N, H, W, 1 or 3), or they have no pixels.
    """
    if (images_NHWC.ndim != 4 or images_NHWC.dtype != np.uint8 or images_NHWC.shape[3] not in (1, 3)
            or not images_NHWC.size):
        raise DataError(f'images of {images_NHWC.dtype} {images_NHWC.shape}: give decoded pixels, '
                        'uint8 (N, H, W, C) with 1 or 3 channels')
    _, height, width, channels = images_NHWC.shape
    rows_SH, columns_SW = _weights_of_side(height), _weights_of_side(width)
    thumbnails = []
    for image_HWC in images_NHWC:  # one at a time: float32 copies of photographs are large
        grey_HW = image_HWC[..., 0] if channels == 1 else image_HWC @ LUMA
        thumbnails.append((rows_SH @ grey_HW.astype(np.float32) @ columns_SW.T).ravel())
    return np.stack(thumbnails)


def near_pairs(descriptors_ND: np.ndarray, *,
               seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the pairs of near duplicates, their similarities and the threshold.

    The similarity of two images is the cosine similarity of their contours, at the best position
    of a crop of the second image, mirrored or not. The pairs are searched among the 8 most
    similar images of each image. The memory is twice that of the descriptors and 0.3 GB.

    Args:
      descriptors_ND: float32 (N, 576), results of `describe`.
      seed: seed of the random pairs that the threshold is computed from.

    Returns:
      int (P, 2), the smaller index first, each pair once; float (P,); and the threshold.
    """
    thumbnails_NSS = descriptors_ND.reshape(-1, SIDE, SIDE).astype(np.float32)
    count = len(thumbnails_NSS)
    if count < 2:
        return np.zeros((0, 2), int), np.zeros(0), FLOOR
    similarity_NK, column_NK, view_NK = _neighbours(thumbnails_NSS)
    threshold = threshold_of(_random_similarities(thumbnails_NSS, column_NK[:, 0], seed))
    row_P, k_P = np.nonzero(similarity_NK > CANDIDATE)
    pairs_P2 = np.stack([row_P, column_NK[row_P, k_P]], axis=1)
    similarity_P = _fitted(thumbnails_NSS, pairs_P2, view_NK[row_P, k_P])
    found = similarity_P >= threshold
    pairs_P2, similarity_P = np.sort(pairs_P2[found], axis=1), similarity_P[found].clip(max=1)
    order = np.lexsort((-similarity_P, pairs_P2[:, 1], pairs_P2[:, 0]))
    pairs_P2, similarity_P = pairs_P2[order], similarity_P[order]
    is_first = np.r_[True, (np.diff(pairs_P2, axis=0) != 0).any(axis=1)][:len(pairs_P2)]
    return pairs_P2[is_first], similarity_P[is_first].astype(np.float64), threshold


def threshold_of(random_similarity_P: np.ndarray) -> float:
    """Returns the least similarity of near duplicates for a set of images.

    Random pairs of the set show how similar different images are. On Fisher's z scale (arctanh),
    where their similarities are about normal, the threshold lies 2.75 times as far above their
    median as their 99 % quantile does, which is 6.4 standard deviations of a normal distribution.
    It is at least 0.96. That decides for photographs; sets of similar images, such as digits, have
    a higher threshold.

    Args:
      random_similarity_P: float (P,), the similarities of random pairs, up to 1; none give 0.96.
    """
    if not len(random_similarity_P):
        return FLOOR
    z_P = np.arctanh(np.clip(random_similarity_P.astype(np.float64), -1 + 1e-6, 1 - 1e-6))
    median, upper = np.quantile(z_P, [0.5, 0.99])
    return max(FLOOR, float(np.tanh(median + SPREAD * (upper - median))))


def _random_similarities(thumbnails_NSS: np.ndarray, nearest_N: np.ndarray,
                         seed: int) -> np.ndarray:
    """Returns the similarities of random pairs, without those of an image and its nearest one.

    In a small set with many duplicates, these would be a large part of all pairs.
    """
    count = len(thumbnails_NSS)
    one_P, other_P = np.random.default_rng(seed).integers(0, count, (2, RANDOM_PAIRS))
    keep_P = (one_P != other_P) & (nearest_N[one_P] != other_P) & (nearest_N[other_P] != one_P)
    one_P, other_P = one_P[keep_P], other_P[keep_P]
    view_P = _in_blocks(_best_view, thumbnails_NSS[one_P], thumbnails_NSS[other_P]).astype(int)
    return _fitted(thumbnails_NSS, np.stack([one_P, other_P], axis=1), view_P)


def _weights(length: int, count: int, start, stop, numpy=jnp):
    """Returns float32 (count, length): the triangle filter that samples a part of an axis.

    Args:
      length: pixels of the axis.
      count: pixels of the result.
      start: where the part begins, as a share of the axis.
      stop: where it ends.
      numpy: NumPy, or JAX's.
    """
    scale = (stop - start) * length / count
    centre_C = start * length + (numpy.arange(count, dtype=np.float32) + 0.5) * scale
    pixel_L = numpy.arange(length, dtype=np.float32) + 0.5
    distance_CL = numpy.abs(pixel_L[None, :] - centre_C[:, None])
    weight_CL = numpy.maximum(0.0, 1.0 - distance_CL / numpy.maximum(scale, 1.0))
    return weight_CL / weight_CL.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=64)
def _weights_of_side(length: int) -> np.ndarray:
    # In NumPy: JAX would compile for every size.
    return _weights(length, SIDE, 0.0, 1.0, np).astype(np.float32)


@functools.cache
def _blur_GG() -> np.ndarray:
    from scipy import ndimage  # noqa: PLC0415  (0.2 s)

    return ndimage.gaussian_filter1d(np.eye(GRID, dtype=np.float32), BLUR, axis=0, mode='nearest')


def _contours(thumbnail_SS: jax.Array, box_4: jax.Array) -> jax.Array:
    """Returns the contours of a part of a thumbnail, a unit vector, float32 (144,); 0 if flat."""
    rows_GS = _weights(SIDE, GRID, box_4[0], box_4[1])
    columns_GS = _weights(SIDE, GRID, box_4[2], box_4[3])
    part_GG = rows_GS @ thumbnail_SS @ columns_GS.T
    detail_GG = part_GG - _blur_GG() @ part_GG @ _blur_GG().T
    detail_GG = detail_GG - detail_GG.mean()
    squares = jnp.square(detail_GG).sum()
    is_flat = squares < (FLAT * GRID) ** 2
    norm = jnp.sqrt(jnp.where(is_flat, 1.0, squares))
    return jnp.where(is_flat, 0.0, detail_GG / norm).ravel()


@jax.jit
def _views(thumbnails_BSS: jax.Array) -> jax.Array:
    """Returns the contours of all boxes, then of all boxes of the mirrored image, (B, V, 144)."""
    both_B2SS = jnp.stack([thumbnails_BSS, thumbnails_BSS[:, :, ::-1]], axis=1)
    of_boxes = jax.vmap(_contours, in_axes=(None, 0))
    with jax.default_matmul_precision('highest'):
        views_B2VD = jax.vmap(jax.vmap(of_boxes, (0, None)), (0, None))(
            both_B2SS, jnp.asarray(BOXES))
    return views_B2VD.reshape(len(thumbnails_BSS), 2 * len(BOXES), GRID**2)


@jax.jit
def _merge(similarity_BK, code_BK, whole_BD, views_CVD, row, column):
    """Returns the most similar images so far of a block of rows, with a block of columns added.

    A code is column * views + view.
    """
    number = views_CVD.shape[1]
    with jax.default_matmul_precision('highest'):
        similarity_BCV = jnp.einsum('bd,cvd->bcv', whole_BD, views_CVD)
    column_C = column + jnp.arange(len(views_CVD))
    row_B = row + jnp.arange(len(whole_BD))
    is_other_BC = column_C[None, :] != row_B[:, None]
    best_BC = jnp.where(is_other_BC, similarity_BCV.max(axis=2), -1.0)
    view_BC = similarity_BCV.argmax(axis=2).astype(jnp.int32)
    code_BC = column_C[None, :].astype(jnp.int32) * number + view_BC
    similarity_BK, place_BK = jax.lax.top_k(
        jnp.concatenate([similarity_BK, best_BC], axis=1), similarity_BK.shape[1])
    code_BK = jnp.take_along_axis(jnp.concatenate([code_BK, code_BC], axis=1), place_BK, axis=1)
    return similarity_BK, code_BK


def _neighbours(thumbnails_NSS: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the similarity, index and view of the most similar images of each, (N, K) each."""
    count = len(thumbnails_NSS)
    block = min(BLOCK, count)
    starts = range(0, count, block)
    # The last block is filled with flat images, which are like no image.
    padded = np.concatenate([thumbnails_NSS, np.zeros(
        (len(starts) * block - count, SIDE, SIDE), np.float32)])
    wholes = [_views(padded[row:row + block])[:, 0] for row in starts]
    tops = [(jnp.full((block, NEIGHBOURS), -1.0), jnp.zeros((block, NEIGHBOURS), jnp.int32))
            for _ in starts]
    for column in starts:
        views_CVD = _views(padded[column:column + block])
        tops = [_merge(*top, whole_BD, views_CVD, row, column)
                for top, whole_BD, row in zip(tops, wholes, starts, strict=True)]
    similarity_NK, code_NK = (np.concatenate(parts)[:count] for parts in zip(*tops, strict=True))
    return similarity_NK, *np.divmod(code_NK, 2 * len(BOXES))


@jax.jit
def _fit(first_SS: jax.Array, second_SS: jax.Array, box_4: jax.Array) -> jax.Array:
    """Returns the similarity of an image and the best part of another, by the Gauss-Newton method.

    Args:
      first_SS: a thumbnail.
      second_SS: the thumbnail of the image that has the part.
      box_4: the part to start from, (top, bottom, left, right) in shares of the sides.
    """
    whole_D = _contours(first_SS, jnp.asarray(BOXES[0]))

    def step(_, state):
        box_4, best = state
        part_D = _contours(second_SS, box_4)
        slope_D4 = jax.jacfwd(_contours, argnums=1)(second_SS, box_4)
        curvature_44 = slope_D4.T @ slope_D4
        damping = 1e-3 * jnp.trace(curvature_44) + 1e-6
        move_4 = jnp.linalg.solve(curvature_44 + damping * jnp.eye(4, dtype=jnp.float32),
                                  slope_D4.T @ (whole_D - part_D))
        moved_4 = jnp.clip(box_4 + jnp.clip(move_4, -0.05, 0.05), 0.0, 1.0)
        return moved_4, jnp.maximum(best, whole_D @ part_D)

    with jax.default_matmul_precision('highest'):
        return jax.lax.fori_loop(0, ROUNDS, step, (box_4, jnp.float32(-1)))[1]


_fit_all = jax.jit(jax.vmap(_fit))


def _in_blocks(function, *arrays: np.ndarray) -> np.ndarray:
    """Returns function(*arrays), called with BLOCK rows at a time; the last block is padded."""
    count = len(arrays[0])
    results = [np.asarray(function(*(
        array[np.minimum(np.arange(start, start + BLOCK), count - 1)] for array in arrays)))
        for start in range(0, count, BLOCK)]
    return np.concatenate(results)[:count] if results else np.zeros(0)


@jax.jit
def _best_view(first_BSS: jax.Array, second_BSS: jax.Array) -> jax.Array:
    """Returns, per pair, the number of the second image's view that is most like the first."""
    with jax.default_matmul_precision('highest'):
        return jnp.einsum('bd,bvd->bv', _views(first_BSS)[:, 0], _views(second_BSS)).argmax(axis=1)


def _fitted(thumbnails_NSS: np.ndarray, pairs_P2: np.ndarray, views_P: np.ndarray) -> np.ndarray:
    """Returns, per pair, the similarity after the fit that starts from a view of the second."""
    def fit(pairs_B2, views_B):
        second_BSS = thumbnails_NSS[pairs_B2[:, 1]]
        mirrored_B11 = (views_B >= len(BOXES))[:, None, None]
        second_BSS = np.where(mirrored_B11, second_BSS[:, :, ::-1], second_BSS)
        return _fit_all(thumbnails_NSS[pairs_B2[:, 0]], second_BSS, BOXES[views_B % len(BOXES)])
    return _in_blocks(fit, pairs_P2, views_P)
