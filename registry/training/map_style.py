"""Samples of an epoch by their offsets, as map-style datasets of PyTorch and Grain give them."""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from struct import error as PackError  # noqa: N812  # as a name of an exception
from struct import pack
from typing import Any, Protocol, SupportsIndex, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from registry.errors import OffsetError
from registry.samples.arrays import Positions
from registry.samples.codec import Column

_INT64 = np.dtype(np.int64)
"""Made once, as in other places for a few rows: making it takes as long as a pass over them."""

Offsets: TypeAlias = Sequence[int] | npt.NDArray[np.integer]
Sample: TypeAlias = dict[str, Any]
"""A sample's values by feature: arrays, NumPy's scalars, text, bytes."""


class GatheredSamples(Sequence[Sample]):
    """Samples that were read at once, as a list of dicts by feature has them.

    ``columns`` has them as a batch, from which collating them needs no loop.
    """

    def __init__(self, columns: dict[str, Column]) -> None:
        self.columns = columns

    @cached_property
    def _samples(self) -> list[Sample]:
        names = tuple(self.columns)
        rows = zip(*self.columns.values(), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Sample | list[Sample]:
        return self._samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def __repr__(self) -> str:
        return f"<{len(self)} samples: {', '.join(self.columns)}>"


class Gathered(Protocol):
    """What has samples at the offsets ``[0, size)``."""

    number: int
    size: int

    def gather(self, offsets: Positions) -> dict[str, Column]:
        """Return the samples at these offsets as columns, in order.

        Negative ones count from the end. Raises `IndexError` where there is no sample.
        """


def sample_at(epoch: Gathered, offset: SupportsIndex) -> Sample:
    try:
        number = operator.index(offset)
    except TypeError:
        raise _no_offset(epoch, offset) from None
    columns = _gathered(epoch, [number])
    return {name: column[0] for name, column in columns.items()}


def samples_at(epoch: Gathered, offsets: Offsets) -> GatheredSamples:
    return GatheredSamples(_gathered(epoch, offsets))


def columns_at(epoch: Gathered, offsets: slice | Offsets) -> dict[str, Column]:
    if isinstance(offsets, slice):
        return epoch.gather(np.arange(*offsets.indices(epoch.size)))
    return _gathered(epoch, offsets)


def is_one(offset: object) -> bool:
    """Return whether this is the offset of one sample. NumPy's arrays have ``__index__``, too."""
    return not isinstance(offset, slice | Sequence) and not getattr(offset, "ndim", 0)


def _gathered(epoch: Gathered, offsets: Offsets) -> dict[str, Column]:
    """Return samples as columns; offsets may be negative.

    Raises `OffsetError` where there is no sample, and `TypeError` for what are no whole numbers.
    """
    numbers = _as_array(epoch, offsets)
    try:
        return epoch.gather(numbers)
    except IndexError:
        # Only now: the offsets are checked where they are looked up.
        for number in (int(numbers.min()), int(numbers.max())):
            if not -epoch.size <= number < epoch.size:
                raise _no_sample(epoch, number) from None
        raise


def _as_array(epoch: Gathered, offsets: Offsets) -> Positions:
    # A list of bools is a mask to NumPy, and would be the offsets 0 and 1 here.
    if type(offsets) is list and offsets and type(offsets[0]) is not bool:
        try:
            # By `struct`, which takes two fifths of the time of `asarray`.
            return np.frombuffer(pack(f"{len(offsets)}q", *offsets), _INT64)
        except PackError:
            if all(hasattr(each, "__index__") for each in offsets):
                raise _no_sample(epoch, max(offsets, key=abs)) from None
    given = np.asarray(offsets)
    if given.ndim != 1 or (given.dtype.kind not in "iu" and given.size):
        raise _no_offset(epoch, offsets)
    return np.ascontiguousarray(given, np.int64)


def _no_sample(epoch: Gathered, offset: int) -> OffsetError:
    return OffsetError(f"epoch {epoch.number} has samples [0, {epoch.size}), not {offset}")


def _no_offset(epoch: Gathered, given: object) -> TypeError:
    return TypeError(
        f"{epoch!r} is read by offsets: a whole number, a slice, or a sequence of whole numbers, "
        f"not {reprlib.repr(given)}"
    )
