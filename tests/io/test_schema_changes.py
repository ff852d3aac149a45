"""Files and labeling tools, written or set up before a dataset's features were added to."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import registry
from registry import Bytes, ClassLabel, Dataset, Image, Ragged, Registry, Tensor, Text
from registry.errors import ImportFileError
from registry.io import batching
from registry.io.detection.export_folder import export_folder
from registry.io.dry_run import DryRun
from registry.io.export_file import export_file
from registry.io.formats import FOLDER_FORMATS, WRITABLE
from registry.io.import_file import insert_file
from registry.io.labeling.consensus import ConsensusRule
from registry.io.labeling.label_studio.export import insert_export
from registry.io.labeling.label_studio.webhook import apply_event
from registry.io.media import MediaReader
from registry.io.row import GivenFeatures, optional
from registry.samples.features import Feature, Features
from tests.support.image_files import PNG
from tests.support.label_studio_project import choice
from tests.support.labeling_events import KEY, annotation, event, rejected_rows

PHOTOS: dict[str, Feature] = {
    "image": Image(),
    "label": ClassLabel(["cat", "dog"]),
    "boxes": Ragged("float32", (4,)),
}
ADDED: dict[str, tuple[Feature, Any]] = {
    "pose": (Tensor("float32", (2,)), 0.5),
    "note": (Text(), "none"),
    "mask": (Bytes(), b"\0"),
}


def photo(label: str, **more: Any) -> dict[str, Any]:
    return {"image": PNG, "label": label, "boxes": [[0, 0, 0.5, 1]], **more}


def plain(dataset: Dataset, key: str) -> dict[str, Any]:
    return {name: getattr(v, "tolist", lambda v=v: v)() for name, v in dataset.get(key).items()}


@pytest.fixture
def photos(reg: Registry) -> Dataset:
    """Two samples of before the change, of which one is in a group."""
    dataset = reg.create("photos", PHOTOS)
    dataset.insert([photo("cat"), photo("dog")], keys=["a.png", "b.png"], groups=["g", None])
    return dataset


def change(dataset: Dataset) -> None:
    dataset.add_classes("label", ["lynx"])
    for name, (feature, default) in ADDED.items():
        dataset.add_feature(name, feature, default)


@pytest.mark.parametrize("form", WRITABLE)
def test_exports_of_before_and_after_a_change_make_the_same_samples(
    reg: Registry, url: str, photos: Dataset, form: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"key": "key", "options": {"group": "group"}}
    before, after, empty = (tmp_path / f"{name}.{form}" for name in ("before", "after", "empty"))
    other = registry.connect(url)
    old = other.open("photos")
    assert list(old.features) == list(PHOTOS)
    export_file(photos, before, form=form)
    change(photos)
    # With no row since, the present features are those of the export already.
    export_file(photos, empty, form=form)
    copy = reg.create("copy", photos.features)
    assert insert_file(copy, empty, form=form, **options).inserted == 2
    added = {"pose": [1, 2], "note": "new", "mask": b"1"}
    photos.insert([photo("lynx", **added)], keys=["c.png"])
    export_file(old, after, form=form)
    for path, unchanged in ((before, 2), (after, 3)):
        with closing(DryRun(reg.engine, photos)) as dry:
            for target in (dry, photos, old):
                report = insert_file(target, path, form=form, **options)
                assert (report.unchanged, report.revised, report.inserted) == (unchanged, 0, 0)
    assert insert_file(copy, after, form=form, **options).inserted == 1
    for key in ("a.png", "b.png", "c.png"):
        assert plain(copy, key) == plain(photos, key)
    assert plain(photos, "a.png")["pose"] == [0.5, 0.5]
    # An export of the version is as it was.
    export_file(reg.open("photos@2"), empty, form=form)
    assert insert_file(reg.create("old-copy", PHOTOS), empty, form=form, **options).inserted == 2
    other.close()


def test_an_import_continues_while_the_features_change(
    url: str, reg: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = reg.create("texts", {"text": Text(), "label": ClassLabel(["cat"])})
    path = tmp_path / "rows.jsonl"
    rows = [{"id": number, "text": f"t{number}", "label": "cat"} for number in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(batching, "BATCH_ROWS", 10)
    monkeypatch.setattr(batching, "PIECE_ROWS", 5)
    with registry.connect(url) as other:
        changed = other.open("texts")

        def change_it(count: int, _: int) -> None:
            changed.add_feature(f"n{count}", Tensor("int16"), count)

        assert insert_file(texts, path, key="id", progress=change_it).inserted == 40
    assert [page.schema.number for page in texts.pages()] == [0, 1, 2, 3]
    for number in (0, 15, 39):
        defaults = {f"n{count}": count for count in (10, 20, 30, 40)}
        assert plain(texts, str(number)) == {"text": f"t{number}", "label": 0, **defaults}
    assert insert_file(texts, path, key="id").unchanged == 40


@pytest.mark.parametrize("form", FOLDER_FORMATS)
def test_images_with_boxes_are_exported_and_imported_after_a_change(
    reg: Registry, photos: Dataset, form: str, tmp_path: Path
) -> None:
    del photos
    features = {"image": Image(), "boxes": PHOTOS["boxes"], "kinds": Ragged("int32")}
    boxed = reg.create("boxed", features)
    boxed.insert([{"image": PNG, "boxes": [[0, 0, 0.5, 1]], "kinds": [1]}], keys=["a"])
    boxed.add_feature("pose", Tensor("float32", (2,)), 0.5)
    boxed.add_feature("note", Text(), "none")
    assert export_folder(boxed, tmp_path / form, form=form) == 1
    mapping = {"image": "image", "boxes": "boxes", "kinds": "classes"}
    (path, *_) = sorted((tmp_path / form).rglob("*.json" if form == "coco" else "*.yaml"))
    assert insert_file(boxed, path, form=form, mapping=mapping).inserted == 1
    (key,) = {entry.key for entry in boxed.entries()} - {"a"}
    assert plain(boxed, key) == plain(boxed, "a")


def text_file(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def archive(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in (("1.png", PNG), ("1.cls", b"cat")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def folder(path: Path) -> None:
    (path / "cat").mkdir(parents=True)
    (path / "cat" / "1.png").write_bytes(PNG)


TEXTS: dict[str, Feature] = {"text": Text(), "label": ClassLabel(["cat", "dog"])}
NUMBERS: dict[str, Feature] = {"x": Tensor("int8")}
IMAGES: dict[str, Feature] = {"image": Image(), "label": ClassLabel(["cat", "dog"])}
ROW = {"text": "a", "label": "cat"}
FILES: dict[str, tuple[dict[str, Feature], Callable[[Path], object]]] = {
    "csv": (TEXTS, text_file("text,label\na,cat\n")),
    "jsonl": (TEXTS, text_file(json.dumps(ROW))),
    "json": (TEXTS, text_file(json.dumps([ROW]))),
    "npz": (NUMBERS, lambda path: np.savez(path, x=np.array([3], np.int8))),
    "tar": (IMAGES, archive),
    "images": (IMAGES, folder),
    "conll": ({"text": Text(), "spans": Ragged("int32")}, text_file("a B-PER\nb O\n")),
    "prodigy": (
        TEXTS,
        text_file(json.dumps({**ROW, "_input_hash": 1, "_task_hash": 2, "answer": "accept"})),
    ),
    "doccano": (TEXTS, text_file(json.dumps({"id": 1, "text": "a", "label": ["cat"]}))),
}


@pytest.mark.parametrize("form", FILES)
def test_a_file_may_lack_features_that_have_a_default(
    reg: Registry, form: str, tmp_path: Path
) -> None:
    features, write = FILES[form]
    dataset, path = reg.create("d", features), tmp_path / f"file.{form}"
    name = None if form in ("csv", "jsonl", "npz", "tar") else form
    write(path)
    assert insert_file(dataset, path, form=name).inserted == 1
    for feature in ("mask", "label 2", "note", "pose"):
        kind, default = {**ADDED, "mask": (Image(), PNG), "label 2": (ClassLabel(3), 2)}[feature]
        dataset.add_feature(feature, kind, default)
    # The keys are made of the same bytes as before.
    assert insert_file(dataset, path, form=name).unchanged == 1
    sample = plain(dataset, dataset.entries()[0].key)
    added = {"mask": PNG, "label 2": 2, "note": "none", "pose": [0.5, 0.5]}
    assert {name: sample[name] for name in added} == added
    # A path that is named must be there: misspelled, it would store the default everywhere.
    same = {"images": {"image": "image", "label": "class"}, "tar": {"image": "png"}}
    mapping = {**same.get(form, {}), "note": "nite"}
    with pytest.raises(ImportFileError, match="nite"):
        insert_file(dataset, path, form=name, mapping=mapping)
    assert dataset.head.position == 1


def test_a_tool_that_was_set_up_before_a_change_uses_what_was_added(
    url: str, reg: Registry
) -> None:
    """A process that has the dataset open, as a server has, follows changes of another one."""
    moods = reg.create("moods", {"text": Text(), "mood": ClassLabel(["bad", "good"])})
    other = registry.connect(url)
    served = other.open("moods")
    mapping = {"text": "data.text", "mood": "result.mood"}
    assert apply_event(served, mapping, event(1)).inserted == 1
    moods.add_classes("mood", ["odd"])
    moods.add_feature("page", Tensor("int8"), -1)
    # The same state again is the same sample, though its record is of an older schema.
    assert apply_event(served, mapping, event(1)).unchanged == 1
    assert moods.get(KEY)["page"] == -1
    assert apply_event(served, mapping, event(2, choice("odd"))).revised == 1
    assert plain(moods, KEY) == {"text": "a car", "mood": 2, "page": -1}
    moods.add_feature("sure", ClassLabel(["no", "yes"]), "yes")
    moods.add_feature("sheet", Tensor("int8"), -1)
    mapping |= {"page": "data.meta.page", "sure": "result.certainty", "sheet": "data.meta.sheet"}
    both = [choice("good"), choice("no", "certainty")]
    assert apply_event(served, mapping, event(3, *both)).revised == 1
    assert plain(moods, KEY) == {"text": "a car", "mood": 1, "page": 4, "sure": 0, "sheet": -1}
    # A question that is newer than an annotation is not answered there.
    assert apply_event(served, mapping, event(4, choice("good"))).revised == 1
    assert plain(moods, KEY)["sure"] == 1
    assert rejected_rows(moods, reg) == []
    other.close()


def test_of_two_states_of_one_time_the_same_one_wins_after_a_change(reg: Registry) -> None:
    moods = reg.create("moods", {"text": Text(), "mood": ClassLabel(["bad", "good"])})
    mapping = {"text": "data.text", "mood": "result.mood"}

    def written(text: str) -> dict[str, Any]:
        # Too long to be read with its key.
        return {**event(1), "task": {**event()["task"], "data": {"text": text * 200_000}}}

    apply_event(moods, mapping, written("b"))
    moods.add_feature("page", Tensor("int8"), -1)
    assert apply_event(moods, mapping, written("a")).unchanged == 1
    assert apply_event(moods, mapping, written("c")).revised == 1


@dataclass(frozen=True)
class ChangingMedia(MediaReader):
    """Adds a feature while an annotation is converted, before the lock is taken."""

    dataset: Dataset = field(kw_only=True)

    def load(self, text: str) -> bytes:
        number = len(self.dataset.features)
        self.dataset.add_feature(f"added {number}", Tensor("int8"), number)
        return text.encode()


def test_an_annotation_that_is_converted_while_the_features_change_is_the_same(
    url: str, reg: Registry
) -> None:
    scans = reg.create("scans", {"text": Text(), "mood": ClassLabel(["bad"]), "scan": Bytes()})
    mapping = {"text": "data.text", "mood": "result.mood", "scan": "data.text"}
    with registry.connect(url) as other:
        media = ChangingMedia(dataset=other.open("scans"))
        assert apply_event(scans, mapping, event(1), media=media).inserted == 1
        assert apply_event(scans, mapping, event(1), media=media).unchanged == 1
        assert apply_event(scans, mapping, event(2), media=media).unchanged == 1
    assert scans.head.position == 1
    added = {f"added {number}": number for number in (3, 4, 5)}
    assert plain(scans, KEY) == {"text": "a car", "mood": 0, "scan": b"a car", **added}


def test_annotators_answers_of_before_a_change_are_counted_with_later_ones(
    reg: Registry, tmp_path: Path
) -> None:
    moods = reg.create("moods", {"text": Text(), "mood": ClassLabel(["bad", "good"])})
    mapping = {"text": "data.text", "mood": "result.mood"}
    rule = ConsensusRule("majority")

    def labeled(number: int, *results: dict[str, Any]) -> dict[str, Any]:
        given = annotation(number, *results, id=number, completed_by=number)
        return {**event(), "annotation": given}

    for number in (1, 2):
        apply_event(moods, mapping, labeled(number, choice("good")), consensus=rule)
    moods.add_classes("mood", ["odd"])
    moods.add_feature("sure", ClassLabel(["no", "yes"]), "yes")
    mapping["sure"] = "result.certainty"
    key, position = "label-studio:2:task:19", moods.head.position
    again = apply_event(moods, mapping, labeled(2, choice("good")), consensus=rule)
    assert (again.unchanged, moods.head.position) == (1, position)
    odd = [choice("odd"), choice("no", "certainty")]
    # A default is no answer, and so there is no vote for it: that of the last two is for none.
    third = apply_event(moods, mapping, labeled(3, *odd), consensus=rule)
    # The sample is the same, though its record is of an older schema.
    assert (third.unchanged, moods.head.position) == (1, position)
    unsure = odd[:1]
    for number, answers, mood, sure in (
        (4, odd, None, None),
        (5, odd, 2, 0),
        (6, unsure, None, None),
        (7, unsure, 2, 1),
    ):
        apply_event(moods, mapping, labeled(number, *answers), consensus=rule)
        live = moods.latest(key)
        assert live is not None
        values = None if live.sample is None else (live.sample["mood"], live.sample["sure"])
        assert values == (None if mood is None else (mood, sure))
    task = {**event()["task"], "annotations": [labeled(7, *unsure)["annotation"]]}
    path = tmp_path / "project-2-at-1.json"
    path.write_text(json.dumps([task]))
    options: dict[str, Any] = {"consensus": rule, "retract": False}
    assert insert_export(moods, path, mapping, **options).unchanged == 1


def test_features_that_are_given_are_features() -> None:
    features = Features(NUMBERS)
    given = GivenFeatures(features, ["x"])
    assert given == features
    assert optional(given, {}) == {"x"}
    assert optional(given, {"x": "y"}) == optional(features, {}) == set()
