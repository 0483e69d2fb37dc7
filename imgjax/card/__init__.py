"""Cards: what a model and its data are like, on one page.

  model.py     the model that a card describes, with its two splits
  forward.py   what the model answers on a split, with named intermediates
  pixels.py    what the decoded images of a split look like
  inputs.py    answers, features and pixels, each computed when first asked for
  store.py     results on disk, found again by what they were computed from
  parts/       one file per part of a card; the numbers come from imgjax/evals
  engine.py    measures the parts, and writes the page
"""
