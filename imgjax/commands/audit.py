"""Audits a dataset: wrong labels, duplicates, leaks between splits, and odd images."""

import csv
import io
import json
import logging
import os
from collections.abc import Iterator

import numpy as np

from imgjax import build, data, train
from imgjax import config as config_lib
from imgjax.card import engine, forward, store
from imgjax.card.forward import Answers
from imgjax.card.inputs import Inputs, chosen
from imgjax.card.model import Model
from imgjax.card.parts import counted
from imgjax.commands import evaluation_data, run_directory
from imgjax.config import Config
from imgjax.data import relabel
from imgjax.errors import ConfigError
from imgjax.evals import answers as answers_lib
from imgjax.rundir import files, outputs, result
from imgjax.samplers import fold
from imgjax.study import cells as cells_lib
from imgjax.study import code, plan
from imgjax.study import engine as study_engine

log = logging.getLogger('imgjax')

PARTS = ('label_errors', 'duplicates', 'odd_images')
CORRECTIONS, LISTING = 'relabel.csv', 'listing.csv'
BROKEN = 'cannot be decoded'
_COMMAND = 'launch.audit'


def run(config, workdir: str, folds: int = 5, only: str = '', images: int = 50_000) -> dict:
    """Audits the training split of a config, and its evaluation split where one is read.

    Labels are judged by models that have not seen the image: the training split is divided into
    folds, and the config is trained once per fold on all others. Without the part `label_errors`
    nothing is trained. The same call goes on where it was stopped.

    Args:
      config: what a get_config returned, or plain data; its sampler is replaced.
      workdir: the folder of the audit: audit.html, audit.json, relabel.csv, the runs of the folds,
        and listing.csv where the images are files.
      folds: the number of folds.
      only: parts of the audit, of PARTS, separated by ','; '' takes all.
      images: how many images of a split are compared by their pixels, at most.

    Returns the paths, the counts of what was found, and `left_out`.

    Raises:
      ConfigError: a flag or a field is wrong.
      DataError: the dataset cannot be used, or a fold has diverged.
    """
    workdir = outputs.path('workdir', workdir)
    outputs.check_folder('workdir', workdir, _COMMAND, (CORRECTIONS, LISTING))
    names = engine.check_names(only, PARTS)
    config = config_lib.checked(config)
    if folds < 2:
        raise ConfigError(f'--folds: takes at least 2, got {folds}')
    if config.data.relabel:
        raise ConfigError('config.data.relabel: the numbers of the images are those of the data '
                          'without it; audit the data as they are')
    build.check(config)
    sources = build.open_dataset(config)
    data.check_labels_are_cheap(sources[0], 'data.name')
    fold.folds_of(sources[0].labels(), folds)
    described, dataset = build.describe(config, *sources)
    engine.open_folder(workdir, _COMMAND)
    model = Model(config.name, build.setup(described, dataset), None, '', None, sources[1],
                  config.data.eval_split, sources[0], config.data.train_split, {}, True)
    inputs = Inputs(model, workdir, config.hparams.seed, images, {})
    can_train = not any(inputs.faults_of(inputs.split))  # an evaluation takes all its images
    if can_train and ('label_errors' in names or _has_folds(workdir)):
        inputs = Inputs(*_train_folds(config, folds, inputs))
    about = {'data': config.data.path or config.data.name, 'folds': folds,
             config.data.train_split: len(sources[0].examples),
             config.data.eval_split: len(sources[1].examples),
             'workdir': os.path.abspath(workdir)}
    found = engine.run(inputs, names, PARTS, f'Audit of {about["data"]}', _COMMAND, about)
    if missing := [name for name in PARTS if name not in found['parts']]:
        log.info('%s and %s are written when all parts are measured; %s not yet', CORRECTIONS,
                 LISTING, ' and '.join(missing) + (' are' if len(missing) > 1 else ' is'))
        return found
    return found | _write_tables(inputs, workdir)


def _has_folds(workdir: str) -> bool:
    """Returns whether the folds were trained here before, so that their models answer again."""
    return os.path.isfile(os.path.join(workdir, store.FOLDER, 'folds.safetensors'))


