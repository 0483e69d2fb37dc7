"""One corruption, ours or that of `imagecorruptions`, as a process that corruptions.py drives."""

import resource
import time

import numpy as np

from benchmarks import turns


def start(name: str, size: int, batch: int, ours: bool):
    """Returns what turns.serve takes.

    Args:
      name: of the corruption.
      size: side of the images in pixels.
      batch: images of one call of ours; the package's has one.
      ours: which of the two.
    """
    images_NHWC = np.random.default_rng(0).integers(
        0, 256, (batch, size, size, 3)).astype(np.uint8)
    began = time.perf_counter()
    if ours:
        import jax

        from imgjax.evals import corruptions

        key, on_device_NHWC = jax.random.key(0), jax.device_put(images_NHWC)
        run = turns.timed(lambda: corruptions.corrupt(name, 3, on_device_NHWC, key),
                          jax.block_until_ready)
    else:
        import imagecorruptions

        run = turns.timed(lambda: imagecorruptions.corrupt(images_NHWC[0], 3, name),
                          lambda image: None)
    run(1)
    return run, {'compile': time.perf_counter() - began}, lambda: {
        'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}


if __name__ == '__main__':
    turns.serve(start)
