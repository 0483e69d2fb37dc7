"""Multilayer perceptron on the flattened image."""

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from imgjax.models.parts import layers

VARIANTS = {
    'mlp': {},
    'tiny_mlp': {'hidden': (16, 12)},
}


class Model(nn.Module):
    """Dense layers with an activation and dropout after each (Rumelhart et al. 1986).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      hidden: width of each hidden layer; empty for multinomial logistic regression.
      dropout: rate after each hidden layer (Srivastava et al. 2014), from the 'dropout' stream.
      act: activation, see ``layers.ACTIVATIONS``.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.0
    act: str = 'relu'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K), out: hidden1.., pre_logits, logits."""
        dtype = layers.compute_dtype(self.dtype)
        act = layers.activation(self.act)
        dense = partial(layers.Dense, dtype=dtype, kernel_init=nn.initializers.he_normal())
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)

        out = {}
        x_NF = image_NHWC.astype(dtype).reshape(image_NHWC.shape[0], -1)
        for i, width in enumerate(self.hidden, 1):
            x_NF = act(dense(width, name=f'hidden{i}')(x_NF))
            out[f'hidden{i}'] = x_NF
            x_NF = drop()(x_NF)
        out['pre_logits'] = x_NF
        out['logits'] = layers.head(x_NF, self.num_classes)
        return out['logits'], out
