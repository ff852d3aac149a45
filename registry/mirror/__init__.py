"""The local copy of a log: each row leaves the database once per machine."""

from registry.mirror.sync import Mirror
from registry.mirror.view import View

__all__ = ["Mirror", "View"]
