"""The errors and warnings that this package raises.

::

    RegistryError
    ├── InvalidURLError            a database URL that cannot be used
    ├── SchemaError                the database's tables are not the ones this version needs
    │   ├── SchemaMissingError
    │   ├── SchemaTooOldError
    │   └── SchemaTooNewError
    ├── TransientError             a retry may succeed; appends and reads have retried already
    │   ├── DatabaseUnavailableError   down, unreachable, or the connection was lost
    │   ├── ConflictError              deadlock, serialization failure
    │   │   └── LockTimeoutError           a lock not acquired within lock_timeout
    │   └── ReplicaBehindError         a standby has not yet received the primary's changes
    ├── DatabaseError              the database rejected the statement; a retry does not help
    │   ├── ReadOnlyError
    │   ├── PermissionDeniedError
    │   ├── DiskFullError
    │   ├── EncodingError          a PostgreSQL database that is not UTF8
    │   └── StatementTimeoutError  cancelled by a database setting, such as statement_timeout
    ├── FeatureError               an invalid feature or split definition
    ├── DatasetNotFoundError
    ├── DatasetExistsError
    ├── RenameError                a dataset's new name would concern another token
    ├── DatasetDroppedError        an open dataset that has been dropped
    ├── SampleNotFoundError        no live sample has this key
    ├── InvalidSampleError         a value that does not fit its feature; no row was stored
    ├── ImportFileError            a file, or a line of it, that cannot be imported
    ├── ExportFileError            a file that cannot be written
    ├── VersionError               a dataset version that this database does not hold
    │   └── TagError                   a tag that is unknown, taken or no valid name
    ├── QueryError                 SQL that is refused, or that fails
    ├── ImageError                 a stored image that cannot be decoded
    ├── ErasedError                samples of an epoch or version have been erased
    ├── LogGapError                the log lacks positions; never returned as a short page
    ├── RunMismatchError           a run of that name exists with different settings
    ├── RunNotFoundError           no run has this name, or it was removed
    ├── EpochError                 an epoch that cannot be pinned, or not yet
    │   ├── RewindError                a consumed count below the recorded one
    │   └── MixPositionError           runs of a mix that were not consumed together
    ├── TrainingError              a model, data or arguments unusable for training
    │   └── NotAnArrayError            a run or epoch passed as if it were the data
    ├── DivergenceError            the database's history differs from the one seen before
    └── MirrorError                the local copy cannot be repaired from the database

Warnings: `DivergenceWarning` when a local copy is truncated to the rows that the database holds,
`CacheWarning` when no local copy can be kept and every read goes to the database, `ReplicaWarning`
when the primary is read instead of its replica, `FreshModelWarning` when an untrained model
continues a run.
Errors carry their facts as attributes, such as `LogGapError.after`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class RegistryError(Exception):
    """Base class of this package's errors; catch it to catch them all.

    An error can be pickled, as a worker process does that returns it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls the class with the message, where ours expect the facts. Then a pool
        # of processes waits for its result and never gets it.
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[RegistryError], args: tuple[Any, ...]) -> RegistryError:
    error: RegistryError = kind.__new__(kind, *args)
    return error


class InvalidURLError(RegistryError):
    """A database URL that cannot be used. The message never contains the URL's password.

    Remedy: write ``postgresql://user@host/database`` or ``sqlite:///path/to/file.db``; the message
    says what is wrong with this one.
    """


class SchemaError(RegistryError):
    """The database's schema revision is not the one that this version of the package needs.

    Remedy: compare the version of the package with the one that last ran ``registry init``.
    """


class SchemaMissingError(SchemaError):
    """The database has no registry tables; `registry init` creates them.

    Remedy: run ``registry init``, or correct the URL.
    """


class SchemaTooOldError(SchemaError):
    """The schema is older than this version of the package; `registry init` upgrades it.

    Remedy: run ``registry init`` as the tables' owner; it does not stop writers.
    """


class SchemaTooNewError(SchemaError):
    """The schema is newer than this version of the package; upgrade the package.

    Remedy: upgrade the package in this environment.
    """


class TransientError(RegistryError):
    """A retry may succeed. Appends and reads have already retried, up to their deadline.

    Remedy: try again later; what was being written is stored whole or not at all, and sending it
    again with the same keys stores nothing twice.
    """


class DatabaseUnavailableError(TransientError):
    """The database is down or unreachable, or a connection to it was lost.

    Remedy: start the database or correct the address; to wait longer, ``connect(timeout=…)``.
    """


class ConflictError(TransientError):
    """A conflict with another transaction: a deadlock, or a lock not acquired in time.

    Remedy: try again; if it repeats, look for a transaction that stays open, in
    ``pg_stat_activity``.
    """


