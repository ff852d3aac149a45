"""Framed values are found again, parsed by protobuf, and every bit of their units counts."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from registry.samples.arrays import Positions
from registry.storage.mirror import value_units
from registry.storage.mirror.packed import Packed
from registry.storage.mirror.value_units import UNIT, framed, sums, unit_counts

VALUES = st.lists(st.binary(max_size=100) | st.integers(0, 5000).map(bytes), max_size=20)

FROZEN = {
    b"": (4681165566053961513, "4280808080001a18" + 24 * "00"),
    b"abc": (3303544260757675614, "4283808080006162631a15" + 21 * "00"),
    bytes(25): (14276885235190875324, "429980808000" + 25 * "00" + "1a1f" + 31 * "00"),
}
"""Values, their sums, and their units."""
LONG = bytes(range(256)) * 40


def lengths_of(values: list[bytes]) -> Positions:
    return np.array([len(value) for value in values], np.int64)


@given(values=VALUES)
def test_framed_values_are_those_that_come_back(values: list[bytes]) -> None:
    units, lengths = framed(values), lengths_of(values)
    counts = unit_counts(lengths)
    assert units.shape == (counts.sum(), 4)
    rows = np.empty((len(values), 0), np.uint8)
    assert Packed(rows, units, counts[:, None], lengths[:, None]).values(0) == values
    # The fewest units that have room, but for a padding of one byte, which protobuf lacks.
    assert ((counts * UNIT - lengths - 6) != 1).all()
    assert ((counts * UNIT - lengths - 6) <= UNIT + 1).all()


def test_values_of_any_length_are_one_message_of_protobuf() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="values.proto", package="test")
    message = file.message_type.add(name="Values")
    message.field.add(name="values", number=8, type=12, label=3)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    parser = message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Values"))
    values = [bytes([length & 0xFF]) * length for length in (*range(130), 16384, 1 << 21)]
    read = parser.FromString(framed(values).tobytes())
    assert list(read.values) == values


def test_every_bit_of_a_value_and_the_order_of_its_units_count() -> None:
    rng = np.random.default_rng(0)
    value = rng.integers(0, 256, 200, np.uint8).tobytes()
    units = framed([value])
    total = sums(units, np.array([len(units)]))[0]
    bits = np.arange(units.size * 64)
    flipped = np.repeat(units.reshape(1, -1), len(bits), axis=0).view(np.uint8)
    flipped[bits, bits // 8] ^= (1 << bits % 8).astype(np.uint8)
    changed = sums(flipped.view(np.int64).reshape(-1, 4), np.full(len(bits), len(units)))
    assert (changed != total).all()
    swapped = [np.roll(units, step, axis=0) for step in range(1, len(units))]
    assert all(sums(each, np.array([len(units)]))[0] != total for each in swapped)
    for pair in ((5, 9), (63, 127), (63, 319)):  # the highest bits of two words
        both = units.copy().reshape(1, -1).view(np.uint8)
        for bit in pair:
            both[0, bit // 8] ^= 1 << bit % 8
        assert sums(both.view(np.int64).reshape(-1, 4), np.array([len(units)]))[0] != total


@given(values=VALUES)
def test_the_sum_of_a_value_does_not_depend_on_those_around_it(values: list[bytes]) -> None:
    counts = unit_counts(lengths_of(values))
    alone = [int(sums(framed([v]), unit_counts(lengths_of([v])))[0]) for v in values]
    assert sums(framed(values), counts).tolist() == alone


def test_frames_and_sums_never_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every mirror that exists would count as damaged."""
    for value, (total, units) in FROZEN.items():
        assert framed([value]).tobytes().hex() == units
        assert sums(framed([value]), unit_counts(lengths_of([value]))).tolist() == [total]
    for block in (value_units.BLOCK, 100):
        monkeypatch.setattr(value_units, "BLOCK", block)
        assert sums(framed([LONG]), np.array([321])).tolist() == [8345169033458432740]
