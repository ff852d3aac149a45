"""Pascal VOC: its boxes, where its images are, and XML that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry import Image, Ragged, Registry, Tensor, Text
from registry.errors import ImportFileError
from registry.io.formats import find_reader, format_of
from registry.io.import_file import insert_file
from registry.io.row import FileRow
from registry.samples.features import Feature, Features
from tests.support.file_rows import fitting
from tests.support.image_files import photo

SHAPES: dict[str, Feature] = {"image": Image(), "boxes": Ragged("float32", (4,)), "names": Text()}


def item(name: str, *corners: object, more: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def annotation(*objects: str, file: str = "a.jpg", width: object = 40, height: object = 20) -> str:
    return (
        f"<annotation><folder>VOC</folder><filename>{file}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{''.join(objects)}</annotation>"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for number, name in enumerate(("a", "b")):
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(photo(20, 40, seed=number))
    marks = "<difficult>1</difficult><truncated>1</truncated>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    write(root, "a", item("cat", 1, 1, 40, 20), item("dog", 11, 6, 20, 10, more=marks), part)
    write(root, "b", file="b.jpg")
    (root / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    (root / "ImageSets" / "Main" / "cat_val.txt").write_text("b -1\na  1\n")
    return root


def write(root: Path, name: str, *objects: str, **options: Any) -> Path:
    path = root / "Annotations" / f"{name}.xml"
    path.write_text(annotation(*objects, **options), encoding="utf-8")
    return path


def read(
    path: Path,
    features: dict[str, Feature] = SHAPES,
    mapping: dict[str, str] | None = None,
    **options: Any,
) -> list[FileRow]:
    reader = find_reader(path, "voc", options)
    return fitting(reader.read(path, Features(features), None, mapping or {}))


def boxes(row: FileRow) -> list[list[float]]:
    rows: list[list[float]] = np.asarray(row.values["boxes"], np.float64).round(4).tolist()
    return rows


def test_an_annotation_file_is_a_sample(reg: Registry, folder: Path) -> None:
    dataset = reg.create("d", SHAPES)
    assert insert_file(dataset, folder).inserted == 2
    a, b = dataset.get("voc:VOC2012/a"), dataset.get("voc:VOC2012/b")
    assert a["image"] == photo(20, 40, seed=0)
    # Pixels count from 1, and both corners are within the box.
    assert a["boxes"] == pytest.approx(np.array([[0, 0, 1, 1], [0.25, 0.25, 0.5, 0.5]]))
    assert a["names"] == '["cat", "dog"]'
    assert b["boxes"].shape == (0, 4)
    assert insert_file(dataset, folder).unchanged == 2


def test_a_mapping_names_classes_and_marks(folder: Path) -> None:
    features: dict[str, Feature] = {
        "n": Ragged("int8"),
        "difficult": Ragged("int8"),
        "truncated": Ragged("int8"),
        "width": Tensor("int16"),
        "pixels": Ragged("int16", (4,)),
    }
    mapping = {"n": "names.classes[dog,cat]", "pixels": "boxes.xyxy"}
    (values, _) = (row.values for row in read(folder, features, mapping))
    assert values.pop("pixels").tolist() == [[0, 0, 40, 20], [10, 5, 20, 10]]
    assert values == {"n": [1, 0], "difficult": [0, 1], "truncated": [0, 1], "width": 40}
    rows = read(folder, features, mapping, difficult="drop")
    assert rows[0].values["n"] == [1]
    with pytest.raises(ImportFileError, match=r"VOC numbers no classes; map them by name, as in"):
        read(folder, {"classes": Ragged("int8")})


def test_a_part_is_a_list_of_names(folder: Path) -> None:
    assert [row.key for row in read(folder, part=["val"])] == ["voc:VOC2012/b"]
    keys = ["voc:VOC2012/b", "voc:VOC2012/a"]
    assert [row.key for row in read(folder, part=["val", "cat_val"])] == keys
    for name in ("test", "../Main/val"):
        with pytest.raises(ImportFileError, match=f"there is no ImageSets/Main/{name}"):
            read(folder, part=[name])
    (folder / "ImageSets" / "Main" / "val.txt").write_text("b\n../Annotations/a\n")
    with pytest.raises(
        ImportFileError, match=r"val\.txt, line 2: there is no annotation of '\.\./"
    ):
        read(folder, part=["val"])


def test_a_size_that_is_not_stated_is_read_from_the_image(folder: Path) -> None:
    write(folder, "a", item("cat", 1, 1, 20, 20), width=0, height=0)
    assert boxes(read(folder)[0]) == [[0, 0, 0.5, 1]]


def test_corners_that_count_from_0_are_read(folder: Path) -> None:
    write(folder, "a", item("cat", 0, 0.5, 40, 20))
    assert boxes(read(folder)[0]) == [[0, 0.025, 1, 1]]


def test_an_image_may_have_the_name_of_its_annotation(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(annotation(item("cat", 1, 1, 4, 4), file="C:\\old\\name.tif"))
    (tmp_path / "x.png").write_bytes(photo(seed=3))
    assert format_of(tmp_path) == format_of(tmp_path / "x.xml") == "voc"
    assert [row.values["image"] for row in read(tmp_path)] == [photo(seed=3)]
    assert [row.key for row in read(tmp_path / "x.xml")] == [f"voc:{tmp_path.name}/x"]


BOMB = (
    '<!DOCTYPE annotation [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    "<annotation><filename>&b;</filename></annotation>"
)
EXTERNAL = (
    '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    "<annotation><filename>&a;</filename></annotation>"
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BOMB, "a document type or an entity is not accepted; remove the <!DOCTYPE"),
        (EXTERNAL, "a document type or an entity is not accepted"),
        ("<!DOCTYPE annotation><annotation/>", "a document type or an entity is not accepted"),
        (
            "<annotation><object></annotation>",
            "line 1, key 'voc:VOC2012/b': not XML: mismatched tag at column 23",
        ),
        ("", "line 1, key 'voc:VOC2012/b': not XML: no element found at column 1"),
        ("<annotations/>", "no annotation of Pascal VOC: its element is 'annotations'"),
        ('<?xml version="1.0" encoding="x-none"?><annotation/>', "not XML"),
        (" " * (1 << 24) + "<annotation/>", "it has 16,777,229 bytes, over 16,777,216"),
        (annotation("<object><name>cat</name></object>"), "object 1 has no bndbox"),
        (annotation(item("cat", 1, 1, 5, "")), "object 1 has no 'ymax'"),
        (annotation(item(" ", 1, 1, 5, 5)), "object 1 has no 'name'"),
        (annotation(item("cat", 1, 1, "5px", 5)), "object 1: '5px' is no number"),
        (
            annotation(item("cat", 1, 1, 5, 5, more="<difficult>2</difficult>")),
            "object 1: 'difficult' is 0 or 1, not '2'",
        ),
    ],
)
def test_xml_that_is_no_annotation_is_refused(folder: Path, content: str, reason: str) -> None:
    path = folder / "Annotations" / "b.xml"
    path.write_text(content)
    with pytest.raises(ImportFileError) as caught:
        read(folder)
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        ((5, 5, 4, 9), "b.xml, object 1: the box (4, 4, 4, 9) has no area within the image"),
        ((5, 9, 9, 5), "the box (4, 8, 9, 5) has no area within the image"),
        ((1, 1, 45, 5), "the box (0, 0, 45, 5) exceeds the image by over 1% of its side"),
        ((1, 1, "nan", 5), "the box (0, 0, nan, 5) is not finite"),
    ],
)
def test_a_box_that_cannot_be_is_named(
    folder: Path, corners: tuple[object, ...], reason: str
) -> None:
    write(folder, "b", item("cat", *corners), file="b.jpg")
    with pytest.raises(ImportFileError) as caught:
        read(folder)
    assert reason in str(caught.value)


def test_nothing_of_a_folder_with_a_fault_is_stored(reg: Registry, folder: Path) -> None:
    dataset = reg.create("d", SHAPES)
    write(folder, "b", item("cat", 5, 5, 4, 9), file="b.jpg")
    with pytest.raises(ImportFileError, match="has no area"):
        insert_file(dataset, folder)
    assert len(dataset) == 0


def test_images_are_read_from_the_folder_only(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(photo())
    write(folder, "b", file="../../secret.jpg")
    (folder / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(ImportFileError, match=r"'\.\./\.\./secret\.jpg' is no file below"):
        read(folder)
