"""The commands, each as `python -m launch.NAME`."""

import os
import signal
import sys


def _end(signum, frame):
    os.write(2, b'imgjax: asked to stop; nothing had to be saved\n')
    os._exit(75)


if sys.argv[0] == '-m':  # a command is being imported; entry.main sets other handlers later
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
