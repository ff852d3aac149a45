"""What the tests of Keras share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import registry
from registry import Dataset
from tests.support.models import FEATURES, grow


@pytest.fixture
def growing(sqlite_url: str) -> Iterator[Dataset]:
    """A dataset of 100 samples, on one database: what Keras does is the same on any."""
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("growing", FEATURES)
        grow(dataset, 100)
        yield dataset
