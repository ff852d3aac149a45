"""The XML of CVAT for images 1.1, read as a stream, and the images of its zip archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self
from zipfile import BadZipFile, ZipFile, is_zipfile
from zlib import error as ZlibError  # noqa: N812  # a class whose name is in lower case

from registry.errors import ImportFileError
from registry.io.detection.image_files import folders_near, read_image
from registry.samples.features import LARGEST_RECORD
from registry.samples.json_codec import excerpt

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_XML = "annotations.xml"
_LARGEST = 64 << 20
"""Maximum number of bytes of the annotations of one image."""
_MOST_ELEMENTS, _DEEPEST = 200_000, 32
"""Limits on the elements of one image, of which each takes some hundred bytes of memory."""
_NO_MEMBER = "no image of the archive is named"


@dataclass
class CvatMeta:
    """What a file says before its images: the labels in order, and the task's id, "" if unknown."""

    labels: list[str] = field(default_factory=list)
    task: str = ""


class CvatFile:
    """A file of annotations, or an archive with one and the images."""

    def __init__(self, path: Path, roots: Sequence[Path]) -> None:
        self.path = path
        self.meta: CvatMeta = CvatMeta()
        self._stack = ExitStack()
        self._archive: ZipFile | None = None
        self._members: dict[str, str] = {}
        near = [path, path / "images"] if path.is_dir() else folders_near(path)
        self._folders = list(roots) or near
        if is_zipfile(path):
            self._archive = self._stack.enter_context(ZipFile(path))
            names = self._archive.namelist()
            self._members = {name.removeprefix("images/"): name for name in names}

    def images(self) -> Iterator[Element]:
        """Yield the elements of images; each is valid until the next one is read.

        Raises `ImportFileError` for what is not XML, or is no file of CVAT.
        """
        from defusedxml import ElementTree  # noqa: PLC0415  # an extra
        from defusedxml.common import DefusedXmlException  # noqa: PLC0415  # an extra

        try:
            with self._open() as file:
                yield from self._parse(
                    ElementTree.iterparse(file, ("start", "end"), forbid_dtd=True), file
                )
        except ElementTree.ParseError as error:
            line, column = error.position
            reason = f"not XML: {str(error).partition(':')[0]} at column {column + 1}"
            raise ImportFileError(reason, file=str(self.path), line=line) from None
        except DefusedXmlException:
            reason = "a document type or an entity is not accepted; remove the <!DOCTYPE …>"
            raise ImportFileError(reason, file=str(self.path)) from None
        except (ValueError, LookupError, BadZipFile, ZlibError) as error:
            raise ImportFileError(str(error), file=str(self.path)) from None

    def load(self, name: str, subset: str) -> bytes:
        """Return the content of an image's file; raises `ValueError`."""
        if self._archive is None:
            return read_image(name, self._folders, lambda _: False)
        member = self._members.get(name) or self._members.get(f"{subset}/{name}")
        if member is None:
            raise ValueError(f"{_NO_MEMBER} {excerpt(name)}")
        try:
            with self._archive.open(member) as file:
                # The size that the archive states may be wrong.
                content = file.read(LARGEST_RECORD + 1)
        except (BadZipFile, ZlibError, NotImplementedError, RuntimeError, EOFError) as error:
            raise ValueError(f"{excerpt(member)} cannot be unpacked ({error})") from None
        if len(content) > LARGEST_RECORD:
            raise ValueError(f"{excerpt(member)} has over {LARGEST_RECORD:,} bytes")
        return content

    def close(self) -> None:
        self._stack.close()

    def _open(self) -> _Limited:
        if self._archive is None:
            file = self.path / _XML if self.path.is_dir() else self.path
            return _Limited(file.open("rb"))
        if _XML not in self._archive.namelist():
            raise ValueError(f"the archive has no {_XML}")
        return _Limited(self._archive.open(_XML))

    def _parse(self, events: Iterator[tuple[str, Element]], file: _Limited) -> Iterator[Element]:
        depth = count = 0
        root: Element | None = None
        for event, element in events:
            if event == "start":
                depth, count = depth + 1, count + 1
                root = element if root is None else root
                if depth > _DEEPEST or count > _MOST_ELEMENTS:
                    raise ValueError(
                        f"one image has over {_MOST_ELEMENTS:,} elements, or over "
                        f"{_DEEPEST} levels of them"
                    )
                if depth == 1 and element.tag != "annotations":
                    raise ValueError(f"no XML of CVAT: its element is {excerpt(element.tag)}")
                continue
            depth -= 1
            if depth != 1:
                continue
            if element.tag == "meta":
                self.meta = _meta(element)
            elif element.tag == "image":
                yield element
            # Otherwise the tree of the whole file would be kept in memory.
            assert root is not None
            root.clear()
            file.left, count = _LARGEST, 0


class _Limited:
    """A file of which only so many bytes are read for one image; ``left`` counts down."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = _LARGEST

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"one image has over {_LARGEST:,} bytes of annotations")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _meta(element: Element) -> CvatMeta:
    # In a project's export, the tasks have no labels of their own.
    for kind in ("task", "job", "project"):
        if (owner := element.find(kind)) is not None:
            labels = [each.findtext("name") or "" for each in owner.iterfind("labels/label")]
            task = owner.findtext("id") or "" if kind == "task" else ""
            return CvatMeta(labels, task.strip())
    return CvatMeta()
