"""Runs in the database: their settings, and how many of their samples have been trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    bindparam,
    delete,
    select,
    update,
)

from registry.errors import (
    DatasetDroppedError,
    RegistryError,
    RunMismatchError,
    RunNotFoundError,
)
from registry.samples.text import name_problem
from registry.storage.database.models import EpochRow, HeadRow, RemovedRunRow, RunRow
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import read, write, writing
from registry.storage.log.version import Version
from registry.storage.log.watermark import Watermark
from registry.training.conditions import Conditions
from registry.training.policy import Policy, parse_policy
from registry.training.run_request import END, RunRequest


@dataclass(frozen=True)
class RunSettings:
    """A run's row. A ``split`` of None means all splits, no ``conditions`` all samples.

    A run on a version has its ``watermark`` and the number of its ``schema``, others None.
    """

    id: int
    dataset_id: int
    created_at: datetime
    name: str
    seed: int
    split: str | None
    policy: Policy
    watermark: Watermark | None = None
    schema: int | None = None
    conditions: Conditions = field(default_factory=Conditions)

    def version(self, dataset: str) -> Version | None:
        """Return the version that the run is on, of the dataset of this name; None for others."""
        end = self.watermark
        return None if end is None else Version(dataset, end.position, end.chain.hex(), self.schema)


def get_or_create(engine: Engine, dataset_id: int, request: RunRequest) -> RunSettings:
    """Return the run that is asked for; create it if there is none of its name.

    Raises `RunMismatchError` if a setting differs from the run's, `FeatureError` if a name or a
    setting is not valid.
    """
    request.check()
    query = _of_name(dataset_id, request.name)
    # Read first: opening an existing run needs no right to write, and no lock on a SQLite file.
    row = read(engine, lambda c: c.execute(query).one_or_none())
    # A run that was created before the dataset had a feature of this name means the rows' source.
    of_rows = row is not None and Conditions.from_json(row.conditions).source is not None
    conditions = request.conditions(of_rows=of_rows)
    values = request.values(conditions)
    settings = _settings(row or write(engine, _create, dataset_id, values))
    for setting, value, stored in (
        ("seed", None if request.seed is None else values["seed"], settings.seed),
        ("split", request.split, settings.split),
        ("policy", request.policy, settings.policy),
        ("where", conditions, settings.conditions),
    ):
        if value is not None and value != stored:
            raise RunMismatchError(
                f"run {request.name!r} has {setting} {stored!r}, not {value!r}; "
                "leave it out to continue that run, or choose another name"
            )
    version = request.version
    if version is not None and settings.version(version.name) != version:
        other = settings.version(version.name)
        same = " with its other features" if str(other) == str(version) else ""
        raise RunMismatchError(
            f"run {request.name!r} is on {other or 'no version'}, not on {version}{same}; open "
            f"{str(other or version.name)!r} to continue it, or choose another name"
        )
    return settings


def _create(connection: Connection, dataset_id: int, values: Mapping[str, object]) -> Row[RunRow]:
    """Create a run and return its row, or another worker's that has created it meanwhile."""
    insert(connection, dataset_id, values)
    return connection.execute(_of_name(dataset_id, values["name"])).one()


def insert(connection: Connection, dataset_id: int, values: Mapping[str, object]) -> bool:
    """Create a run unless there is one of its name; return whether it was created."""
    # The dataset's row outlives a drop, and would let a run be created that nobody can use.
    if not _has_head(connection, dataset_id):
        raise DatasetDroppedError
    values = {"dataset_id": dataset_id, **values}
    if connection.dialect.name == "sqlite":
        # SQLite's own time has whole seconds, in which a run and a later one of its name could both
        # be created. What is remembered of the first would then count for the other.
        values["created_at"] = datetime.now(UTC)
    return insert_if_new(connection, RunRow, values)


def find(engine: Engine, dataset_id: int, name: str) -> RunSettings:
    """Return the run of this name. Raises `RunNotFoundError` if there is none."""
    query = _of_name(dataset_id, name)
    row = None
    if name_problem(name) is None:  # PostgreSQL refuses other texts with another error
        row = read(engine, lambda c: c.execute(query).one_or_none())
    if row is None:
        raise RunNotFoundError(name, [run.name for run in all_settings(engine, dataset_id)])
    return _settings(row)


def remove(engine: Engine, run: RunSettings) -> None:
    """Remove a run with its epochs, and note in `removed_runs` that it was removed."""
    key = {"dataset_id": run.dataset_id, "name": run.name, "created_at": run.created_at}

    def work(connection: Connection) -> None:
        # Locks the run first: a worker that is pinning an epoch has its commit waited for here, and
        # others find no run.
        row = select(RunRow.id).where(RunRow.id == run.id).with_for_update()
        if connection.execute(row).first() is None and not _removed(
            connection, run, run.created_at
        ):
            raise _gone(connection, run)
        insert_if_new(connection, RemovedRunRow, key)
        connection.execute(delete(EpochRow).where(EpochRow.run_id == run.id))
        connection.execute(delete(RunRow).where(RunRow.id == run.id))

    write(engine, work)


