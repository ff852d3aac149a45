"""The user's view of a dataset: insert, revise, read and follow samples, and open runs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, SupportsIndex

from sqlalchemy import Connection, Row

from registry.catalog.describe import describe
from registry.catalog.rename import name_of
from registry.catalog.verify import Verification, verify
from registry.catalog.verify_images import BrokenImage, broken_images
from registry.errors import InvalidSampleError, VersionError
from registry.samples.features import Feature, Features
from registry.samples.keys import Groups, Keys, check_group, check_key, check_source
from registry.samples.schema import Schema
from registry.samples.splits import Interval, buckets, interval
from registry.storage.database.models import DatasetRow
from registry.storage.database.transactions import read
from registry.storage.log import entries
from registry.storage.log.alter import alter
from registry.storage.log.append import amend, append, append_all
from registry.storage.log.batch import Amend, Batch, Outcome, Report
from registry.storage.log.changes import Change, batches, merge
from registry.storage.log.entries import Entry, Revision
from registry.storage.log.erase import Erasure, erase
from registry.storage.log.head import Head
from registry.storage.log.inbox import Inbox
from registry.storage.log.insertions import Data, insertions
from registry.storage.log.live_count import live_count
from registry.storage.log.page import Page
from registry.storage.log.reader import Log, follow, pages
from registry.storage.log.requests import append_requests
from registry.storage.log.schemas import Schemas
from registry.storage.log.tags import Tag, all_tags, check_tag, delete_tag, set_tag
from registry.storage.log.version import Version, complete
from registry.storage.log.writer import Writer, transact_in
from registry.training import run_store
from registry.training.balanced_runs import BalancedRuns
from registry.training.conditions import Where
from registry.training.mirror_source import Sources
from registry.training.mix import Mix, mix
from registry.training.policy import Policy
from registry.training.run import Run
from registry.training.run_request import RunRequest
from registry.training.run_store import RunSettings


class Dataset:
    """A named, growing log of samples. Safe to share between threads.

    A dataset opened at a version (``digits@1500:9f86d081…``, ``digits@gold``) is permanently that
    prefix of the log: reading stops there, and writing raises `VersionError`.
    """

    def __init__(
        self, log: Log, row: Row[DatasetRow], version: tuple[Version, int | None] | None = None
    ) -> None:
        self.name: str = row.name
        """The name when it was opened; a dataset that is renamed stays open."""
        self.description: str = row.description
        self.created_at = row.created_at
        # JSON has no tuples: the stored intervals are lists.
        self.splits: dict[str, Interval] = {n: (a, z) for n, (a, z) in row.splits.items()}
        self._log = log
        # Shared by all runs, so that a mirror that one run has checked is not checked again.
        self._sources = Sources(log, self.name)
        # The number of live samples of a version is read when it is asked for.
        self._version: Version | None = None
        self._live: int | None = None
        if version is not None:
            self._version, self._live = version

    @property
    def id(self) -> int:
        """The primary key of the dataset's row; another in each database, unlike the log's uid."""
        return self._log.dataset_id

    @property
    def schemas(self) -> Schemas:
        """The schemas that the dataset has had, as far as this process knows them."""
        return self._log.schemas

    @property
    def schema(self) -> Schema:
        """The features with their defaults, as this process knows them, or as of the version."""
        if self._version is None or self._version.schema is None:
            return self._log.schemas.newest
        return self._log.schemas.numbered(self._version.schema)

    @property
    def features(self) -> Features:
        return self.schema.features

    @property
    def inbox(self) -> Inbox:
        """The rows that tools have inserted by plain SQL and that are not in the log yet.

        Raises `VersionError` at a version.
        """
        self._check_writable()
        return self._log.inbox

    def describe(self, text: str) -> None:
        """Set the description. Raises `FeatureError` for text that databases cannot store."""
        self._check_writable()
        describe(self._log.engine, self._log.dataset_id, text)
        self.description = text

    @property
    def head(self) -> Head:
        """The present end of the log.

        Reading it moves the rows that wait in the inbox into the log first, except at a version.
        """
        if self._version is None:
            return self._log.head()
        if self._live is None:
            self._live = self._live_at(self._version.watermark)
        chain = bytes.fromhex(self._version.chain)
        return Head(self._version.watermark, self._live, chain, schema=self.schema.number)

    @property
    def version(self) -> Version:
        """The dataset as it is now; its text form can be opened for as long as the log exists."""
        if self._version is not None:
            return self._version
        # One read: the position and the chain of two reads could be those of different commits.
        version = self._version_at(self.head)
        # Read too: nobody could open the version by a name that the dataset had before.
        return replace(version, name=name_of(self._log.engine, self._log.dataset_id))

    def snapshot(self) -> Dataset:
        """Return the dataset as it is now, which never changes, with the features of now.

        A dataset that is opened at a version is returned itself.
        """
        if self._version is not None:
            return self
        head = self.head
        frozen = copy(self)
        frozen._version = self._version_at(head)  # noqa: SLF001  # of this class
        frozen._live = head.live  # noqa: SLF001
        return frozen

    def __len__(self) -> int:
        """Return the number of live samples."""
        return self.head.live

    def __repr__(self) -> str:
        return f"<dataset {str(self._version or self.name)!r}>"

    def insert(
        self,
        data: Data,
        *,
        keys: Keys | None = None,
        source: str | None = None,
        groups: Groups | None = None,
    ) -> Report:
        """Insert samples: a list of them, columns (a value per sample, by feature), or a table.

        A table is a frame of pandas or polars, a table, batch or stream of Arrow, a Hugging Face
        dataset, or any object with ``__arrow_c_stream__``. Its columns are the features.

        ``keys`` are text or whole numbers, which become text: 1 is the key "1". Floats and bools
        are refused. They may be a list, an array, a column or index of any of these libraries, or
        the name of a column that is no feature.

        If the dataset has a key already, its sample is revised, or left unchanged if the new
        record equals the old one byte for byte. So repeating an insert is harmless. A key twice in
        one batch counts as two inserts, one after the other. Without ``keys``, every sample gets a
        unique one.

        ``groups`` has the group of each sample, such as a patient or a video, or None, or is the
        name of a column. All samples of a group are in one split. A key keeps the group of its
        first row: a sample without one here keeps it, and another one is an `InvalidSampleError`.

        A batch is stored as a whole or not at all. One of over 65,536 rows or 64 MiB is divided
        into chunks, and each chunk is stored as a whole or not at all.

        Raises `InvalidSampleError`, before anything is stored, for the first value that does not
        fit its feature. Of a table, the first million rows or 256 MiB are checked before anything
        is stored, then the next; the error's note then has the number of rows that are stored.
        """
        self._check_writable()
        batches = insertions(self._log.schemas, data, keys, source, groups)
        return append_all(self._log.schemas, batches)

    def append(self, batch: Batch) -> Report:
        """Append a batch of packed records, by the rules of `insert`."""
        self._check_writable()
        return append(self._log.schemas, batch)

    def update(
        self,
        key: str,
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        source: str | None = None,
        **named: Any,
    ) -> Report:
        """Revise some features of a live sample, given by name or as a mapping.

        Raises `SampleNotFoundError` if there is no such sample or it was retracted.
        """
        return self._amend(key, merge(key, {**(fields or {}), **named}), source)

    def retract(self, key: str, *, source: str | None = None) -> Report:
        """Remove a sample from all later epochs; pinned epochs keep it.

        Raises `SampleNotFoundError` if the dataset never had the key.
        """
        return self._amend(key, None, source)

    def apply(self, requests: Sequence[Sequence[Change]]) -> list[Outcome]:
        """Commit requests together in one transaction; return the outcome of each, in order.

        A request is stored as a whole or not at all. If it is not stored, its outcome is its error.
        The heads in all reports are the head after the last request. Rejected rows of the inbox
        that the requests correct are removed, which takes the privileges of a server. Raises
        `DatabaseUnavailableError` if the database cannot be reached.
        """
        self._check_writable()
        return append_requests(self._log.schemas, requests)

    def amend_together(
        self, prepare: Callable[[Connection], Sequence[Sequence[Change]]]
    ) -> list[Outcome]:
        """Commit the requests that ``prepare`` returns under the head's lock, as `apply` does.

        ``prepare`` may read and write other tables in the same transaction. It is called again if
        the connection was lost, and must then have the same result.
        """
        self._check_writable()

        # All under the lock: changes that are prepared before it could be based on rows that
        # another writer revises before they are appended.
        def work(writer: Writer) -> list[Outcome]:
            # Read first, so that `schema` is the one in force while ``prepare`` runs.
            schema = writer.schema
            return writer.append(batches(schema, prepare(writer.connection)))

        return transact_in(self._log.schemas, work)

    def add_classes(self, feature: str, classes: Sequence[str] | int) -> Schema:
        """Add classes to a ClassLabel, after those that it has; return the schema.

        ``classes`` are names, or how many if the feature's classes have no names. Samples keep
        their classes. Writers and readers that are open use the new classes without a restart.

        Raises `FeatureError`, and changes nothing, for a class that is there already, and for a
        feature that is no ClassLabel. Classes are never removed or renamed: that takes another
        dataset, which `registry copy --into` fills.
        """
        return self.alter(lambda schema: schema.with_classes(feature, classes))

    def add_feature(self, name: str, feature: Feature, default: Any) -> Schema:
        """Add a feature, after those that there are; return the schema.

        ``default`` is its value in all samples that are there already, and in those that are
        inserted without it. A number is the default of all items of a Tensor. Epochs that are
        pinned already, and versions, keep the features that they have.

        Raises `FeatureError`, and changes nothing, for a name that is there already, and for a
        default that does not fit. Features are never removed or given another type: that takes
        another dataset, which `registry copy --into` fills.
        """
        return self.alter(lambda schema: schema.with_feature(name, feature, default))

    def alter(self, change: Callable[[Schema], Schema]) -> Schema:
        """Change the features in one step: ``change`` makes the next schema from the present one.

        It calls `Schema.with_classes` and `Schema.with_feature`, under the lock on the head, and
        is called again after a lost connection.
        """
        self._check_writable()
        return alter(self._log.schemas, change)

    def get(self, key: str) -> dict[str, Any]:
        """Return a live sample's values by feature.

        Raises `SampleNotFoundError` if there is no such sample or it was retracted.
        """
        revision = self.latest(key)
        if revision is not None and revision.sample is not None:
            return revision.sample
        log = self._log
        raise read(log.engine, entries.missing, log.dataset_id, key, self._end())

    def erase(self, *keys: str, full: bool = False) -> Erasure:
        """Remove all content of samples permanently; mirrors remove it at their next update.

        The rows keep their positions, keys and chain values, and the samples are retracted. Epochs
        that hold them raise `ErasedError` from then on. With ``full``, PostgreSQL rewrites its
        tables, and nobody can read them meanwhile. Backups and WAL archives are not changed, and
        the values can be inserted again.

        The log is changed in transactions of about a thousand rows, between which other writers
        commit. Each transaction empties rows and appends the retractions of their keys. An erasure
        that was interrupted is completed by the same call.

        Raises `SampleNotFoundError`, before anything is erased, for a key that the dataset never
        had.
        """
        self._check_writable()
        return erase(self._log.engine, self._log.dataset_id, keys, full=full)

    def latest(self, key: str) -> Revision | None:
        """Return the newest revision of a key; None if there is none."""
        check_key(key)
        row = read(self._log.engine, entries.latest, self._log.dataset_id, key, self._end())
        return self._revisions([row])[0] if row else None

    def history(self, key: str) -> list[Revision]:
        """Return all revisions of a key, oldest first; an empty list if there is none."""
        check_key(key)
        rows = read(self._log.engine, entries.history, self._log.dataset_id, key, self._end())
        return self._revisions(rows)

    def _revisions(self, rows: Sequence[tuple[Entry, bytes | None]]) -> list[Revision]:
        """Decode rows and their records; all are before the end of the log that was read last."""
        schema = self.schema
        held = [entry.position for entry, record in rows if record is not None]
        stored = [record for _, record in rows if record is not None]
        samples = map(schema.codec.decode_one, self._log.schemas.brought(held, stored, schema))
        return [Revision(entry, None if r is None else next(samples)) for entry, r in rows]

    def entries(self, after: SupportsIndex = 0, until: SupportsIndex | None = None) -> list[Entry]:
        """Return the log's rows at positions ``[after, until)``, without their records."""
        start, stop = self._range(after, until)
        return read(self._log.engine, entries.entries, self._log.dataset_id, start, stop)

    def pages(
        self, after: SupportsIndex = 0, until: SupportsIndex | None = None
    ) -> Generator[Page]:
        """Yield the log's pages over ``[after, until)``; with None, up to the present head."""
        return pages(self._log, *self._range(after, until))

    def follow(self, after: SupportsIndex = 0) -> Generator[Page]:
        """Yield pages from ``after`` on, without end: at the log's end, wait for the next commit.

        A lost connection is opened again, and no row is skipped or yielded twice.
        """
        # A version has no rows after its end to wait for.
        self._check_writable()
        return follow(self._log, self._range(after, None)[0])

    def split_of(self, key: str | None = None, *, group: str | None = None) -> str | None:
        """Return the split of a key, or of a group; None if the dataset has no splits.

        Of a key that the dataset does not have, it is the split that the key would have in
        ``group``, or by itself. A key that the dataset has keeps its own group, whatever ``group``
        is. Raises `InvalidSampleError` unless one of them is given.
        """
        check_group(group)
        bucket = None
        if key is not None:
            check_key(key)
            bucket = read(self._log.engine, entries.bucket_of, self._log.dataset_id, key)
        hashed = key if group is None else group
        if hashed is None:
            raise InvalidSampleError("a split is that of a key or of a group; give one of them")
        if bucket is None:
            bucket = int(buckets([hashed])[0])
        return next((n for n, (start, stop) in self.splits.items() if start <= bucket < stop), None)

    def verify(self) -> list[Verification]:
        """Compute the chain again from all rows: the database's, and the local mirror's if any.

        Damaged rows of the mirror are first read from the database again.
        """
        return verify(self._log, self.head)

    def broken_images(self) -> list[BrokenImage]:
        """Decode all images of the log, also of revised samples; return those that fail.

        Needs Pillow (the extra ``images``) or TensorFlow.
        """
        return broken_images(self._log, self.head.position)

    def tag(
        self,
        name: str,
        *,
        at: SupportsIndex | None = None,
        note: str | None = None,
        move: bool = False,
    ) -> Tag:
        """Name the dataset as it is now, or as it was at position ``at``; ``digits@name`` opens it.

        A dataset that is opened at a version gets the tag there. With ``move``, a tag that points
        to another version is moved, and gets the new note. Runs and datasets that were opened by it
        keep the version that they have. Raises `TagError` if the name is taken or not valid, and
        `VersionError` if the log ends before ``at``.
        """
        check_tag(name, note)
        if at is None:
            head = self.head
            version, live = self._version or self._version_at(head), head.live
        else:
            position = self._position(at)
            version, live = complete(self._log, self.name, position), self._live_at(position)
        return set_tag(self._log, name, version, live, note, move=move)

    def tags(self) -> list[Tag]:
        """Return all tags of the dataset, in the order of their positions."""
        return all_tags(self._log, self.name)

    def untag(self, name: str) -> None:
        """Delete a tag; runs and datasets that were opened by it keep their version.

        Raises `TagError` if there is none of this name.
        """
        self._check_writable()
        delete_tag(self._log, self.name, name)

    def runs(self) -> list[Run]:
        """Open every run, in the alphabetical order of their names."""
        return [
            self._open_run(settings)
            for settings in run_store.all_settings(self._log.engine, self._log.dataset_id)
        ]

    def find_run(self, name: str) -> Run:
        """Open a training run that exists. Raises `RunNotFoundError` if there is none."""
        settings = run_store.find(self._log.engine, self._log.dataset_id, name)
        return self._open_run(settings)

    def remove_run(self, name: str) -> None:
        """Remove a training run with its epochs, which cannot be replayed any more.

        Its samples stay. Another run of the same name may begin. Processes that have the run open
        get `RunNotFoundError`, as does a call for a run that does not exist.
        """
        self._check_writable()
        settings = run_store.find(self._log.engine, self._log.dataset_id, name)
        run_store.remove(self._log.engine, settings)

    def run(
        self,
        name: str,
        *,
        seed: SupportsIndex | None = None,
        split: str | None = None,
        policy: Policy | None = None,
        where: Where | None = None,
    ) -> Run:
        """Open the training run of this name, or create it with these settings.

        ``policy`` determines the samples of each epoch: "all" every live sample, "new" those that
        came since the epoch before (epoch 0 holds all samples so far), `Replay` also some older
        ones. ``where`` has conditions that all samples meet, by feature or for ``"source"``: a list
        of values, one of which a sample has, or a half-open interval ``(from, until)`` of numbers,
        in which None is an open end. The defaults of a new run are seed 0, all splits, policy "all"
        and no conditions. Raises `RunMismatchError` if the run exists with other settings, and
        `FeatureError`, before the run is created, for a condition that no sample can meet.

        All epochs of a run that is created at a version hold the samples of that version; its
        policy is "all". It can be opened from the same version, or from the dataset.
        """
        # Checks the name of the split before the run's row is created.
        interval(self.splits, split)
        if where is not None and self._version is None:
            # A class or a feature may just have been added by another process.
            self._log.schemas.refresh()
        request = RunRequest(
            name, self.features, seed, split, policy, version=self._version, where=where
        )
        settings = run_store.get_or_create(self._log.engine, self._log.dataset_id, request)
        return self._open_run(settings)

    def balanced(
        self,
        name: str,
        *,
        by: str,
        classes: Sequence[str | int] | None = None,
        seed: SupportsIndex | None = None,
        split: str | None = None,
        policy: Policy | None = None,
        where: Where | None = None,
    ) -> Mix:
        """Open the mix of equal shares of each class of ``by``, a ClassLabel, or create it.

        Its parts are runs named ``name/class``, or ``name/index`` if the classes have no names. On
        the first call they are created for all ``classes``, by default all that ``by`` has. Later
        calls return the mix of the runs that exist, though classes were added. Other arguments are
        as in `run`, for all of the runs, and ``seed`` is also that of the mix.

        Raises `EpochError`, before a run is created, for classes that have no sample, and
        `RunMismatchError` if the runs exist with other classes or settings.
        """
        buckets = interval(self.splits, split)
        if self._version is None:
            self._log.schemas.refresh()
        request = RunRequest(
            name, self.features, seed, split, policy, version=self._version, where=where
        )
        runs = BalancedRuns(self._log, self._sources, request, by, buckets)
        opened = [self._open_run(settings) for settings in runs.open(classes, lambda: self.head)]
        return mix([(run, 1) for run in opened], seed=opened[0].seed)

    def _open_run(self, settings: RunSettings) -> Run:
        splits = interval(self.splits, settings.split)
        return Run(self._log, settings, splits, self._sources, self.name)

    def _amend(self, key: str, change: Amend | None, source: str | None) -> Report:
        self._check_writable()
        # `amend` does not check them, and the database's error for a NUL would not name the key.
        check_key(key)
        check_source(source)
        return amend(self._log.schemas, key, change, source)

    def _version_at(self, head: Head) -> Version:
        return Version(self.name, head.position, head.chain.hex(), head.schema)

    def _live_at(self, position: int) -> int:
        return read(self._log.engine, live_count, self._log.dataset_id, position)

    def _range(self, after: SupportsIndex, until: SupportsIndex | None) -> tuple[int, int]:
        """Return the range as integers; raises `VersionError` unless it is within the log."""
        head = self._end()
        start, stop = operator.index(after), head if until is None else operator.index(until)
        if not 0 <= start <= stop <= head:
            raise VersionError(f"{self.name!r} has positions [0, {head}), not [{start}, {stop})")
        return start, stop

    def _position(self, at: SupportsIndex) -> int:
        """Return a position as an integer; raises `VersionError` unless the log reaches it."""
        position, head = operator.index(at), self._end()
        if not 0 <= position <= head:
            raise VersionError(f"{self.name!r} has positions [0, {head}), not {position}")
        return position

    def _end(self) -> int:
        """Return where the log ends, after moving the inbox's rows into it, or the version."""
        # Not `self.head`, which at a version also reads the number of live samples.
        return self._version.watermark if self._version else self._log.head().position

    def _check_writable(self) -> None:
        if self._version is not None:
            raise VersionError(f"{self._version} never changes; open {self.name!r} instead")
