"""Reading rows of a mirror again from the database, into their old places."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from registry.errors import DivergenceError
from registry.samples.arrays import Positions
from registry.storage.log.reader import Log, pages
from registry.storage.mirror import appender, layout
from registry.storage.mirror.erase import emptied
from registry.storage.mirror.snapshot import View


def rewrite(
    log: Log,
    folder: Path,
    view: View,
    after: int,
    until: int,
    history: tuple[int, bytes],
    erased: Positions,
) -> bool:
    """Write rows again; tell whether that could be done in their old places.

    ``history`` is the watermark and the chain that the database must still have. Rows that are
    ``erased`` here stay so, whatever the database has of them.
    """
    offset = after * view.seals.stride
    if not log.codec.fixed_width:
        if not view.intact(after, after):
            return False
        after, offset, _ = view.anchor(after)
    for found in pages(log.primary, after, until):
        confirm(log, *history)
        page = emptied(found, erased)
        if len(page.erased) and not log.codec.fixed_width:
            return False  # it is not known how much room they take here
        columns = layout.contents(page, log.codec, offset)
        places = {"records": offset, "places": page.start * layout.PLACE.itemsize}
        for name, column in columns.items():
            path = layout.path(folder, view.state.generation, name)
            with path.open("r+b", buffering=0) as file:
                file.seek(places[name])
                appender.write_all(file, column.reshape(-1).view(np.uint8).data)
        offset += columns["records"].nbytes
    return True


def confirm(log: Log, until: int, chain: bytes) -> None:
    """Raise `DivergenceError` unless the database's first ``until`` rows have this chain."""
    found = log.chain_reached(until)
    if found != chain:
        said = "ends before" if found is None else f"has {found.hex()} there, another history"
        raise DivergenceError(
            f"rows of the log up to position {until} ({chain.hex()}) are to be read again, but the "
            f"database's log {said}: was it restored, or did it fail over?"
        )
