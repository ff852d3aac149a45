"""Filling a new dataset from another one, without some of its features or under other names.

The rows of the source's log are applied to the new dataset in their order, with their keys, groups
and sources. So it has the same samples, revisions and splits, but it is another log: with its own
positions, chain and times, and without runs, tags, and rows of the inbox.

A tag of the new dataset, `copied-from-…`, says in its note up to which version of the source it was
filled. It is moved in the transaction that appends the rows. So an interrupted call continues where
it was, and a later one takes the rows added since.
"""

from __future__ import annotations

import reprlib
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update

from registry.catalog.copy.dataset import Progress
from registry.catalog.copy.rows import ERASED, LogRow, fetch, verify_rows
from registry.catalog.dataset import Dataset
from registry.catalog.registry import Registry, check_name, find_row, insert_dataset
from registry.errors import (
    DatasetExistsError,
    DivergenceError,
    FeatureError,
    RegistryError,
    VersionError,
)
from registry.samples.features import ClassLabel, Feature, Features
from registry.samples.schema import Schema
from registry.storage.database.models import DatasetRow, TagRow
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import read, write
from registry.storage.database.url import masked
from registry.storage.log.batch import Batch, Report
from registry.storage.log.head import Head
from registry.storage.log.lookup import latest
from registry.storage.log.reader import Log
from registry.storage.log.version import Reference, Version
from registry.storage.log.watermark import GENESIS
from registry.storage.log.writer import Writer, transact_in

_TAG = "copied-from-"
_LONGEST_TAG = 128


@dataclass(frozen=True)
class _Tag:
    """A tag's name, and the version of the source in its note."""

    name: str
    position: int
    chain: bytes


@dataclass(frozen=True)
class Filled:
    """The result: the rows of the source's log that this call has read, and what they changed."""

    version: Version
    rows: int
    report: Report


@dataclass(frozen=True)
class Selection:
    """The features that are filled: those of the source, but some, and some under another name."""

    dropped: Collection[str] = ()
    renamed: Mapping[str, str] | None = None

    def names(self, features: Features) -> dict[str, str]:
        """Return the new name of each feature that is kept; raises `FeatureError`."""
        renamed = self.renamed or {}
        for name in (*self.dropped, *renamed):
            if name not in features:
                known = ", ".join(map(repr, features))
                raise FeatureError(f"{name!r:.200} is no feature; the features are {known}")
        kept = {name: renamed.get(name, name) for name in features if name not in self.dropped}
        twice = [new for new in kept.values() if list(kept.values()).count(new) > 1]
        if twice:
            raise FeatureError(f"two features would be named {twice[0]!r:.200}")
        return kept


def fill_dataset(
    source: Registry,
    name: str,
    target: Registry,
    into: str,
    selection: Selection,
    progress: Progress | None = None,
) -> Filled:
    """Fill a dataset of the target from one of the source, or from a version of it.

    It is created if it is not there. Raises `FeatureError` for features that the source does not
    have, and if the features of a dataset that was filled before do not fit any more;
    `DatasetExistsError` for a dataset that was not filled from this one; and `DivergenceError` if
    the source's log does not have the version up to which it was filled.
    """
    opened = source.open(name)
    origin = Log.of(source.engine, find_row(source, opened.name))
    until, schema = opened.head.position, opened.schema
    names = selection.names(schema.features)
    wanted = _schema(schema, names)
    _create(target, into, origin, opened, wanted)
    filled = target.open(into)
    tag = _tag_of(filled, origin, opened.name)
    _check_features(filled, opened.name, wanted)
    filling = _Filling(origin, opened, schema, names, filled, tag)
    return filling.run(until, progress)


@dataclass
class _Filling:
    origin: Log
    source: Dataset
    schema: Schema
    names: Mapping[str, str]
    filled: Dataset
    tag: _Tag

    def run(self, until: int, progress: Progress | None) -> Filled:
        position, chain = self.tag.position, self.tag.chain
        report = Report(0, 0, 0, 0, self.filled.head)
        engine = self.origin.engine
        while position < until:
            # The rows of one schema, some MiB of them.
            written, stop = self.source.schemas.cut(position, until)
            block = read(engine, fetch, self.origin.dataset_id, position, stop)
            verify_rows(masked(engine.url), chain, block)
            position, chain = block[-1].position + 1, block[-1].chain
            version = Version(self.source.name, position, chain.hex())
            report += self._append(self._batch(block, written), str(version))
            if progress is not None:
                progress(position - self.tag.position, position)
        head = report.head
        version = Version(self.filled.name, head.position, head.chain.hex(), head.schema)
        return Filled(version, max(0, until - self.tag.position), report)

    def _batch(self, block: Sequence[LogRow], written: Schema) -> Batch:
        """Return the batch of a block, without its erased rows."""
        rows = [row for row in block if row.record != ERASED]
        held = [row for row in rows if row.record is not None]
        schema = self.filled.schema
        records = iter(self._records(held, written, schema))
        return Batch(
            [row.key for row in rows],
            [None if row.record is None else next(records) for row in rows],
            [row.source for row in rows],
            groups=[row.group_key for row in rows] if any(r.group_key for r in rows) else None,
            schema=schema,
        )

    def _records(self, rows: Sequence[LogRow], written: Schema, schema: Schema) -> list[bytes]:
        if not rows:
            return []
        projection = self.schema.projection(written)
        data = b"".join(projection.forward(row.record or b"") for row in rows)
        columns = self.schema.codec.decode(data, len(rows))
        kept = {new: columns[name] for name, new in self.names.items()}
        # All come from stored records, so that no image is checked again.
        return schema.codec.encode(kept, [row.key for row in rows], kept.keys())

    def _append(self, batch: Batch, note: str) -> Report:
        def work(writer: Writer) -> Report:
            (outcome,) = writer.append([_known(writer, batch)])
            if isinstance(outcome, RegistryError):
                raise outcome
            _move(writer.connection, self.filled.id, self.tag.name, writer.head, note)
            return outcome

        return transact_in(self.filled.schemas, work)


