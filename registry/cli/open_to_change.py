"""Opening a dataset for a command that changes it, or that says what it would change."""

from __future__ import annotations

from registry.catalog.dataset import Dataset
from registry.catalog.registry import Registry
from registry.errors import VersionError


def open_to_change(registry: Registry, name: str) -> Dataset:
    """Open a dataset; raises `VersionError` for a version, before anything is asked or read."""
    opened = registry.open(name)
    if "@" in name:
        raise VersionError(f"{opened.version} never changes; open {opened.name!r} instead")
    return opened