class LockTimeoutError(ConflictError):
    """A lock was not acquired within the time that the database setting ``setting`` allows.

    Remedy: end the transaction that holds the lock, or raise the setting for this role.
    """

    def __init__(self, message: str, setting: str = "lock_timeout") -> None:
        super().__init__(message)
        self.setting = setting


class ReplicaBehindError(TransientError):
    """A standby, or a replica, has not yet received the primary's changes.

    Remedy: wait until the standby has caught up, or connect to the primary.
    """


class DatabaseError(RegistryError):
    """The database rejected the statement, and a retry does not help.

    Remedy: read the message, which is the database's; ``registry doctor`` checks the rest.
    """


class ReadOnlyError(DatabaseError):
    """A write to a read-only database: a standby, or a file without write permission.

    Remedy: connect to the primary, or make the file writable.
    """


class PermissionDeniedError(DatabaseError):
    """The database user lacks a privilege that this operation needs.

    Remedy: have the tables' owner run ``registry grants`` for this role, also after each upgrade.
    """


class DiskFullError(DatabaseError):
    """The database has no disk space left; no row of the batch was stored.

    Remedy: free space on the database's disk, and send the batch again.
    """


class EncodingError(DatabaseError):
    """A PostgreSQL database whose ``encoding`` is not UTF8, so that keys might be altered.

    Remedy: load a dump into a database that was created with ``ENCODING 'UTF8' TEMPLATE
    template0``, and run ``registry doctor`` on that.
    """

    remedy = (
        "create one by CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, load a dump of this "
        "one into it, and run `registry doctor` on that"
    )

    def __init__(self, database: str, encoding: str) -> None:
        super().__init__(
            f"database {database!r} has the encoding {encoding}, which may alter keys; "
            f"{self.remedy}"
        )
        self.database = database
        self.encoding = encoding


class StatementTimeoutError(DatabaseError):
    """The database cancelled a statement or transaction that ran longer than ``setting`` allows.

    Remedy: raise the setting for this role, or ask for fewer rows at a time.
    """

    def __init__(self, message: str, setting: str = "statement_timeout") -> None:
        super().__init__(message)
        self.setting = setting


class FeatureError(RegistryError):
    """An invalid feature or split definition.

    Remedy: correct the definition that the message names.
    """


class DatasetNotFoundError(RegistryError):
    """No dataset has this name; ``suggestion`` is the closest existing name, or None.

    Remedy: use the name that the message suggests, or one of ``registry ls``.
    """

    def __init__(
        self, name: str, existing: Iterable[str], renamed: tuple[str, str] | None = None
    ) -> None:
        """``renamed`` is the name of a dataset that holds the version asked for, and its text."""
        known = list(existing)  # an iterator could be read only once
        close = difflib.get_close_matches(name[:200], known, n=1) if known else []
        base, at, _ = name.partition("@") if known else ("", "", "")
        close = [base] if at and base in known else close
        hint = f"did you mean {close[0]!r}?" if close else "`registry ls` lists them"
        if renamed is not None:
            hint = f"{renamed[0]!r} has this version, as {renamed[1]}: it may have been renamed"
        super().__init__(f"no dataset named {name!r:.200}; {hint}")
        self.name = name
        suggestions = [renamed[0]] if renamed else close
        self.suggestion: str | None = suggestions[0] if suggestions else None


