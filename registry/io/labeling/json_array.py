"""The elements of a JSON array in a file of any length, one at a time.

A splitter scans the text for quotes, brackets and commas, and cuts it at the commas between the
array's elements. It does not parse: `parse_json` parses each element, and reports what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from registry.errors import ImportFileError
from registry.samples.features import LARGEST_RECORD
from registry.samples.json_codec import parse_json

_CHUNK = 1 << 20
"""Characters that are read together."""
_OUTSIDE = re.compile(r'["\[\]{},]')
_IN_TEXT = re.compile(r'["\\]')


class Element(NamedTuple):
    """An element: the line where it begins, from 1, its value, and its length in characters."""

    line: int
    value: Any
    size: int


def elements(path: Path) -> Iterator[Element]:
    """Yield the elements of the array in a file; a single object counts as one element.

    Raises `ImportFileError`, with the line, for text that `parse_json` refuses, and `OSError`.
    """
    try:
        # Without ``newline``, Python would translate line ends, and the sizes would be wrong.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line, text in _split(file):
                yield Element(line, _parse(text, path, line), len(text))
    except UnicodeDecodeError as error:
        raise ImportFileError(
            f"byte {error.object[error.start]:#04x} is not UTF-8; save the file as UTF-8",
            file=str(path),
        ) from None
    except _BrokenError as error:
        raise ImportFileError(str(error), file=str(path), line=error.line) from None


class _BrokenError(Exception):
    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


def _parse(text: str, path: Path, line: int) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ImportFileError(
            f"{error} of the element that begins here", file=str(path), line=line
        ) from None


def _split(file: IO[str]) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each element, without the commas between them."""
    splitter = _Splitter()
    while chunk := file.read(_CHUNK):
        yield from splitter.feed(chunk)
    yield from splitter.end()


class _Splitter:
    """Tracks strings and nested brackets across chunks of text.

    ``line`` is the current line and ``began`` the first line of the current element, whose text so
    far is in ``parts``.
    """

    def __init__(self) -> None:
        self.line = 1
        self.began = 1
        self.parts: list[str] = []
        self.size = 0
        self.depth = 0
        self.base: int | None = None
        """The depth of the elements: 1 in an array, 0 if the file is one object."""
        self.in_text = False
        self.escaped = False
        self.any = False
        self.closed = False

    def feed(self, chunk: str) -> Iterator[tuple[int, str]]:
        start = place = 0
        if self.base is None:
            chunk, self.line = chunk.lstrip(), self.line + _newlines_before(chunk)
            if not chunk:
                return
            self._begin(chunk[0])
            # The array's opening bracket is skipped; an object's is part of the element.
            start = place = self.base or 0
        # The previous chunk ended with a backslash: the first character is escaped, and a quote
        # there does not end the string.
        if self.escaped:
            place, self.escaped = 1, False
        while True:
            found = (_IN_TEXT if self.in_text else _OUTSIDE).search(chunk, place)
            if found is None:
                break
            place, mark = found.end(), found[0]
            if mark == "\\":
                self.escaped = place == len(chunk)
                place += 1
            elif mark == '"':
                self.in_text = not self.in_text
            elif self._ends(mark):
                self._take(chunk[start : place - 1])
                yield from self._element(last=mark == "]")
                start = place
        self._take(chunk[start:])

    def end(self) -> Iterator[tuple[int, str]]:
        if self.base is None:
            raise _BrokenError("the file is empty; an export is a JSON array", self.line)
        if self.base == 1 and not self.closed:
            raise _BrokenError("the file ends within its array: was it cut off?", self.line)
        rest = "".join(self.parts).strip()
        if self.base == 0:
            yield self.began, rest
        elif rest:
            raise _BrokenError("there is more after the array's end", self.line)

    def _begin(self, first: str) -> None:
        if first not in "[{":
            raise _BrokenError(f"an export is a JSON array, and does not begin with {first!r}", 1)
        self.base = self.depth = 1 if first == "[" else 0
        self.began = self.line

    def _ends(self, mark: str) -> bool:
        """Update the depth for a bracket or comma; return whether an element ends before it."""
        if self.closed:
            return False
        if mark in "[{":
            self.depth += 1
        elif mark in "]}":
            self.depth -= 1
            self.closed = self.base == 1 and self.depth == 0
            return self.closed
        return mark == "," and self.base == 1 and self.depth == 1

    def _take(self, text: str) -> None:
        if not self.parts:
            self.line += _newlines_before(text)
            self.began = self.line
            text = text.lstrip()
            if not text:
                return
        self.parts.append(text)
        self.line += text.count("\n")
        self.size += len(text)
        # Otherwise an array that is never closed would be read into memory whole.
        if self.size > LARGEST_RECORD:
            raise _BrokenError(f"one element has over {LARGEST_RECORD} characters", self.began)

    def _element(self, *, last: bool) -> Iterator[tuple[int, str]]:
        text, self.parts, self.size = "".join(self.parts), [], 0
        # An empty array has no element. Any other empty text, as in [1,,2], is left to the parser.
        if not text and last and not self.any:
            return
        self.any = True
        yield self.began, text


def _newlines_before(text: str) -> int:
    return text.count("\n", 0, len(text) - len(text.lstrip()))
