"""Running a Python generator on a separate thread, so that its iterator can always be deleted.

How it works: a request makes the thread take the generator's next element. Whoever waits for the
element gives up after a moment, and asks for the same one again later.

Why: to delete an iterator, TensorFlow waits until its calls of Python have returned, and Python's
garbage collector can delete one at any allocation, in any thread. Suppose that this thread holds a
lock for which the generator waits. If TensorFlow called the generator itself, neither of the two
would ever continue.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from registry.tensorflow import generator_shutdown

CANCEL_INTERVAL = 0.2
"""Seconds that TensorFlow waits for an element at most, until it can cancel an iterator."""
Taken: TypeAlias = tuple[Any, BaseException | None]
"""An element, or what the generator raised in its place."""


class GeneratorThread:
    """A generator that runs on a daemon thread.

    Only simple queues connect it with others. Those take no lock of Python's, so that they can be
    used wherever garbage is collected.
    """

    def __init__(self, generator: Iterator[Any]) -> None:
        self._requests = SimpleQueue[bool]()
        self._elements = SimpleQueue[Taken]()
        self._requested = False
        threading.Thread(
            target=_answer,
            args=(generator, self._requests, self._elements),
            name="registry-generator",
            daemon=True,
        ).start()

    def take(self) -> Any:
        """Return the next element, or None if it takes longer than `CANCEL_INTERVAL`.

        Raises what the generator raises, and StopIteration at its end.
        """
        if not self._requested:
            self._requests.put(True)
            self._requested = True
        try:
            element, error = self._elements.get(timeout=CANCEL_INTERVAL)
        except Empty:
            return None
        self._requested = False
        if error is not None:
            raise error
        return element

    def close(self) -> None:
        """Have the thread delete the generator and end, without waiting for it."""
        self._requests.put(False)


def _answer(
    generator: Iterator[Any], requests: SimpleQueue[bool], elements: SimpleQueue[Taken]
) -> None:
    while requests.get():
        with generator_shutdown.running_call():
            try:
                elements.put((next(generator), None))
            except BaseException as error:  # noqa: BLE001  # it is raised where the element is taken
                elements.put((None, error))
