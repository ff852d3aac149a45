"""Processes killed for real."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

from registry import Dataset
from tests.datasets import digit

BATCH = 50
WRITER = """
import sys
import registry
from tests.datasets import digit

with registry.connect(sys.argv[1]) as reg:
    dataset = reg.open("digits")
    print("ready", flush=True)
    for number in range(int(sys.argv[2]), 10**6):
        keys = [f"{number}-{row}" for row in range(50)]
        dataset.insert([digit(row) for row in range(50)], keys=keys)
        print(number, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_whole_batches(url: str, digits: Dataset) -> None:
    rng = random.Random(3)
    acknowledged = -1
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(acknowledged + 1)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.05, 0.3))
        writer.send_signal(signal.SIGKILL)
        told = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        acknowledged = max([acknowledged, *map(int, told)])
        _check(digits, acknowledged)
    again = [f"{acknowledged}-{row}" for row in range(BATCH)]
    assert digits.insert([digit(row) for row in range(BATCH)], keys=again).unchanged == BATCH


def _check(digits: Dataset, acknowledged: int) -> None:
    """The log is whole batches, in order: all that were acknowledged, and one more at most."""
    batches, rest = divmod(digits.head.position, BATCH)
    assert rest == 0
    assert acknowledged + 1 <= batches <= acknowledged + 2
    assert sum(map(len, digits.pages())) == batches * BATCH
    keys = [entry.key for entry in digits.entries()]
    assert keys == [f"{n}-{row}" for n in range(batches) for row in range(BATCH)]
