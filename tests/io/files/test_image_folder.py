"""Folders of images: classes by folder, keys by path, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry import ClassLabel, Dataset, Image, Registry, Text
from registry.errors import ImportFileError
from registry.io.import_file import import_size, insert_file
from registry.samples.features import Feature
from tests.support.image_files import PNG, photo, png

PHOTOS: dict[str, Feature] = {"photo": Image("png"), "kind": ClassLabel(["cat", "dog"])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("cat/b.png", "dog/old/1.PNG", "cat/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(len(name)))
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "cat" / "._a.png").write_text("what some systems leave")
    return folder


@pytest.fixture
def photos(reg: Registry) -> Dataset:
    return reg.create("photos", PHOTOS)


def test_keys_are_paths_and_classes_are_folders(photos: Dataset, folder: Path) -> None:
    assert insert_file(photos, folder).inserted == 3
    assert [entry.key for entry in photos.entries()] == [
        "photos/cat/a.png",
        "photos/cat/b.png",
        "photos/dog/old/1.PNG",
    ]
    assert photos.get("photos/dog/old/1.PNG") == {"photo": png(len("dog/old/1.PNG")), "kind": 1}
    assert insert_file(photos, folder).unchanged == 3


def test_a_folder_may_hold_images_of_all_encodings(reg: Registry, folder: Path) -> None:
    forms = {"a.jpg": "JPEG", "b.jpeg": "JPEG", "c.gif": "GIF", "d.BMP": "BMP", "e.webp": "WEBP"}
    for name, form in forms.items():
        (folder / "dog" / name).write_bytes(photo(format=form))
    photos = reg.create("photos", {"photo": Image(), "kind": ClassLabel(["cat", "dog"])})
    assert insert_file(photos, folder).inserted == 8
    for name, form in forms.items():
        assert photos.get(f"photos/dog/{name}") == {"photo": photo(format=form), "kind": 1}


def test_progress_ends_at_the_size_of_the_folder(photos: Dataset, folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    insert_file(photos, folder, progress=lambda *done: calls.append(done))
    assert calls == [(3, import_size(folder))]


def test_a_mapping_selects_the_path(reg: Registry, folder: Path) -> None:
    named = reg.create("named", {"i": Image(), "n": Text()})
    insert_file(named, folder, mapping={"i": "image", "n": "path"})
    assert named.get("photos/cat/a.png")["n"] == "cat/a.png"
    with pytest.raises(ImportFileError, match="fit a dataset of one Image and one ClassLabel"):
        insert_file(named, folder)


def test_a_link_within_the_folder_is_followed(photos: Dataset, folder: Path) -> None:
    (folder / "cat" / "again.png").symlink_to(folder / "dog" / "old" / "1.PNG")
    assert insert_file(photos, folder).inserted == 4


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("cat/c.png", "{outside}/secret.png"),
        ("cat/c.png", "../../secret.png"),
        ("cat/c.png", "gone.png"),
        ("dog/loop", ".."),
        ("dog/elsewhere", "{outside}"),
    ],
)
def test_a_link_out_of_the_folder_is_refused(
    photos: Dataset, folder: Path, tmp_path: Path, name: str, target: str
) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    (folder / name).symlink_to(target.format(outside=tmp_path))
    with pytest.raises(ImportFileError, match="links are followed to files in the folder only"):
        insert_file(photos, folder)
    assert len(photos) == 0


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cat/x.png", b"GIF89a", "the bytes are not a png file; they are gif"),
        ("cat/x.png", PNG[:-1], "the image is cut off: its 66 bytes hold no IEND chunk"),
        ("cat/x.png", png(100_000, 100_000), "the image claims 100000 by 100000 pixels"),
        ("cow/x.png", png(), "unknown class 'cow'; the classes are 'cat', 'dog'"),
        ("x.png", png(), "x.png, feature 'kind': it lies in no class's folder"),
    ],
    ids=["gif", "cut off", "too large", "unknown class", "no class"],
)
def test_a_file_that_does_not_fit_is_named(
    photos: Dataset, folder: Path, name: str, content: bytes, reason: str
) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(ImportFileError, match=reason) as caught:
        insert_file(photos, folder)
    assert name in str(caught.value)
    assert len(photos) == 0
