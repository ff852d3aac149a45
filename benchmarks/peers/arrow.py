"""What the projects that keep Arrow tables share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.peers.loader import Batch, Kind, Samples, X, decode


def table(samples: Samples) -> pa.Table:
    """Return the samples as a table."""
    if samples.kind == "numbers":
        x = pa.FixedSizeListArray.from_arrays(pa.array(samples.x.ravel()), samples.x.shape[1])
    else:
        x = pa.array(samples.x, pa.string() if samples.kind == "texts" else pa.binary())
    return pa.table({X[samples.kind]: x, "label": pa.array(samples.label)})


def batch(kind: Kind, rows: pa.RecordBatch | pa.Table) -> Batch:
    """Return rows of such a table as a batch."""
    if isinstance(rows, pa.Table):
        (rows,) = rows.combine_chunks().to_batches()
    x, label = rows.column(X[kind]), rows.column("label").to_numpy()
    if kind == "numbers":
        return x.flatten().to_numpy().reshape(len(label), -1), label
    values: list[Any] = x.to_pylist()
    return (np.stack([decode(file) for file in values]) if kind == "images" else values), label
