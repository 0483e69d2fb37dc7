"""The audit of a dataset: what was planted is found, and its tables are read as they are meant."""

import csv
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from configs import digits
from configs import folder as folder_config
from imgjax import data as data_lib
from imgjax import evaluate, train
from imgjax.card.forward import Answers
from imgjax.card.parts import label_errors
from imgjax.commands import audit, card
from imgjax.errors import ConfigError, DataError
from imgjax.evals import near_duplicates
from imgjax.evals.answers import probabilities
from imgjax.rundir import dataset_info

TRAIN, TEST = 480, 100
WRONG = 24  # training labels, 5 %
COPIES = {470: 3, 471: 8}  # training images, by the one of which they are copies
CONFLICT = {472: 12}  # and the copy has another label
LEAKS = {2: 20, 5: 31}  # test images, by the training image of which they are copies
FOLDS = 3


def config_of(name, path, **changes):
    config = digits.get_config()
    config.update(data=dict(name=name, path=str(path)), augment=(), steps=100, batch_size=64,
                  eval_batch_size=64, eval_every=0, log_every=60, checkpoint=dict(every=0),
                  schedule=dict(warmup_steps=10))
    config.hparams.learning_rate = 2e-3
    config.hparams.augment = {}
    config.update(changes)
    return config


def table(path) -> list[dict]:
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def content(folder) -> dict:
    return json.loads((pathlib.Path(folder) / 'audit.json').read_text())['parts']


def complaint(error) -> str:
    text = str(error.value)
    assert '\n' not in text and len(text) < 400
    return text


@pytest.fixture(scope='module', autouse=True)
def fast():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, 'RANDOM_PAIRS', 1_000)  # 12,000 take 8 s
        yield


@pytest.fixture(scope='module')
def planted(tmp_path_factory):
    """(path of a .npz, numbers of the training images whose labels are wrong)."""
    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)[:TRAIN + TEST]
    labels = found.target[:TRAIN + TEST].copy()
    for copy, original in {**COPIES, **CONFLICT}.items():
        images[copy], labels[copy] = images[original], labels[original]
    for test, original in LEAKS.items():
        images[TRAIN + test], labels[TRAIN + test] = images[original], labels[original]
    labels[list(CONFLICT)] = (labels[list(CONFLICT)] + 5) % 10
    rng = np.random.default_rng(0)
    taken = [*COPIES, *COPIES.values(), *CONFLICT, *CONFLICT.values(), *LEAKS.values()]
    wrong = rng.choice(np.setdiff1d(np.arange(TRAIN), taken), WRONG, replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, WRONG)) % 10
    path = tmp_path_factory.mktemp('planted') / 'digits.npz'
    np.savez(path, train_images=images[:TRAIN], train_labels=labels[:TRAIN],
             test_images=images[TRAIN:], test_labels=labels[TRAIN:])
    return path, {*wrong.tolist(), *CONFLICT}


@pytest.fixture(scope='module')
def audited(planted, tmp_path_factory):
    """(folder, result) of the audit."""
    folder = tmp_path_factory.mktemp('audit') / 'out'
    return folder, audit.run(config_of('arrays', planted[0]), str(folder), FOLDS)


def test_wrong_labels_are_found(audited, planted):
    folder, result = audited
    rows = [row for row in table(result['relabel'])
            if row['reason'] == 'label' and row['split'] == 'train']
    margins = [float(row['margin']) for row in rows]
    assert margins == sorted(margins)
    wrong = planted[1]
    assert len({int(row['index']) for row in rows[:len(wrong)]} & wrong) >= 0.8 * len(wrong)
    estimated = content(folder)['label_errors']['splits']['train']['estimated']
    assert 0.5 * len(wrong) <= estimated <= 2 * len(wrong)
    assert result['left_out'] == [] and result['train_labels_suspected'] >= len(rows)


def test_copies_conflicts_and_leaks_are_found(audited):
    folder, result = audited
    found = content(folder)['duplicates']
    assert found['exact_groups'] == len(COPIES) + len(CONFLICT) + len(LEAKS)
    assert found['exact_leaks'] == len(LEAKS) <= result['leaks']
    assert result['label_conflicts'] >= len(CONFLICT)
    by = {(row['split'], int(row['index'])): row for row in table(result['relabel'])}
    for copy, original in CONFLICT.items():
        for index in (copy, original):
            assert by['train', index]['reason'] in ('copies have different labels', 'label')
    for original in LEAKS.values():
        assert by['train', original]['reason'] in ('also in test', 'label')
    for (split, _), row in by.items():  # an evaluation without what is hard would be another one
        assert row['label'] == ('' if split == 'train' else row['given'])
    page = (folder / 'audit.html').read_text()
    assert 'In both splits' in page and 'Different labels' in page


