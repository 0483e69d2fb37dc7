"""The cells of a listing, and how its rows become splits."""

import json
import os
import unicodedata

import numpy as np
import pytest

from imgjax import build, data
from imgjax.config import Config
from imgjax.errors import ConfigError, DataError
from tests.data.test_splits import options_of


@pytest.fixture
def write(tmp_path):
    """Returns write(lines, ...) -> options of a listing of 0.png to 29.png."""
    for i in range(30):
        (tmp_path / f'{i}.png').write_bytes(bytes(1 + i))

    def written(lines, header='file,label', name='list.csv', encoding='utf-8', **more):
        (tmp_path / name).write_bytes('\n'.join([header, *lines]).encode(encoding))
        return options_of(tmp_path / name, 'listing', **more)

    return written


def rows(count, label=lambda i: 'ab'[i % 2], split=lambda i: ''):
    return [f'{i}.png,{label(i)}{split(i)}' for i in range(count)]


def opened(options) -> list[data.Source]:
    return [data.open_split(split, options) for split in ('train', options['eval_split'])]


@pytest.mark.parametrize('cells, classes, left_out', [
    (('cat', 'dog', ' cat', 'dog '), ('cat', 'dog'), {'blanks around labels': (2, 'line 4')}),
    (('cat|', 'dog'), ('cat', 'dog'), {'empty labels beside others': (2, 'line 2')}),
    (('cat|cat', 'dog'), ('cat', 'dog'), {'labels that stand twice in a row': (2, 'line 2')}),
    (('1', '01'), ('01', '1'), {})])
def test_blanks_and_empty_labels_are_cut_off(cells, classes, left_out, write):
    options = write(rows(4, lambda i: cells[i % len(cells)]), held_out=0)
    source = data.open_split('train', options)
    assert source.class_names == classes and source.left_out == left_out
    assert not source.multi_label


@pytest.mark.parametrize('header, change', [
    ('file, label', ', '), ('File,LABEL', ','), ('file;label', ';'), ('label\tfile', None),
    ('\ufefffile,label', ' , ')])
def test_columns_are_found_whatever_separates_them(header, change, write):
    lines = [f'{"ab"[i % 2]}\t{i}.png' if change is None else f'{i}.png{change}{"ab"[i % 2]}'
             for i in range(6)]
    source = data.open_split('train', write(lines, header, held_out=0))
    assert source.class_names == ('a', 'b') and source.labels().tolist() == [0, 1] * 3


def test_columns_and_fields_that_are_not_read_are_counted(write, tmp_path):
    lines = [f'{i}.png,{"ab"[i % 2]},train,7' for i in range(6)]
    source = data.open_split('train', write(lines, 'file,label,Set,width', held_out=0))
    assert source.left_out == {'columns that are not read': (2, "'set'")}
    (tmp_path / 'list.json').write_text(json.dumps(
        [{'File': f'{i}.png', 'label': 'ab'[i % 2], 'subset': 'x'} for i in range(6)]))
    options = options_of(tmp_path / 'list.json', 'listing', held_out=0)
    assert data.open_split('train', options).left_out == {
        'fields that are not read': (1, "'subset'")}


@pytest.mark.parametrize('header, words', [
    ('filename,label', "no column 'file', it has 'filename', 'label'; it takes file,label or"),
    ('file,class', "no column 'label', it has 'file', 'class'"),
    ('file,label,label', "the first line has the column 'label' twice")])
def test_the_columns_that_are_there_are_named(header, words, write):
    with pytest.raises(ConfigError, match=words):
        data.open_split('train', write(rows(4), header))


@pytest.mark.parametrize('word', ['Val', ' val', 'eval', 'validate', 'TEST', 'dev_set'])
@pytest.mark.parametrize('column', ['split', 'Split', ' SPLIT'])
def test_splits_are_known_in_any_spelling(word, column, write):
    lines = rows(30, split=lambda i: f',{("train", " Train")[i % 2] if i < 20 else word}')
    train, held_out = opened(write(lines, f'file,label,{column}'))
    assert (len(train.examples), len(held_out.examples)) == (20, 10)


