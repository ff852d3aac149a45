"""Statistics: what is counted of a log as it grows, compared with a count of all its rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from random import Random

import pytest

from registry import Registry
from registry.catalog.statistics.count import statistics_of
from registry.catalog.statistics.model import Statistics
from tests.support.counted_rows import counted
from tests.support.labelers import KINDS, Labelers

pytestmark = pytest.mark.usefixtures("small_parts")


def counts(statistics: Statistics) -> Statistics:
    """Return statistics without the time at which they were counted."""
    return replace(statistics, counted_at=datetime.min.replace(tzinfo=UTC))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_counted_as_a_log_grows_is_what_all_its_rows_are(reg: Registry, kind: str) -> None:
    random = Random(kind)
    dataset = reg.create("digits", KINDS[kind], splits={"train": 0.6, "test": 0.4})
    labelers = Labelers(dataset, kind, random)
    for _ in range(30):
        labelers.step()
        if random.random() < 0.3:
            partly = statistics_of(reg.open("digits"), most=random.randrange(1, 9))
            assert partly.until == dataset.head.position
            continue
        opened = random.choice([dataset, reg.open("digits")])
        assert counts(statistics_of(opened)) == counts(counted(opened))
        position = random.randrange(opened.head.position + 1)
        version = reg.open(f"digits@{position}")
        at_version = replace(counts(counted(version)), groups=None)
        assert counts(statistics_of(version)) == at_version
        assert counts(statistics_of(version)) == at_version, "from its file"
