"""Verifying a log: computing its hash chain again from the rows of the database or of a mirror.

Rows are read in blocks. The chain is computed over each from the value before it, and compared to
the values that the database stores with the rows. A mirror's rows are compared to those, too.

The value after an erased row cannot be computed, since its record is gone. The stored value is
used instead, so that the rows after it are verified as before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from registry.errors import TransientError
from registry.storage.database.models import SampleRow
from registry.storage.database.transactions import read
from registry.storage.log.erasures import erased_between
from registry.storage.log.head import Head, read_head
from registry.storage.log.paging import pages
from registry.storage.log.reader import Log
from registry.storage.log.standby import missing_rows
from registry.storage.log.watermark import GENESIS, Watermark
from registry.storage.mirror.index_checks import INDEX_FOLDER, IndexChecks
from registry.storage.mirror.mirror import Mirror, open_mirror
from registry.storage.mirror.snapshot import View
from registry.training.mirror_source import cache_folder

BLOCK = 1 << 14
"""Rows of a mirror that are verified at a time."""


@dataclass(frozen=True)
class Verification:
    """The result: ``differs`` is the first position with a wrong chain value, or None.

    ``place`` names the database or the mirror, ``position`` is the end of what was verified.
    ``erased`` is the number of rows whose records were erased: nothing is known of their content.
    """

    place: str
    position: int
    differs: int | None
    erased: int = 0


@dataclass(frozen=True)
class _Block:
    """The rows at ``[start, stop)``, the positions of the erased ones, and the chain's function.

    ``chain_values`` takes the value before the rows, and by position the values after erased rows.
    It returns the value after each row.
    """

    start: int
    stop: int
    erased: Sequence[int]
    chain_values: Callable[[bytes, Mapping[int, bytes]], list[bytes]]


def verify(log: Log, head: Head) -> list[Verification]:
    """Verify the rows of the database and, if there is a local mirror, those of the mirror."""
    results = [verify_database(log, head)]
    # Without a folder that can be used there is no mirror to verify.
    with suppress(OSError):
        mirror = open_mirror(log, cache_folder())
        if (view := mirror.view()) is not None:
            results.append(verify_mirror(log, mirror, view, head))
    return results


def verify_database(log: Log, head: Head) -> Verification:
    """Compute the database's chain again, and compare it to the stored values and to the head's.

    Reads from the primary: a replica may not have all rows yet.
    """
    # A generator, so that only one page is in memory.
    blocks = (
        _Block(page.start, page.stop, _listed(log, page.erased.tolist()), page.chain_values)
        for page in pages(log.primary, 0, head.position)
    )
    result = _verified(log, "database", head.position, blocks)
    return result if result.differs is not None else replace(result, differs=_past(log, head))


def _past(log: Log, head: Head) -> int | None:
    """Return where a log with correct stored values disagrees with its head; None if it agrees."""
    # Reported at the last row, whose stored value the head should have.
    if log.chain_at(head.position) != head.chain:
        return max(0, head.position - 1)
    if log.chain_at(head.position + 1) is None:
        return None
    # A row behind the head is an error only if the head is still there. A row that was appended
    # since the head was read has moved the head.
    now, _ = read(log.engine, read_head, log.dataset_id)
    return head.position if now.position == head.position else None


def verify_mirror(log: Log, mirror: Mirror, view: View, head: Head) -> Verification:
    """Compute a mirror's chain again, and compare it to the values stored in the database.

    Damaged rows are repaired first, as far as the database has them.
    """
    # ``again``: rows that a scan has checked before may have been damaged since.
    shorter = min(view.state.watermark, Watermark.of(head), key=lambda each: each.position)
    mirror.scan(view, shorter, again=True)
    # The entries of indexes, too, when a graph is next made that reads them.
    IndexChecks(mirror.folder / INDEX_FOLDER).forget()
    if view.replaced:  # the damage could not be repaired in these files
        view = mirror.sync(shorter)
    erased = sorted(view.erased)
    blocks = (_of_view(view, after, erased) for after in range(0, view.position, BLOCK))
    return _verified(log, f"mirror {mirror.folder}", view.position, blocks)


def _of_view(view: View, after: int, erased: Sequence[int]) -> _Block:
    until = min(after + BLOCK, view.position)
    inside = erased[bisect_left(erased, after) : bisect_left(erased, until)]
    return _Block(
        after, until, inside, lambda chain, known: view.chain_values(after, until, chain, known)
    )


def _listed(log: Log, positions: Sequence[int]) -> list[int]:
    """Return which of these rows are recorded as erased.

    Without a record of its erasure, an empty row has lost its content otherwise, and must not pass.
    """
    if not positions:
        return []
    rows = read(log.engine, erased_between, log.dataset_id, positions[0], positions[-1] + 1)
    return sorted({row.position for row in rows}.intersection(positions))


def _verified(log: Log, place: str, until: int, blocks: Iterable[_Block]) -> Verification:
    """Compute the chain over blocks of rows, and compare it to the values in the database."""
    chain, erased = GENESIS, 0
    for block in blocks:
        stored = _stored(log, block.start, block.stop)
        # Only rows that are recorded as erased: taking the stored value for any other row would let
        # its damage pass. The database may also hold fewer rows than the mirror.
        known = {
            position: stored[position - block.start]
            for position in block.erased
            if position - block.start < len(stored)
        }
        values = block.chain_values(chain, known)
        if stored != values:
            # Not strict: the database may hold fewer rows than it should.
            pairs = zip(stored, values, strict=False)
            same = next((n for n, (one, other) in enumerate(pairs) if one != other), len(stored))
            return Verification(place, until, block.start + same, erased)
        # The next block's first value depends on this block's last.
        chain = values[-1]
        erased += len(known)
    return Verification(place, until, None, erased)


def _stored(log: Log, after: int, until: int) -> list[bytes]:
    """Read the chain values stored with the rows at ``[after, until)``, fewer if rows are missing.

    Raises `TransientError`, so that the read is repeated, if a standby does not have them yet.
    """
    query = (
        select(SampleRow.chain)
        .where(
            SampleRow.dataset_id == log.dataset_id,
            SampleRow.position >= after,
            SampleRow.position < until,
        )
        .order_by(SampleRow.position)
    )

    def read_values(connection: Connection) -> list[bytes]:
        values = list(connection.execute(query).scalars())
        if len(values) != until - after:
            # Missing rows are what this looks for, unless a standby may still receive them.
            error = missing_rows(connection, log.dataset_id, after, until, len(values))
            if isinstance(error, TransientError):
                raise error
        return values

    return read(log.engine, read_values)
