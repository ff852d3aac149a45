"""Rejected rows of files: what corrects them, and what another attempt does with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from registry import Dataset, Ragged, Registry
from registry.errors import ImportFileError, InvalidSampleError
from registry.io.faults import keep_rejected
from registry.io.import_file import insert_file
from registry.io.media import MediaReader
from registry.io.retry_media import retry_with_media
from registry.storage.log.inbox_rejected import LeftOut
from tests.support.datasets import digit
from tests.support.image_files import png

BAD = {**digit(3), "label": 30}


def write_rows(path: Path, **rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps({"id": key, **row}) + "\n" for key, row in rows.items()))
    return path


@pytest.mark.parametrize("quarantine", [True, False])
def test_an_accepted_row_of_a_file_discards_the_rejected_row_of_its_key(
    digits: Dataset, tmp_path: Path, quarantine: bool
) -> None:
    path = write_rows(tmp_path / "d.jsonl", a=BAD, b=BAD, c=digit(1))
    insert_file(digits, path, key="id", quarantine=True)
    other = write_rows(tmp_path / "other.jsonl", a=BAD)
    insert_file(digits, other, key="id", quarantine=True)
    write_rows(path, a=digit(3), c=digit(1))
    insert_file(digits, path, key="id", quarantine=quarantine)
    # Another file is another source, and key b has no row that was accepted.
    assert {(row.key, row.source) for row in digits.inbox.refused()} == {
        ("b", "file:d.jsonl"),
        ("a", "file:other.jsonl"),
    }


def test_a_file_without_an_accepted_row_keeps_the_rejected_ones(
    digits: Dataset, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "d.jsonl", a=BAD)
    insert_file(digits, path, key="id", quarantine=True)
    with pytest.raises(ImportFileError):
        insert_file(digits, path, key="id")
    assert len(digits.inbox.refused()) == 1


def test_a_retry_of_all_rows_does_not_overwrite_a_newer_sample(
    reg: Registry, digits: Dataset, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "d.jsonl", a=digit(3), b=digit(4))
    with reg.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO inbox (dataset_id, key, fields, error, created_at)"
                " VALUES (:dataset, :key, :fields, 'too early', '2020-01-01 00:00:00')"
            ),
            [
                {"dataset": digits.id, "key": key, "fields": json.dumps(digit(n))}
                for n, key in ((5, "a"), (6, "new"))
            ],
        )
    insert_file(digits, path, key="id")
    assert digits.inbox.left_out() == LeftOut(empty=0, outdated=1)
    assert retry_with_media(digits, None, MediaReader()).waiting == 1
    digits.inbox.drain()
    (stale,) = digits.inbox.refused()
    assert (digits.get("a")["label"], digits.get("new")["label"]) == (3, 6)
    assert (stale.key, stale.error, digits.inbox.retry()) == ("a", "too early", 0)
    # Named by its id, it is meant.
    assert digits.inbox.retry([stale.id]) == digits.inbox.drain().moved == 1
    assert digits.get("a")["label"] == 5


@pytest.mark.parametrize("fields", [None, {}])
def test_a_row_without_fields_keeps_its_reason(
    digits: Dataset, fields: Mapping[str, Any] | None
) -> None:
    error = ImportFileError("no such box", file="d.json", line=3, key="a")
    keep_rejected(digits, "file:d.json", [(error, fields)])
    (row,) = digits.inbox.refused()
    for ids in (None, [row.id]):
        assert digits.inbox.left_out(ids) == LeftOut(empty=1, outdated=0)
        assert retry_with_media(digits, ids, MediaReader()).waiting == digits.inbox.retry(ids) == 0
    with pytest.raises(InvalidSampleError, match=r"no fields to try again: d\.json, line 3"):
        digits.inbox.retry_now(row.id)
    assert digits.inbox.refused() == [row]
    assert digits.inbox.retry_now(row.id, digit(3)).inserted == 1


YOLO = "names: [cat]\ntrain: images\n"
VOC = (
    "<annotation><filename>1.png</filename><object><name>cat</name><bndbox><xmin>{0}</xmin>"
    "<ymin>1</ymin><xmax>{1}</xmax><ymax>2</ymax></bndbox></object></annotation>"
)
CVAT = (
    "<annotations><image id='0' name='1.png' width='4' height='4'>"
    "<box label='cat' xtl='{0}' ytl='0' xbr='{1}' ybr='2'/></image></annotations>"
)
FORMATS = {
    "coco": ("d.json", "coco:set/d:1.png", "id 7, annotation 9"),
    "yolo": ("labels/1.txt", "yolo:set/images/1.png", ""),
    "voc": ("Annotations/1.xml", "voc:set/1", "1.xml, object 1"),
    "cvat": ("d.xml", "cvat:1.png", "'1.png', shape 1 (box)"),
    "labelme": ("1.json", "labelme:set/1", "1.json, shape 1 (rectangle)"),
}


def one_box(form: str, left: int, right: int) -> str:
    """Return a file with one box, which has no area if both are equal."""
    if form == "coco":
        box = {"id": 9, "image_id": 7, "category_id": 1, "bbox": [left, 0, right - left, 2]}
        images = [{"id": 7, "file_name": "1.png", "width": 4, "height": 4}]
        categories = [{"id": 1, "name": "cat"}]
        return json.dumps({"images": images, "categories": categories, "annotations": [box]})
    if form == "labelme":
        points = [[left, 0], [right, 2]]
        shape = {"label": "cat", "shape_type": "rectangle", "points": points}
        sizes = {"imageWidth": 4, "imageHeight": 4}
        return json.dumps({"shapes": [shape], "imagePath": "1.png", **sizes})
    if form == "yolo":
        return f"0 0.5 0.5 {(right - left) / 4} 0.5"
    return VOC.format(left + 1, right) if form == "voc" else CVAT.format(left, right)


@pytest.mark.parametrize("form", FORMATS)
def test_a_wrong_box_names_key_and_feature_and_its_correction_discards_it(
    reg: Registry, tmp_path: Path, form: str
) -> None:
    dataset = reg.create("boxed", {"boxes": Ragged("float32", (4,))})
    name, key, where = FORMATS[form]
    root = tmp_path / "set"
    for folder in ("images", "labels", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    (root / "images" / "1.png").write_bytes(png(4, 4))
    (root / "JPEGImages" / "1.png").write_bytes(png(4, 4))
    (root / "data.yaml").write_text(YOLO)
    (root / name).write_text(one_box(form, 1, 1))
    path = root if form in {"yolo", "voc"} else root / name
    insert_file(dataset, path, form=form, quarantine=True)
    (row,) = dataset.inbox.refused()
    assert row.key == key
    place_in_file = f"{root}/{name}, line 1" if form == "yolo" else f"{path}, image 1"
    box = f"{where}: the box (" if where else "the box ("
    assert row.error.startswith(f"{place_in_file}, key {key!r}, feature 'boxes': {box}")
    (root / name).write_text(one_box(form, 1, 3))
    assert insert_file(dataset, path, form=form).inserted == 1
    assert dataset.inbox.refused() == []