def was_removed(engine: Engine, run: RunSettings, created_at: datetime | None) -> bool:
    """Return whether a run of this name that was created at that time was removed.

    With None, whether any was.
    """
    return read(engine, _removed, run, created_at)


def _removed(connection: Connection, run: RunSettings, created_at: datetime | None) -> bool:
    query = select(RemovedRunRow.name).where(
        RemovedRunRow.dataset_id == run.dataset_id, RemovedRunRow.name == run.name
    )
    if created_at is not None:
        query = query.where(RemovedRunRow.created_at == created_at)
    return connection.execute(query).first() is not None


def _gone(connection: Connection, run: RunSettings) -> RegistryError:
    """Return the error for a run that has no row: it was removed, or its dataset dropped."""
    if _has_head(connection, run.dataset_id):
        return RunNotFoundError(run.name, None)
    return DatasetDroppedError()


def _has_head(connection: Connection, dataset_id: int) -> bool:
    head = select(HeadRow.dataset_id).where(HeadRow.dataset_id == dataset_id)
    return connection.execute(head).first() is not None


def all_settings(engine: Engine, dataset_id: int) -> list[RunSettings]:
    """Read the settings of every run of a dataset, in the order of their names."""
    query = select(RunRow).where(RunRow.dataset_id == dataset_id).order_by(RunRow.name)
    return [_settings(row) for row in read(engine, lambda c: c.execute(query).all())]


def consumed(engine: Engine, run: RunSettings) -> int:
    """Read how many of the run's samples are recorded as trained on."""
    return read(engine, _consumed, run)


def record(engine: Engine, run: RunSettings, samples: int, *, rewind: bool = False) -> int:
    """Store how many of the run's samples have been trained on, unless more are recorded.

    With ``rewind``, store it in any case. Returns the number that is stored in the end.
    """
    change = update(RunRow).where(RunRow.id == run.id).values(consumed=samples)
    if not rewind:
        # In the same statement: between a read and a write another worker may record more.
        change = change.where(RunRow.consumed <= samples)

    def store(connection: Connection) -> int:
        if connection.execute(change).rowcount:
            return samples
        return _consumed(connection, run)

    return write(engine, store)


def advance(engine: Engine, run: RunSettings, samples: int) -> int | None:
    """Add to the number of the run's samples that have been trained on; return the new number.

    None if it would reach `END`. Not retried if the connection is lost, since the samples may have
    been added already.
    """
    added = (
        update(RunRow)
        .where(RunRow.id == run.id, RunRow.consumed <= END - 1 - samples)
        .values(consumed=RunRow.consumed + samples)
        .returning(RunRow.consumed)
    )
    # Not `write`, which would repeat the addition after a lost connection.
    with writing(engine) as connection:
        total: int | None = connection.execute(added).scalar()
        if total is None:
            _consumed(connection, run)  # raises if there is no such run
        return total


def _consumed(connection: Connection, run: RunSettings) -> int:
    samples: int | None = connection.execute(
        select(RunRow.consumed).where(RunRow.id == run.id)
    ).scalar_one_or_none()
    if samples is None:
        raise _gone(connection, run)
    return samples


def all_consumed(
    connection: Connection, runs: Sequence[RunSettings], *, lock: bool = False
) -> list[int]:
    """Read how many samples of each run are recorded as trained on; ``lock`` the runs' rows."""
    # Locked in the order of their ids, so that two processes do not wait for each other.
    query = select(RunRow.id, RunRow.consumed).where(RunRow.id.in_([run.id for run in runs]))
    query = query.order_by(RunRow.id)
    rows = connection.execute(query.with_for_update() if lock else query)
    counts = {row.id: row.consumed for row in rows}
    for run in runs:
        if run.id not in counts:
            raise _gone(connection, run)
    return [counts[run.id] for run in runs]


def set_consumed(connection: Connection, counts: Mapping[int, int]) -> None:
    """Store how many samples of each run, by its id, have been trained on."""
    if counts:
        change = update(RunRow).where(RunRow.id == bindparam("run"))
        rows = [{"run": run, "samples": samples} for run, samples in counts.items()]
        connection.execute(change.values(consumed=bindparam("samples")), rows)


def _of_name(dataset_id: int, name: object) -> Select[Any]:
    return select(RunRow).where(RunRow.dataset_id == dataset_id, RunRow.name == name)


def _settings(row: Row[RunRow]) -> RunSettings:
    return RunSettings(
        id=row.id,
        dataset_id=row.dataset_id,
        created_at=row.created_at,
        name=row.name,
        seed=row.seed,
        split=row.split,
        policy=parse_policy(row.policy),
        watermark=None if row.watermark is None else Watermark(row.watermark, row.chain),
        schema=row.schema,
        conditions=Conditions.from_json(row.conditions),
    )
