"""The classes of Keras that ours extend.

Keras ships no types. Type checkers would know nothing of a class whose base they do not know, so
that they are given a base with any attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class _Untyped:
        def __init__(self, *arguments: Any, **options: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    class Callback(_Untyped):
        def set_model(self, model: Any) -> None: ...

    class CallbackList(_Untyped):
        def on_train_begin(self, logs: Any = None) -> None: ...
        def on_train_end(self, logs: Any = None) -> None: ...
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None: ...
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None: ...
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None: ...

    class Layer(_Untyped): ...

else:
    import keras

    Callback = keras.callbacks.Callback
    CallbackList = keras.callbacks.CallbackList
    Layer = keras.layers.Layer
