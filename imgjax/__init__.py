"""imgjax: image classification in JAX, one pure train step and the ways of running it.

Importing the package touches no device; every part is imported by its own name, as in
``from imgjax import models``.
"""

__version__ = '0.2.0'
