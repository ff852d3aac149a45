"""The bodies of requests and answers, as the OpenAPI document describes them.

The models document; they do not validate. Routes parse bodies and build answers by hand.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from registry.server.problems import MEDIA_TYPE
from registry.server.request_body import JSON, NDJSON

# Without auto_error=False, FastAPI would require a token even on a server without tokens.
BEARER = Security(HTTPBearer(auto_error=False, description="A token of `registry token create`."))
"""Documents that a route takes a token; `Access` is what requires it."""


class Item(BaseModel):
    """A sample to insert, update or retract."""

    model_config = ConfigDict(extra="forbid")

    key: str | None = Field(None, max_length=512, description="Made by the server if null.")
    fields: dict[str, Any] | None = Field(
        None,
        description="Values by feature, all of them to insert: nested lists or base64 for tensors, "
        "names or indexes for classes, base64 or a data: URI for bytes and images.",
    )
    action: Literal["insert", "update", "retract"] | None = None
    source: str | None = None


class Head(BaseModel):
    """Where a log ends."""

    position: int
    live: int
    chain: str = Field(description="16 bytes in hex: the same chain means the same log.")
    version: str = Field(description="Names the dataset as it is here, permanently.")


class Stored(BaseModel):
    """The result of a committed request, in samples."""

    inserted: int
    revised: int
    retracted: int
    unchanged: int
    head: Head
    keys: list[str] | None = Field(description="All keys, where the server made any.")


class DatasetFacts(BaseModel):
    """The properties of a dataset."""

    name: str
    description: str
    features: Any
    splits: dict[str, tuple[int, int]]
    created_at: datetime
    head: Head


class Row(BaseModel):
    """A row of the log; ``fields`` is null for a retraction and for an erased row."""

    position: int
    key: str
    action: Literal["insert", "revise", "retract"]
    supersedes: int | None
    source: str | None
    created_at: datetime
    fields: dict[str, Any] | None
    erased: bool


class Rows(BaseModel):
    """Rows of the log, in order of position; request the following ones with ``after=next``."""

    rows: list[Row]
    next: int
    head: int


class Received(BaseModel):
    """The result of a webhook event."""

    status: str
    detail: str | None = None


class Details(BaseModel):
    """Problem details as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    row: int | None = None
    key: str | None = None
    field: str | None = None


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the problems that a route may answer with."""
    content = {MEDIA_TYPE: {"schema": Details.model_json_schema()}}
    return {status: {"description": "A problem", "content": content} for status in statuses}


def samples_body() -> dict[str, Any]:
    """Document the body of a POST of samples; `parse` reads it, more strictly and faster."""
    item = Item.model_json_schema()
    many = {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}
    content = {JSON: {"schema": many}, NDJSON: {"schema": {"type": "string"}}}
    return {"requestBody": {"required": True, "content": content}}


def event_body() -> dict[str, Any]:
    """Document the body of a webhook, whose format is that of the tool."""
    content = {JSON: {"schema": {"type": "object"}}}
    return {"requestBody": {"required": True, "content": content}}
