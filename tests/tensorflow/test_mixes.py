"""A `StreamDataset` of a mix yields what the mix yields in NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import registry
from registry import Image, Mix, Registry
from registry.samples.features import Feature
from registry.tensorflow import StreamDataset
from tests.support.datasets import FIXED, VARIABLE, digit
from tests.support.growing_datasets import note
from tests.support.image_files import chunk, photo


def make(reg: Registry, features: dict[str, Feature], sample: Any) -> Mix:
    """Make a mix of two datasets, whose features differ in their order."""
    one = reg.create("one", features)
    two = reg.create("two", dict([*features.items()][::-1]))
    one.insert([sample(n) for n in range(40)])
    two.insert([sample(n) for n in range(100, 120)])
    return registry.mix({one.run("r", policy="new"): 0.6, two.run("r"): 0.4}, seed=2)


@pytest.mark.parametrize(
    ("features", "sample"), [(FIXED, digit), (VARIABLE, note)], ids=["fixed", "variable"]
)
def test_a_stream_of_a_mix_has_the_samples_of_the_mix(
    reg: Registry, features: dict[str, Feature], sample: Any
) -> None:
    mix = make(reg, features, sample)
    stream = StreamDataset(mix, batch_size=8)
    assert stream.cardinality().numpy() == tf.data.INFINITE_CARDINALITY
    assert list(stream.element_spec) == list(features)
    for batch, expected in zip(stream.take(20), mix.batches(8), strict=False):
        for name, column in expected.items():
            values = batch[name]
            if isinstance(values, tf.RaggedTensor):
                assert values.to_list() == [value.tolist() for value in column]
            else:
                plain = [v.encode() if isinstance(v, str) else v for v in column.tolist()]
                assert values.numpy().tolist() == plain
    mix.record(24)
    for shard in ((0, 2), (1, 2)):
        part = StreamDataset(mix, batch_size=4, x="label", shard=shard)
        due = itertools.islice(mix.batches(4, shard=shard, start=24), 6)
        for labels, columns in zip(part.take(6), due, strict=True):
            np.testing.assert_array_equal(labels, columns["label"])


def test_images_of_any_encoding_mix_and_a_broken_one_is_named(sqlite_url: str) -> None:
    with registry.connect(sqlite_url) as reg:
        one = reg.create("one", {"image": Image("png")})
        two = reg.create("two", {"image": Image("jpeg")})
        one.insert([{"image": np.full((8, 8, 3), n, np.uint8)} for n in range(4)])
        two.insert([{"image": photo(8, 8, seed)} for seed in range(4)])
        mix = registry.mix({one.run("r"): 1, two.run("r"): 1})
        batches = StreamDataset(mix, batch_size=4, x="image").take(2)
        images = np.concatenate([batch.numpy() for batch in batches])
        decoded = itertools.islice(mix.batches(4, start=0, decode_images=True), 2)
        expected = np.stack([image for batch in decoded for image in batch["image"]])
        assert np.abs(images.astype(int) - expected).max() <= 8, "decoders of JPEG differ a little"
        intact = one.get(one.entries(0, 1)[0].key)["image"]
        broken = intact[:33] + chunk(b"IDAT", b"none") + chunk(b"IEND", b"")
        late = reg.create("late", {"image": Image("png")})
        late.insert([{"image": broken}], keys=["broken"])
        mix = registry.mix({one.run("r"): 3, late.run("r"): 1})
        with pytest.raises(tf.errors.OpError, match="'late', position 0, key 'broken'"):
            list(StreamDataset(mix, batch_size=4, x="image", start=0).take(1))
