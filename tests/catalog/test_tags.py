"""Tags: names for versions, which do not move by themselves."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from registry import Dataset, Registry, Tensor, Text
from registry.errors import DatasetDroppedError, DatasetNotFoundError, TagError, VersionError
from tests.support.datasets import FIXED, digit


@pytest.fixture
def grown(digits: Dataset) -> Dataset:
    """A dataset of 6 rows and 4 samples."""
    digits.insert([digit(n) for n in range(4)], keys=[f"k{n}" for n in range(4)])
    digits.update("k1", label=9)
    digits.retract("k2")
    digits.insert([digit(7)], keys=["k2"])
    digits.retract("k3")
    return digits


def test_a_tag_opens_the_version_that_it_was_set_at(reg: Registry, grown: Dataset) -> None:
    before = str(grown.version)
    tag = grown.tag("gold", note="as in the paper")
    assert (tag.name, tag.position, str(tag.version), tag.live) == ("gold", 8, before, 3)
    assert abs(tag.created_at - datetime.now(UTC)) < timedelta(hours=1)
    first = grown.tag("v1.0-ä", at=5)
    assert (first.position, first.live, first.note) == (5, 4, "")
    assert first.version == reg.open("digits@5").version
    grown.insert([digit(8)])
    assert grown.tags() == [first, tag]
    gold = reg.open("digits@gold")
    assert (str(gold.version), len(gold), repr(gold)) == (before, 3, f"<dataset '{before}'>")
    assert gold.version == tag.version == reg.open(before).version
    assert reg.open("digits@v1.0-ä").version == first.version
    with pytest.raises(VersionError, match="never changes; open 'digits' instead"):
        gold.insert([digit(9)])


def test_a_version_is_tagged_as_it_is(reg: Registry, grown: Dataset) -> None:
    version = reg.open("digits@5")
    assert version.tag("early").version == version.version
    assert version.tag("earlier", at=2).position == 2
    assert [tag.name for tag in version.tags()] == ["earlier", "early"]
    with pytest.raises(VersionError, match=re.escape("has versions at 0 to 5, not at 6")):
        version.tag("late", at=6)
    assert reg.open("digits@0").tag("empty").live == 0
    assert len(grown.tags()) == 3


def test_a_tag_moves_only_when_it_is_asked_to(reg: Registry, grown: Dataset) -> None:
    tag = grown.tag("gold", at=5, note="first")
    opened = reg.open("digits@gold")
    assert grown.tag("gold", at=5) == tag
    assert grown.tag("gold", at=5, note="better").note == "better"
    with pytest.raises(TagError, match=f"'gold' of 'digits' points to {tag.version}, and not to "):
        grown.tag("gold")
    assert [(each.position, each.note) for each in grown.tags()] == [(5, "better")]
    moved = grown.tag("gold", move=True)
    assert (moved.position, moved.live, moved.note) == (8, 3, "")
    assert grown.tags() == [moved]
    assert (opened.version, len(opened)) == (tag.version, 4)
    grown.untag("gold")
    assert grown.tags() == []
    assert (opened.version, len(list(opened.pages()))) == (tag.version, 1)
    assert grown.tag("gold").position == 8


def test_a_tag_keeps_the_features_that_there_were(reg: Registry, grown: Dataset) -> None:
    old = grown.tag("old")
    grown.add_feature("score", Tensor("float32"), default=0.5)
    assert "score" not in reg.open("digits@old").features
    assert grown.tag("at", at=8).version == old.version == reg.open("digits@8").version
    with pytest.raises(
        TagError, match=r"points to .*, and not to the same position with other fea"
    ):
        grown.tag("old")
    new = grown.tag("new")
    assert (str(new.version), new.version == old.version) == (str(old.version), False)
    grown.insert([{**digit(9), "score": 1.0}])
    grown.add_feature("note", Text(), default="")
    tagged = reg.open("digits@new")
    assert [*tagged.features] == [*FIXED, "score"]
    assert tagged.version == new.version == tagged.tag("same").version
    assert tagged.get("k0")["score"] == 0.5
    assert [*reg.open("digits@9").features] == [*FIXED, "score"]
    assert [*grown.features] == [*FIXED, "score", "note"]


def test_an_unknown_tag_raises_with_the_tags_that_there_are(reg: Registry, grown: Dataset) -> None:
    with pytest.raises(TagError, match="'digits' has no tag 'gold'; it has none; set one by"):
        reg.open("digits@gold")
    for name in ("gold", "v1", "v2"):
        grown.tag(name)
    hint = "did you mean 'gold'\\? its tags are 'gold', 'v1', 'v2'$"
    for wrong in (lambda: reg.open("digits@gould"), lambda: grown.untag("gould")):
        with pytest.raises(TagError, match=f"'digits' has no tag 'gould'; {hint}") as caught:
            wrong()
        assert caught.value.tag == "gould"
    with pytest.raises(DatasetNotFoundError, match="no dataset named 'digit'; did you mean"):
        reg.open("digit@gold")
    reg.create("other", FIXED)
    with pytest.raises(TagError, match="'other' has no tag 'gold'; it has none"):
        reg.open("other@gold")


@pytest.mark.parametrize("name", ["", "1500", "٣", "a b", "a:b", "x" * 129, "gold@2", None, 7])
def test_a_name_that_could_be_something_else_is_no_tag(grown: Dataset, name: Any) -> None:
    for wrong in (lambda: grown.tag(name), lambda: grown.untag(name)):
        with pytest.raises(TagError, match=f"{name!r} cannot be a tag; use 1 to 128 letters"):
            wrong()
    assert grown.tags() == []


def test_what_is_not_in_the_log_is_not_tagged(reg: Registry, grown: Dataset) -> None:
    for position in (9, -1, 1 << 70):
        with pytest.raises(
            VersionError, match=re.escape(f"has versions at 0 to 8, not at {position}")
        ):
            grown.tag("gold", at=position)
    with pytest.raises(TagError, match="the note of tag 'gold' cannot hold"):
        grown.tag("gold", note="a\0b")
    with pytest.raises(VersionError, match="never changes; open 'digits' instead"):
        reg.open("digits@3").untag("gold")
    assert grown.tags() == []


def test_a_tag_of_another_history_is_not_opened(reg: Registry, grown: Dataset) -> None:
    grown.tag("gold", at=5)
    grown.tag("late")
    with reg.engine.begin() as connection:
        connection.execute(text("UPDATE tags SET position = 7 WHERE name = 'gold'"))
        connection.execute(text("UPDATE tags SET position = 9 WHERE name = 'late'"))
    with pytest.raises(VersionError, match=r"has [0-9a-f]{32} there, another history") as caught:
        reg.open("digits@gold")
    assert "tag 'gold' was set there at 20" in caught.value.__notes__[0]
    with pytest.raises(VersionError, match="'digits' ends at position 8"):
        reg.open("digits@late")


def test_positions_are_opened_with_or_without_their_chain(reg: Registry, grown: Dataset) -> None:
    whole = str(reg.open("digits@5").version)
    assert re.fullmatch("digits@5:[0-9a-f]{32}", whole)
    for text_form in (whole, whole[:17], f"{whole[:17]}…"):
        assert str(reg.open(text_form).version) == whole
    assert str(reg.open("digits@8").version) == str(grown.version)
    assert len(reg.open("digits@0")) == 0
    with pytest.raises(VersionError, match="does not hold digits@9: 'digits' ends at position 8"):
        reg.open("digits@9")
    for wrong in ("digits@", "@gold", "digits@gold:9f86d081", "digits@5:", "digits@5:12", "a@b@c"):
        with pytest.raises(VersionError, match="is not a dataset version; write name@tag, "):
            reg.open(wrong)


def test_of_two_calls_at_once_one_sets_the_tag(grown: Dataset) -> None:
    def tag(position: int) -> int | None:
        try:
            return grown.tag("gold", at=position).position
        except TagError:
            return None

    with ThreadPoolExecutor(4) as pool:
        tagged = list(pool.map(tag, range(8)))
    assert sorted(position for position in tagged if position is not None) == [
        each.position for each in grown.tags()
    ]


def test_a_dropped_dataset_leaves_no_tags(reg: Registry, grown: Dataset) -> None:
    grown.tag("gold")
    version = reg.open("digits@gold")
    reg.drop("digits")
    # All that this needs to know of the version was read before.
    with pytest.raises(DatasetDroppedError):
        version.tag("late")
    assert reg.create("digits", FIXED).tags() == []
    with reg.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM tags")) == 0
