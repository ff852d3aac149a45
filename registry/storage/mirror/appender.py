"""Appending pages to the files of a mirror."""

from __future__ import annotations

import os
from dataclasses import replace
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self
from zlib import crc32

import numpy as np

from registry.samples.codec import Codec
from registry.storage.log.page import Page
from registry.storage.mirror.layout import (
    ANCHOR,
    State,
    _changes,
    contents,
    path,
    publish,
)


class Appender:
    """Appends pages behind a state. Its owner holds the mirror's lock."""

    def __init__(self, folder: Path, state: State, codec: Codec) -> None:
        self.state = state
        self._folder = folder
        self._codec = codec
        self._files: dict[str, FileIO] = {}
        for name, size in state.sizes.items():
            place = path(folder, state.generation, name)
            file = FileIO(os.open(place, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
            self._files[name] = file
            # What lies beyond is written over, not cut off: another process may have mapped it.
            file.seek(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()

    def append(self, page: Page, chain: bytes) -> None:
        """Append a page after which the log has this chain, and publish."""
        assert page.start == self.state.position
        columns = contents(page, self._codec, self.state.sizes["records"])
        columns["buckets"] = page.buckets.astype("<u2")
        columns["changes"] = _changes(page)
        end = self.state.sizes["records"] + columns["records"].nbytes
        columns["anchors"] = np.array(
            [(page.stop, end, chain, crc32(columns["buckets"].data))], ANCHOR
        )
        sizes, sums = dict(self.state.sizes), dict(self.state.sums)
        for name, column in columns.items():
            data = column.reshape(-1).view(np.uint8).data
            write_all(self._files[name], data)
            sizes[name] += len(data)
            if name in sums:
                sums[name] = crc32(data, sums[name])
        self.state = replace(
            self.state, position=page.stop, chain=chain.hex(), sizes=sizes, sums=sums
        )
        publish(self._folder, self.state)


def write_all(file: FileIO, data: memoryview) -> None:
    """Write without a buffer in between, which the system may do in parts."""
    while len(data):
        data = data[file.write(data) :]
