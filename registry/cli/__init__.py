"""The command line: ``registry``, or ``python -m registry``. A module for each command."""

from registry.cli.base import app

__all__ = ["app"]
