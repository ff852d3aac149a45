"""The command line: ``registry``, or ``python -m registry``. A module for each command."""

# Each module registers its command when it is imported, and the help lists them in that order: a
# sorted import would change the help and the reference of the commands.
# isort: off
from registry.cli import init as init
from registry.cli import create as create
from registry.cli import alter as alter
from registry.cli import grants as grants
from registry.cli import describe as describe
from registry.cli import rename as rename
from registry.cli import drop as drop
from registry.cli import insert as insert
from registry.cli import export as export
from registry.cli import drain as drain
from registry.cli import inbox as inbox
from registry.cli import erase as erase
from registry.cli import copy as copy
from registry.cli import token as token
from registry.cli import serve as serve
from registry.cli import webhook as webhook
from registry.cli import ls as ls
from registry.cli import show as show
from registry.cli import log as log
from registry.cli import run as run
from registry.cli import epoch as epoch
from registry.cli import tag as tag
from registry.cli import cache as cache
from registry.cli import verify as verify
from registry.cli import doctor as doctor
from registry.cli.demo import command as command
from registry.cli.base import app
# isort: on

__all__ = ["app"]
