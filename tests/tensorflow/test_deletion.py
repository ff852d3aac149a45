"""An iterator can be deleted at any moment, in any thread."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from registry.tensorflow.from_generator import GeneratorDataset

NUMBER = tf.TensorSpec((), tf.int64)


@pytest.mark.parametrize("closing", [False, True], ids=["in its next element", "in its end"])
def test_a_thread_deletes_an_iterator_with_a_lock_that_its_generator_waits_for(
    closing: bool,
) -> None:
    """So does one that collects garbage while it holds a lock for something else."""
    lock, held, waiting = threading.Lock(), threading.Event(), threading.Event()

    def generate() -> Iterator[np.int64]:
        try:
            yield np.int64(1)
            if not closing:
                wait()
            yield np.int64(2)
        finally:
            if closing:
                wait()

    def wait() -> None:
        assert held.wait(60)
        waiting.set()
        with lock:
            pass

    iterators = [iter(GeneratorDataset(generate, NUMBER, np.int64(0)).prefetch(1))]
    assert next(iterators[0]).numpy() == 1

    def delete() -> None:
        with lock:
            held.set()
            if not closing:
                assert waiting.wait(60)
            iterators.clear()
            gc.collect()  # where it is in a cycle of references

    thread = threading.Thread(target=delete, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert waiting.wait(60), "the generator is closed"


def test_a_slow_generator_yields_each_element_once_and_empty_ones_between() -> None:
    slow = threading.Event()

    def generate() -> Iterator[np.int64]:
        yield np.int64(1)
        slow.wait(1)
        yield np.int64(2)
        raise ValueError("of the generator")

    numbers: list[int] = []
    with pytest.raises(tf.errors.OpError, match="of the generator"):
        numbers += (
            int(number) for number in GeneratorDataset(generate, NUMBER, np.int64(0)).prefetch(1)
        )
    assert 2 < len(numbers) < 9
    assert [number for number in numbers if number] == [1, 2]
