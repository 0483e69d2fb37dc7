"""Cross-entropy of the classifier and, weighted less, of each further classifier in the model.

The loss is L + auxiliary_weight * (L_1 + L_2 + ...), where L_i is that of the i-th array
`logits_...` in what the model names in `out`: the second classifier of a distilled DeiT, or the
heads in the middle of a model of your own. The first of its kind is GoogLeNet, whose two auxiliary
classifiers weigh 0.3: Szegedy et al., `Going Deeper with Convolutions
<https://arxiv.org/abs/1409.4842>`_, 2014, section 5.

    python -m launch.train --config=configs/digits.py:vit --config.model.options.distilled=True \\
        --config.objective.name=projects.auxiliary_head --workdir=runs/auxiliary_head
"""

import optax

from imgjax.config import Field
from imgjax.objectives import Inputs, Loss
from imgjax.objectives.parts import classification

HPARAMS = classification.HPARAMS | {
    'auxiliary_weight': Field(float, 0, default=0.3, help='of the loss of each further classifier')}
MEASURES = ('accuracy', 'auxiliary_loss')


def loss(params, inputs: Inputs) -> Loss:
    """Raises ValueError where the model has one classifier only."""
    images_NHWC, targets_NK = inputs.batch['image'][:, 0], inputs.batch['target']
    (logits_NK, out), batch_stats = inputs.apply(params, images_NHWC)
    further = [found_NK for name, found_NK in out.items() if name.startswith('logits_')]
    if not further:
        raise ValueError(f'the model has no further classifier, an array logits_... among its '
                         f'outputs in training ({", ".join(out)}); take a model that has one, such '
                         'as vit with config.model.options.distilled=True')
    smooth_NK = optax.smooth_labels(targets_NK, inputs.hparams['label_smoothing'])
    weights_1K = classification.class_weights(inputs.hparams)

    def of(logits_NK):
        return classification.softmax(logits_NK, smooth_NK, weights_1K)

    auxiliary_N = sum(map(of, further))
    losses_N = of(logits_NK) + inputs.hparams['auxiliary_weight'] * auxiliary_N
    measures = {'accuracy': classification.is_hit(logits_NK, targets_NK),
                'auxiliary_loss': auxiliary_N}
    return Loss(losses_N, measures, batch_stats, inputs.extra)
