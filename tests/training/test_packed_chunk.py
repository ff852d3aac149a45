"""Chunks of samples as arrays are brought into whole batches without a change of any value."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.samples.codec import Codec
from registry.samples.features import Features, Tensor, Text
from registry.storage.mirror.packed import Packed
from registry.training.packed_chunk import PackedChunk, in_whole_batches

CODEC = Codec(Features({"text": Text(), "number": Tensor("int32"), "other": Text()}))
Sample = tuple[int, str, str]
SAMPLES = st.tuples(st.integers(0, 99), st.text("aé", max_size=50), st.text("aé", max_size=50))


@given(
    parts=st.lists(st.lists(SAMPLES, max_size=7), max_size=6),
    batch_size=st.integers(1, 5),
    values=st.sampled_from([[0], [1], [0, 1]]),
)
@settings(max_examples=40, deadline=None)
def test_samples_stay_as_they_are_in_whole_batches(
    parts: list[list[Sample]], batch_size: int, values: list[int]
) -> None:
    chunks = list(in_whole_batches(map(_packed, parts), batch_size))
    assert [sample for chunk in chunks for sample in _samples(chunk, values)] == [
        (number, *(texts[value] for value in values)) for part in parts for number, *texts in part
    ]
    filled = [len(chunk) for chunk in chunks if len(chunk)]
    assert all(size % batch_size == 0 for size in filled[:-1])
    assert len(filled) < 2 or filled[-1] % batch_size == 0 or filled[-1] < batch_size
    assert len(chunks) - len(filled) >= sum(not part for part in parts)


def _packed(samples: list[Sample]) -> PackedChunk:
    columns = [{"number": number, "text": one, "other": two} for number, one, two in samples]
    if not samples:
        return PackedChunk.empty(CODEC)
    records = CODEC.encode(CODEC.to_columns(columns))
    sizes = np.array([*map(len, records)])
    return PackedChunk.of_packed(Packed.of_records(CODEC, b"".join(records), sizes))


def _samples(chunk: PackedChunk, values: list[int]) -> list[tuple[int | str, ...]]:
    lengths = chunk.rows[:, 4:12].copy().view("<u4").astype(np.int64)[:, values]
    packed = Packed(chunk.rows, chunk.units_of(values), chunk.counts[:, values], lengths)
    assert len(packed.units) == packed.counts.sum()
    columns = [[bytes(text).decode() for text in packed.values(n)] for n in range(len(values))]
    numbers = chunk.rows[:, :4].copy().view("<i4").ravel().tolist()
    return list(zip(numbers, *columns, strict=True))
