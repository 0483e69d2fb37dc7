"""The drills take a seed each: one in CI, ever new ones in a soak, until its time is up."""

import collections
import time

import pytest

_done = collections.defaultdict(lambda: {'passed': 0, 'failed': [], 'skipped': 0, 'seconds': 0.0})


def pytest_addoption(parser):
    parser.addoption('--seed', type=int, default=0, help='the first seed of every drill')
    parser.addoption('--minutes', type=float, default=0.0, help='go on with new seeds for so long')


def pytest_generate_tests(metafunc):
    if 'seed' in metafunc.fixturenames:
        first = metafunc.config.getoption('--seed')
        rounds = 500 if metafunc.config.getoption('--minutes') else 1
        metafunc.parametrize('seed', range(first, first + rounds))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption('--minutes'):  # one round after the other; drills without a seed only once
        items.sort(key=lambda item: getattr(item, 'callspec', None) is not None
                   and item.callspec.params.get('seed', -1))
        config.stash[_ENDS] = time.monotonic() + 60 * config.getoption('--minutes')


_ENDS = pytest.StashKey[float]()
_TIME_IS_UP = 'the time is up'


def pytest_runtest_logreport(report):
    entry = _done[report.nodeid.partition('[')[0].partition('::')[2]]
    entry['seconds'] += report.duration
    if report.failed:
        entry['failed'].append(report.nodeid.partition('::')[2])
    elif report.when == 'call' and report.passed:
        entry['passed'] += 1
    elif report.skipped:
        entry['skipped'] += 1


def pytest_runtest_teardown(item, nextitem):
    if time.monotonic() > item.config.stash.get(_ENDS, float('inf')):
        item.session.shouldstop = _TIME_IS_UP


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if session.shouldstop == _TIME_IS_UP:  # the end of a soak, which pytest takes for Ctrl-C
        session.exitstatus = pytest.ExitCode(bool(session.testsfailed))


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption('--minutes'):
        return
    terminalreporter.section(f'soak of {config.getoption("--minutes"):g} minutes, seed '
                             f'{config.getoption("--seed")}')
    terminalreporter.line(f'{"drill":64} passed failed skipped seconds')
    for name, entry in _done.items():
        terminalreporter.line(f'{name[:64]:64} {entry["passed"]:6} {len(entry["failed"]):6} '
                              f'{entry["skipped"]:7} {entry["seconds"]:7.0f}')
        for failed in entry['failed']:
            terminalreporter.line(f'    {failed}')
