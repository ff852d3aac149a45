"""Two hosts with mirrors of their own: tf.data service on both, and the trainer on one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import registry
from registry import Epoch, Image, Tensor
from registry.tensorflow import EpochDataset, gather
from tests.support import hosts, strategies
from tests.support.hosts import Host
from tests.support.image_files import photo
from tests.support.processes import tensorflow_context
from tests.support.servers import eventually

service = tf.data.experimental.service
SIZE = 500
PHOTOS = [photo(8, 8, seed) for seed in range(7)]


@pytest.fixture
def other(cache: Path, tmp_path: Path) -> Iterator[Host]:
    with hosts.another_host(cache, tmp_path / "other") as host:
        yield host


class Service:
    """A dispatcher of tf.data service on this host, and workers on both."""

    def __init__(self, processes: ExitStack) -> None:
        self._processes = processes
        config = service.DispatcherConfig(worker_timeout_ms=2000)
        self.dispatcher = service.DispatchServer(config)
        self._port = self.dispatcher.target.rpartition(":")[2]

    def work_here(self) -> ForkServerProcess:
        return started(self._processes, strategies.work, f"localhost:{self._port}")

    def work_there(self, host: Host, port: int) -> ForkServerProcess:
        """Start a worker on another host."""
        dispatcher, address = f"{host.gateway}:{self._port}", f"{host.address}:{port}"
        return started(self._processes, host.run, strategies.work, dispatcher, address, port)


def started(
    processes: ExitStack, function: Callable[..., object], *arguments: Any
) -> ForkServerProcess:
    """Start a process, and wait for what it reports."""
    context = tensorflow_context()
    ready, reported = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(*arguments, reported))
    process.start()
    processes.callback(process.join)
    processes.callback(process.kill)
    assert ready.poll(60)
    return process


@contextmanager
def mirroring(host: Host, url: str) -> Iterator[None]:
    """Keep the mirror of a host up to date."""
    arguments = ("mirror", "photos", "--follow", "--url", url)
    process = tensorflow_context().Process(target=host.run, args=(hosts.run_command, *arguments))
    process.start()
    try:
        yield
        # Until it has begun, the signal would end it at once.
        eventually(lambda: any(host.folder.rglob("state")), 60)
    finally:
        process.terminate()
        process.join()
    assert process.exitcode == 0


@pytest.fixture
def epoch(sqlite_url: str) -> Iterator[Epoch]:
    """An epoch of images, each of which is known by its number."""
    with registry.connect(sqlite_url) as reg:
        photos = reg.create(
            "photos",
            {"image": Image(), "number": Tensor("int64")},
            splits={"train": 0.8, "test": 0.2},
        )
        images = [PHOTOS[number % len(PHOTOS)] for number in range(SIZE)]
        photos.insert({"image": images, "number": np.arange(SIZE)}, keys=range(SIZE))
        for number in range(10):
            photos.update(f"{number}", image=PHOTOS[number % len(PHOTOS)], number=SIZE + number)
        photos.retract("11")
        yield photos.run("r", seed=3, split="train").epoch(0)


def expected(epoch: Epoch) -> list[int]:
    """Return the numbers of an epoch's samples."""
    return sorted(number for batch in epoch.batches(64) for number in batch["number"].tolist())


def decoded(batch: dict[str, Any]) -> tuple[Any, Any]:
    """Return the numbers of samples, and the sums of their pixels: graph operations."""
    return batch["number"], tf.reduce_sum(tf.cast(batch["image"], tf.int64), [1, 2, 3])


def numbers_of(batch: tuple[Any, Any]) -> list[int]:
    """Return the numbers of samples, after a check of what was decoded."""
    numbers, sums = (part.numpy() for part in batch)
    sums_of_photos = [np.asarray(PIL.Image.open(io.BytesIO(file))).sum() for file in PHOTOS]
    kinds = numbers % SIZE % len(PHOTOS)
    np.testing.assert_allclose(sums, np.array(sums_of_photos)[kinds], rtol=0.02)
    return list(map(int, numbers))


def images(epoch: Epoch, wait: float) -> tf.data.Dataset:
    """Return batches of images that are decoded where they are read."""
    batches = EpochDataset(epoch, batch_size=10, wait=wait)
    return batches.map(decoded)


def distributed(batches: tf.data.Dataset, running: Service, policy: Any) -> tf.data.Dataset:
    """Return what the workers make of the batches; few at a time, so that all of them do."""
    return batches.apply(
        service.distribute(
            processing_mode=policy,
            service=running.dispatcher.target,
            max_outstanding_requests=2,
        )
    )


def test_every_sample_comes_once_from_workers_on_two_hosts_though_one_is_killed(
    sqlite_url: str, epoch: Epoch, other: Host
) -> None:
    samples: list[int] = []
    with ExitStack() as processes:
        running = Service(processes)
        killed = running.work_there(other, 40001)
        # Only now: the worker waits for the files.
        processes.enter_context(mirroring(other, sqlite_url))
        # Each worker makes all batches, and begins again after it was killed: the first batch of
        # each number counts.
        batches = images(epoch, wait=60).enumerate()
        known: set[int] = set()
        for number, batch in distributed(batches, running, service.ShardingPolicy.OFF):
            if int(number) in known:
                continue
            known.add(int(number))
            samples += numbers_of(batch)
            if len(known) == 10:
                running.work_here()
            if len(known) == 20:
                killed.kill()
                running.work_there(other, 40001)
    assert sorted(samples) == expected(epoch)


@pytest.mark.parametrize("killed", [False, True])
def test_a_distributed_epoch_gives_each_sample_to_one_of_the_workers_on_two_hosts(
    sqlite_url: str, epoch: Epoch, other: Host, monkeypatch: pytest.MonkeyPatch, *, killed: bool
) -> None:
    # Blocks are what workers get, and so many samples are one.
    monkeypatch.setattr(gather, "BLOCK_ROWS", 50)
    samples: list[int] = []
    with mirroring(other, sqlite_url), ExitStack() as processes:
        running = Service(processes)
        running.work_here()
        worker = running.work_there(other, 40001)
        for batch in distributed(images(epoch, wait=60), running, service.ShardingPolicy.DYNAMIC):
            samples += numbers_of(batch)
            if killed and len(samples) == 50:
                worker.kill()
                running.work_there(other, 40001)
    if killed:
        assert len(set(samples)) == len(samples), "some are missing, but none comes twice"
        assert set(samples) <= set(expected(epoch))
    else:
        assert sorted(samples) == expected(epoch)


def test_a_worker_whose_host_has_no_mirror_fails_the_step_with_the_remedy(
    epoch: Epoch, other: Host
) -> None:
    with ExitStack() as processes:
        running = Service(processes)
        running.work_there(other, 40001)
        batches = images(epoch, wait=0.2)
        with pytest.raises(tf.errors.InvalidArgumentError, match="run `registry mirror DATASET"):
            list(distributed(batches, running, service.ShardingPolicy.OFF))
