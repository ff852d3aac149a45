"""A COCO file, grouped by image.

Images, categories and annotations may be in any order in the file, and it may be larger than the
memory. So it is streamed into a temporary SQLite database, from which the annotations of one image
after another are read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from registry.errors import ImportFileError
from registry.io.detection.image_files import last_part
from registry.io.files.json_array import Element, members
from registry.samples.json_codec import excerpt

_ARRAYS = ("images", "categories", "annotations")
_SHOWN = 5
_TABLES = """
CREATE TABLE images (number INTEGER PRIMARY KEY, id INTEGER UNIQUE, last TEXT, content TEXT);
CREATE TABLE annotations (id INTEGER PRIMARY KEY, number INTEGER, image INTEGER, content TEXT);
"""
_UNKNOWN = """
SELECT image, min(annotations.id) FROM annotations LEFT JOIN images ON images.id = image
WHERE images.id IS NULL GROUP BY image ORDER BY image LIMIT 6
"""


class CocoImage(NamedTuple):
    """An image's number in the file, from 1, its object, and the objects of its annotations."""

    number: int
    content: dict[str, Any]
    annotations: list[dict[str, Any]]


class CocoFile:
    """The images of a COCO file with their annotations; raises `ImportFileError`.

    ``dropped`` are properties of annotations that are not kept: a segmentation is longer than all
    others together.
    """

    def __init__(self, path: Path, dropped: Collection[str]) -> None:
        self._path = path
        self._dropped = dropped
        self._numbers = dict.fromkeys(_ARRAYS, 0)
        self.categories: dict[int, str] = {}
        """The names of the categories by id, in the order of the ids."""
        # A temporary file, deleted when the connection is closed.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_TABLES)
        self._database.execute("BEGIN")
        self._read()

    def images(self) -> Iterator[CocoImage]:
        """Yield the images in the order of the file, with their annotations in this order."""
        query = "SELECT content FROM annotations WHERE image = ? ORDER BY number"
        for number, key, content in self._database.execute(
            "SELECT number, id, content FROM images ORDER BY number"
        ):
            rows = self._database.execute(query, (key,))
            yield CocoImage(number, json.loads(content), [json.loads(row[0]) for row in rows])

    def is_unique(self, last: str) -> bool:
        """Return whether at most one image's file name ends in this part."""
        query = "SELECT count(*) FROM images WHERE last = ?"
        return bool(self._database.execute(query, (_text(last),)).fetchone()[0] < 2)

    def close(self) -> None:
        self._database.close()

    def _read(self) -> None:
        is_coco = False
        for name, element in members(self._path, _ARRAYS):
            if element is not None:
                self._add(name, element)
            is_coco = is_coco or name == "images"
        if not is_coco:
            reason = "not COCO: an object with 'images' and 'annotations'"
            raise ImportFileError(reason, file=str(self._path))
        self.categories = dict(sorted(self.categories.items()))
        self._database.execute("CREATE INDEX by_image ON annotations (image, number)")
        self._database.execute("CREATE INDEX by_name ON images (last)")
        if unknown := self._database.execute(_UNKNOWN).fetchall():
            ids = ", ".join(str(row[0]) for row in unknown[:_SHOWN])
            more = " …" if unknown[_SHOWN:] else ""
            reason = (
                f"annotations of images that are not there: {ids}{more} "
                f"(the first is annotation {unknown[0][1]})"
            )
            raise ImportFileError(reason, file=str(self._path))

    def _add(self, name: str, element: Element) -> None:
        key: int | None = None
        try:
            content = _object(element.value, name)
            key = whole(content, "id", name)
            self._insert(name, key, content)
        # An image with the id of another would take its boxes.
        except sqlite3.IntegrityError:
            reason = f"{name!r} has id {key} twice"
        except ValueError as error:
            reason = str(error)
        else:
            return
        raise ImportFileError(reason, file=str(self._path), line=element.line)

    def _insert(self, name: str, key: int, content: dict[str, Any]) -> None:
        self._numbers[name] += 1
        number, execute = self._numbers[name], self._database.execute
        match name:
            case "categories":
                if key in self.categories:
                    raise ValueError(f"{name!r} has id {key} twice")
                self.categories[key] = str(content.get("name"))
            case "images":
                last = content.get("file_name")
                parts = _text(last_part(last)) if isinstance(last, str) else None
                execute(
                    "INSERT INTO images VALUES (?, ?, ?, ?)",
                    (number, key, parts, json.dumps(content)),
                )
            case _:
                image = whole(content, "image_id", name)
                kept = {k: v for k, v in content.items() if k not in self._dropped}
                execute(
                    "INSERT INTO annotations VALUES (?, ?, ?, ?)",
                    (key, number, image, json.dumps(kept)),
                )


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name!r} is not a list of objects")  # noqa: TRY004
    return value


def whole(parsed: Mapping[str, Any], name: str, array: str = "annotations") -> int:
    """Return a property that is a whole number; raises `ValueError`."""
    number = parsed.get(name)
    # In Python, bool is a subclass of int: True would be the id 1.
    if (
        isinstance(number, bool)
        or not isinstance(number, int)
        or not -(1 << 63) <= number < 1 << 63
    ):
        value = excerpt(number) if isinstance(number, str) else type(number).__name__
        raise ValueError(f"{array!r}: {name!r} is a whole number, not {value}")
    return number


def _text(value: str) -> bytes:
    # As bytes: SQLite refuses lone surrogates.
    return value.encode(errors="surrogatepass")
