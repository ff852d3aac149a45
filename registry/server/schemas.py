"""The JSON of requests and answers: one model for each.

FastAPI documents these models, and answers are built from them (`responses.py`), which checks every
value. `SampleItem` is the one model that no body is parsed into: a body may have 10,000 items of
megabytes, so `request_body.py` checks them against its names and types one by one, without a copy.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from fastapi import Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from registry.samples import keys
from registry.server.deliveries import DeliveryStatus
from registry.storage.log.changes import ACTIONS

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROBLEM_JSON = "application/problem+json"

# Without auto_error=False, FastAPI would require a token even on a server without tokens.
BEARER = Security(HTTPBearer(auto_error=False, description="A token of `registry token create`."))
"""Documents that a route takes a token; `Authenticator` is what requires it."""

# Pydantic would write "Z" where the commands, and answers since the first release, have "+00:00".
Timestamp = Annotated[
    datetime,
    PlainSerializer(datetime.isoformat, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class SampleItem(BaseModel):
    """A sample to insert, update or retract."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    # The limits are only documented: the log checks keys and actions, for all of its writers.
    key: str | None = Field(
        None,
        description="Made by the server if null.",
        json_schema_extra={"maxLength": keys.LONGEST},
    )
    fields: dict[str, Any] | None = Field(
        None,
        description="Values by feature, to insert all that have no default: nested lists or "
        "base64 for tensors, names or indexes for classes, base64 or a data: URI for bytes and "
        "images.",
    )
    action: str | None = Field(None, json_schema_extra={"enum": [*ACTIONS, None]})
    source: str | None = None
    group: str | None = Field(
        None,
        description="What the sample belongs to, such as a patient: all samples of a group are in "
        "one split. A key keeps the group of its first row; null keeps it, another one is refused.",
        json_schema_extra={"maxLength": keys.LONGEST},
    )


class Answer(BaseModel):
    """The body of an answer. Members that are not set are left out of its JSON."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True)


class HeadAnswer(Answer):
    """Where a log ends."""

    position: int
    live: int
    chain: str = Field(description="16 bytes in hex: the same chain means the same log.")
    version: str = Field(description="Names the dataset as it is here, permanently.")


class CommitAnswer(Answer):
    """The result of a committed request, in samples."""

    inserted: int
    revised: int
    retracted: int
    unchanged: int
    head: HeadAnswer
    keys: list[str] | None = Field(description="All keys, where the server made any.")


class SchemaChangeAnswer(Answer):
    """A change of the features, in force from position ``since`` on."""

    schema_number: int = Field(alias="schema", description="Counts the schemas from 0.")
    since: int
    added: str = Field(description="What it adds to the schema before, as text.")


class DatasetAnswer(Answer):
    """The properties of a dataset."""

    name: str
    description: str
    features: Any = Field(
        description="In order. One with a default may be left out of a sample; older ones have it."
    )
    # Not called "schema": that is a method of Pydantic's models.
    schema_number: int = Field(
        alias="schema", description="The number of the schema that has these features."
    )
    changes: list[SchemaChangeAnswer] = Field(description="The schemas after the first one.")
    splits: dict[str, tuple[int, int]]
    created_at: Timestamp
    head: HeadAnswer


class LogRowAnswer(Answer):
    """A row of the log; ``fields`` is null for a retraction and for an erased row."""

    position: int
    key: str
    action: Literal["insert", "revise", "retract"]
    supersedes: int | None
    source: str | None
    created_at: Timestamp
    erased: bool
    group: str | None
    fields: dict[str, Any] | None


class LogPageAnswer(Answer):
    """Rows of the log, in order of position; request the following ones with ``after=next``."""

    rows: list[LogRowAnswer]
    next: int
    head: int


class InboxRowAnswer(Answer):
    """A row of the inbox, which waits or was rejected; ``fields`` is JSON of any kind."""

    id: int
    status: Literal["waiting", "rejected"]
    key: str | None
    action: str
    source: str | None
    group: str | None
    created_at: Timestamp
    error: str | None = Field(description="Why the row was rejected; null while it waits.")
    size: int | None = Field(description="Bytes of the fields; null if they are not measured.")
    fields: Any = Field(description="Null if there are none, over 1 MiB, or if they are not JSON.")


class InboxPageAnswer(Answer):
    """Rows of the inbox in the order of their ids; request the following with ``after=next``."""

    rows: list[InboxRowAnswer]
    next: int | None = Field(description="Null after the last row.")


class InboxCorrection(BaseModel):
    """What to replace in a rejected row before it is tried again."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    fields: dict[str, Any] | None = Field(
        None, description="All fields of the row, as in a request to insert. Null keeps them."
    )


class EventAnswer(Answer):
    """The result of a webhook event; the counts are of annotations, for one that was applied."""

    status: Literal["applied", "quarantined", "ignored", "refused"] | DeliveryStatus
    detail: str | None = None
    inserted: int | None = None
    revised: int | None = None
    retracted: int | None = None
    unchanged: int | None = None
    quarantined: int | None = None


class StatusAnswer(Answer):
    """The state of the server."""

    status: Literal["ok", "ready"]


class ProblemDetails(Answer):
    """Problem details as in RFC 9457; the row, counted from 0, and the line are of the request."""

    type: str
    title: str
    status: int
    detail: str
    row: int | None = None
    key: str | None = None
    field: str | None = None
    line: int | None = None


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the problems that a route may answer with."""
    # In "content" and not as a model: FastAPI would document models as application/json.
    content = {PROBLEM_JSON: {"schema": ProblemDetails.model_json_schema()}}
    return {status: {"description": "A problem", "content": content} for status in statuses}


def samples_body() -> dict[str, Any]:
    """Document the body of a POST of samples, which `parse_changes` parses."""
    item = SampleItem.model_json_schema()
    items = {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}
    content = {JSON: {"schema": items}, NDJSON: {"schema": {"type": "string"}}}
    return {"requestBody": {"required": True, "content": content}}


def correction_body() -> dict[str, Any]:
    """Document the optional body of a request to retry a rejected row."""
    content = {JSON: {"schema": InboxCorrection.model_json_schema()}}
    return {"requestBody": {"required": False, "content": content}}


def event_body() -> dict[str, Any]:
    """Document the body of a webhook, whose format is that of the tool."""
    content = {JSON: {"schema": {"type": "object"}}}
    return {"requestBody": {"required": True, "content": content}}
