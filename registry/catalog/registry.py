"""A registry of datasets: one database."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, Row, insert, select

from registry.catalog.dataset import Dataset
from registry.catalog.describe import check_description
from registry.catalog.rename import holder_of, rename
from registry.errors import (
    DatasetExistsError,
    DatasetNotFoundError,
    FeatureError,
    RegistryError,
)
from registry.html.card import card_html
from registry.samples.features import Feature, Features
from registry.samples.schema import Schema
from registry.samples.splits import intervals
from registry.storage.database import schema as database_schema
from registry.storage.database.address import Pickled
from registry.storage.database.engine import make_engine
from registry.storage.database.models import NOT_DROPPED, DatasetRow, HeadRow
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import read, write
from registry.storage.database.url import masked
from registry.storage.log.drop import Progress, drop, remove
from registry.storage.log.reader import Log
from registry.storage.log.replica import Replica, open_replica
from registry.storage.log.schemas import insert_schema
from registry.storage.log.tags import resolve
from registry.storage.log.version import Reference, is_name
from registry.storage.log.watermark import GENESIS

_OTHER_FEATURES = (
    "its features are others: classes and features are added by `registry alter`; to remove a "
    "feature or change its type, copy the dataset to a new one, by `registry copy --into`"
)
DEFAULT_URL = "sqlite:///registry.db"


def connect(
    url: str | None = None, *, replica: str | None = None, timeout: float | None = None
) -> Registry:
    """Open the registry at a database URL, `$REGISTRY_URL`, or ``sqlite:///registry.db``.

    A SQLite file is created if there is none. On PostgreSQL, `SchemaMissingError` or
    `SchemaTooOldError` names the command that sets up the database. What the URL leaves out is
    taken from services, ``PG…`` variables and password files, as by psql.

    ``replica``, or `$REGISTRY_REPLICA_URL`, is the URL of a PostgreSQL server that replicates this
    database. Pages, followers and mirrors read from it as far as it has replicated. While it is
    down or lags by seconds, they read from the primary, with a `ReplicaWarning`. An empty URL
    means no replica, and the variable is ignored for SQLite.

    ``timeout`` is the time in seconds from the moment that the server becomes unreachable, or a
    SQLite file is locked, until `DatabaseUnavailableError` or `ConflictError` is raised. It
    includes retries; only followers try without limit. It can also be set in the URL
    (``?timeout=60``); the default is 30. A statement that PostgreSQL is known to be executing may
    take longer.
    """
    engine = make_engine(
        os.environ.get("REGISTRY_URL") or DEFAULT_URL if url is None else url, timeout
    )
    # Ignored for SQLite: the environment may be set for another registry, on PostgreSQL.
    if replica is None and engine.dialect.name == "postgresql":
        replica = os.environ.get("REGISTRY_REPLICA_URL")
    nearby = open_replica(replica, engine, timeout) if replica else None
    try:
        database_schema.check(engine)
    # Also after Ctrl-C: nobody else has the engine, whose connections would stay open.
    except BaseException:
        engine.dispose()
        raise
    return Registry(engine, nearby)


class Registry(Pickled):
    """The datasets of one database.

    Safe to share between threads. After a fork, the child process opens its own connections.
    A registry can be pickled, as can the objects that were opened from it. The pickle holds the
    URL, without passwords from the environment, and an unpickled object connects when it is used.
    """

    def __init__(self, engine: Engine, replica: Replica | None = None) -> None:
        self.engine = engine
        self.replica = replica

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; datasets opened from this registry reconnect if used again."""
        # The engines stay usable: `dispose` closes the pool's connections and begins an empty pool.
        self.engine.dispose()
        if self.replica is not None:
            self.replica.engine.dispose()

    def __repr__(self) -> str:
        replica = f", replica {masked(self.replica.engine.url)}" if self.replica else ""
        return f"<registry at {masked(self.engine.url)}{replica}>"

    def _repr_html_(self) -> str | None:
        from registry.catalog.cards import registry_card  # noqa: PLC0415

        return card_html("Registry", masked(self.engine.url), lambda: registry_card(self))

    def create(
        self,
        name: str,
        features: Mapping[str, Feature],
        *,
        splits: Mapping[str, float] | None = None,
        description: str = "",
    ) -> Dataset:
        """Create an empty dataset; ``splits`` maps each split's name to its share of the keys.

        The shares add up to 1. Splits never change afterwards, and features only by
        `Dataset.add_classes` and `Dataset.add_feature`. Raises `DatasetExistsError` if the name is
        taken, and `FeatureError` if an argument is not valid.
        """
        check_name(name)
        check_description(description)
        schema = Schema(0, 0, Features(features))
        # The uid is made here, once for all attempts: `_create` recognizes its own row by it.
        row = {
            "uid": uuid.uuid4().hex,
            "name": name,
            "splits": {split: list(ends) for split, ends in intervals(splits or {}).items()},
            "description": description,
        }
        try:
            write(self.engine, _create, row, schema)
        except DatasetExistsError as error:
            if self.open(name).features != schema.features:
                error.add_note(_OTHER_FEATURES)
            raise
        return self.open(name)

    def open(self, name: str) -> Dataset:
        """Open a dataset, or a version of one.

        A version is named by a tag (``digits@gold``), by its position (``digits@1500``), or by its
        position and the chain there (``digits@1500:9f86d081…``). Raises `DatasetNotFoundError`,
        and `VersionError` if the log does not hold the version.
        """
        reference = Reference.parse(name)
        try:
            row = find_row(self, reference.name)
        except DatasetNotFoundError as error:
            if holder := self._holder(reference):
                renamed = holder, str(replace(reference, name=holder))
                raise DatasetNotFoundError(error.name, (), renamed) from None
            raise
        return self._dataset(row, reference)

    def names(self) -> list[str]:
        """Return the datasets' names in alphabetical order."""
        query = select(DatasetRow.name).where(NOT_DROPPED).order_by(DatasetRow.name)
        return read(self.engine, lambda connection: list(connection.execute(query).scalars()))

    def datasets(self) -> list[Dataset]:
        """Open every dataset, in the alphabetical order of their names."""
        query = select(DatasetRow).where(NOT_DROPPED).order_by(DatasetRow.name)
        rows = read(self.engine, lambda connection: connection.execute(query).all())
        return [self._dataset(row, Reference(row.name)) for row in rows]

    def rename(self, name: str, new_name: str) -> dict[str, str]:
        """Give a dataset another name; the old one is free at once.

        All that belongs to the dataset stays with it, and datasets, runs, followers and servers
        that have it open continue. Tokens that are for it alone follow, and those whose names end
        with the dataset's are renamed: returns their new names by their old ones.

        Raises `DatasetExistsError` if the new name is taken, `FeatureError` if it is not valid,
        and `RenameError` if a token would open another dataset than it was made for.
        """
        check_name(new_name)
        return rename(self.engine, find_row(self, name), new_name)

    def drop(self, name: str, progress: Progress | None = None) -> None:
        """Remove a dataset with its samples, runs and epochs, permanently.

        The dataset disappears, and its name is free, at once. Then its rows are removed in many
        small transactions. After each, ``progress`` is called with the number of samples removed
        so far and the number of all that are to be removed. Rows that are left by an interruption,
        or locked by another transaction, are removed by the next drop of a dataset or by
        `registry doctor --fix`.
        """
        # This has committed when `remove` begins, so an error there must not hide that.
        drop(self.engine, find_row(self, name).id)
        try:
            remove(self.engine, progress)
        except RegistryError as error:
            error.add_note(
                f"{name!r} is dropped; the next drop of a dataset, or `registry doctor --fix`, "
                "removes the rows that are left"
            )
            raise

    def _holder(self, reference: Reference) -> str | None:
        """Return the name of a dataset with the log that a version of another name has."""
        if reference.watermark is None or not reference.chain:
            return None
        return holder_of(self.engine, reference.watermark, reference.chain)

    def _dataset(self, row: Row[DatasetRow], reference: Reference) -> Dataset:
        log = Log.of(self.engine, row, self.replica)
        return Dataset(log, row, resolve(log, reference))


