"""The bodies of requests and answers as OpenAPI describes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from registry.server.problems import MEDIA_TYPE
from registry.server.request_body import JSON, NDJSON

BEARER = Security(HTTPBearer(auto_error=False, description="A token of `registry token create`."))
"""Says that a route takes a token; `Access` is what asks for it."""


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
    version: str = Field(description="Names the dataset as it is here, for ever.")


class Stored(BaseModel):
    """What a committed request did, in samples."""

    inserted: int
    revised: int
    retracted: int
    unchanged: int
    head: Head
    keys: list[str] | None = Field(description="All keys, where the server made any.")


class DatasetFacts(BaseModel):
    """What a dataset is made of."""

    name: str
    description: str
    features: Any
    splits: dict[str, tuple[int, int]]
    created_at: datetime
    head: Head


class Row(BaseModel):
    """A row of the log; ``fields`` is null for a retraction, and for a row that was erased."""

    position: int
    key: str
    action: Literal["insert", "revise", "retract"]
    supersedes: int | None
    source: str | None
    created_at: datetime
    fields: dict[str, Any] | None
    erased: bool


class Rows(BaseModel):
    """Rows of the log in order; the next ones come with ``after=next``."""

    rows: list[Row]
    next: int
    head: int


class Received(BaseModel):
    """What became of a webhook's event."""

    status: str
    detail: str | None = None


class Details(BaseModel):
    """Problem details, as RFC 9457 has them."""

    type: str
    title: str
    status: int
    detail: str
    row: int | None = None
    key: str | None = None
    field: str | None = None


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that a route may answer with."""
    content = {MEDIA_TYPE: {"schema": Details.model_json_schema()}}
    return {status: {"description": "A problem", "content": content} for status in statuses}


def samples_body() -> dict[str, Any]:
    """Describe the body of a post of samples; it is parsed by hand, to be strict and fast."""
    item = Item.model_json_schema()
    many = {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}
    content = {JSON: {"schema": many}, NDJSON: {"schema": {"type": "string"}}}
    return {"requestBody": {"required": True, "content": content}}


def event_body() -> dict[str, Any]:
    """Describe the body of a webhook, which its tool documents."""
    content = {JSON: {"schema": {"type": "object"}}}
    return {"requestBody": {"required": True, "content": content}}