def test_a_row_names_the_image_and_its_label(audited, planted):
    stored = np.load(planted[0])
    for row in table(audited[1]['relabel']):
        assert row['given'] == str(stored[f'{row["split"]}_labels'][int(row['index'])])
        assert row['suggested'] != row['given']


def test_the_same_call_does_nothing_again(audited, planted, monkeypatch):
    folder, result = audited
    before = {path: path.stat().st_mtime_ns for path in (folder / 'parts').iterdir()
              if not path.name.endswith('.csv.json')}
    text = (folder / 'relabel.csv').read_bytes()
    monkeypatch.setattr(evaluate, 'split', None)  # what every forward pass goes through
    monkeypatch.setattr(train, 'run_one', None)
    assert audit.run(config_of('arrays', planted[0]), str(folder), FOLDS) == result
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (folder / 'relabel.csv').read_bytes() == text


def test_a_file_that_a_person_has_filled_in_stays_and_is_applied(audited, planted):
    folder, result = audited
    rows = table(result['relabel'])
    for row in rows:  # wrong labels get what is suggested, other images are left out
        if row['split'] == 'train':
            row['label'] = row['suggested'] if row['reason'] == 'label' else ''
    path = folder / 'relabel.csv'
    before = path.read_bytes()
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    filled = path.read_bytes()
    audit.run(config_of('arrays', planted[0]), str(folder), FOLDS)
    assert path.read_bytes() == filled
    corrected = audit.apply(config_of('arrays', planted[0]), str(folder), str(path))
    described = dataset_info.read(corrected['workdir'])
    left_out = {split: sum(row['split'] == split and not row['label'] for row in rows)
                for split in ('train', 'test')}
    assert left_out['train'] >= len(LEAKS)
    assert described.train_examples == TRAIN - left_out['train']
    assert described.eval_examples == TEST and left_out['test'] == 0
    assert audit.apply(config_of('arrays', planted[0]), str(folder), str(path)) == corrected | {
        'seconds': pytest.approx(0, abs=60)}
    path.write_bytes(before)


def test_a_process_prints_one_line(planted, audited, tmp_path, launch):
    folder, result = audited
    config = tmp_path / 'audited.py'
    config.write_text('from tests.card import test_audit\n\n\ndef get_config(arg=""):\n'
                      f'    return test_audit.config_of("arrays", {str(planted[0])!r})\n')
    process = launch('audit', f'--config={config}', f'--workdir={folder}', f'--folds={FOLDS}')
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    assert json.loads(out) == json.loads(json.dumps(result))


