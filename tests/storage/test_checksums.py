"""Seals detect damage of any byte, and rows and entries at other positions than their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.samples.arrays import Rows
from registry.storage.mirror.checksums import SealedRows
from registry.storage.mirror.index_entries import POSITION_BITS, open_entries, seal_entries
from registry.storage.mirror.row_buffer import row_buffer

WIDTHS = st.sampled_from([1, 3, 4, 5, 7, 8, 12, 13, 44, 100, 785, 3073])
POSITIONS = st.integers(0, (1 << POSITION_BITS) - 10)


FROZEN = {
    3: ["0102030051352f7e", "0405060004646641"],
    8: ["0102030405060708000000003665c998", "090a0b0c0d0e0f100000000023f19566"],
    12: ["0102030405060708090a0b0caab6795c", "0d0e0f101112131415161718483d4b17"],
}
"""The rows, by their width, of records of the bytes 1, 2, 3, … at the positions 0 and 10^9."""


def sealed(width: int, first: int, count: int, seed: int) -> tuple[SealedRows, Rows]:
    layout = SealedRows(width)
    records = np.random.default_rng(seed).integers(0, 256, (count, width), np.uint8)
    return layout, layout.seal(records.view(f"V{width}")[:, 0], np.arange(first, first + count))


@given(width=WIDTHS, first=POSITIONS, seed=st.integers(0, 2**32), data=st.data())
def test_a_changed_byte_breaks_its_row_alone(
    width: int, first: int, seed: int, data: st.DataObject
) -> None:
    layout, rows = sealed(width, first, 3, seed)
    positions = np.arange(first, first + 3)
    assert not layout.broken(rows, positions).any()
    row = data.draw(st.integers(0, 2))
    change = data.draw(st.integers(1, 255) | st.sampled_from([1 << bit for bit in range(8)]))
    for byte in {0, layout.stride - 1, data.draw(st.integers(0, layout.stride - 1))}:
        rows[row, byte] ^= change
        buffer = row_buffer(3, layout.stride)
        buffer.rows[:] = rows
        for broken in (
            layout.broken_in_buffer(buffer, positions),
            layout.broken(rows, positions),
        ):
            assert broken.tolist() == [n == row for n in range(3)]
        rows[row, byte] ^= change


def test_every_bit_of_a_row_and_its_seal_counts() -> None:
    for width in range(1, 21):
        layout, rows = sealed(width, 10**6, 1, width)
        flipped = np.repeat(rows, layout.stride * 8, axis=0)
        bits = np.arange(layout.stride * 8)
        flipped[bits, bits // 8] ^= (1 << bits % 8).astype(np.uint8)
        assert layout.broken(flipped, np.full(len(bits), 10**6)).all()


@given(width=WIDTHS, first=POSITIONS, seed=st.integers(0, 2**32))
def test_a_row_at_another_position_is_broken(width: int, first: int, seed: int) -> None:
    layout, rows = sealed(width, first, 4, seed)
    moved = np.array([1, 2, 3, 0])
    assert layout.broken(rows[moved], np.arange(first, first + 4)).all()
    assert layout.broken(np.zeros_like(rows), np.arange(first, first + 4)).all()


def test_seals_do_not_depend_on_how_many_rows_are_sealed_at_once() -> None:
    layout, rows = sealed(3073, 5, 300, 0)
    records = rows[:, :3073].copy().view("V3073")[:, 0]
    one_by_one = [layout.seal(records[n : n + 1], np.array([n + 5])) for n in range(300)]
    np.testing.assert_array_equal(np.concatenate(one_by_one), rows)


def test_every_bit_of_an_entry_and_its_place_count() -> None:
    """With fixed numbers, as one in 2**24 damages of several bits goes unnoticed."""
    positions = np.random.default_rng(0).integers(0, 1 << POSITION_BITS, 100)
    places = np.arange(8, 108)
    entries = seal_entries(positions, places)
    opened, broken = open_entries(entries, places)
    assert opened.tolist() == positions.tolist()
    assert not broken.any()
    for bit in range(64):
        flipped = entries ^ np.array(1 << bit, np.uint64).view(np.int64)
        assert open_entries(flipped, places)[1].all()
    assert open_entries(np.roll(entries, 1), places)[1].all()
    assert open_entries(np.zeros_like(entries), places)[1].all()


@pytest.mark.parametrize("width", FROZEN)
def test_the_seals_of_rows_never_change(width: int) -> None:
    """Otherwise every mirror that exists would count as damaged."""
    records = np.frombuffer(bytes(range(1, 2 * width + 1)), f"V{width}")
    rows = SealedRows(width).seal(records, np.array([0, 10**9]))
    assert [row.tobytes().hex() for row in rows] == FROZEN[width]
