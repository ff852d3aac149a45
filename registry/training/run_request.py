"""The settings that a user asks for when opening a run, and their validation."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, SupportsIndex

from registry.errors import FeatureError
from registry.samples.features import Features
from registry.samples.text import name_problem
from registry.storage.log.version import Version
from registry.training.conditions import Conditions, Where
from registry.training.parse_conditions import parse_conditions
from registry.training.policy import Policy, check_policy

END = 2**63
"""One more than the largest integer that the database can hold."""


@dataclass(frozen=True)
class RunRequest:
    """A run of this name, with these settings: None matches whatever an existing run has.

    All epochs of a run that is created with a ``version`` hold its samples. ``where`` is checked
    against the dataset's ``features``.
    """

    name: str
    features: Features
    seed: SupportsIndex | None = None
    split: str | None = None
    policy: Policy | None = None
    version: Version | None = None
    where: Where | None = None

    def check(self) -> None:
        """Raise `FeatureError` if the name, the seed or the policy is not valid."""
        if self.policy is not None:
            check_policy(self.policy)
        if self.version is not None and self.policy not in {None, "all"}:
            raise FeatureError(
                f"policy {self.policy!r}: {self.version} never has anything new, so that a run on "
                f"it takes 'all'; for other policies, open {self.version.name!r}"
            )
        if problem := name_problem(self.name):
            raise FeatureError(f"a run's name {problem}")
        if self.seed is not None and not 0 <= operator.index(self.seed) < END:
            raise FeatureError(f"seed {operator.index(self.seed)} is not in [0, 2**63)")

    def conditions(self, *, of_rows: bool) -> Conditions | None:
        """Return the conditions, as `parse_conditions` does; None if the request has none."""
        if self.where is None:
            return None
        return parse_conditions(self.where, self.features, of_rows=of_rows)

    def values(self, conditions: Conditions | None) -> dict[str, Any]:
        """Return the columns of a new run's row."""
        version = self.version
        return {
            "name": self.name,
            "seed": 0 if self.seed is None else operator.index(self.seed),
            "split": self.split,
            "policy": str(self.policy or "all"),
            "conditions": None if conditions is None else conditions.to_json(),
            "watermark": None if version is None else version.watermark,
            "chain": None if version is None else bytes.fromhex(version.chain),
            "schema": None if version is None else version.schema,
        }
