"""Request bodies: read up to a limit, decoded strictly, and parsed into changes of samples.

How memory is bounded: while a body is received, `_MemoryEstimate` computes from its characters what
the parsed values will take. `BodyReader` adds the estimates of all bodies in progress, and rejects
a body before it is parsed if the total is over the limit.

How work is bounded: items are parsed and checked one by one, and the first one that is wrong, or
one too many, ends the parsing. That is why the items are not validated by Pydantic, which needs all
of them parsed; their names and types are those of `SampleItem` all the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, get_args, get_origin

from starlette.requests import ClientDisconnect, Request

from registry.errors import InvalidSampleError
from registry.samples.json_codec import parse_items, parse_json
from registry.server.metrics import Metrics
from registry.server.problems import Problem
from registry.server.schemas import JSON, NDJSON, SampleItem
from registry.server.settings import ServerSettings
from registry.storage.log.changes import Change

_LINE_TYPES = (NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines")
_SPACE = re.compile(r"\s*")
_VALUE_BYTES = {b"[": 120, b"{": 240, b",": 40, b":": 40, b'"': 28}
"""Estimated bytes of memory for the Python value that begins or ends at each character."""
_ASCII, _UNICODE, _ASTRAL = 5, 7, 10
"""Estimated bytes of memory for each byte of a body: its text, the strings parsed from it, and
their encoded form. A Python string takes 1, 2 or 4 bytes per character, by its widest one
(PEP 393)."""
_FOUR_BYTES = re.compile(rb"[\xf0-\xff]")
_ITEM_TYPES = {
    name: tuple(get_origin(kind) or kind for kind in get_args(field.annotation))
    for name, field in SampleItem.model_fields.items()
}
"""The types that each member of an item may have, for `isinstance`."""


class _MemoryEstimate:
    """Estimates the memory of a body and the Python values parsed from it, from above.

    Nested lists take 20 to 40 times as much memory as their JSON.
    """

    def __init__(self) -> None:
        self._size = 0
        self._values = 0
        self._width = _ASCII

    def add(self, part: bytes) -> None:
        self._size += len(part)
        self._values += sum(size * part.count(mark) for mark, size in _VALUE_BYTES.items())
        if self._width < _ASTRAL and not part.isascii():
            self._width = _ASTRAL if _FOUR_BYTES.search(part) else _UNICODE

    @property
    def estimate(self) -> int:
        return self._size * self._width + self._values


class BodyReader:
    """Reads bodies within limits on each body and on the memory of all; for one event loop."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._reserved = 0
        self._gauge = metrics.body_memory

    @asynccontextmanager
    async def read(self, request: Request, most: int | None = None) -> AsyncIterator[bytes]:
        """Read a request's body; raises `Problem` if it is too large, too slow or compressed.

        ``most`` is a lower limit on its bytes than that of the settings. Its estimated memory
        counts as used until the block ends, so parse it within the block.
        """
        size = reserved = 0
        memory = _MemoryEstimate()
        parts: list[bytes] = []
        most = min(most or self._settings.body_bytes, self._settings.body_bytes)
        self._check_head(request, most)
        try:
            async for part in self._stream(request):
                size += len(part)
                _check_size(size, most)
                memory.add(part)
                self._reserve(memory.estimate - reserved)
                reserved = memory.estimate
                self._check_memory(reserved)
                parts.append(part)
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()  # otherwise the body would be in memory twice during the block
            yield body
        finally:
            self._reserve(-reserved)

    def _reserve(self, size: int) -> None:
        self._reserved += size
        self._gauge.set(self._reserved)

    @staticmethod
    def _check_head(request: Request, most: int) -> None:
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            # A compressed body of a few KiB can expand to gigabytes.
            raise Problem(415, f"bodies of content encoding {encoding!r:.40} are not read")
        length = request.headers.get("content-length", "")
        if length.isdecimal():
            # int() raises ValueError for more than 4300 digits; 20 are over any limit.
            _check_size(int(length[:20]), most)

    def _check_memory(self, reserved: int) -> None:
        limit = self._settings.body_memory
        # Not 503: a body that needs more than the limit would never be read, however often it is
        # sent again.
        if reserved > limit:
            raise Problem(
                413,
                f"reading this body would take more than {limit >> 20:,} MiB of memory; send the "
                "samples in several, or arrays as base64",
            )
        if self._reserved > limit:
            raise Problem(503, "too much is being sent at the moment; send it again")

    async def _stream(self, request: Request) -> AsyncIterator[bytes]:
        stream = request.stream()
        while True:
            try:
                async with asyncio.timeout(self._settings.idle_timeout):
                    part = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Problem(
                    408,
                    f"no data arrived for {self._settings.idle_timeout:g} seconds; send it again",
                ) from None
            except ClientDisconnect:
                raise Problem(400, "the connection was closed within the body") from None
            if part:
                yield part


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise Problem(413, f"a body may have {most:,} bytes; send the samples in several")


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_changes(content_type: str, body: bytes, limit: int) -> list[Change]:
    """Parse the changes of a JSON or NDJSON body, which may have up to ``limit``.

    Stops at the first error. Raises `Problem` for text that cannot be parsed and for too many rows,
    and `InvalidSampleError` with the row, counted from 0, for an item that is not a change.
    """
    if content_type in _LINE_TYPES:
        items = _parse_lines(body)
    elif content_type == JSON:
        items = _parse_items(body)
    else:
        raise Problem(415, f"send {JSON} or {NDJSON}, not {content_type!r:.60}")
    changes: list[Change] = []
    for row, item in enumerate(items):
        # The items come from a generator: one row too many ends the parsing here.
        if row == limit:
            raise Problem(413, f"a body may have {limit:,} samples; send the rest in others")
        changes.append(_change(row, item))
    if not changes:
        raise InvalidSampleError("the batch is empty; send at least one sample")
    return changes


