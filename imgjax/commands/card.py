"""The card of a model: accuracy, calibration, labels, duplicates, features, on one page."""

import hashlib
import importlib.util
import os
from collections.abc import Sequence

from imgjax.card import engine, forward, model, other_sets, parts, stranger_set
from imgjax.card.inputs import Inputs
from imgjax.card.model import Model
from imgjax.commands import calibrated, evaluate_weights
from imgjax.errors import ConfigError, DataError
from imgjax.evals import label_sets as label_sets_lib
from imgjax.rundir import outputs

_COMMAND = 'launch.card'


def of_run(workdir: str, at: int | str | None = None, split: str = '', changes: dict | None = None,
           output: str = '', compare: str = '', **more) -> dict:
    """Writes the card of a run; see `write` for the other arguments.

    Args:
      workdir: the run directory.
      at: the step, as `which_step` takes it; None takes the newest step that verifies.
      split: the evaluation split; '' takes config.data.eval_split.
      changes: fields of the config that name another dataset, as evaluate_split takes them.
      output: the folder of the card; '' takes `card` in the run directory.
      compare: the run directory of a model to compare with, or ''.

    Raises:
      ConfigError: a flag or a field is wrong.
      DataError: the data or a checkpoint cannot be used.
    """
    workdir = outputs.path('workdir', workdir)
    check_flags(comparing=bool(compare), **more)
    if output:
        output = outputs.path('output', output)
        outputs.check_folder('output', output, _COMMAND)
    else:
        output = os.path.join(workdir, calibrated.FOLDER)
        outputs.check_content(output, output, _COMMAND)
    opened = model.of_run(workdir, at, split, changes)
    other = _other(opened, compare, split, changes) if compare else None
    return write(opened, output, other=other,
                 about={'workdir': os.path.abspath(workdir), 'step': opened.step,
                        'compared_with': compare or None}, compare=compare, **more)


def of_weights(config, split: str = '', output: str = '', at: str | None = None,
               compare: str = '', **more) -> dict:
    """Writes the card of published weights, config.init.weights; see `write`.

    Args:
      config: what a get_config returned, or plain data.
      split: the evaluation split; '' takes config.data.eval_split.
      output: the folder of the card.
      at, compare: as `of_run` takes them; weights have no steps and are compared with no run.

    Raises:
      ConfigError: a flag or a field is wrong.
      DataError: the data or the weights cannot be used.
    """
    check_flags(comparing=False, **more)
    for flag, value in (('step', at), ('compare', compare)):
        if value:
            raise ConfigError(f'--{flag}={value}: is for a run; give --workdir, or leave it out')
    if not evaluate_weights.evaluation_config(config).init.weights:
        raise ConfigError('--workdir: give a run directory, or weights by --config=FILE and '
                          '--config.init.weights=LAYOUT:WHERE')
    if not output:
        raise ConfigError('--output: give the folder of the card, as weights have no run directory')
    output = outputs.path('output', output)
    outputs.check_folder('output', output, _COMMAND)
    opened = model.of_weights(config, split)
    return write(opened, output, about={'weights': opened.name}, **more)


def write(opened: Model, folder: str, *, about: dict, only: str = '', seed: int = 0,
          images: int = 10_000, alpha: float = 0.1, kept: Sequence[str] = (), label_sets: str = '',
          layer: str = '', strangers: str = '', sets: Sequence[str] = (),
          other: Model | None = None, compare: str = '') -> dict:
    """Measures the parts of a card and writes card.html and card.json.

    Args:
      opened: the model.
      folder: the folder of the card.
      about: what identifies the model, for the page.
      only: parts, of card.parts.NAMES, separated by ','; '' takes all.
      seed: decides which images are drawn, and every random number of the parts.
      images: how many images of a split features and pixels are computed of, at most.
      alpha: the share of labels that sets of classes may miss.
      kept: names of the classes to which the answers are restricted; () keeps all.
      label_sets: a JSON file with the right classes of each image.
      layer: the intermediate whose channels are shown; '' takes the middle one.
      strangers: a folder of images of no class of the model, or ''.
      sets: folders of prepared sets, other images of classes of the model.
      other: the model to compare with.
      compare: its run directory, for the page.

    Returns the figures of all parts and the path of the page.
    """
    names = check_flags(comparing=other is not None, only=only, images=images, alpha=alpha,
                        kept=kept, label_sets=label_sets, layer=layer, strangers=strangers,
                        sets=sets)
    inputs = Inputs(opened, folder, seed, images, other=other)
    options = _options(inputs, alpha, kept, label_sets, layer, compare)
    if strangers:
        of_none = stranger_set.opened(strangers, inputs)
        inputs.stranger_images = of_none.images_NHWC
        options['ood'] = {'other_set': strangers, 'content': of_none.content,
                          'note': of_none.note}
    if sets:
        options['prepared_sets'] = {'paths': [os.path.abspath(os.path.expanduser(
            one)) for one in sets], 'content': other_sets.content(sets)}
    data = opened.setup.config.data
    about = {**about, 'data': data.path or data.name, 'split': opened.split,
             'examples': len(opened.eval_source.examples), 'state_digest': opened.state_digest,
             **{name: count for name, count in opened.compared.items() if count}}
    engine.open_folder(folder, _COMMAND)
    inputs.answers  # noqa: B018  (refuses a model that has diverged, before any part is measured)
    found = engine.run(inputs, names, _known(other is not None, sets), f'Card of {opened.name}',
                       _COMMAND, about, options)
    measured = set(found['parts']) - set(found['left_out'])
    if {'calibration', 'ood'} & set(names) and 'calibration' in measured:
        calibrated.write(folder, inputs)
    return found


