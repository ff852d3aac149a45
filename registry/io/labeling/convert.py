"""Conversion of annotations to the states of their samples."""

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
    """Converts annotations by a mapping; files are read only from below ``roots``.

    Raises `FeatureError` at construction for a mapping that does not fit the features.
    """

    dataset: Dataset
    mapping: Mapping[str, str] | None
    roots: Sequence[Path] = ()
    rules: Rules = field(init=False)
    codec: Codec = field(init=False)

    def __post_init__(self) -> None:
        self.rules = check_mapping(self.dataset.features, self.mapping)
        self.codec = Codec(self.dataset.features)

    def states(self, found: Iterable[Annotation]) -> list[State]:
        """Return the states of annotations, in order; one that does not fit has a ``fault``."""
        return [self._state(annotation) for annotation in found]

    def _state(self, annotation: Annotation) -> State:
        named = (annotation.project, annotation.id, annotation.updated_at)
        if annotation.updated_at is None:
            # A deletion.
            return State(*named)
        features = self.dataset.features
        try:
            found = values(features, self.rules, annotation, self.roots)
            # Skipped or unanswered: a state without a sample, which retracts an earlier one.
            if found is None:
                return State(*named)
            (record,) = self.codec.encode(rows_to_columns(features, [found]))
        except InvalidSampleError as error:
            reason = error.reason
            # The codec does not know the annotation, and `values` has already named it.
            if not reason.startswith(annotation.place):
                reason = f"{annotation.place}: {reason}"
            fault = InvalidSampleError(reason, feature=error.feature)
            return State(*named, readable(features, self.rules, annotation), fault=fault)
        return State(*named, found, record)
