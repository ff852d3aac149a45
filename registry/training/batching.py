"""Batches of samples as NumPy arrays, independent of any framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from registry.samples.codec import Column

Columns = Mapping[str, Column]


def batches(
    parts: Iterable[Columns], batch_size: int, *, drop_remainder: bool = False
) -> Iterator[dict[str, Column]]:
    """Yield batches of ``batch_size`` rows from columns of any lengths, in order.

    The last batch may be shorter; with ``drop_remainder`` it is left out. Batches may be views of
    the same arrays.
    """
    pending: list[Columns] = []
    rows = 0
    for part in parts:
        pending.append(part)
        rows += _rows(part)
        if rows < batch_size:
            continue
        # Joined only once there is a batch: joining each part as it comes copies rows repeatedly.
        joined = _join(pending)
        cut = rows - rows % batch_size
        for start in range(0, cut, batch_size):
            yield {name: column[start : start + batch_size] for name, column in joined.items()}
        pending = [{name: column[cut:] for name, column in joined.items()}]
        rows -= cut
    if rows and not drop_remainder:
        yield _join(pending)


def _rows(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _join(parts: list[Columns]) -> dict[str, Column]:
    # Not through `concatenate`, which copies: most parts are whole batches already.
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
