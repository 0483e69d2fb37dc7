"""imgjax: image classification in JAX, from a laptop core to a pod by one code path.

Importing the package touches no device; every part is imported by its own name, as in
``from imgjax import models``.
"""

__version__ = '0.1.0'
