"""Datasets to test on."""

from __future__ import annotations

import pytest

from registry import Bytes, ClassLabel, Dataset, Ragged, Registry, Tensor, Text
from registry.samples.features import Feature, Features
from registry.samples.schema import Schema
from registry.storage.log.schemas import Schemas

FIXED: dict[str, Feature] = {"image": Tensor("uint8", (2, 2)), "label": ClassLabel(10)}
VARIABLE: dict[str, Feature] = {
    "text": Text(),
    "label": ClassLabel(["cat", "dog"]),
    "blob": Bytes(),
    "tokens": Ragged("int32"),
}


class _FixedSchemas(Schemas):
    """The schemas of a dataset that exists nowhere, and so never changes."""

    def __init__(self, features: Features) -> None:
        self._schema = Schema(0, 0, features)

    @property
    def newest(self) -> Schema:
        return self._schema

    def refresh(self) -> bool:
        return False


def schemas_of(features: Features) -> Schemas:
    """Return the schemas of a dataset that has always had these features."""
    return _FixedSchemas(features)


@pytest.fixture
def digits(reg: Registry) -> Dataset:
    """An empty dataset of fixed-width samples."""
    return reg.create("digits", FIXED, splits={"train": 0.8, "test": 0.2})


@pytest.fixture
def notes(reg: Registry) -> Dataset:
    """An empty dataset of samples that differ in length."""
    return reg.create("notes", VARIABLE)


def digit(number: int) -> dict[str, object]:
    """Return the sample of `FIXED` that shows this number."""
    low = number % 256
    return {"image": [[low, number // 256 % 256], [0, 255]], "label": number % 10}
