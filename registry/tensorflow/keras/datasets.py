"""The datasets that `fit` passes to ``model.fit`` for each epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from registry.tensorflow.datasets import EpochDataset, MixStepsDataset
from registry.tensorflow.keras import distribution
from registry.training.epoch import Epoch
from registry.training.mix import Mix
from registry.training.sharding import ALONE, Share

_OF_SHARES = {"batch_size", "shard", "drop_remainder"}
"""Options that say which samples are in a batch. Those of a mix follow from its steps."""


@dataclass(frozen=True)
class Datasets:
    """Makes datasets of epochs, all with the same options.

    ``options`` are those of `EpochDataset`. ``function`` is mapped over the batches, if there is
    one, and called with the parts of each.
    """

    share: Share
    options: Mapping[str, Any]
    function: Callable[..., Any] | None

    def training(self, epoch: Epoch, first: int) -> tf.data.Dataset[Any]:
        """Return the worker's batches of an epoch, from the offset ``first`` on."""
        return self._mapped(EpochDataset(epoch, start=first, **self.options))

    def of_mix(self, mix: Mix, start: int, steps: int) -> tf.data.Dataset[Any]:
        """Return the worker's batches of the next ``steps`` steps of a mix after ``start``."""
        given = {name: value for name, value in self.options.items() if name not in _OF_SHARES}
        return self._mapped(MixStepsDataset(mix, self.share, start, steps, **given))

    def validation(self, epoch: Epoch) -> tf.data.Dataset[Any]:
        """Return batches of the whole epoch for every worker, so that all get equal metrics."""
        options = {**self.options, "shard": ALONE, "drop_remainder": False}
        return self._mapped(EpochDataset(epoch, **options))

    def steps(self, length: int) -> int:
        """Return how many steps all workers can make together with ``length`` samples."""
        drop = self.options["drop_remainder"]
        return distribution.steps(self.share, length, drop_remainder=drop)

    def _mapped(self, dataset: tf.data.Dataset[Any]) -> tf.data.Dataset[Any]:
        if self.function is None:
            return dataset
        return dataset.map(self.function, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def build(model: Any, dataset: tf.data.Dataset[Any]) -> None:
    """Create a model's weights by calling it with one batch, whose result is discarded.

    Without weights, callbacks that restore them would have nothing to restore into.
    """
    if type(model).call is keras.Model.call:
        return  # it has its own `train_step` and no outputs, and `call` would raise
    for batch in dataset.take(1):
        inputs = batch[0] if isinstance(batch, tuple) else batch
        if keras.backend.backend() != "tensorflow":
            inputs = keras.tree.map_structure(
                lambda each: keras.ops.convert_to_tensor(each.numpy()), inputs
            )
        # Outside of the strategy's scope, the variables would not be distributed.
        with scope(model):
            model(inputs)


def scope(model: Any) -> AbstractContextManager[Any]:
    """Return the context in which a model's variables are created: its strategy's, if any.

    Only Keras's TensorFlow backend has strategies.
    """
    strategy = getattr(model, "distribute_strategy", None)
    return nullcontext() if strategy is None else strategy.scope()
