"""Fixtures live in plugin files by subject."""

import signal

pytest_plugins = ["tests.support.databases", "tests.support.datasets", "tests.support.figures"]

# A shell has what it starts in the background ignore Ctrl-C, and all that it starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)
