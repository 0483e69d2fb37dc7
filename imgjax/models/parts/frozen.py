"""Which batch norms run in inference mode while a training step is traced."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

_FROZEN = contextvars.ContextVar('frozen', default=lambda name: False)


@contextlib.contextmanager
def norms(is_frozen: Callable[[str], bool]) -> Iterator[None]:
    """While it holds, a ``BatchNorm`` traced for training runs as in inference where it is frozen.

    It normalises with the stored statistics, which stay as they are: those of a batch would make
    another function of the frozen layers than the one that is evaluated.

    Args:
      is_frozen: the dotted path of a BatchNorm, such as 'layer1.0.bn1' -> bool.
    """
    token = _FROZEN.set(is_frozen)
    try:
        yield
    finally:
        _FROZEN.reset(token)


def holds_for(name: str) -> bool:
    """Is the BatchNorm of that dotted path frozen here?"""
    return _FROZEN.get()(name)
