"""PyTorch's datasets: each sample once over ranks and workers, in the order that NumPy has."""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import registry
from registry import Bytes, ClassLabel, Dataset, Image, Ragged, Tensor, Text
from registry.errors import EpochError, FeatureError, TrainingError
from registry.samples.features import Feature, Features
from tests.support.torch_ranks import results_of_ranks

torch = pytest.importorskip("torch", reason="needs PyTorch, which `.ci/run` tests in its own step")

from torch.utils.data import DataLoader  # noqa: E402

from registry.torch import EpochDataset, StreamDataset, collate  # noqa: E402

# What torchdata calls in PyTorch, and more workers than cores.
pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

SIZE, BATCH = 103, 8
FEATURES: dict[str, Feature] = {
    "n": Tensor("int64"),
    "x": Tensor("float32", (2,)),
    "label": ClassLabel(3),
}


def grow(dataset: Dataset, after: int, until: int) -> None:
    numbers = np.arange(after, until)
    x = np.stack([numbers, -numbers], axis=1).astype(np.float32)
    dataset.insert({"n": numbers, "x": x, "label": numbers % 3})


@pytest.fixture
def dataset(sqlite_url: str) -> Iterator[Dataset]:
    """Samples whose numbers say which they are; on one database, as PyTorch sees none of it."""
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("samples", FEATURES)
        grow(dataset, 0, SIZE)
        yield dataset


def numbers(batches: Iterable[dict[str, Any]]) -> list[list[int]]:
    return [batch["n"].tolist() for batch in batches]


def loader(dataset: Any, workers: int = 0, context: str | None = None) -> DataLoader:
    return DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=context
    )


def stateful(dataset: Any, workers: int) -> Any:
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    return module.StatefulDataLoader(dataset, batch_size=None, num_workers=workers)


def read_in_rank(url: str, context: str) -> tuple[list[list[int]], list[list[int]], int]:
    """Return the batches of an epoch and the first ones of a stream that this rank reads."""
    with registry.connect(url) as reg:
        run = reg.open("samples").run("r")
        epoch = EpochDataset(run.epoch(0), batch_size=BATCH)
        stream = StreamDataset(run, batch_size=BATCH)
        first = itertools.islice(loader(stream, 2, context), 15)
        return numbers(loader(epoch, 2, context)), numbers(first), len(epoch)


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_two_ranks_with_two_workers_each_read_every_sample_once_in_numpys_order(
    dataset: Dataset, sqlite_url: str, tmp_path: Path, context: str
) -> None:
    ranks = results_of_ranks(read_in_rank, 2, tmp_path, sqlite_url, context)
    run = dataset.run("r")
    epoch = run.epoch(0)
    for rank, (batches, first, length) in enumerate(ranks):
        assert batches == numbers(epoch.batches(BATCH, shard=(rank, 2)))
        assert length == len(batches) == 7
        stream = run.stream(BATCH, shard=(rank, 2), start=0)
        assert first == numbers(itertools.islice(stream, 15))
    read = [n for batches, *_ in ranks for batch in batches for n in batch]
    assert sorted(read) == list(range(SIZE))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_rank_has_the_batches_of_numpy_with_any_number_of_workers(
    dataset: Dataset, workers: int
) -> None:
    epoch = dataset.run("r").epoch(0)
    for shard, start, drop in [((0, 1), 0, False), ((2, 3), 5, False), ((0, 3), 9, True)]:
        options: dict[str, Any] = {"shard": shard, "start": start, "drop_remainder": drop}
        batches = EpochDataset(epoch, batch_size=BATCH, **options)
        expected = numbers(epoch.batches(BATCH, **options))
        assert numbers(loader(batches, workers)) == expected
        assert len(batches) == len(expected)
        one_by_one = EpochDataset(epoch, **options)
        expected = numbers(epoch.batches(1, **options))
        assert [[each["n"].item()] for each in loader(one_by_one, workers)] == expected
        assert len(one_by_one) == len(expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_continues_from_its_state_after_the_dataset_has_grown(
    dataset: Dataset, workers: int
) -> None:
    run = dataset.run("r")
    expected = numbers(run.epoch(0).batches(BATCH))
    first = stateful(EpochDataset(run.epoch(0), batch_size=BATCH), workers)
    batches = iter(first)
    before = numbers(itertools.islice(batches, 5))
    state = first.state_dict()
    grow(dataset, 500, 700)
    epoch = pickle.loads(pickle.dumps(run.epoch(0)))
    again = stateful(EpochDataset(epoch, batch_size=BATCH), workers)
    again.load_state_dict(state)
    assert before + numbers(again) == expected
    assert numbers(again) == expected, "the next iterator begins with the first sample"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_continues_from_its_state_or_from_what_was_recorded(
    dataset: Dataset, workers: int
) -> None:
    run = dataset.run("r", policy="new")
    first = stateful(StreamDataset(run, batch_size=BATCH), workers)
    batches = iter(first)
    before = numbers(itertools.islice(batches, 7))
    state = first.state_dict()
    grow(dataset, SIZE, 300)
    run.record(3 * BATCH)
    again = stateful(StreamDataset(run, batch_size=BATCH), workers)
    again.load_state_dict(state)
    expected = numbers(itertools.islice(run.stream(BATCH, start=0), 30))
    assert before + numbers(itertools.islice(again, 23)) == expected
    recorded = loader(StreamDataset(run, batch_size=BATCH), workers)
    assert numbers(itertools.islice(recorded, 9)) == expected[3:12]
    mixed = registry.mix({run: 1.0})
    batches = iter(loader(StreamDataset(mixed, batch_size=BATCH, start=16), workers))
    assert numbers(itertools.islice(batches, 9)) == expected[2:11]


def test_the_state_of_another_dataset_is_refused(dataset: Dataset) -> None:
    run = dataset.run("r")
    epoch = run.epoch(0)
    state = EpochDataset(epoch, batch_size=BATCH).state_dict()
    others = {
        "epoch": EpochDataset(run.epoch(1), batch_size=BATCH),
        "run": EpochDataset(dataset.run("other").epoch(0), batch_size=BATCH),
        "batch_size": EpochDataset(epoch, batch_size=9),
        "shard": EpochDataset(epoch, batch_size=BATCH, shard=(0, 2)),
        "start": EpochDataset(epoch, batch_size=BATCH, start=1),
    }
    for name, other in others.items():
        with pytest.raises(TrainingError, match=f"the state is of another dataset .*{name} "):
            other.load_state_dict(state)
        assert next(iter(other))["n"].tolist() != []
    stream = StreamDataset(run, batch_size=BATCH)
    for broken in ({}, {**stream.state_dict(), "yielded": None}):
        with pytest.raises(TrainingError, match="the state is of another dataset"):
            stream.load_state_dict(broken)
    with pytest.raises(TrainingError, match=r"what state_dict\(\) returns, not None"):
        stream.load_state_dict(None)  # type: ignore[arg-type]


def test_arguments_that_no_sample_fits_are_refused(dataset: Dataset) -> None:
    epoch = dataset.run("r").epoch(0)
    with pytest.raises(FeatureError, match="batch_size 0"):
        EpochDataset(epoch, batch_size=0)
    with pytest.raises(FeatureError, match=r"shard \(2, 2\)"):
        EpochDataset(epoch, shard=(2, 2))
    with pytest.raises(EpochError, match="has no sample 104"):
        EpochDataset(epoch, start=104)
    with pytest.raises(TrainingError, match=r"an epoch, such as run.epoch\(0\), not <run 'r'"):
        EpochDataset(dataset.run("r"))  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="takes a run or a mix, not <epoch 0"):
        StreamDataset(epoch)  # type: ignore[arg-type]


