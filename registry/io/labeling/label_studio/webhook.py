"""Label Studio: webhook events and exports result in the same samples, in any order of arrival.

Every annotation is a sample whose key is ``label-studio:PROJECT:ANNOTATION``. The mapping selects
its values. `registry.io.labeling.annotation_state` handles events that are late, repeated or lost.

One dataset may take several projects, but of one Label Studio server only: annotation ids are
unique within a server.
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
    """Apply one event as `apply_events` does, but raise its error."""
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
    """Apply events in one transaction, and return the outcome of each, in order.

    An event is parsed JSON; `registry.io.labeling.mapping` describes the mapping. Pictures that
    tasks name by a path are read from below ``roots``. An event that cannot be read changes
    nothing, and its `InvalidSampleError` is returned as its outcome. Raises `FeatureError` for a
    mapping that does not fit the features, and the errors of the database.
    """
    reader = Reader(dataset, mapping, roots)
    read = [_read(reader, event) for event in events]
    # Only events with states are applied; their outcomes are put back between the others, in order.
    done = iter(settle(dataset, [each for each in read if isinstance(each, list)]))
    return [next(done) if isinstance(each, list) else each for each in read]


def _read(reader: Reader, event: Any) -> list[State] | Outcome | RegistryError:
    try:
        return reader.states(annotations_of(event))
    except IgnoredEventError as error:
        return Outcome(ignored=str(error))
    except InvalidSampleError as error:
        return error
