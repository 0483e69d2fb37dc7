"""Tests of explanations, one file each: do the maps show what the model does?

Most files have a function `measure`, whose result is a dict that JSON can hold, with a number per
image and their mean with its 95 % interval. The maps come from any method; nothing here knows which
one it was.

Changed images: the output must follow what the map says.
  deletion       the probability while pixels are deleted, or inserted, in the order of the map
  road           the same, where deleted pixels are imputed by their neighbours
  sensitivity_n  whether sums of the map are proportional to changes of the logit, for random pixels
  infidelity     the squared error of these changes, for random squares

Changed weights:
  randomization  whether the maps change when the weights do

Maps alone:
  agreement      how alike the maps of several methods are
  pointing_game  whether the maximum lies on the object, where boxes are known

  baselines      two maps that know nothing of the model: random numbers, and edges
  verdict        whether a method passes, in a sentence

What these files share:
  order          the order of pixels that a map gives
  outputs        the outputs of the model on changed images
  means          the mean over images with its interval
"""
