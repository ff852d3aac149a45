"""The elements of JSON arrays in a file of any length, one at a time.

A part of the file is in a buffer. `json.JSONDecoder.raw_decode` parses the element that begins at
the current position of the buffer. If the element is cut by the buffer's end, more of the file is
read, and the element is parsed again from its beginning. Each time as much is read as the element
has already, so a long element is parsed only a few times. Parsed text is dropped, so the buffer has
one element or one chunk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from registry.errors import ImportFileError
from registry.samples.features import LARGEST_RECORD
from registry.samples.json_codec import excerpt, parse_at, parse_json

_CHUNK = 1 << 20
"""Characters that are read together."""
_SPACE = re.compile(r"[ \t\n\r]*")
_BEGINNING = re.compile(r"[\w+.\-\\]*|.", re.DOTALL)
"""Text that more text may turn into a value: the beginning of a number, a literal or an escape."""
_CLOSED = {"]": "array", "}": "object", ":": "object"}
_UNTERMINATED = "Unterminated string"


class Element(NamedTuple):
    """An element: the line where it begins, from 1, its value, and its length in characters."""

    line: int
    value: Any
    size: int


class Member(NamedTuple):
    """An element of the array that an object has under ``name``; None begins the array."""

    name: str
    element: Element | None


def elements(path: Path) -> Iterator[Element]:
    """Yield the elements of the array in a file; a single object counts as one element.

    Raises `ImportFileError`, with the line, for text that `parse_json` refuses, and `OSError`.
    """
    with _open(path) as buffer:
        yield from buffer.elements()


def members(path: Path, names: Collection[str]) -> Iterator[Member]:
    """Yield the elements of the arrays that the object in a file has under these names.

    The object's other values are read and dropped. Raises as `elements` does, also for a name that
    is there twice and for a value under one of the names that is no array.
    """
    with _open(path) as buffer:
        yield from buffer.members(names)


@contextmanager
def _open(path: Path) -> Iterator[_Buffer]:
    try:
        # Without ``newline``, Python would translate line ends, and the sizes would be wrong.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield _Buffer(file, path)
    except UnicodeDecodeError as error:
        raise ImportFileError(
            f"byte {error.object[error.start]:#04x} is not UTF-8; save the file as UTF-8",
            file=str(path),
        ) from None


class _Buffer:
    """A part of the file, which is parsed from a position; ``line`` is that of the position."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file = file
        self._path = str(path)
        self._text = ""
        self._position = 0
        self._line = 1
        self._ended = False

    def elements(self) -> Iterator[Element]:
        opening = self._next_character()
        if not opening:
            self._fail("the file is empty; an export is a JSON array")
        if opening not in "[{":
            self._fail(f"an export is a JSON array, and does not begin with {opening!r}")
        if opening == "{":
            yield self._element("")
            return
        yield from self._array()
        self._end("array")

    def members(self, names: Collection[str]) -> Iterator[Member]:
        if self._next_character() != "{":
            self._fail("no JSON object")
        for name in self._names():
            if name not in names:
                self._element(",}")
                continue
            if self._next_character() != "[":
                self._fail(f"{name!r} is not a list of objects")
            yield Member(name, None)
            for element in self._array():
                yield Member(name, element)
        self._end("object")

    def _names(self) -> Iterator[str]:
        """Yield the names in the object at the position, each with the position at its value."""
        known: set[str] = set()
        for _ in self._items("}"):
            if self._next_character() != '"':
                self._fail("not JSON: Expecting property name enclosed in double quotes")
            name = str(self._element(":").value)
            if name in known:
                self._fail(f"{excerpt(name)} is there twice")
            known.add(name)
            self._move(self._position + 1)
            self._next_character()
            yield name

    def _array(self) -> Iterator[Element]:
        for _ in self._items("]"):
            yield self._element(",]")

    def _items(self, closing: str) -> Iterator[None]:
        """Yield at each item of the array or object at the position, and move behind its end.

        The caller moves behind the item.
        """
        self._move(self._position + 1)
        delimiter = self._next_character()
        while delimiter != closing:
            yield
            delimiter = self._next_character()
            if delimiter == ",":
                self._move(self._position + 1)
                # Without this, "[1,]" would be accepted: the loop ends at any closing bracket.
                if self._next_character() == closing:
                    self._reject_element()
            elif not delimiter:
                self._fail_cut(closing)
            elif delimiter != closing:
                self._fail("not JSON: Expecting ',' delimiter")
        self._move(self._position + 1)

    def _end(self, kind: str) -> None:
        if self._next_character():
            self._fail(f"there is more after the {kind}'s end")

    def _element(self, ends: str) -> Element:
        """Parse the element at the position, and move behind it.

        One of ``ends`` follows it or, if that is empty, the end of the file.
        """
        while (parsed := self._parse(ends)) is None:
            if self._ended and ends:
                self._move(len(self._text))
                self._fail_cut(ends[-1])
            if self._ended:
                self._reject_element()
            self._grow()
        value, end = parsed
        element = Element(self._line, value, end - self._position)
        self._move(end)
        return element

    def _parse(self, ends: str) -> tuple[Any, int] | None:
        """Return the element at the position and its end, or None if the buffer cuts it."""
        try:
            value, end = parse_at(self._text, self._position)
        except json.JSONDecodeError as error:
            is_cut = error.msg.startswith(_UNTERMINATED) or self._is_beginning(error.pos)
        except (ValueError, RecursionError):
            # A number that is cut looks like a whole number, which may be too long for one.
            is_cut = self._text[-1] in "+-.0123456789Ee"
        else:
            # Only the text that follows shows that a number is complete.
            following = self._after_space(end)
            character = self._text[following : following + 1]
            if (character and character in ends) or (
                not ends and self._ended and following == len(self._text)
            ):
                return value, end
            is_cut = self._is_beginning(following)
        if not is_cut:
            self._reject_element()
        return None

    def _is_beginning(self, position: int) -> bool:
        return _BEGINNING.fullmatch(self._text, position) is not None

    def _next_character(self) -> str:
        """Move to the next character that is no space, and return it; "" at the file's end."""
        while True:
            self._move(self._after_space(self._position))
            if self._position < len(self._text) or self._ended:
                return self._text[self._position : self._position + 1]
            self._grow()

    def _after_space(self, position: int) -> int:
        space = _SPACE.match(self._text, position)
        assert space is not None
        return space.end()

    def _move(self, position: int) -> None:
        self._line += self._text.count("\n", self._position, position)
        self._position = position

    def _grow(self) -> None:
        """Drop the text before the position, and read as much as is left, or a chunk."""
        left = len(self._text) - self._position
        # Otherwise an element that never ends would be read into memory whole.
        if left > LARGEST_RECORD:
            self._fail(f"one element has over {LARGEST_RECORD} characters")
        more = self._file.read(min(max(_CHUNK, left), LARGEST_RECORD + 1 - left))
        self._ended = not more
        self._text, self._position = self._text[self._position :] + more, 0

    def _fail_cut(self, closing: str) -> NoReturn:
        self._fail(f"the file ends within its {_CLOSED[closing]}: was it cut off?")

    def _reject_element(self) -> NoReturn:
        # Parsed alone: the error then has a column that counts from the element's beginning.
        try:
            parse_json(self._text[self._position :])
        except ValueError as error:
            self._fail(f"{error} of the element that begins here")
        # Not reached: `_parse` has found the text wrong.
        raise AssertionError

    def _fail(self, reason: str) -> NoReturn:
        raise ImportFileError(reason, file=self._path, line=self._line) from None
