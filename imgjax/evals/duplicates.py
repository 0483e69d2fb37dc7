"""Duplicates of images in a dataset, and leaks from its training split into its evaluation split.

Exact duplicates have equal pixels (`pixel_hash`), near duplicates nearly equal contours
(near_duplicates.py). Barz and Denzler, "Do we train on test data? Purging CIFAR of near-duplicates"
(https://arxiv.org/abs/1902.00423), show what leaks do to a benchmark: 3.3 % of the test images of
CIFAR-10 are near duplicates of training images.
"""

import numpy as np
import xxhash

from imgjax.errors import DataError
from imgjax.evals import near_duplicates


def pixel_hash(image_HWC: np.ndarray) -> str:
    """Returns 16 hex digits, XXH3 (64 bits) of the shape and the decoded pixels.

    Files of different lossless formats have the same hash if they have the same pixels.

    >>> import numpy as np
    >>> from imgjax.evals import duplicates
    >>> duplicates.pixel_hash(np.zeros((2, 2, 3), np.uint8))
    '1d53c11c6fcfdbe7'

    Args:
      image_HWC: uint8 (H, W, C) at the stored size.

    Raises:
      DataError: the image is not uint8 (H, W, C), or it has no pixels.
    """
    if image_HWC.ndim != 3 or image_HWC.dtype != np.uint8 or not image_HWC.size:
        raise DataError(f'image of {image_HWC.dtype} {image_HWC.shape}: give decoded pixels, uint8 '
                        '(H, W, C)')
    hasher = xxhash.xxh3_64(f'{image_HWC.shape} '.encode())
    hasher.update(np.ascontiguousarray(image_HWC))
    return hasher.hexdigest()


def measure(hashes: list[str], descriptors_ND: np.ndarray, labels_N: np.ndarray,
            is_eval_N: np.ndarray, *, seed: int = 0) -> dict:
    """Returns the duplicates of a dataset in groups, and the leaks between its splits.

    A group holds all images that are connected by pairs of duplicates.

    >>> import numpy as np
    >>> from imgjax.evals import duplicates, near_duplicates
    >>> images_NHWC = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    >>> images_NHWC[2] = images_NHWC[0]
    >>> found = duplicates.measure(
    ...     list(map(duplicates.pixel_hash, images_NHWC)), near_duplicates.describe(images_NHWC),
    ...     labels_N=np.array([0, 1, 0]), is_eval_N=np.array([False, False, True]))
    >>> found['groups'][0]['indices'], found['groups'][0]['kind'], found['exact_leaks']
    ([0, 2], 'exact', 1)

    Args:
      hashes: N results of `pixel_hash`.
      descriptors_ND: float32 (N, 576), results of near_duplicates.describe.
      labels_N: int (N,), the class of each image.
      is_eval_N: bool (N,), whether an image is in the evaluation split, not in the training split.
      seed: seed of the random pairs that the threshold is computed from.

    Returns:
      `images`: N.
      `threshold`: the least similarity of a near duplicate (0 to 1).
      `groups`: dicts of `indices` (list of int, ascending), `kind` ('exact' if all hashes are
        equal, otherwise 'near'), `similarity` (the smallest of the pairs that connect the group; 1
        for equal pixels), `across` (whether both splits are in it) and `conflict` (whether its
        labels differ). Groups with `across` come first (of these the ones with `conflict`), then
        groups with `conflict`, then the others; each kind in the order of falling similarity.
      `exact_groups`, `near_groups`: numbers of groups of each kind.
      `exact_leaks`: number of evaluation images whose pixels are also in the training split.
      `near_leaks`: number of other evaluation images in a group with a training image.
      `conflicts`: number of groups whose labels differ.
      `without_leaks`: N bools, False for the evaluation images that are leaks. The accuracy
        without leaks is that of the images `is_eval_N & without_leaks`.

    Raises:
      DataError: there are no images, the arguments have different lengths, or a descriptor is not
        finite.
    """
    _check(hashes, descriptors_ND, labels_N, is_eval_N)
    _, first_U, image_of_N = np.unique(hashes, return_index=True, return_inverse=True)
    first_of_N = first_U[image_of_N]  # the first image with the same pixels
    is_first_N = first_of_N == np.arange(len(hashes))
    kept_U, copy_C = np.flatnonzero(is_first_N), np.flatnonzero(~is_first_N)
    pairs_P2, similarity_P, threshold = near_duplicates.near_pairs(
        descriptors_ND[kept_U], seed=seed)
    pairs_P2 = np.concatenate([np.stack([first_of_N[copy_C], copy_C], axis=1), kept_U[pairs_P2]])
    similarity_P = np.concatenate([np.ones(len(copy_C)), similarity_P])
    groups = []
    for indices, similarity in _components(pairs_P2, similarity_P, len(hashes)):
        groups.append({
            'indices': indices.tolist(),
            'kind': 'exact' if len(np.unique(image_of_N[indices])) == 1 else 'near',
            'similarity': similarity,
            'across': len(np.unique(is_eval_N[indices])) == 2,
            'conflict': len(np.unique(labels_N[indices])) > 1})
    groups.sort(key=lambda group: (not group['across'], not group['conflict'],
                                   -group['similarity'], group['indices']))
    leak_N = np.zeros(len(hashes), bool)
    for group in groups:
        if group['across']:
            leak_N[group['indices']] = True
    leak_N &= is_eval_N
    exact_leak_N = is_eval_N & np.isin(image_of_N, image_of_N[~is_eval_N])
    kinds = [group['kind'] for group in groups]
    return {
        'images': len(hashes), 'threshold': threshold, 'groups': groups,
        'exact_groups': kinds.count('exact'), 'near_groups': kinds.count('near'),
        'exact_leaks': int(exact_leak_N.sum()), 'near_leaks': int((leak_N & ~exact_leak_N).sum()),
        'conflicts': sum(group['conflict'] for group in groups),
        'without_leaks': (~leak_N).tolist()}


