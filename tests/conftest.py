"""Fixtures live in plugin files by subject."""

pytest_plugins = ["tests.databases", "tests.datasets", "tests.faults.figures"]
