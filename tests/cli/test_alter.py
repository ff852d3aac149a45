"""The commands that add classes and features, and that fill a dataset without some of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import registry
from registry import ClassLabel, Ragged, Registry
from registry.samples.features import Feature
from tests.support.commands import run

FEATURES: dict[str, Feature] = {
    "label": ClassLabel(["cat", "dog"]),
    "kind": ClassLabel(3),
    "boxes": Ragged("float32", (4,)),
}
ADD, FEATURE, DEFAULT = "--add-class", "--add-feature", "--default"


@pytest.fixture
def pets(reg: Registry, url: str) -> str:
    """The URL of a database with a dataset of one sample."""
    sample = {"label": "cat", "kind": 0, "boxes": []}
    reg.create("pets", FEATURES).insert([sample], keys=["a"])
    return url


def test_what_a_command_adds_is_in_one_schema(pets: str, reg: Registry, tmp_path: Path) -> None:
    first = run(
        "alter",
        "pets",
        *(ADD, "label=lynx,puma", ADD, "kind=2", ADD, 'label=["a, b"]'),
        *(FEATURE, "pose=float32[2]", DEFAULT, "pose=0"),
        *(FEATURE, "note=text", DEFAULT, "note=3"),
        *(FEATURE, "side=class:left,right", DEFAULT, "side=right"),
        *(FEATURE, "far=float64", DEFAULT, "far=nan"),
        *(FEATURE, "crop=int8[2,2]", DEFAULT, "crop=[[1,2],[3,4]]"),
        *(FEATURE, "raw=bytes", DEFAULT, "raw=AAE="),
        url=pets,
    ).stdout.split("\n")
    assert first[0].split() == ["schema", "1,", "since", "position", "1"]
    added = (
        "label: + lynx, puma, a, b; kind: + 2 classes; + pose=float32[2], default 0.0; "
        "+ note=text, default 3; + side=class:left,right, default right; "
        "+ far=float64, default NaN; + crop=int8[2,2], default [[1, 2], [3, 4]]; "
        "+ raw=bytes, default AAE="
    )
    assert first[1].split(maxsplit=1)[1].strip() == added
    assert len(first[2:]) == 10
    sample = reg.open("pets").get("a")
    assert sample["crop"].tolist() == [[1, 2], [3, 4]]
    assert (sample["note"], sample["side"], sample["raw"]) == ("3", 1, b"\0\1")
    shown = json.loads(run("show", "pets", "--json", url=pets).stdout)
    assert (shown["schema"], shown["changes"]) == (1, [{"schema": 1, "since": 1, "added": added}])
    assert f"changes    schema 1, since position 1: {added}" in run("show", "pets", url=pets).stdout
    printed = json.loads(run("alter", "pets", ADD, "label=wolf", "--json", url=pets).stdout)
    assert (printed["schema"], printed["since"], printed["added"]) == (2, 1, "label: + wolf")
    pose = {"name": "pose", "kind": "Tensor", "dtype": "float32", "shape": [2], "default": 0.0}
    assert printed["features"][3] == shown["features"][3] == pose
    assert "changes" not in run("show", "pets@1", url=pets).stdout
    # No row is of the features that an export has.
    run("export", "pets", tmp_path / "pets.jsonl", url=pets)
    assert json.loads((tmp_path / "pets.jsonl").read_text())["pose"] == [0, 0]


WRONG: dict[str, tuple[list[str], int]] = {
    "give at least one": ([], 2),
    "needs a value for the samples": ([FEATURE, "x=int8"], 2),
    "'x' is not added": ([DEFAULT, "x=3"], 2),
    "'x' is given twice": ([FEATURE, "x=int8", FEATURE, "x=int16", DEFAULT, "x=3"], 2),
    "is not NAME=VALUE": ([ADD, "lynx"], 2),
    "is not JSON": ([ADD, "label=[x"], 2),
    "is no list of names": ([ADD, "label=[1]"], 2),
    "is not a feature": ([FEATURE, "x=int9000[", DEFAULT, "x=3"], 1),
    "300 does not fit int8": ([FEATURE, "x=int8", DEFAULT, "x=300"], 1),
    "'nan' is not a whole number": ([FEATURE, "x=int8", DEFAULT, "x=nan"], 1),
    "shape (1,) is not (2,)": ([FEATURE, "x=int8[2]", DEFAULT, "x=[1]"], 1),
    "is not base64": ([FEATURE, "x=image", DEFAULT, "x=blank.png"], 1),
    "'c' is not a class": ([FEATURE, "x=class:a,b", DEFAULT, "x=c"], 1),
    "there is a feature 'boxes' already": ([FEATURE, "boxes=int8", DEFAULT, "boxes=3"], 1),
    "has the class 'cat' already": ([ADD, "label=cat"], 1),
    "'lable' is no feature": ([ADD, "lable=lynx"], 1),
    "'boxes' is no ClassLabel": ([ADD, "boxes=lynx"], 1),
    "give how many to add": ([ADD, "kind=lynx"], 1),
    "cannot be empty": ([ADD, "label="], 1),
    "'2' is a number; name the classes to add": ([ADD, "label=2"], 1),
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_does_not_fit_is_named_and_nothing_is_added(sqlite_url: str, reason: str) -> None:
    options, code = WRONG[reason]
    with registry.connect(sqlite_url) as reg:
        pets = reg.create("pets", FEATURES)
        sound = [FEATURE, "y=text", DEFAULT, "y=z"] if options else []
        result = run("alter", "pets", *sound, *options, url=sqlite_url, code=code)
        assert reason in " ".join(result.stderr.replace("│", "").split())
        assert pets.head.schema == 0
        assert list(reg.open("pets").features) == list(FEATURES)


def test_a_version_is_not_altered_and_the_copy_command_fills_a_new_dataset(
    pets: str, reg: Registry
) -> None:
    refused = run("alter", "pets@1", ADD, "label=lynx", url=pets, code=1)
    assert "never changes; open 'pets' instead" in refused.stderr
    options = ("--into", "tags", "--drop-feature", "boxes", "--rename-feature", "kind=side")
    line = run("copy", "pets", *options, url=pets).stdout
    assert line.startswith("tags: 1 row of pets read: 1 inserted, 0 revised, 0 retracted, ")
    assert list(reg.open("tags").features) == ["label", "side"]
    again = json.loads(run("copy", "pets", *options, "--json", url=pets).stdout)
    assert (again["rows"], again["version"]) == (0, str(reg.open("tags").version))
    for arguments, reason in (
        (("pets",), "name the database to copy to"),
        (("pets", "sqlite:///x.db", "--into", "x"), "name one dataset"),
        (("sqlite:///x.db", "sqlite:///y.db", "--drop-feature", "x"), "goes with --into"),
    ):
        assert reason in run("copy", *arguments, url=pets, code=2).stderr
    unknown = run("copy", "pets", "--into", "x", "--drop-feature", "box", url=pets, code=1)
    assert "'box' is no feature; the features are 'label', 'kind', 'boxes'" in unknown.stderr
    assert reg.names() == ["pets", "tags"]
