"""Proving a log: its chain computed again from its rows, in the database and in the mirror."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from registry.chain import GENESIS
from registry.cursor import Log, pages
from registry.engine import read
from registry.mirror import Mirror, View
from registry.models import samples

BLOCK = 1 << 14


@dataclass(frozen=True)
class Verification:
    """What was found: ``differs`` is the first position whose chain is not what it should be."""

    place: str
    position: int
    differs: int | None


def verify_database(log: Log, until: int) -> Verification:
    """Compute the database's chain again; its rows must lead to the values stored with them."""
    chain = GENESIS
    for page in pages(log, 0, until):
        values = page.chain_values(chain)
        differs = _first_difference(log, page.start, values)
        if differs is not None:
            return Verification("database", until, differs)
        chain = values[-1]
    return Verification("database", until, None)


def verify_mirror(log: Log, mirror: Mirror, view: View) -> Verification:
    """Compute a mirror's chain again; its rows must lead to the values in the database.

    Rows that are not what was written to them are mended first.
    """
    place = f"mirror {mirror.folder}"
    if log.codec.fixed_width:
        mirror.scan(view, view.position, bytes.fromhex(view.state.chain), again=True)
    chain = GENESIS
    for after in range(0, view.position, BLOCK):
        values = view.chain_values(after, min(after + BLOCK, view.position), chain)
        differs = _first_difference(log, after, values)
        if differs is not None:
            return Verification(place, view.position, differs)
        chain = values[-1]
    return Verification(place, view.position, None)


def _first_difference(log: Log, after: int, values: list[bytes]) -> int | None:
    """Return the first position whose stored chain is missing or not the value given."""
    wanted = (
        select(samples.c.chain)
        .where(
            samples.c.dataset_id == log.dataset_id,
            samples.c.position >= after,
            samples.c.position < after + len(values),
        )
        .order_by(samples.c.position)
    )
    stored = read(log.engine, lambda connection: connection.execute(wanted).scalars().all())
    if list(stored) == values:
        return None
    pairs = zip(stored, values, strict=False)
    same = next((n for n, (one, other) in enumerate(pairs) if one != other), len(stored))
    return after + same
