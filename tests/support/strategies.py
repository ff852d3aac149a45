"""Processes that train under `tf.distribute` strategies, or work for tf.data service."""

from __future__ import annotations

import os
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


def _train(strategy: Any, batches: Any) -> list[int]:
    @tf.function  # type: ignore[untyped-decorator]
    def step(batch: Any) -> Any:
        def on_replica(batch: Any) -> Any:
            image = tf.cast(batch["image"], tf.int64)
            # An all-reduce, as gradients need: workers that are out of step would hang in it.
            context = tf.distribute.get_replica_context()
            context.all_reduce("SUM", tf.cast(tf.shape(image)[0], tf.float32))
            if "number" in batch:
                return batch["number"]
            return image[:, 0, 0] + 256 * image[:, 0, 1]

        return strategy.run(on_replica, args=(batch,))

    samples: list[int] = []
    for batch in batches:
        for part in strategy.experimental_local_results(step(batch)):
            samples += part.numpy().tolist()
    return samples


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
