"""Saving the position in a run together with a model's weights.

`SavedPosition` is a layer that `attach` sets as an attribute of the model. Keras saves the layers
that it finds in a model's attributes, so the position is written into the file of the weights.

Why: Keras writes the weights of a backup and the number of its epoch into two files, one after the
other, and has no notion of a run. With the position in the weights' own file, restored weights and
the restored position always belong together, even if a crash came between the two files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from registry.tensorflow.keras.base_classes import Layer

ATTRIBUTE = "registry_position"
"""The model's attribute that holds the layer, which is also its name in the file of weights."""


@dataclass(frozen=True)
class Call:
    """A call of `fit`, which trains on ``epochs`` epochs, beginning with ``first``.

    Those of a mix have ``samples_per_epoch`` samples.
    """

    id: str
    first: int
    epochs: int
    samples_per_epoch: int | None = None

    @property
    def end(self) -> int:
        """The number of the epoch after the last one."""
        return self.first + self.epochs


@dataclass(frozen=True)
class Position:
    """How far a model was trained: on the first ``sample`` samples of a run.

    ``consumed`` is the number of samples that were consumed before the training began. ``epoch``
    is the number of the epoch that was trained on last, and ``chain`` the log's chain value at the
    watermark of that epoch, as hexadecimal digits.
    """

    run: str
    sample: int
    consumed: int
    epoch: int | None = None
    chain: str | None = None
    call: Call | None = None

    @property
    def furthest(self) -> int:
        """The number of the run's samples consumed at this position.

        It is more than ``sample`` if the training replays earlier epochs.
        """
        return max(self.sample, self.consumed)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Position:
        fields = json.loads(text)
        call = fields.pop("call")
        return cls(**fields, call=None if call is None else Call(**call))


class SavedPosition(Layer):
    """A layer that is saved and restored with a model's weights, but not called by the model.

    Keras reads the position from ``current`` while it saves the weights.
    """

    def __init__(self, current: Callable[[], Position]) -> None:
        super().__init__()
        self._current = current
        self._restored: str | None = None

    def attach(self, model: Any) -> None:
        # Not `setattr`: Keras's own would track this as one of the model's layers.
        object.__setattr__(model, ATTRIBUTE, self)

    @staticmethod
    def detach(model: Any) -> None:
        vars(model).pop(ATTRIBUTE, None)

    @property
    def restored(self) -> Position | None:
        """The position in the weights that were loaded last; None if they had none."""
        return None if self._restored is None else Position.from_json(self._restored)

    def save_own_variables(self, store: Any) -> None:
        store["position"] = np.frombuffer(self._current().to_json().encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        self._restored = None
        if "position" in store.keys():  # noqa: SIM118  # a store of Keras's has no `in`
            self._restored = np.asarray(store["position"]).tobytes().decode()