def apply(config, workdir: str, corrections: str) -> dict:
    """Trains a config with the corrections of a file; returns the result of the run.

    Args:
      config: as `run` takes it.
      workdir: the folder of the audit; the run directory is `corrected` in it.
      corrections: a file as `run` writes it, see data/relabel.py.
    """
    config = config_lib.checked(config)
    workdir = outputs.path('workdir', workdir)
    outputs.check_folder('workdir', workdir, _COMMAND)
    if config.data.relabel:
        raise ConfigError('config.data.relabel: --apply sets it; leave it out')
    engine.open_folder(workdir, _COMMAND)
    return train.run(config | {'data': config.data | {'relabel': corrections}},
                     os.path.join(workdir, 'corrected'))


def _train_folds(config: Config, folds: int, inputs: Inputs) -> tuple:
    """Trains the folds; returns the arguments of Inputs with the answers of their models.

    Training images that cannot be decoded have weight 0 in it, and logits of NaN in the answers.
    """
    train_source, eval_source = inputs.train_source, inputs.model.eval_source
    is_sound_N = ~np.array([bool(fault) for fault in inputs.faults_of(inputs.train_split)])
    study = plan.read({
        'base': config_lib.plain(config) | {'sampler': {'name': 'fold', 'options': {}}},
        'arms': {f'fold {k}': {'sampler.options.folds': folds, 'sampler.options.fold': k}
                 for k in range(folds)}, 'seeds': [config.hparams.seed]}, 'audit')
    if config.sampler.name != 'shuffle':
        log.warning('config.sampler.name: %s is replaced by the folds', config.sampler.name)
    with evaluation_data.quietly():  # the lines of each fold are those of the whole
        cells = cells_lib.cells_of(study, os.path.join(inputs.folder, 'cells'))
    study_engine.train_cells(study, cells, inputs.folder)
    setup = run_directory.open_run(cells[0].directory)
    first, _ = run_directory.restore(setup, cells[0].directory, None)
    fold_N = fold.folds_of(train_source.labels(), folds)
    key = store.key_of([result.read(cell.directory)['state_digest'] for cell in cells],
                       config.data, train_source.fingerprint, eval_source.fingerprint,
                       code.version(setup.config), code.version_of('imgjax.card.forward'))
    collect = forward.collector(setup)

    def ask() -> dict[str, np.ndarray]:
        """Asks each fold's model about its own fold, and all models about the other split."""
        logits_NK = np.full((len(fold_N), len(inputs.class_names)), np.nan, np.float32)
        mean_MK = np.zeros((len(eval_source.examples), len(inputs.class_names)))
        for k, cell in enumerate(cells):
            own_setup = run_directory.open_run(cell.directory)
            state, _ = run_directory.restore(own_setup, cell.directory, None)
            rows = np.flatnonzero((fold_N == k) & is_sound_N)
            title = f'fold {k + 1} of {folds}'
            own = collect(state, chosen(train_source, rows), title).logits_NK
            other = collect(state, eval_source, title).logits_NK
            forward.check_finite(own, title)
            logits_NK[rows] = own
            mean_MK += answers_lib.probabilities(other, inputs.multi_label) / folds
        mean_MK = np.clip(mean_MK, 1e-12, 1 - 1e-12)
        other_MK = np.log(mean_MK) - (np.log1p(-mean_MK) if inputs.multi_label else 0.0)
        return {'out_of_fold': logits_NK, 'evaluated': other_MK.astype(np.float32)}

    found = store.arrays(inputs.folder, 'folds', key, ask)
    out_of_sample = {
        inputs.train_split: Answers(found['out_of_fold'], train_source.labels(), {}),
        inputs.split: Answers(found['evaluated'], eval_source.labels(), {})}
    model = inputs.model._replace(setup=setup, state=first, state_digest=key)
    return model, inputs.folder, inputs.seed, inputs.most, out_of_sample


