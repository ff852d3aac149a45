"""CVAT and LabelMe: their shapes make boxes, polygons and classes, and none is lost silently."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry import ClassLabel, Dataset, Features, Image, Ragged, Registry, Tensor, Text
from registry.errors import ImportFileError
from registry.io.detection import cvat, labelme
from registry.io.formats import FORMATS, find_reader
from registry.io.import_file import insert_file
from registry.samples.features import Feature
from tests.support.file_rows import fitting
from tests.support.image_files import PNG, png
from tests.support.label_studio_project import samples

BOXES: dict[str, Feature] = {
    "image": Image(),
    "boxes": Ragged("float32", (4,)),
    "classes": Ragged("int8"),
}
META = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>7</id><name>street</name><labels>
    <label><name>car</name><type>any</type></label>
    <label><name>bus</name><type>any</type></label>
  </labels></task></meta>
"""
BOX = (
    '<box label="{0}" source="manual" occluded="0" xtl="10" ytl="5" xbr="50.0" ybr="25" {1}></box>'
)
POLYGON = '<polygon label="bus" points="0,0;100,0;50.5,50" z_order="0"/>'
TAG = '<tag label="day" source="manual"><attribute name="weather">rain</attribute></tag>'


def image(name: str, *children: str) -> str:
    return f'<image id="0" name="{name}" width="100" height="50">{"".join(children)}</image>'


