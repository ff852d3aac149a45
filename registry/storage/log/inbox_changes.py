"""The changes that rows of an inbox ask for, and the reasons why rows are rejected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.errors import InvalidSampleError, RegistryError
from registry.samples.features import LARGEST_RECORD
from registry.samples.json_codec import parse_json
from registry.storage.log.changes import Change
from registry.storage.log.inbox_rejected import SOURCE
from registry.storage.log.inbox_waiting import Texts
from registry.storage.log.raw_text import decode


def change_of(row: Texts, fields: Mapping[str, Any] | None = None) -> Change | RegistryError:
    """Return the change that a row asks for, with other fields if given; or why it is none."""
    try:
        if fields is None and row.fields is not None:
            fields = parse_json(decode(row.fields, "fields"))
        source = SOURCE if row.source is None else decode(row.source, "source")
        key = None if row.key is None else decode(row.key, "key")
        group = None if row.group_key is None else decode(row.group_key, "group_key")
        return Change(key, fields, decode(row.action, "action"), source, group)
    except ValueError as error:
        return InvalidSampleError(str(error))


def too_large(size: int) -> str:
    """Return the reason for rejecting a row of more bytes than the largest record has."""
    # `measure` gives 1 GiB to rows that PostgreSQL refuses to measure.
    over = "over " if size >= 1 << 30 else ""
    return f"the row has {over}{size:,} bytes; at most {LARGEST_RECORD:,} are read"


def reason_of(error: RegistryError) -> str:
    """Return the reason without the row and the key, which the rejected row shows itself."""
    if isinstance(error, InvalidSampleError):
        return str(InvalidSampleError(error.reason, feature=error.feature))
    return str(error)
