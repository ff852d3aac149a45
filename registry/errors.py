"""The error tree.

::

    RegistryError
    ├── InvalidURLError            a database URL that cannot be used
    ├── SchemaError                the database's tables are not the ones this version needs
    │   ├── SchemaMissingError
    │   ├── SchemaTooOldError
    │   └── SchemaTooNewError
    ├── TransientError             trying again may succeed; appends and reads do so themselves
    │   ├── DatabaseUnavailableError   down, unreachable, or the connection was lost
    │   ├── ConflictError              deadlock, serialization failure
    │   │   └── LockTimeoutError           a lock not had within lock_timeout
    │   └── ReplicaBehindError         a standby has not received yet what the primary has
    ├── DatabaseError              the database refused for another reason
    │   ├── ReadOnlyError
    │   ├── PermissionDeniedError
    │   ├── DiskFullError
    │   ├── EncodingError          a PostgreSQL database that is not UTF8
    │   └── StatementTimeoutError  cancelled by a setting of the database, as statement_timeout
    ├── FeatureError               a feature or split definition that makes no sense
    ├── DatasetNotFoundError
    ├── DatasetExistsError
    ├── DatasetDroppedError        a dataset that was open here and was dropped since
    ├── SampleNotFoundError        no live sample has this key
    ├── InvalidSampleError         a value that does not fit its feature; nothing was stored
    ├── ImportFileError            a file, or a line of it, that cannot be imported
    ├── ExportFileError            a file that cannot be written
    ├── VersionError               a dataset version that this database does not hold
    ├── ImageError                 a stored image that cannot be decoded
    ├── ErasedError                samples that an epoch or version held were erased since
    ├── LogGapError                positions are missing: never returned as a short page
    ├── RunMismatchError           a run of that name exists with other settings
    ├── EpochError                 an epoch that cannot be pinned (yet)
    │   └── RewindError                fewer samples recorded as consumed than are recorded already
    ├── TrainingError              a model, data or arguments that cannot be trained with
    │   └── NotAnArrayError            a run or epoch used as the data itself
    ├── DivergenceError            the database holds another history than was seen before
    └── MirrorError                the local copy cannot be mended from the database

Warnings: `DivergenceWarning` where a local copy was cut back to what the database holds,
`CacheWarning` where there can be none, so that rows come from the database each time,
`ReplicaWarning` where the primary is read from in place of its replica, `FreshModelWarning` where
an untrained model continues a run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RegistryError(Exception):
    """The base of every error that this package raises on purpose."""


class InvalidURLError(RegistryError):
    """A database URL that cannot be used. The message never holds the URL's password."""


class SchemaError(RegistryError):
    """The database's schema is not the one that this version of the package needs."""


class SchemaMissingError(SchemaError):
    """The database holds none of the registry's tables."""


class SchemaTooOldError(SchemaError):
    """The database's schema is older than this version of the package."""


class SchemaTooNewError(SchemaError):
    """The database's schema is newer than this version of the package."""


class TransientError(RegistryError):
    """Trying again may succeed. Appends and reads have already tried for a while."""


class DatabaseUnavailableError(TransientError):
    """The database is down or out of reach, or a connection to it was lost."""


class ConflictError(TransientError):
    """Another transaction was in the way: a deadlock, or a lock not had in time."""


class LockTimeoutError(ConflictError):
    """Another transaction held a lock for longer than ``setting`` allows to wait."""

    def __init__(self, message: str, setting: str = "lock_timeout") -> None:
        super().__init__(message)
        self.setting = setting


class ReplicaBehindError(TransientError):
    """A standby, or a replica, has not received yet what the primary has."""


class DatabaseError(RegistryError):
    """The database refused, and trying again will not help."""


class ReadOnlyError(DatabaseError):
    """A write to a database that can only be read."""


class PermissionDeniedError(DatabaseError):
    """The database's user lacks a right that this operation needs."""


class DiskFullError(DatabaseError):
    """The database has no room left; nothing of the batch was stored."""


class EncodingError(DatabaseError):
    """A PostgreSQL database whose ``encoding`` is not UTF8, which damages keys."""

    remedy = (
        "make one by CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, load a dump of this one "
        "into it, and run `registry doctor` on that"
    )

    def __init__(self, database: str, encoding: str) -> None:
        super().__init__(
            f"database {database!r} has the encoding {encoding}, in which keys would not stay as "
            f"they are given; {self.remedy}"
        )
        self.database = database
        self.encoding = encoding


class StatementTimeoutError(DatabaseError):
    """The database ended a statement or transaction that took longer than ``setting`` allows."""

    def __init__(self, message: str, setting: str = "statement_timeout") -> None:
        super().__init__(message)
        self.setting = setting


class FeatureError(RegistryError):
    """A feature or split definition that makes no sense."""


class DatasetNotFoundError(RegistryError):
    """No dataset has this name."""

    def __init__(self, name: str, existing: Iterable[str]) -> None:
        known = list(existing)
        close = difflib.get_close_matches(name, known, n=1) if known else []
        hint = f"did you mean {close[0]!r}?" if close else "`registry ls` lists them"
        super().__init__(f"no dataset named {name!r:.200}; {hint}")
        self.name = name
        self.suggestion = close[0] if close else None


