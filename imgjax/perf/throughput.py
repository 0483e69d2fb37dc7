"""How fast a run is: images per second, time per step, model FLOPs utilization."""

import time

import jax

from imgjax.perf.chips import peak_flops


def performance(*, steps: int, seconds: float, stalled: float, batch_size: int,
                flops: float | None, compile_seconds: float) -> dict:
    """Returns the `perf` part of a row of metrics.jsonl, the only part that differs in equal runs.

    Args:
      steps: the number of measured steps.
      seconds: the time of these steps.
      stalled: the part of these seconds in which the loop waited for data.
      batch_size: examples per step over all devices.
      flops: FLOPs of one step over all devices; None if XLA does not give them.
      compile_seconds: the time to trace and compile the step, once per process.
    """
    reached = flops * steps / seconds if flops else None
    peak = peak_flops(jax.devices()[0].device_kind)
    return {
        'time': time.time(),
        'images_per_second': batch_size * steps / seconds,
        'step_time': seconds / steps,
        'infeed_stall': stalled / seconds,
        'compile_time': compile_seconds,
        'flops_per_second': reached,
        'mfu': reached / (peak * jax.device_count()) if reached and peak else None,
    }