def test_rows_that_no_split_reads_are_refused_or_counted(write):
    lines = rows(30, split=lambda i: f',{("train", "extra", "val")[i // 10]}')
    with pytest.raises(ConfigError, match="no split reads the 10 rows of 'extra' .*eval_split=ext"):
        data.open_split('train', write(lines[:20], 'file,label,split'))
    named = write(lines[:20], 'file,label,split', eval_split='extra', held_out=0)
    assert len(data.open_split('extra', named).examples) == 10
    train, _ = opened(write(lines, 'file,label,split'))
    assert train.left_out == {'rows of splits that this run does not read': (10, "'extra'")}


def test_rows_without_labels_are_no_split_to_evaluate(write):
    lines = rows(30, lambda i: 'ab'[i % 2] if i < 20 else '',
                 lambda i: f',{"train" if i < 20 else "test"}')
    options = write(lines, 'file,label,split')
    train, held_out = opened(options)
    assert (len(train.examples), len(held_out.examples)) == (18, 2)
    assert train.left_out == {'rows of splits that this run does not read': (10, "'test'")}
    with pytest.raises(DataError, match="rows of the split 'test' have no labels"):
        data.open_split('test', options)
    with pytest.raises(DataError, match=r'line 22 has no label \(10 rows have none\)'):
        data.open_split('train', write([line.replace('test', 'train') for line in lines],
                                       'file,label,split'))


@pytest.mark.parametrize('name', [str, './{}'.format])
def test_a_file_has_one_label(name, write):
    lines = rows(24) + [name(line) for line in rows(24, lambda i: 'ba'[i % 2])]
    with pytest.raises(DataError, match=r'24 files have two labels, first 0.png in line 2 \(a\) '
                       r'and (./)?0.png in line 26 \(b\), which are one file'):
        data.open_split('train', write(lines))


@pytest.mark.parametrize('name', [str, './{}'.format])
def test_a_file_is_in_one_split(name, write):
    lines = rows(20, split=lambda _: ',train') + [name(line) for line in rows(
        5, split=lambda _: ',val')]
    options = write(lines, 'file,label,split')
    with pytest.raises(DataError, match='5 rows of the split val name files that are trained on, '
                       'first 0.png in line 2 and line 22; keep each file in one split'):
        data.open_split('train', options)
    assert len(data.open_split('train', options | {'eval_split': 'train'}).examples) == 20


def test_repeated_rows_are_drawn_as_often_and_evaluated_once(write, caplog):
    train, held_out = opened(write([line for line in rows(16) for _ in range(3)]))
    names = [{source.examples[i]['name'] for i in range(len(source.examples))}
             for source in (train, held_out)]
    assert not names[0] & names[1] and (len(names[0]), len(names[1])) == (14, 2)
    assert (len(train.examples), len(held_out.examples)) == (42, 2)
    assert held_out.left_out['rows that repeat a file'][0] == 4
    assert '28 of its 42 rows repeat a file' in caplog.text


def test_a_class_that_is_evaluated_has_to_be_trained(write):
    lines = rows(30, lambda i: 'abc'[i % 3] if i < 20 else 'ab'[i % 2],
                 lambda i: f',{"train" if i < 20 else "val"}')
    train, val = opened(write(lines, 'file,label,split'))
    assert val.class_names == ('a', 'b', 'c')
    assert val.left_out == {'classes without images': (1, 'c')}
    swapped = [line.replace('train', 'x').replace('val', 'train').replace('x', 'val')
               for line in lines]
    with pytest.raises(DataError, match="val has images of 1 classes that are not trained, first "
                       "'c'; add training images"):
        build.open_dataset(Config({'data': write(swapped, 'file,label,split')}))


@pytest.mark.parametrize('listed, there', [
    ('caf\u00e9.png', 'cafe\u0301.png'), ('cafe\u0301.png', 'caf\u00e9.png'), (' a.png ', 'a.png'),
    ('in\\b.png', 'in/b.png'), ('c.JPG ', 'c.JPG ')])
