"""The command line: ``registry``, or ``python -m registry``. Help lists commands in this order."""

from registry.cli.base import app

__all__ = ["app"]
