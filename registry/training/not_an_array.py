"""Refuses a run or a mix where an array is expected."""

from __future__ import annotations

from typing import NoReturn

from registry.errors import NotAnArrayError


class NotAnArray:
    """Something that is trained on, but not as an array."""

    @property
    def shape(self) -> NoReturn:
        """Raises `NotAnArrayError`.

        Keras reads the shape of what it takes for an array, which cannot work here.
        """
        name = type(self).__name__.lower()
        raise NotAnArrayError(
            f"{self!r} is no array of samples: train with registry.keras.fit(model, {name}, …) or "
            f"model.fit(StreamDataset({name}, …), steps_per_epoch=…)"
        )

    def __array__(self, dtype: object = None, copy: object = None) -> NoReturn:
        _ = self.shape
        raise AssertionError
