"""WebDataset: a tar file in which the files of a sample follow each other, with one basename.

``a/1.jpg`` and ``a/1.cls`` are the sample ``a/1``; what follows the first dot of a file's name is
the file's extension. The archive is read as a stream, packed by gzip or not, and nothing is
unpacked to the disk.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from registry.errors import ImportFileError, InvalidSampleError
from registry.io.files.csv import converter
from registry.io.files.lines import decode, open_file
from registry.io.row import FieldMapping, FileRow, as_group, as_key, fingerprint, optional, value_at
from registry.io.row_media import unnamed
from registry.samples.features import (
    LARGEST_RECORD,
    Bytes,
    ClassLabel,
    Feature,
    Features,
    Image,
    Text,
)
from registry.samples.json_codec import excerpt, from_fields, parse_json

_EXTENSIONS: dict[type[Any], tuple[str, ...]] = {
    Image: ("jpg", "jpeg", "png", "webp", "gif", "bmp"),
    ClassLabel: ("cls",),
    Text: ("txt",),
}
"""The extensions in which a feature's value is searched if none is mapped."""
_LONGEST_HEADER = 1 << 20
"""Bytes of one read of a header; long names and extended headers are read at once."""
_DAMAGE = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, RecursionError)


class TarSample(NamedTuple):
    """A sample: its basename, with the folder, and the content of its files by extension."""

    name: str
    files: dict[str, bytes]


