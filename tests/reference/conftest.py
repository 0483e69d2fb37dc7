"""What the other packages need before a test of this folder imports them."""

import torch

# torchvision's compiled part is not there beside torch's CPU build, nor needed: its models and
# transforms do without. It declares the shapes of operators that it then lacks all the same.
_register = torch.library.register_fake


def _skip_compiled(name, *args, **kwargs):
    if isinstance(name, str) and name.startswith('torchvision::'):
        return lambda function: function
    return _register(name, *args, **kwargs)


torch.library.register_fake = _skip_compiled
import torchvision  # noqa: E402, F401  (timm and transformers import it too)

torch.library.register_fake = _register
