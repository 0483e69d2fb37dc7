"""Exports a trained model: weights for timm, StableHLO, ONNX, or TensorFlow's SavedModel.

The exported model maps uint8 images_NHWC, cropped and resized, to float32 logits_NK, for any N and
with the normalization inside. What is written is read, run and compared before it is accepted.
"""

import functools
import importlib
import json
import logging
import os
import types
from collections.abc import Callable

import jax
import numpy as np
import safetensors.numpy

from imgjax import augment, models, step
from imgjax.build import Setup
from imgjax.commands import run_directory
from imgjax.config import write_json
from imgjax.errors import ConfigError, DataError, one_line
from imgjax.interop import description, files, torch_layout
from imgjax.process import backend
from imgjax.rundir import files as files_lib
from imgjax.rundir import outputs

log = logging.getLogger('imgjax')

# The file or folder that each format writes beside config.json.
FORMATS = {'safetensors': 'model.safetensors', 'stablehlo': 'model.stablehlo',
           'onnx': 'model.onnx', 'savedmodel': 'saved_model'}
# The largest difference of an exported model's logits, in standard deviations of the logits.
TOLERANCE = 1e-4
_INSTALL = {
    'onnx': 'pip install onnx onnx_ir onnxruntime && pip install --no-deps jax2onnx',
    'savedmodel': "pip install 'imgjax[prepare]'"}


def export(workdir: str, format: str, output: str = '', at: int | str | None = None) -> dict:
    """Writes a run's model in one of FORMATS, beside a config.json with classes and preprocessing.

    Args:
      workdir: the run directory.
      format: one of FORMATS.
      output: a folder that is new, empty, or holds exports of this model: one in another format
        stays, one in this format is replaced. '' is WORKDIR/export/FORMAT.
      at: the step, as in `run_directory.which_step`; None takes the newest that verifies.

    Returns:
      {output, format, bytes, max_difference (of the logits, in standard deviations), step, workdir,
      state_digest}.

    Raises:
      ConfigError: there is no such format, it needs a package, or `output` holds something else.
      DataError: the written model does not give the live model's logits; it is removed.
    """
    if format not in FORMATS:
        raise ConfigError(f'--format: takes one of {", ".join(FORMATS)}, got {format!r}')
    workdir = outputs.path('workdir', workdir)
    output = outputs.path('output', output or os.path.join(workdir, 'export', format))
    own = outputs.check_folder('output', output, 'launch.export', ('config.json', FORMATS[format]))
    setup = _in_float32(run_directory.open_run(workdir))
    _check_same_model(output, own, format, setup)
    chosen = run_directory.which_step(setup, workdir, at)
    state, meta = run_directory.restore(setup, workdir, chosen)
    params = step.eval_params(setup.config, state)
    variables = jax.device_get({'params': params, 'batch_stats': state.batch_stats})
    state = state.replace(params=variables['params'], batch_stats=variables['batch_stats'],
                          ema=variables['params'] if setup.config.ema else {})

    def predict(images_NHWC):
        return step.predict(setup.model, setup.config, state, images_NHWC)[0]

    try:
        with outputs.filling(output, 'launch.export', own) as folder:
            write_json(os.path.join(folder, 'config.json'), description.describe(setup))
            run = _WRITERS[format](setup, variables, folder)
            difference = _compare(setup, jax.jit(predict), run)
            if not difference <= TOLERANCE:
                raise DataError(
                    f'{output}: the exported model differs from the live one by {difference:.1e} '
                    f'of its spread, more than {TOLERANCE}; it was removed')
    except ImportError as error:
        raise ConfigError(f'--format={format}: needs {error.name}; install it with: '
                          f'{_INSTALL[format]}') from None
    except OSError as error:
        raise DataError(f'{output}: cannot be written ({error.strerror})') from None
    size = _size(os.path.join(output, FORMATS[format]))
    log.info('%s: %.1f MB, the same logits within %.1e of their spread', output, size / 2**20,
             difference)
    return {'output': os.path.abspath(output), 'format': format, 'bytes': size,
            'max_difference': difference, 'step': meta['step'],
            'workdir': os.path.abspath(workdir), 'state_digest': meta['state_digest']}


def _check_same_model(output: str, own: list[str], format: str, setup: Setup) -> None:
    """Checks that the new config.json also describes the other formats in the folder."""
    others = [file for file in FORMATS.values() if file != FORMATS[format]
              and any(name.partition('/')[0] == file for name in own)]
    if not others:
        return
    try:
        same = files_lib.read_json(os.path.join(output, 'config.json')) == json.loads(
            json.dumps(description.describe(setup)))
    except (OSError, ValueError):
        same = False
    if not same:
        raise ConfigError(f'--output={output}: its {others[0]} is of another model; take another '
                          'folder')


def _size(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, name))
               for folder, _, names in os.walk(path) for name in names)


