"""Cards: what a notebook shows of an object, self-contained and without scripts.

A card is at most `LARGEST` bytes: pictures are part of it, and notebooks are kept in version
control. What does not fit is left out, samples first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from registry.errors import RegistryError
from registry.html.chart import Chart
from registry.samples.features import Feature

if TYPE_CHECKING:
    from registry.html.drawings import Drawing

_PACKAGES = ("jinja2", "PIL")
LARGEST = 100_000
"""Bytes of a card."""
MOST_SAMPLES = 8
_MOST_ROWS, _FEW_ROWS = 50, 10
"""Features, and rows of a table, that a card shows."""
_MOST_DRAWN_FEATURES = 16
"""Features that are drawn, some as parts of an image."""
_MOST_DRAWINGS = 4
"""Values of a sample that are drawn."""
_SIDE = 96
_CHARACTERS = 80

Fact: TypeAlias = tuple[str, object]
"""A name and its value: text, or HTML that is safe."""


@dataclass(frozen=True)
class CardSample:
    """A sample of a card, with ``notes`` such as its key."""

    notes: Sequence[str]
    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class CardTable:
    """A table of a card; ``numeric`` are the indexes of columns of numbers.

    ``more`` is the number of rows that are left out.
    """

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric: Sequence[int] = ()
    more: int = 0

    def limited(self, count: int) -> CardTable:
        """Return the table with its first rows."""
        more = self.more + max(0, len(self.rows) - count)
        return replace(self, rows=self.rows[:count], more=more)


@dataclass(frozen=True)
class Card:
    """What a card shows. All text is escaped where it is shown.

    ``kind`` and ``name`` say of what it is. ``features`` are their names and types as text, of
    which ``more_features`` are left out.
    """

    kind: str
    name: str
    description: str = ""
    facts: Sequence[Fact] = ()
    features: Sequence[tuple[str, str]] = ()
    more_features: int = 0
    charts: Sequence[Chart] = ()
    tables: Sequence[CardTable] = ()
    samples_title: str = ""
    samples: Sequence[CardSample] = ()
    notice: str = ""

    def limited(self, count: int) -> Card:
        """Return the card with the first features and rows of tables."""
        return replace(
            self,
            features=self.features[:count],
            more_features=max(0, len(self.features) - count),
            tables=[table.limited(count) for table in self.tables],
        )


def card_html(kind: str, name: str, make: Callable[[], Card]) -> str | None:
    """Return the HTML of the card that ``make`` returns; None without Jinja2 or Pillow.

    Where ``make`` raises `RegistryError`, as without the database, the card says why.
    """
    if any(find_spec(package) is None for package in _PACKAGES):
        return None
    try:
        card = make()
    except RegistryError as error:
        card = Card(kind, name, notice=str(error))
    from registry.html.card_styles import card_styles  # noqa: PLC0415
    from registry.html.render import render  # noqa: PLC0415  # Jinja2 is an extra

    html = ""
    for smaller in _smaller(card):
        html = render("card.html", card=smaller, styles=card_styles())
        if len(html.encode()) <= LARGEST:
            break
    return html


def card_sample(
    features: Mapping[str, Feature], values: Mapping[str, Any], *notes: str | None
) -> CardSample:
    """Return a sample as a card shows it: its notes, and drawings of its first values."""
    from registry.html.drawings import Style  # noqa: PLC0415
    from registry.html.samples import draw_sample  # noqa: PLC0415  # Pillow is an extra

    style = Style(side=_SIDE, characters=_CHARACTERS, boxes=20)
    first = dict(islice(features.items(), _MOST_DRAWN_FEATURES))
    drawings = draw_sample(first, values, style)[:_MOST_DRAWINGS]
    return CardSample([note for note in notes if note], drawings)


def _smaller(card: Card) -> Iterator[Card]:
    """Yield a card as it is, and then with less and less."""
    limited, count = card.limited(_MOST_ROWS), len(card.samples)
    while count:
        yield replace(limited, samples=card.samples[:count])
        count //= 2
    yield replace(limited, samples=())
    yield replace(limited, samples=(), charts=())
    yield replace(card.limited(_FEW_ROWS), samples=(), charts=())
