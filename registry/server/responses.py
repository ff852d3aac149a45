"""The answers of routes. Functions that take a dataset query the database and block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from starlette.responses import Response

from registry.catalog.dataset import Dataset
from registry.catalog.summary import DatasetSummary, HeadSummary
from registry.samples.json_codec import to_fields
from registry.server.problems import Problem
from registry.server.schemas import (
    JSON,
    Answer,
    CommitAnswer,
    DatasetAnswer,
    HeadAnswer,
    LogPageAnswer,
    LogRowAnswer,
)
from registry.storage.log.batch import Report
from registry.storage.log.entries import Entry
from registry.storage.log.head import Head
from registry.storage.log.page import Page

MOST_BYTES = 16 << 20
"""Bytes of the rows in one answer: no row is added after this size is reached."""


def answer(body: Answer) -> Response:
    # Not returned to FastAPI, which would validate the model a second time.
    return Response(_to_json(body), media_type=JSON)


def answer_list(bodies: Sequence[Answer]) -> Response:
    return Response(b"[%b]" % b",".join(map(_to_json, bodies)), media_type=JSON)


def head_answer(name: str, head: Head) -> HeadAnswer:
    return HeadAnswer.model_validate(HeadSummary.of(name, head))


def commit_answer(name: str, report: Report, keys: Sequence[str] | None) -> CommitAnswer:
    return CommitAnswer(
        inserted=report.inserted,
        revised=report.revised,
        retracted=report.retracted,
        unchanged=report.unchanged,
        head=head_answer(name, report.head),
        keys=None if keys is None else [*keys],
    )


def dataset_answer(dataset: Dataset) -> DatasetAnswer:
    return DatasetAnswer.model_validate(DatasetSummary.of(dataset, dataset.head))


def sample_answer(dataset: Dataset, key: str) -> LogRowAnswer:
    """Return a live sample; raises `Problem` if the key has none."""
    last = dataset.latest(key)
    if last is None or last.sample is None:
        reason = "is in no sample of the dataset" if last is None else "was retracted"
        raise Problem(404, f"the key {key!r:.520} {reason}", key=key)
    # The schema may have changed since the sample was read: it has the features of that time.
    features = {name: dataset.features[name] for name in last.sample}
    return _log_row(last.entry, to_fields(features, last.sample))


def log_page(dataset: Dataset, after: int, limit: int) -> bytes:
    """Return a `LogPageAnswer` as JSON: rows ``[after, after + limit)``, or fewer if large."""
    head = dataset.version.watermark
    if after > head:
        raise Problem(422, f"the log ends at position {head}, before {after}", field="after")
    rows: list[bytes] = []
    size = 0
    for page in dataset.pages(after, min(head, after + limit)):
        for row in _log_rows(dataset, page):
            rows.append(_to_json(row))
            size += len(rows[-1])
            if size > MOST_BYTES:  # after a row: an answer without rows would repeat its position
                break
        if size > MOST_BYTES:
            break
    following = after + len(rows)  # a log has no gaps: each position has one row
    # The rows are JSON already, as their size had to be known: only the rest is written here.
    return spliced(LogPageAnswer(rows=[], next=following, head=head), rows)


def spliced(body: Answer, rows: Iterable[bytes]) -> bytes:
    """Return an answer as JSON with these rows, which are JSON already."""
    rest = body.model_dump_json(exclude={"rows"})
    return b'{"rows":[%b],%b' % (b",".join(rows), rest[1:].encode())


def _to_json(body: Answer) -> bytes:
    # Unset and not None: null is the value of a retraction's fields. Bytes and not text: a page is
    # limited in bytes, and a character takes up to four of them.
    return body.model_dump_json(exclude_unset=True, by_alias=True).encode()


def _log_rows(dataset: Dataset, page: Page) -> Iterator[LogRowAnswer]:
    # A page holds the rows that have a record; the entries hold all rows.
    record_index = {position: index for index, position in enumerate(page.positions.tolist())}
    # Those of the page's schema: a page of older rows lacks what was added since.
    features = page.schema.features
    for entry in dataset.entries(page.start, page.stop):
        index = record_index.get(entry.position)
        fields = None
        if index is not None:
            fields = to_fields(features, {name: page[name][index] for name in features})
        yield _log_row(entry, fields)


def _log_row(entry: Entry, fields: dict[str, Any] | None) -> LogRowAnswer:
    return LogRowAnswer.model_validate({**vars(entry), "fields": fields})