class DatasetExistsError(RegistryError):
    """A dataset of this name already exists.

    Remedy: open it, or choose another name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"a dataset named {name!r} exists already; open it or choose another name")
        self.name = name


class RenameError(RegistryError):
    """A dataset that cannot be renamed, because of the token ``token``; nothing was changed.

    Remedy: revoke the token, or choose another name.
    """

    def __init__(self, token: str, reason: str) -> None:
        super().__init__(
            f"the token {token!r} {reason}: revoke it first (`registry token revoke {token}`), or "
            "choose another name"
        )
        self.token = token


class DatasetDroppedError(RegistryError):
    """The dataset was dropped after this process opened it.

    A new dataset of the same name is another dataset: open it by name.

    Remedy: open by name the dataset that you want.
    """

    def __init__(self) -> None:
        super().__init__("the dataset was dropped; open the one that you want by name again")


class SampleNotFoundError(RegistryError):
    """No live sample of the dataset has this key.

    Remedy: check the key; ``history(key)`` lists the key's revisions.
    """

    def __init__(self, key: str, why: str = "no sample has this key") -> None:
        super().__init__(f"key {key!r}: {why}")
        self.key = key


def _known(**facts: object) -> list[str]:
    """Return the facts that are known, as text."""
    return [f"{name} {value!r}" for name, value in facts.items() if value is not None]


class InvalidSampleError(RegistryError):
    """A value that does not fit its feature. No row of its batch was stored.

    ``row`` counts from 0 within the batch. For a whole row, ``feature`` is None; for a whole
    column, ``row`` and ``key`` are.

    Remedy: correct the value that the message names, and insert the batch again.
    """

    def __init__(
        self,
        reason: str,
        *,
        row: int | None = None,
        key: str | None = None,
        feature: str | None = None,
    ) -> None:
        where = ", ".join(_known(row=row, key=key, feature=feature))
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason = reason
        self.row = row
        self.key = key
        self.feature = feature


class ImportFileError(RegistryError):
    """A file, or a line of it, that cannot be imported. No row of its batch was stored.

    ``line`` counts from 1, in units of ``unit``: "line", or "row" or "record" in a file without
    lines. ``stored`` is the number of the file's rows that earlier batches stored. Importing the
    repaired file again leaves those rows unchanged and adds the rest.

    Remedy: correct the line, and import the file again.
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
        where = ", ".join([file, *_known(**{unit: line}, key=key, feature=feature)])
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.file = file
        self.line = line
        self.key = key
        self.feature = feature
        self.unit = unit
        self.stored = 0

    def of_key(self, key: str | None) -> ImportFileError:
        """Return the error with a key, unless it has one."""
        if key is None or self.key is not None:
            return self
        return ImportFileError(
            self.reason,
            file=self.file,
            line=self.line,
            key=key,
            feature=self.feature,
            unit=self.unit,
        )


