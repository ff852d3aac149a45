"""COCO: the samples of images, where their files are, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import Image, Ragged, Registry, Tensor, Text
from registry.errors import ImportFileError
from registry.io.formats import find_reader
from registry.io.import_file import insert_file
from registry.io.row import FileRow
from registry.samples.features import Feature, Features
from tests.support.file_rows import fitting
from tests.support.image_files import PNG, photo

SHAPES: dict[str, Feature] = {
    "image": Image(),
    "boxes": Ragged("float32", (4,)),
    "classes": Ragged("int8"),
}
Coco = dict[str, list[dict[str, Any]]]


def read(
    path: Path,
    features: dict[str, Feature] = SHAPES,
    key: str | None = None,
    mapping: dict[str, str] | None = None,
    **options: Any,
) -> list[FileRow]:
    reader = find_reader(path, "coco", options)
    return fitting(reader.read(path, Features(features), key, mapping or {}))


def boxes(value: Any) -> list[list[float]]:
    rows: list[list[float]] = np.asarray(value, np.float64).reshape(-1, 4).round(4).tolist()
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    for name in ("cat.png", "dog.png", "none.png"):
        (root / "images" / name).write_bytes(PNG + name.encode())
    (tmp_path / "secret.png").write_bytes(PNG)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    return root


def annotation(number: int, image: int, category: int, *sides: float) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(sides)}


def animals() -> Coco:
    names = {1: "images/cat.png", 2: "images/dog.png", 3: "images/none.png"}
    size = {"width": 20, "height": 10}
    return {
        "images": [{"id": n, "file_name": name, **size} for n, name in names.items()],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [
            annotation(1, 2, 18, 1, 2, 3.5, 4),
            annotation(2, 1, 17, 0, 0, 5, 5),
            annotation(3, 2, 17, 9, 9, 11, 1),
        ],
    }


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_an_image_is_a_sample_known_by_its_file(reg: Registry, folder: Path) -> None:
    dataset = reg.create("animals", SHAPES)
    path = write(folder / "boxes.json", animals())
    assert insert_file(dataset, path).inserted == 3
    cat, dog, none = (dataset.get(f"coco:set/boxes:images/{n}.png") for n in ("cat", "dog", "none"))
    assert [each["image"][len(PNG) :] for each in (cat, dog, none)] == [
        b"cat.png",
        b"dog.png",
        b"none.png",
    ]
    assert boxes(cat["boxes"]) == [[0, 0, 0.25, 0.5]]
    assert boxes(dog["boxes"]) == [[0.05, 0.2, 0.225, 0.6], [0.45, 0.9, 1, 1]]
    assert [each["classes"].tolist() for each in (cat, dog, none)] == [[0], [1, 0], []]
    assert boxes(none["boxes"]) == []
    assert insert_file(dataset, path).unchanged == 3
    # Ids of images are those of an export: the next one may number them in another way.
    renumbered = animals()
    for each in renumbered["images"]:
        each["id"] += 10
    for each in renumbered["annotations"]:
        each["image_id"] += 10
    assert insert_file(dataset, write(path, renumbered)).unchanged == 3
    assert insert_file(dataset, path, options={"boxes": "xywh"}).revised == 2
    dog = dataset.get("coco:set/boxes:images/dog.png")
    assert boxes(dog["boxes"]) == [[1, 2, 3.5, 4], [9, 9, 11, 1]]


def test_a_mapping_names_the_properties_of_images_and_annotations(folder: Path) -> None:
    content = animals()
    polygon = [[1, 2, 4.5, 2, 4.5, 6]]
    for each in content["annotations"]:
        each |= {"segmentation": polygon, "area": 7.5, "keypoints": [1, 2, 2, 3, 4, 1]}
    content["annotations"][0]["segmentation"] = {"size": [10, 20], "counts": "0a"}
    path = write(folder / "boxes.json", content)
    features: dict[str, Feature] = {
        "n": Tensor("int64"),
        "names": Text(),
        "ids": Ragged("int32"),
        "dogs": Ragged("int8"),
        "masks": Text(),
        "area": Ragged("float32"),
        "points": Text(),
        "crowds": Ragged("int8"),
        "pixels": Ragged("float32"),
        "first": Text(),
    }
    mapping = {
        "n": "width",
        "ids": "category_ids",
        "dogs": "names.classes[dog,cat]",
        "masks": "segmentation",
        "points": "keypoints",
        "crowds": "iscrowd",
        "pixels": "boxes.xyxy",
        "first": "names.0",
    }
    rows = read(path, features, "file_name", {**mapping, "first": "file_name"})
    assert [row.key for row in rows] == ["images/cat.png", "images/dog.png", "images/none.png"]
    values = dict(rows[1].values)
    assert boxes(values.pop("pixels")) == [[1, 2, 4.5, 6], [9, 9, 20, 10]]
    assert values == {
        "n": 20,
        "names": '["dog", "cat"]',
        "ids": [18, 17],
        "dogs": [0, 1],
        "masks": '[{"counts": "0a", "size": [10, 20]}, [[1, 2, 4.5, 2, 4.5, 6]]]',
        "area": [7.5, 7.5],
        "points": "[[1, 2, 2, 3, 4, 1], [1, 2, 2, 3, 4, 1]]",
        "crowds": [0, 0],
        "first": "images/dog.png",
    }
    with pytest.raises(ImportFileError, match="feature 'first': id 3: there is no '0' on the"):
        read(path, features, None, mapping)


def test_crowds_are_left_out_unless_they_are_kept(folder: Path) -> None:
    content = animals()
    content["annotations"][0]["iscrowd"] = 1
    path = write(folder / "boxes.json", content)
    assert [row.values["classes"] for row in read(path)] == [[0], [0], []]
    features: dict[str, Feature] = {**SHAPES, "iscrowd": Ragged("int8")}
    rows = read(path, features, crowd="keep")
    assert rows[1].values["iscrowd"] == [1, 0]
    assert len(boxes(rows[1].values["boxes"])) == 2


def test_a_rotated_box_is_refused_or_taken_as_its_hull(folder: Path) -> None:
    content = animals()
    content["annotations"][0] |= {"bbox": [9, 1, 2, 8], "attributes": {"rotation": 90.0}}
    path = write(folder / "boxes.json", content)
    with pytest.raises(ImportFileError, match=r"annotation 1 is rotated .* --rotated hull"):
        read(path)
    # CVAT rotates around the center, which is (10, 5).
    rows = read(path, boxes="xyxy", rotated="hull")
    assert boxes(rows[1].values["boxes"])[0] == [6, 4, 14, 6]


@pytest.mark.parametrize(
    ("file", "image", "name"),
    [
        ("annotations/instances_train2017.json", "train2017/1.jpg", "1.jpg"),
        ("annotations/instances_train2017.json", "images/train2017/1.jpg", "1.jpg"),
        ("annotations/train.json", "train/images/1.jpg", "1.jpg"),
        ("annotations/all.json", "images/1.jpg", "1.jpg"),
        ("annotations/all.json", "images/1.jpg", "images/1.jpg"),
        ("_annotations.coco.json", "1.jpg", "1.jpg"),
        ("result.json", "images/ab-1.jpg", "images\\ab-1.jpg"),
        ("result.json", "images/a b.jpg", "images/a%20b.jpg"),
        ("result.json", "images/a%20b.jpg", "images/a%20b.jpg"),
        ("result.json", "images/ab-1.jpg", "../../label-studio/data/media/upload/1/ab-1.jpg"),
        ("result.json", "images/ab-1.jpg", "/data/upload/1/ab-1.jpg"),
        ("result.json", "images/1.jpg", "/data/local-files/?d=deep/1.jpg"),
        ("result.json", "images/1.jpg", "https://user:pw@host/deep/1.jpg?token=s3cret"),
    ],
)
def test_images_are_read_from_the_usual_layouts(
    tmp_path: Path, file: str, image: str, name: str
) -> None:
    content = animals()
    content["images"] = [{"id": 2, "file_name": name, "width": 40, "height": 24}]
    del content["annotations"][1]
    path = write(tmp_path / "set" / file, content)
    (tmp_path / "set" / image).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "set" / image).write_bytes(photo())
    (row,) = read(path)
    assert row.values["image"] == photo()
    assert "s3cret" not in str(row.key)


def test_the_part_in_a_files_name_selects_the_folder(tmp_path: Path) -> None:
    content = {**animals(), "annotations": []}
    content["images"] = [{"id": 2, "file_name": "1.jpg"}]
    for number, part in enumerate(("images", "train", "val")):
        (tmp_path / part).mkdir()
        (tmp_path / part / "1.jpg").write_bytes(photo(seed=number))
    path = write(tmp_path / "annotations" / "instances_val.json", content)
    assert read(path)[0].values["image"] == photo(seed=2)
    assert read(path, roots=[tmp_path / "train"])[0].values["image"] == photo(seed=1)


def test_the_last_part_of_a_name_is_not_taken_for_two_images(folder: Path) -> None:
    content = animals()
    for each, name in zip(
        content["images"], ("/a/cat.png", "/b/cat.png", "/b/none.png"), strict=True
    ):
        each["file_name"] = name
    path = write(folder / "boxes.json", content)
    with pytest.raises(ImportFileError, match=r"id 1: '/a/cat\.png' is no file below"):
        read(path)
    content["images"][1]["file_name"] = "/b/dog.png"
    assert len(read(write(path, content))) == 3


def test_the_size_is_read_from_the_file_if_it_is_not_stated(folder: Path) -> None:
    content = animals()
    (folder / "images" / "dog.png").write_bytes(photo(24, 40))
    content["images"][1] |= {"width": None}
    path = write(folder / "boxes.json", content)
    assert boxes(read(path)[1].values["boxes"])[0] == [0.025, 0.0833, 0.1125, 0.25]
    (folder / "images" / "dog.png").write_bytes(b"no image")
    with pytest.raises(ImportFileError, match="id 2: the image's size cannot be read"):
        read(path, {"boxes": Ragged("float32")})


def _image(name: Any) -> Callable[[Coco], Any]:
    return lambda coco: coco["images"][1].update(file_name=name)


def _box(**facts: Any) -> Callable[[Coco], Any]:
    return lambda coco: coco["annotations"][0].update(facts)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_box(image_id=7), "annotations of images that are not there: 7 (the first is annotation"),
        (_box(image_id="2"), "line 1: 'annotations': 'image_id' is a whole number, not '2'"),
        (_box(id=1 << 64), "'annotations': 'id' is a whole number, not int"),
        (_box(category_id=5), "id 2: annotation 1 has category 5, which is not there"),
        (_box(bbox=[1, 2, 3]), "id 2: the 'bbox' of annotation 1 is not x, y, width and height"),
        (_box(bbox=[1, 2, "3", 4]), "the 'bbox' of annotation 1 is not"),
        (
            _box(bbox=[1, 2, -3, 4]),
            "feature 'boxes': id 2, annotation 1: the box (1, 2, -3, 4) has no area",
        ),
        (
            _box(bbox=[1, 2, 3, 0]),
            "feature 'boxes': id 2, annotation 1: the box (1, 2, 3, 0) has no area",
        ),
        (_box(bbox=[18, 2, 3, 4]), "annotation 1: the box (18, 2, 3, 4) exceeds the image"),
        (_box(id=2), "'annotations' has id 2 twice"),
        (_image("images/gone.png"), "id 2: 'images/gone.png' is no file below"),
        (_image("../secret.png"), "id 2: '../secret.png' is no file below"),
        (_image("images/../../secret.png"), "is no file below"),
        (_image("link.png"), "id 2: 'link.png' is no file below"),
        (_image("images"), "'images' is no file below"),
        (_image("/etc/passwd"), "'/etc/passwd' is no file below"),
        (_image("file:///etc/passwd"), "'file:///etc/passwd' is no file below"),
        (_image("a\0b"), "id 2: "),
        (_image(None), "id 2: 'file_name' is not text"),
        (lambda coco: coco.pop("images"), "not COCO: an object with 'images' and 'annotations'"),
        (lambda coco: coco.update(annotations={}), "'annotations' is not a list of objects"),
        (lambda coco: coco["images"].append({}), "'images': 'id' is a whole number, not NoneType"),
        (lambda coco: coco["images"].append(3), "'images' is not a list of objects"),
        (lambda coco: coco["images"].append({"id": 1}), "'images' has id 1 twice"),
        (lambda coco: coco["categories"].append({"id": 17}), "'categories' has id 17 twice"),
    ],
)
def test_coco_that_contradicts_itself_is_refused(
    folder: Path, change: Callable[[Coco], Any], reason: str
) -> None:
    content = animals()
    change(content)
    path = write(folder / "boxes.json", content)
    with pytest.raises(ImportFileError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)


def test_nothing_of_a_file_with_a_fault_is_stored(reg: Registry, folder: Path) -> None:
    dataset = reg.create("animals", SHAPES)
    content = animals()
    content["annotations"][0]["bbox"] = [1, 2, 3, 0]
    with pytest.raises(ImportFileError, match=r"annotation 1: .* has no area"):
        insert_file(dataset, write(folder / "boxes.json", content))
    assert len(dataset) == 0


def test_a_folder_is_read_if_it_has_one_file(folder: Path) -> None:
    path = write(folder / "annotations" / "all.json", animals())
    assert [row.key for row in read(folder, {"classes": Ragged("int8")})] == [
        row.key for row in read(path, {"classes": Ragged("int8")})
    ]
    write(folder / "annotations" / "more.json", animals())
    with pytest.raises(ImportFileError, match=r"this one has annotations/all\.json"):
        read(folder)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
@given(seed=st.integers(0, 1 << 30), counts=st.lists(st.integers(0, 4), max_size=4))
def test_the_order_in_the_file_does_not_matter(
    tmp_path: Path, seed: int, counts: list[int]
) -> None:
    random = Random(seed)
    owners = [image for image, count in enumerate(counts) for _ in range(count)]
    random.shuffle(owners)
    listed = [annotation(n, image, n % 3, n, 0, 1, 1) for n, image in enumerate(owners)]
    images = [{"id": n, "file_name": f"{n}", "width": 99, "height": 9} for n in range(len(counts))]
    arrays: dict[str, Any] = {
        "images": random.sample(images, len(images)),
        "categories": [{"id": n, "name": f"c{n}"} for n in random.sample(range(3), 3)],
        "annotations": listed,
        "info": {"images": [1]},
    }
    names = random.sample(list(arrays), len(arrays))
    path = write(tmp_path / "c.json", {name: arrays[name] for name in names})
    rows = read(path, {"boxes": Ragged("float32", (4,)), "classes": Ragged("int8")}, boxes="xywh")
    # The model: the annotations of each image, in the order of the file.
    assert [row.key for row in rows] == [
        f"coco:{tmp_path.name}/c:{i['id']}" for i in arrays["images"]
    ]
    for row, image in zip(rows, arrays["images"], strict=True):
        own = [each for each in listed if each["image_id"] == image["id"]]
        assert boxes(row.values["boxes"]) == [each["bbox"] for each in own]
        assert row.values["classes"] == [each["category_id"] for each in own]


NAMES = st.sampled_from(["id", "image_id", "bbox", "file_name", "images", "annotations", "width"])
JSON = st.recursive(
    st.none() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES | st.text(), inner),
    max_leaves=12,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
@given(content=st.lists(st.dictionaries(NAMES, JSON), max_size=3), whole=JSON)
def test_no_file_causes_a_crash(tmp_path: Path, content: list[dict[str, Any]], whole: Any) -> None:
    for path in (
        write(tmp_path / "c.json", whole),
        write(tmp_path / "d.json", {"images": content, "annotations": whole}),
    ):
        try:
            for row in read(path):
                assert row.values.keys() == SHAPES.keys()
        except ImportFileError as error:
            assert error.file == str(path)  # noqa: PT017  # either way of ending is right