def read(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield the archive's samples, with the keys ``ARCHIVE/BASENAME``.

    A path is an extension, such as ``jpg`` or ``seg.png``, or leads into a JSON file, such as
    ``json.caption``; ``key`` and ``group`` are paths, too. A feature that is not mapped is read
    from the extension or the JSON property of its name or, last, from an extension of its type: an
    image's, ``cls`` or ``txt``. One with a default may be missing, and is read from an extension of
    its type only if no other feature has that type. Raises `ImportFileError` with the number of the
    sample.
    """
    archive = path.name.removesuffix(".gz").removesuffix(".tar")
    try:
        for number, sample in enumerate(samples(path), start=1):
            row_key, row_group = f"{archive}/{sample.name}", None
            fields = _Fields(sample.files, features, mapping)
            try:
                if key is not None:
                    row_key = as_key(fields.value(key), key)
                if group is not None:
                    row_group = as_group(fields.value(group), group)
                values = from_fields(unnamed(features), fields.values())
                problem = None
            except InvalidSampleError as error:
                values = {}
                problem = ImportFileError(
                    error.reason,
                    file=str(path),
                    line=number,
                    key=row_key,
                    feature=error.feature,
                    unit="sample",
                )
            raw = fingerprint(sample.files.values())
            yield FileRow(number, values, row_key, raw, problem, row_group)
    except ImportFileError:
        raise
    except (ValueError, *_DAMAGE) as error:
        reason = str(error)
        if isinstance(error, _DAMAGE):
            reason = f"the archive is damaged, or is no tar file ({error})"
        raise ImportFileError(reason, file=str(path)) from None


def samples(path: Path) -> Iterator[TarSample]:
    """Yield the samples of an archive; raises `ValueError`, `OSError`, and what `_DAMAGE` has."""
    sample = TarSample("", {})
    size = 0
    for name, content in _members(path):
        folder, slash, base = name.rpartition("/")
        base, dot, extension = base.partition(".")
        # macOS writes a hidden file next to each; WebDataset's own metadata begins with "__".
        if not dot or not base or base.startswith("__"):
            continue
        if (basename := folder + slash + base) != sample.name:
            if sample.files:
                yield sample
            sample, size = TarSample(basename, {}), 0
        size += len(content)
        if size > LARGEST_RECORD:
            raise ValueError(f"sample {excerpt(basename)} has over {LARGEST_RECORD:,} bytes")
        if extension.lower() in sample.files:
            raise ValueError(f"sample {excerpt(basename)} has .{extension} twice")
        sample.files[extension.lower()] = content
    if sample.files:
        yield sample


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    # Not the mode "r|", which reads a header of any length into memory.
    with open_file(path) as file:
        headers = _Headers(file)
        archive = tarfile.TarFile(fileobj=cast("IO[bytes]", headers))
        while (member := archive.next()) is not None:
            # Otherwise the archive keeps a header of every member in memory.
            archive.members.clear()  # type: ignore[attr-defined]  # not in the stubs
            if member.isdir():
                continue
            _check(member)
            # The archive seeks the next header by itself, wherever the file's position is.
            file.seek(member.offset_data)
            content = file.read(member.size)
            if len(content) < member.size:
                raise tarfile.ReadError(f"it ends within {member.name[:100]!r}")
            yield member.name.removeprefix("./"), content
        # `tarfile` takes a header that is damaged or cut off for the end: samples would be lost.
        if headers.last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends without the blocks that end an archive")


def _check(member: tarfile.TarInfo) -> None:
    """Raise `ValueError` for a member that is no file of a sample."""
    name = excerpt(member.name)
    if not member.isreg() or member.issparse():
        raise ValueError(f"{name} is a link, a device or a sparse file; only plain files are read")
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        raise ValueError(f"the name {name} leads out of the archive")
    if not 0 <= member.size <= LARGEST_RECORD:
        raise ValueError(
            f"{name} has {member.size:,} bytes; at most {LARGEST_RECORD:,} fit in a record"
        )


class _Headers:
    """A file of which no long read is made, so that a header cannot take the memory.

    ``last`` is what was read last.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.tell = file.tell
        self.seek = file.seek
        self.last = b""
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise ValueError(f"a header of the archive claims {size:,} bytes")
        self.last = self._file.read(size)
        return self.last


class _Fields:
    """The files of a sample, and the JSON in them, which is parsed where a path leads into it."""

    def __init__(
        self, files: Mapping[str, bytes], features: Features, mapping: FieldMapping
    ) -> None:
        self._files = files
        self._features = features
        self._mapping = mapping
        self._optional = optional(features, mapping)
        self._parsed: dict[str, Any] = {}

    def values(self) -> dict[str, Any]:
        """Return a value per feature, without `optional` ones; raises `InvalidSampleError`."""
        paths = {name: self._path(name, feature) for name, feature in self._features.items()}
        return {
            name: self._feature(name, self._features[name], path)
            for name, path in paths.items()
            if path is not None
        }

    def _path(self, name: str, feature: Feature) -> str | None:
        """Return the path of a feature's value, None if the sample may lack it, and does."""
        if name in self._mapping:
            return self._mapping[name]
        same = [each for each in self._features.values() if type(each) is type(feature)]
        typed = _EXTENSIONS.get(type(feature), ())
        # Otherwise a second image, say, would be a copy of the first one.
        typed = typed if name not in self._optional or len(same) == 1 else ()
        path = next(filter(self._has, [name, f"json.{name}", *typed]), None)
        return path if path is not None or name in self._optional else name

    def _feature(self, name: str, feature: Feature, path: str) -> Any:
        try:
            if path in self._files and not path.endswith("json"):
                return _decoded(feature, self._files[path])
            return self.value(path)
        except ValueError as error:
            raise InvalidSampleError(str(error), feature=name) from None

    def value(self, path: str) -> Any:
        """Return the text or JSON at a path; raises `ValueError`."""
        if path in self._files and not path.endswith("json"):
            return decode(self._files[path]).strip()
        extension = path if path in self._files else path.partition(".")[0]
        if extension not in self._files or not extension.endswith("json"):
            has = ", ".join(f".{each}" for each in self._files)
            raise ValueError(f"there is no {excerpt(path)} in the sample, which has {has}")
        if extension not in self._parsed:
            self._parsed[extension] = parse_json(decode(self._files[extension]))
        parsed = self._parsed[extension]
        return parsed if path == extension else value_at(parsed, path[len(extension) + 1 :])

    def _has(self, path: str) -> bool:
        if path in self._files:
            return True
        try:
            self.value(path)
        except ValueError:
            return False
        return True


def _decoded(feature: Feature, content: bytes) -> Any:
    if isinstance(feature, Image | Bytes):
        return content
    text = decode(content)
    return text if isinstance(feature, Text) else converter(feature)(text.strip())
