"""TensorFlow's own machinery on an `EpochDataset`: checkpoints, tf.data service, distribution."""

from __future__ import annotations

import json
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
from registry import Dataset, Epoch, Image, Tensor
from registry.tensorflow import EpochDataset, gather
from registry.training import chunks
from tests.support import strategies
from tests.support.datasets import digit
from tests.support.image_files import JPEG
from tests.support.processes import results_with_tensorflow, tensorflow_context

SIZE = 1000


@pytest.fixture
def url(sqlite_url: str) -> str:
    """One kind of database: these tests are about what reads the mirror."""
    return sqlite_url


@pytest.fixture
def epoch(digits: Dataset) -> Epoch:
    """An epoch whose index has entries: some samples are in another split, some revised."""
    digits.insert([digit(n) for n in range(SIZE)], keys=[f"k{n}" for n in range(SIZE)])
    digits.update("k7", label=1)
    digits.retract("k8")
    return digits.run("r", seed=3, split="train").epoch(0)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of several chunks each."""
    monkeypatch.setattr(gather, "BLOCK_ROWS", 128)
    monkeypatch.setattr(chunks, "CACHED_BYTES", 600)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("symbolic", [False, True])
def test_an_iterator_restored_from_a_checkpoint_continues_exactly(
    epoch: Epoch, tmp_path: Path, *, symbolic: bool
) -> None:
    options = tf.data.Options()
    options.experimental_symbolic_checkpoint = symbolic
    # With a wait for files, since that is a part of what is saved.
    dataset = EpochDataset(epoch, batch_size=32, wait=5).with_options(options)
    expected = [batch["image"].numpy() for batch in dataset]
    for before in (0, 10, len(expected) - 1):
        iterator = iter(dataset)
        for _ in range(before):
            next(iterator)
        path = tf.train.Checkpoint(iterator=iterator).save(tmp_path / "checkpoint")
        resumed = iter(EpochDataset(epoch, batch_size=32, wait=5).with_options(options))
        tf.train.Checkpoint(iterator=resumed).restore(path).assert_consumed()
        rest = [batch["image"].numpy() for batch in resumed]
        for one, other in zip(rest, expected[before:], strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_cardinality_is_known_after_methods_that_keep_it(epoch: Epoch) -> None:
    dataset = EpochDataset(epoch, batch_size=32)
    count = sum(1 for _ in dataset)
    assert len(dataset) == len(dataset.map(lambda batch: batch["label"]).prefetch(1)) == count
    assert len(EpochDataset(epoch, batch_size=32, drop_remainder=True)) == epoch.size // 32
    assert len(EpochDataset(epoch, batch_size=32, start=epoch.size)) == 0


@pytest.mark.usefixtures("small_blocks")
def test_tf_data_service_gives_each_sample_once_also_divided_among_workers(epoch: Epoch) -> None:
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.split("://")[1]

    def remote(mode: Any) -> tf.data.Dataset:
        return EpochDataset(epoch, batch_size=32).apply(
            service.distribute(processing_mode=mode, service=dispatcher.target)
        )

    with ExitStack() as stack:
        stack.enter_context(_worker(address))
        local = EpochDataset(epoch, batch_size=32)
        for here, there in zip(local, remote(service.ShardingPolicy.OFF), strict=True):
            np.testing.assert_array_equal(here["image"], there["image"])
            np.testing.assert_array_equal(here["label"], there["label"])
        stack.enter_context(_worker(address))
        expected = sorted(n for batch in epoch.batches(32) for n in _images(batch))
        for mode in (service.ShardingPolicy.DYNAMIC, "distributed_epoch"):
            assert sorted(n for batch in remote(mode) for n in _images(batch)) == expected


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


def _images(batch: Any) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in batch["image"]]


def test_a_parameter_server_strategy_trains_every_sample_once(digits: Dataset, url: str) -> None:
    digits.insert([digit(n) for n in range(SIZE)])
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
