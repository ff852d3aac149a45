"""Conversion of annotations to the states of their samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from registry.errors import InvalidSampleError
from registry.io.labeling.annotation import Annotation
from registry.io.labeling.annotation_state import AnnotationState
from registry.io.labeling.consensus import Consensus
from registry.io.labeling.mapping import answered_features, readable_values, values_of
from registry.io.labeling.rules import Rules
from registry.io.media import MediaReader
from registry.io.row import GivenFeatures
from registry.samples.features import Features
from registry.samples.json_codec import to_fields
from registry.samples.schema import Schema

PART_BYTES = 16 << 20
"""Bytes of records that are applied together: images that tasks name are not in the file's size."""


@dataclass
class AnnotationConverter:
    """Converts annotations by a parsed mapping; ``media`` reads what they name.

    The mapping was parsed for the features of ``schema``, as is the ``consensus``, with which each
    task has one sample.
    """

    schema: Schema
    rules: Rules
    media: MediaReader = field(default_factory=MediaReader)
    consensus: Consensus | None = None
    features: Features = field(init=False)

    def __post_init__(self) -> None:
        self.features = GivenFeatures(self.schema.features, self.schema.defaults)

    def states(self, annotations: Iterable[Annotation]) -> list[AnnotationState]:
        """Return the states of annotations, in order; one that does not fit has an ``error``."""
        return [*self.media.map(self._state, annotations)]

    def parts(self, annotations: Iterable[Annotation]) -> Iterator[list[AnnotationState]]:
        """Yield the states of annotations, in order, in lists of records of some MiB."""
        states: list[AnnotationState] = []
        size = 0
        for state in self.media.map(self._state, annotations):
            states.append(state)
            size += len(state.record or b"")
            if size >= PART_BYTES:
                yield states
                states, size = [], 0
        if states:
            yield states

    def _state(self, annotation: Annotation) -> AnnotationState:
        identity, updated_at = annotation.id, annotation.updated_at
        if updated_at is None:
            # A deletion.
            return AnnotationState(identity, None, annotator=annotation.annotator)
        features, codec = self.features, self.schema.codec
        state = partial(
            AnnotationState,
            identity,
            updated_at,
            task=annotation.task,
            annotator=annotation.annotator,
            created_at=annotation.created_at,
        )
        try:
            values = values_of(features, self.rules, annotation, self.media)
            # Skipped or unanswered: a state without a sample, which retracts an earlier one.
            if values is None:
                return state()
            self._check_task(annotation)
            (record,) = codec.encode(codec.to_columns([values]))
        except InvalidSampleError as error:
            reason = error.reason
            # The codec does not know the annotation, and `values_of` has already named it.
            if not reason.startswith(annotation.label):
                reason = f"{annotation.label}: {reason}"
            return state(
                readable_values(features, self.rules, annotation),
                error=InvalidSampleError(reason, feature=error.feature),
            )
        state = partial(state, values, record, schema=self.schema)
        if self.consensus is None:
            return state()
        # The values as they are stored: equal ones must be equal however they were written. A
        # default is no answer.
        fields = to_fields(features, codec.decode_one(record))
        answered = answered_features(self.rules, annotation)
        return state(
            answers={name: fields[name] for name in values if name in answered},
            data={name: fields[name] for name in values if name not in answered},
        )

    def _check_task(self, annotation: Annotation) -> None:
        if self.consensus is not None and annotation.task is None:
            raise InvalidSampleError("nothing says which task it is of; import an export")
