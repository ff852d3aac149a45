"""YOLO datasets: their layouts, their labels, and files that lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry import Image, Ragged, Registry, Text
from registry.errors import ImportFileError
from registry.io.formats import find_reader, format_of
from registry.io.import_file import insert_file
from registry.io.row import FileRow
from registry.samples.features import Feature, Features
from tests.support.file_rows import fitting
from tests.support.image_files import photo, png
from tests.support.labeling_events import rejected_rows

SHAPES: dict[str, Feature] = {
    "image": Image(),
    "boxes": Ragged("float32", (4,)),
    "classes": Ragged("int32"),
}
CONFIG = "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n"


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(
        tmp_path / "pets",
        {
            "data.yaml": CONFIG,
            "images/train/a.jpg": photo(20, 40, seed=1),
            "images/train/b.png": png(4, 4),
            "images/val/c.jpg": photo(20, 40, seed=2),
            "labels/train/a.txt": "1 0.5 0.5 0.5 0.5\r\n0 .25 .5 .5 1\n",
            "labels/val/c.txt": "",
        },
    )


def read(
    path: Path,
    features: dict[str, Feature] = SHAPES,
    mapping: dict[str, str] | None = None,
    **options: Any,
) -> list[FileRow]:
    reader = find_reader(path, "yolo", options)
    return fitting(reader.read(path, Features(features), None, mapping or {}))


def boxes(row: FileRow) -> list[list[float]]:
    rows: list[list[float]] = np.asarray(row.values["boxes"], np.float64).round(4).tolist()
    return rows


@pytest.mark.parametrize("given", [".", "data.yaml"])
def test_an_image_is_a_sample_with_the_boxes_of_its_file(
    reg: Registry, folder: Path, given: str
) -> None:
    pets = reg.create("pets", SHAPES)
    assert insert_file(pets, folder / given).inserted == 3
    a, b, c = (
        pets.get(f"yolo:pets/images/{name}") for name in ("train/a.jpg", "train/b.png", "val/c.jpg")
    )
    assert a["image"] == photo(20, 40, seed=1)
    assert a["boxes"].tolist() == [[0.25, 0.25, 0.75, 0.75], [0, 0, 0.5, 1]]
    assert a["classes"].tolist() == [1, 0]
    # A missing file of labels and an empty one both are of an image without objects.
    assert b["boxes"].shape == c["boxes"].shape == (0, 4)
    assert insert_file(pets, folder).unchanged == 3
    # The size is that in the file: 40 by 20 pixels.
    assert insert_file(pets, folder, options={"boxes": "center_xywh"}).revised == 1
    a = pets.get("yolo:pets/images/train/a.jpg")
    assert a["boxes"].tolist() == [[20, 10, 20, 10], [10, 10, 20, 20]]


def test_a_mapping_names_classes_and_parts(folder: Path) -> None:
    features: dict[str, Feature] = {"part": Text(), "names": Text(), "n": Ragged("int8")}
    rows = read(folder, features, {"n": "names.classes[dog,cat]"})
    assert [row.values for row in rows] == [
        {"part": "train", "names": '["dog", "cat"]', "n": [0, 1]},
        {"part": "train", "names": "[]", "n": []},
        {"part": "val", "names": "[]", "n": []},
    ]


def test_a_part_can_be_read_alone(folder: Path) -> None:
    assert [row.values["part"] for row in read(folder, {"part": Text()}, part=["val"])] == ["val"]
    with pytest.raises(
        ImportFileError, match="no part is named 'test'; the dataset has train, val"
    ):
        read(folder, part=["test"])


@pytest.mark.parametrize(
    "config",
    [
        "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}",
        "train: images/train\nval: images/val\nnames:\n  '1': dog\n  '0': cat",
        "path: /somewhere/else\ntrain: images/train\nval: images/val\nnames: [cat, dog]",
        "train: ../images/train\nval: ../images/val\nnames: [cat, dog]",
        "train: [images/train, images/val]\nnames: [cat, dog]",
        "train: images\nval: images/val\nnames: [cat, dog]",
        "train: train.txt\nval: images/val\nnames: [cat, dog]",
        "\ufeffpath: images\ntrain: train\nval: val\nnc: 2",
    ],
)
def test_a_config_names_images_in_many_ways(folder: Path, config: str) -> None:
    listed = "./images/train/a.jpg\n\nimages/train/b.png\n./images/val/c.jpg\n"
    write(folder, {"data.yaml": config, "train.txt": listed})
    rows = read(folder)
    assert [row.key for row in rows] == [
        f"yolo:pets/images/{name}" for name in ("train/a.jpg", "train/b.png", "val/c.jpg")
    ]
    assert len(boxes(rows[0])) == 2


def test_label_studios_export_is_read(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "project-1",
        {
            "classes.txt": "cat\ndog\n",
            "notes.json": '{"categories": [], "info": {"contributor": "Label Studio"}}',
            "images/ab12cd-1.jpg": photo(),
            "labels/ab12cd-1.txt": "1 0.5 0.5 1 1\n",
        },
    )
    assert format_of(folder) == "yolo"
    (row,) = read(folder)
    assert row.key == "yolo:project-1/images/ab12cd-1.jpg"
    assert (boxes(row), row.values["classes"]) == ([[0, 0, 1, 1]], [1])


def test_labels_without_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"classes.txt": "cat", "labels/1.txt": "0 0.5 0.5 1 1", "images/notes": ""})
    with pytest.raises(ImportFileError, match="it has no images; export YOLO with images"):
        read(tmp_path)


def test_images_and_labels_may_be_in_one_folder(tmp_path: Path) -> None:
    write(tmp_path, {"classes.txt": "cat", "1.jpg": photo(), "1.txt": "0 0.5 0.5 1 1"})
    assert boxes(read(tmp_path)[0]) == [[0, 0, 1, 1]]


def test_keypoints_and_polygons_have_boxes(folder: Path) -> None:
    polygon = "0 0.1 0.2 0.5 0.2 0.3 0.9"
    write(folder, {"labels/train/a.txt": f"1 0.5 0.5 0.5 0.5 0.1 0.2 2 0.3 0.4 1\n{polygon}"})
    write(folder, {"data.yaml": CONFIG + "kpt_shape: [2, 3]"})
    row = read(folder, {**SHAPES, "keypoints": Text()})[0]
    assert boxes(row) == [[0.25, 0.25, 0.75, 0.75], [0.1, 0.2, 0.5, 0.9]]
    assert str(row.values["keypoints"]).startswith("[[0.1, 0.2, 2.0, 0.3, 0.4, 1.0], ")


def test_four_corners_are_refused_or_taken_as_their_hull(folder: Path) -> None:
    write(folder, {"labels/train/a.txt": "0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5"})
    with pytest.raises(
        ImportFileError, match=r"a\.txt, line 1, key .*: 9 columns .* --rotated hull"
    ):
        read(folder)
    assert boxes(read(folder, rotated="hull")[0]) == [[0.1, 0.1, 0.9, 0.9]]


def test_a_box_at_the_edge_is_clipped(folder: Path) -> None:
    write(folder, {"labels/train/a.txt": "0 0.95 0.5 0.2 1.0\n0 0 0 1 1"})
    assert boxes(read(folder)[0]) == [[0.85, 0, 1, 1], [0, 0, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("0 0.5 0.5 0.5", "4 columns; a box has 5: the class, then x and y of its center"),
        ("0 0.5 0.5 0.5 0.5 0.9", "6 columns; a box has 5"),
        ("0 0.5 0.5 0.5 0.5 0.9 0.9 0.9", "8 columns; a box has 5"),
        ("0 20 10 20 10", "20 is outside of 0 to 1; a label is in shares of the image"),
        ("0 0.5 -0.1 0.5 0.5", "-0.1 is outside of 0 to 1"),
        ("0 0.5 0.5 1.1 0.5", "1.1 is outside of 0 to 1"),
        ("0 nan 0.5 0.5 0.5", "nan is outside of 0 to 1"),
        ("0 0.1 0.2 0.3 0.2 0.1 1.5", "1.5 is outside of 0 to 1"),
        ("0 0.5 0.5 0 0.5", "the box (0.5, 0.5, 0, 0.5) has no area within the image"),
        ("0 0.5 0.5 0.5 1e-12", "the box (0.5, 0.5, 0.5, 1e-12) has no area within the image"),
        ("0 0.1 0.2 0.3 0.2 0.5 0.2", "has no area within the image"),
        ("2 0.5 0.5 0.5 0.5", "class '2' is none of the 2 classes, which count from 0"),
        ("-1 0.5 0.5 0.5 0.5", "class '-1' is none of the 2 classes"),
        ("0.5 0.5 0.5 0.5 0.5", "class '0.5' is none of the 2 classes"),
        ("cat 0.5 0.5 0.5 0.5", "'cat' is no number"),
        ("0 0_5 0.5 0.5 0.5", "'0_5' is no number"),
        ("0 0,5 0.5 0.5 0.5", "'0,5' is no number"),
        (b"0 0.5 0.5 0.5 0.5\xff", "byte 0xff at column 18 is not UTF-8"),
    ],
)
def test_a_label_that_cannot_be_is_named_with_its_file_and_line(
    folder: Path, label: str | bytes, reason: str
) -> None:
    given = label if isinstance(label, bytes) else label.encode()
    write(folder, {"labels/train/b.txt": b"0 0.5 0.5 1 1\n" + given})
    with pytest.raises(ImportFileError) as caught:
        read(folder)
    assert str(caught.value).startswith(f"{folder}/labels/train/b.txt, line 2, key 'yolo:")
    assert reason in str(caught.value)


def test_nothing_of_a_folder_with_a_fault_is_stored(reg: Registry, folder: Path) -> None:
    pets = reg.create("pets", SHAPES)
    write(folder, {"labels/val/c.txt": "0 0.5 0.5 1 0"})
    with pytest.raises(
        ImportFileError, match=r"labels/val/c\.txt, line 1, key .*, feature 'boxes': .* has no area"
    ):
        insert_file(pets, folder)
    assert len(pets) == 0


def test_an_image_that_is_damaged_is_named(reg: Registry, folder: Path) -> None:
    write(folder, {"images/train/b.png": png()[:-1]})
    with pytest.raises(ImportFileError, match=r"image 2, key 'yolo:pets/images/train/b\.png'"):
        insert_file(reg.create("pets", SHAPES), folder)


BOMB = "\n".join(
    [
        "a: &a [x, x]",
        *(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
    ]
)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CONFIG.replace("nc: 2", "nc: 3"), "'nc' is 3, and 'names' has 2 classes"),
        (CONFIG.replace("nc: 2", "nc: two"), "'nc' is 'two', and 'names' has 2 classes"),
        ("train: images/train\nnames: {0: cat, 2: dog}", "does not number the classes from 0"),
        ("train: images/train\nnames: {1: cat, '1': dog}", "does not number the classes from 0"),
        ("train: images/train", "'names' is a list of the classes' names"),
        ("train: images/train\nnames: []", "'names' is a list of the classes' names"),
        ("train: images/train\nnames: [[cat]]", "'names' holds something else than text"),
        ("train: images/train\nnc: 99999999999", "'names' is a list of the classes' names"),
        ("names: [cat]", "none of 'train', 'val' and 'test' names images"),
        ("train: 5\nnames: [cat]", "'train' is a path or a list of paths"),
        (
            "train: images/gone\nnames: [cat]",
            "'train' is 'images/gone', which is no folder or list",
        ),
        ("train: ../outside\nnames: [cat]", "'train' is '../outside', outside of the folder"),
        ("train: /etc\nnames: [cat]", "'train' is '/etc', outside of the folder of data.yaml"),
        ("train: link\nnames: [cat]", "'train' is 'link', outside of the folder"),
        ('train: "a\\0b"\nnames: [cat]', "which is no folder or list in this folder"),
        (
            "path: [a]\ntrain: images/train\nnames: [cat]",
            "'path' is the path of a folder, not a list",
        ),
        (CONFIG + "kpt_shape: 17", "'kpt_shape' is the number of keypoints and of values of each"),
        ("- train", "not a mapping with 'names' and 'train'"),
        ("", "not a mapping with 'names' and 'train'"),
        ("train: [", "not YAML: "),
        ("train: !!python/object/apply:os.system ['true']", "not YAML: could not determine a"),
        ("train: 2001-99-99", "not YAML (ValueError)"),
        (BOMB, "aliases (*name) are not accepted"),
        ("[" * 5000, "such deep nesting is not accepted"),
        ("#" * (1 << 18) + "##", "it has over 262,144 bytes"),
        (b"train: \xff", "byte 0xff at column 8 is not UTF-8"),
    ],
)
def test_a_config_that_lies_is_refused(
    folder: Path, tmp_path: Path, config: str | bytes, reason: str
) -> None:
    (tmp_path / "outside").mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    write(folder, {"data.yaml": config})
    with pytest.raises(ImportFileError) as caught:
        read(folder)
    assert str(caught.value).startswith(f"{folder}/data.yaml")
    assert reason in str(caught.value)


@pytest.mark.parametrize("line", ["../secret.jpg", "/etc/passwd", "images/gone.jpg", "a\0b"])
def test_a_list_names_images_of_the_dataset_only(folder: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(photo())
    config = "train: t.txt\nnames: [cat, dog]"
    write(folder, {"data.yaml": config, "t.txt": f"images/train/a.jpg\n{line}"})
    with pytest.raises(ImportFileError, match=r"t\.txt, line 2: .* is no file in the dataset"):
        read(folder)


def test_a_file_of_labels_is_not_read_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("0 0.5 0.5 1 1")
    (folder / "labels" / "train" / "b.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ImportFileError, match="it is a link out of the dataset"):
        read(folder)


def test_a_folder_without_a_config_is_no_yolo_dataset(tmp_path: Path) -> None:
    with pytest.raises(ImportFileError, match="no YOLO dataset: it holds neither"):
        read(tmp_path)
    write(tmp_path, {"classes.txt": "cat\n\ndog"})
    with pytest.raises(ImportFileError, match="it lists the name of a class on each line"):
        read(tmp_path)


def test_a_fault_is_quarantined_and_the_other_images_are_stored(
    reg: Registry, folder: Path
) -> None:
    pets = reg.create("pets", SHAPES)
    write(folder, {"labels/train/a.txt": "0 0.5 0.5 1 1\n7 0.5 0.5 1 1"})
    assert insert_file(pets, folder, quarantine=True).inserted == 2
    (row,) = rejected_rows(pets, reg)
    assert row.key == "yolo:pets/images/train/a.jpg"
    assert f"labels/train/a.txt, line 2, key {row.key!r}: class '7' is none of the 2" in row.error


def test_images_of_a_folder_can_be_a_group(reg: Registry, folder: Path) -> None:
    pets = reg.create("pets", SHAPES, splits={"train": 0.5, "test": 0.5})
    insert_file(pets, folder, options={"group": "folder"})
    groups = {entry.key: entry.group for entry in pets.entries()}
    assert groups["yolo:pets/images/val/c.jpg"] == "images/val"
    for key, group in groups.items():
        assert pets.split_of(key) == pets.split_of(group=group)