def _write_tables(inputs: Inputs, workdir: str) -> dict:
    """Writes relabel.csv and, where the images are files, listing.csv; returns what they hold."""
    with open(os.path.join(workdir, 'audit.json'), encoding='utf-8') as file:
        measured = json.load(file)['parts']
    once: dict[tuple, dict] = {}
    for row in sorted(_corrections(inputs, measured), key=lambda row: row['margin']):
        first = once.setdefault((row['split'], row['index']), row)
        if row is not first and row['suggested']:  # several labels of an image
            first['suggested'] += f'; {row["suggested"]}'
    if several := [name for name in inputs.class_names if '|' in name]:
        log.warning("no tables are written, as '|' separates labels in them, and the class %r has "
                    'it in its name', several[0])
        return {'images_to_look_at': len(once)}
    columns = ('file', *relabel.COLUMNS, 'suggested', 'margin', 'reason', 'dataset')
    path = _write_csv(workdir, CORRECTIONS, columns, list(once.values()))
    written = {'relabel': path, 'images_to_look_at': len(once)}
    if listed := _listed(inputs, once):
        written['listing'] = _write_csv(workdir, LISTING, ('file', 'label', 'split'), listed)
    log.info('%s: %s to look at. The column label is what --apply takes: rows of %s have '
             'none, so that the images are left out, and rows of %s have the given one; write '
             'another where it is wrong', path, counted(len(once), 'image'), inputs.train_split,
             inputs.split)
    return written


def _corrections(inputs: Inputs, measured: dict) -> Iterator[dict]:
    """Yields the rows of relabel.csv: what cannot be decoded, suspected labels, copies."""
    for split in (inputs.train_split, inputs.split):
        for index, fault in enumerate(inputs.faults_of(split)):
            if fault:
                yield _row(inputs, split, index, '', -2.0, BROKEN)
    splits = measured.get('label_errors', {}).get('splits', {})
    for split, found in splits.items():
        for suspect in found['suspects'][:0 if found['weak'] else found['suspected']]:
            suggested = suspect.get('text') or inputs.class_names[suspect['suggested']]
            yield _row(inputs, split, suspect['index'], suggested, suspect['margin'], 'label')
    for group in measured.get('duplicates', {}).get('every_group', ()):
        splits_of = {True: inputs.split, False: inputs.train_split}
        evaluated = {is_evaluated for is_evaluated, _ in group}
        labels = {tuple(np.atleast_1d(inputs.labels_of(splits_of[where])[index]).tolist())
                  for where, index in group}
        for is_evaluated, index in group:
            split = splits_of[is_evaluated]
            if len(labels) > 1:
                yield _row(inputs, split, index, '', 1.0, 'copies have different labels')
            elif len(evaluated) == 2 and not is_evaluated:
                yield _row(inputs, split, index, '', 2.0, f'also in {inputs.split}')


def _row(inputs: Inputs, split: str, index: int, suggested: str, margin: float,
         reason: str) -> dict:
    label = inputs.labels_of(split)[index]
    numbers = [int(label)] if label.ndim == 0 else np.flatnonzero(label).tolist()
    given, source = '|'.join(inputs.class_names[k] for k in numbers), inputs.source_of(split)
    [example] = data.read(source, [index])
    # An evaluation without the images that the models find hard would be another evaluation.
    stays = split == inputs.split and reason != BROKEN
    return {'file': str(example['name']), 'split': split, 'index': index, 'given': given,
            'label': given if stays else '', 'suggested': suggested, 'margin': round(margin, 4),
            'reason': reason, 'dataset': source.fingerprint}


def _listed(inputs: Inputs, without: dict) -> list[dict]:
    """Returns the rows of listing.csv, all images but those of relabel.csv; [] if not of files."""
    rows = []
    for split in (inputs.train_split, inputs.split):
        labels = inputs.labels_of(split)
        for index, name in enumerate(inputs.names_of(split)):
            if not os.path.isfile(name):
                return []
            if (split, index) not in without:
                numbers = [labels[index]] if labels.ndim == 1 else np.flatnonzero(labels[index])
                rows.append({'file': os.path.abspath(name), 'split': split,
                             'label': '|'.join(inputs.class_names[k] for k in numbers)})
    return rows


def _write_csv(workdir: str, name: str, columns: tuple, rows: list[dict]) -> str:
    """Writes a table and returns its path; one that a person has changed stays as it is."""
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    path, new = os.path.join(workdir, name), store.key_of(text.getvalue())
    known = store.result(workdir, name, 'written', lambda: {'content': new})['content']
    if os.path.lexists(path) and store.key_of(_read(path)) not in (known, new):
        log.warning('%s: was changed since it was written, and stays as it is; move it away to get '
                    'a new one', path)
        return os.path.abspath(path)
    with files.replacing(path, newline='') as file:
        file.write(text.getvalue())
    store.replace(workdir, name, 'written', {'content': new})
    return os.path.abspath(path)


def _read(path: str) -> str:
    with open(path, encoding='utf-8', errors='replace', newline='') as file:
        return file.read()
