"""The command line: ``registry``, or ``python -m registry``."""

# Typer lists commands in the order in which they are registered, so the imports are not sorted.
from registry.cli import setup as setup  # isort: skip
from registry.cli import roles as roles  # isort: skip
from registry.cli import files as files  # isort: skip
from registry.cli import inbox as inbox  # isort: skip
from registry.cli import erasing as erasing  # isort: skip
from registry.cli import copying as copying  # isort: skip
from registry.cli import serving as serving  # isort: skip
from registry.cli import reading as reading  # isort: skip
from registry.cli import health as health  # isort: skip
from registry.cli import trying as trying  # isort: skip
from registry.cli.base import app

__all__ = ["app"]
