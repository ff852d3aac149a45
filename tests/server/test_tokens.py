"""Tokens: whom they let in, and how they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from registry import Registry
from registry.server import tokens
from registry.storage.database.models import TokenRow
from tests.support.commands import run


def opened(reg: Registry, secret: str) -> tokens.Token | None:
    return tokens.check(reg.engine, tokens.digest(secret))


@pytest.mark.usefixtures("digits")
def test_a_token_opens_what_it_was_made_for_until_it_ends(reg: Registry) -> None:
    reads = tokens.create(reg.engine, "reads", dataset="digits", rights="read")
    writes = tokens.create(reg.engine, "writes", lifetime=timedelta(days=1))
    reader, writer = opened(reg, reads), opened(reg, writes)
    assert reader is not None
    assert writer is not None
    assert reader.opens("digits", "read")
    assert not reader.opens("digits", "write")
    assert not reader.opens("other", "read")
    assert not reader.opens(None, "read")
    assert writer.opens("digits", "write")
    assert writer.opens(None, "read")
    for wrong in ("", writes[:-1], writes.upper(), f"{writes} ", "\udcff"):
        assert opened(reg, wrong) is None
    with reg.engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(
            update(TokenRow).where(TokenRow.name == "writes").values(expires_at=past)
        )
    assert opened(reg, writes) is None
    tokens.revoke(reg.engine, "reads")
    assert opened(reg, reads) is None
    assert not tokens.any_usable(reg.engine)


def test_a_rotated_token_stays_good_for_its_grace_and_no_longer(reg: Registry) -> None:
    first = tokens.create(reg.engine, "tool", lifetime=timedelta(hours=2))
    second = tokens.rotate(reg.engine, "tool", grace=timedelta(days=1))
    third = tokens.rotate(reg.engine, "tool", grace=timedelta(0))
    found = [opened(reg, secret) for secret in (first, second, third)]
    assert [token.name if token else None for token in found] == ["tool~1", None, "tool"]
    assert found[0] is not None
    assert found[2] is not None
    # It was to end in two hours, before its grace; the database's clock may differ from ours.
    assert found[0].expires_at is not None
    assert found[0].expires_at - found[0].created_at < timedelta(hours=3)
    assert found[2].expires_at is not None
    tokens.revoke(reg.engine, "tool")
    assert not any(opened(reg, secret) for secret in (first, second, third))


def test_only_hashes_of_tokens_are_stored(reg: Registry) -> None:
    secrets = [tokens.create(reg.engine, "a"), tokens.create(reg.engine, "b")]
    secrets.append(tokens.rotate(reg.engine, "a", grace=timedelta(days=1)))
    with reg.engine.connect() as connection:
        stored = str(connection.execute(select(TokenRow)).all())
    assert not any(secret[8:20] in stored for secret in secrets)
    assert len(set(secrets)) == 3
    assert not any(secret in repr(tokens.tokens_of(reg.engine)) for secret in secrets)


@pytest.mark.usefixtures("digits")
def test_tokens_are_made_listed_rotated_and_revoked_by_commands(url: str, reg: Registry) -> None:
    made = ("token", "create", "tool", "--dataset", "digits", "--rights", "read")
    secret = run(*made, "--expires", "90d", url=url).stdout.strip()
    assert opened(reg, secret) is not None
    assert run(*made, url=url, code=1).stderr.startswith("error: there is a token named 'tool'")
    new = run("token", "rotate", "tool", "--grace", "1h", url=url).stdout.strip()
    rows = [line.split() for line in run("token", "ls", url=url).stdout.splitlines()]
    assert [(row[0], row[1], row[2], row[-2:]) for row in rows[1:]] == [
        ("tool~1", "digits", "read", ["in", "use"]),
        ("tool", "digits", "read", ["in", "use"]),
    ]
    assert run("token", "revoke", "tool", url=url).stdout == "tool is revoked\n"
    assert not opened(reg, secret)
    assert not opened(reg, new)
    listed = run("token", "ls", "--json", url=url).stdout
    assert listed.count('"revoked_at": "2') == 2
    assert secret not in listed
    assert "no token named 'gone'" in run("token", "revoke", "gone", url=url, code=1).stderr
    assert (
        "no dataset named 'gone'"
        in run("token", "create", "x", "--dataset", "gone", url=url, code=1).stderr
    )
    assert (
        "is no duration" in run("token", "create", "x", "--expires", "soon", url=url, code=2).stderr
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "no token is in use"),
        (["--insecure", "--host", "0.0.0.0"], "lets everybody in who reaches 0.0.0.0"),
        (["--insecure", "--host", "::"], "lets everybody in who reaches ::"),
    ],
)
def test_a_server_that_would_let_in_nobody_or_everybody_does_not_start(
    url: str, options: list[str], reason: str
) -> None:
    assert reason in run("serve", *options, url=url, code=1).stderr
