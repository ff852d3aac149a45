"""Label Studio: webhook events and exports result in the same samples, in any order of arrival.

Every annotation is a sample whose key is ``label-studio:PROJECT:ANNOTATION``. The mapping selects
its values. `registry.io.labeling.annotation_state` handles events that are late, repeated or lost.

One dataset may take several projects, but of one Label Studio server only: annotation ids are
unique within a server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from registry.catalog.dataset import Dataset
from registry.errors import InvalidSampleError, RegistryError
from registry.io.labeling.annotation import IgnoredEventError
from registry.io.labeling.annotation_state import AnnotationState, Removal
from registry.io.labeling.apply import Outcome, apply_states
from registry.io.labeling.consensus import ConsensusRule
from registry.io.labeling.convert import AnnotationConverter
from registry.io.labeling.label_studio.annotations import TOOL
from registry.io.labeling.label_studio.events import parse_event
from registry.io.labeling.label_studio.mapping import check_mapping
from registry.io.labeling.rules import consensus_of
from registry.io.media import MediaReader

__all__ = ["Outcome", "apply_event", "apply_events", "check_mapping"]


def apply_event(
    dataset: Dataset,
    mapping: Mapping[str, str] | None,
    event: Any,
    *,
    media: MediaReader | None = None,
    hull: bool = False,
    consensus: ConsensusRule | None = None,
) -> Outcome:
    """Apply one event as `apply_events` does, but raise its error."""
    (outcome,) = apply_events(
        dataset, mapping, [event], media=media, hull=hull, consensus=consensus
    )
    if isinstance(outcome, RegistryError):
        raise outcome
    return outcome


def apply_events(
    dataset: Dataset,
    mapping: Mapping[str, str] | None,
    events: Sequence[Any],
    *,
    media: MediaReader | None = None,
    hull: bool = False,
    consensus: ConsensusRule | None = None,
) -> list[Outcome | RegistryError]:
    """Apply events in one transaction, and return the outcome of each, in order.

    An event is parsed JSON; `registry.io.labeling.label_studio.mapping` describes the mapping.
    ``media`` reads the files and URIs that tasks name, before the transaction; without it, none is
    read. An annotation of which one cannot be read is rejected. ``hull`` replaces rotated
    rectangles by their hulls; they are refused otherwise. With a ``consensus``, each task has one
    sample, whose key is the task's. An event that cannot be read changes
    nothing, and its `InvalidSampleError` is returned as its outcome. Raises `FeatureError` for a
    mapping that does not fit the features, and the errors of the database.
    """
    # A class or a feature may have been added since, by another process.
    dataset.schemas.refresh()
    schema = dataset.schema
    rules = check_mapping(schema.features, mapping, hull=hull)
    voted = consensus_of(schema.features, rules, consensus)
    converter = AnnotationConverter(schema, rules, media or MediaReader(), voted)
    # Parsed and packed before the transaction, which holds the head's lock.
    parsed = [_parse(converter, event) for event in events]
    groups = [each for each in parsed if isinstance(each, list)]
    # Only events with states are applied; their outcomes are put back between the others, in order.
    outcomes = iter(apply_states(dataset, TOOL, groups, consensus=voted))
    return [next(outcomes) if isinstance(each, list) else each for each in parsed]


def _parse(
    converter: AnnotationConverter, event: Any
) -> list[AnnotationState | Removal] | Outcome | RegistryError:
    try:
        parsed = parse_event(event)
        return [parsed] if isinstance(parsed, Removal) else [*converter.states(parsed)]
    except IgnoredEventError as error:
        return Outcome(ignored=str(error))
    except InvalidSampleError as error:
        return error
