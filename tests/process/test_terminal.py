"""A log without a progress bar says within half a minute, and then each minute, what is done."""

import logging
import threading

from imgjax.process import terminal


def test_a_hidden_bar_counts_and_is_told_of():
    assert terminal.sentence(80) == 'at work for 1 min 20 s'
    with terminal.progress(1400, 100, 'image') as bar:
        bar.set_description('decoding')
        bar.update(900)
        assert terminal.sentence(5) == 'at work for 5 s: decoding: 1,000 of 1,400 (image)'
        with terminal.progress(3, 0, 'batch', scale=2) as inner:
            inner.update()
            assert terminal.sentence(5) == 'at work for 5 s: 1 of 6 (batch)'
        assert '1,000 of 1,400' in terminal.sentence(5)
    assert terminal.sentence(5) == 'at work for 5 s'


def test_silence_ends(monkeypatch):
    assert terminal.FIRST < 30 and terminal.LATER < 60
    monkeypatch.setattr(terminal, 'FIRST', 0.01)
    monkeypatch.setattr(terminal, 'LATER', 0.02)
    lines, enough = [], threading.Event()

    class Heard(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())
            if len(lines) >= 3:
                enough.set()

    log = logging.getLogger('a silent command')
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(Heard())
    terminal.report_regularly(log)
    assert enough.wait(60)
    log.setLevel(logging.ERROR)  # the thread stays; nobody hears it any more
    assert all(line.startswith('at work for ') for line in lines)