def _check(hashes, descriptors_ND, labels_N, is_eval_N) -> None:
    if not len(hashes):
        raise DataError('hashes: there are no images; give at least one')
    for name, values in (('descriptors_ND', descriptors_ND), ('labels_N', labels_N),
                         ('is_eval_N', is_eval_N)):
        if len(values) != len(hashes):
            raise DataError(f'{name}: {len(values)} rows for {len(hashes)} hashes; give one per '
                            'image')
    if descriptors_ND.ndim != 2 or descriptors_ND.shape[1] != near_duplicates.SIDE**2:
        raise DataError(f'descriptors_ND of shape {descriptors_ND.shape}: give what describe '
                        f'returns, (N, {near_duplicates.SIDE**2})')
    if not np.isfinite(descriptors_ND).all():
        raise DataError('descriptors_ND is not finite everywhere; describe the images again')
    if is_eval_N.dtype != bool:
        raise DataError(f'is_eval_N of {is_eval_N.dtype}: give bool, True for evaluation images')


def _components(pairs_P2: np.ndarray, similarity_P: np.ndarray,
                count: int) -> list[tuple[np.ndarray, float]]:
    """Returns (indices, smallest similarity) of each connected component of several images."""
    from scipy import sparse  # noqa: PLC0415  (0.2 s)

    if not len(pairs_P2):
        return []
    graph = sparse.coo_array((np.ones(len(pairs_P2)), pairs_P2.T), shape=(count, count))
    _, component_N = sparse.csgraph.connected_components(graph, directed=False)
    smallest = np.full(count, np.inf)
    np.minimum.at(smallest, component_N[pairs_P2[:, 0]], similarity_P)
    order = np.argsort(component_N, kind='stable')
    borders = np.flatnonzero(np.diff(component_N[order])) + 1
    return [(indices, float(smallest[component_N[indices[0]]]))
            for indices in np.split(order, borders) if len(indices) > 1]
