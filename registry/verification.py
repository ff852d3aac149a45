"""Proving a log: its chain computed again from its rows, in the database and in the mirror."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select

from registry.chain import GENESIS
from registry.cursor import Log, pages
from registry.engine import read
from registry.mirror import Mirror, View
from registry.models import samples

BLOCK = 1 << 14
Block = tuple[int, Callable[[bytes], list[bytes]]]
"""Where rows begin, and what computes the chain after each from the value before them."""


@dataclass(frozen=True)
class Verification:
    """What was found: ``differs`` is the first position whose chain is not what it should be."""

    place: str
    position: int
    differs: int | None


def verify_database(log: Log, until: int) -> Verification:
    """Compute the database's chain again; its rows must lead to the values stored with them."""
    blocks = ((page.start, page.chain_values) for page in pages(log, 0, until))
    return Verification("database", until, _differs(log, blocks))


def verify_mirror(log: Log, mirror: Mirror, view: View) -> Verification:
    """Compute a mirror's chain again; its rows must lead to the values in the database.

    Rows that are not what was written to them are mended first.
    """
    if log.codec.fixed_width:
        mirror.scan(view, view.position, bytes.fromhex(view.state.chain), again=True)
    blocks = (
        (after, partial(view.chain_values, after, min(after + BLOCK, view.position)))
        for after in range(0, view.position, BLOCK)
    )
    return Verification(f"mirror {mirror.folder}", view.position, _differs(log, blocks))


def _differs(log: Log, blocks: Iterable[Block]) -> int | None:
    """Compute the chain over blocks of rows; return the first position where it differs."""
    chain = GENESIS
    for after, chain_values in blocks:
        values = chain_values(chain)
        differs = _first_difference(log, after, values)
        if differs is not None:
            return differs
        chain = values[-1]
    return None


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
