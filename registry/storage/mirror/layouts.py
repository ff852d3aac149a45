"""The layouts of records: which one a mirror's files have, and bringing pages to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from sqlalchemy import Connection

from registry.errors import DivergenceError
from registry.samples.schema import Schema
from registry.storage.database.transactions import read
from registry.storage.log.page import Page
from registry.storage.log.reader import Log
from registry.storage.log.schemas import Schemas
from registry.storage.log.standby import refuse_if_behind
from registry.storage.mirror.state import MirrorState


def file_schema(schemas: Schemas, state: MirrorState) -> Schema | None:
    """Return the newest schema that is known here and has the layout of a state's files, if any."""
    layout = state.layout or schemas.numbered(0).layout
    numbers = range(schemas.newest.number, -1, -1)
    return next((s for s in map(schemas.numbered, numbers) if s.layout == layout), None)


def is_known(log: Log, state: MirrorState) -> bool:
    """Return whether the log has had the layout of a state's files.

    Waits for a standby that has not received the schema yet.
    """
    if file_schema(log.schemas, state) is not None:
        return True

    def read_again(connection: Connection) -> bool:
        log.schemas.refresh()
        if file_schema(log.schemas, state) is None:
            refuse_if_behind(connection, "a schema of the dataset that its mirror has")
            return False
        return True

    return read(log.engine, read_again)


def schemas_between(schemas: Schemas, after: int, until: int) -> Iterator[tuple[int, int, Schema]]:
    """Yield the parts of ``[after, until)`` and the schema in force in each."""
    while after < until:
        try:
            schema, stop = schemas.cut(after, until)
        except DivergenceError:  # a mirror may have more rows than the database
            schema, stop = schemas.newest, until
        yield after, stop, schema
        after = stop


def in_layout(page: Page, schema: Schema) -> Page:
    """Return a page with its records brought to the layout of a schema, which is not older."""
    projection = schema.projection(page.schema)
    if projection.identical:
        return page
    if page.sizes is None:
        width = page.codec.header.itemsize
        rows = projection.forward_rows(np.frombuffer(page.data, np.uint8).reshape(-1, width))
        lengths = None if schema.codec.fixed_width else np.full(len(rows), rows.shape[1], np.int64)
        return replace(page, data=rows.tobytes(), schema=schema, sizes=lengths)
    view, stops = memoryview(page.data), np.cumsum(page.sizes).tolist()
    parts = zip([0, *stops], stops, strict=False)
    data = b"".join([projection.forward(view[start:stop]) for start, stop in parts])
    sizes = page.sizes + sum(map(len, projection.added))
    return replace(page, data=data, schema=schema, sizes=sizes)