def xml(path: Path, *images: str) -> Path:
    path.write_text(META + "".join(images) + "</annotations>", encoding="utf-8")
    return path


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """An export with its images, of which one has no annotation."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "images" / name).write_bytes(PNG + name.encode())
    box = BOX.format("bus", "")
    return xml(
        tmp_path / "annotations.xml", image("a.png", BOX.format("car", ""), box), image("sub/b.png")
    )


@pytest.fixture
def cars(reg: Registry) -> Dataset:
    return reg.create("cars", BOXES)


def test_cvats_images_are_samples(cars: Dataset, street: Path, tmp_path: Path) -> None:
    assert insert_file(cars, street).inserted == 2
    expected = {
        "cvat:7:a.png": {
            "image": PNG + b"a.png",
            "boxes": [[np.float32(side) for side in (0.1, 0.1, 0.5, 0.5)]] * 2,
            "classes": [0, 1],
        },
        "cvat:7:sub/b.png": {"image": PNG + b"sub/b.png", "boxes": [], "classes": []},
    }
    assert samples(cars) == expected
    assert insert_file(cars, street).unchanged == 2
    archive = tmp_path / "task.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted(tmp_path.rglob("*")):
            if file != archive and file.is_file():
                packed.write(file, file.relative_to(tmp_path).as_posix())
    assert insert_file(cars, archive).unchanged == 2
    assert insert_file(cars, tmp_path, form="cvat").unchanged == 2
    assert insert_file(cars, street, options={"unlabelled": "skip"}).unchanged == 1


def test_tags_polygons_and_attributes_are_fields(tmp_path: Path) -> None:
    features = Features(
        {
            "label": ClassLabel(["night", "day"]),
            "weather": Text(),
            "outlines": Text(),
            "kinds": Ragged("int8"),
            "width": Tensor("int32"),
        }
    )
    path = xml(
        tmp_path / "a.xml", image("a.png", TAG, POLYGON, BOX.format("car", "")), image("b.png")
    )
    mapping = {
        "weather": "attributes.weather",
        "outlines": "polygons",
        "kinds": "polygons.classes[car,bus]",
    }
    (row,) = cvat.read(path, features, None, mapping)
    assert row.key == "cvat:7:a.png"
    assert json.loads(row.values.pop("outlines")) == [
        {"labels": ["bus"], "points": [[0, 0], [100, 0], [50.5, 50]]}
    ]
    assert row.values == {"label": "day", "weather": "rain", "kinds": [1], "width": 100}


@pytest.mark.parametrize(
    ("shape", "hull"),
    [
        (BOX.format("car", 'rotation="90.0"'), [20, -5, 40, 35]),
        (POLYGON, [0, 0, 100, 50]),
        ('<ellipse label="car" cx="50" cy="25" rx="20" ry="10"/>', [30, 15, 70, 35]),
        ('<ellipse label="car" cx="50" cy="25" rx="20" ry="10" rotation="90"/>', [40, 5, 60, 45]),
        ('<mask label="car" rle="1, 2" left="3" top="4" width="5" height="6"/>', [3, 4, 8, 10]),
    ],
)
def test_what_is_no_box_is_refused_or_its_hull(
    tmp_path: Path, shape: str, hull: list[float]
) -> None:
    features = Features({"boxes": Ragged("float32", (4,))})
    path = xml(tmp_path / "a.xml", image("a.png", shape))
    with pytest.raises(
        ImportFileError, match=r"key 'cvat:7:a.png': 'a.png': shape 1 .* with --rotated"
    ):
        fitting(cvat.read(path, features, None, {}))
    (row,) = cvat.read(path, features, None, {}, boxes="xyxy", rotated="hull")
    clipped = np.clip(hull, 0, [100, 50, 100, 50])
    assert np.asarray(row.values["boxes"]) == pytest.approx(clipped[None])


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotations>&b;</annotations>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BOMB, "a document type or an entity is not accepted"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotations/>', "a document type or an ent"),
        ("<annotations><image", "line 1: not XML: "),
        ("<annotations>\n<image></annotations>", "line 2: not XML: mismatched tag"),
        ("<annotations>" + "<image>" * 40, "one image has over 200,000 elements, or over 32 lev"),
        ("<annotations><image>" + "<tag/>" * 200_001, "one image has over 200,000 elements"),
        ("<html/>", "no XML of CVAT: its element is 'html'"),
        ('<?xml version="1.0" encoding="nonsense"?><annotations/>', "nonsense|unknown encoding"),
        (META + image("") + "</annotations>", "image 1: '': it has no name"),
        (META + "<image name='a' width='x'/></annotations>", "its width and height are no whole"),
        (
            META + image("a", BOX.format("van", "")) + "</annotations>",
            "the label 'van', whose",
        ),
        (META + image("a", '<box label="car" xtl="1"/>') + "</annotations>", "shape 1 .* no 'ytl'"),
        (META + image("a", '<box xtl="1"/>') + "</annotations>", r"shape 1 \(box\) has no label"),
        (META + image("a", '<cuboid label="car"/>') + "</annotations>", "cuboid.* is not read"),
        (
            META + image("a", BOX.format("car", "").replace("50.0", "500")) + "</annotations>",
            r"'a', shape 1 \(box\): the box .* exceeds the image",
        ),
        (
            META + image("a", BOX.format("car", "").replace("50.0", "10")) + "</annotations>",
            r"shape 1 \(box\): the box .* has no area",
        ),
        (META + image("gone.png") + "</annotations>", "'gone.png' is no file below"),
        (META + image("../secret.png") + "</annotations>", "is no file below"),
    ],
)
def test_a_file_of_cvat_that_is_wrong_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(PNG)
    (folder / "a").write_bytes(PNG)
    path = folder / "annotations.xml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ImportFileError, match=reason) as caught:
        fitting(cvat.read(path, Features(BOXES), None, {}))
    assert caught.value.file == str(path)


def test_nothing_of_a_file_with_a_fault_is_stored(cars: Dataset, street: Path) -> None:
    text = street.read_text().replace("</annotations>", image("c.png") + "</annotations>")
    street.write_text(text)
    with pytest.raises(
        ImportFileError, match=r"key 'cvat:7:c.png': 'c.png': 'c.png' is no file below"
    ):
        insert_file(cars, street)
    assert len(cars) == 0
    assert insert_file(cars, street, quarantine=True).inserted == 2
    (rejected,) = cars.inbox.refused()
    assert "key 'cvat:7:c.png': 'c.png': 'c.png' is no file below" in str(rejected.error)


def test_a_long_file_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "long.xml"
    box = BOX.format("car", "")
    with path.open("w") as file:
        file.write(META)
        file.writelines(image(f"{n}.png", *[box] * 5) for n in range(1500))
        file.write("</annotations>")
    features = Features({"boxes": Ragged("float32", (4,))})
    # Modules that are imported at the first use take memory, too.
    next(cvat.read(path, features, None, {}))
    tracemalloc.start()
    count = sum(1 for _ in cvat.read(path, features, None, {}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1500
    assert peak < path.stat().st_size / 2


def labeled(**facts: Any) -> dict[str, Any]:
    shape = {"label": "car", "shape_type": "rectangle", "points": [[50, 25], [10, 5]]}
    return {
        "version": "5.5.0",
        "flags": {"night": False, "day": True},
        "shapes": [{"group_id": None, "flags": {}, **shape}],
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": 50,
        "imageWidth": 100,
        **facts,
    }


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


NAMED = {"classes": "names.classes[car]"}


def test_labelmes_files_are_samples(cars: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "street"
    save(folder / "a.json", labeled())
    (folder / "a.png").write_bytes(PNG + b"a")
    data = base64.b64encode(PNG + b"b").decode()
    save(folder / "b.json", labeled(imagePath="..\\gone.png", imageData=data, shapes=[]))
    assert find_reader(folder).file_format is FORMATS["labelme"]
    assert insert_file(cars, folder, mapping=NAMED).inserted == 2
    assert samples(cars) == {
        "labelme:street/a": {
            "image": PNG + b"a",
            "boxes": [[np.float32(side) for side in (0.1, 0.1, 0.5, 0.5)]],
            "classes": [0],
        },
        "labelme:street/b": {"image": PNG + b"b", "boxes": [], "classes": []},
    }
    assert insert_file(cars, folder, mapping=NAMED).unchanged == 2
    assert insert_file(cars, folder / "a.json", mapping=NAMED).unchanged == 1


def test_labelmes_flags_and_polygons_are_fields(tmp_path: Path) -> None:
    points = [[0, 0], [9, 0], [9, 9]]
    shape = {"label": "road", "points": points, "shape_type": "polygon", "description": "wet"}
    path = save(tmp_path / "a.json", labeled(shapes=[shape]))
    features = Features({"label": ClassLabel(["day"]), "night": Tensor("bool"), "all": Text()})
    (row,) = labelme.read(path, features, None, {"night": "flags.night", "all": "shapes"})
    assert json.loads(row.values.pop("all")) == [
        {
            "type": "polygon",
            "labels": ["road"],
            "points": points,
            "attributes": {"description": "wet"},
        }
    ]
    assert row.values == {"label": "day", "night": False}


def test_the_hull_of_a_circle_is_its_square(tmp_path: Path) -> None:
    shape = {"label": "car", "points": [[50, 25], [53, 29]], "shape_type": "circle"}
    path = save(tmp_path / "a.json", labeled(shapes=[shape]))
    features = Features({"boxes": Ragged("float32", (4,))})
    with pytest.raises(ImportFileError, match=r"a.json: shape 1 \(circle\) is a circle, which"):
        fitting(labelme.read(path, features, None, {}))
    (row,) = labelme.read(path, features, None, {}, boxes="xywh", rotated="hull")
    assert np.asarray(row.values["boxes"]).tolist() == [pytest.approx([45, 20, 10, 10])]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "not a JSON object"),
        ({"images": []}, "it is no file of LabelMe"),
        (labeled(shapes=[3]), "shape 1 is an object, not an int"),
        (labeled(shapes=[{"label": "x", "points": [[1, "2"]]}]), "the points of shape 1 .polygon."),
        (labeled(shapes=[{"points": [[1, 2]]}]), "shape 1 .polygon. has no label"),
        (labeled(shapes=[{"label": "x", "shape_type": "star"}]), "no known type: 'star'"),
        (
            labeled(shapes=[{"label": "car", "points": [[1, 2]], "shape_type": "rectangle"}]),
            "shape 1 .rectangle. has 1 points",
        ),
        (labeled(flags=[]), "feature 'classes'|no file below"),
        (labeled(flags=[1]), "'flags' is an object, not a list"),
        (labeled(imageData=3), "bytes are written as base64 text, not int"),
        (labeled(imageData="?"), "is not base64"),
        (labeled(imagePath=None), "it has neither 'imageData' nor an 'imagePath'"),
        (labeled(imagePath="../secret.png"), "is no file below"),
        (labeled(imagePath="/etc/passwd"), "is no file below"),
        (labeled(imageWidth=20, imageData="AAAA"), r"shape 1 .rectangle.: the box .* exceeds the"),
    ],
)
def test_a_file_of_labelme_that_is_wrong_is_named(
    tmp_path: Path, content: Any, reason: str
) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    path = save(tmp_path / "street" / "a.json", content)
    with pytest.raises(ImportFileError, match=reason) as caught:
        fitting(labelme.read(path, Features(BOXES), None, NAMED))
    assert caught.value.file == str(path)
