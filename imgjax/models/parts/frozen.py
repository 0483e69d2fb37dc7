"""Which batch norms run in inference mode while a training step is traced."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

_FROZEN = contextvars.ContextVar('frozen', default=lambda name: False)


@contextlib.contextmanager
def norms(choose: Callable[[str], bool]) -> Iterator[None]:
    """In this context frozen batch norms that are traced for training run as in inference.

    They normalise with the stored statistics, which do not change: with those of a batch the frozen
    layers would be another function than the one that is evaluated.

    Args:
      choose: dotted path of a BatchNorm, such as 'layer1.0.bn1' -> whether it is frozen.
    """
    token = _FROZEN.set(choose)
    try:
        yield
    finally:
        _FROZEN.reset(token)


def is_frozen(name: str) -> bool:
    """Returns whether the BatchNorm of that dotted path runs in inference mode."""
    return _FROZEN.get()(name)
