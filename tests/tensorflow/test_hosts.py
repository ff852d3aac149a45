"""Two hosts with mirrors of their own: tf.data service on both, and the trainer on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import registry
from registry import Dataset, Epoch, Tensor
from registry.tensorflow import EpochDataset, gather
from tests.support import hosts, strategies
from tests.support.hosts import Host
from tests.support.processes import tensorflow_context

service = tf.data.experimental.service
SIZE = 1000


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
    arguments = ("mirror", "numbers", "--follow", "--url", url)
    process = tensorflow_context().Process(target=host.run, args=(hosts.run_command, *arguments))
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()
    assert process.exitcode == 0


@pytest.fixture
def numbers(sqlite_url: str) -> Iterator[Dataset]:
    """A dataset of numbers, so that each sample is known by its value."""
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create(
            "numbers", {"number": Tensor("int64")}, splits={"train": 0.8, "test": 0.2}
        )
        dataset.insert({"number": np.arange(SIZE)}, keys=range(SIZE))
        dataset.insert({"number": np.arange(10)}, keys=range(SIZE, SIZE + 10))
        for key in range(SIZE, SIZE + 10):
            dataset.retract(f"{key}")
        yield dataset


@pytest.fixture
def epoch(numbers: Dataset) -> Epoch:
    return numbers.run("r", seed=3, split="train").epoch(0)


def expected(epoch: Epoch) -> list[int]:
    """Return the numbers that an epoch holds."""
    return sorted(number for batch in epoch.batches(64) for number in batch["number"].tolist())


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
        batches = EpochDataset(epoch, batch_size=10, wait=60).enumerate()
        known: set[int] = set()
        for number, batch in distributed(batches, running, service.ShardingPolicy.OFF):
            if int(number) in known:
                continue
            known.add(int(number))
            samples += batch["number"].numpy().tolist()
            if len(known) == 10:
                running.work_here()
            if len(known) == 20:
                killed.kill()
                running.work_there(other, 40001)
    assert sorted(samples) == expected(epoch)


def test_a_distributed_epoch_gives_each_sample_to_one_of_the_workers_on_two_hosts(
    sqlite_url: str, epoch: Epoch, other: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks are what workers get, and so many samples are one.
    monkeypatch.setattr(gather, "BLOCK_ROWS", 50)
    with mirroring(other, sqlite_url), ExitStack() as processes:
        running = Service(processes)
        running.work_here()
        running.work_there(other, 40001)
        batches = EpochDataset(epoch, batch_size=10, wait=60)
        samples = [
            number
            for batch in distributed(batches, running, service.ShardingPolicy.DYNAMIC)
            for number in batch["number"].numpy().tolist()
        ]
    assert sorted(samples) == expected(epoch)


def test_a_worker_whose_host_has_no_mirror_fails_the_step_with_the_remedy(
    epoch: Epoch, other: Host
) -> None:
    with ExitStack() as processes:
        running = Service(processes)
        running.work_there(other, 40001)
        batches = EpochDataset(epoch, batch_size=10, wait=0.2)
        with pytest.raises(tf.errors.InvalidArgumentError, match="run `registry mirror DATASET"):
            list(distributed(batches, running, service.ShardingPolicy.OFF))
