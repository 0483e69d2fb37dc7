"""The batches of a run with the sampler `shuffle`."""

from imgjax import build
from imgjax.config import Config
from imgjax.data import Source, pipeline


def draw(source: Source, batch_size: int, seed: int):
    """Returns positions -> example indices."""
    config = Config({'sampler': {'name': 'shuffle', 'options': {}}, 'hparams': {'seed': seed},
                     'data': {'aug_repeats': 1}, 'batch_size': batch_size})
    return build.draw(config, source)


def train_batches(source: Source, options: dict, size: int, *, batch_size: int, seed: int, **more):
    """As pipeline.train_batches."""
    return pipeline.train_batches(source, draw(source, batch_size, seed), options, size,
                                  batch_size=batch_size, seed=seed, **more)