def test_an_epoch_is_a_map_style_dataset_of_a_data_loader(dataset: Dataset) -> None:
    epoch = dataset.run("r").epoch(0)
    for workers, function in itertools.product((0, 2), (collate, None)):
        batches = list(
            DataLoader(epoch, BATCH, shuffle=True, num_workers=workers, collate_fn=function)
        )
        assert sorted(itertools.chain(*numbers(batches))) == list(range(SIZE))
        for batch in batches:
            assert (batch["x"].dtype, batch["label"].dtype) == (torch.float32, torch.int32)
            assert torch.equal(batch["x"], torch.stack([batch["n"], -batch["n"]], 1).float())
    parts = torch.utils.data.random_split(epoch, [60, 43])
    read = [numbers(DataLoader(part, BATCH, collate_fn=collate)) for part in parts]
    assert sorted(itertools.chain(*read[0], *read[1])) == list(range(SIZE))


def test_values_of_variable_width_are_lists_and_decoded_images_tensors(sqlite_url: str) -> None:
    features = Features(
        {"text": Text(), "blob": Bytes(), "tokens": Ragged("int32", (2,)), "image": Image()}
    )
    pictures = [np.full((2 + n, 3, 3), 40 * n, np.uint8) for n in range(3)]
    rows = [
        {"text": f"ä{n}", "blob": bytes([n]), "tokens": [[n, n]] * n, "image": png(pictures[n])}
        for n in range(3)
    ]
    with registry.connect(sqlite_url) as reg:
        notes = reg.create("notes", features)
        notes.insert(rows)
        epoch = notes.run("r").epoch(0)
        order = [int(text[1:]) for text in epoch[:]["text"]]
        for batch in (
            next(iter(EpochDataset(epoch, batch_size=3))),
            next(iter(DataLoader(epoch, 3, collate_fn=collate))),
        ):
            assert batch["text"] == [rows[n]["text"] for n in order]
            assert batch["blob"] == [rows[n]["blob"] for n in order]
            assert [each.tolist() for each in batch["tokens"]] == [rows[n]["tokens"] for n in order]
            assert all(each.dtype == torch.int32 for each in batch["tokens"])
            assert batch["image"] == [rows[n]["image"] for n in order]
        decoded = list(EpochDataset(epoch, decode_images=True))
        assert [each["text"] for each in decoded] == batch["text"]
        for each, n in zip(decoded, order, strict=True):
            assert torch.equal(each["image"], torch.from_numpy(pictures[n]))
