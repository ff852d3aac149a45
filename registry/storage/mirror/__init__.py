"""The local copy of a log: each row is read from the database once per machine."""

from registry.storage.mirror.index import Index, Indexes, in_memory
from registry.storage.mirror.local_files import LocalFiles
from registry.storage.mirror.mirror import Mirror
from registry.storage.mirror.repair import confirm
from registry.storage.mirror.snapshot import View

__all__ = ["Index", "Indexes", "LocalFiles", "Mirror", "View", "confirm", "in_memory"]
