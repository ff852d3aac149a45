"""Changes to samples as tools request them, each by its key, and the batches made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from registry.errors import InvalidSampleError, RegistryError, SampleNotFoundError
from registry.samples.codec import Codec
from registry.samples.features import Features
from registry.samples.json_codec import from_fields
from registry.samples.keys import (
    Groups,
    Keys,
    check_group,
    check_groups,
    check_key,
    check_keys,
    check_source,
    make_keys,
)
from registry.samples.schema import Schema
from registry.samples.tables import is_hugging_face_splits, refusal
from registry.storage.log.batch import Amend, Batch

ACTIONS = ("insert", "update", "retract")


@dataclass(frozen=True)
class Change:
    """One sample to insert, update or retract.

    ``fields`` maps features to JSON, as described in `registry.samples.json_codec`, or to values.
    An insert takes all features that have no default, an update some of them and a retraction
    none. An insert whose ``key`` is None gets a generated key.

    A change of a key that the dataset has must be in the key's ``group``, if it names one.
    ``default_group`` is the group of a new key for which no group is named, and is ignored for a
    key that the dataset has.
    """

    key: str | None
    fields: Mapping[str, Any] | None = None
    action: str = "insert"
    source: str | None = None
    group: str | None = None
    default_group: str | None = None


def batches(schema: Schema, requests: Sequence[Sequence[Change]]) -> list[Batch | RegistryError]:
    """Return for each request its batch or, if it is invalid, its error; the order is kept."""
    results: list[Batch | RegistryError] = []
    for changes in requests:
        try:
            results.append(batch(schema, changes))
        except RegistryError as error:
            results.append(error)
    return results


def batch(schema: Schema, changes: Sequence[Change]) -> Batch:
    """Return the batch of some changes, in their order.

    Raises `InvalidSampleError` with the row, counted from 0, for an invalid change.
    """
    if not changes:
        raise InvalidSampleError("there is no change in it; give at least one")
    values = [_checked(schema.features, row, change) for row, change in enumerate(changes)]
    keys = [make_keys(1)[0] if change.key is None else change.key for change in changes]
    inserts = [row for row, change in enumerate(changes) if change.action == "insert"]
    records: list[bytes | Amend | None] = [None] * len(changes)
    for row, record in zip(inserts, _encode(schema.codec, values, keys, inserts), strict=True):
        records[row] = record
    # An update is only a function here. What it merges into is read under the lock on the head: a
    # record read now could be replaced before the append, and that revision would be lost.
    for row, change in enumerate(changes):
        if change.action == "update":
            records[row] = merge(keys[row], values[row], row, from_json=True)
    groups = [change.group for change in changes]
    defaults = [change.default_group for change in changes]
    return Batch(
        keys,
        records,
        [change.source for change in changes],
        groups=groups if any(groups) else None,
        default_groups=defaults if any(defaults) else None,
        schema=schema,
    )


def insertion(
    schema: Schema,
    data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    keys: Keys | None,
    source: str | None,
    groups: Groups | None = None,
) -> Batch:
    """Return the batch that inserts samples, given as a list of samples or as columns by feature.

    ``keys`` and ``groups`` may each be the name of a column. Without ``keys``, each sample gets a
    generated key. Raises `InvalidSampleError` for an empty batch or an invalid sample, key or
    group.
    """
    check_source(source)
    if is_hugging_face_splits(data):
        raise InvalidSampleError(refusal(data))
    columns = isinstance(data, Mapping)
    if isinstance(data, Mapping):
        _check_column(data, keys, "keys")
        _check_column(data, groups, "groups")
        named_columns = {each for each in (keys, groups) if isinstance(each, str) and each in data}
        keys, groups = _column(data, keys), _column(data, groups)
        unused = named_columns - {*schema.features}
        data = {name: column for name, column in data.items() if name not in unused}
    count = _column_length(data) if isinstance(data, Mapping) else _length(data)
    if not count:
        raise InvalidSampleError("the batch is empty; insert at least one sample")
    # Before the samples, so that errors about them can name the key.
    named = check_keys(keys, count) if keys is not None else None
    grouped = check_groups(groups, count, named) if groups is not None else None
    if not columns:
        data = schema.codec.to_columns(data, named)  # type: ignore[arg-type]
    records = schema.codec.encode(data, named)  # type: ignore[arg-type]
    return Batch(
        named or make_keys(count),
        records,
        [source] * count,
        fresh=named is None,
        groups=grouped,
        schema=schema,
    )


def _check_column(data: Mapping[str, Any], values: Any, what: str) -> None:
    """Raise `InvalidSampleError` for the name of a column that is not there."""
    if isinstance(values, str) and values not in data:
        columns = ", ".join(map(repr, data))
        raise InvalidSampleError(
            f"no column is named {values!r} for the {what}; there are {columns}"
        )


def _column(data: Mapping[str, Any], values: Any) -> Any:
    """Return the column that ``values`` names, or ``values`` if it is no such name."""
    return data[values] if isinstance(values, str) and values in data else values


def merge(
    key: str, values: Mapping[str, Any], row: int | None = None, *, from_json: bool = False
) -> Amend:
    """Return a function that replaces some of a sample's values in its record.

    It raises `SampleNotFoundError` where the sample was retracted, and `InvalidSampleError` with
    ``row`` for a value that does not fit. With ``from_json``, values may be JSON.
    """

    def amend(record: bytes | None, schema: Schema) -> bytes:
        if record is None:
            raise SampleNotFoundError(key, "it was retracted; insert it again")
        codec = schema.codec
        stored = codec.decode_one(record)
        try:
            # Here, since a feature may have been added since the change was made.
            new = from_fields(schema.features, values) if from_json else values
            columns = codec.to_columns([{**stored, **new}], [key])
            # The last argument names the features that come from the stored record.
            return codec.encode(columns, [key], stored.keys() - new.keys())[0]
        except InvalidSampleError as error:
            raise _in_row(error, row) from None

    return amend


def _checked(features: Features, row: int, change: Change) -> dict[str, Any]:
    """Return the change's values by feature; errors carry the row and the key."""
    try:
        return _values(features, change)
    except InvalidSampleError as error:
        # A new error, since its message is composed once, from all of these.
        raise InvalidSampleError(
            error.reason, row=row, key=change.key or None, feature=error.feature
        ) from None


