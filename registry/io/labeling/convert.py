"""Turns annotations into the states of samples that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.catalog.dataset import Dataset
from registry.errors import InvalidSampleError
from registry.io.labeling.annotation import Annotation
from registry.io.labeling.annotation_state import State
from registry.io.labeling.mapping import Rules, check_mapping, readable, values
from registry.samples.codec import Codec, rows_to_columns


@dataclass
class Reader:
    """Turns annotations into states of samples, by a mapping."""

    dataset: Dataset
    mapping: Mapping[str, str] | None
    roots: Sequence[Path] = ()
    rules: Rules = field(init=False)
    codec: Codec = field(init=False)

    def __post_init__(self) -> None:
        self.rules = check_mapping(self.dataset.features, self.mapping)
        self.codec = Codec(self.dataset.features)

    def states(self, found: Iterable[Annotation]) -> list[State]:
        """Return what annotations come to; what does not fit has a fault."""
        return [self._state(annotation) for annotation in found]

    def _state(self, annotation: Annotation) -> State:
        named = (annotation.project, annotation.id, annotation.updated_at)
        if annotation.updated_at is None:
            return State(*named)
        features = self.dataset.features
        try:
            found = values(features, self.rules, annotation, self.roots)
            if found is None:
                return State(*named)
            (record,) = self.codec.encode(rows_to_columns(features, [found]))
        except InvalidSampleError as error:
            reason = error.reason
            if not reason.startswith(annotation.place):
                reason = f"{annotation.place}: {reason}"
            fault = InvalidSampleError(reason, feature=error.feature)
            return State(*named, readable(features, self.rules, annotation), fault=fault)
        return State(*named, found, record)
