"""Append pages of a log to the files of a mirror.

Pages are written to the end of every file, and then the state that counts them is published. After
a crash in between, the bytes past the state's sizes are a torn tail, which the next append
overwrites.

Many pages are written together: a kernel that keeps files in large folios then keeps most of them
in parts of 2 MiB, each of which one entry of a page table maps. On 5 GB, samples at random take a
third less time so, and mapping a file takes a hundredth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path
from zlib import crc32

import numpy as np

from registry.storage.log.page import Page
from registry.storage.mirror.layout import ANCHOR, change_entries, file_path, sealed_records
from registry.storage.mirror.state import MirrorState, publish_state
from registry.storage.mirror.value_units import UNIT

WRITTEN_BYTES = 16 << 20
"""Bytes of pages from which on they are written."""


class Appender:
    """Append pages after the rows that a state counts; `open_appender` opens the files.

    ``state`` counts all pages that were appended. Not thread-safe.
    """

    def __init__(self, folder: Path, state: MirrorState, files: Mapping[str, FileIO]) -> None:
        self.state: MirrorState = state
        self._folder = folder
        self._files = files
        self._unwritten: dict[str, list[memoryview]] = {name: [] for name in files}
        self._bytes = 0

    def append(self, page: Page, chain: bytes) -> None:
        """Append a page; ``chain`` (16 bytes) is the log's after it.

        The page is in the layout of the generation. It may be written later: see `write`.
        """
        assert page.start == self.state.position
        columns = sealed_records(page, self.state.sizes["values"] // UNIT)
        columns["buckets"] = page.buckets.astype("<u2")
        columns["changes"] = change_entries(page)
        name = "records" if page.codec.fixed_width else "values"
        end = self.state.sizes[name] + columns[name].nbytes
        # One anchor per page: `View.intact` checks the buckets from one anchor to the next.
        columns["anchors"] = np.array(
            [(page.stop, end, chain, crc32(columns["buckets"].data))], ANCHOR
        )
        sizes, sums = dict(self.state.sizes), dict(self.state.sums)
        for name, column in columns.items():
            # Flat and as bytes: `write_all` slices by what was written, which is counted in bytes.
            data = column.reshape(-1).view(np.uint8).data
            self._unwritten[name].append(data)
            self._bytes += len(data)
            sizes[name] += len(data)
            if name in sums:
                sums[name] = crc32(data, sums[name])
        self.state = replace(
            self.state, position=page.stop, chain=chain.hex(), sizes=sizes, sums=sums
        )
        if self._bytes >= WRITTEN_BYTES:
            self.write()

    def write(self) -> None:
        """Write the pages that are not written yet, and publish the state."""
        if not self._bytes:
            return
        # First of all: after a failure, what was written in part must not be written once more.
        self._bytes = 0
        for name, parts in self._unwritten.items():
            write_all(self._files[name], memoryview(b"".join(parts)))
            parts.clear()
        # After the rows: a state published first would count bytes that a crash leaves unwritten.
        publish_state(self._folder, self.state)


@contextmanager
def open_appender(folder: Path, state: MirrorState) -> Iterator[Appender]:
    """Yield an appender to the files of a generation, which are created where they are missing.

    At the end of the block, also by an error, what was appended is written. The caller holds the
    mirror's lock for as long as the block runs.
    """
    with ExitStack() as opened:
        files = {}
        for name, size in state.sizes.items():
            path = file_path(folder, state.generation, name)
            # Not "ab": with O_APPEND, every write would go behind the torn tail.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            files[name] = opened.enter_context(FileIO(descriptor, "r+b"))
            # A torn tail is overwritten, not truncated: another process may have mapped it, and
            # would be killed by SIGBUS when it reads past the new end of the file.
            files[name].seek(size)
        appender = Appender(folder, state, files)
        try:
            yield appender
        finally:
            appender.write()


def write_all(file: FileIO, data: memoryview) -> None:
    """Write all of the data to an unbuffered file, whose ``write`` may write only a part."""
    while len(data):
        data = data[file.write(data) :]
