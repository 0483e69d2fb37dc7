"""Evaluators of datasets and models: pure functions of arrays, one file each.

Most files have a function `measure`, whose result is a dict that JSON can hold. `imgjax.card` makes
a page of them; they need no run of this package, only arrays:

    >>> import numpy as np
    >>> from imgjax.evals import accuracy
    >>> logits_NK = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.5, 0.0]])
    >>> found = accuracy.measure(logits_NK, np.array([0, 1, 0, 1]), class_names=['cat', 'dog'])
    >>> found['top1']['value'], found['errors']
    (0.75, [3])
    >>> found['confusion']['pairs'][0]['label'], found['confusion']['pairs'][0]['prediction']
    (1, 0)

Data:
  label_errors        which labels are wrong, by the probabilities of a model that did not see them
  confident_learning  its method: margins and the confident joint
  duplicates          images that are twice in a dataset, or in both of its splits
  near_duplicates     its method for copies that were resized, mirrored or cropped
  odd_images          blank, tiny, blurred images; rare classes; labels that occur together

Features:
  probes              what a linear classifier reads from features, layer by layer
  few_shot            the same from a few images per class
  neighbors           the nearest images, and a classifier by their votes
  representation      how many directions the features use, and how alike the layers are (CKA)
  maps                the images as points of a plane: PCA, UMAP
  filters             the first filters, and the images that excite a channel

Answers and whether to trust them:
  accuracy            rates with intervals, baselines, confusions
  comparison          two models on the same images
  calibration         whether the probabilities are right, and which fit improves them
  recalibration       these fits: temperature, vector scaling, isotonic regression
  selective           the error when the least confident answers are left out
  conformal           sets of classes that rarely miss the label
  conformal_coverage  how well these sets work on a set of images

Robustness:
  corruptions         the 19 common corruptions of ImageNet-C and CIFAR-10-C, on the device
  corruption_error    mean corruption errors (mCE), by category and beside a baseline
  corruption_filters  their blurs, zooms and displaced pixels
  corruption_fields   their fog, frost and drops
  corruption_jpeg     what JPEG loses, without a codec
  shifts              the answers when images are moved, turned, scaled, recoloured or mirrored
  shape_bias          whether the answers follow the shape or the texture

Attacks:
  robust_accuracy     the accuracy under attacks, and signs of a masked gradient
  fgsm                one step uphill in the loss
  pgd                 many steps, projected to the ball
  apgd                the same without a step size to choose
  fab                 the nearest image of another class
  square              random squares, which need no gradient
  autoattack          the four standard attacks in turn
  attacks             what the attacks share
  norm_balls          balls around images, in linf and l2

Strangers:
  ood                 how well a score tells strangers from familiar images
  ood_scores          these scores: softmax, logit, energy, Mahalanobis, neighbours, ViM
  strangers           images of no class, made from familiar ones: noise, shuffled, blended

What these files share:
  answers             probabilities, confidences and the loss of logits
  average_precision   mean average precision of the draws of a bootstrap
  blocks              blocks of images, so that memory is bounded
  checks              what is demanded of arrays
  chunks              how many images are worked on at one time
  intervals           Wilson's interval, and the bootstrap
  label_sets          several right classes per image, read from a file
"""
