"""Tokens: what they open, and how they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from registry import Registry
from registry.server import tokens
from registry.storage.database.models import TokenRow
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
