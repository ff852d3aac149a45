"""Argilla: webhook events, which may arrive in any order, make a sample per submitted response.

The key of a sample is ``argilla:RECORD:RESPONSE``, with two UUIDs. A mapping gives the path of a
feature's value, by the feature's name:

=================================  ===========================================================
``fields.text``                    a field of the record
``metadata.page``                  a value of its metadata
``record.id``                      also ``record.external_id``
``response.user``                  the user's id; also ``response.username``, ``response.id``
``values.mood``                    the one answer to the question ``mood``: label, text or rating
``values.mood.json``               the answer as JSON text, also several labels or a ranking
``values.mood.classes[good,bad]``  each label, or each span's, as its index in this list
``values.name.spans``              start and end of each span of text
=================================  ===========================================================

The last two make a `Ragged` feature. A feature that the mapping leaves out takes the answer to the
question of the same name or, if there is none, the record's field or metadata of the same name.

Late and repeated events are handled as in `registry.io.labeling.annotation_state`: the newest
`updated_at` wins, and no response returns after it or its record was deleted. A later change of a
record does not change its samples, because the event does not contain the record's responses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from registry.catalog.dataset import Dataset
from registry.errors import FeatureError, InvalidSampleError
from registry.io.labeling import mapping as label_studio
from registry.io.labeling.annotation import Annotation
from registry.io.labeling.annotation_state import (
    Known,
    State,
    is_greater,
    known_of,
    note,
    release,
    supersedes,
)
from registry.io.labeling.apply import Outcome, became, commit
from registry.io.labeling.convert import Reader
from registry.io.labeling.label_studio.events import IgnoredEventError
from registry.io.labeling.quarantine import keep
from registry.samples.features import Features
from registry.samples.json_codec import shown
from registry.storage.database.models import ToolAnnotationRow
from registry.storage.log.changes import Change
from registry.storage.log.lookup import NEVER, latest

TOOL = "argilla"
_EVENTS = ("response.created", "response.updated", "response.deleted", "record.deleted")
_STATUSES = ("submitted", "draft", "discarded")
_ROOTS = {"fields": "data.fields", "metadata": "data.metadata", "values": "result"}
_FACTS = ("record.id", "record.external_id", "response.id", "response.user", "response.username")
_FORMS = (
    f"fields.NAME, metadata.NAME, values.NAME (.json, .spans, .classes[a,b]), {', '.join(_FACTS)}"
)


def check_mapping(features: Features, mapping: Mapping[str, str] | None) -> None:
    """Raise `FeatureError` for a mapping that does not fit the features, or has an unknown path."""
    try:
        label_studio.check_mapping(features, _translated(mapping))
    except FeatureError as error:
        # The message has the translated path; the user wrote the other.
        raise FeatureError(str(error).replace("'result.", "'values.", 1)) from None


def apply_event(
    dataset: Dataset,
    mapping: Mapping[str, str] | None,
    event: Any,
    *,
    note: Callable[[Connection], bool] = lambda _: True,
) -> Outcome:
    """Apply one event, as parsed JSON, in a transaction.

    ``note`` is called first in that transaction, and again if the transaction is retried. If it
    returns False, nothing is applied. An event of another kind is ignored, without a transaction.
    Raises `InvalidSampleError` for an event that cannot be read, and `FeatureError` for a mapping
    that does not fit the features.
    """
    reader = Reader(dataset, _translated(mapping))
    try:
        record, state = _read(reader, event)
    except IgnoredEventError as error:
        return Outcome(ignored=str(error))
    counts: Counter[str] = Counter()

    def prepare(connection: Connection) -> list[list[Change]]:
        # `prepare` is called again if the connection was lost: the counts must not add up.
        counts.clear()
        # The parameter, not the function `note` of `annotation_state`.
        if not note(connection):
            return []
        changes = _settle(connection, dataset.id, record, state, counts)
        return [changes] if changes else []

    commit(dataset, prepare)
    if counts["quarantined"]:
        dataset.inbox.prune()
    return Outcome(ignored=None, **counts)


class _Response(Annotation):
    """A response. ``project`` is its record, and both ids are the UUIDs as integers."""

    @property
    def place(self) -> str:
        return f"record {UUID(int=self.project)}, response {UUID(int=self.id)}"


def _translated(mapping: Mapping[str, str] | None) -> dict[str, str]:
    """Return the paths in the form of `registry.io.labeling.mapping`, for `_response`'s result."""
    found = {}
    for name, path in (mapping or {}).items():
        root, _, rest = path.partition(".") if isinstance(path, str) else ("", "", "")
        if path in _FACTS:
            found[name] = f"data.{path}"
        elif root in _ROOTS and rest:
            found[name] = f"{_ROOTS[root]}.{rest}"
        else:
            raise FeatureError(f"feature {name!r}: {path!r:.80} is no path; write {_FORMS}")
    return found


def _read(reader: Reader, event: Any) -> tuple[UUID, State | None]:
    """Return a record's id and the state of a response, or None if the record was deleted."""
    event = _object(event, "an event")
    kind, data = event.get("type"), event.get("data")
    if not isinstance(kind, str):
        raise InvalidSampleError("an event has a 'type', such as response.created")
    if kind not in _EVENTS:
        raise IgnoredEventError(f"{shown(kind)} tells of no response")
    data = _object(data, "an event's data")
    own = _uuid(data.get("id"), "the id")
    if kind == "record.deleted":
        return own, None
    record = _object(data.get("record"), f"response {own}: the record")
    whose = _uuid(record.get("id"), f"response {own}: the record's id")
    if kind == "response.deleted":
        return whose, State(whose.int, own.int, None)
    return whose, reader.states([_response(own, whose, data, record)])[0]


