"""The consensus of a task's annotators, against a simple model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.io.labeling.consensus import Consensus, ConsensusRule, Decision, Method, Vote, decide

VOTED = ("mood", "note", "text")
START = datetime(2026, 1, 1, tzinfo=UTC)


@st.composite
def vote_lists(draw: st.DrawFn) -> list[Vote]:
    count = draw(st.integers(0, 7))
    return [
        Vote(
            annotation=str(number),
            annotator=draw(st.sampled_from([None, "1", "2", "3", "4"])),
            updated_at=START + timedelta(minutes=draw(st.integers(0, 3))),
            answers={
                "mood": draw(st.sampled_from(["bad", "good", "odd"])),
                "note": draw(st.sampled_from(["", "x"])),
                "spans": [number],
            },
        )
        for number in range(count)
    ]


def vote(number: int, mood: str, *, annotator: str | None = None, minute: int = 0) -> Vote:
    answers = {"mood": mood, "note": "", "spans": [number]}
    moment = START + timedelta(minutes=minute)
    return Vote(str(number), annotator or str(number), moment, answers)


def mood(method: Method, votes: Sequence[Vote], **options: int) -> object:
    decision = decide(Consensus(ConsensusRule(method, **options), VOTED), votes)
    return decision.answers["mood"] if decision.answers is not None else decision.disagreement


@given(vote_lists(), st.sampled_from(get_args(Method)), st.integers(1, 4), st.randoms())
def test_a_decision_agrees_with_a_simple_model_in_any_order(
    votes: list[Vote], method: Method, least: int, shuffler: random.Random
) -> None:
    rule = ConsensusRule(method, least)
    decision = decide(Consensus(rule, VOTED), votes)
    shuffler.shuffle(votes)
    assert decide(Consensus(rule, VOTED), votes) == decision
    newest: dict[object, Vote] = {}
    for each in sorted(votes, key=lambda vote: (vote.updated_at, vote.annotation)):
        newest[each.annotator or id(each)] = each
    counted = sorted(newest.values(), key=lambda vote: (vote.updated_at, vote.annotation))
    if len(counted) < least:
        assert decision == Decision()
        return
    if method == "latest":
        assert decision.answers == counted[-1].answers
        return
    for name in ("mood", "note"):
        given = [vote.answers[name] for vote in counted]
        share = max(given.count(value) / len(given) for value in given)
        if not (share == 1 if method == "unanimous" else share > 0.5):
            assert decision.answers is None
            assert name in str(decision.disagreement)
            return
    assert decision.answers is not None
    for name in ("mood", "note"):
        assert [vote.answers[name] for vote in counted].count(decision.answers[name]) > (
            len(counted) / 2
        )
    # A value that is not voted on comes from one of the annotations that were counted.
    assert decision.answers["spans"] in [vote.answers["spans"] for vote in counted]


def test_a_majority_is_of_more_than_half_of_the_annotators() -> None:
    two_of_three = [vote(1, "good"), vote(2, "bad"), vote(3, "good")]
    assert mood("majority", two_of_three) == "good"
    tie = mood("majority", [*two_of_three, vote(4, "bad")])
    assert tie == (
        '4 annotators do not agree, and the consensus is majority; mood: "bad" by 2 and 4, '
        '"good" by 1 and 3'
    )
    assert "do not agree" in str(mood("unanimous", two_of_three))


def test_an_annotator_has_one_vote_which_is_the_newest() -> None:
    changed = [vote(1, "good", annotator="7"), vote(2, "bad", annotator="7", minute=1)]
    assert mood("unanimous", changed) == "bad"
    assert mood("majority", changed, min_annotators=2) is None
    assert mood("majority", [*changed, vote(3, "bad")], min_annotators=2) == "bad"


def test_values_that_are_not_voted_on_come_from_an_annotation_of_the_majority() -> None:
    votes = [vote(1, "good"), vote(2, "good", minute=1), vote(3, "bad", minute=2)]
    decision = decide(Consensus(ConsensusRule(), VOTED), votes)
    assert decision.answers is not None
    assert decision.answers["spans"] == [2]
    assert decision.annotator is None
    assert decide(Consensus(ConsensusRule(), VOTED), votes[:1]).annotator == "1"


@pytest.mark.parametrize(("method", "least"), [("most", 1), ("majority", 0)])
def test_a_rule_that_means_nothing_is_refused(method: Method, least: int) -> None:
    with pytest.raises(ValueError, match=r"consensus 'most'|at least 1"):
        ConsensusRule(method, least)
