"""Fixtures live in plugin files by subject."""

import gc
import os
import signal
import sys
from collections.abc import Generator

import pytest
from hypothesis import settings

# Many containers set this, to stay small. Then each process that a test starts would compile the
# package again, and each of pytest's workers all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest_plugins = [
    "tests.support.databases",
    "tests.support.datasets",
    "tests.support.figures",
    "tests.support.labelers",
    "tests.support.serial_samples",
]

# A shell has what it starts in the background ignore Ctrl-C, and all that it starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine must not decide a test.
settings.register_profile("registry", deadline=None)
settings.load_profile("registry")

# Modules stay. To search all of TensorFlow for garbage, again and again, takes seconds.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """Start half as many workers again as there are cores: many tests wait for a process."""
    workers = yield
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return workers
    return workers + (workers + 1) // 2
