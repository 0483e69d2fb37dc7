"""Orthogonalised momentum for matrices, AdamW for the rest. https://kellerjordan.github.io/posts/muon

Matrices are dense kernels [in, out] and convolution kernels [height, width, in, out] with more than
one input channel (a depthwise kernel is not a matrix). The update is scaled as in
https://arxiv.org/abs/2502.16982, so that a learning rate and a weight decay of AdamW can be used.
Where a scan stacked several layers in one array, each layer is updated by itself.
"""

import math

import jax
import optax

from imgjax.config import Field
from imgjax.optimizers.parts import adam, decay

HPARAMS = adam.HPARAMS | {
    'momentum': Field(float, 0, 1, default=0.9, help='momentum of the matrices: share of the '
        'update before that is added')}
OPTIONS = {'nesterov': Field(bool, default=True, help='use Nesterov momentum for the matrices')}

# The root mean square of an update by AdamW. Muon's updates of matrices are scaled to it, so that
# one learning rate fits the matrices and the rest (Liu et al., arXiv:2502.16982).
_RMS = 0.2


def transform(options, hparams, learning_rate, decay_mask):
    return optax.chain(
        optax.partition({'muon': _muon(options, hparams), 'adam': adam.direction(hparams)},
                        _labels),
        optax.add_decayed_weights(hparams['weight_decay'], decay_mask),
        optax.scale_by_learning_rate(learning_rate))


def _muon(options, hparams):
    # Not optax.contrib.muon: there the AdamW part uses Muon's `nesterov`, and takes no decay mask.
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