def parse_document(body: bytes) -> Any:
    """Parse a body of one JSON document; raises `Problem`."""
    try:
        return parse_json(_decode(body))
    except ValueError as error:
        raise Problem(400, str(error)) from None


def _parse_items(body: bytes) -> Iterator[Any]:
    try:
        yield from parse_items(_decode(body))
    except ValueError as error:
        raise Problem(400, str(error)) from None


def _parse_lines(body: bytes) -> Iterator[Any]:
    # Not str.splitlines(), which also splits at U+2028 and other characters that JSON strings may
    # contain. A line feed cannot occur within a JSON string.
    text = _decode(body)
    row = start = 0
    while (first := _after_space(text, start)) < len(text):
        start = max(start, text.rfind("\n", start, first) + 1)
        end = text.find("\n", first)
        line = text[start:] if end < 0 else text[start:end]
        try:
            yield parse_json(line)
        except ValueError as error:
            # Counted only now: counting each line would double the work of a body of empty lines.
            number = text.count("\n", 0, start) + 1
            raise Problem(400, f"line {number}: {error}", row=row, line=number) from None
        row += 1
        start += len(line)


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8 at byte {error.start}") from None


def _change(row: int, item: Any) -> Change:
    """Check one item; its values are checked later, by the features of the dataset."""
    if not isinstance(item, dict):
        raise InvalidSampleError(
            f"a sample is an object with 'key' and 'fields', not {type(item).__name__}", row=row
        )
    key = item.get("key")
    text_key = key if isinstance(key, str) else None
    for name, value in item.items():
        if name not in _ITEM_TYPES:
            names = ", ".join(_ITEM_TYPES)
            raise InvalidSampleError(
                f"unknown name {name!r:.60}; an item has {names}", row=row, key=text_key
            )
        if not isinstance(value, _ITEM_TYPES[name]):
            raise InvalidSampleError(
                f"{name!r} cannot be {type(value).__name__}", row=row, key=text_key, feature=name
            )
    return Change(
        key,
        item.get("fields"),
        item.get("action") or "insert",
        item.get("source"),
        item.get("group"),
    )
