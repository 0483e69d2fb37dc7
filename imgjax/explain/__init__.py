"""Explanations of an answer, one file per method, and the tests of them in `metrics`.

A method is a file of this folder with

    def explain(apply_fn, variables, images_NHWC, targets_N, **options) -> maps_NHW

which says how much each pixel of an image speaks for a class:

    apply_fn      (variables, images_NHWC) -> (logits_NK, {name: intermediate}), as
                  `model.apply(variables, images_NHWC, train=False)` gives them
    images_NHWC   float32, normalised as the model takes them: 0 is the mean colour
    targets_N     int32, the class of each image whose logit is explained
    maps_NHW      float32, of the size of the images; SIGNED says whether values below 0 speak
                  against the class

Gradients:
  gradient              the largest absolute derivative of the channels
  input_x_gradient      the gradient times the image
  smoothgrad            the mean gradient of noisy copies
  integrated_gradients  gradients along the way from a grey image, times the image

The last layer with positions (`layers` finds it):
  grad_cam              channels weighted by their mean gradient
  grad_cam_plus_plus    the same with weights per position
  layer_cam             activations times positive gradients
  hires_cam             activations times gradients
  eigen_cam             the first principal component of the activations, without a class

Attention maps, of models with `attention='maps'`:
  attention_rollout     the maps of all blocks multiplied, without a class
  attention_gradient    the same, weighted by the gradient (Chefer et al.)

Relevance:
  lrp                   layer-wise relevance propagation, the epsilon rule

Changed images:
  occlusion             how much the logit falls when a square is covered
  rise                  the mean of random masks, weighted by the answer behind them
  partition_shap        Shapley values of a hierarchy of squares, by the package shap

Without a map:
  concepts              the channels before the head that decide for a class

What these files share:
  attention, cam, copies, checks, layers
"""

import importlib
import types

from imgjax.errors import ConfigError, nearest

# What a page says of a method.
DOES = {
    'gradient': 'where a small change of the pixel changes the logit most',
    'input_x_gradient': 'the gradient times the pixel',
    'smoothgrad': 'the mean gradient of noisy copies of the image',
    'integrated_gradients': 'the mean gradient on the way from a grey image, times the pixel',
    'grad_cam': 'where the channels are active whose mean gradient is large',
    'grad_cam_plus_plus': 'the same, with weights for each position',
    'layer_cam': 'activations times positive gradients',
    'hires_cam': 'activations times gradients',
    'eigen_cam': 'where the last layer is most active, for any class',
    'attention_rollout': 'which patches the attention mixes, for any class',
    'attention_gradient': 'which patches the attention mixes for this class',
    'lrp': 'the logit handed back layer by layer',
    'occlusion': 'how much the logit falls when a square is covered',
    'rise': 'how likely the class is where the pixel is seen through a random mask',
    'partition_shap': 'Shapley values of squares'}
METHODS = tuple(DOES)
CAMS = ('grad_cam', 'grad_cam_plus_plus', 'layer_cam', 'hires_cam', 'eigen_cam')
RANDOM = ('smoothgrad', 'rise')  # take a seed
OF_ATTENTION = ('attention_rollout', 'attention_gradient')


def method(name: str) -> types.ModuleType:
    """Returns the file of a method.

    Raises:
      ConfigError: there is no such method; the message lists them.
    """
    if name not in METHODS:
        raise ConfigError(f'--method: no method {name!r}{nearest(name, METHODS) or "."} There are '
                          f'{", ".join(METHODS)}')
    return importlib.import_module(f'{__name__}.{name}')
