"""A study in words and tables: the sentence at its head, CSV, Markdown, LaTeX."""

import csv
import math
import re
import shutil
import subprocess

import pytest

from imgjax.report import study_tables, study_text
from imgjax.study import gather
from tests.report.studies import HOSTILE, sample
from tests.report.test_study_page import STUDIES


@pytest.mark.parametrize('options, words', [
    (dict(arms=6), ['arm 1 is better than arm 0 by', ' points (', 'Holm p', 'and 2 more']),
    (dict(arms=2, comparisons=[(0, 1)], seeds=2), ['No difference was shown with 2 seeds, in 1 ']),
    (dict(arms=2, seeds=1), ['No difference was shown with 1 seed: a single one tells nothing']),
    (dict(arms=6, states={(3, 2): 'diverged'}),
     ['Incomplete, so that no winner is named. arm 3: seed 2 diverged, the updates']),
    (dict(grid=([1, 2], [3, 4]), comparisons=[]),
     ['arm 3 has the best accuracy: ', 'picked among 4 arms', 'no comparison was planned']),
    (dict(arms=1, seeds=1), ['arm 0 has the best accuracy: ']),
    (dict(arms=6, states={(2, seed): 'stopped' for seed in range(8)}),
     ['arm 1 is better than arm 0 by', 'One of 5 was not tested, as arms were stopped.']),
    (dict(arms=3, states={(arm, seed): 'stopped' for arm in (1, 2) for seed in range(8)}),
     ['arm 0 has the best accuracy: ', ' 2 of 2 were not tested, as arms were stopped.']),
    (dict(arms=3, seeds=2, states={(2, seed): 'stopped' for seed in range(2)}),
     ['No difference was shown with 2 seeds, in 1 planned comparison.', 'One of 2 was not tested']),
    (dict(arms=6, metric='loss'), ['arm 1 is better than arm 0 by 0.03']),
])
def test_the_headline_answers_the_question(options, words):
    said = study_text.headline(sample(**options))
    for word in words:
        assert word in said, said
    assert '\n' not in said and 'nan' not in said


def test_the_lines_in_the_terminal_have_no_interval_of_one_seed():
    lines = gather.table(sample(arms=2, seeds=1)).splitlines()
    assert len(lines) == 2 and all('nan' not in line and ' to ' not in line for line in lines)
    assert re.search(r'arm 0  accuracy \d\d\.\d\d%, 1 of 1', lines[0])


def test_verdicts():
    incomplete = sample(arms=6, states={(1, 0): 'missing'})
    said = [study_text.verdict(one, incomplete) for one in incomplete.comparisons]
    assert said[0].startswith('incomplete: arm 1: seed 0 not run')
    assert said[-1] == 'no winner is named: the study is incomplete'
    full = sample(arms=6)
    assert study_text.verdict(full.comparisons[-1], full) == 'arm 5 is better'
    short = sample(arms=2, seeds=2)
    assert 'no difference shown; ' in study_text.verdict(short.comparisons[0], short)
    single = sample(arms=2, seeds=1)
    assert study_text.verdict(single.comparisons[0], single) == (
        'one seed tells nothing about others')


@pytest.mark.parametrize('value, text', [
    (0.5, 'p = 0.50'), (0.0123, 'p = 0.012'), (0.0001, 'p < 0.001'), (math.nan, '–')])
def test_p_values(value, text):
    assert study_text.p_text(value) == text


@pytest.mark.parametrize('name', STUDIES)
def test_tables_are_written_whole_and_read_back(tmp_path, name):
    findings = sample(**STUDIES[name])
    paths = study_tables.write_tables(str(tmp_path), findings)
    first = [open(path, 'rb').read() for path in paths]
    assert [open(path, 'rb').read() for path in study_tables.write_tables(
        str(tmp_path), findings)] == first
    with open(tmp_path / 'cells.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    cells = [cell for arm in findings.arms for cell in arm.cells]
    assert len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):
        assert row['arm'].removeprefix("'") == cell.arm and row['state'] == cell.state
        known = float(row[findings.metric]) if row[findings.metric] else math.nan
        assert known == cell.score or math.isnan(known) and math.isnan(cell.score)
        assert row['arm'][0] not in '=+-@'
    with open(tmp_path / 'comparisons.csv', encoding='utf-8', newline='') as file:
        for row, one in zip(csv.DictReader(file), findings.comparisons, strict=True):
            assert row['winner'].removeprefix("'") == one.winner
            if one.difference:
                assert float(row['difference']) == one.difference.mean
                assert float(row['images_test_se']) == one.examples.test_se
    for line in (tmp_path / 'study.md').read_text().split('\n\n'):
        if line.startswith('| '):
            counts = {len(re.findall(r'(?<!\\)\|', row)) for row in line.strip().split('\n')}
            assert len(counts) == 1, line


def test_latex_is_latex(tmp_path):
    """Every special character is escaped; it compiles, where there is a LaTeX."""
    text = study_tables.latex(sample(arms=len(HOSTILE), names=list(HOSTILE)))
    body = text.partition('\n')[2]
    assert r'a\textbar{}b \& 100\% of \$x\_1\$ \#\{\textasciitilde{}\textasciicircum{}' in body
    assert body.count('{') == body.count('}')
    if not shutil.which('pdflatex'):
        pytest.skip('no pdflatex: whether it compiles is not known')
    (tmp_path / 'a.tex').write_text('\\documentclass{article}\\usepackage{booktabs}'
                                    f'\\begin{{document}}{text}\\end{{document}}')
    done = subprocess.run(['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'a.tex'],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
