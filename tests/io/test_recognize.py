"""Damaged files of every kind: an error that names the file, whatever bytes they have."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from registry import Features, Ragged, Text
from registry.errors import ImportFileError
from registry.io.formats import FORMATS, format_of

FEATURES = Features({"text": Text(), "boxes": Ragged("float32", (4,))})
XML = b"""<?xml version="1.0"?><annotations><meta><task><id>1</id></task></meta>\
<image name="a" width="9" height="9"><box label="x" xtl="1" ytl="1" xbr="2" ybr="2"/></image>\
</annotations>"""


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", content)
    return file.getvalue()


def tarred(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("1.txt", "2.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


WHOLE = {
    "a.xml": XML,
    "a.zip": zipped(XML),
    "a.tar": tarred(b"text"),
    "a.conll": b"-DOCSTART- O\n\nRome B-LOC\nis O\n",
    "labelme.json": json.dumps({"version": "5", "shapes": [], "imagePath": "a"}).encode(),
    "argilla.json": json.dumps([{"fields": {}, "responses": {}, "_server_id": "a"}]).encode(),
    "doccano.json": json.dumps([{"id": 1, "text": "a", "label": ["b"]}]).encode(),
    "boxes.json": json.dumps([{"id": 1, "filename": "a", "bbox": [], "Comments": []}]).encode(),
    "json.json": json.dumps([{"text": "a", "boxes": []}]).encode(),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.sampled_from([*WHOLE]),
    start=st.floats(0, 1),
    length=st.integers(0, 30),
    inserted=st.binary(max_size=20) | st.sampled_from([b"[" * 2000, b"<a>" * 2000, b"\0", b'"']),
)
@example(name="a.zip", start=0, length=0, inserted=b"")
def test_damaged_files_are_read_or_refused(
    tmp_path: Path, name: str, start: float, length: int, inserted: bytes
) -> None:
    whole = WHOLE[name]
    at = int(start * len(whole))
    path = tmp_path / name
    path.write_bytes(whole[:at] + inserted + whole[at + length :])
    try:
        form = format_of(path)
        if form in FORMATS:
            for _ in FORMATS[form].load().read(path, FEATURES, None, {}):
                pass
    # Errors of the file system are reported by the import.
    except OSError:
        pass
    except ImportFileError as error:
        assert error.file.startswith(str(path))  # noqa: PT017  # either way of ending is right


@pytest.mark.parametrize(
    ("files", "form"),
    [
        ({"cats/1.png": b"", "dogs/2.png": b""}, "images"),
        ({"a/train-0.parquet": b""}, "parquet"),
        ({"1.json": WHOLE["labelme.json"], "1.png": b""}, "labelme"),
        ({"annotations.xml": XML, "images/a.png": b""}, "cvat"),
        ({"meta.json": b'{"version": 3}', "cats/1.png": b""}, "images"),
    ],
)
def test_a_folder_is_recognized_by_its_files(
    tmp_path: Path, files: dict[str, bytes], form: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert format_of(tmp_path) == form
