"""Training on several devices, or several machines, by a strategy of tf.distribute.

Workers on several machines make every step together. So all of them get equally many batches, and
each makes its own: Keras would cut every worker's batches into pieces for all workers.

Keras 3 cannot do all of it by itself. It builds the model with the average of a batch's parts on
all devices, which have no average where they differ in length, nor on several machines. And there
it averages what a step returns along the first axis, which a loss does not have. So while `fit`
trains, the model is built with a whole batch, and steps return vectors of one value.
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/tensorflow/trainer.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from registry.training.sharding import Shard, Share


def place(model: Any) -> Shard | None:
    """Return the worker's index and the number of workers; None if the strategy has no others."""
    strategy = getattr(model, "distribute_strategy", None)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return None
    found: list[Shard] = []

    def look(context: tf.distribute.InputContext) -> tf.data.Dataset:
        found.append((context.input_pipeline_id, context.num_input_pipelines))
        return tf.data.Dataset.range(1)

    strategy.distribute_datasets_from_function(look)
    return found[0] if found[0][1] > 1 else None


def steps(share: Share, length: int, *, drop_remainder: bool) -> int:
    """Return how many steps all workers can make with so many samples.

    What is left at the end is no step where there are fewer samples than workers.
    """
    fewest = Share(share.batch_size, 0, share.count).size(length, drop_remainder=drop_remainder)
    return -(-fewest // share.batch_size)


def spread(model: Any, dataset: tf.data.Dataset, batch_size: int) -> Any:
    """Return a worker's batches as the strategy's, divided among the worker's own devices."""
    strategy = model.distribute_strategy
    devices = len(strategy.extended.worker_devices)
    if devices > 1:
        sizes = [(batch_size + device) // devices for device in range(devices)]
        dataset = dataset.rebatch(tf.constant(sizes, tf.int64))
    return strategy.distribute_datasets_from_function(lambda _: dataset)


@contextmanager
def adapted(model: Any, dataset: tf.data.Dataset, *, several_machines: bool) -> Iterator[None]:
    """Have Keras train the model under its strategy; ``dataset`` holds this worker's batches."""
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        yield
        return

    def build(**_: Any) -> None:
        for batch in dataset.take(1):
            with strategy.scope():
                model._symbolic_build(data_batch=batch)  # noqa: SLF001  # as Keras's own

    own: dict[str, Any] = {"_maybe_symbolic_build": build}
    if several_machines:
        own |= {name: _vectors(getattr(model, name)) for name in ("train_step", "test_step")}
        own |= {"train_function": None, "test_function": None}  # are made of the steps, and kept
    attributes = vars(model)
    before = {name: attributes[name] for name in own if name in attributes}
    attributes.update(own)
    try:
        yield
    finally:
        for name in own:
            del attributes[name]
        attributes.update(before)


def _vectors(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def vectors(data: Any) -> Any:
        return keras.tree.map_structure(lambda each: tf.reshape(each, (1,)), step(data))

    return vectors
