"""Processes that train under `tf.distribute` strategies, or work for tf.data service."""

from __future__ import annotations

import os
import socket
from typing import Any

import tensorflow as tf

import registry
from registry.tensorflow import EpochDataset


def train(arguments: dict[str, Any]) -> list[int]:
    """Run a step on every batch of an epoch, on every replica, and return their samples."""
    if "config" in arguments:
        os.environ["TF_CONFIG"] = arguments["config"]
        strategy: Any = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with registry.connect(arguments["url"]) as reg:
        epoch = reg.open(arguments.get("dataset", "digits")).run("r").epoch(0)
        options = arguments.get("options", {})

        def dataset(context: Any) -> EpochDataset:
            return EpochDataset(epoch, batch_size=arguments["batch_size"], shard=context, **options)

        if "config" in arguments:
            batches = strategy.distribute_datasets_from_function(dataset)
        else:
            batches = strategy.experimental_distribute_dataset(dataset((0, 1)))
        return _train(strategy, batches)


def train_on_a_cluster(url: str, batch_size: int) -> list[int]:
    """Run a step on every batch of an epoch on the worker of a `ParameterServerStrategy`."""
    cluster = tf.train.ClusterSpec({"worker": [_address()], "ps": [_address()]})
    servers = [tf.distribute.Server(cluster, job_name=job, protocol="grpc") for job in cluster.jobs]
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc")
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with registry.connect(url) as reg:
        epoch = reg.open("digits").run("r").epoch(0)
        count = len(EpochDataset(epoch, batch_size=batch_size))
        batches = coordinator.create_per_worker_dataset(
            lambda: EpochDataset(epoch, batch_size=batch_size)
        )
        iterator = iter(batches)

        @tf.function  # type: ignore[untyped-decorator]
        def step(iterator: Any) -> Any:
            return _numbers(next(iterator)["image"])

        parts = [coordinator.schedule(step, args=(iterator,)) for _ in range(count)]
        coordinator.join()
        samples = [n for part in coordinator.fetch(parts) for n in part.tolist()]
    del servers
    return samples


def _address() -> str:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"


def _train(strategy: Any, batches: Any) -> list[int]:
    @tf.function  # type: ignore[untyped-decorator]
    def step(batch: Any) -> Any:
        def on_replica(batch: Any) -> Any:
            image = batch["image"]
            # An all-reduce, as gradients need: workers that are out of step would hang in it.
            context = tf.distribute.get_replica_context()
            context.all_reduce("SUM", tf.cast(tf.shape(image)[0], tf.float32))
            if "number" in batch:
                return batch["number"]
            return _numbers(image)

        return strategy.run(on_replica, args=(batch,))

    samples: list[int] = []
    for batch in batches:
        for part in strategy.experimental_local_results(step(batch)):
            samples += part.numpy().tolist()
    return samples


def _numbers(images: Any) -> Any:
    images = tf.cast(images, tf.int64)
    return images[:, 0, 0] + 256 * images[:, 0, 1]


def work(dispatcher: str, *arguments: Any) -> None:
    """Run a worker of tf.data service until it is killed.

    ``arguments`` are its address and port, if they are given, and then a pipe that gets an item
    when the worker has started.
    """
    *address, started = arguments
    config = tf.data.experimental.service.WorkerConfig(
        dispatcher, *address, heartbeat_interval_ms=100
    )
    server = tf.data.experimental.service.WorkerServer(config)
    started.send(None)
    server.join()


def run_script(script: str, url: str, config: str) -> None:
    """Run a script as a program on the database, and as the worker of a ``$TF_CONFIG``."""
    os.environ.update(REGISTRY_URL=url, TF_CONFIG=config)
    exec(compile(script, "script", "exec"), {"__name__": "__main__"})
