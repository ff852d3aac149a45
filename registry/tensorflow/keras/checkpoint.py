"""The position in a run that is saved together with a model's weights.

Keras writes a backup's weights and its note of the epoch into two files, one after the other, and
knows nothing of a run. So the position goes into the file of the weights itself: whichever weights
are restored, the position restored with them is theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

ATTRIBUTE = "registry_position"
"""Of the model: Keras saves the layers that it finds in a model's attributes, under their name."""


@dataclass(frozen=True)
class Call:
    """A call of `fit`: it trains ``epochs`` epochs of the run from epoch ``first`` on."""

    id: str
    first: int
    epochs: int

    @property
    def end(self) -> int:
        """The number of the epoch before which it ends."""
        return self.first + self.epochs


@dataclass(frozen=True)
class Position:
    """How far a model was trained: on the first ``sample`` samples of a run.

    ``consumed`` are those that were consumed before the training began. ``epoch`` is the number
    of the epoch that was trained on last, and ``chain`` the log's at its watermark.
    """

    run: str
    sample: int
    consumed: int
    epoch: int | None = None
    chain: str | None = None
    call: Call | None = None

    @property
    def furthest(self) -> int:
        """What the run has consumed when the model stands here: more, if it is a replay."""
        return max(self.sample, self.consumed)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Position:
        fields = json.loads(text)
        call = fields.pop("call")
        return cls(**fields, call=None if call is None else Call(**call))


class SavedPosition(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no types
    """A layer that is none of the model's layers, but is saved and restored with its weights."""

    def __init__(self, current: Callable[[], Position]) -> None:
        super().__init__()
        self._current = current
        self._restored: str | None = None

    def attach(self, model: Any) -> None:
        # Past Keras's own setting of attributes, which would make it one of the model's layers.
        object.__setattr__(model, ATTRIBUTE, self)

    @staticmethod
    def detach(model: Any) -> None:
        vars(model).pop(ATTRIBUTE, None)

    @property
    def restored(self) -> Position | None:
        """The position of the weights that were loaded last; None if they came without."""
        return None if self._restored is None else Position.from_json(self._restored)

    def save_own_variables(self, store: Any) -> None:
        store["position"] = np.frombuffer(self._current().to_json().encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        self._restored = None
        if "position" in store.keys():  # noqa: SIM118  # a store of Keras's has no `in`
            self._restored = np.asarray(store["position"]).tobytes().decode()
