"""Batches of changes, and the rows of the log that each results in.

`resolve` compares a `Batch` with the latest revision of each of its keys. The `Plan` that it
returns has the rows to write and, for each, the position of the older row that it supersedes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from registry.errors import (
    DivergenceError,
    InvalidSampleError,
    RegistryError,
    SampleNotFoundError,
)
from registry.samples.schema import Schema
from registry.storage.log.head import Head
from registry.storage.log.lookup import Latest, Stored

Amend = Callable[[bytes | None, Schema], bytes | None]
"""Computes a key's next record from its latest one, which is None for a retraction.

Both are records of the schema in force.
"""


@dataclass(frozen=True)
class Batch:
    """Keys, records (None retracts) and sources to append in order, all of them or none.

    ``fresh`` says that the keys were generated for this batch, so that no row can have them yet.

    A row of a key that the dataset has must be in the key's group, if it has an item in ``groups``;
    None names no group. An item in ``default_groups`` is the group of a new key that has none in
    ``groups``, and is ignored for a key that the dataset has.

    ``first_row`` is the number of the first row in messages: a large batch is divided.

    ``schema`` is that of the records. None says that it is the one in force when they are appended.
    """

    keys: Sequence[str]
    records: Sequence[bytes | Amend | None]
    sources: Sequence[str | None]
    fresh: bool = False
    groups: Sequence[str | None] | None = None
    default_groups: Sequence[str | None] | None = None
    first_row: int = 0
    schema: Schema | None = None

    def brought_to(self, schema: Schema) -> Batch:
        """Return the batch with records of the schema in force; raises `DivergenceError`.

        That equals encoding again: what a sample of the older schema leaves out has its default.
        """
        # The same object, unless the schema has changed.
        if self.schema is None or self.schema is schema or self.schema == schema:
            return self
        if self.schema.number >= schema.number:
            raise DivergenceError(
                f"the batch was encoded with schema {self.schema.number} of the dataset, which the "
                f"database no longer has (its newest is {schema.number}): was it restored? Nothing "
                "is stored; write it again"
            )
        projection = schema.projection(self.schema)
        records = [
            projection.forward(record) if isinstance(record, bytes) else record
            for record in self.records
        ]
        return replace(self, records=records, schema=schema)

    def only(self, rows: Sequence[int]) -> Batch:
        """Return the batch of some of the rows, given by their numbers."""

        def some(groups: Sequence[str | None] | None) -> Sequence[str | None] | None:
            return None if groups is None else [groups[row] for row in rows]

        return replace(
            self,
            keys=[self.keys[row] for row in rows],
            records=[self.records[row] for row in rows],
            sources=[self.sources[row] for row in rows],
            groups=some(self.groups),
            default_groups=some(self.default_groups),
        )

    def compared(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield each key with its new record, or with None where that is not known yet."""
        for key, record in zip(self.keys, self.records, strict=True):
            yield key, record if isinstance(record, bytes) else None

    def groups_of_new_keys(self) -> Sequence[str | None] | None:
        """Return the group that each row's key has if it is new; None if none of them has one."""
        groups, defaults = self.groups, self.default_groups
        if groups is not None and defaults is not None:
            pairs = zip(groups, defaults, strict=True)
            groups = [default if group is None else group for group, default in pairs]
        elif groups is None:
            groups = defaults
        return groups if groups is not None and any(groups) else None


@dataclass(frozen=True)
class Report:
    """What an append did, in samples; ``head`` is the dataset's head after it.

    ``inserted`` samples were not live before, ``revised`` ones were, ``retracted`` ones no longer
    are, and ``unchanged`` ones already had the same record.
    """

    inserted: int
    revised: int
    retracted: int
    unchanged: int
    head: Head

    def __add__(self, later: Report) -> Report:
        return Report(
            self.inserted + later.inserted,
            self.revised + later.revised,
            self.retracted + later.retracted,
            self.unchanged + later.unchanged,
            # The end of the log after both; heads do not add up.
            later.head,
        )


Outcome = Report | RegistryError
"""The result of one batch among several: its report, or the error that rejected it."""


@dataclass(frozen=True)
class Plan:
    """The rows that a batch results in, one item per row, and the counts for its report."""

    keys: Sequence[str]
    records: Sequence[bytes | None]
    supersedes: Sequence[int | None]
    sources: Sequence[str | None]
    inserted: int
    revised: int = 0
    retracted: int = 0
    unchanged: int = 0
    groups: Sequence[str | None] | None = None
    """The group of each row's key; None if no row has one."""
    gains: Sequence[int] | None = None
    """The change of the number of live samples by each row; None if each adds one."""

    def report(self, head: Head) -> Report:
        return Report(self.inserted, self.revised, self.retracted, self.unchanged, head)

    def each_group(self) -> Sequence[str | None]:
        """Return an item for each row, also if no row has a group."""
        return [None] * len(self.keys) if self.groups is None else self.groups