def _compare(setup: Setup, live, run) -> float:
    """Returns the largest difference of logits at two batch sizes, in standard deviations."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for count in (2, 3):
        images_NHWC = rng.integers(0, 256, (count, *setup.dataset.image_shape), np.uint8)
        expected = np.asarray(live(images_NHWC))
        found = np.asarray(run(images_NHWC))
        if found.shape != expected.shape:
            raise DataError(f'the exported model gives {found.shape}, the live one '
                            f'{expected.shape}')
        spread = max(float(expected.std()), 1e-6)
        worst = max(worst, float(np.abs(found - expected).max()) / spread)
    return worst


def _in_float32(setup: Setup) -> Setup:
    """Returns the run with a model that computes in float32, as other programs will run it."""
    if setup.config.model.dtype == 'float32':
        return setup
    log.info('trained in %s; the exported model computes in float32, and is compared with the '
             'run in float32', setup.config.model.dtype)
    return setup._replace(model=setup.model.clone(dtype='float32'))


def _apply(setup: Setup) -> Callable:
    """Returns the function (variables, uint8 images_NHWC) -> logits_NK."""
    def run(variables, images_NHWC):
        images_NHWC = augment.color.normalize(
            images_NHWC, setup.config.data.mean, setup.config.data.std)
        return setup.model.apply(variables, images_NHWC, train=False)[0]

    return run


def _write_safetensors(setup: Setup, variables, folder: str) -> Callable:
    family = models.variants().get(setup.config.model.name, setup.config.model.name)
    module = models.module(family)
    renames = getattr(module, 'RENAMES', {})
    path = os.path.join(folder, 'model.safetensors')
    # transformers reads only files that say which library's layout they have.
    safetensors.numpy.save_file(torch_layout.write(variables, renames), path, {'format': 'pt'})
    again = torch_layout.read(files.read(path), variables, renames)
    return jax.jit(functools.partial(_apply(setup), again))


def _write_stablehlo(setup: Setup, variables, folder: str) -> Callable:
    batch, = jax.export.symbolic_shape('batch')
    images = jax.ShapeDtypeStruct((batch, *setup.dataset.image_shape), np.uint8)
    run = jax.jit(functools.partial(_apply(setup), variables))
    exported = jax.export.export(run, platforms=('cpu', 'cuda', 'tpu'))(images)
    path = os.path.join(folder, 'model.stablehlo')
    with open(path, 'wb') as file:
        file.write(exported.serialize())
    with open(path, 'rb') as file:
        return jax.jit(jax.export.deserialize(bytearray(file.read())).call)


def _write_onnx(setup: Setup, variables, folder: str) -> Callable:
    import jax2onnx
    import onnx
    import onnxruntime

    logging.getLogger('onnx_ir').setLevel(logging.ERROR)  # it logs which types it left out
    path = os.path.join(folder, 'model.onnx')
    images = types.SimpleNamespace(shape=('batch', *setup.dataset.image_shape), dtype=np.uint8)
    try:
        with backend.made_for('onnx'):
            model = jax2onnx.to_onnx(
                functools.partial(_apply(setup), variables), [images], model_name='imgjax',
                input_names=['images'], output_names=['logits'])
    except Exception as error:  # jax2onnx raises many types where it lacks an operation
        raise DataError(
            f'--format=onnx: jax2onnx cannot convert {setup.config.model.name!r} '
            f'({type(error).__name__}: {one_line(error)}); take another '
            'format') from None
    described = description.describe(setup)
    onnx.helper.set_model_props(model, {
        key: json.dumps(described[key])
        for key in ('architecture', 'label_names', 'preprocessing', 'imgjax')})
    with open(path, 'wb') as file:
        file.write(model.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda images_NHWC: session.run(None, {name: images_NHWC})[0]


def _write_savedmodel(setup: Setup, variables, folder: str) -> Callable:
    tf = importlib.import_module('tensorflow')  # the one place: nothing else here needs it
    from jax.experimental import jax2tf

    shape = [None, *setup.dataset.image_shape]
    converted = jax2tf.convert(_apply(setup), polymorphic_shapes=[
        None, f'(batch, {", ".join(map(str, shape[1:]))})'])
    module = tf.Module()
    # Constants would be in the graph of each saved function; variables are saved once.
    module.weights = jax.tree.map(lambda x: tf.Variable(x, trainable=False), variables)
    module.__call__ = tf.function(
        lambda images: converted(module.weights, images), autograph=False,
        input_signature=[tf.TensorSpec(shape, tf.uint8, name='images')])
    path = os.path.join(folder, 'saved_model')
    tf.saved_model.save(module, path, signatures={
        'serving_default': module.__call__.get_concrete_function()})
    serve = tf.saved_model.load(path).signatures['serving_default']

    def run(images_NHWC):
        result, = serve(images=tf.constant(images_NHWC)).values()
        return result.numpy()

    return run


_WRITERS = {'safetensors': _write_safetensors, 'stablehlo': _write_stablehlo,
            'onnx': _write_onnx, 'savedmodel': _write_savedmodel}
