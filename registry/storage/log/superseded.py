"""The rows of a log that later rows supersede."""

from __future__ import annotations

import json

import numpy as np
from sqlalchemy import Connection

from registry.samples.arrays import Positions
from registry.storage.database.transactions import driver

# One value, as a row for each position would take ten times as long. ``+ 0`` rules out the primary
# key, in which a database would read the whole log to find a few revisions.
_POSTGRESQL = b"""
    SELECT coalesce(string_agg(int8send(supersedes), ''), '') FROM samples
    WHERE supersedes >= %s AND supersedes < %s AND dataset_id + 0 = %s AND position + 0 < %s
"""
_SQLITE = """
    SELECT json_group_array(supersedes) FROM samples INDEXED BY uq_samples_supersedes
    WHERE supersedes >= ? AND supersedes < ? AND dataset_id + 0 = ? AND position + 0 < ?
"""


def superseded(
    connection: Connection, dataset_id: int, after: int, until: int, watermark: int
) -> Positions:
    """Return the positions in ``[after, until)`` that rows before ``watermark`` supersede.

    They are in ascending order. Retractions, which supersede the row before them, count as well.
    """
    parameters = (after, until, dataset_id, watermark)
    if connection.dialect.name == "sqlite":
        document = connection.exec_driver_sql(_SQLITE, parameters).scalar_one()
        return np.sort(np.array(json.loads(document), np.int64))
    with driver(connection).cursor(binary=True) as cursor:
        row = cursor.execute(_POSTGRESQL, parameters).fetchone()
    assert row is not None
    return np.sort(np.frombuffer(row[0], ">i8").astype(np.int64))
