"""Where an open dataset ends: at the present head of its log, or permanently at a version."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import SupportsIndex

from registry.catalog.rename import name_of
from registry.errors import VersionError
from registry.samples.schema import Schema
from registry.storage.database.transactions import read
from registry.storage.log.head import Head, read_head
from registry.storage.log.live_count import live_count
from registry.storage.log.reader import Log
from registry.storage.log.version import Version, complete


class Extent:
    """The rows of a log that an open dataset has: all of them, or those of its ``version``.

    ``name`` is the dataset's when it was opened. The number of ``live`` samples of a version is
    read when it is asked for, unless it is known.
    """

    def __init__(
        self, log: Log, name: str, version: Version | None = None, live: int | None = None
    ) -> None:
        self.version = version
        self._log = log
        self._name = name
        self._live = live

    @property
    def schema(self) -> Schema:
        """The schema that this process knows for the dataset, or that of the version."""
        if self.version is None or self.version.schema is None:
            return self._log.schemas.newest
        return self._log.schemas.numbered(self.version.schema)

    def head(self) -> Head:
        """Return the end; unless at a version, move the inbox's rows into the log first."""
        if self.version is None:
            return self._log.head()
        if self._live is None:
            self._live = self._live_at(self.version.watermark)
        chain = bytes.fromhex(self.version.chain)
        return Head(self.version.watermark, self._live, chain, schema=self.schema.number)

    def stored_head(self) -> Head:
        """Return the end; rows that wait in the inbox stay there, so that nothing is written."""
        if self.version is not None:
            return self.head()
        head, _ = read(self._log.engine, read_head, self._log.dataset_id)
        self._log.schemas.learn(head)
        return head

    def stored_end(self) -> int:
        """Return the position of the end, as `stored_head` does."""
        return self.version.watermark if self.version else self.stored_head().position

    def end(self) -> int:
        """Return the position of the end, as `head` does."""
        # Not of the head, which at a version also reads the number of live samples.
        return self.version.watermark if self.version else self._log.head().position

    def present_version(self) -> Version:
        """Return the version that the dataset is now, with its present name."""
        if self.version is not None:
            return self.version
        # One read: the position and the chain of two reads could be those of different commits.
        version = self._version_of(self.head())
        # Read too: nobody could open the version by a name that the dataset had before.
        return replace(version, name=name_of(self._log.engine, self._log.dataset_id))

    def frozen(self) -> Extent:
        """Return the extent of now, which never changes."""
        if self.version is not None:
            return self
        head = self.head()
        return Extent(self._log, self._name, self._version_of(head), head.live)

    def version_at(self, at: SupportsIndex | None) -> tuple[Version, int]:
        """Return the version at a position, or that of now, and its number of live samples."""
        if at is None:
            head = self.head()
            return self.version or self._version_of(head), head.live
        position, end = operator.index(at), self.end()
        if not 0 <= position <= end:
            name = str(self.version or self._name)
            raise VersionError(f"{name!r} has versions at 0 to {end}, not at {position}")
        return complete(self._log, self._name, position), self._live_at(position)

    def range(self, after: SupportsIndex, until: SupportsIndex | None) -> tuple[int, int]:
        """Return the range as integers; raises `VersionError` unless it is within the extent."""
        end = self.end()
        start, stop = operator.index(after), end if until is None else operator.index(until)
        if not 0 <= start <= stop <= end:
            raise VersionError(f"{self._name!r} has positions [0, {end}), not [{start}, {stop})")
        return start, stop

    def check_writable(self) -> None:
        """Raise `VersionError` at a version."""
        if self.version is not None:
            raise VersionError(f"{self.version} never changes; open {self._name!r} instead")

    def _version_of(self, head: Head) -> Version:
        return Version(self._name, head.position, head.chain.hex(), head.schema)

    def _live_at(self, position: int) -> int:
        return read(self._log.engine, live_count, self._log.dataset_id, position)
