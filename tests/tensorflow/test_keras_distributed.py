"""`fit` and `Consumption` on several devices and on several machines, in separate processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import registry
from registry import Dataset
from tests.support.models import FEATURES, grow, serials_of


@pytest.fixture
def growing(sqlite_url: str) -> Iterator[Dataset]:
    """A dataset of 33 samples."""
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("growing", FEATURES)
        grow(dataset, 33)
        yield dataset


def start(name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a process that trains by this function of `tests.support.keras_distributed`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.keras_distributed", name, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment},
    )


def results(*processes: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Return what the processes print, once all have ended."""
    printed = []
    with ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
            stack.callback(process.kill)
        for process in processes:
            out, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors[-3000:]
            printed.append(json.loads(out.splitlines()[-1]))
    return printed


def test_mirrored_devices_train_on_each_sample_once_and_resume(
    growing: Dataset, sqlite_url: str, tmp_path: Path
) -> None:
    (result,) = results(start("mirrored", sqlite_url, str(tmp_path / "backup")))
    assert sorted(result["serials"]) == sorted(serials_of(growing.run("r"), 0, 1))
    assert result["consumed"] == 66
    assert result["finite"], "a device without a sample adds nothing"
    assert result["streamed"] == 66 + 20


def test_workers_on_two_machines_make_the_same_steps_and_share_each_epoch(
    growing: Dataset, sqlite_url: str, tmp_path: Path
) -> None:
    """Batches of 4 for each: four steps, and one sample that is no step for two workers."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]}
    workers = [
        start(
            "workers",
            sqlite_url,
            str(tmp_path / f"backup-{index}"),
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
        )
        for index in range(2)
    ]
    first, second = results(*workers)
    run = growing.run("r")
    for number in range(2):
        parts = [
            [n for batch in run.epoch(number).batches(4, shard=(index, 2)) for n in batch["serial"]]
            for index in range(2)
        ]
        assert first["serials"][16 * number :][:16] == parts[0]
        assert second["serials"][16 * number :][:16] == parts[1][:16]
    assert first["weights"] == second["weights"], "gradients were added over both"
    assert first["val_loss"] == second["val_loss"]
    assert first["consumed"] == second["consumed"] == 66
