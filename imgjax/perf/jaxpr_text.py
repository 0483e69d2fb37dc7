"""What the text of a jaxpr tells about a step.

JAX promises nothing about that text; tests/perf/test_jaxpr_text.py fails where it changes.
"""


def convolves(text: str) -> bool:
    """Is there a convolution, in XLA's form or in that of `models.parts.forms`?

    Args:
      text: `str(jax.make_jaxpr(step)(...))`.
    """
    return any(name in text for name in ('conv_general_dilated', 'name=_shifted'))


def loops(text: str) -> int:
    """Returns how many loops (scan, while) are written down, each once however often it runs.

    Args:
      text: as of `convolves`.
    """
    return text.count(' scan[') + text.count(' while[')
