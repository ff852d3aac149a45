"""``python -m registry``."""

from registry.cli.base import app

app(prog_name="registry")