def _values(features: Features, change: Change) -> dict[str, Any]:
    if change.action not in ACTIONS:
        raise InvalidSampleError(
            f"unknown action {change.action!r}; the actions are {', '.join(ACTIONS)}"
        )
    if change.key is not None:
        check_key(change.key)
    elif change.action != "insert":
        raise InvalidSampleError(f"to {change.action} a sample takes its key")
    check_source(change.source)
    check_group(change.group)
    check_group(change.default_group)
    if change.action == "retract":
        return {}
    if not isinstance(change.fields, Mapping):
        raise InvalidSampleError(
            f"the fields are an object of features and values, not {change.fields!r:.40}"
        )
    return from_fields(features, change.fields)


def _encode(
    codec: Codec, values: Sequence[dict[str, Any]], keys: Sequence[str], rows: Sequence[int]
) -> list[bytes]:
    """Encode the records of ``rows``; an error names its row among all rows, not among these."""
    if not rows:
        return []
    named = [keys[row] for row in rows]
    try:
        return codec.encode(codec.to_columns([values[row] for row in rows], named), named)
    except InvalidSampleError as error:
        raise _in_row(error, None if error.row is None else rows[error.row]) from None


def _in_row(error: InvalidSampleError, row: int | None) -> InvalidSampleError:
    """Return the error with another row; a new one, since its message is composed once."""
    return InvalidSampleError(error.reason, row=row, key=error.key, feature=error.feature)


def _length(rows: object) -> int:
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise InvalidSampleError(refusal(rows))
    return len(rows)


def _column_length(columns: Mapping[str, Any]) -> int:
    """Return the columns' common length, as far as it is known before they are checked.

    The codec reports columns of different lengths. Here the longest counts, and columns without
    any length count as one sample.
    """
    return max((len(column) for column in columns.values() if _sized(column)), default=1)


def _sized(column: object) -> bool:
    # An array without dimensions has the method, but `len` raises an error for it.
    return isinstance(column, Sized) and getattr(column, "shape", None) != ()
