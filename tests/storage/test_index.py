"""Indexes: each follows from one of an earlier watermark, and finds what a new one would find."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import MirrorError
from registry.samples.arrays import Positions
from registry.storage.mirror import index as lookup
from registry.storage.mirror import index_blocks, index_files, index_writer
from registry.storage.mirror.index import Index, in_memory
from registry.storage.mirror.index_blocks import Blocks
from registry.storage.mirror.index_files import Indexes
from tests.faults.test_mirror import flip

NONE = Index(-1)
"""Stands for all positions, of which no index here has as many."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few entries at a time, so that all kinds of boundaries are there; none stay in memory."""
    monkeypatch.setattr(index_blocks, "PART", 16)
    monkeypatch.setattr(index_writer, "WRITTEN", 77)
    monkeypatch.setattr(lookup, "DECODED_ENTRIES", 0)


def parts(positions: Positions, size: int = 11) -> Iterator[Positions]:
    for after in range(0, len(positions), size):
        yield positions[after : after + size]


def held(index: Index) -> list[int]:
    """Return the positions of an index, which are checked as they are read."""
    ranks = np.random.default_rng(0).permutation(index.size)
    positions = np.empty(index.size, np.int64)
    positions[ranks] = index.positions(ranks)
    return positions.tolist()


GROWTH = st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1), st.floats(0, 0.4)), max_size=3)


@settings(max_examples=40, deadline=None)
@given(first=st.integers(1, 2000), share=st.floats(0.01, 1), growth=GROWTH, seed=st.integers(0, 99))
def test_an_index_that_follows_another_has_the_live_positions(
    tmp_path_factory: pytest.TempPathFactory,
    first: int,
    share: float,
    growth: list[tuple[int, float, float]],
    seed: int,
) -> None:
    """However many rows came, of which parts of the log others are superseded, and how many."""
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("indexes")
    indexes = Indexes(folder)
    live = np.flatnonzero(rng.random(first) < share)
    end, shift = first, index_blocks.block_shift(share) - 7
    index = indexes.make(f"{end}-a-x", partial(parts, live), NONE, shift)
    assert held(index) == live.tolist()
    for count, centre, ratio in growth:
        newest = indexes.newest("-a", end + 1, lambda _: "x")
        assert newest is not None
        assert newest[0] == end
        added = end + np.flatnonzero(rng.random(count) < share)
        end += count
        near = np.abs(np.arange(len(live)) / max(1, len(live)) - centre) < ratio
        dead = live[near & (rng.random(len(live)) < 0.5)]
        absent = np.setdiff1d(np.arange(0, end - count, 97), live)
        live = np.append(np.setdiff1d(live, dead), added)
        everything = np.union1d(dead, absent)
        name = f"{end}-a-x" if count else f"{end}-b-x"
        followed = indexes.follow(name, newest[1], everything, added, NONE)
        if followed is None:
            followed = indexes.make(name, partial(parts, live), NONE, shift)
        assert held(followed) == live.tolist()
        mapped = indexes.find(name, len(live))
        assert mapped is not None
        assert held(mapped) == live.tolist()
        indexes.check(mapped)
        if not count:
            break
        assert held(index) != [] or not index.size  # an earlier one keeps its entries


def test_only_the_blocks_that_changed_are_written(tmp_path: Path) -> None:
    indexes, size = Indexes(tmp_path), 100_000
    before = indexes.make("1-a", partial(parts, np.arange(size), 1000), NONE, 12)
    # The second is the first of its block, and so in the tail of the block before.
    dead, added = np.array([5, 8192, 50_000, 50_001]), np.arange(size, size + 10)
    after = indexes.follow("2-a", before, dead, added, NONE)
    assert after is not None
    assert before.blocks is not None
    assert after.blocks is not None
    shared = before.blocks.places == after.blocks.places[: len(before.blocks.places)]
    assert np.flatnonzero(~shared).tolist() == [0, 1, 2, 50_000 >> 12, size >> 12]
    assert held(after) == np.append(np.setdiff1d(np.arange(size), dead), added).tolist()
    assert held(before) == list(range(size))
    assert (tmp_path / "1-a.entries").samefile(tmp_path / "2-a.entries")


def test_indexes_that_follow_others_do_not_fill_the_disk(tmp_path: Path) -> None:
    """Blocks that were written again take room, until all are written to a new file."""
    indexes = Indexes(tmp_path)
    live = np.arange(20_000)
    index = indexes.make("0-a", partial(parts, live, 1000), NONE, 12)
    files = set()
    for number in range(1, 40):
        dead, live = live[number * 100 : number * 100 + 1], np.delete(live, number * 100)
        followed = indexes.follow(f"{number}-a", index, dead, live[:0], NONE)
        index = followed or indexes.make(f"{number}-a", partial(parts, live, 1000), NONE, 12)
        files.add((tmp_path / f"{number}-a.entries").stat().st_ino)
        assert held(index) == live.tolist()
    assert 1 < len(files) < 10
    kept = list(tmp_path.glob("*.entries"))
    assert len(kept) == index_files.KEPT_FILES
    sizes = {path.stat().st_ino: path.stat().st_blocks * 512 for path in kept}
    assert sum(sizes.values()) < 10 * 8 * len(live)