def joined(plans: Sequence[Plan]) -> Plan:
    """Return the plan of the rows of several, without the counts of those that are no rows."""
    return Plan(
        [key for plan in plans for key in plan.keys],
        [record for plan in plans for record in plan.records],
        [old for plan in plans for old in plan.supersedes],
        [source for plan in plans for source in plan.sources],
        inserted=sum(plan.inserted for plan in plans),
        retracted=sum(plan.retracted for plan in plans),
        groups=(
            [group for plan in plans for group in plan.each_group()]
            if any(plan.groups is not None for plan in plans)
            else None
        ),
        gains=[gain for plan in plans for gain in plan.gains or [1] * len(plan.keys)],
    )


def resolve(
    batch: Batch,
    known: Mapping[str, Latest],
    position: int,
    schema: Schema,
    read: Callable[[int], bytes] | None = None,
) -> Plan:
    """Compare a batch with the latest revisions of its keys, as if its rows were applied in turn.

    ``known`` has the latest revision of each of the batch's keys that the dataset ever had.
    ``position`` is that of the first row to be written, and ``schema`` that of all records.
    ``read`` returns the record at a position, and is required where the batch amends. Raises
    `SampleNotFoundError` for a key to retract or amend that the dataset never had, and
    `InvalidSampleError` for a key that is in another group.
    """
    # The fast path for new keys. A repeated key must not take it: its second row supersedes the
    # first, and that link would be missing from the log.
    new_groups = batch.groups_of_new_keys()
    if batch.fresh or (not known and _all_new(batch)):
        return _plan_of_new_keys(batch, new_groups)
    latest = dict(known)
    keys: list[str] = []
    records: list[bytes | None] = []
    supersedes: list[int | None] = []
    sources: list[str | None] = []
    groups: list[str | None] = []
    gains: list[int] = []
    counts = {"inserted": 0, "revised": 0, "retracted": 0, "unchanged": 0}
    rows = zip(batch.keys, batch.records, batch.sources, strict=True)
    for row, (key, given, source) in enumerate(rows):
        old = latest.get(key)
        # Before the record is compared: a row that is unchanged must not hide a wrong group.
        if old is not None and batch.groups is not None:
            _check_group(batch.first_row + row, key, old.group, batch.groups[row])
        if callable(given):
            old, record = _amended(key, old, given, schema, read)
        elif old is None and given is None:
            raise SampleNotFoundError(key)
        else:
            record = given
        # `Stored` equals no record: what it represents is known to differ from this one.
        if old is not None and old.record == record:
            counts["unchanged"] += 1
            continue
        alive = old is not None and old.record is not None
        counts["retracted" if record is None else "revised" if alive else "inserted"] += 1
        # Before the key is added to the list, whose length is the offset of this row. Unchanged
        # rows are skipped and take no position.
        # All rows of a key have the group of its first one: the group determines the split.
        group = old.group if old else new_groups[row] if new_groups else None
        latest[key] = Latest(position + len(keys), record, group)
        keys.append(key)
        groups.append(group)
        gains.append((record is not None) - alive)
        records.append(record)
        supersedes.append(old.position if old else None)
        sources.append(source)
    return Plan(
        keys,
        records,
        supersedes,
        sources,
        **counts,
        groups=groups if any(groups) else None,
        gains=gains,
    )


def _plan_of_new_keys(batch: Batch, groups: Sequence[str | None] | None) -> Plan:
    count = len(batch.keys)
    return Plan(
        batch.keys,
        batch.records,  # type: ignore[arg-type]
        [None] * count,
        batch.sources,
        inserted=count,
        groups=groups,
    )


def _check_group(row: int, key: str, old: str | None, new: str | None) -> None:
    if new is None or new == old:
        return
    has = "has no group" if old is None else f"is in group {old!r}"
    raise InvalidSampleError(
        f"the key {has} and cannot move to group {new!r}, which could move it to another split; "
        "leave the group out to keep it, or insert under another key",
        row=row,
        key=key,
    )


def _amended(
    key: str,
    old: Latest | None,
    change: Amend,
    schema: Schema,
    read: Callable[[int], bytes] | None,
) -> tuple[Latest, bytes | None]:
    """Return the key's latest revision with its record read, and the amended record."""
    if old is None:
        raise SampleNotFoundError(key)
    record = old.record
    if isinstance(record, Stored):
        assert read is not None
        record = read(old.position)
    return old._replace(record=record), change(record, schema)


def _all_new(batch: Batch) -> bool:
    return {*map(type, batch.records)} == {bytes} and len({*batch.keys}) == len(batch.keys)
