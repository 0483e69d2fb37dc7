"""How fast a run is: images per second, time per step, model FLOPs utilization."""

import time

import jax

# Dense bfloat16 FLOP/s of one chip, from the makers' data sheets; MFU is against these. A device
# that is not here (a CPU) has no MFU in its rows, only the FLOP/s it reached.
PEAK_FLOPS = {
    'NVIDIA A100': 312e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA H100': 989e12,
    'NVIDIA H200': 989e12,
    'NVIDIA L4': 121e12,
    'NVIDIA B200': 2250e12,
    'TPU v3': 123e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5': 459e12,
    'TPU v6 lite': 918e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak of a device kind, by the longest name in the table that it begins with."""
    fitting = [name for name in PEAK_FLOPS if device_kind.startswith(name)]
    return PEAK_FLOPS[max(fitting, key=len)] if fitting else None


def performance(*, steps: int, seconds: float, stalled: float, batch_size: int,
                flops: float | None, compile_seconds: float) -> dict:
    """Returns the `perf` part of a row; it is the only part that differs between equal runs.

    Args:
      steps: steps in this stretch of the run.
      seconds: what they took.
      stalled: seconds of it that the loop waited for data.
      batch_size: examples of a step over all devices.
      flops: of one step over all devices; None if XLA did not tell.
      compile_seconds: tracing and compiling the step, once a process.
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