@pytest.mark.parametrize("suffix", ["cells", "entries"])
def test_a_flipped_bit_in_the_files_of_an_index_gives_no_other_position(
    tmp_path: Path, suffix: str
) -> None:
    rng, live = np.random.default_rng(1), np.arange(0, 3000, 3)
    Indexes(tmp_path).make("1-a", partial(parts, live), NONE, 5)
    path = tmp_path / f"1-a.{suffix}"
    whole, noticed = path.read_bytes(), 0
    for _ in range(300):
        flip(path, int(rng.integers(len(whole))), int(rng.integers(8)))
        index = Indexes(tmp_path).find("1-a", len(live))
        if index is None:
            noticed += 1
        else:
            try:
                assert held(index) == live.tolist()
            except MirrorError:
                noticed += 1
        path.write_bytes(whole)
    assert noticed > 50


def test_cells_of_one_file_of_entries_are_not_used_with_another(tmp_path: Path) -> None:
    indexes = Indexes(tmp_path)
    for name, step in (("1-a", 2), ("2-a", 3)):
        indexes.make(name, partial(parts, np.arange(0, 999, step)), NONE, 5)
    (tmp_path / "1-a.entries").replace(tmp_path / "2-a.entries")
    assert indexes.find("2-a", 333) is None


def test_entries_are_checked_again_once_something_wrote_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Index] = []
    check = Index.check_entries

    def check_and_count(index: Index) -> None:
        checked.append(index)
        check(index)

    monkeypatch.setattr(Index, "check_entries", check_and_count)
    indexes, live = Indexes(tmp_path), np.arange(0, 30_000, 3)
    first = indexes.make("1-a", partial(parts, live, 500), NONE, 12)
    second = indexes.follow("2-a", first, live[:1], live[:0], NONE)
    assert second is not None
    for index in (first, second):
        indexes.check(index)
    assert checked == [], "what is written here is undamaged"
    flip(tmp_path / "1-a.entries", 8 * index_blocks.HEADER + 9, 2)
    time.sleep(0.01)
    with pytest.raises(MirrorError, match="1 entries are damaged"):
        indexes.check(first)
    indexes.check(second)
    indexes.check(second)
    assert len(checked) == 2


def test_a_cell_leads_to_the_block_in_which_it_begins() -> None:
    starts = np.array([0, 300, 300, 512, 513, 1000])
    places = np.array([8, 0, 900, 2000, 3000])
    shifts = Blocks(12, starts, places).cells()
    assert shifts.tolist() == [8, 8, 2000 - 512, 3000 - 513]


def test_an_index_that_another_process_has_made_meanwhile_stays(tmp_path: Path) -> None:
    """A graph of that process may be about to open its files."""
    live, dead, name = np.arange(0, 30_000, 3), np.array([3]), "1-a"
    before = Indexes(tmp_path).make(name, partial(parts, live, 500), NONE, 12)
    after = Indexes(tmp_path).follow("2-a", before, dead, live[:0], NONE)
    files = {path: path.stat() for path in tmp_path.glob("?-a.*")}
    made = Indexes(tmp_path).make(name, partial(parts, live, 500), NONE, 12)
    followed = Indexes(tmp_path).follow("2-a", before, dead, live[:0], NONE)
    assert after is not None
    assert followed is not None
    assert held(made) == live.tolist()
    assert held(followed) == held(after) == np.delete(live, 1).tolist()
    assert all(files[path].st_ino == path.stat().st_ino for path in files)
    assert (tmp_path / "1-a.entries").stat().st_mtime_ns == files[
        tmp_path / "1-a.entries"
    ].st_mtime_ns


def test_no_index_follows_one_whose_files_were_replaced(tmp_path: Path) -> None:
    """The same entries are at other places in the new file."""
    indexes, live = Indexes(tmp_path), np.arange(0, 30_000, 3)
    first = indexes.make("1-a", partial(parts, live, 500), NONE, 12)
    second = indexes.follow("2-a", first, live[:1], live[:0], NONE)
    assert second is not None
    for path in tmp_path.glob("2-a.*"):
        path.unlink()
    indexes.make("2-a", partial(parts, live[1:], 500), NONE, 12)
    assert indexes.follow("3-a", second, live[-1:], live[:0], NONE) is None


def in_memory_of(index: Index) -> list[int] | None:
    """Return the positions of an index that are in memory."""
    positions = index.decoded.positions
    return None if positions is None else positions.tolist()


