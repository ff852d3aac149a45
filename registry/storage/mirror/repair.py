"""Repairing a mirror: rows are read from the database again and written in place."""

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
    """Write the rows ``[after, until)`` again; return False if they cannot be written in place.

    ``history`` is the watermark and the chain that the database must still have. Rows whose
    positions are in ``erased`` stay erased, even if the database has their records. The caller
    holds the mirror's lock.
    """
    offset = after * view.seals.stride
    if not log.codec.fixed_width:
        if not view.intact(after, after):
            return False
        # Begin at an anchor, the only place whose offset does not depend on damaged entries.
        after, offset, _ = view.anchor(after)
    # From the primary, as a replica may lag.
    for found in pages(log.primary, after, until):
        # After each page is read and before it is written: the database may be restored meanwhile,
        # and another history's rows would get valid seals here.
        confirm(log, *history)
        page = emptied(found, erased)
        if len(page.erased) and not log.codec.fixed_width:
            return False  # the page does not say how many bytes they take here
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
