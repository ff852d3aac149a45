"""Training on several devices or several machines, by a strategy of tf.distribute.

1. `worker_shard` finds out which worker this process is. `fit` uses it as the shard.
2. `steps` computes how many steps every worker can make. Workers on several machines make each step
   together, so all of them need the same number of batches; otherwise one would wait permanently.
3. `spread` gives the strategy the worker's own batches, divided among its devices. Keras would
   divide every worker's batches among all workers.
4. `adapted` replaces two things in the model while it is trained, since Keras 3 fails there:

   - Keras builds the model with the average of a batch's parts on all devices. Parts of unequal
     length have no average, nor have parts on several machines. The model is built with a whole
     batch instead.
   - On several machines, Keras averages what a step returns along the first axis. A loss is a
     scalar and has none. Steps return vectors of one value instead.

https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/tensorflow/trainer.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from registry.training.sharding import Shard, Share


def worker_shard(model: Any) -> Shard | None:
    """Return the worker's index and the number of workers; None if there is only one."""
    strategy = getattr(model, "distribute_strategy", None)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return None
    shards: list[Shard] = []

    # The strategy has no public attribute for them; it calls this with the context.
    def note_shard(context: tf.distribute.InputContext) -> tf.data.Dataset[Any]:
        shards.append((context.input_pipeline_id, context.num_input_pipelines))
        return tf.data.Dataset.range(1)

    strategy.distribute_datasets_from_function(note_shard)
    shard = shards[0]
    return shard if shard[1] > 1 else None


def steps(share: Share, length: int, *, drop_remainder: bool) -> int:
    """Return how many steps all workers can make with ``length`` samples.

    The rest after the whole steps is not a step if it has fewer samples than there are workers.
    """
    # Worker 0 never has more samples than another.
    fewest = Share(share.batch_size, 0, share.count).size(length, drop_remainder=drop_remainder)
    return -(-fewest // share.batch_size)


def spread(model: Any, dataset: tf.data.Dataset[Any], batch_size: int) -> Any:
    """Return the strategy's dataset of a worker's batches, divided among the worker's devices."""
    strategy = model.distribute_strategy
    devices = len(strategy.extended.worker_devices)
    if devices > 1:
        # Sizes that add up to the batch size, also if it is not a multiple of the devices.
        sizes = [(batch_size + device) // devices for device in range(devices)]
        dataset = dataset.rebatch(tf.constant(sizes, tf.int64))
    # Not `experimental_distribute_dataset`, which would divide these batches among all workers.
    return strategy.distribute_datasets_from_function(lambda _: dataset)


@contextmanager
def adapted(model: Any, dataset: tf.data.Dataset[Any], *, several_machines: bool) -> Iterator[None]:
    """Make Keras able to train the model under its strategy, for the length of the block.

    ``dataset`` holds this worker's batches. The model's own attributes are restored afterwards.
    """
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        yield
        return

    def build(**_: Any) -> None:
        for batch in dataset.take(1):
            with strategy.scope():
                model._symbolic_build(data_batch=batch)  # noqa: SLF001  # as Keras's own

    replaced: dict[str, Any] = {"_maybe_symbolic_build": build}
    if several_machines:
        replaced |= {name: _vectors(getattr(model, name)) for name in ("train_step", "test_step")}
        # Keras makes these of the steps and keeps them: old ones would call the steps as they were.
        replaced |= {"train_function": None, "test_function": None}
    # Not by `setattr`: Keras's own would track what it is given.
    attributes = vars(model)
    originals = {name: attributes[name] for name in replaced if name in attributes}
    attributes.update(replaced)
    try:
        yield
    finally:
        # Attributes that only the class had are found there again once the instance's are gone.
        for name in replaced:
            del attributes[name]
        attributes.update(originals)


def _vectors(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a step whose scalar results have the shape ``(1,)``."""

    def vectors(data: Any) -> Any:
        return keras.tree.map_structure(lambda each: tf.reshape(each, (1,)), step(data))

    return vectors