def _response(
    own: UUID, whose: UUID, data: Mapping[str, Any], record: Mapping[str, Any]
) -> Annotation:
    place = f"record {whose}, response {own}"
    status = data.get("status")
    if status not in _STATUSES:
        said = shown(status) if isinstance(status, str) else f"a {type(status).__name__}"
        raise InvalidSampleError(f"{place}: the status is {', '.join(_STATUSES)}, not {said}")
    given = _object(data.get("values") or {}, f"{place}: 'values'")
    fields, metadata = (
        _object(record.get(name) or {}, f"{place}: the record's {name}")
        for name in ("fields", "metadata")
    )
    user = _object(data.get("user") or {}, f"{place}: the user")
    facts = {
        "fields": fields,
        "metadata": metadata,
        "record": {"id": str(whose), "external_id": record.get("external_id")},
        "response": {"id": str(own), "user": user.get("id"), "username": user.get("username")},
    }
    answered = {
        name: _object(answer, f"{place}: the value of {shown(name)}").get("value")
        for name, answer in given.items()
    }
    return _Response(
        whose.int,
        own.int,
        _moment(data.get("updated_at"), place),
        # A response that is a draft again, or discarded, loses its sample.
        cancelled=status != "submitted",
        answers={name: _answers(value) for name, value in answered.items() if value is not None},
        # Later ones take precedence: a field named like a metadata property, and the four facts.
        data={**metadata, **fields, **facts},
    )


def _answers(value: Any) -> list[Any]:
    """Return an answer in the form in which Label Studio writes answers."""
    if not isinstance(value, list):
        return [value]
    if not all(isinstance(each, Mapping) for each in value):
        return [{"choices": value}]
    return [{**each, "labels": [each["label"]]} if "label" in each else each for each in value]


def _moment(text: Any, place: str) -> datetime:
    """Parse a time. Argilla writes times in UTC, without a time zone."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        said = shown(text) if isinstance(text, str) else f"a {type(text).__name__}"
        raise InvalidSampleError(
            f"{place}: updated_at is a time such as '2026-01-31T12:00:00.5', not {said}"
        ) from None


def _uuid(found: Any, what: str) -> UUID:
    try:
        return UUID(found)
    except (TypeError, ValueError, AttributeError):
        said = shown(found) if isinstance(found, str) else f"a {type(found).__name__}"
        raise InvalidSampleError(f"{what} is a UUID, not {said}") from None


def _object(found: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise InvalidSampleError(f"{what} is an object, not a {type(found).__name__}")
    return found


def _settle(
    connection: Connection, dataset_id: int, record: UUID, state: State | None, counts: Counter[str]
) -> list[Change]:
    """Store the new states, count the outcomes, and return the changes to the samples.

    The rows of `tool_annotations` are named ``RECORD/RESPONSE`` and, for a deleted record,
    ``RECORD``.
    """
    known = _of_record(connection, dataset_id, record)
    # The record was deleted: late events about its responses must not bring samples back.
    if str(record) in known:
        counts["unchanged"] += 1
        return []
    # A name is the record's UUID, 36 characters, then "/" and the response's UUID.
    states = [state] if state else [State(record.int, UUID(name[37:]).int, None) for name in known]
    if state is None:
        note(connection, dataset_id, TOOL, {str(record): Known(None, deleted=True)})
    compared = [(_key(each), each.record) for each in states]
    live = latest(connection, dataset_id, {key for key, _ in compared}, compared)
    changes = []
    for each in states:
        name, key = f"{record}/{UUID(int=each.id)}", _key(each)
        before, now = known.get(name), live.get(key, NEVER)
        change = None
        greater = partial(is_greater, connection, dataset_id, each.record, now)
        if not supersedes(each, before, None, greater, final=False):
            counts["unchanged"] += 1
            continue
        if now.record != each.record:
            action = "retract" if each.record is None else "insert"
            change = Change(key, each.values if each.record else None, action, TOOL)
            changes.append(change)
        counts[became(each, change, alive=now.record is not None)] += 1
        kept = key if each.record is not None else None
        noted = Known(each.updated_at, each.updated_at is None, kept)
        note(connection, dataset_id, TOOL, {name: noted})
        if before is not None and before.key is None:
            release(connection, dataset_id, TOOL, [key])
        if each.fault is not None:
            keep(connection, dataset_id, TOOL, {key: each})
    return changes


def _key(state: State) -> str:
    return f"{TOOL}:{UUID(int=state.project)}:{UUID(int=state.id)}"


def _of_record(connection: Connection, dataset_id: int, record: UUID) -> dict[str, Known]:
    name = ToolAnnotationRow.annotation
    # All names from ``RECORD`` up to ``RECORD/…``, as "0" follows "/" in ASCII. A range can use the
    # index of the primary key.
    return known_of(connection, dataset_id, TOOL, (name >= f"{record}") & (name < f"{record}0"))
