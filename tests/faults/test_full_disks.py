"""Full disks: a typed error, no partial batch, and success once there is free space."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import URL

import registry
from registry import Dataset, Tensor
from registry.errors import DiskFullError
from registry.storage.database import schema
from registry.storage.database.engine import make_engine
from tests.faults.test_upgrades import check, fill
from tests.support.databases import administrator
from tests.support.figures import Figure, rounds

BATCH = 200
BYTES = 800
NEEDED = 1 << 18
"""Bytes that an upgrade needs, approximately."""
Copies = Callable[[], AbstractContextManager[str]]
"""Yields the URL of a copy of the source database on the small disk."""


class Disk:
    """A small file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def room(self) -> int:
        """The number of free bytes."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def fill(self, room: int) -> None:
        """Leave only ``room`` bytes free."""
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.room - room)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk of 128 MiB; the test is skipped if this user may not mount one."""
    # Not pytest's folder: if root runs the tests, the server runs as another user, who may not
    # enter it.
    folder = Path(tempfile.mkdtemp(prefix="registry-tests-disk-"))
    folder.chmod(0o755)
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "registry-tests", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"needs a user who may mount a file system: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database in turn."""
    kind: str = request.param
    return kind


@pytest.fixture
def source(kind: str, request: pytest.FixtureRequest) -> str:
    """The URL of a database with the schema, on a disk with free space."""
    url: str = request.getfixturevalue(f"{kind}_url")
    return url


@pytest.fixture
def copies(kind: str, source: str, disk: Disk, request: pytest.FixtureRequest) -> Iterator[Copies]:
    """A function that copies the source to the small disk."""
    if kind == "sqlite":
        yield lambda: _file(source, disk)
        return
    with _tablespace(request.getfixturevalue("server"), disk) as tablespace:
        yield lambda: _database(source, tablespace, disk)


@contextmanager
def _file(source: str, disk: Disk) -> Iterator[str]:
    copied = disk.folder / "registry.db"
    shutil.copy(source.removeprefix("sqlite:///"), copied)
    try:
        yield f"sqlite:///{copied}"
    finally:
        for path in disk.folder.glob("registry.db*"):
            path.unlink()


@contextmanager
def _tablespace(server: URL, disk: Disk) -> Iterator[str]:
    name, folder = f"registry_small_{os.getpid()}", disk.folder / "tablespace"
    folder.mkdir()
    with administrator(server) as connection:
        data = Path(str(connection.exec_driver_sql("SHOW data_directory").scalar()))
        if not data.exists():
            pytest.skip(f"needs a server on this machine, which has no {data}")
        os.chown(folder, data.stat().st_uid, data.stat().st_gid)
        connection.exec_driver_sql(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
        try:
            yield name
        finally:
            connection.exec_driver_sql(f"DROP TABLESPACE {name}")


@contextmanager
def _database(source: str, tablespace: str, disk: Disk) -> Iterator[str]:
    url = make_engine(source).url
    name = f"{url.database}_small"
    with administrator(url.set(database="template1")) as connection:
        connection.exec_driver_sql(
            f"CREATE DATABASE {name} TEMPLATE {url.database} TABLESPACE {tablespace}"
        )
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            disk.free()  # the checkpoint that this needs may need space
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def _insert(dataset: Dataset, number: int) -> int:
    """Insert the batch of a number; return how many of its rows are new."""
    x = np.random.default_rng(number).integers(0, 256, (BATCH, BYTES), np.uint8)
    return dataset.insert({"x": x}, keys=[f"{number}-{n}" for n in range(BATCH)]).inserted


@rounds(4, 25)
def test_a_batch_that_does_not_fit_on_the_disk_is_not_stored_and_fits_later(
    kind: str, copies: Copies, disk: Disk, rounds: int, figure: Figure
) -> None:
    rng = random.Random(rounds)
    with copies() as url, registry.connect(url) as reg:
        dataset = reg.create("large", {"x": Tensor("uint8", (BYTES,))})
        batches = 0
        for _ in range(rounds):
            disk.fill(rng.randrange(3 * BATCH * BYTES))
            with pytest.raises(DiskFullError, match="free some space and try again"):  # noqa: PT012
                while True:
                    _insert(dataset, batches)
                    batches += 1
            assert dataset.head.position == len(dataset) == batches * BATCH
            assert sum(map(len, dataset.pages())) == batches * BATCH
            disk.free()
            assert _insert(dataset, batches) == BATCH
            batches += 1
        assert {each.differs for each in dataset.verify()} == {None}
        keys = [entry.key for entry in dataset.entries()]
        assert keys == [f"{number}-{n}" for number in range(batches) for n in range(BATCH)]
    figure(
        f"{kind}: disk full in an insert, {rounds} times",
        "DiskFullError, 0 partial batches, the same batch stored once there was space",
    )


@rounds(3, 40)
def test_an_upgrade_that_does_not_fit_on_the_disk_is_completed_later(
    kind: str, source: str, copies: Copies, disk: Disk, rounds: int, figure: Figure
) -> None:
    rng = random.Random(rounds)
    fill(source, 100)
    full = 0
    for number in range(rounds):
        with copies() as url:
            engine = make_engine(url)
            with ExitStack() as held:  # a server with a full disk may accept no new connection
                for _ in range(5):
                    held.enter_context(engine.connect())
            disk.fill(rng.randrange(1 + NEEDED * number // rounds))
            try:
                schema.upgrade(engine)
            except DiskFullError:
                full += 1
            disk.free()
            schema.upgrade(engine)
            engine.dispose()
            check(url, 101)
    assert full
    figure(
        f"{kind}: disk full in an upgrade, {rounds} times",
        f"DiskFullError in {full}, each completed once there was space",
    )