def write_pictures(folder) -> pathlib.Path:
    """Writes small PNGs into train/CLASS and test/CLASS; one is in both splits."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 120), ('test', 40)):
        for number in range(count):
            label = number % 2
            pixels = rng.integers(0, 80, (8, 8, 3), np.uint8) + np.uint8(150 * label)
            path = folder / split / ('dark', 'light')[label] / f'{number:03d}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    shutil.copy(folder / 'train' / 'light' / '001.png', folder / 'test' / 'light' / 'copy.png')
    return folder


def config_of_pictures(folder):
    config = config_of('folder', folder, steps=40)
    config.data.update(channels=3, mean=(0.3,) * 3, std=(0.3,) * 3, image_size=8)
    return config


def test_a_listing_without_the_suspects_is_read(tmp_path):
    folder = write_pictures(tmp_path / 'in')
    config = config_of_pictures(folder)
    result = audit.run(config, str(tmp_path / 'out'), 2)
    suspects = {row['file'] for row in table(result['relabel'])}
    assert any(name.endswith('train/light/001.png') for name in suspects)
    rows = table(result['listing'])
    every = {str(path) for path in folder.rglob('*.png')}
    assert {row['file'] for row in rows} == every - suspects and suspects < every
    options = config.data.to_dict() | dict(name='listing', path=result['listing'],
                                           options={'root': str(folder)})
    for split in ('train', 'test'):
        source = data_lib.open_split(split, options)
        assert source.class_names == ('dark', 'light')
        classes = [pathlib.Path(row['file']).parent.name for row in rows if row['split'] == split]
        assert [source.class_names[k] for k in source.labels()] == classes


def test_an_unreadable_image_is_counted(tmp_path):
    folder = write_pictures(tmp_path / 'in')
    broken = folder / 'train' / 'dark' / '010.png'
    broken.write_bytes(broken.read_bytes()[:40])
    result = audit.run(config_of_pictures(folder), str(tmp_path / 'out'), 2,
                       only='label_errors,odd_images')
    assert result['left_out'] == []
    found = content(tmp_path / 'out')['odd_images']['splits']
    assert found['train']['unreadable_count'] == 1 and found['test']['unreadable_count'] == 0
    assert '010.png' in found['train']['unreadable'][0]['fault']
    assert '010.png' in (tmp_path / 'out' / 'audit.html').read_text()
    fold = next((tmp_path / 'out' / 'cells').iterdir())
    result = card.of_run(str(fold), output=str(tmp_path / 'card'), only='odd_images,probes')
    assert result['left_out'] == [] and result['train_odd_images'] >= 1


BAD = [
    (dict(only='label_eror'), ConfigError, "--only: no part 'label_eror'; did you mean 'label_err"),
    (dict(folds=1), ConfigError, '--folds: takes at least 2'),
    (dict(folds=TRAIN + 1), DataError, 'fewer than 481 folds'),
]


@pytest.mark.parametrize(('flags', 'error', 'message'), BAD, ids=lambda one: str(one)[:30])
def test_wrong_flags_are_one_line(flags, error, message, planted, tmp_path):
    with pytest.raises(error, match=message) as raised:
        audit.run(config_of('arrays', planted[0]), str(tmp_path / 'out'), **flags)
    complaint(raised)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('what', ['one class', 'a folder of others', 'a foreign relabel.csv'])
def test_what_is_refused(what, planted, tmp_path):
    path, folder = planted[0], tmp_path / 'out'
    if what == 'one class':
        path = tmp_path / 'one.npz'
        images = np.zeros((20, 8, 8), np.uint8)
        np.savez(path, train_images=images, train_labels=np.zeros(20, int), test_images=images[:4],
                 test_labels=np.zeros(4, int))
    else:
        folder.mkdir()
        (folder / ('relabel.csv' if 'csv' in what else 'notes.txt')).write_text('mine')
    with pytest.raises((ConfigError, DataError)) as raised:
        audit.run(config_of('arrays', path), str(folder), FOLDS)
    text = complaint(raised)
    if what == 'one class':
        assert 'class' in text and not (folder / 'cells').exists()
    else:
        assert '--workdir' in text and len(list(folder.iterdir())) == 1


def test_a_split_of_few_images_does_not_stop_the_others():
    labels_N = np.arange(60) % 3
    logits_NK = (6.0 * np.eye(3)[labels_N]).astype(np.float32)
    answers = {'train': Answers(logits_NK, labels_N.astype(np.int32), {}),
               'held_out': Answers(logits_NK[:4], labels_N[:4].astype(np.int32), {})}
    inputs = types.SimpleNamespace(
        out_of_sample=answers, class_names=['a', 'b', 'c'], seed=0, split='held_out',
        examines_training=False, model=types.SimpleNamespace(saw_training=True),
        probabilities_of=lambda one: probabilities(one.logits_NK, False))
    assert list(label_errors.measure(inputs)['splits']) == ['train']
    inputs.out_of_sample = {'held_out': answers['held_out']}
    with pytest.raises(DataError, match='no class has 5 images'):
        label_errors.measure(inputs)


def test_broken_images_are_found_among_those_that_are_not_compared_too(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (('train', 30), ('val', 10)):
        for name in ('cat', 'dog'):
            (tmp_path / 'set' / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(
                    tmp_path / 'set' / split / name / f'{i:02}.png')
        (tmp_path / 'set' / split / 'dog' / 'zz.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    config = folder_config.get_config('small')
    config.data.update(path=str(tmp_path / 'set'), eval_split='val')
    found = audit.run(config, str(tmp_path / 'audit'), folds=2, images=4)
    assert found['left_out'] == ['label_errors']  # nothing was trained in vain
    rows = [row for row in table(found['relabel']) if row['reason'] == audit.BROKEN]
    assert {(row['split'], pathlib.Path(row['file']).name, row['label']) for row in rows} == {
        ('train', 'zz.png', ''), ('val', 'zz.png', '')}
    assert not (tmp_path / 'audit' / 'cells').exists()
