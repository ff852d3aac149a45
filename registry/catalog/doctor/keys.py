"""Finding keys that are stored as other text than was inserted.

A key's bucket is the hash of its group or, without one, of the key, in Python. If the client's
encoding was not UTF-8, the server interpreted the bytes as other text, so the bucket is not that of
the stored text. Only texts beyond ASCII are examined, because ASCII is the same in every such
encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, Row, func, select

from registry.catalog.doctor.finding import Finding, ask
from registry.samples.buckets import buckets
from registry.storage.database.models import DatasetRow, HeadRow, SampleRow
from registry.storage.database.transactions import reading

_ROWS = 1 << 18
"""Positions that are examined in one statement."""
_CODECS = (
    *("latin-1", "cp1252", "iso8859-15", "iso8859-2", "cp1250", "iso8859-9", "cp1254"),
    *("cp1251", "koi8-r", "koi8-u", "iso8859-5", "cp866", "iso8859-7", "cp1253"),
    *("euc-jp", "euc-kr", "gb2312", "shift-jis", "big5", "gbk", "gb18030", "cp949"),
)
"""Python's names for some client encodings of PostgreSQL, tried in this order."""


def check_keys(engine: Engine) -> Iterator[Finding]:
    """Find live samples whose bucket is not that of their key."""
    logs = select(DatasetRow.id, DatasetRow.name, HeadRow.position).join(HeadRow)
    for log in ask(engine, logs.order_by(DatasetRow.name)):
        count = 0
        examples: list[str] = []
        for row in _damaged(engine, log):
            count += 1
            if len(examples) < 3:
                examples.append(f"{row.key!r} at position {row.position}{_original_key(row)}")
        if count:
            yield Finding(
                "error",
                f"dataset {log.name}",
                f"{count} samples have other keys than were inserted, since the client had another "
                f"encoding: {', '.join(examples)}",
                'insert them into another dataset (docs/operate/postgresql.md, "Encodings")',
            )


def _damaged(engine: Engine, log: Row[*tuple[Any, ...]]) -> Iterator[Row[int, str, int, str]]:
    # In parts, since neither a transaction nor a result may grow with the log.
    for start in range(0, log.position, _ROWS):
        with reading(engine) as connection:
            rows = connection.execute(_beyond_ascii(log.id, start)).all()
        hashes = buckets(row.hashed for row in rows).tolist() if rows else []
        # Python's hash, as on insert: the server could hash only the text that it has stored.
        yield from (row for row, bucket in zip(rows, hashes, strict=True) if row.bucket != bucket)


def _beyond_ascii(dataset_id: int, start: int) -> Any:
    """Select live rows with keys beyond ASCII: no other row supersedes, retracts or erases them.

    In UTF-8, only a text of ASCII has as many bytes as characters.
    """
    newer = SampleRow.__table__.alias("newer").c
    superseded = select(newer.position).where(
        newer.dataset_id == SampleRow.dataset_id, newer.supersedes == SampleRow.position
    )
    hashed = func.coalesce(SampleRow.group_key, SampleRow.key)
    return (
        select(SampleRow.position, SampleRow.key, SampleRow.bucket, hashed.label("hashed"))
        .where(
            SampleRow.dataset_id == dataset_id,
            SampleRow.position >= start,
            SampleRow.position < start + _ROWS,
            func.octet_length(hashed) != func.char_length(hashed),
            func.octet_length(SampleRow.record) > 0,
            ~superseded.exists(),
        )
        .order_by(SampleRow.position)
    )


def _original_key(row: Row[int, str, int, str]) -> str:
    """Return a text with the original key, or nothing if no encoding leads to the bucket."""
    if row.hashed != row.key:  # the bucket is that of the group
        return ""
    # The first match is enough: a wrong encoding has the right bucket only once in 65,536 times.
    for codec in _CODECS:
        with suppress(UnicodeError):
            key = row.key.encode(codec).decode()
            if buckets([key])[0] == row.bucket:
                return f", which was {key!r}"
    return ""