class ExportFileError(RegistryError):
    """A file that cannot be written. An earlier file at its path is left unchanged.

    Remedy: choose another path, or make room; the message has the system's reason.
    """

    def __init__(self, reason: str, *, file: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.reason = reason
        self.file = file


class VersionError(RegistryError):
    """A dataset version (``name@watermark:chain``) that is not in this database.

    Remedy: ``registry log`` lists the positions; a version of another copy of the dataset needs
    that database.
    """


class TagError(VersionError):
    """A tag that does not exist, that points to another version, or whose name is not valid.

    Remedy: ``registry tags`` lists the tags; to move one, ``move=True``.
    """

    def __init__(self, message: str, tag: str) -> None:
        super().__init__(message)
        self.tag = tag


class QueryError(RegistryError):
    """A query in SQL that is refused, or that fails; it changes nothing.

    Remedy: write one statement that reads; the message has what the database says of it.
    """


class ImageError(RegistryError):
    """A stored image that cannot be decoded; the attributes locate it in its dataset.

    Remedy: update or retract the sample; ``registry verify --images`` finds others.
    """

    def __init__(
        self, reason: str, dataset: str, *, position: int, key: str, feature: str | None = None
    ) -> None:
        where = ", ".join(_known(dataset=dataset, position=position, key=key, feature=feature))
        super().__init__(
            f"{where}: the image cannot be decoded ({reason}); later epochs are without it once "
            "the sample is updated or retracted, and `registry verify --images` finds others"
        )
        self.reason = reason
        self.dataset = dataset
        self.position = position
        self.key = key
        self.feature = feature


class ErasedError(RegistryError):
    """Requested samples were erased; ``positions`` and ``keys`` list them in the same order.

    For an epoch of a run with conditions, they may be all that were erased since: nobody knows any
    more which of them met the conditions.

    Remedy: read a later epoch or version, which does not have these samples.
    """

    def __init__(
        self, holder: str, samples: Iterable[tuple[int, str]], remedy: str, verb: str = "held"
    ) -> None:
        erased = list(samples)
        some = [f"{key!r} at position {position}" for position, key in erased[:3]]
        named = ", ".join([*some, "…"] if len(erased) > 3 else some)
        count = "a sample" if len(erased) == 1 else f"{len(erased):,} samples"
        super().__init__(f"{holder} {verb} {count} whose content was erased ({named}); {remedy}")
        self.positions: list[int] = [position for position, _ in erased]
        self.keys: list[str] = [key for _, key in erased]


class LogGapError(RegistryError):
    """The log holds only ``found`` rows at the positions ``[after, until)``.

    Raised instead of returning a short page, which would skip samples silently.

    Remedy: stop writing, and restore the rows from a backup; nothing in the registry removes them.
    """

    def __init__(self, after: int, until: int, found: int) -> None:
        super().__init__(
            f"positions [{after}, {until}) of the log hold {found} rows instead of "
            f"{until - after}: rows were removed, and not by the registry; restore them from a "
            "backup before reading on"
        )
        self.after = after
        self.until = until
        self.found = found


class RunNotFoundError(RegistryError):
    """No run of the dataset has this name, or it was removed after this process opened it.

    ``suggestion`` is the closest name of an existing run, or None.

    Remedy: use the name that the message suggests, or one of ``registry run ls``.
    """

    def __init__(self, name: str, existing: Iterable[str] | None) -> None:
        """Without the names of existing runs, the run is one that was removed."""
        close = difflib.get_close_matches(name, list(existing or ()), n=1)
        if existing is None:
            message = f"run {name!r} was removed; open a run of this name again to begin a new one"
        else:
            hint = f"did you mean {close[0]!r}?" if close else "`registry run ls` lists them"
            message = f"no run named {name!r:.200}; {hint}"
        super().__init__(message)
        self.name = name
        self.suggestion: str | None = close[0] if close else None


class RunMismatchError(RegistryError):
    """A run of this name exists with a different seed, split, policy or conditions.

    Remedy: open the run with its own settings, or take another name.
    """


class EpochError(RegistryError):
    """An epoch that cannot be pinned: the previous one is not pinned, or there are no samples.

    Remedy: begin the epochs in order; where there are no samples, insert some or wait with a
    ``timeout``.
    """


class RewindError(EpochError):
    """A consumed count, ``asked``, lower than ``consumed``, which a run or a mix has recorded.

    Remedy: ``advance(samples)`` adds to the count; ``rewind=True`` goes back on purpose.
    """

    def __init__(self, holder: str, consumed: int, asked: int) -> None:
        super().__init__(
            f"{holder} has consumed {consumed} samples, so recording {asked} would go back; "
            f"record(consumed={asked}, rewind=True) does so, advance(samples) adds to them"
        )
        self.consumed = consumed
        self.asked = asked


class OffsetError(EpochError, IndexError):
    """An epoch has no sample at this offset; `IndexError` is what ends a loop over a sequence.

    Remedy: give an offset below ``len(epoch)``.
    """


class MixPositionError(EpochError):
    """The runs of a mix have consumed numbers of samples that no position of the mix has.

    ``consumed`` has the number of each run, ``reached`` is the last position that all have reached.

    Remedy: ``mix.record(error.reached, rewind=True)``, or take runs of other names.
    """

    def __init__(self, mix: str, consumed: Sequence[tuple[str, int]], reached: int) -> None:
        counts = [f"{count} by {run}" for run, count in consumed]
        named = ", ".join([*counts[:5], *([f"… ({len(counts)} runs)"] if len(counts) > 5 else [])])
        super().__init__(
            f"{mix}: no position has the samples that its runs have consumed, {named}. A run was "
            "trained on alone, or in a mix with other weights or another seed; take runs of other "
            "names, or go back to the last position that all have reached: "
            f"mix.record({reached}, rewind=True)"
        )
        self.consumed: list[int] = [count for _, count in consumed]
        self.reached = reached


class TrainingError(RegistryError, TypeError):
    """A model, data or arguments unusable for training; no epoch was pinned or trained on.

    Remedy: correct what the message names; then call again.
    """


class NotAnArrayError(TrainingError, AttributeError):
    """A run or an epoch was passed as if it were the data, as in ``model.fit(run)``.

    Remedy: pass ``EpochDataset(epoch, …)`` or ``StreamDataset(run, …)``, or call
    ``registry.keras.fit``.
    """

    # Also an AttributeError, so that ``hasattr(run, "shape")`` is False.


class DivergenceError(RegistryError):
    """The database's history differs from the one that was read, written or trained on.

    Remedy: find out which database is right: restore the newer one, or begin a run of another name
    on this one.
    """


class MirrorError(RegistryError):
    """The local copy of a log cannot be repaired, or was removed while a dataset read it.

    Remedy: check the disk, or point ``$REGISTRY_CACHE`` elsewhere; the mirror is filled again.
    """


class DivergenceWarning(UserWarning):
    """The local copy held rows of a history that the database does not have; it dropped them.

    Remedy: find out whether the database was restored from an older backup on purpose.
    """


class CacheWarning(UserWarning):
    """The cache directory cannot be used; every read goes to the database.

    Remedy: point ``$REGISTRY_CACHE`` to a local directory with room.
    """


class ReplicaWarning(UserWarning):
    """The replica is unreachable or lags too far; reads go to the primary for a while.

    Remedy: start the replica, or wait until it has caught up; to stop instead, make the warning an
    error.
    """


class FreshModelWarning(UserWarning):
    """A model whose optimizer has made no step continues a run that already has progress.

    Remedy: load the model's weights, or begin with ``initial_epoch=0``; the message says both.
    """
