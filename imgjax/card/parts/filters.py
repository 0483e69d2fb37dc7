"""What the network has learned to look for: first filters, and what excites single channels."""

import numpy as np

from imgjax.card.parts import Finding
from imgjax.evals import filters

TITLE = 'Filters'
QUESTION = 'What has it learned to look for?'

MOST = 64  # filters of the first layer
CHANNELS = 6  # of each layer that is shown
IMAGES = 7  # that excite a channel most
STEPS = {True: 128, False: 64}  # of the ascent, natural or plain


def measure(inputs, layer: str = '') -> dict:
    """Shows the first layer and the most varied channels of one layer.

    Args:
      inputs: card.inputs.Inputs.
      layer: the name of an intermediate; '' takes the middle one.
    """
    model = inputs.model
    shape = tuple(model.setup.dataset.image_shape)
    first = filters.first_layer(inputs.params(), shape)
    layer = layer or _middle(inputs)
    features_ND = inputs.features_of(layer)
    varied = np.argsort(-features_ND.std(0), kind='stable')[:CHANNELS]
    channels = np.sort(varied)
    activations_NC = features_ND[:, channels]
    options = model.setup.config.data
    made = {natural: filters.maximize(
        inputs.activation(layer), shape, channels.tolist(), mean=options.mean, std=options.std,
        steps=STEPS[natural], seed=inputs.seed, natural=natural,
        data_maxima_N=activations_NC.max(0)) for natural in (True, False)}
    exciting = filters.most_exciting(activations_NC, min(IMAGES, len(activations_NC)))
    return {
        'split': inputs.split, 'layer': layer, 'layers': inputs.layers,
        'first': {'name': first.name, 'reason': first.reason, 'count': len(first.norms_F),
                  'pictures': _pictures(first.filters_FHWC)},
        'channels': [
            {'channel': int(channel), 'data_maximum': float(activations_NC[:, i].max()),
             'natural': _pictures(made[True].images_NHWC[i:i + 1])[0],
             'plain': _pictures(made[False].images_NHWC[i:i + 1])[0],
             'natural_activation': float(made[True].reached_N[i]),
             'plain_activation': float(made[False].reached_N[i]),
             'images': inputs.eval_rows[exciting[i]].tolist()}
            for i, channel in enumerate(channels)]}


def _middle(inputs) -> str:
    """Returns the intermediate in the middle of those that have positions, or of all."""
    spatial = [name for name in inputs.layers if inputs.has_positions(name)] or inputs.layers
    return spatial[len(spatial) // 2]


def _pictures(images_NHWC) -> list:
    """Returns images in 0 to 1 as lists of bytes, which JSON holds and the page shows."""
    if images_NHWC is None:
        return []
    return np.round(255 * np.asarray(images_NHWC)[:MOST]).astype(int).tolist()


def findings(found: dict) -> list[Finding]:
    dead = [one['channel'] for one in found['channels'] if not one['data_maximum']]
    return [Finding('look', f'{len(dead)} of the channels of {found["layer"]} that vary most are 0 '
                    f'for every image of {found["split"]}.')] if dead else []


def figures(found: dict) -> dict:
    return {}
