"""Images and bytes that the rows of files name: by base64, a path below a root, or a URI."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import registry
from registry import Bytes, Image, Registry, Text
from registry.errors import ImportFileError
from registry.io.import_file import insert_file
from registry.io.labeling.label_studio.export import insert_export
from registry.io.media import MediaReader, media_reader
from registry.samples.features import Feature
from registry.storage.log.writer import Writer
from tests.support.commands import run
from tests.support.image_files import PNG
from tests.support.label_studio_project import samples
from tests.support.media_servers import MediaServer, media_server

PHOTOS: dict[str, Feature] = {"photo": Image(), "uri": Text()}
BASE64 = base64.b64encode(PNG).decode()


@pytest.fixture
def images() -> Iterator[MediaServer]:
    with media_server({"/a/cat.png": PNG}) as server:
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "x").mkdir(parents=True)
    (folder / "x" / "cat.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    return folder


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def commas(rows: list[dict[str, Any]]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, [*rows[0]])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


@pytest.mark.parametrize(
    ("name", "write"), [("d.jsonl", jsonl), ("d.csv", commas), ("d.parquet", table)]
)
def test_a_file_names_its_images(
    reg: Registry,
    images: MediaServer,
    root: Path,
    name: str,
    write: Callable[[list[dict[str, Any]]], bytes],
) -> None:
    dataset = reg.create("photos", PHOTOS)
    texts = [
        BASE64,
        f"data:image/png;base64,{BASE64}",
        "x/cat.png",
        f"{root}/x/cat.png",
        f"file://{root}/x/cat.png",
        f"{images.at}/a/cat.png",
    ]
    rows = [{"id": f"k{n}", "photo": text, "uri": text} for n, text in enumerate(texts)]
    path = root.parent / name
    path.write_bytes(write(rows))
    with closing(media_reader([root], [f"{images.at}/a/"])) as media:
        assert insert_file(dataset, path, key="id", media=media).inserted == len(texts)
        assert insert_file(dataset, path, key="id", media=media).unchanged == len(texts)
    # Whoever wants the URI itself has it in a feature of texts.
    assert samples(dataset) == {row["id"]: {"photo": PNG, "uri": row["uri"]} for row in rows}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("../secret.png", "'../secret.png' is no file below"),
        ("x/gone.png", "'x/gone.png' is no file below"),
        ("http://user:s3cret@h/a.png?s3cret", "'http://h/a.png?…' is not fetched, as no --fetch"),
        ("s3://bucket/a.png", "is not fetched, as no --fetch prefix is given"),
        ("x\0.png", "cannot be read"),
    ],
)
def test_a_text_that_names_nothing_is_an_error_of_its_line(
    sqlite_url: str, root: Path, text: str, reason: str
) -> None:
    path = root.parent / "d.jsonl"
    rows = [{"id": "k0", "photo": BASE64}, {"id": "k1", "photo": text}]
    path.write_bytes(jsonl(rows))
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("photos", {"photo": Image()})
        with pytest.raises(ImportFileError) as caught:
            insert_file(dataset, path, key="id", media=MediaReader([root]))
        assert len(dataset) == 0
        # The rejected row has the URI without its secrets, too.
        insert_file(dataset, path, key="id", media=MediaReader([root]), quarantine=True)
        assert len(dataset) == 1
        with reg.engine.connect() as connection:
            stored = connection.exec_driver_sql("SELECT * FROM inbox").all()
    assert str(caught.value).startswith(f"{path}, line 2, key 'k1', feature 'photo': ")
    assert reason in str(caught.value)
    assert "s3cret" not in f"{caught.value} {stored}"


def test_without_a_root_only_base64_is_read(sqlite_url: str, root: Path) -> None:
    path = root / "d.jsonl"
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("photos", {"photo": Image()})
        for text, reason in {
            "x/cat.png": "'photo': a file is read only from below a --root, .* is not base64",
            f"{root}/x/cat.png": "names a file, and no folder is allowed",
            "YQ": "'YQ' is not base64",
            "Y Q==": "'Y Q==' is not base64",
        }.items():
            path.write_bytes(jsonl([{"photo": text}]))
            with pytest.raises(ImportFileError, match=reason):
                insert_file(dataset, path)


def test_a_name_that_could_be_base64_is_refused_if_there_is_such_a_file(root: Path) -> None:
    (root / "a1b2").write_bytes(b"file")
    media = MediaReader([root])
    with pytest.raises(ValueError, match=r"is base64, and also the name of a file; write ./NAME"):
        media.load("a1b2")
    assert media.load("./a1b2") == b"file"
    assert media.load("data:;base64,a1b2") == base64.b64decode("a1b2")
    assert media.load("a1b3") == base64.b64decode("a1b3")
    assert MediaReader().load("a1b2") == base64.b64decode("a1b2")


@pytest.mark.parametrize("insert", [insert_file, insert_export])
def test_named_images_are_stored_in_batches_of_their_own_size(
    sqlite_url: str, root: Path, monkeypatch: pytest.MonkeyPatch, insert: Any
) -> None:
    monkeypatch.setattr("registry.io.batching.BATCH_BYTES", 3 << 20)
    monkeypatch.setattr("registry.io.labeling.convert.PART_BYTES", 3 << 20)
    sizes: list[int] = []
    write = Writer.write

    def measured(self: Writer, plans: Any) -> None:
        sizes.append(sum(len(plan.keys) for plan in plans))
        write(self, plans)

    monkeypatch.setattr(Writer, "write", measured)
    (root / "big").write_bytes(bytes(1 << 20))
    if insert is insert_file:
        path, options = root / "d.jsonl", {"key": "id"}
        path.write_bytes(jsonl([{"id": n, "blob": "./big"} for n in range(10)]))
    else:
        path, options = root / "project-2-at-x.json", {}
        result = {"from_name": "c", "type": "choices", "value": {"choices": ["x"]}}
        annotation = {"result": [result], "updated_at": "2026-01-02T03:04:05Z"}
        tasks = [
            {"id": n, "data": {"blob": "./big"}, "annotations": [{"id": n, **annotation}]}
            for n in range(10)
        ]
        path.write_text(json.dumps(tasks))
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("blobs", {"blob": Bytes()})
        assert insert(dataset, path, media=MediaReader([root]), **options).inserted == 10
    assert sum(sizes) == 10
    assert max(sizes) <= 4


def test_the_command_inserts_what_files_name(
    url: str, reg: Registry, images: MediaServer, root: Path
) -> None:
    reg.create("photos", PHOTOS)
    texts = ["x/cat.png", f"{images.at}/a/cat.png"]
    path = root.parent / "d.jsonl"
    path.write_bytes(jsonl([{"id": n, "photo": t, "uri": t} for n, t in enumerate(texts)]))
    options = ["insert", "photos", path, "--key=id", f"--root={root}"]
    result = run(*options, url=url, code=1)
    assert f"{path}, line 2, key '1', feature 'photo': " in result.stderr
    run(*options, f"--fetch={images.at}/a", url=url)
    assert [sample["photo"] for sample in samples(reg.open("photos")).values()] == [PNG, PNG]
    result = run(*options, "--fetch=ftp://h/", url=url, code=1)
    assert "--fetch 'ftp://h/': a prefix begins with one of http://" in result.stderr