class DatasetExistsError(RegistryError):
    """A dataset of this name exists already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a dataset named {name!r} exists already; open it or choose another name")
        self.name = name


class DatasetDroppedError(RegistryError):
    """The dataset was dropped after it was opened here."""

    def __init__(self) -> None:
        super().__init__("the dataset was dropped; open the one that you want by name again")


class SampleNotFoundError(RegistryError):
    """No live sample of the dataset has this key."""

    def __init__(self, key: str, why: str = "no sample has this key") -> None:
        super().__init__(f"key {key!r}: {why}")
        self.key = key


class InvalidSampleError(RegistryError):
    """A value that does not fit its feature. Nothing of its batch was stored.

    ``row`` counts from 0 in the batch; ``key`` and ``feature`` are None where the fault lies in
    the row, or the batch, as a whole.
    """

    def __init__(
        self,
        reason: str,
        *,
        row: int | None = None,
        key: str | None = None,
        feature: str | None = None,
    ) -> None:
        facts = (("row", row), ("key", key), ("feature", feature))
        where = ", ".join(f"{name} {value!r}" for name, value in facts if value is not None)
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason = reason
        self.row = row
        self.key = key
        self.feature = feature


class ImportFileError(RegistryError):
    """A file, or a line of it, that cannot be imported. Nothing of its batch was stored.

    ``line`` counts from 1; in a file without lines it counts what ``unit`` says: "row", "record".
    ``stored`` counts the rows of the file that earlier batches stored;
    importing the mended file again leaves them as they are and adds the rest.
    """

    def __init__(
        self,
        reason: str,
        *,
        file: str,
        line: int | None = None,
        key: str | None = None,
        feature: str | None = None,
        unit: str = "line",
    ) -> None:
        facts = ((unit, line), ("key", key), ("feature", feature))
        where = [file, *(f"{name} {value!r}" for name, value in facts if value is not None)]
        super().__init__(f"{', '.join(where)}: {reason}")
        self.reason = reason
        self.file = file
        self.line = line
        self.key = key
        self.feature = feature
        self.unit = unit
        self.stored = 0


class ExportFileError(RegistryError):
    """A file that cannot be written. What was at its path before is still there."""

    def __init__(self, reason: str, *, file: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.reason = reason
        self.file = file


class VersionError(RegistryError):
    """A dataset version (``name@watermark:chain``) that this database does not hold."""


class ImageError(RegistryError):
    """A stored image that cannot be decoded."""

    def __init__(
        self, reason: str, dataset: str, *, position: int, key: str, feature: str | None = None
    ) -> None:
        of = f", feature {feature!r}" if feature is not None else ""
        super().__init__(
            f"dataset {dataset!r}, position {position}, key {key!r}{of}: the image cannot be "
            f"decoded ({reason}); later epochs are without it once the sample is updated or "
            "retracted, and `registry verify --images` finds others"
        )
        self.reason = reason
        self.dataset = dataset
        self.position = position
        self.key = key
        self.feature = feature


class ErasedError(RegistryError):
    """Samples that are asked for were erased: only their places in the log are left.

    ``positions`` and ``keys`` are theirs, one by one.
    """

    def __init__(self, holder: str, samples: Iterable[tuple[int, str]], remedy: str) -> None:
        found = list(samples)
        some = [f"{key!r} at position {position}" for position, key in found[:3]]
        named = ", ".join([*some, "…"] if len(found) > 3 else some)
        count = "a sample" if len(found) == 1 else f"{len(found):,} samples"
        super().__init__(f"{holder} held {count} whose content was erased ({named}); {remedy}")
        self.positions = [position for position, _ in found]
        self.keys = [key for _, key in found]


class LogGapError(RegistryError):
    """Positions are missing from a dataset's log, so a page of it cannot be trusted."""

    def __init__(self, after: int, until: int, found: int) -> None:
        super().__init__(
            f"positions [{after}, {until}) of the log hold {found} rows instead of "
            f"{until - after}: rows were removed behind the registry's back; restore them from "
            "a backup before reading on"
        )
        self.after = after
        self.until = until
        self.found = found


class RunMismatchError(RegistryError):
    """A run of this name exists with another seed, split or policy."""


class EpochError(RegistryError):
    """An epoch that cannot be pinned: the one before is not, or there is no sample to train on."""


class RewindError(EpochError):
    """A run has consumed more samples than are to be recorded.

    ``consumed`` are recorded, ``asked`` were to be.
    """

    def __init__(self, run: str, consumed: int, asked: int) -> None:
        super().__init__(
            f"run {run!r} has consumed {consumed} samples, so recording {asked} would go back; "
            f"record(consumed={asked}, rewind=True) does so, advance(samples) adds to them"
        )
        self.consumed = consumed
        self.asked = asked


class TrainingError(RegistryError, TypeError):
    """A model, data or arguments that cannot be trained with; nothing was pinned or trained."""


class NotAnArrayError(TrainingError, AttributeError):
    """A run or an epoch was used as the data itself, as in ``model.fit(run)``."""


class DivergenceError(RegistryError):
    """The database holds another history than the one that was read, written or trained on."""


class MirrorError(RegistryError):
    """The local copy of a log does not hold what it should, and reading it again did not help.

    Also raised where its files were removed under a dataset that reads them.
    """


class DivergenceWarning(UserWarning):
    """The local copy held rows of another history than the database; they were dropped."""


class CacheWarning(UserWarning):
    """The cache directory cannot be used; rows are read from the database each time."""


class ReplicaWarning(UserWarning):
    """The replica cannot be read from, or lags too far; the primary is read from for a while."""


class FreshModelWarning(UserWarning):
    """A model whose optimizer has made no step continues a run that has been trained on."""
