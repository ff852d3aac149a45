"""``registry run create``: conditions in their text form, and what is shown of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

import registry
from registry import ClassLabel, Dataset, Registry, Tensor, Text
from tests.support.commands import run


@pytest.fixture
def animals(sqlite_url: str) -> Iterator[Dataset]:
    with registry.connect(sqlite_url) as reg:
        yield create(reg)


def create(reg: Registry) -> Dataset:
    dataset = reg.create(
        "animals",
        {
            "label": ClassLabel(["cat", "lynx", "7", "a,b"]),
            "score": Tensor("float32"),
            "age": Tensor("int8"),
            "tame": Tensor("bool"),
            "note=1": Text(),
        },
        splits={"train": 0.5, "test": 0.5},
    )
    sample = {"label": 0, "score": 0.75, "age": -1, "tame": True, "note=1": "a..b"}
    dataset.insert([sample, {**sample, "label": 1}, {**sample, "score": 0.5}], source="team-a")
    return dataset


@pytest.mark.parametrize(
    ("texts", "where"),
    [
        ([], {}),
        (["label=cat,lynx"], {"label": ["cat", "lynx"]}),
        (["label=7", "label=1"], {"label": ["lynx", "7"]}),
        (['label=["a,b"]'], {"label": ["a,b"]}),
        (["score=0.5.."], {"score": (0.5, None)}),
        (["score=..0.9", "age=-2..65"], {"score": (None, 0.9), "age": (-2, 65)}),
        (["age=1,-2", "tame=true"], {"age": [-2, 1], "tame": [True]}),
        (["note=1=a..b,"], {"note=1": ["", "a..b"]}),
        (['source=[null,"team-a"]', "source=team-b"], {"source": [None, "team-a", "team-b"]}),
    ],
)
def test_conditions_have_a_text_form(
    animals: Dataset, sqlite_url: str, texts: list[str], where: dict[str, object]
) -> None:
    options = [option for text in texts for option in ("--where", text)]
    created = run("run", "create", "animals", "r", *options, url=sqlite_url).stdout
    assert created.startswith("created: run r of animals, seed 0, policy all, split (all samples)")
    assert animals.run("r").where == where
    again = run("run", "create", "animals", "r", *options, url=sqlite_url).stdout
    assert again == created.replace("created", "exists already")


def test_a_created_run_is_shown_with_its_conditions(animals: Dataset, sqlite_url: str) -> None:
    settings = ["--seed", 3, "--policy", "replay:0.5", "--split", "train", "--where", "age=..0"]
    created = run("run", "create", "animals", "r", *settings, url=sqlite_url).stdout
    assert created.endswith("seed 3, policy replay:0.5, split train, where age < 0\n")
    (listed,) = json.loads(run("run", "ls", "animals", "--json", url=sqlite_url).stdout)
    assert listed["where"] == {"features": {"age": {"from": None, "until": 0}}}
    assert "age < 0" in run("run", "ls", "animals", url=sqlite_url).stdout
    shown = run("run", "show", "animals", "r", url=sqlite_url).stdout
    assert ["where", "age", "<", "0"] in [line.split() for line in shown.splitlines()]
    assert animals.run("r").policy.ratio == 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "label"], "'label' is not NAME=VALUES"),
        (["--where", "=cat"], "'=cat' is not NAME=VALUES"),
        (["--where", "colour=red"], "names 'colour', which is no feature"),
        (["--where", "label=bird"], "'bird' is no class; the classes are 'cat', 'lynx'"),
        (["--where", "label=["], r"'\[' is not JSON"),
        (["--where", "score=high"], "'high' is no float32; write numbers as 1,2"),
        (["--where", "age=0.5"], "'0.5' is no int8"),
        (["--where", "age=5..5"], "no int8 is at least 5 and below 5"),
        (["--where", "age=0..", "--where", "age=..9"], "'age' has another interval"),
        (["--where", "tame=yes"], "'yes' is no bool"),
        (["--policy", "newest"], "'newest' is no policy; write all, new or replay:0.5"),
        (["--policy", "replay:much"], "'replay:much' is no policy"),
    ],
)
def test_what_is_no_setting_creates_no_run(
    animals: Dataset, sqlite_url: str, options: list[str], message: str
) -> None:
    code = 1 if "no feature" in message or "classes" in message or "at least" in message else 2
    refused = run("run", "create", "animals", "r", *options, url=sqlite_url, code=code)
    assert re.search(message, " ".join(refused.stderr.replace("│", " ").split()))
    assert animals.runs() == []
