"""Recurrent network that reads an image row by row."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgjax.models.parts import layers

VARIANTS = {
    'rnn': {},
    'lstm': {'cell': 'lstm'},
    'gru': {'cell': 'gru'},
    'bilstm': {'cell': 'lstm', 'bidirectional': True},
    'bigru': {'cell': 'gru', 'bidirectional': True},
    'tiny_rnn': {'hidden': 12, 'num_layers': 2},
}


class Model(nn.Module):
    """LSTM (Hochreiter and Schmidhuber 1997) or GRU (Cho et al. 2014, arXiv:1406.1078) over rows.

    The variant `rnn` is an LSTM; all biases start at 0, those of the forget gates too. The image
    is a sequence of H steps of W * C values, as in Le et al. 2015 (arXiv:1504.00941).

    Attributes:
      num_classes: K; 0 gives the features in place of logits.
      cell: 'lstm' or 'gru'.
      hidden: width of the state, per direction.
      num_layers: recurrent layers, stacked.
      bidirectional: whether a second layer reads the rows from the bottom to the top, and both
        outputs are concatenated (Schuster and Paliwal 1997).
      pool: 'last', the final state (of both directions), or 'mean', the mean over the rows.
      dropout: rate between the layers and before the head.
      act: activation of candidate and output inside the cell, see ``layers.ACTIVATIONS``; the gates
        stay sigmoid. Unbounded activations can diverge over long images.
      dtype: compute dtype, 'float32' or 'bfloat16'.
    """

    num_classes: int
    cell: str = 'lstm'
    hidden: int = 128
    num_layers: int = 1
    bidirectional: bool = False
    pool: str = 'last'
    dropout: float = 0.0
    act: str = 'tanh'
    dtype: Any = 'float32'

    @nn.compact
    def __call__(self, image_NHWC: jax.Array, *, train: bool) -> layers.Outputs:
        """float (N, H, W, C) -> float32 logits (N, K).

        ``out`` has layer1.. (N, H, F), pre_logits and logits.
        """
        dtype = layers.compute_dtype(self.dtype)
        cell = partial(
            layers.pick('cell', self.cell, {'lstm': nn.OptimizedLSTMCell, 'gru': nn.GRUCell}),
            self.hidden,
            activation_fn=layers.activation(self.act),
            dtype=dtype,
        )
        pool = layers.pick(
            'pool',
            self.pool,
            {
                # The last step of each direction: that of the backward one is the top row.
                'last': lambda ys_NTF: jnp.concatenate(
                    [ys_NTF[0][:, -1], *(y_NTF[:, 0] for y_NTF in ys_NTF[1:])], axis=-1
                ),
                'mean': lambda ys_NTF: jnp.concatenate(ys_NTF, axis=-1).mean(axis=1),
            },
        )
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)

        out = {}
        N, H = image_NHWC.shape[:2]
        x_NTF = image_NHWC.astype(dtype).reshape(N, H, -1)
        for i in range(1, self.num_layers + 1):
            ys_NTF = []
            for direction in ('forward', 'backward')[: 1 + self.bidirectional]:
                step = cell(name=f'{direction}{i}')
                # flax would start from float32, which strict promotion refuses with bfloat16 gates.
                zeros_NF = jnp.zeros((N, self.hidden), dtype)
                start = (zeros_NF, zeros_NF) if self.cell == 'lstm' else zeros_NF
                scan = nn.RNN(step, reverse=direction == 'backward', keep_order=True)
                ys_NTF.append(scan(x_NTF, initial_carry=start))
            out[f'layer{i}'] = jnp.concatenate(ys_NTF, axis=-1)
            x_NTF = drop()(out[f'layer{i}'])
        out['pre_logits'] = pool(ys_NTF)
        out['logits'] = layers.head(drop()(out['pre_logits']), self.num_classes)
        return out['logits'], out
