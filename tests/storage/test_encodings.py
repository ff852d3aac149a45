"""Keys are stored as given, whatever the encodings of client and database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, Connection, event, make_url

import registry
from registry.catalog.doctor.examine import examine
from registry.errors import EncodingError
from registry.storage.database.engine import make_engine
from registry.storage.database.schema import upgrade
from registry.storage.log import few_rows
from tests.catalog.test_doctor import findings_of
from tests.support.commands import run
from tests.support.databases import administrator
from tests.support.datasets import FIXED, digit

KEY = "café"
ENCODINGS = ("LATIN1", "EUC_JP", "KOI8R", "SQL_ASCII")


def by_variable(url: URL, monkeypatch: pytest.MonkeyPatch) -> URL:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    return url


def by_options(url: URL, monkeypatch: pytest.MonkeyPatch) -> URL:
    monkeypatch.setenv("PGOPTIONS", "-c client_encoding=LATIN1")
    return url


def by_url(url: URL, _: pytest.MonkeyPatch) -> URL:
    options = {"client_encoding": "latin1", "options": "-c client_encoding=LATIN1"}
    return url.update_query_dict(options)


def by_database(url: URL, _: pytest.MonkeyPatch) -> URL:
    with administrator(url) as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {url.database} SET client_encoding = LATIN1")
    return url


def by_role(url: URL, _: pytest.MonkeyPatch) -> URL:
    with administrator(url) as connection:
        connection.exec_driver_sql(
            f"ALTER ROLE {url.username} IN DATABASE {url.database} SET client_encoding = LATIN1"
        )
    return url


@pytest.mark.parametrize("choose", [by_variable, by_options, by_url, by_database, by_role])
def test_a_client_encoding_does_not_change_keys(
    postgresql_url: str,
    choose: Callable[[URL, pytest.MonkeyPatch], URL],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = choose(make_url(postgresql_url), monkeypatch)
    with registry.connect(url.render_as_string(hide_password=False)) as reg:
        digits = reg.create("digits", FIXED)
        for number in range(3):
            digits.insert([digit(number)], keys=[KEY], source="naïve")
        assert len(digits) == 1
        assert digits.get(KEY)["label"] == 2
        assert {(entry.key, entry.source) for entry in digits.entries()} == {(KEY, "naïve")}
        digits.retract(KEY)
        assert len(digits) == 0


@pytest.fixture(scope="module")
def foreign(server: URL) -> Iterator[Callable[[str], URL]]:
    """Databases of other encodings, without tables."""
    names = {each: f"registry_{each.lower()}_{os.getpid()}" for each in ENCODINGS}
    with administrator(server) as connection:
        for encoding, name in names.items():
            connection.exec_driver_sql(
                f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' "
                "TEMPLATE template0"
            )
    yield lambda encoding: server.set(database=names[encoding])
    with administrator(server) as connection:
        for name in names.values():
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_database_of_another_encoding_is_refused_and_reported(
    foreign: Callable[[str], URL], encoding: str
) -> None:
    url = foreign(encoding)
    text = url.render_as_string(hide_password=False)
    engine = make_engine(url)
    for refused in (lambda: registry.connect(text), lambda: upgrade(engine)):
        with pytest.raises(EncodingError, match=f"encoding {encoding}.*ENCODING 'UTF8'") as caught:
            refused()
        assert (caught.value.encoding, caught.value.database) == (encoding, url.database)
    assert f"encoding {encoding}" in run("init", "--url", text, code=1).stderr
    engine.dispose()
    (finding,) = examine(text)
    assert (finding.severity, finding.subject) == ("error", "encoding")
    assert encoding in finding.said
    assert "ENCODING 'UTF8'" in finding.remedy


def test_alembic_refuses_a_database_of_another_encoding(foreign: Callable[[str], URL]) -> None:
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    url = foreign("LATIN1").render_as_string(hide_password=False)
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"REGISTRY_URL": url},
    )
    assert ran.returncode != 0
    assert "has the encoding LATIN1" in ran.stderr + ran.stdout


def test_keys_damaged_by_a_client_encoding_are_found_with_the_original(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By COPY: a key that is looked up with the lock is damaged as its row is, and so found.
    monkeypatch.setattr(few_rows, "ROWS", 0)
    with registry.connect(postgresql_url) as reg:
        digits = reg.create("digits", FIXED)
        digits.insert([digit(0)] * 3, keys=["plain", "größe", "cafÃ©"])

        @event.listens_for(reg.engine, "begin")
        def damage(connection: Connection) -> None:
            connection.exec_driver_sql("SET LOCAL client_encoding = LATIN1")

        for number in range(2):
            digits.insert([digit(number)], keys=[KEY])
        event.remove(reg.engine, "begin", damage)
        assert [entry.key for entry in digits.entries()[3:]] == ["cafÃ©"] * 2
        (finding,) = findings_of(postgresql_url)
        assert (finding.severity, finding.subject) == ("error", "dataset digits")
        assert finding.said.startswith("2 samples have other keys than were inserted")
        assert "'cafÃ©' at position 3, which was 'café'" in finding.said
        digits.erase("cafÃ©")
    assert findings_of(postgresql_url) == []
