"""TensorFlow's own machinery on an `EpochDataset`: checkpoints, tf.data service, distribution."""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import registry
from registry import Bytes, Dataset, Epoch, Image, Ragged, Registry, Tensor, Text
from registry.tensorflow import EpochDataset, gather
from registry.training import chunks
from tests.support import strategies
from tests.support.datasets import FIXED, digit
from tests.support.image_files import JPEG, broken, photo
from tests.support.processes import results_with_tensorflow, tensorflow_context

SIZE = 1000


@pytest.fixture
def url(sqlite_url: str) -> str:
    """One kind of database: these tests are about what reads the mirror."""
    return sqlite_url


@pytest.fixture
def epoch(reg: Registry) -> Epoch:
    """An epoch of every kind of feature, whose index has entries: some samples were revised."""
    features = {
        **FIXED,
        "mask": Tensor("bool", (3,)),
        "text": Text(),
        "blob": Bytes(),
        "photo": Image(),
        "tokens": Ragged("int32"),
        "boxes": Ragged("float32", (4,)),
    }
    mixed = reg.create("mixed", features, splits={"train": 0.8, "test": 0.2})
    mixed.insert([_sample(n) for n in range(SIZE)], keys=[f"k{n}" for n in range(SIZE)])
    mixed.update("k7", label=1)
    mixed.retract("k8")
    return mixed.run("r", seed=3, split="train").epoch(0)


