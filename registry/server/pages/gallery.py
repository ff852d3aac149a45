"""Samples on pages: cards of a gallery, and what they are filtered by."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, get_args

from registry.catalog.browse import ListedSample, find_samples
from registry.catalog.dataset import Dataset
from registry.catalog.sample_history import ListedRevision, find_keys, newest_of_keys
from registry.html.drawings import GALLERY, Drawing, Style
from registry.html.samples import draw_sample
from registry.samples.box_formats import BOX_FORMATS, BoxFormat
from registry.samples.buckets import buckets
from registry.samples.features import ClassLabel, Features
from registry.server.pages.paths import picture_path, sample_path
from registry.server.problems import Problem

CARDS: Final = 24
"""Samples of a page."""
_SECONDS: Final = 0.2
"""How long one request looks for samples that are rare."""
_CLASS: Final = "class."
"""What the name of a parameter begins with that has the class of a feature."""
NO_SOURCE_VALUE: Final = "none:"
"""The value of the parameter for rows that have no source."""


@dataclass(frozen=True)
class Query:
    """What samples are looked for: the parameters of a page's URL."""

    classes: Mapping[str, str] = field(default_factory=dict)
    """The class, by feature."""
    source: str = ""
    split: str = ""
    key: str = ""
    """The beginning of the keys."""
    boxes: BoxFormat | None = None
    before: int | None = None
    style: Style = GALLERY

    @classmethod
    def of(cls, parameters: Iterable[tuple[str, str]], before: int | None) -> Query:
        """Return the query of a URL's parameters; those without a value do not count."""
        given = {name: value for name, value in parameters if value}
        boxes = given.get("boxes")
        if boxes is not None and boxes not in BOX_FORMATS:
            known = ", ".join(get_args(BoxFormat))
            raise Problem(422, f"boxes of the format {boxes!r:.140}: use one of {known}")
        return cls(
            classes={n.removeprefix(_CLASS): v for n, v in given.items() if n.startswith(_CLASS)},
            source=given.get("source", ""),
            split=given.get("split", ""),
            key=given.get("key", ""),
            boxes=boxes,
            before=before,
        )

    @property
    def narrows(self) -> bool:
        """Whether any sample may be left out."""
        return bool(self.classes or self.source or self.split)

    def parameters(self, before: int | None = None) -> dict[str, str | int | None]:
        """Return the parameters of the URL with this query, from another position on."""
        return {
            **{f"{_CLASS}{name}": value for name, value in self.classes.items()},
            "source": self.source,
            "split": self.split,
            "key": self.key,
            "boxes": self.boxes,
            "before": before,
        }

    def as_named(self, features: Features, splits: Iterable[str], sources: Iterable[str]) -> Query:
        """Return the query with names as they are here, of which forms change line breaks."""
        return replace(
            self,
            classes={
                name: _named(value, getattr(features.get(name), "names", None) or ())
                for name, value in self.classes.items()
            },
            source=_named(self.source, sources),
            split=_named(self.split, splits),
        )

    def where(self, features: Features) -> dict[str, Any] | None:
        """Return the conditions as `find_samples` takes them."""
        where: dict[str, Any] = {}
        for name, value in self.classes.items():
            feature = features.get(name)
            if not isinstance(feature, ClassLabel):
                raise Problem(422, f"{name!r:.140} is no feature with classes")
            where[name] = [value if feature.names else _index(name, value)]
        if self.source:
            where["source"] = [None if self.source == NO_SOURCE_VALUE else self.source]
        return where or None


@dataclass(frozen=True)
class Card:
    """A sample of a gallery. ``state`` says why there is nothing to draw."""

    url: str
    key: str
    position: int
    source: str | None
    split: str | None
    created_at: Any
    drawings: Sequence[Drawing] = ()
    state: str = ""


@dataclass(frozen=True)
class Cards:
    """The cards of a page. ``following`` is where the next page begins, None after the last one.

    ``searched`` says that the search ended there before the page was full.
    """

    cards: Sequence[Card]
    following: int | None = None
    searched: bool = False


def cards_of(dataset: Dataset, name: str, query: Query, limit: int = CARDS) -> Cards:
    """Return the samples that a query looks for, the newest first; by their keys if it has one."""
    if query.key:
        keys = find_keys(dataset, query.key, limit=CARDS)
        revisions = newest_of_keys(dataset, keys)
        return Cards([_card_of_revision(dataset, name, query, each) for each in revisions])
    samples: list[ListedSample] = []
    where, until = query.where(dataset.features), time.monotonic() + _SECONDS
    cursor = query.before
    while True:
        page = find_samples(
            dataset,
            where=where,
            split=query.split or None,
            before=cursor,
            limit=limit - len(samples),
            seconds=until - time.monotonic(),
        )
        samples += page.samples
        cursor = page.cursor
        full = len(samples) >= limit
        if cursor is None or full or time.monotonic() > until:
            break
    cards = [_card(dataset, name, query, each) for each in samples]
    # Without a condition, a page is short only where its samples are large, or none is live.
    searched = (query.narrows or not samples) and cursor is not None and not full
    return Cards(cards, cursor, searched=searched)


def _card(dataset: Dataset, name: str, query: Query, sample: ListedSample) -> Card:
    return Card(
        sample_path(name, sample.key),
        sample.key,
        sample.position,
        sample.source,
        sample.split,
        sample.created_at,
        _drawn(dataset, name, query, sample.position, sample.values),
    )


def _card_of_revision(dataset: Dataset, name: str, query: Query, revision: ListedRevision) -> Card:
    entry = revision.entry
    bucket = int(buckets([entry.key], [entry.group])[0])
    splits = dataset.splits.items()
    split = next((each for each, (low, high) in splits if low <= bucket < high), None)
    url = sample_path(name, entry.key)
    card = Card(url, entry.key, entry.position, entry.source, split, entry.created_at)
    if revision.sample is None:
        erased = "erased" if entry.erased else "too large to be drawn here"
        return replace(card, state="retracted" if entry.action == "retract" else erased)
    drawings = _drawn(dataset, name, query, entry.position, revision.sample)
    return replace(card, drawings=drawings)


def _drawn(
    dataset: Dataset, name: str, query: Query, position: int, values: Mapping[str, Any]
) -> list[Drawing]:
    base = name.partition("@")[0]
    style = replace(
        query.style,
        form=query.boxes,
        # Twice as many pixels, for screens that have them.
        address=lambda feature: picture_path(
            base, position, feature, 2 * query.style.side, within=True
        ),
    )
    return draw_sample(dataset.features, values, style)


def _named(text: str, names: Iterable[str]) -> str:
    """Return the name that a form sends as ``text``: with CR LF for each line break of it."""
    if "\n" not in text or text in (known := list(names)):
        return text
    return next((each for each in known if re.sub(r"\r\n?|\n", "\r\n", each) == text), text)


def _index(name: str, value: str) -> int:
    if not value.isdecimal() or len(value) > 10:
        raise Problem(422, f"the classes of {name!r:.140} have numbers, not {value!r:.140}")
    return int(value)