def _known(writer: Writer, batch: Batch) -> Batch:
    """Return the batch without retractions of keys that the dataset never had."""
    retracted = {k for k, r in zip(batch.keys, batch.records, strict=True) if r is None}
    known = {*latest(writer.connection, writer.dataset_id, retracted)}
    rows = []
    for row, (key, record) in enumerate(zip(batch.keys, batch.records, strict=True)):
        # Of a key that was erased, the row that retracted it is left.
        if record is not None or key in known:
            rows.append(row)
            known.add(key)
    return batch if len(rows) == len(batch.keys) else batch.only(rows)


def _schema(schema: Schema, names: Mapping[str, str]) -> Schema:
    """Return the first schema of the new dataset, which has the defaults of the source's."""
    features = {new: schema.features[name] for name, new in names.items()}
    defaults = {
        new: schema.defaults[name] for name, new in names.items() if name in schema.defaults
    }
    return Schema(0, 0, Features(features), defaults)


def _create(target: Registry, into: str, origin: Log, opened: Dataset, schema: Schema) -> None:
    """Create the new dataset, with its tag, unless there is one of this name."""
    check_name(into)
    row: dict[str, Any] = {
        "uid": uuid.uuid4().hex,
        "name": into,
        "splits": {split: list(ends) for split, ends in opened.splits.items()},
        "description": opened.description,
    }
    start = Version(opened.name, 0, GENESIS.hex())

    def create(connection: Connection) -> None:
        insert_dataset(connection, row, schema)
        query = select(DatasetRow.id, DatasetRow.uid).where(DatasetRow.name == into)
        dataset_id, uid = connection.execute(query).one()
        if uid == row["uid"]:
            name = f"{_TAG}{opened.name}"[:_LONGEST_TAG]
            _move(connection, dataset_id, name, Head(0, 0, GENESIS), str(start))

    write(target.engine, create)
    if find_row(target, into).uid == origin.uid:
        raise _other(into, f"{into!r} is the source itself, or a copy of it")


def _move(connection: Connection, dataset_id: int, name: str, head: Head, note: str) -> None:
    """Point a tag of the new dataset to its head; the note is the version of the source."""
    values = {"position": head.position, "chain": head.chain, "schema": head.schema}
    values |= {"live": head.live, "note": note}
    of_name = {"dataset_id": dataset_id, "name": name}
    if not insert_if_new(connection, TagRow, {**of_name, **values}):
        connection.execute(update(TagRow).filter_by(**of_name).values(values))


def _tag_of(filled: Dataset, origin: Log, name: str) -> _Tag:
    """Return the tag that says up to which version of the source a dataset was filled."""
    tags = [tag for tag in filled.tags() if tag.name.startswith(_TAG)]
    for tag in tags:
        try:
            version = Reference.parse(tag.note)
        except VersionError:
            continue
        # By the chain: the source may have been renamed since.
        position = version.watermark or 0
        if (chain := origin.chain_at(position)) is not None and chain.hex() == version.chain:
            return _Tag(tag.name, position, chain)
    if tags:
        raise DivergenceError(
            f"{filled.name!r} was filled up to {tags[0].note}, which is no version of {name!r}: "
            "name a new dataset"
        )
    raise _other(filled.name, f"it was not filled from {name!r}; name a new dataset")


def _other(name: str, reason: str) -> DatasetExistsError:
    error = DatasetExistsError(name)
    error.add_note(reason)
    return error


def _check_features(filled: Dataset, source: str, wanted: Schema) -> None:
    """Raise `FeatureError` unless the wanted features fit those that a dataset has by now."""
    present = filled.schema
    for name, feature in wanted.features.items():
        if not _fits(feature, present.features.get(name)):
            has = present.features.get(name, "no such feature")
            raise FeatureError(
                f"feature {name!r} of {source!r} is {feature}, and {filled.name!r} has {has}: "
                "leave it out as before (--drop-feature), or add what is missing by "
                f"`registry alter {filled.name}`"
            )
        # Its rows from before the feature was added have its own default.
        if name in present.defaults and present.defaults[name] != wanted.defaults.get(name):
            raise FeatureError(
                f"older samples of {filled.name!r} have {_default(present, name)} as {name!r}, and "
                f"those of {source!r} have {_default(wanted, name)}: leave it out "
                "(--drop-feature), or fill a new dataset"
            )
    for name in present.features:
        if name not in wanted.features and name not in present.defaults:
            raise FeatureError(
                f"{filled.name!r} has the feature {name!r} without a default, which is not filled "
                f"from {source!r} now"
            )


def _default(schema: Schema, name: str) -> str:
    return reprlib.repr(schema.defaults[name]) if name in schema.defaults else "no default"


def _fits(wanted: Feature, present: Feature | None) -> bool:
    """Return whether values of a feature are values of another, which may have more classes."""
    if not (isinstance(wanted, ClassLabel) and isinstance(present, ClassLabel)):
        return wanted == present
    if wanted.names is None or present.names is None:
        return wanted.names == present.names and wanted.count <= present.count
    return wanted.names == present.names[: wanted.count]
