"""What a dataset does, on both databases."""

from __future__ import annotations

import numpy as np
import pytest

from registry import Dataset, Registry
from registry.errors import SampleNotFoundError, VersionError
from tests.datasets import digit


def test_inserted_samples_are_read_back_in_order(digits: Dataset) -> None:
    report = digits.insert([digit(n) for n in range(5)], source="a tool")
    assert (report.inserted, report.revised, report.unchanged) == (5, 0, 0)
    assert report.head == digits.head
    assert len(digits) == 5
    (page,) = digits.pages()
    assert (page.start, page.stop) == (0, 5)
    np.testing.assert_array_equal(page["label"], [0, 1, 2, 3, 4])
    assert page["image"].shape == (5, 2, 2)
    assert page["image"].dtype == np.uint8
