"""The JSON bodies of answers. Functions that take a dataset query the database and block."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from starlette.responses import Response

from registry.catalog.dataset import Dataset
from registry.samples.json_codec import to_fields
from registry.server.problems import Problem
from registry.server.request_body import JSON
from registry.storage.log.batch import Report
from registry.storage.log.entries import Entry
from registry.storage.log.head import Head
from registry.storage.log.page import Page
from registry.storage.log.version import Version

MOST_BYTES = 16 << 20
"""Characters of the rows in one answer: no row is added after this size is reached."""


def answer(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type=JSON)


def head_of(name: str, head: Head) -> dict[str, Any]:
    chain = head.chain.hex()
    return {
        "position": head.position,
        "live": head.live,
        "chain": chain,
        # ``name`` may be that of a version: a version of a version does not exist.
        "version": str(Version(name.partition("@")[0], head.position, chain)),
    }


def stored(name: str, report: Report, keys: Sequence[str] | None) -> dict[str, Any]:
    return {
        "inserted": report.inserted,
        "revised": report.revised,
        "retracted": report.retracted,
        "unchanged": report.unchanged,
        "head": head_of(name, report.head),
        "keys": keys,
    }


def facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "description": dataset.description,
        "features": dataset.features.to_json(),
        "splits": dataset.splits,
        "created_at": dataset.created_at.isoformat(),
        "head": head_of(dataset.name, dataset.head),
    }


def sample(dataset: Dataset, key: str) -> dict[str, Any]:
    """Return a live sample; raises `Problem` if the key has none."""
    history = dataset.history(key)
    if not history or (last := history[-1]).sample is None:
        why = "was retracted" if history else "is in no sample of the dataset"
        raise Problem(404, f"the key {key!r:.520} {why}", key=key)
    return _row(last.entry, to_fields(dataset.features, last.sample))


def rows(dataset: Dataset, after: int, limit: int) -> str:
    """Return the log's rows at positions ``[after, after + limit)`` as JSON, or fewer if large."""
    head = dataset.version.watermark
    if after > head:
        raise Problem(422, f"the log ends at position {head}, before {after}", field="after")
    found: list[str] = []
    size = 0
    for page in dataset.pages(after, min(head, after + limit)):
        for row in _page(dataset, page):
            found.append(json.dumps(row))
            size += len(found[-1])
            if size > MOST_BYTES:  # after a row: an answer without rows would repeat its position
                break
        if size > MOST_BYTES:
            break
    following = after + len(found)  # a log has no gaps: each position has one row
    return f'{{"rows": [{", ".join(found)}], "next": {following}, "head": {head}}}'


def _page(dataset: Dataset, page: Page) -> Iterator[dict[str, Any]]:
    # A page holds the rows that have a record; the entries hold all rows.
    index = {position: row for row, position in enumerate(page.positions.tolist())}
    features = dataset.features
    for entry in dataset.entries(page.start, page.stop):
        row = index.get(entry.position)
        fields = None
        if row is not None:
            fields = to_fields(features, {name: page[name][row] for name in features})
        yield _row(entry, fields)


def _row(entry: Entry, fields: dict[str, Any] | None) -> dict[str, Any]:
    return {**asdict(entry), "created_at": entry.created_at.isoformat(), "fields": fields}
