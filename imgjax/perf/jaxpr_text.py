"""Finds convolutions and loops in the text of a step's jaxpr.

JAX does not promise the form of that text; if it changes, tests/perf/test_jaxpr_text.py fails.
"""


def convolves(text: str) -> bool:
    """Returns whether a step has a convolution, in XLA's form or in that of `models.parts.forms`.

    Args:
      text: `str(jax.make_jaxpr(step)(...))`.
    """
    return any(name in text for name in ('conv_general_dilated', 'name=_shifted'))


def loops(text: str) -> int:
    """Returns the number of loops (scan, while) in the text, each counted once.

    Args:
      text: the text of the jaxpr, see `convolves`.
    """
    return text.count(' scan[') + text.count(' while[')
