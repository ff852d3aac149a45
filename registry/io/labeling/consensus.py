"""Consensus: the values of a task's sample, decided from the annotations of all its annotators.

The decision is a function of the set of votes alone. It does not depend on the order in which the
annotations arrived, nor on the clock.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

Method = Literal["majority", "latest", "unanimous"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class ConsensusRule:
    """How the annotations of a task become one sample.

    ``majority`` takes for each answered feature the value that more than half of the annotators
    gave, ``unanimous`` the value that all of them gave, and ``latest`` the values of the newest
    annotation. A task with fewer than ``min_annotators`` annotators has no sample yet.
    """

    method: Method = "majority"
    min_annotators: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"consensus {self.method!r:.200} is none of {', '.join(METHODS)}")
        if self.min_annotators < 1:
            raise ValueError(f"min_annotators is at least 1, not {self.min_annotators}")


@dataclass(frozen=True)
class Consensus:
    """A rule, and the names of the features that are voted on: class labels and texts."""

    rule: ConsensusRule
    voted: Sequence[str]


@dataclass(frozen=True)
class Vote:
    """The newest state of one annotation, with the values that the annotator gave.

    The values are in the JSON form of samples. An ``annotator`` of None is unknown, and counts as
    different from every other.
    """

    annotation: str
    annotator: str | None
    updated_at: datetime
    answers: Mapping[str, Any]

    @property
    def age(self) -> tuple[datetime, str]:
        """Sorts votes from the oldest to the newest, always in the same order."""
        return self.updated_at, self.annotation


@dataclass(frozen=True)
class Decision:
    """The result of a vote: the answers that are taken, or None if the task has no sample.

    ``disagreement`` says why the annotators' answers make no sample; it is None if there are not
    enough annotators yet. ``annotator`` is the one whose annotation was taken, or None if several
    were counted.
    """

    answers: Mapping[str, Any] | None = None
    annotator: str | None = None
    disagreement: str | None = None


def decide(consensus: Consensus, votes: Iterable[Vote]) -> Decision:
    """Decide what the sample of a task is, from the votes of all its annotations."""
    rule = consensus.rule
    counted = _newest_of_each_annotator(votes)
    if len(counted) < rule.min_annotators or not counted:
        return Decision()
    newest = counted[-1]
    if rule.method == "latest":
        return Decision(newest.answers, newest.annotator)
    agreed: dict[str, str] = {}
    disagreements = []
    # A feature that nobody answered takes its value from the task.
    answered = {name for vote in counted for name in vote.answers}
    for name in consensus.voted:
        if name not in answered:
            continue
        tally = Counter(_comparable(vote.answers.get(name)) for vote in counted)
        # Sorted: of equally frequent values, `most_common` returns the one counted first.
        value, count = Counter(dict(sorted(tally.items()))).most_common(1)[0]
        needed = len(counted) if rule.method == "unanimous" else len(counted) // 2 + 1
        if count < needed:
            disagreements.append(f"{name}: {_described(name, counted)}")
        else:
            agreed[name] = value
    if disagreements:
        return Decision(
            disagreement=f"{len(counted)} annotators do not agree, and the consensus is "
            f"{rule.method}; {'; '.join(disagreements)}"
        )
    answers = _nearest(counted, agreed).answers
    values = {name: json.loads(value) for name, value in agreed.items()}
    # An agreed null is a feature that most of them left to the task's data.
    given = {name: value for name, value in values.items() if value is not None}
    annotator = newest.annotator if len(counted) == 1 else None
    return Decision({**answers, **given}, annotator)


def _newest_of_each_annotator(votes: Iterable[Vote]) -> list[Vote]:
    """Return the votes that count, oldest first: the newest of each annotator."""
    newest: dict[str, Vote] = {}
    for vote in sorted(votes, key=lambda vote: vote.age):
        # Prefixed: an annotation of an unknown annotator may be named like an annotator.
        voter = f"annotation {vote.annotation}"
        newest[voter if vote.annotator is None else f"annotator {vote.annotator}"] = vote
    return sorted(newest.values(), key=lambda vote: vote.age)


def _nearest(counted: Sequence[Vote], agreed: Mapping[str, str]) -> Vote:
    """Return the newest of the votes that have the most of the agreed answers."""

    # Values that are not voted on (boxes, numbers) all come from this one: those of several
    # annotators do not fit together.
    def agreement(vote: Vote) -> tuple[int, tuple[datetime, str]]:
        same = sum(_comparable(vote.answers.get(name)) == value for name, value in agreed.items())
        return same, vote.age

    return max(counted, key=agreement)


def _described(name: str, counted: Sequence[Vote]) -> str:
    """Return who gave which value, the most frequent values first."""
    voters: dict[str, list[str]] = {}
    for vote in counted:
        voter = f"annotation {vote.annotation}" if vote.annotator is None else vote.annotator
        voters.setdefault(_comparable(vote.answers.get(name)), []).append(voter)
    ordered = sorted(voters.items(), key=lambda each: (-len(each[1]), each[0]))
    return ", ".join(f"{value:.60} by {' and '.join(sorted(who))}" for value, who in ordered)


def _comparable(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
