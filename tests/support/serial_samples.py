"""Datasets of numbered samples, and state machines that train on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from registry import ClassLabel, Epoch, Tensor, Text
from registry.samples.features import Feature
from registry.training.sharding import Share

NARROW: dict[str, Feature] = {"serial": Tensor("int64"), "label": ClassLabel(10)}
WIDE: dict[str, Feature] = {**NARROW, "text": Text()}
Row = tuple[object, ...]


def sample(serial: int, features: Mapping[str, Feature] = NARROW) -> dict[str, object]:
    whole = {"serial": serial, "label": serial % 10, "text": "å" * (serial % 7) + str(serial)}
    return {name: whole[name] for name in features}


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks so small that few samples cross from one to the next."""
    monkeypatch.setattr(Share, "chunk", property(lambda self: 2 * self.batch_size))
    monkeypatch.setattr(Epoch, "chunk_rows", lambda _, batch_size=3: 2 * batch_size)


def check_machine(
    machine: Callable[[], RuleBasedStateMachine], *, examples: int, steps: int
) -> None:
    """Run a state machine, at most so many times and with so many steps."""
    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]  # a factory is accepted, too
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
