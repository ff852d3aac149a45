"""The user's view of a dataset: insert, revise, read and follow samples, and open runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from copy import copy
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsIndex

from sqlalchemy import Connection, Row

from registry.catalog.describe import describe
from registry.catalog.extent import Extent
from registry.html.card import card_html
from registry.samples.features import Feature, Features
from registry.samples.schema import Schema
from registry.samples.splits import Interval
from registry.storage.database.models import DatasetRow
from registry.storage.log.head import Head
from registry.storage.log.reader import Log
from registry.storage.log.schemas import Schemas
from registry.storage.log.tags import Tag, all_tags, check_tag, delete_tag, set_tag
from registry.storage.log.version import Version

# Loaded when they are first used: most commands, and processes that only write or only train, need
# few of them, and together they take longer to load than all that is above.
if TYPE_CHECKING:
    from registry.catalog.runs import Runs
    from registry.catalog.tables import DatasetTable
    from registry.catalog.verify import Verification
    from registry.catalog.verify_images import BrokenImage
    from registry.catalog.writes import Writes
    from registry.samples.keys import Groups, Keys
    from registry.storage.log.batch import Batch, Outcome, Report
    from registry.storage.log.changes import Change
    from registry.storage.log.entries import Entry, Revision
    from registry.storage.log.erase import Erasure
    from registry.storage.log.inbox import Inbox
    from registry.storage.log.insertions import Data
    from registry.storage.log.page import Page
    from registry.training.conditions import Where
    from registry.training.host_mirror import HostMirror
    from registry.training.mix import Mix
    from registry.training.policy import Policy
    from registry.training.run import Run
    from registry.training.sources import Sources


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
        self.created_at: datetime = row.created_at
        # JSON has no tuples: the stored intervals are lists.
        self.splits: dict[str, Interval] = {n: (a, z) for n, (a, z) in row.splits.items()}
        self._log = log
        self._extent = Extent(log, self.name, *(version or ()))

    @property
    def id(self) -> int:
        """The primary key of the dataset's row; another in each database, unlike the log's uid."""
        return self._log.dataset_id

    @property
    def log(self) -> Log:
        """The log, for other modules of the catalog."""
        return self._log

    @property
    def extent(self) -> Extent:
        """Where the dataset ends, or the version, for other modules of the catalog."""
        return self._extent

    @property
    def schemas(self) -> Schemas:
        """The schemas that the dataset has had, as far as this process knows them."""
        return self._log.schemas

    @property
    def schema(self) -> Schema:
        """The features with their defaults, as this process knows them, or as of the version."""
        return self._extent.schema

    @property
    def features(self) -> Features:
        return self.schema.features

    @property
    def inbox(self) -> Inbox:
        """The rows that tools have inserted by plain SQL and that are not in the log yet.

        Raises `VersionError` at a version.
        """
        self._extent.check_writable()
        return self._log.inbox

    def describe(self, text: str) -> None:
        """Set the description. Raises `FeatureError` for text that databases cannot store."""
        self._extent.check_writable()
        describe(self._log.engine, self._log.dataset_id, text)
        self.description = text

    @property
    def head(self) -> Head:
        """The present end of the log.

        Reading it moves the rows that wait in the inbox into the log first, except at a version.
        """
        return self._extent.head()

    @property
    def version(self) -> Version:
        """The dataset as it is now; its text form can be opened for as long as the log exists."""
        return self._extent.present_version()

    def snapshot(self) -> Dataset:
        """Return the dataset as it is now, which never changes, with the features of now.

        A dataset that is opened at a version is returned itself.
        """
        if self._extent.version is not None:
            return self
        frozen = copy(self)
        frozen._extent = self._extent.frozen()  # noqa: SLF001  # of this class
        return frozen

    def __len__(self) -> int:
        """Return the number of live samples."""
        return self.head.live

    def __repr__(self) -> str:
        return f"<dataset {str(self._extent.version or self.name)!r}>"

    def _repr_html_(self) -> str | None:
        from registry.catalog.cards import dataset_card  # noqa: PLC0415

        return card_html("Dataset", self.name, lambda: dataset_card(self))

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
        return self._writes.insert(data, keys, source, groups)

    def append(self, batch: Batch) -> Report:
        """Append a batch of packed records, by the rules of `insert`."""
        return self._writes.append(batch)

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
        return self._writes.update(key, {**(fields or {}), **named}, source)

    def retract(self, key: str, *, source: str | None = None) -> Report:
        """Remove a sample from all later epochs; pinned epochs keep it.

        Raises `SampleNotFoundError` if the dataset never had the key.
        """
        return self._writes.retract(key, source)

    def apply(self, requests: Sequence[Sequence[Change]]) -> list[Outcome]:
        """Commit requests together in one transaction; return the outcome of each, in order.

        A request is stored as a whole or not at all. If it is not stored, its outcome is its error.
        The heads in all reports are the head after the last request. Rejected rows of the inbox
        that the requests correct are removed, which takes the privileges of a server. Raises
        `DatabaseUnavailableError` if the database cannot be reached.
        """
        return self._writes.apply(requests)

    def amend_together(
        self, prepare: Callable[[Connection], Sequence[Sequence[Change]]]
    ) -> list[Outcome]:
        """Commit the requests that ``prepare`` returns under the head's lock, as `apply` does.

        ``prepare`` may read and write other tables in the same transaction. It is called again if
        the connection was lost, and must then have the same result.
        """
        return self._writes.amend_together(prepare)

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
        return self._writes.alter(change)

    def get(self, key: str) -> dict[str, Any]:
        """Return a live sample's values by feature.

        Raises `SampleNotFoundError` if there is no such sample or it was retracted.
        """
        from registry.catalog import revisions  # noqa: PLC0415

        return revisions.latest_sample(self._log, self._extent, key)

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
        return self._writes.erase(keys, full=full)

    def latest(self, key: str) -> Revision | None:
        """Return the newest revision of a key; None if there is none."""
        from registry.catalog import revisions  # noqa: PLC0415

        return revisions.latest(self._log, self._extent, key)

    def history(self, key: str) -> list[Revision]:
        """Return all revisions of a key, oldest first; an empty list if there is none."""
        from registry.catalog import revisions  # noqa: PLC0415

        return revisions.history(self._log, self._extent, key)

    def entries(self, after: SupportsIndex = 0, until: SupportsIndex | None = None) -> list[Entry]:
        """Return the log's rows at positions ``[after, until)``, without their records."""
        from registry.catalog import revisions  # noqa: PLC0415

        return revisions.entries_between(self._log, *self._extent.range(after, until))

    def pages(
        self, after: SupportsIndex = 0, until: SupportsIndex | None = None
    ) -> Generator[Page]:
        """Yield the log's pages over ``[after, until)``; with None, up to the present head."""
        from registry.storage.log.paging import pages  # noqa: PLC0415

        return pages(self._log, *self._extent.range(after, until))

    def to_arrow(
        self, *, keys: str | None = None, groups: str | None = None, sources: str | None = None
    ) -> Any:
        """Return the live samples as a `pyarrow.Table`, in the order of the log.

        ``keys``, ``groups`` and ``sources`` name columns that take those of the samples. The table
        has the metadata of Hugging Face: ``datasets.Dataset(table)`` has the classes' names and the
        images. To read a dataset that is larger than the memory, give it to any library that reads
        a stream of Arrow, such as ``pyarrow.RecordBatchReader.from_stream(dataset)``.

        Raises `FeatureError` for a name that a feature or another column has, and `ErasedError` if
        samples of the version were erased since.
        """
        from registry.samples import frames  # noqa: PLC0415

        return frames.arrow_table(self._table(keys, groups, sources))

    def to_pandas(
        self, *, keys: str | None = None, groups: str | None = None, sources: str | None = None
    ) -> Any:
        """Return the live samples as a `pandas.DataFrame`; as `to_arrow`.

        Classes with names are a categorical column. Tensors and ragged values are arrays.
        """
        from registry.samples import frames  # noqa: PLC0415

        return frames.pandas_frame(self._table(keys, groups, sources))

    def to_polars(
        self, *, keys: str | None = None, groups: str | None = None, sources: str | None = None
    ) -> Any:
        """Return the live samples as a `polars.DataFrame`; as `to_arrow`.

        Classes with names are a categorical column, and images are binary.
        """
        from registry.samples import frames  # noqa: PLC0415

        return frames.polars_frame(self._table(keys, groups, sources))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the live samples, without keys, as a stream of Arrow, in bounded memory."""
        from registry.samples import frames  # noqa: PLC0415

        reader = frames.arrow_reader(self._table(None, None, None))
        return reader.__arrow_c_stream__(requested_schema)

    def follow(self, after: SupportsIndex = 0) -> Generator[Page]:
        """Yield pages from ``after`` on, without end: at the log's end, wait for the next commit.

        A lost connection is opened again, and no row is skipped or yielded twice.
        """
        from registry.storage.log.following import follow  # noqa: PLC0415

        # A version has no rows after its end to wait for.
        self._extent.check_writable()
        return follow(self._log, self._extent.range(after, None)[0])

    def split_of(self, key: str | None = None, *, group: str | None = None) -> str | None:
        """Return the split of a key, or of a group; None if the dataset has no splits.

        Of a key that the dataset does not have, it is the split that the key would have in
        ``group``, or by itself. A key that the dataset has keeps its own group, whatever ``group``
        is. Raises `InvalidSampleError` unless one of them is given.
        """
        from registry.catalog.split import split_of  # noqa: PLC0415

        return split_of(self._log, self.splits, key, group)

    def verify(self) -> list[Verification]:
        """Compute the chain again from all rows: the database's, and the local mirror's if any.

        Damaged rows of the mirror are first read from the database again.
        """
        from registry.catalog.verify import verify  # noqa: PLC0415

        return verify(self._log, self.head)

    def broken_images(self) -> list[BrokenImage]:
        """Decode all images of the log, also of revised samples; return those that fail.

        Needs Pillow (the extra ``images``) or TensorFlow.
        """
        from registry.catalog.verify_images import broken_images  # noqa: PLC0415

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
        version, live = self._extent.version_at(at)
        return set_tag(self._log, name, version, live, note, move=move)

    def tags(self) -> list[Tag]:
        """Return all tags of the dataset, in the order of their positions."""
        return all_tags(self._log, self.name)

    def untag(self, name: str) -> None:
        """Delete a tag; runs and datasets that were opened by it keep their version.

        Raises `TagError` if there is none of this name.
        """
        self._extent.check_writable()
        delete_tag(self._log, self.name, name)

    def runs(self) -> list[Run]:
        """Open every run, in the alphabetical order of their names."""
        return self._runs.all()

    def find_run(self, name: str) -> Run:
        """Open a training run that exists. Raises `RunNotFoundError` if there is none."""
        return self._runs.find(name)

    def remove_run(self, name: str) -> None:
        """Remove a training run with its epochs, which cannot be replayed any more.

        Its samples stay. Another run of the same name may begin. Processes that have the run open
        get `RunNotFoundError`, as does a call for a run that does not exist.
        """
        self._extent.check_writable()
        self._runs.remove(name)

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
        refresh = where is not None
        runs = self._runs
        return runs.open(runs.request(name, seed, split, policy, where, refresh=refresh))

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
        runs = self._runs
        request = runs.request(name, seed, split, policy, where, refresh=True)
        return runs.balanced(request, by, classes)

    def mirror(self) -> HostMirror:
        """Return this host's mirror, to be brought up to date; `registry mirror` is its command."""
        from registry.training.host_mirror import HostMirror  # noqa: PLC0415

        return HostMirror(self._log, self._sources, self.name, self.find_run)

    def _table(self, keys: str | None, groups: str | None, sources: str | None) -> DatasetTable:
        from registry.catalog.tables import DatasetTable  # noqa: PLC0415

        return DatasetTable.of(self, {"key": keys, "group_key": groups, "source": sources})

    @property
    def _writes(self) -> Writes:
        self._extent.check_writable()
        from registry.catalog.writes import Writes  # noqa: PLC0415

        return Writes(self._log)

    # Shared by all runs, so that a mirror that one run has checked is not checked again.
    @cached_property
    def _sources(self) -> Sources:
        from registry.training.sources import Sources  # noqa: PLC0415

        return Sources(self._log, self.name)

    @property
    def _runs(self) -> Runs:
        from registry.catalog.runs import Runs  # noqa: PLC0415

        return Runs(self._log, self.name, self.splits, self._sources, self._extent)
