"""Errors in worker processes, which return them pickled."""

from __future__ import annotations

import pickle

import pytest

from registry import errors
from registry.errors import RegistryError

FACTS = (
    errors.DatasetNotFoundError("digts", ["digits"]),
    errors.SampleNotFoundError("k1"),
    errors.InvalidSampleError("no number", row=3, key="k1", feature="label"),
    errors.RunNotFoundError("cnn", None),
    errors.LogGapError(0, 10, 9),
    errors.NotAnArrayError("a run"),
    errors.TagError("unknown", "gold"),
)


@pytest.mark.parametrize("error", FACTS, ids=lambda error: type(error).__name__)
def test_an_error_that_was_pickled_says_the_same(error: RegistryError) -> None:
    error.add_note("in worker 3")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.args) == (str(error), error.args)
    assert vars(again) == vars(error)
