"""The tests of runs and epochs, by a role that may only label and train."""

from __future__ import annotations

import pytest

from tests.storage.test_grants import as_role, contract, new_role, url
from tests.training import test_run as test_training

__all__ = ["as_role", "dataset", "new_role", "url"]

pytestmark = pytest.mark.slow
dataset = test_training.dataset
_TAMPERS = (test_training.test_a_run_does_not_continue_past_its_databases_epochs,)
globals().update(contract(test_training, without=_TAMPERS))
