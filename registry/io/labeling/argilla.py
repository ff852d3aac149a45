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

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from registry.catalog.dataset import Dataset
from registry.errors import InvalidSampleError
from registry.io.labeling.annotation import (
    Annotation,
    AnnotationId,
    IgnoredEventError,
    PathSyntax,
)
from registry.io.labeling.annotation_state import Removal, States
from registry.io.labeling.apply import (
    Outcome,
    apply_to_table,
    changed_groups,
    commit,
    present,
    state_table,
)
from registry.io.labeling.consensus import ConsensusRule
from registry.io.labeling.convert import AnnotationConverter
from registry.io.labeling.rules import Rules, consensus_of, parse_mapping
from registry.io.media import MediaReader
from registry.samples.features import Features
from registry.samples.json_codec import describe, excerpt, type_name
from registry.storage.log.changes import Change

TOOL = "argilla"
_EVENTS = ("response.created", "response.updated", "response.deleted", "record.deleted")
_STATUSES = ("submitted", "draft", "discarded")
_VALUES = ("record.id", "record.external_id", "response.id", "response.user", "response.username")
PATHS = PathSyntax(
    answers="values",
    objects={
        "fields": "the record's 'fields' object",
        "metadata": "the record's 'metadata' object",
    },
    values=_VALUES,
    own=("response",),
    forms=(
        "fields.NAME, metadata.NAME, values.NAME (.json, .spans, .classes[a,b]), "
        f"{', '.join(_VALUES)}"
    ),
)


def check_mapping(features: Features, mapping: Mapping[str, str] | None) -> Rules:
    """Return the parsed mapping; raises `FeatureError` for one that does not fit the features."""
    return parse_mapping(features, mapping, PATHS)


def apply_event(
    dataset: Dataset,
    mapping: Mapping[str, str] | None,
    event: Any,
    *,
    note: Callable[[Connection], bool] = lambda _: True,
    media: MediaReader | None = None,
    consensus: ConsensusRule | None = None,
) -> Outcome:
    """Apply one event, as parsed JSON, in a transaction.

    ``note`` is called first in that transaction, and again if the transaction is retried. If it
    returns False, nothing is applied. ``media`` reads files and URIs, before the transaction.
    With a ``consensus``, each record has one sample. An
    event of another kind is ignored, without a transaction. Raises `InvalidSampleError` for an
    event that cannot be read, and `FeatureError` for a mapping that does not fit the features.
    """
    # A class or a feature may have been added since, by another process.
    dataset.schemas.refresh()
    schema = dataset.schema
    rules = check_mapping(schema.features, mapping)
    voted = consensus_of(schema.features, rules, consensus)
    converter = AnnotationConverter(schema, rules, media or MediaReader(), voted)
    try:
        record, response = _parse(event)
    except IgnoredEventError as error:
        return Outcome(ignored=str(error))
    states: States = [Removal(record)] if response is None else converter.states([response])
    outcome = Outcome()

    def prepare(connection: Connection) -> list[list[Change]]:
        nonlocal outcome
        # Set each time: `prepare` is called again if the connection was lost.
        outcome = Outcome()
        # First, and in this transaction: a repeated delivery must not be applied again, and one
        # that fails must not count as received.
        if not note(connection):
            return []
        brought = present(dataset, states)
        table = state_table(connection, dataset, TOOL, voted).load(brought, others=[record])
        (applied,) = apply_to_table(table, [brought])
        outcome = applied.outcome
        return changed_groups([applied.changes], dry=False)

    commit(dataset, prepare)
    if outcome.quarantined:
        dataset.inbox.prune()
    return outcome


def _parse(event: Any) -> tuple[str, Annotation | None]:
    """Return a record's id and the annotation of a response, None if the record was deleted."""
    event = _object(event, "an event")
    kind, data = event.get("type"), event.get("data")
    if not isinstance(kind, str):
        raise InvalidSampleError("an event has a 'type', such as response.created")
    if kind not in _EVENTS:
        raise IgnoredEventError(f"{excerpt(kind)} is not about a response")
    data = _object(data, "an event's data")
    own_id = _uuid(data.get("id"), "the id")
    if kind == "record.deleted":
        return own_id, None
    record = _object(data.get("record"), f"response {own_id}: the record")
    record_id = _uuid(record.get("id"), f"response {own_id}: the record's id")
    identity = AnnotationId(TOOL, record_id, own_id)
    label = f"record {record_id}, response {own_id}"
    # Only the ids count: an error in the rest of the response must not keep its sample alive.
    if kind == "response.deleted":
        return record_id, Annotation(identity, label, None)
    return record_id, _response(identity, label, data, record)


def _response(
    identity: AnnotationId, label: str, data: Mapping[str, Any], record: Mapping[str, Any]
) -> Annotation:
    status = data.get("status")
    if status not in _STATUSES:
        value = describe(status)
        raise InvalidSampleError(f"{label}: the status is {', '.join(_STATUSES)}, not {value}")
    # Each may be missing or null.
    questions = _object(data.get("values") or {}, f"{label}: 'values'")
    fields, metadata = (
        _object(record.get(name) or {}, f"{label}: the record's {name}")
        for name in ("fields", "metadata")
    )
    user = _object(data.get("user") or {}, f"{label}: the user")
    answers = {
        name: _object(answer, f"{label}: the value of {excerpt(name)}").get("value")
        for name, answer in questions.items()
    }
    return Annotation(
        identity,
        label,
        _time(data.get("updated_at"), label),
        # A response that is a draft again, or discarded, loses its sample.
        cancelled=status != "submitted",
        task=f"{TOOL}:{identity.parent}",
        annotator=_annotator(user.get("id")),
        answers={name: answers_of(value) for name, value in answers.items() if value is not None},
        objects={
            "fields": fields,
            "metadata": metadata,
            "record": {"id": identity.parent, "external_id": record.get("external_id")},
            "response": {
                "id": identity.annotation,
                "user": user.get("id"),
                "username": user.get("username"),
            },
        },
    )


def _annotator(user: Any) -> str | None:
    """Return a user's id; what is no id is ignored, as it only names the source."""
    try:
        return _uuid(user, "the user's id")
    except InvalidSampleError:
        return None


def answers_of(value: Any) -> list[Any]:
    """Return the value of a question as answers, as `Annotation.answers` has them."""
    if not isinstance(value, list):
        return [value]
    # Several labels are one answer to one question, a list of spans is an answer for each span.
    if not all(isinstance(each, Mapping) for each in value):
        return [{"choices": value}]
    return [{**each, "labels": [each["label"]]} if "label" in each else each for each in value]


def _time(text: Any, label: str) -> datetime:
    """Parse a time. Argilla writes times in UTC, without a time zone."""
    try:
        moment = datetime.fromisoformat(text)
        # `astimezone` would take a time without a zone as one of this machine's zone.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        value = describe(text)
        raise InvalidSampleError(
            f"{label}: updated_at is a time such as '2026-01-31T12:00:00.5', not {value}"
        ) from None


def _uuid(value: Any, what: str) -> str:
    """Return a UUID in the usual form: the same one may be written in several."""
    try:
        return str(UUID(value))
    except (TypeError, ValueError, AttributeError):
        given = describe(value)
        raise InvalidSampleError(f"{what} is a UUID, not {given}") from None


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidSampleError(f"{what} is an object, not {type_name(value)}")
    return value
