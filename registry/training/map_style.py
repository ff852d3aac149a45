"""Samples of an epoch by their offsets, as map-style datasets of PyTorch and Grain give them."""

from __future__ import annotations

import operator
import reprlib
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, SupportsIndex, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from registry.errors import OffsetError
from registry.samples.arrays import Positions
from registry.samples.codec import Column

_UNSIGNED = np.dtype(np.uint64)

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
        """Return the samples at these offsets as columns, in order."""


def sample_at(epoch: Gathered, offset: SupportsIndex) -> Sample:
    try:
        number = operator.index(offset)
    except TypeError:
        raise _no_offset(epoch, offset) from None
    columns = epoch.gather(_checked(epoch, [number]))
    return {name: column[0] for name, column in columns.items()}


def samples_at(epoch: Gathered, offsets: Offsets) -> GatheredSamples:
    return GatheredSamples(epoch.gather(_checked(epoch, offsets)))


def columns_at(epoch: Gathered, offsets: slice | Offsets) -> dict[str, Column]:
    if isinstance(offsets, slice):
        return epoch.gather(np.arange(*offsets.indices(epoch.size)))
    return epoch.gather(_checked(epoch, offsets))


def is_one(offset: object) -> bool:
    """Return whether this is the offset of one sample. NumPy's arrays have ``__index__``, too."""
    return not isinstance(offset, slice | Sequence) and not getattr(offset, "ndim", 0)


def _checked(epoch: Gathered, offsets: Offsets) -> Positions:
    """Return offsets as an array, negative ones counted from the end.

    Raises `OffsetError` where there is no sample, and `TypeError` for what are no whole numbers.
    """
    numbers = _as_array(epoch, offsets)
    # As unsigned, negative ones are larger than any other. `argmax` takes a fifth of `max`.
    if not len(numbers) or 0 <= numbers[numbers.view(_UNSIGNED).argmax()] < epoch.size:
        return numbers
    for number in (int(numbers.min()), int(numbers.max())):
        if not -epoch.size <= number < epoch.size:
            raise _no_sample(epoch, number)
    return np.where(numbers < 0, numbers + epoch.size, numbers)


def _as_array(epoch: Gathered, offsets: Offsets) -> Positions:
    # A list of bools is a mask to NumPy, and would be the offsets 0 and 1 here.
    if type(offsets) is list and offsets and type(offsets[0]) is not bool:
        try:
            # By an array of Python's, which takes half the time of `asarray`.
            return np.frombuffer(array("q", offsets), np.int64)
        except OverflowError:
            raise _no_sample(epoch, max(offsets, key=abs)) from None
        except TypeError:
            pass  # an error below
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
