"""The tables of training runs and of their epochs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    ForeignKey,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
)

from registry.storage.database.models.base import (
    OPTIONAL_DOCUMENT,
    Base,
    UtcDateTime,
    bigint,
    counter,
    inserted_at,
    of_dataset,
)


class RunRow(Base):
    """A training run; ``consumed`` is the number of samples trained on so far."""

    __tablename__ = "runs"

    id: ColumnElement[int] = Column(Integer, primary_key=True)
    dataset_id: ColumnElement[int] = of_dataset()
    name: ColumnElement[str] = Column(Text, nullable=False)
    seed: ColumnElement[int] = bigint()
    split: ColumnElement[str | None] = Column(Text)
    policy: ColumnElement[str] = Column(Text, nullable=False)
    consumed: ColumnElement[int] = counter()
    created_at: ColumnElement[datetime] = inserted_at()
    conditions: ColumnElement[dict[str, Any] | None] = Column(OPTIONAL_DOCUMENT)
    """What the run's samples have in common, as JSON; NULL if it takes all of its split."""
    watermark: ColumnElement[int | None] = Column(BigInteger)
    """Where the log ends for a run on a version, with its chain and schema; NULL for others."""
    chain: ColumnElement[bytes | None] = Column(LargeBinary)
    schema: ColumnElement[int | None] = Column(Integer)

    __table_args__: tuple[Any, ...] = (UniqueConstraint("dataset_id", "name"),)


class RemovedRunRow(Base):
    """A run that was removed, and no other run of its name, by when it was created.

    Machines that trained on it remember its last epoch. Without this row they would take a new run
    of the name for one that was restored from an older dump.
    """

    __tablename__ = "removed_runs"

    dataset_id: ColumnElement[int] = of_dataset(primary_key=True)
    name: ColumnElement[str] = Column(Text, primary_key=True)
    created_at: ColumnElement[datetime] = Column(UtcDateTime, primary_key=True)
    removed_at: ColumnElement[datetime] = inserted_at()


class EpochRow(Base):
    """An epoch of a run, pinned to the rows of the log before ``watermark``.

    ``chain`` is the hash chain at the watermark: a different one there means that the log diverged.
    """

    __tablename__ = "epochs"

    run_id: ColumnElement[int] = Column(ForeignKey("runs.id", ondelete="CASCADE"), nullable=False)
    number: ColumnElement[int] = bigint()
    since: ColumnElement[int] = bigint()
    watermark: ColumnElement[int] = bigint()
    chain: ColumnElement[bytes] = Column(LargeBinary, nullable=False)
    size: ColumnElement[int] = bigint()
    start: ColumnElement[int] = bigint()
    pinned_at: ColumnElement[datetime] = inserted_at()
    schema: ColumnElement[int] = Column(Integer, server_default="0", nullable=False)
    older: ColumnElement[int | None] = Column(BigInteger)
    """Number of older samples that a replay of a run with conditions draws from."""

    __table_args__: tuple[Any, ...] = (PrimaryKeyConstraint("run_id", "number"),)
