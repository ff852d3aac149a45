"""The local copy of a log: each row leaves the database once per machine."""

from registry.mirror.index import Index, Indexes, in_memory
from registry.mirror.local_files import LocalFiles
from registry.mirror.mending import confirm
from registry.mirror.sync import Mirror
from registry.mirror.view import View

__all__ = ["Index", "Indexes", "LocalFiles", "Mirror", "View", "confirm", "in_memory"]
