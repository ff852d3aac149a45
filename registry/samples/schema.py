"""Schemas: the features that a dataset has had, one after another.

They change in two ways only. Classes are appended to a ClassLabel, which changes no record.
Features are appended, each with a default that stands for its value in older samples; `projection`
brings older records to a newer schema, and back.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from registry.errors import FeatureError
from registry.samples.features import LARGEST_RECORD, ClassLabel, Feature, Features

# Loaded when records are read or written: with NumPy, they take longer to load than the rest of
# what a command needs that lists datasets.
if TYPE_CHECKING:
    from registry.samples.codec import Codec
    from registry.samples.projection import Projection


@dataclass(frozen=True)
class Schema:
    """The features that a dataset has from position ``since`` on; ``number`` counts from 0.

    ``defaults`` has, by name, the JSON value of each feature that was added with a default. It is
    the value of the feature in older samples, and of a sample that leaves it out.
    """

    number: int
    since: int
    features: Features
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, number: int, since: int, form: list[dict[str, Any]]) -> Schema:
        """Return the schema of a row of `schemas`, whose ``features`` are ``form``."""
        features = [{key: entry[key] for key in entry if key != "default"} for entry in form]
        defaults = {entry["name"]: entry["default"] for entry in form if "default" in entry}
        return cls(number, since, Features.from_json(features), defaults)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the features' JSON form, with the default of each feature that has one."""
        return [
            entry | {"default": self.defaults[entry["name"]]}
            if entry["name"] in self.defaults
            else entry
            for entry in self.features.to_json()
        ]

    @cached_property
    def codec(self) -> Codec:
        """The codec of the schema's records, which also knows the defaults."""
        from registry.samples.codec import Codec  # noqa: PLC0415
        from registry.samples.defaults import default_value  # noqa: PLC0415

        return Codec(
            self.features,
            {n: default_value(self.features[n], form) for n, form in self.defaults.items()},
        )

    @cached_property
    def layout(self) -> str:
        """A digest of what determines the bytes of records: fields and defaults, without classes.

        Schemas of one dataset have equal layouts if and only if their records are equal.
        """
        header = self.codec.header
        fields = [[header[name].base.str, header[name].shape] for name in header.names or ()]
        defaults = [self.codec.default_bytes(name).hex() for name in self.defaults]
        text = json.dumps([fields, len(self.features.variable), defaults])
        return blake2b(text.encode(), digest_size=16).hexdigest()

    @cached_property
    def _projections(self) -> dict[str, Projection]:
        return {}

    def projection(self, older: Schema) -> Projection:
        """Return the projection between an older schema of the dataset and this one."""
        known = self._projections.get(older.layout)
        if known is None:
            from registry.samples.projection import Projection  # noqa: PLC0415

            known = self._projections[older.layout] = Projection.between(older.codec, self.codec)
        return known

    def with_classes(self, name: str, classes: Sequence[str] | int) -> Schema:
        """Return the next schema, in which a ClassLabel has more classes: names, or how many.

        Raises `FeatureError` if it has names and none are given or the other way round, if a name
        is there already, and if there is no such ClassLabel.
        """
        feature = self.features.get(name)
        if not isinstance(feature, ClassLabel):
            raise FeatureError(_no_classes(self.features, name))
        added = _more_classes(name, feature, classes)
        return self._next({**self.features, name: added}, self.defaults)

    def with_feature(self, name: str, feature: Feature, default: Any) -> Schema:
        """Return the next schema, which has one more feature; ``default`` is a value of it.

        A number is the default of all items of a Tensor. Raises `FeatureError` if the name is
        there already or not valid, and if the default does not fit.
        """
        if name in self.features:
            raise FeatureError(
                f"there is a feature {name!r} already: {self.features[name]}; features are added "
                "and never changed, so choose another name; to remove it or to give it another "
                "type, fill another dataset by `registry copy --into`"
            )
        from registry.samples.defaults import checked_default  # noqa: PLC0415

        features = Features({**self.features, name: feature})
        form = checked_default(name, feature, default)
        added = self._next(features, {**self.defaults, name: form})
        bodies = [len(added.codec.default_bytes(each)) for each in added.defaults]
        if sum(bodies) > LARGEST_RECORD:
            raise FeatureError(
                f"with the default of {name!r}, all defaults together take {sum(bodies):,} bytes; "
                f"at most {LARGEST_RECORD:,} fit in a record"
            )
        return added

    def _next(self, features: Mapping[str, Feature], defaults: Mapping[str, Any]) -> Schema:
        return replace(
            self, number=self.number + 1, features=Features(features), defaults=dict(defaults)
        )


def _no_classes(features: Features, name: object) -> str:
    known = [each for each, feature in features.items() if isinstance(feature, ClassLabel)]
    have = f"{', '.join(map(repr, known)) or 'none'} {'have' if len(known) > 1 else 'has'}"
    what = "is no ClassLabel" if name in features else "is no feature"
    return f"{name!r:.200} {what}, so that it has no classes to add to; of the features, {have}"


def _more_classes(name: str, feature: ClassLabel, classes: Sequence[str] | int) -> ClassLabel:
    if feature.names is None:
        if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
            raise FeatureError(
                f"the classes of {name!r} are counted and have no names; give the number of "
                f"classes to add, above 0, not {reprlib.repr(classes)}"
            )
        return ClassLabel(feature.count + classes)
    if isinstance(classes, int | str | bytes) or not isinstance(classes, Iterable) or not classes:
        raise FeatureError(
            f"the classes of {name!r} have names; give a list of the names to add, not "
            f"{reprlib.repr(classes)}"
        )
    known, given = {*feature.names}, list(classes)
    there = [each for each in given if isinstance(each, str) and each in known]
    if there:
        raise FeatureError(
            f"{name!r} has the class {there[0]!r:.200} already; nothing is added, so leave it out"
        )
    try:
        return ClassLabel([*feature.names, *given])
    except FeatureError as error:
        raise FeatureError(f"classes for {name!r}: {error}") from None