def _options(inputs: Inputs, alpha: float, kept: Sequence[str], label_sets: str, layer: str,
             compare: str) -> dict[str, dict]:
    """Returns the arguments of the parts, {part: {name: value}}, after a check of the flags.

    Raises:
      ConfigError: a flag does not fit the model or the data.
    """
    options: dict[str, dict] = {
        'conformal': {'alpha': alpha}, 'accuracy': {},
        **{name: {'images': inputs.most} for name in ('corruptions', 'shifts', 'attacks')},
        'map': {'has_umap': importlib.util.find_spec('umap') is not None}}
    if inputs.multi_label and (kept or label_sets):
        raise ConfigError(f'--{"kept" if kept else "label_sets"}: is for images with one label '
                          'each')
    if kept:
        if len(set(inputs.class_numbers(kept, '--kept'))) < 2:
            raise ConfigError(f'--kept={",".join(kept)}: takes two classes or more')
        options['accuracy']['kept'] = list(kept)
    if label_sets:
        if not os.path.isfile(label_sets):
            raise ConfigError(f'--label_sets={label_sets}: no such file')
        label_sets_lib.read(label_sets, inputs.names_of(inputs.split))
        with open(label_sets, 'rb') as file:
            content = hashlib.file_digest(file, 'sha256').hexdigest()
        options['accuracy'] |= {'label_sets': label_sets, 'content': content}
    if layer:
        forward.check_layer(inputs.model.setup, layer)
        options['filters'] = {'layer': layer}
    if inputs.other is not None:
        options['comparison'] = {'other': compare}
    return options


def _known(comparing: bool, sets: Sequence[str]) -> list[str]:
    """Returns the parts that a card may have."""
    asked = {'comparison': comparing, 'prepared_sets': bool(sets)}
    return [name for name in parts.NAMES if asked.get(name, True)]


def check_flags(*, comparing: bool, only: str = '', images: int = 1, alpha: float = 0.1,
                kept: Sequence[str] = (), label_sets: str = '', layer: str = '',
                strangers: str = '', sets: Sequence[str] = (), **others) -> list[str]:
    """Returns the parts to measure, after a check of the flags that takes no data.

    Raises:
      ConfigError: a flag is wrong, or only a part reads it that is not measured.
    """
    if images < 1:
        raise ConfigError(f'--images: takes at least 1, got {images}')
    if not 0 < alpha < 1:
        raise ConfigError(f'--alpha: takes a number between 0 and 1, got {alpha:g}')
    names = engine.check_names(only, _known(comparing, sets))
    for flag, value, *readers in (
            ('kept', kept, 'accuracy'), ('label_sets', label_sets, 'accuracy'),
            ('layer', layer, 'filters'), ('compare', comparing, *parts.COMPARING),
            ('strangers', strangers, 'ood'), ('sets', sets, 'prepared_sets')):
        if value and not set(readers) & set(names):
            raise ConfigError(f'--{flag}: is read by {" and ".join(readers)}, which --only={only} '
                              'leaves out')
    if strangers:
        stranger_set.files_of(strangers)
    other_sets.check(sets)
    return names


def _other(mine: Model, compare: str, split: str, changes: dict | None) -> Model:
    """Opens the model to compare with, on the same images.

    Raises:
      ConfigError: it is no run directory.
      DataError: it has other classes, or is evaluated on other images.
    """
    try:
        other = model.of_run(compare, split=split, changes=changes)
    except (ConfigError, DataError) as error:
        raise type(error)(f'--compare: {str(error).removeprefix("--workdir=")}') from None
    if sorted(mine.setup.dataset.class_names) != sorted(other.setup.dataset.class_names):
        raise DataError(f'--compare={compare}: has other classes than this run; compare models of '
                        'the same classes')
    if (len(mine.eval_source.examples) != len(other.eval_source.examples)
            or mine.eval_source.fingerprint != other.eval_source.fingerprint):
        raise DataError(f'--compare={compare}: is evaluated on other images; name the same data '
                        'for both with --config.data.path')
    return other
