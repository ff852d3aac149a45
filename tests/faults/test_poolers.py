"""PgBouncer in transaction mode with its default settings, in front of PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, text

import registry
from registry.errors import DatabaseError, DatabaseUnavailableError
from registry.storage.database.engine import make_engine
from registry.storage.database.schema import upgrade
from registry.storage.database.transactions import reading
from registry.storage.database.url import parse_url
from tests.support.datasets import FIXED, digit
from tests.support.servers import eventually

pytestmark = pytest.mark.slow
SESSIONS = 3
THREADS = 8


@pytest.fixture
def pooler(postgresql_url: str) -> Iterator[URL]:
    """A pooler with few sessions, which requires TLS and has a self-signed certificate."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    assert Path(program).exists(), "install PgBouncer, as by `apt-get install pgbouncer`"
    server = parse_url(postgresql_url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="registry-pooler-"))
    _write_settings(folder, server, port)
    # PgBouncer refuses to run as root; this user may connect to the server's socket.
    owner = pwd.getpwuid(Path(str(server.query.get("host") or folder)).stat().st_uid)
    command = [program, "-q"]
    if os.getuid() == 0:
        command += ["-u", owner.pw_name]
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    process = subprocess.Popen([*command, str(folder / "settings")], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _answers(port), seconds=20)
        query = {"sslmode": "verify-full", "sslrootcert": str(folder / "certificate")}
        yield URL.create(
            "postgresql",
            username=server.username,
            host="localhost",
            port=port,
            database=server.database,
            query=query,
        )
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _write_settings(folder: Path, server: URL, port: int) -> None:
    certify = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key -out certificate "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(certify.split(), cwd=folder, check=True, capture_output=True)
    (folder / "users").write_text(f'"{server.username}" "{server.password or ""}"\n')
    (folder / "settings").write_text(
        f"[databases]\n* = host={server.query.get('host') or server.host}"
        f" port={server.port or 5432}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\n"
        f"default_pool_size = {SESSIONS}\nclient_tls_sslmode = require\n"
        f"client_tls_key_file = {folder}/key\nclient_tls_cert_file = {folder}/certificate\n"
    )


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_the_registry_works_through_a_pooler_and_leaves_its_sessions_unchanged(
    pooler: URL, postgresql_url: str
) -> None:
    with registry.connect(pooler.render_as_string(hide_password=False)) as reg:
        dataset = reg.create("digits", FIXED)

        def work(name: int) -> None:
            for number in range(20):
                keys = [f"{name}-{number}-{row}" for row in range(10)]
                dataset.insert([digit(row) for row in range(10)], keys=keys)
                assert sum(map(len, dataset.pages())) >= 10 * (number + 1)
            dataset.update(f"{name}-0-0", label=7)

        with ThreadPoolExecutor(THREADS + 1) as pool:
            follower = pool.submit(_follow, dataset, THREADS * 201)
            for done in [pool.submit(work, name) for name in range(THREADS)]:
                done.result()
            assert follower.result(30) == THREADS * 201
        assert len(dataset) == THREADS * 200
        run = dataset.run("r", seed=1)
        assert sum(len(batch["label"]) for batch in run.epoch(0).batches(64)) == len(dataset)
        assert dataset.verify()[0].differs is None
    with psycopg.connect(postgresql_url.replace("+psycopg", "")) as direct:
        idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        assert direct.execute(idle).fetchone() == (0,)
    with psycopg.connect(pooler.render_as_string(hide_password=False)) as pooled:
        for name, value in {"enable_seqscan": "on", "lock_timeout": "0"}.items():
            assert pooled.execute(f"SHOW {name}", prepare=False).fetchone() == (value,)
        assert pooled.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        assert pooled.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (0,)


def _follow(dataset: registry.Dataset, rows: int) -> int:
    count = 0
    for page in dataset.follow():
        count += len(page)
        if count >= rows:
            return count
    raise AssertionError


def test_a_statement_without_an_answer_behind_a_pooler_fails_in_time(pooler: URL) -> None:
    engine = make_engine(pooler, timeout=10)
    since = time.monotonic()
    with pytest.raises(DatabaseUnavailableError, match="nothing came"), reading(engine) as pooled:
        pooled.execute(text("SELECT pg_sleep(60)"))
    assert time.monotonic() - since < 10
    engine.dispose()


def test_migrations_are_rejected_behind_a_pooler(pooler: URL) -> None:
    engine = make_engine(pooler)
    with pytest.raises(DatabaseError, match="migrate by a URL of the server itself"):
        upgrade(engine)
    engine.dispose()


def test_an_unknown_certificate_is_rejected(pooler: URL) -> None:
    wrong = pooler.update_query_dict({"sslrootcert": "system"})
    with pytest.raises(registry.RegistryError, match="certificate"):
        registry.connect(wrong.render_as_string())
