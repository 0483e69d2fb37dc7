"""A run for a training loop of one's own: its parts, without a run directory, checkpoints or logs.

    run = own_loop.begin(digits.get_config('cnn'))
    state = run.state
    for k in range(run.setup.config.steps):
        state, measured = run.step(state, run.batch(k), run.hparams)
    print(run.evaluate(state)['accuracy'])

`train.run` is the loop of the package: it also saves, resumes, logs and watches over the numbers.
Several runs of one structure can share the compiled `step` of the first of them.
"""

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from imgjax import build, evaluate, feed, sharding, train
from imgjax import config as config_lib
from imgjax import state as state_lib
from imgjax import step as step_lib
from imgjax.build import Setup
from imgjax.data import Source, pipeline
from imgjax.interop import load
from imgjax.process import backend

log = logging.getLogger('imgjax')


class Run(NamedTuple):
    """The parts of a run.

    Attributes:
      setup: model, mesh, shapes, config, and the two steps before they are compiled.
      state: the state before the first step. `step` takes over the memory of the state that it is
        given, so that this one can be used once.
      hparams: the numbers of the config, as arrays on the devices.
      batch: k -> batch k on the devices, the same whenever it is asked for: image uint8
        (N, H, W, C), label int32 (N,) or float32 (N, K), weight float32 (N,).
      step: (state, batch, hparams) -> (state, {name: scalar array}), compiled at its first call.
      evaluate: state -> {'accuracy', 'loss', 'examples' and more} of the evaluation split, floats.
      predict: (state, images uint8 (N, H, W, C) of the model's size) -> (logits float32 (N, K),
        {name: intermediate array}), compiled for each N.
    """

    setup: Setup
    state: state_lib.TrainState
    hparams: dict
    batch: Callable
    step: Callable
    evaluate: Callable
    predict: Callable


def begin(config, sources: tuple[Source, Source] | None = None) -> Run:
    """Opens the data of a config and returns the parts of its run.

    Args:
      config: what a get_config returned, or plain data.
      sources: the training and the evaluation split, as
        imgjax.data.sources.arrays.source returns them; None opens those that config.data names. How
        they are read is in config.data too: channels, image_size, mean and std.

    Raises:
      ConfigError, DataError: as `train.run` raises them before its first step.
    """
    backend.keep_memory()
    checked = config_lib.checked(config)
    weights = load.find(checked)
    checked = load.with_preprocessing(checked, weights)
    build.check(checked)
    train_split, eval_split = sources or build.open_dataset(checked)
    setup = build.setup(*build.describe(checked, train_split, eval_split))
    hparams = evaluate.hparams_on(setup)
    rows_of = _rows_of(setup, train_split)

    def batch(k: int) -> dict:
        return sharding.to_device(rows_of(k), sharding.batch_sharding(setup.mesh))

    def evaluated(state) -> dict:
        columns = evaluate.split(setup, state, eval_split, setup.config.data.eval_split)
        return evaluate.summary(setup.config, columns)

    constants = feed.constants(setup)
    compiled = jax.jit(setup.train_step, donate_argnums=0,
                       compiler_options=backend.compiler_options(),
                       out_shardings=(setup.shardings, sharding.replicated(setup.mesh)))

    def step(state, batch, hparams):
        return compiled(state, batch, hparams, constants)

    @functools.partial(jax.jit, compiler_options=backend.compiler_options())
    def predict(state, images_NHWC):
        return step_lib.predict(setup.model, setup.config, state, images_NHWC)

    loaded = None if weights is None else train.load_weights(setup, weights)
    state = train.initial_state(setup, hparams, loaded)
    return Run(setup, state, hparams, batch, step, evaluated, predict)


def _rows_of(setup: Setup, source: Source) -> Callable:
    """Returns k -> the rows of this process in batch k, NumPy arrays."""
    names, size = ('image', 'label', 'weight'), setup.dataset.image_shape[0]
    index, count = process = sharding.rows_here(setup.mesh)
    draw, batch_size = build.draw(setup.config, source), setup.config.batch_size
    if feed.is_resident(setup, source):  # decoded once
        decoded = pipeline.load_all(source, setup.config.data, size)
        if broken := np.count_nonzero(decoded['fault']):
            log.warning('%d of %d training images cannot be decoded and have weight 0', broken,
                        len(source.examples))

        def rows(k: int) -> dict:
            share = batch_size // count
            positions = k * batch_size + index * share + np.arange(share, dtype=np.int64)
            indices = draw(positions)
            return {name: decoded[name][indices] for name in names}

        return rows
    batches = pipeline.train_batches(
        source, draw, setup.config.data, size, batch_size=batch_size,
        seed=setup.config.hparams.seed, process=process)

    def decode(k: int) -> dict:
        found = batches[k]
        return {name: found[name] for name in names}

    return decode