@pytest.mark.parametrize("following", [False, True])
def test_the_names_of_a_damaged_index_stay_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, following: bool
) -> None:
    """A graph may open them at any time."""
    indexes, live = Indexes(tmp_path), np.arange(0, 30_000, 3)
    first = indexes.make("1-a", partial(parts, live, 500), NONE, 12)
    indexes.make("2-a", partial(parts, live[1:], 500), NONE, 12)
    flip(tmp_path / "2-a.cells", 9, 2)
    names = [tmp_path / "2-a.cells", tmp_path / "2-a.entries"]
    replace, replaced = Path.replace, []

    def replace_with_names(path: Path, target: Path) -> Path:
        assert all(name.exists() for name in names)
        replaced.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_with_names)
    if following:
        again = indexes.follow("2-a", first, live[:1], live[:0], NONE)
    else:
        again = indexes.make("2-a", partial(parts, live[1:], 500), NONE, 12)
    assert set(names) <= set(replaced)
    assert again is not None
    assert held(again) == live[1:].tolist()
    assert sorted(path.name for path in tmp_path.glob("*-a.*")) == sorted(
        f"{number}-a.{suffix}" for number in (1, 2) for suffix in ("cells", "entries")
    )


LARGE = 1 << 20
"""More entries than any index here has."""


@pytest.mark.parametrize("first", [0, 1 << 33])
@pytest.mark.parametrize("size", [1, 255, 70_000])
def test_positions_in_memory_are_those_of_the_entries(
    monkeypatch: pytest.MonkeyPatch, first: int, size: int
) -> None:
    """In any order, as a replay has them, and past what fits in 32 bits."""
    rng = np.random.default_rng(size)
    expected = rng.permutation(size) + np.where(rng.random(size) < 0.5, 0, first)
    made = in_memory(iter([expected]))
    monkeypatch.setattr(lookup, "DECODED_ENTRIES", size)
    ranks = rng.integers(0, size, 2 * size)
    assert made.positions(ranks).tolist() == expected[ranks].tolist()
    assert made.decoded.positions is not None
    assert made.decoded.positions.itemsize == (8 if expected.max() >> 32 else 4)
    wanted = expected[ranks]
    made.positions(ranks, ranks)
    assert ranks.tolist() == wanted.tolist(), "in place"
    assert made.positions(ranks[:0]).tolist() == []


def test_positions_are_in_memory_where_many_of_a_short_index_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = np.arange(0, 30_000, 3)
    made = Indexes(tmp_path).make("1-a", partial(parts, live, 500), NONE, 12)
    few, many = len(live) // lookup.DECODED_LOOKUPS - 1, len(live) // lookup.DECODED_LOOKUPS
    made.positions(np.arange(many))
    assert in_memory_of(made) is None, "longer than is allowed"
    monkeypatch.setattr(lookup, "DECODED_ENTRIES", len(live))
    made.positions(np.arange(few))
    assert in_memory_of(made) is None
    made.positions(np.arange(many))
    assert in_memory_of(made) == live.tolist()


def test_positions_in_memory_are_checked_and_the_files_stay_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "DECODED_ENTRIES", LARGE)
    indexes, live = Indexes(tmp_path), np.arange(0, 30_000, 3)
    made = indexes.make("1-a", partial(parts, live, 500), NONE, 12)
    ranks = np.arange(len(live) // 2)
    assert made.positions(ranks).tolist() == live[: len(ranks)].tolist()
    # In the other half: all entries are checked before one is used.
    flip(tmp_path / "1-a.entries", 8 * (len(live) - 9), 5)
    assert made.positions(ranks).tolist() == live[: len(ranks)].tolist()
    with pytest.raises(MirrorError, match="1 entries are damaged"):
        made.check_entries()
    opened = Indexes(tmp_path).find("1-a", len(live))
    assert opened is not None
    with pytest.raises(MirrorError, match="1 entries are damaged"):
        opened.positions(ranks)


def test_the_positions_of_an_index_stay_in_memory_until_others_have_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of the same samples each map the index, and decode it once."""
    monkeypatch.setattr(lookup, "DECODED_ENTRIES", LARGE)
    indexes, live = Indexes(tmp_path), np.arange(0, 30_000, 3)
    made = indexes.make("1-a", partial(parts, live, 500), NONE, 12)
    assert held(made) == live.tolist()
    mapped = indexes.find("1-a", len(live))
    assert mapped is not None
    assert mapped.decoded is made.decoded
    followed = indexes.follow("2-a", made, live[:1], live[:0], NONE)
    assert followed is not None
    assert in_memory_of(followed) is None
    assert held(followed) == live[1:].tolist()
    for path in tmp_path.glob("?-a.*"):
        path.unlink()
    assert held(indexes.make("1-a", partial(parts, live + 1, 500), NONE, 12)) == (live + 1).tolist()
