"""Label Studio: its webhook events and its exports, in any order, bring the same samples.

Every annotation is a sample whose key is ``label-studio:PROJECT:ANNOTATION``. The mapping
says what is in it, and `registry.io.labeling.annotation_state` what counts when events come late,
twice or never.
One dataset may take several projects, of one Label Studio server: its annotation ids are its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.catalog.dataset import Dataset
from registry.errors import InvalidSampleError, RegistryError
from registry.io.labeling.annotation_state import State
from registry.io.labeling.apply import Outcome, settle
from registry.io.labeling.convert import Reader
from registry.io.labeling.label_studio.events import IgnoredEventError, annotations_of
from registry.io.labeling.label_studio.export import insert_export
from registry.io.labeling.mapping import check_mapping

__all__ = ["Outcome", "apply_event", "apply_events", "check_mapping", "insert_export"]


def apply_event(
    dataset: Dataset, mapping: Mapping[str, str] | None, event: Any, *, roots: Sequence[Path] = ()
) -> Outcome:
    """Apply one event, as `apply_events` does, and raise its error."""
    (outcome,) = apply_events(dataset, mapping, [event], roots=roots)
    if isinstance(outcome, RegistryError):
        raise outcome
    return outcome


def apply_events(
    dataset: Dataset,
    mapping: Mapping[str, str] | None,
    events: Sequence[Any],
    *,
    roots: Sequence[Path] = (),
) -> list[Outcome | RegistryError]:
    """Apply events in one transaction, and return what became of each.

    An event is JSON, parsed; the mapping is `registry.io.labeling.mapping`'s. Pictures that tasks
    name by a path are read from below ``roots``. An event that makes no sense changes nothing, and
    its `InvalidSampleError` stands in its place. A mapping that does not fit the features raises
    `FeatureError`, and a database that is out of reach raises, too.
    """
    reader = Reader(dataset, mapping, roots)
    read = [_read(reader, event) for event in events]
    done = iter(settle(dataset, [each for each in read if isinstance(each, list)]))
    return [next(done) if isinstance(each, list) else each for each in read]


def _read(reader: Reader, event: Any) -> list[State] | Outcome | RegistryError:
    try:
        return reader.states(annotations_of(event))
    except IgnoredEventError as error:
        return Outcome(ignored=str(error))
    except InvalidSampleError as error:
        return error
