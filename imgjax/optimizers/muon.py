"""Orthogonalised momentum for matrices, AdamW for the rest. https://kellerjordan.github.io/posts/muon

Matrices are dense kernels [in, out] and convolution kernels [height, width, in, out] with more than
one input channel (a depthwise kernel is no matrix). Scaled as in https://arxiv.org/abs/2502.16982,
so that AdamW's learning rate and weight decay fit. Layers that a scan stacked are updated as if
each had parameters of its own.
"""

import math

import jax
import optax

from imgjax.config import Field
from imgjax.optimizers.parts import adam, decay

HPARAMS = adam.HPARAMS | {
    'momentum': Field(float, 0, 1, default=0.9, help='share of the update before, of matrices')}
OPTIONS = {'nesterov': Field(bool, default=True, help='Nesterov momentum, of matrices')}

# The root mean square of AdamW's update: one learning rate serves the matrices, which Muon
# updates, and the rest (Liu et al., arXiv:2502.16982).
_RMS = 0.2


def transform(options, hparams, learning_rate, decay_mask):
    return optax.chain(
        optax.partition({'muon': _muon(options, hparams), 'adam': adam.direction(hparams)},
                        _labels),
        optax.add_decayed_weights(hparams['weight_decay'], decay_mask),
        optax.scale_by_learning_rate(learning_rate))


def _muon(options, hparams):
    # Not optax.contrib.muon: its AdamW half would take the nesterov of Muon, and no decay mask.
    def dimensions(updates):
        return jax.tree_util.tree_map_with_path(
            lambda path, x: optax.contrib.MuonDimensionNumbers(
                tuple(range(decay.layer_axes(path), x.ndim - 1)), x.ndim - 1), updates)

    def scale(updates, _):
        def one(path, x):
            rows = math.prod(x.shape[decay.layer_axes(path):-1])
            return _RMS * math.sqrt(max(rows, x.shape[-1])) * x
        return jax.tree_util.tree_map_with_path(one, updates)

    return optax.chain(
        optax.contrib.scale_by_muon(
            beta=hparams['momentum'], eps=hparams['eps'], nesterov=options['nesterov'],
            weight_dimension_numbers=dimensions),
        optax.stateless(scale))


def _labels(params):
    def label(path, x):
        shape = x.shape[decay.layer_axes(path):]
        matrix = len(shape) == 2 or (len(shape) == 4 and shape[2] > 1)
        return 'muon' if decay.is_kernel(path) and matrix else 'adam'
    return jax.tree_util.tree_map_with_path(label, params)
