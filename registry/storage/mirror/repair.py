"""Repairing a mirror: rows are read from the database again and written in place.

The new bytes have the length of the old ones, so that readers that have mapped the file see them at
once. For records that differ in length, only a file whose rows before are intact can be repaired
so; otherwise the caller begins a new generation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from registry.errors import DivergenceError
from registry.samples.arrays import Positions
from registry.storage.log.reader import Log, pages
from registry.storage.log.watermark import Watermark
from registry.storage.mirror import appender
from registry.storage.mirror.erase import without_records
from registry.storage.mirror.layout import PLACE, file_path, sealed_records
from registry.storage.mirror.layouts import in_layout
from registry.storage.mirror.snapshot import View


def rewrite(
    log: Log,
    folder: Path,
    view: View,
    after: int,
    until: int,
    watermark: Watermark,
    erased: Positions,
) -> bool:
    """Write the rows ``[after, until)`` again; return False if they cannot be written in place.

    ``watermark`` is what the database must still have. Rows whose positions are in ``erased`` stay
    erased, even if the database has their records. The caller holds the mirror's lock.
    """
    if view.fixed_width:
        offset = after * view.seals.stride
    else:
        if not view.intact(after, after):
            return False
        # Begin at an anchor, the only place whose offset does not depend on damaged entries.
        after, offset, _ = view.anchor(after)
    # From the primary, as a replica may lag.
    for page in pages(log.primary, after, until):
        # After each page is read and before it is written: the database may be restored meanwhile,
        # and another history's rows would get valid seals here.
        confirm(log, watermark)
        blanked = without_records(page, erased)
        if len(blanked.erased) and not view.fixed_width:
            return False  # the page does not say how many bytes they take here
        columns = sealed_records(in_layout(blanked, view.schema), offset)
        offsets = {"records": offset, "places": page.start * PLACE.itemsize}
        for name, column in columns.items():
            path = file_path(folder, view.state.generation, name)
            with path.open("r+b", buffering=0) as file:
                file.seek(offsets[name])
                appender.write_all(file, column.reshape(-1).view(np.uint8).data)
        offset += columns["records"].nbytes
    return True


def confirm(log: Log, watermark: Watermark) -> None:
    """Raise `DivergenceError` unless the database still has this watermark."""
    chain = log.chain_reached(watermark.position)
    if chain != watermark.chain:
        reason = "ends before" if chain is None else f"has {chain.hex()} there, another history"
        raise DivergenceError(
            f"rows of the log up to position {watermark} are to be read again, but the database's "
            f"log {reason}: was it restored, or did it fail over?"
        )
