"""The text form of what schemas add, as `registry show` prints it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from registry.samples.feature_text import feature_text
from registry.samples.features import ClassLabel, Tensor
from registry.samples.schema import Schema

_LONGEST = 60
"""Characters of a default that are printed."""


def changes_text(older: Schema, newer: Schema) -> str:
    """Return what a schema adds to an older one: ``label: + cat; + pose=float32[3], default 0``."""
    return "; ".join(_changes(older, newer))


def default_text(schema: Schema, name: str) -> str | None:
    """Return the default of a feature, shortened if it is long; None if it has none."""
    if name not in schema.defaults:
        return None
    form = schema.defaults[name]
    if isinstance(schema.features[name], Tensor):
        import numpy as np  # noqa: PLC0415  # slow to load, and few datasets have defaults

        # Not the form, which may be base64; and one number for all items that are the same.
        value = np.asarray(schema.codec.defaults[name])
        same = len({item.tobytes() for item in value.reshape(-1)}) == 1
        form = value.reshape(-1)[0].item() if same else value.tolist()
    text = form if isinstance(form, str) else json.dumps(form)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _changes(older: Schema, newer: Schema) -> Iterator[str]:
    for name, feature in newer.features.items():
        before = older.features.get(name)
        if before is None:
            yield f"+ {_feature(newer, name)}"
        elif isinstance(feature, ClassLabel) and before != feature:
            yield f"{name}: + {_added_classes(before, feature)}"


def _added_classes(before: Any, after: ClassLabel) -> str:
    if after.names is None:
        return f"{after.count - before.count} classes"
    return ", ".join(after.names[before.count :])


def features_text(schema: Schema) -> Iterable[str]:
    """Return each feature of a schema, with its default: ``pose=float32[3], default 0``."""
    return (_feature(schema, name) for name in schema.features)


def _feature(schema: Schema, name: str) -> str:
    text = f"{name}={feature_text(schema.features[name])}"
    default = default_text(schema, name)
    return text if default is None else f"{text}, default {default}"


def history(schemas: Iterable[Schema]) -> Iterator[tuple[Schema, str]]:
    """Yield each schema but the first, with what it adds to the one before."""
    for older, newer in pairwise(schemas):
        yield newer, changes_text(older, newer)