def check_name(name: str) -> None:
    """Raise `FeatureError` unless this can be the name of a dataset."""
    if not is_name(name):
        raise FeatureError(
            f"dataset name {name!r:.200}: use 1 to 128 letters, digits, '_', '.' and '-'"
        )


def find_row(registry: Registry, name: str) -> Row[DatasetRow]:
    """Return the row of a dataset; raises `DatasetNotFoundError`."""
    # PostgreSQL refuses some texts in a query, such as those with NUL, with another error.
    if not is_name(name):
        # A version, where a command takes none, has a dataset to suggest.
        version = isinstance(name, str) and is_name(name.partition("@")[0])
        raise DatasetNotFoundError(name, registry.names() if version else ())
    # Without NOT_DROPPED: a drop changes the name to one that `is_name` rejects.
    query = select(DatasetRow).where(DatasetRow.name == name)
    row = read(registry.engine, lambda connection: connection.execute(query).one_or_none())
    if row is None:
        raise DatasetNotFoundError(name, registry.names())
    return row


def insert_dataset(
    connection: Connection,
    row: Mapping[str, Any],
    schema: Schema,
    created_at: datetime | None = None,
) -> None:
    """Insert a dataset with its first schema and an empty head, unless its name or uid is taken."""
    # Not a SELECT first: the unique indexes decide between concurrent calls.
    if not insert_if_new(connection, DatasetRow, row):
        return
    query = select(DatasetRow.id).where(DatasetRow.uid == row["uid"])
    dataset_id = connection.execute(query).scalar_one()
    connection.execute(insert(HeadRow).values(dataset_id=dataset_id, chain=GENESIS))
    insert_schema(connection, dataset_id, schema, created_at)


def _create(connection: Connection, row: Mapping[str, Any], schema: Schema) -> None:
    """Insert a dataset; raises `DatasetExistsError` if its name is taken."""
    insert_dataset(connection, row, schema)
    # By the uid, which is this call's: a second attempt, after the answer to a commit was lost,
    # finds the row of the first.
    query = select(DatasetRow.uid).where(DatasetRow.name == row["name"])
    if connection.execute(query).scalar_one_or_none() != row["uid"]:
        raise DatasetExistsError(row["name"])
