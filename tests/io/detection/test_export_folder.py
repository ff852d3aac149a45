"""Exports of COCO and YOLO datasets: an import makes the same samples again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from registry import Dataset, Image, Ragged, Registry, Text
from registry.errors import ExportFileError
from registry.io.detection.export_folder import export_folder
from registry.io.import_file import insert_file
from registry.io.labeling.boxes import Size, boxes_of
from registry.samples.box_formats import BOX_FORMATS, BoxFormat
from registry.samples.features import Feature
from tests.support.commands import run
from tests.support.image_files import photo, png

SHAPES: dict[str, Feature] = {
    "image": Image(),
    "boxes": Ragged("float32", (4,)),
    "classes": Ragged("int32"),
}
SPLITS = {"train": 0.5, "test": 0.5}
CORNERS: list[Any] = [
    np.array([[0.1, 0.2, 0.35, 0.9], [0, 0, 1, 1]]),
    np.empty((0, 4)),
    np.array([[0.5, 0.25, 0.75, 1]]),
]
CLASSES = [[1, 0], [], [2]]
GROUPS = ["video", "video", None]
KEYS = ["a/1.jpg", "a/2.png", "b/1.jpg"]


def fill(dataset: Dataset, form: BoxFormat = "rel_xyxy") -> Dataset:
    images, sizes = [photo(20, 40), png(4, 4), photo(10, 10)], [(40, 20), (4, 4), (10, 10)]
    samples = [
        {
            "image": image,
            "boxes": boxes_of(np.asarray(corners), form, Size(*size)),
            "classes": classes,
        }
        for image, size, corners, classes in zip(images, sizes, CORNERS, CLASSES, strict=True)
    ]
    dataset.insert(samples, keys=KEYS, groups=GROUPS)
    return dataset


def export(dataset: Dataset, path: Path, form: str, **options: Any) -> int:
    return export_folder(dataset, path, form=form, **options)


def check(dataset: Dataset, keys: list[str], atol: float = 1e-6) -> None:
    for key, corners, classes in zip(keys, CORNERS, CLASSES, strict=True):
        sample = dataset.get(key)
        assert np.allclose(sample["boxes"], corners, atol=atol)
        assert sample["boxes"].shape[1:] == (4,)
        assert sample["classes"].tolist() == classes


@pytest.mark.parametrize("splits", [{}, SPLITS])
def test_coco_goes_out_and_comes_back(
    reg: Registry, tmp_path: Path, splits: dict[str, float]
) -> None:
    dataset = fill(reg.create("shapes", SHAPES, splits=splits))
    folder = tmp_path / "out"
    assert export(dataset, folder, "coco", classes=["cat", "dog", "bird"]) == 3
    copy = reg.create("copy", SHAPES)
    files = sorted((folder / "annotations").iterdir())
    names = {str(dataset.split_of(key)) for key in KEYS} if splits else {"all"}
    assert [file.name for file in files] == sorted(f"instances_{name}.json" for name in names)
    for file in files:
        insert_file(copy, file, key="key", options={"group": "group"})
    groups = {entry.key: entry.group for entry in copy.entries()}
    assert groups == dict(zip(KEYS, GROUPS, strict=True))
    # COCO's boxes are in pixels, with four digits after the point.
    check(copy, KEYS, atol=1e-5)
    for key in KEYS:
        assert copy.get(key)["image"] == dataset.get(key)["image"]
    again = tmp_path / "again"
    export(dataset, again, "coco", classes=["cat", "dog", "bird"])
    for file in files:
        assert (again / "annotations" / file.name).read_bytes() == file.read_bytes()
    content = json.loads(files[0].read_text())
    assert content["categories"][1] == {"id": 2, "name": "dog"}


def test_yolo_goes_out_and_comes_back(reg: Registry, tmp_path: Path) -> None:
    dataset = fill(reg.create("shapes", SHAPES, splits=SPLITS))
    folder = tmp_path / "out"
    assert export(dataset, folder, "yolo", classes=["cat", 'a "b": c', "bird"]) == 3
    config = yaml.safe_load((folder / "data.yaml").read_text())
    splits = {str(dataset.split_of(key)) for key in KEYS}
    assert config["nc"] == 3
    assert config["names"] == {0: "cat", 1: 'a "b": c', 2: "bird"}
    assert {name for name in config if name in SPLITS} == splits
    assert config["val"] == f"images/{'test' if 'test' in splits else 'train'}"
    copy = reg.create("copy", {**SHAPES, "part": Text()})
    assert insert_file(copy, folder).inserted == 3
    keys = [entry.key for entry in copy.entries()]
    by_content = {copy.get(key)["image"]: key for key in keys}
    same = [by_content[dataset.get(key)["image"]] for key in KEYS]
    check(copy, same)
    for key, other in zip(KEYS, same, strict=True):
        assert other.startswith(f"yolo:out/images/{dataset.split_of(key)}/")
    again = tmp_path / "again"
    without_part = reg.create("third", SHAPES)
    insert_file(without_part, folder)
    export(without_part, again, "yolo", classes=["cat", 'a "b": c', "bird"])
    labels = sorted(each.read_text() for each in folder.rglob("labels/*/*.txt"))
    assert sorted(each.read_text() for each in again.rglob("labels/*/*.txt")) == labels


@pytest.mark.parametrize("form", BOX_FORMATS)
def test_boxes_of_every_format_are_exported(reg: Registry, tmp_path: Path, form: BoxFormat) -> None:
    dataset = fill(reg.create("shapes", SHAPES), form)
    for name in ("coco", "yolo"):
        export(dataset, tmp_path / name, name, boxes=form)
    from_coco, from_yolo = reg.create("a", SHAPES), reg.create("b", SHAPES)
    insert_file(from_coco, tmp_path / "coco", form="coco", key="key")
    check(from_coco, KEYS, atol=1e-5)
    insert_file(from_yolo, tmp_path / "yolo")
    assert len(from_yolo) == 3
    # Without names, a class is called by its index.
    assert yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())["names"][2] == "2"


def test_boxes_need_no_classes(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("shapes", {"photo": Image(), "box": Ragged("float64", (4,))})
    dataset.insert([{"photo": photo(), "box": [[0, 0, 1, 1]]}])
    export(dataset, tmp_path / "out", "yolo")
    config = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert config["names"] == {0: "object"}


def test_a_role_that_several_features_could_have_is_named(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("shapes", {**SHAPES, "tags": Ragged("int8")})
    reason = "the classes could be 'classes', 'tags'; say which by --map classes=FEATURE"
    with pytest.raises(ExportFileError, match=reason):
        export(dataset, tmp_path / "out", "coco")
    with pytest.raises(ExportFileError, match="'image' cannot be the classes; the features"):
        export(dataset, tmp_path / "out", "coco", mapping={"classes": "image"})
    with pytest.raises(ExportFileError, match="'label' is nothing to export; map image, boxes"):
        export(dataset, tmp_path / "out", "coco", mapping={"label": "tags"})
    assert export(dataset, tmp_path / "out", "coco", mapping={"classes": "tags"}) == 0


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        ({}, {"classes": ["cat", "dog"]}, "key 'b/1.jpg': class 2 is none of the 2 that are"),
        ({"classes": [0]}, {}, "key 'b/1.jpg': 2 boxes have 1 classes"),
        ({"boxes": [[0, 0, 0, 1]]}, {}, r"key 'b/1.jpg': the box (0, 0, 0, 1) has no area"),
        ({"boxes": [[0, 0, 9, 9]]}, {}, r"key 'b/1.jpg': the box (0, 0, 9, 9) exceeds the image"),
        ({}, {"form": "yolo"}, "it is there already; name a new folder"),
    ],
)
def test_a_failed_export_leaves_nothing(
    reg: Registry, tmp_path: Path, change: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    dataset = fill(reg.create("shapes", SHAPES))
    if change:
        boxes = [[0, 0, 1, 1]] * 2
        dataset.update("b/1.jpg", {"boxes": boxes, "classes": [0] * len(boxes), **change})
    folder = tmp_path / "exports" / "out"
    folder.parent.mkdir()
    if "there already" in reason:
        folder.mkdir()
        (folder / "mine").touch()
    with pytest.raises(ExportFileError) as caught:
        export(dataset, folder, **{"form": "coco", **options})
    assert reason in str(caught.value)
    left = ["out"] if "there already" in reason else []
    assert [each.name for each in folder.parent.iterdir()] == left


def test_a_split_that_is_no_folder_is_refused(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("shapes", SHAPES, splits={"../x": 1})
    with pytest.raises(ExportFileError, match=r"the split '\.\./x' cannot be the name of a folder"):
        export(dataset, tmp_path / "out", "yolo")


def test_the_command_exports_a_folder(url: str, reg: Registry, tmp_path: Path) -> None:
    dataset = fill(reg.create("shapes", SHAPES), "xywh")
    out = tmp_path / "out"
    options = ("--format=yolo", "--boxes=xywh", "--classes=cat,dog,bird", "--map=image=image")
    line = run("export", "shapes", out, *options, url=url).stdout
    assert line == f"{out}: 3 samples of {dataset.version}\n"
    reg.create("copy", SHAPES)
    line = run("insert", "copy", out, "--boxes=rel_xyxy", url=url).stdout
    assert line.startswith(f"{out}: 3 inserted")
    result = run("export", "shapes", tmp_path / "d.jsonl", "--classes=cat", url=url, code=2)
    assert "goes with --format coco and yolo" in " ".join(result.stderr.replace("│", "").split())