def _sample(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {
        **digit(number),
        "mask": rng.integers(0, 2, 3).astype(bool),
        "text": "é" * int(rng.integers(0, 60)),
        "blob": rng.bytes(int(rng.integers(0, 90))),
        "photo": photo(8 + number % 3, 8, seed=number % 7),
        "tokens": np.arange(number % 4, dtype=np.int32),
        "boxes": rng.random((number % 3, 4), np.float32),
    }


def _dataset(epoch: Epoch, **options: Any) -> EpochDataset:
    return EpochDataset(epoch, **{"batch_size": 32, "decode_images": False, **options})


def _rows(batch: Any) -> list[list[Any]]:
    """The values of each sample of a batch."""
    columns = []
    for column in batch.values():
        values = list(
            column.to_list() if isinstance(column, tf.RaggedTensor) else np.asarray(column)
        )
        texts = [value.encode() if isinstance(value, str) else value for value in values]
        # NumPy's bytes have no zeros at the end.
        columns.append([v if isinstance(v, bytes) else np.asarray(v).tolist() for v in texts])
    return [list(row) for row in zip(*columns, strict=True)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of several chunks each, of which all but the first are read by XLA."""
    monkeypatch.setattr(gather, "BLOCK_ROWS", 128)
    monkeypatch.setattr(gather, "FIRST_ROWS", 64)
    monkeypatch.setattr(chunks, "CACHED_BYTES", 600)
    monkeypatch.setattr(chunks, "PACKED_BYTES", 600)
    monkeypatch.setattr(chunks, "COPIED_BYTES", 100_000)


@pytest.mark.usefixtures("small_blocks")
def test_the_graph_yields_every_kind_of_feature_without_python(epoch: Epoch) -> None:
    for options in ({}, {"shard": (1, 3), "start": 77}, {"drop_remainder": True}):
        dataset = _dataset(epoch, **options)
        assert b"PyFunc" not in dataset._as_serialized_graph().numpy()
        for batch, expected in zip(dataset, epoch.batches(32, **options), strict=True):
            assert _rows(batch) == _rows(expected)
    labels = EpochDataset(epoch, batch_size=32, x="label", y={"boxes": "boxes"})
    for (label, boxes), batch in zip(labels, _dataset(epoch), strict=True):
        assert label.numpy().tolist() == batch["label"].numpy().tolist()
        assert boxes["boxes"].to_list() == batch["boxes"].to_list()


DECODED = {"decode_images": True, "image_size": (4, 4)}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("symbolic", "images"), [(False, {}), (True, {}), (False, DECODED)])
def test_an_iterator_restored_from_a_checkpoint_continues_exactly(
    epoch: Epoch, tmp_path: Path, *, symbolic: bool, images: dict[str, Any]
) -> None:
    options = tf.data.Options()
    options.experimental_symbolic_checkpoint = symbolic
    # With a wait for files, since that is a part of what is saved.
    dataset = _dataset(epoch, wait=math.inf, **images).with_options(options)
    expected = [_rows(batch) for batch in dataset]
    for before in (0, 10, len(expected) - 1):
        iterator = iter(dataset)
        for _ in range(before):
            next(iterator)
        path = tf.train.Checkpoint(iterator=iterator).save(tmp_path / "checkpoint")
        resumed = iter(_dataset(epoch, wait=math.inf, **images).with_options(options))
        tf.train.Checkpoint(iterator=resumed).restore(path).assert_consumed()
        assert [_rows(batch) for batch in resumed] == expected[before:]


@pytest.mark.usefixtures("small_blocks")
def test_an_iterator_is_restored_from_one_that_began_without_compiled_code(
    epoch: Epoch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first dataset of a process begins so, and later ones do not: a restart has another."""
    monkeypatch.setattr(gather, "_compiled", set())
    first, later = _dataset(epoch), _dataset(epoch)
    expected = [_rows(batch) for batch in epoch.batches(32)]
    assert [_rows(batch) for batch in later] == [_rows(batch) for batch in first] == expected
    for saved, restored in ((first, later), (later, first)):
        iterator = iter(saved)
        next(iterator)
        path = tf.train.Checkpoint(iterator=iterator).save(tmp_path / "checkpoint")
        resumed = iter(restored)
        tf.train.Checkpoint(iterator=resumed).restore(path).assert_consumed()
        assert [_rows(batch) for batch in resumed] == expected[1:]


def test_the_cardinality_is_known_after_methods_that_keep_it(epoch: Epoch) -> None:
    dataset = _dataset(epoch)
    count = sum(1 for _ in dataset)
    assert len(dataset) == len(dataset.map(lambda batch: batch["label"]).prefetch(1)) == count
    assert len(_dataset(epoch, drop_remainder=True)) == epoch.size // 32
    assert len(_dataset(epoch, start=epoch.size)) == 0


@pytest.mark.usefixtures("small_blocks")
def test_tf_data_service_gives_each_sample_once_also_divided_among_workers(epoch: Epoch) -> None:
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.split("://")[1]

    def remote(mode: Any) -> tf.data.Dataset:
        distribute = service.distribute(processing_mode=mode, service=dispatcher.target)
        return _dataset(epoch, **DECODED).apply(distribute)

    with ExitStack() as stack:
        stack.enter_context(_worker(address))
        expected = [_rows(batch) for batch in _dataset(epoch, **DECODED)]
        assert [_rows(batch) for batch in remote(service.ShardingPolicy.OFF)] == expected
        stack.enter_context(_worker(address))
        # How it is divided depends on the workers' speed.
        samples = sorted(row for batch in expected for row in batch)
        for mode in (service.ShardingPolicy.DYNAMIC, "distributed_epoch"):
            assert sorted(row for batch in remote(mode) for row in _rows(batch)) == samples


def test_another_process_names_the_position_of_an_image_that_cannot_be_decoded(
    reg: Registry,
) -> None:
    photos = reg.create("photos", {"photo": Image(), "number": Tensor("int64")})
    files = [broken(JPEG) if number in {3, 57, 58} else JPEG for number in range(99)]
    photos.insert({"photo": files, "number": range(99)}, keys=[f"k{n}" for n in range(99)])
    epoch = photos.run("r", seed=1).epoch(0)
    order = [n for batch in epoch.batches(8) for n in batch["number"].tolist()]
    first = min(order.index(number) for number in (3, 57, 58))
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    distribute = service.distribute(service.ShardingPolicy.OFF, dispatcher.target)
    with _worker(dispatcher.target.split("://")[1]):
        batches = iter(EpochDataset(epoch, batch_size=8).apply(distribute))
        for after in range(0, first // 8 * 8, 8):
            assert next(batches)["number"].numpy().tolist() == order[after : after + 8]
        with pytest.raises(tf.errors.OpError) as raised:
            next(batches)
        position = order[first]
        assert f"dataset photos, position {position}, feature photo:" in str(raised.value)
        assert f"`registry log photos --after {position}`" in str(raised.value)
        for key in ("k3", "k57", "k58"):
            photos.update(key, photo=photo(9, 8))
        with pytest.raises(tf.errors.OpError, match="have different shapes; pass image_size"):
            list(EpochDataset(photos.run("r").epoch(1), batch_size=99).apply(distribute))


@contextmanager
def _worker(address: str) -> Iterator[None]:
    """Run a worker of tf.data service in another process."""
    context = tensorflow_context()
    started, reported = context.Pipe(duplex=False)
    worker = context.Process(target=strategies.work, args=(address, reported))
    worker.start()
    try:
        assert started.poll(60)
        yield
    finally:
        worker.kill()
        worker.join()


def test_a_parameter_server_strategy_trains_every_sample_once(digits: Dataset, url: str) -> None:
    digits.insert([digit(n) for n in range(SIZE)])
    digits.add_feature("photo", Image(), default=JPEG)
    (samples,) = results_with_tensorflow((strategies.train_on_a_cluster, (url, 50)))
    assert sorted(samples) == list(range(SIZE))


def test_a_mirrored_strategy_trains_every_sample_once(digits: Dataset, url: str) -> None:
    digits.insert([digit(n) for n in range(SIZE)])
    mirrored = {"url": url, "batch_size": 50}
    (samples,) = results_with_tensorflow((strategies.train, (mirrored,)))
    assert sorted(samples) == list(range(SIZE))


def test_two_workers_train_every_sample_once(digits: Dataset, url: str) -> None:
    digits.insert([digit(n) for n in range(SIZE)])
    first, second = _trained_by_two({"url": url, "batch_size": 25})
    assert len(first) == len(second) == SIZE // 2
    assert sorted(first + second) == list(range(SIZE))


@pytest.mark.parametrize(("drop_remainder", "count"), [(False, 101), (True, 80)])
def test_two_workers_with_unequal_shares_of_images_end_together(
    url: str, drop_remainder: bool, count: int
) -> None:
    with registry.connect(url) as reg:
        photos = reg.create("photos", {"image": Image(), "number": Tensor("int64")})
        photos.insert([{"image": JPEG, "number": n} for n in range(101)])
    options = {"drop_remainder": drop_remainder, "image_size": (4, 4)}
    arguments = {"url": url, "dataset": "photos", "batch_size": 20, "options": options}
    first, second = _trained_by_two(arguments)
    assert len({*first, *second}) == len(first) + len(second) == count


def test_the_script_on_the_page_trains_on_two_machines(url: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "machines.md").read_text()
    (script,) = re.findall(r":caption: train.py\n\n(.*?)```", page, re.DOTALL)
    with registry.connect(url) as reg:
        numbers = reg.create("numbers", {"x": Tensor("float32"), "y": Tensor("float32")})
        numbers.insert({"x": np.zeros(300, "f4"), "y": np.zeros(300, "f4")})
        works = [
            (strategies.run_script, (script, url, config)) for config in _configs_of_two_workers()
        ]
        results_with_tensorflow(*works)
        assert numbers.find_run("workers").consumed == 300


def _trained_by_two(arguments: dict[str, Any]) -> list[list[int]]:
    works = [{**arguments, "config": config} for config in _configs_of_two_workers()]
    return results_with_tensorflow(*((strategies.train, (each,)) for each in works))


def _configs_of_two_workers() -> list[str]:
    """Return the values of $TF_CONFIG."""
    cluster = {"worker": [f"localhost:{_free_port()}" for _ in range(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": n}} for n in range(2)]
    return [json.dumps(task) for task in tasks]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port: int = listener.getsockname()[1]
        return port
