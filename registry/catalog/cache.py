"""The mirrors on this machine, and what a database says of their datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select

from registry.storage.database.models import NOT_DROPPED, DatasetRow, HeadRow
from registry.storage.database.transactions import read
from registry.storage.mirror.usage import MirrorUse, address_of, mirrors


@dataclass(frozen=True)
class CachedMirror:
    """A mirror; ``name`` is its dataset's, as far as known.

    ``dropped`` says whether the dataset was dropped from the only database that the mirror was read
    from. ``unerased`` is the number of rows that were erased in the database, but not here yet.
    ``origin`` is the address of another database that it belongs to.
    """

    use: MirrorUse
    name: str | None
    dropped: bool = False
    unerased: int = 0
    origin: str | None = None


def cached_mirrors(root: Path, engine: Engine | None) -> list[CachedMirror]:
    """Return the mirrors in a cache folder, with what a database says of them, if one is given."""
    if engine is None:
        return [CachedMirror(use, _last_name(use)) for use in mirrors(root)]
    query = (
        select(DatasetRow.uid, DatasetRow.name, HeadRow.erased)
        .join(HeadRow, HeadRow.dataset_id == DatasetRow.id)
        .where(NOT_DROPPED)
    )
    # Before the datasets are: one that is created in between would count as dropped.
    uses = [*mirrors(root)]
    rows = read(engine, lambda connection: connection.execute(query).all())
    known = {row.uid: (row.name, row.erased) for row in rows}
    here = address_of(engine.url)
    return [_cached(use, known.get(use.uid), here) for use in uses]


def _cached(use: MirrorUse, known: tuple[str, int] | None, here: str) -> CachedMirror:
    if known is not None:
        name, erased = known
        # Without rows, there is no mirror, but what was counted of the log.
        unerased = max(0, erased - use.erased) if use.rows else 0
        return CachedMirror(use, name, unerased=unerased)
    others = [address for address in use.databases if address != here]
    if here in use.databases and not others:
        return CachedMirror(use, use.databases[here], dropped=True)
    return CachedMirror(use, _last_name(use), origin=others[-1] if others else None)


def _last_name(use: MirrorUse) -> str | None:
    names = list(use.databases.values())
    return names[-1] if names else None
