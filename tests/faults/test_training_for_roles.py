"""The tests of runs and epochs, by a role that may only label and train."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry import Registry
from tests.storage.test_grants import as_role, contract, new_role, url
from tests.support.serial_samples import check_machine
from tests.training import test_run as test_training

__all__ = ["as_role", "dataset", "new_role", "url"]

pytestmark = pytest.mark.slow
dataset = test_training.dataset
_OWNERS = (
    test_training.test_a_run_does_not_continue_past_its_databases_epochs,  # which tampers
    test_training.test_epochs_always_have_each_live_sample_once_and_replay,  # which erases
)
globals().update(contract(test_training, without=_OWNERS))


class _Training(test_training.Training):
    """The model without what only the owner of the tables may do."""

    erase = None  # type: ignore[assignment]


@pytest.mark.usefixtures("short_chunks")
def test_epochs_have_each_live_sample_once_and_replay_for_a_role(
    reg: Registry, cache: Path
) -> None:
    check_machine(lambda: _Training(reg, cache), examples=12, steps=30)