def test_files_are_found_in_another_spelling(listed, there, write, tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / there).write_bytes(b'here')
    source = data.open_split('train', write([f'{listed},a', '1.png,b'], held_out=0))
    assert source.examples[0]['image'] == b'here'


def test_what_is_no_file_is_missing(write, tmp_path):
    (tmp_path / 'folder.png').mkdir()
    os.mkfifo(tmp_path / 'pipe.png')
    with pytest.raises(DataError, match="2 of 3 files are missing, first '.*/folder.png'"):
        data.open_split('train', write(['folder.png,a', 'pipe.png,b', '1.png,b']))


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'latin-1'])
def test_encodings(encoding, write, tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), 'é.png'.encode(
            'latin-1' if encoding == 'latin-1' else 'utf-8')), 'wb') as file:
        file.write(b'here')
    options = write(['é.png,thé', '1.png,b'], encoding=encoding, held_out=0)
    source = data.open_split('train', options)
    assert source.class_names == ('b', 'th?' if encoding == 'latin-1' else 'thé')
    assert source.examples[0]['image'] == b'here'
    source.examples[0]['name'].encode()


def test_one_label_in_two_spellings_is_refused(write):
    lines = [f'{i}.png,{unicodedata.normalize(("NFC", "NFD")[i % 2], "café")}' for i in range(6)]
    with pytest.raises(DataError, match='look the same; rename'):
        data.open_split('train', write(lines))


@pytest.mark.parametrize('line, words', [
    ('1.png,"b', 'a quotation mark of line 3 is not closed'),
    ('1.png,"b\nc"', r"line 3: 'b\\nc' goes over several lines; is a quotation mark missing"),
    ('"1.png,b\n2.png",b', r"line 3: '1.png,b\\n2.png' goes over several lines")])
def test_a_quotation_mark_swallows_no_rows(line, words, write):
    with pytest.raises(DataError, match=words):
        data.open_split('train', write(['0.png,a', line, '2.png,a', '3.png,b']))


def test_quoted_cells_of_several_lines_beside(write):
    lines = [f'{i}.png,{"ab"[i % 2]},"x, y\n\nz"' for i in range(4)]
    source = data.open_split('train', write(lines, 'file,label,"notes, more"', 'list.TSV',
                                            held_out=0))
    assert source.labels().tolist() == [0, 1, 0, 1]
    with pytest.raises(DataError, match='line 14 has 1 columns, and the first line has 3'):
        data.open_split('train', write([*lines, '5.png'], 'file,label,notes'))


def test_a_json_of_pandas_says_null_where_nothing_is(write):
    items = [{'file': f'{i}.png', 'label': 'ab'[i % 2] if i < 20 else None,
              'split': None if i < 20 else 'test'} for i in range(24)]
    train, held_out = opened(write([], json.dumps(items), 'list.json'))
    assert (len(train.examples), len(held_out.examples)) == (18, 2)
    assert train.left_out == {'rows of splits that this run does not read': (4, "'test'")}
    twice = '[{"file": "0.png", "label": "a", "Label": "b"}]'
    with pytest.raises(DataError, match="an item has the field 'label' twice"):
        data.open_split('train', write([], twice, 'list.json'))


def test_true_in_a_json_listing_is_no_label(write):
    items = [{'file': f'{i}.png', 'label': True} for i in range(3)]
    with pytest.raises(DataError, match='item 0 is not {"file": text, "label": text'):
        data.open_split('train', write([], json.dumps(items), 'list.json'))


def test_a_json_listing_follows_the_same_rules(write, tmp_path):
    items = [{'File': f'{i}.png', 'label': [' a', 'b ', ''][i % 2:],
              'Split': ' Val' if i < 3 else ''} for i in range(12)]
    options = write([], json.dumps(items), 'list.json')
    train, val = opened(options)
    assert train.class_names == ('a', 'b') and train.multi_label
    np.testing.assert_array_equal(val.labels(), [[1, 1], [0, 1], [1, 1]])
    assert train.left_out == {'blanks around labels': (18, 'item 0'),
                              'empty labels beside others': (12, 'item 0')}
