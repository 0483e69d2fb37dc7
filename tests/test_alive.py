"""A log without a progress bar says within half a minute, and then each minute, what is done."""

import logging
import threading

from imgjax import alive, metrics


def test_a_hidden_bar_counts_and_is_told_of():
    assert alive.sentence(80) == 'at work for 1 min 20 s'
    with metrics.progress(1400, 100, 'image') as bar:
        bar.set_description('decoding')
        bar.update(900)
        assert alive.sentence(5) == 'at work for 5 s: decoding: 1,000 of 1,400 (image)'
        with metrics.progress(3, 0, 'batch', scale=2) as inner:
            inner.update()
            assert alive.sentence(5) == 'at work for 5 s: 1 of 6 (batch)'
        assert '1,000 of 1,400' in alive.sentence(5)
    assert alive.sentence(5) == 'at work for 5 s'


def test_silence_ends(monkeypatch):
    assert alive.FIRST < 30 and alive.LATER < 60
    monkeypatch.setattr(alive, 'FIRST', 0.01)
    monkeypatch.setattr(alive, 'LATER', 0.02)
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
    alive.speak(log)
    assert enough.wait(60)
    log.setLevel(logging.ERROR)  # the thread stays; nobody hears it any more
    assert all(line.startswith('at work for ') for line in lines)
