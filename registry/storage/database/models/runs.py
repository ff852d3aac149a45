"""The tables of training runs and of their epochs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column

from registry.storage.database.models.base import Base, Count, DatasetId, DatasetKey, Now, Position


class RunRow(Base):
    """A training run; ``consumed`` is the number of samples trained on so far."""

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[DatasetId]
    name: Mapped[str]
    seed: Mapped[Position]
    split: Mapped[str | None]
    policy: Mapped[str]
    consumed: Mapped[Count]
    created_at: Mapped[Now]
    conditions: Mapped[dict[str, Any] | None] = mapped_column(
        JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    )
    """What the run's samples have in common, as JSON; NULL if it takes all of its split."""
    watermark: Mapped[int | None] = mapped_column(BigInteger)
    """Where the log ends for a run on a version, with its chain and schema; NULL for others."""
    chain: Mapped[bytes | None]
    schema: Mapped[int | None]

    __table_args__ = (UniqueConstraint("dataset_id", "name"),)


class RemovedRunRow(Base):
    """A run that was removed, and no other run of its name, by when it was created.

    Machines that trained on it remember its last epoch. Without this row they would take a new run
    of the name for one that was restored from an older dump.
    """

    __tablename__ = "removed_runs"

    dataset_id: Mapped[DatasetKey]
    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    removed_at: Mapped[Now]


class EpochRow(Base):
    """An epoch of a run, pinned to the rows of the log before ``watermark``.

    ``chain`` is the hash chain at the watermark: a different one there means that the log diverged.
    """

    __tablename__ = "epochs"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    number: Mapped[Position]
    since: Mapped[Position]
    watermark: Mapped[Position]
    chain: Mapped[bytes]
    size: Mapped[Position]
    start: Mapped[Position]
    pinned_at: Mapped[Now]
    schema: Mapped[int] = mapped_column(server_default="0")
    older: Mapped[int | None] = mapped_column(BigInteger)
    """Number of older samples that a replay of a run with conditions draws from."""

    __table_args__ = (PrimaryKeyConstraint("run_id", "number"),)
