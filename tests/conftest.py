"""Fixtures live in plugin files by subject."""

import os
import signal
import sys

# Many containers set this, to stay small. Then each process that a test starts would compile the
# package again, and each of pytest's workers all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest_plugins = [
    "tests.support.databases",
    "tests.support.datasets",
    "tests.support.figures",
    "tests.support.serial_samples",
]

# A shell has what it starts in the background ignore Ctrl-C, and all that it starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)
