"""`fit` and `Consumption` on several devices and on several machines, in separate processes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import registry
from registry import Dataset
from tests.support.keras_distributed import mirrored, worker
from tests.support.models import FEATURES, grow, serials_of
from tests.support.processes import results_with_tensorflow


@pytest.fixture
def growing(sqlite_url: str) -> Iterator[Dataset]:
    """A dataset of 33 samples."""
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("growing", FEATURES)
        grow(dataset, 33)
        yield dataset


def test_mirrored_devices_train_on_each_sample_once_and_resume(
    growing: Dataset, sqlite_url: str, tmp_path: Path
) -> None:
    (result,) = results_with_tensorflow((mirrored, (sqlite_url, str(tmp_path / "backup"))))
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
    configs = [
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]
    first, second = results_with_tensorflow(
        *(
            (worker, (sqlite_url, str(tmp_path / f"backup-{index}"), config))
            for index, config in enumerate(configs)
        )
    )
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
