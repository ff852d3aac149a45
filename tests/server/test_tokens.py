"""Tokens: what they open, and how they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, make_url, select, update

from registry import Registry
from registry.errors import DatabaseUnavailableError
from registry.server import tokens
from registry.storage.database.engine import make_engine
from registry.storage.database.models import TokenRow
from registry.storage.database.transactions import write
from tests.support.commands import run


def check(reg: Registry, secret: str) -> tokens.Token | None:
    return tokens.check(reg.engine, tokens.digest(secret))


@pytest.mark.usefixtures("digits")
def test_a_token_opens_what_it_was_made_for(reg: Registry) -> None:
    reads = tokens.create(reg.engine, "reads", dataset="digits", rights="read")
    writes = tokens.create(reg.engine, "writes", lifetime=timedelta(days=1))
    reader, writer = check(reg, reads), check(reg, writes)
    assert reader is not None
    assert writer is not None
    assert reader.opens("digits", "read")
    assert not reader.opens("digits", "write")
    assert not reader.opens("other", "read")
    assert not reader.opens(None, "read")
    assert writer.opens("digits", "write")
    assert writer.opens(None, "read")


def test_only_the_very_secret_is_accepted(reg: Registry) -> None:
    secret = tokens.create(reg.engine, "tool")
    assert check(reg, secret) is not None
    for wrong in ("", secret[:-1], secret.upper(), f"{secret} ", "\udcff"):
        assert check(reg, wrong) is None


def test_a_token_ends_when_it_expires_or_is_revoked(reg: Registry) -> None:
    expiring = tokens.create(reg.engine, "expiring", lifetime=timedelta(days=1))
    revoked = tokens.create(reg.engine, "revoked")
    assert tokens.any_usable(reg.engine)
    past = datetime.now(UTC) - timedelta(seconds=1)
    with reg.engine.begin() as connection:
        connection.execute(
            update(TokenRow).where(TokenRow.name == "expiring").values(expires_at=past)
        )
    assert check(reg, expiring) is None
    tokens.revoke(reg.engine, "revoked")
    assert check(reg, revoked) is None
    assert not tokens.any_usable(reg.engine)


def test_a_rotated_token_is_valid_for_its_grace_period_only(reg: Registry) -> None:
    first = tokens.create(reg.engine, "tool", lifetime=timedelta(hours=2))
    second = tokens.rotate(reg.engine, "tool", grace=timedelta(days=1))
    third = tokens.rotate(reg.engine, "tool", grace=timedelta(0))
    old, without_grace, new = [check(reg, secret) for secret in (first, second, third)]
    assert old is not None
    assert without_grace is None
    assert new is not None
    assert (old.name, new.name) == ("tool~1", "tool")
    # It expires after its two hours, before its grace; the database's clock may differ from ours.
    assert old.expires_at is not None
    assert old.expires_at - old.created_at < timedelta(hours=3)
    assert new.expires_at is not None
    tokens.revoke(reg.engine, "tool")
    assert not any(check(reg, secret) for secret in (first, second, third))


NOON = datetime(2021, 1, 1, 12, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("expires_at", "revoked_at", "usable"),
    [
        (None, None, True),
        (NOON + INSTANT, None, True),
        (NOON, None, False),
        (None, NOON - INSTANT, False),
        (NOON + INSTANT, NOON - INSTANT, False),
    ],
)
def test_a_token_is_usable_before_it_expires(
    expires_at: datetime | None, revoked_at: datetime | None, usable: bool
) -> None:
    token = tokens.Token(1, "tool", None, "read", NOON, expires_at, revoked_at)
    assert token.usable(NOON) == usable


@pytest.fixture
def other_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local time that is 14 hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Etc/GMT-14")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("other_time_zone")
def test_the_times_of_a_token_are_those_of_utc(reg: Registry) -> None:
    tokens.create(reg.engine, "tool", lifetime=timedelta(hours=2))
    tokens.rotate(reg.engine, "tool", grace=timedelta(hours=1))
    tokens.revoke(reg.engine, "tool")
    now = datetime.now(UTC)
    old, new = tokens.tokens_of(reg.engine)
    for moment, hours in (
        (old.expires_at, 1),
        (new.expires_at, 2),
        (old.revoked_at, 0),
        (new.revoked_at, 0),
    ):
        assert moment is not None
        assert abs(moment - now - timedelta(hours=hours)) < timedelta(minutes=10)


@pytest.mark.parametrize("name", ["a", "a_b", "axb", "a_b.c"])
def test_revoking_a_token_leaves_all_others_in_use(reg: Registry, name: str) -> None:
    """A "_" in a name stands for itself, and not for any character, as it does in LIKE."""
    secrets: dict[str, list[str]] = {}
    for each in ("a", "a_b", "axb", "a_b.c"):
        first = tokens.create(reg.engine, each)
        second = tokens.rotate(reg.engine, each, grace=timedelta(days=1))
        secrets[each] = [first, second]
    tokens.revoke(reg.engine, name)
    for each, both in secrets.items():
        assert [check(reg, secret) is None for secret in both] == [each == name] * 2


def test_a_token_that_is_revoked_again_keeps_its_first_time(reg: Registry) -> None:
    tokens.create(reg.engine, "tool")
    tokens.revoke(reg.engine, "tool")
    revoked = tokens.tokens_of(reg.engine)
    tokens.revoke(reg.engine, "tool")
    assert tokens.tokens_of(reg.engine) == revoked


def test_tokens_are_listed_in_order_of_creation(reg: Registry) -> None:
    names = ["c", "a", "b"]
    for name in names:
        tokens.create(reg.engine, name)
    tokens.revoke(reg.engine, "c")  # PostgreSQL stores an updated row at another place
    assert [token.name for token in tokens.tokens_of(reg.engine)] == names


def test_a_token_lives_for_a_century_at_most(reg: Registry) -> None:
    too_long = tokens.MOST_LIFETIME + timedelta(seconds=1)
    tokens.create(reg.engine, "tool", lifetime=tokens.MOST_LIFETIME)
    tokens.rotate(reg.engine, "tool", grace=tokens.MOST_LIFETIME)
    with pytest.raises(tokens.TokenError, match="36,525 days at most"):
        tokens.create(reg.engine, "other", lifetime=too_long)
    with pytest.raises(tokens.TokenError, match="36,525 days at most"):
        tokens.rotate(reg.engine, "tool", grace=too_long)
    assert [token.name for token in tokens.tokens_of(reg.engine)] == ["tool~1", "tool"]


def test_a_token_whose_commit_was_not_acknowledged_is_made_once(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_twice(engine: Engine, work: Callable[[Connection], Any]) -> None:
        write(engine, work)
        write(engine, work)

    monkeypatch.setattr(tokens, "write", write_twice)
    first = tokens.create(reg.engine, "tool")
    second = tokens.rotate(reg.engine, "tool", grace=timedelta(days=1))
    assert [token.name for token in tokens.tokens_of(reg.engine)] == ["tool~1", "tool"]
    assert check(reg, first) is not None
    assert check(reg, second) is not None


def test_a_check_is_retried_within_its_timeout_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    engine = make_engine(make_url("postgresql+psycopg://127.0.0.1:1/registry"))
    with pytest.raises(DatabaseUnavailableError):
        tokens.check(engine, tokens.digest("secret"), timeout=0)
    engine.dispose()


def test_only_hashes_of_tokens_are_stored(reg: Registry) -> None:
    secrets = [tokens.create(reg.engine, "a"), tokens.create(reg.engine, "b")]
    secrets.append(tokens.rotate(reg.engine, "a", grace=timedelta(days=1)))
    with reg.engine.connect() as connection:
        stored = str(connection.execute(select(TokenRow)).all())
    assert not any(secret[8:20] in stored for secret in secrets)
    assert len(set(secrets)) == 3
    assert not any(secret in repr(tokens.tokens_of(reg.engine)) for secret in secrets)


CREATE = ("token", "create", "tool", "--dataset", "digits", "--rights", "read")


@pytest.mark.usefixtures("digits")
def test_a_command_creates_a_token_of_an_unused_name(url: str, reg: Registry) -> None:
    secret = run(*CREATE, "--expires", "90d", url=url).stdout.strip()
    assert check(reg, secret) is not None
    assert run(*CREATE, url=url, code=1).stderr.startswith("error: there is a token named 'tool'")


@pytest.mark.usefixtures("digits")
def test_a_command_rotates_a_token(url: str, reg: Registry) -> None:
    old = run(*CREATE, url=url).stdout.strip()
    new = run("token", "rotate", "tool", "--grace", "1h", url=url).stdout.strip()
    assert check(reg, old) is not None
    assert check(reg, new) is not None
    rows = [line.split() for line in run("token", "ls", url=url).stdout.splitlines()]
    assert [(row[0], row[1], row[2], row[-2:]) for row in rows[1:]] == [
        ("tool~1", "digits", "read", ["in", "use"]),
        ("tool", "digits", "read", ["in", "use"]),
    ]


@pytest.mark.usefixtures("digits")
def test_a_command_revokes_a_token_and_those_it_was_rotated_from(url: str, reg: Registry) -> None:
    old = run(*CREATE, url=url).stdout.strip()
    new = run("token", "rotate", "tool", "--grace", "1h", url=url).stdout.strip()
    assert run("token", "revoke", "tool", url=url).stdout == "tool is revoked\n"
    assert not check(reg, old)
    assert not check(reg, new)
    listed = run("token", "ls", "--json", url=url).stdout
    assert listed.count('"revoked_at": "2') == 2
    assert old not in listed


def test_wrong_arguments_of_token_commands_are_errors(url: str) -> None:
    for arguments, code, reason in [
        (("revoke", "gone"), 1, "no token named 'gone'"),
        (("create", "x", "--dataset", "gone"), 1, "no dataset named 'gone'"),
        (("create", "x", "--expires", "soon"), 2, "is no duration"),
    ]:
        assert reason in run("token", *arguments, url=url, code=code).stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "no token is in use"),
        (["--insecure", "--host", "0.0.0.0"], "would accept every client that reaches 0.0.0.0"),
        (["--insecure", "--host", "::"], "would accept every client that reaches ::"),
    ],
)
def test_a_server_that_would_accept_nobody_or_everybody_does_not_start(
    url: str, options: list[str], reason: str
) -> None:
    assert reason in run("serve", *options, url=url, code=1).stderr
