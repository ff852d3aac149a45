"""Who uses a mirror, from which databases, and since when nobody does.

Each process that has a mirror open holds a shared lock on its file ``lease`` (`open_folder`).
Removing a mirror needs that lock exclusively, and those of all its other files (`remove_mirror`).
The file ``used`` names the databases that the mirror was read from (`record_use`); the time of its
last modification is that of the last use.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL

from registry.storage.mirror.file_lease import FileLease
from registry.storage.mirror.layout import lock_file
from registry.storage.mirror.state import load_state
from registry.storage.mirror.state_file import read_fields, write_fields

MOST_DATABASES = 8
"""Databases that a mirror's record names, at most: the last ones."""
_TRIES = 100
_PAUSE = 0.02
"""Seconds between two tries to open a mirror that is being removed."""
_UID = re.compile(r"[0-9a-f]{32}")
_REMOVED = re.compile(r"\.removed-[0-9a-f]{32}")


@dataclass(frozen=True)
class MirrorUse:
    """A mirror on this machine; ``databases`` has its dataset's name in each, by their addresses.

    ``rows`` and ``erased`` are what it holds, ``size`` is in bytes, ``used_at`` is in seconds since
    the epoch. ``in_use`` says whether a process has it open.
    """

    folder: Path
    databases: dict[str, str]
    rows: int
    erased: int
    size: int
    used_at: float
    in_use: bool

    @property
    def uid(self) -> str:
        """The uid of the dataset whose log it is."""
        return self.folder.name


def address_of(url: URL) -> str:
    """Return a database's address without its user, password and options."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{os.path.abspath(url.database or '')}"  # noqa: PTH100  # no links
    hosts = url.query.get("host", ())
    host = url.host or (hosts if isinstance(hosts, str) else ",".join(hosts))
    host = host or os.environ.get("PGHOST", "localhost")
    port = url.port or os.environ.get("PGPORT", "5432")
    return f"postgresql://{host}:{port}/{url.database or os.environ.get('PGDATABASE', '')}"


def open_folder(folder: Path) -> FileLease | None:
    """Create a mirror's folder if there is none, and keep others from removing it.

    None if the file system has no locks, or the folder is for reading only.
    """
    for _ in range(_TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        # Being removed: then its name is free within moments.
        with suppress(FileNotFoundError, BlockingIOError):
            return _lease(folder / "lease")
        time.sleep(_PAUSE)
    raise TimeoutError(f"{folder} is being removed by another process")


def _lease(path: Path) -> FileLease | None:
    _create(path)
    try:
        lease = FileLease.lock(path)
    except BlockingIOError:
        raise
    except OSError:
        if path.parent.exists():
            return None
        raise FileNotFoundError(path) from None
    return lease.checked(path)


def _create(path: Path) -> None:
    """Create a file of one byte, unless there is one, or it cannot be written."""
    with suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        # An empty file cannot be mapped, not even between its creation and its first byte.
        os.ftruncate(file, 1)
        os.close(file)


def record_use(folder: Path, url: URL, name: str) -> None:
    """Record that a mirror is used now, for the dataset of this name in a database."""
    path, address = folder / "used", address_of(url)
    with suppress(OSError, ValueError):  # a cache for reading only, or a name that is too long
        databases = (read_fields(path) or {}).get("databases", {})
        if databases.get(address) == name:
            os.utime(path)
            return
        known = {key: value for key, value in databases.items() if key != address}
        last = list(known.items())[1 - MOST_DATABASES :]
        write_fields(path, {"databases": {**dict(last), address: name}})


def mirrors(root: Path) -> Iterator[MirrorUse]:
    """Yield the mirrors in a cache folder, in the order of their names."""
    try:
        folders = sorted(root.iterdir())
    except FileNotFoundError:
        return
    for folder in folders:
        # Nothing else: $REGISTRY_CACHE may be a folder with files of other programs.
        if _UID.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            with suppress(FileNotFoundError):  # removed meanwhile
                if use := _use_of(folder):
                    yield use


def is_mirror(folder: Path) -> bool:
    """Return whether a folder holds a mirror, which may be damaged.

    Others hold a lock of who looked for a mirror, or what is remembered of runs, which outlives one
    (`training/divergence.py`).
    """
    with suppress(FileNotFoundError):
        return any(path.name == "state" or path.name.isdecimal() for path in [*folder.iterdir()])
    return False


def _use_of(folder: Path) -> MirrorUse | None:
    # What was counted of a log is kept with its mirror, and also where there is none.
    if not is_mirror(folder) and not (folder / "statistics").is_dir():
        return None
    state, record = load_state(folder), folder / "used"
    files = list(_files(folder))
    times = [path.stat().st_mtime for path in (record, folder / "state") if path.exists()]
    # Index files: their access time is set whenever an epoch is opened.
    times += [path.stat().st_atime for path in files if path.parent.name == "epochs"]
    fields = read_fields(record)
    return MirrorUse(
        folder,
        {} if fields is None else fields["databases"],
        rows=0 if state is None else state.position,
        erased=0 if state is None else state.erased,
        size=_size_of(files),
        used_at=max(times, default=folder.stat().st_mtime),
        in_use=_is_open(folder),
    )


def _size_of(files: Iterable[Path]) -> int:
    """Return the bytes of files on the disk, of which some may have several names or holes."""
    sizes = {}
    for path in files:
        status = path.stat()
        held = getattr(status, "st_blocks", math.inf) * 512
        sizes[status.st_ino] = int(min(status.st_size, held))
    return sum(sizes.values())


def _is_open(folder: Path) -> bool:
    try:
        with (folder / "lease").open("rb") as file:
            lock_file(file, exclusive=True)
    except BlockingIOError:
        return True
    except OSError:  # made by an earlier version; `remove_mirror` asks for the other locks
        return False
    return False


def remove_mirror(folder: Path, *, with_runs: bool) -> bool:
    """Remove a mirror; return False, and change nothing, if any process uses it.

    What is remembered of runs stays, unless ``with_runs`` is true. Raises `OSError`.
    """
    with ExitStack() as opened:
        _create(folder / "lease")
        for path in _files(folder):
            if path.parent.name == "runs":
                continue  # nobody locks these, and there may be very many
            if path.suffix == ".entries":
                continue  # used with a file of cells; two names may be of one file
            try:
                file = opened.enter_context(path.open("rb"))
                # Also of files that a TensorFlow graph opens by name, and of the writers' lock.
                lock_file(file, exclusive=True)
            except BlockingIOError:
                return False
        removed = folder.with_name(f".removed-{uuid4().hex}")
        # In one step: nobody may find a part of a mirror under its name. Who opens it by name from
        # here on begins another one.
        folder.rename(removed)
    if not with_runs:
        with suppress(OSError):  # there are none
            folder.mkdir(exist_ok=True)
            (removed / "runs").rename(folder / "runs")
        with suppress(OSError):
            folder.rmdir()  # only if it is empty
    shutil.rmtree(removed, ignore_errors=True)
    return True


def remove_rests(root: Path) -> None:
    """Remove what is left of mirrors whose removal was interrupted."""
    with suppress(FileNotFoundError):
        for folder in root.iterdir():
            if _REMOVED.fullmatch(folder.name) and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files of a folder and of those in it, without following links."""
    for path, _, names in os.walk(folder):
        yield from (Path(path, name) for name in names)
