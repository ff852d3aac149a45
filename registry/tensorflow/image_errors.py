"""Datasets that fail the step, with an error that names an image that cannot be decoded.

In the process that made the dataset, Python reads the samples at the expected positions from the
database, decodes them one by one, and describes the first that fails, or the first two in a batch
that differ in size. In another process, such as a worker of tf.data service, there is no such
function: the graph compares the positions that were decoded with those that are expected, and its
error names the position and the command that shows the key.

The call of Python does not count as stateful, so that iterators can be saved. It runs in the
failing dataset only.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import script_ops

from registry.errors import ImageError, RegistryError, TrainingError
from registry.samples.arrays import Positions
from registry.storage.database.transactions import read
from registry.storage.log.reader import Log
from registry.storage.log.records import sample_at
from registry.tensorflow.elements import Elements
from registry.tensorflow.generator_thread import GeneratorThread
from registry.tensorflow.raw_datasets import MapDataset
from registry.training.log_positions import log_and_position

_DECORATION = re.compile(r"\{\{[^{}]*\}\} ?| \[Op:[^\]]*\].*", re.DOTALL)
"""What TensorFlow adds to the message of a decoder: the names of nodes and operations."""
_LONGEST_DESCRIPTION = 30
"""Seconds in which Python may describe an error."""


class ImageErrors:
    """Makes datasets that fail, while it lives with Python's description of the error.

    ``dataset`` is the name of the only log's dataset, where other processes can raise the error.
    """

    def __init__(
        self, elements: Elements, logs: Sequence[Log], batch_size: int, dataset: str | None = None
    ) -> None:
        self._elements = elements
        self._logs = logs
        self._batch_size = batch_size
        self._dataset = dataset
        # Attributes, since TensorFlow refers to the functions weakly.
        self._functions = self._described, _raised
        self._tokens = [_register(function) for function in self._functions]

    def failing(
        self, positions: Any, decoded: tf.data.Dataset[Any], spec: Any
    ) -> tf.data.Dataset[Any]:
        """Return a dataset that fails, whose elements would have this spec.

        ``positions`` are those of a chunk, and ``decoded`` are pairs of a position and a sample.
        """

        def ending(operation: Any) -> Any:
            with tf.control_dependencies([operation]):
                # Never returned, but `concatenate` wants elements of one kind.
                return tf.nest.map_structure(_blank, spec)

        describe, fail = self._tokens
        single = tf.data.Dataset.from_tensors(positions)
        # In another process there is no function, which is an error that is ignored.
        messages = MapDataset(single, lambda each: _call(describe, each), 1).ignore_errors()
        by_python = MapDataset(messages, lambda message: ending(_call(fail, message)), 1)
        # One more, so that the batch is never empty.
        end = tf.data.Dataset.from_tensors(tf.constant(-1, tf.int64))
        remaining = MapDataset(decoded, lambda sample: sample[0], 1).concatenate(end)
        compared = tf.data.Dataset.zip(single, remaining.batch(tf.size(positions, tf.int64) + 1))
        by_graph = MapDataset(
            compared,
            lambda pair: ending(
                tf.raw_ops.Assert(condition=False, data=[self._message(*pair)], summarize=1)
            ),
            1,
        )
        return by_python.concatenate(by_graph)

    def _message(self, expected: Any, remaining: Any) -> Any:
        """Return the message of the graph, given expected and remaining positions.

        It has no quotes, which the assertion would print with backslashes.
        """
        names = " or ".join(self._elements.images)
        sizes = (
            f"feature {names}: the images of a batch have different shapes; pass "
            "image_size=(height, width), and channels=3"
        )
        if self._dataset is None:
            return tf.constant(f"an image cannot be decoded, or {sizes}")
        # True at the first that is missing.
        missing = tf.not_equal(expected[: tf.size(remaining)], remaining[: tf.size(expected)])
        first = tf.argmax(tf.concat([missing, [True]], 0))
        position = tf.strings.as_string(tf.gather(tf.concat([expected, [-1]], 0), first))
        before = f"dataset {self._dataset}, position "
        then = f", feature {names}: the image cannot be decoded; the key is the first of "
        command = f"`registry log {self._dataset} --after "
        remedy = "`; update or retract the sample for later epochs"
        undecoded = tf.strings.join([before, position, then, command, position, remedy])
        intact = tf.equal(first, tf.size(expected, tf.int64))
        return tf.where(intact, f"dataset {self._dataset}, {sizes}", undecoded)

    def _described(self, positions: Positions) -> bytes:
        """Return the message of the error. Called by one of TensorFlow's threads.

        Raises `TimeoutError`, after which the graph's message is taken, when it takes too long:
        then the description may be waiting for what deletes the iterator (`generator_thread`).
        """
        messages = GeneratorThread(map(self._description, [positions]))
        deadline = time.monotonic() + _LONGEST_DESCRIPTION
        try:
            while time.monotonic() < deadline:
                message: bytes | None = messages.take()
                if message is not None:
                    return message
        finally:
            messages.close()
        raise TimeoutError

    def _description(self, positions: Positions) -> bytes:
        try:
            for after in range(0, len(positions), self._batch_size):
                part = positions[after : after + self._batch_size]
                _refuse_broken(self._logs, self._elements, part)
        except RegistryError as error:
            return str(error).encode()
        return (
            b"a batch of images could not be made, but then it could: the memory may have run out"
        )


def _raised(message: bytes) -> bytes:
    raise TrainingError(message.decode())


def _register(function: Callable[..., bytes]) -> str:
    """Make a function known to TensorFlow in this process; return its token.

    The tokens of `tf.numpy_function` are numbers. In another process, the same number is another
    function, which must not be called.
    """
    token = f"registry-{uuid.uuid4()}"
    script_ops._py_funcs._funcs[token] = function  # noqa: SLF001  # `insert` chooses the token
    return token


def _call(token: str, argument: Any) -> Any:
    (message,) = tf.raw_ops.PyFuncStateless(input=[argument], token=token, Tout=[tf.string])
    return tf.ensure_shape(message, ())


def _blank(spec: tf.TensorSpec) -> Any:
    return tf.zeros([side or 0 for side in spec.shape], spec.dtype)


def _refuse_broken(logs: Sequence[Log], elements: Elements, positions: Positions) -> None:
    """Raise an error if a sample cannot be decoded, or if the images differ in size.

    Reads the database.
    """
    firsts: dict[str, tuple[tuple[int, ...], str]] = {}
    for log, position in (log_and_position(logs, each) for each in positions.tolist()):
        dataset, key, record = read(log.engine, sample_at, log.dataset_id, position)
        if not record:  # erased meanwhile
            continue
        log.schemas.at(position)  # reads newer schemas, if the row is of one
        newest = log.schemas.newest
        (brought,) = log.schemas.brought([position], [record], newest)
        values = newest.codec.decode_one(brought)
        for name in elements.images:
            try:
                image = elements.decode_images({name: values[name]})[name]
            except tf.errors.OpError as error:
                reason = _DECORATION.sub("", error.message)
                raise ImageError(
                    reason, dataset, position=position, key=key, feature=name
                ) from None
            shape = tuple(image.shape)
            first, first_key = firsts.setdefault(name, (shape, key))
            if shape != first:
                raise TrainingError(
                    f"dataset {dataset!r}, feature {name!r}: the images of a batch have different "
                    f"shapes, {first} of key {first_key!r} and {shape} of key {key!r}; pass "
                    "image_size=(height, width), and channels=3"
                )
