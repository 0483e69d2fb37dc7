"""Opens a page in headless Chromium and says what it did: for the tests of HTML pages.

Speaks the DevTools protocol over two pipes, so it needs no package, no port and no driver.
`tests/report/conftest.py` makes a fixture of it.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time

import pytest

FLAGS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--disable-dev-shm-usage', '--hide-scrollbars', '--remote-debugging-pipe',
)


def find():
    """Returns Chromium's path; without one skips the test, or fails it where CI=true."""
    for name in ('chromium', 'chromium-browser', 'google-chrome'):
        if path := shutil.which(name):
            return path
    message = 'no Chromium (chromium, chromium-browser, google-chrome) on PATH'
    pytest.fail(message) if os.environ.get('CI') == 'true' else pytest.skip(message)


@contextlib.contextmanager
def browser(timeout=60):
    """Starts Chromium with an empty profile and yields `call(method, session=None, **params)`.

    `call` returns the reply's result and raises RuntimeError on an error or after `timeout`
    seconds; `call.events` collects the protocol's events, oldest first.
    """
    path = find()
    profile = tempfile.mkdtemp(prefix='chromium-')
    (commands, write), (read, answers) = _pipe(), _pipe()
    with open(os.path.join(profile, 'log'), 'wb') as log:
        process = os.posix_spawn(
            path, [path, *FLAGS, f'--user-data-dir={profile}', 'about:blank'], os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, commands, 3), (os.POSIX_SPAWN_DUP2, answers, 4),
                          (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                          (os.POSIX_SPAWN_DUP2, log.fileno(), 2)],
            setsid=True)
    os.close(commands)
    os.close(answers)
    try:
        yield _caller(write, read, timeout, os.path.join(profile, 'log'))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # its renderers too: they are of its session
        os.waitpid(process, 0)
        os.close(write)
        os.close(read)
        shutil.rmtree(profile, ignore_errors=True)


@contextlib.contextmanager
def opened(call, path, *, dark=False, width=1200, height=900):
    """Opens a local file in a tab of its own and yields `page(method, **params)` once loaded.

    `page.evaluate(js)` returns the value of an expression, `page.screenshot(path)` writes a PNG of
    the whole page, `page.requests()` lists the URLs asked for besides data: ones, and
    `page.problems()` console errors, uncaught exceptions and violations of the page's policy.
    """
    target = call('Target.createTarget', url='about:blank')['targetId']
    session = call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']

    def page(method, **params):
        return call(method, session, **params)

    def happened(method):
        return [event['params'] for event in call.events
                if event.get('sessionId') == session and event['method'] == method]

    page.evaluate = lambda js: _result(page(
        'Runtime.evaluate', expression=js, returnByValue=True, awaitPromise=True))
    page.screenshot = lambda png: _screenshot(page, png)
    page.requests = lambda: [
        url for event in happened('Network.requestWillBeSent')
        if not (url := event['request']['url']).startswith('data:')]
    page.problems = lambda: (
        [event['exceptionDetails'] for event in happened('Runtime.exceptionThrown')]
        + [event['args'] for event in happened('Runtime.consoleAPICalled')
           if event['type'] in ('error', 'warning', 'assert')]
        + [event['entry'] for event in happened('Log.entryAdded')])
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
        page(f'{domain}.enable')
    page('Emulation.setEmulatedMedia', features=[
        {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])
    page('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1,
         mobile=False)
    page('Page.navigate', url=path.resolve().as_uri())
    deadline = time.monotonic() + 30
    while not happened('Page.loadEventFired'):
        page('Runtime.evaluate', expression='0')  # every call reads the events before its answer
        if time.monotonic() > deadline:
            raise RuntimeError(f'{path} did not load in 30 s')
        time.sleep(0.02)
    try:
        yield page
    finally:
        call('Target.closeTarget', targetId=target)


def _pipe():
    # Chromium reads commands from descriptor 3 and answers on 4: ours must be other ones.
    low = os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)  # a second writer left open would hide that Chromium died
    return ends


def _caller(write, read, timeout, log):
    numbers = iter(range(1, 1 << 30))
    buffer = bytearray()

    def receive(deadline):
        while b'\0' not in buffer:
            ready = select.select([read], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = os.read(read, 1 << 20) if ready else b''
            if not data:
                with open(log, errors='replace') as file:
                    tail = file.read()[-2000:]
                raise RuntimeError(f'Chromium {"closed" if ready else "is silent"}:\n{tail}')
            buffer.extend(data)
        message, _, rest = bytes(buffer).partition(b'\0')
        buffer[:] = rest
        return json.loads(message)

    def call(method, session=None, **params):
        number = next(numbers)
        message = {'id': number, 'method': method, 'params': params}
        if session:
            message['sessionId'] = session
        os.write(write, json.dumps(message).encode() + b'\0')
        deadline = time.monotonic() + timeout
        while (reply := receive(deadline)).get('id') != number:
            call.events.append(reply)
        if 'error' in reply:
            raise RuntimeError(f'{method}: {reply["error"]}')
        return reply['result']

    call.events = []
    return call


def _result(reply):
    if 'exceptionDetails' in reply:
        raise RuntimeError(f'evaluate: {reply["exceptionDetails"]}')
    return reply['result'].get('value')


def _screenshot(page, png):
    size = page('Page.getLayoutMetrics')['cssContentSize']
    clip = {'x': 0, 'y': 0, 'width': size['width'], 'height': size['height'], 'scale': 1}
    data = page('Page.captureScreenshot', captureBeyondViewport=True, clip=clip)['data']
    with open(png, 'wb') as file:
        file.write(base64.b64decode(data))
