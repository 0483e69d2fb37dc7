"""ResNets for CIFAR as most repositories save them: layerS.B.convN, bnN, and a head `linear`."""

import numpy as np


def to_timm(tensors: dict[str, np.ndarray], family: str, variant: str) -> dict[str, np.ndarray]:
    """Returns the tensors by timm's names; shortcuts of option A have no tensors."""
    return {name.removeprefix('module.').replace('linear.', 'fc.'): tensor
            for name, tensor in tensors.items()}
