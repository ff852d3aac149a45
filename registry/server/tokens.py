"""Access tokens: made once, kept only as hashes, expiring, revoked and rotated.

A token is 256 random bits, so a plain SHA-256 of it cannot be searched backwards; a slow hash
guards passwords, which are short, and would only slow every request down. Looking a digest up in
an index tells an attacker nothing by its timing: nearby digests belong to unrelated tokens.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, Engine, Row, insert, or_, select, update

from registry.errors import RegistryError
from registry.samples.text import fault
from registry.storage.database.models import DatasetRow, TokenRow
from registry.storage.database.retry import PATIENCE
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import read, write
from registry.storage.log.entries import utc
from registry.storage.log.version import is_name

Right = Literal["read", "write"]

PREFIX = "rgy_"
"""What a token begins with, so that tools which search code for leaked secrets can know it."""
LONGEST_LIFE = timedelta(days=36525)
_RETIRED = "~"
"""Stands in a rotated token's old name, and so in no name that is given."""


class TokenError(RegistryError):
    """A token that cannot be made, or is not there to be revoked or rotated."""


@dataclass(frozen=True)
class Token:
    """What is known of a token: whom it is for and what it opens; never the token itself.

    ``dataset`` is the one dataset that it opens, None for all; a token that may write may read
    too. Times are in UTC; ``expires_at`` is None for one that does not expire by itself.
    """

    id: int
    name: str
    dataset: str | None
    rights: Right
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def usable(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def opens(self, dataset: str | None, right: Right) -> bool:
        """Tell whether this right on a dataset, or on all of them, comes with the token."""
        return self.dataset in (None, dataset) and (self.rights == "write" or right == "read")


def create(
    engine: Engine,
    name: str,
    *,
    dataset: str | None = None,
    rights: Right = "write",
    lifetime: timedelta | None = None,
) -> str:
    """Make a token and return its secret, which is not kept and cannot be shown again."""
    if not is_name(name):
        raise TokenError(
            f"token name {name!r:.200}: use 1 to 128 letters, digits, '_', '.' and '-'"
        )
    if rights not in get_args(Right):
        raise TokenError(f"rights {rights!r:.200}: a token may 'read' or 'write'")
    _check_life(lifetime)
    secret = _secret()
    expires = datetime.now(UTC) + lifetime if lifetime is not None else None
    row = {"name": name, "dataset": dataset, "rights": rights, "expires_at": expires}

    def work(connection: Connection) -> None:
        if dataset is not None:
            _check_dataset(connection, dataset)
        inserted = insert_if_new(connection, TokenRow, {**row, "digest": digest(secret)})
        if not inserted and not _is_kept(_present(connection, name), secret):
            raise TokenError(f"there is a token named {name!r}; rotate it, or choose another name")

    write(engine, work)
    return secret


def tokens_of(engine: Engine) -> list[Token]:
    """Return every token in the order of making, those revoked and expired too."""
    query = select(TokenRow).order_by(TokenRow.id)
    return [_token(row) for row in read(engine, lambda c: c.execute(query).all())]


def revoke(engine: Engine, name: str) -> None:
    """Make a token, and what is left of those that it was rotated from, useless at once."""

    def work(connection: Connection) -> None:
        if not _present(connection, name):
            raise TokenError(f"no token named {name!r:.200}; `registry token ls` lists them")
        connection.execute(
            update(TokenRow)
            .where(_named(name), TokenRow.revoked_at.is_(None))
            .values(revoked_at=datetime.now(UTC))
        )

    write(engine, work)


def rotate(engine: Engine, name: str, *, grace: timedelta) -> str:
    """Return a new secret for a token; the old one stays good for ``grace``, not beyond its expiry.

    The new one lives as long, from now, as the old one did from its making.
    """
    _check_life(grace)
    secret, now = _secret(), datetime.now(UTC)

    def work(connection: Connection) -> None:
        row = _present(connection, name)
        if _is_kept(row, secret):
            return
        if not row or not (old := _token(row)).usable(now):
            raise TokenError(
                f"no token named {name!r:.200} is in use; make one with `token create`"
            )
        lifetime = old.expires_at - old.created_at if old.expires_at else None
        until = min(now + grace, old.expires_at) if old.expires_at else now + grace
        connection.execute(
            update(TokenRow)
            .where(TokenRow.id == old.id)
            .values(name=f"{name}{_RETIRED}{old.id}", expires_at=until)
        )
        connection.execute(
            insert(TokenRow).values(
                name=name,
                digest=digest(secret),
                dataset=old.dataset,
                rights=old.rights,
                expires_at=now + lifetime if lifetime is not None else None,
            )
        )

    write(engine, work)
    return secret


def check(engine: Engine, digest: bytes, patience: float = PATIENCE) -> Token | None:
    """Return the token with this digest; None if there is none, or it expired or was revoked."""
    query = select(TokenRow).where(TokenRow.digest == digest)
    row = read(engine, lambda c: c.execute(query).one_or_none(), patience)
    found = _token(row) if row is not None else None
    return found if found is not None and found.usable(datetime.now(UTC)) else None


def any_usable(engine: Engine) -> bool:
    """Tell whether any token would be let in now."""
    now = datetime.now(UTC)
    return any(token.usable(now) for token in tokens_of(engine))


def digest(secret: str) -> bytes:
    """Return all that is kept of a token's secret: 32 bytes."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _check_life(life: timedelta | None) -> None:
    """Refuse what the calendar has no end for."""
    if life is not None and abs(life) > LONGEST_LIFE:
        raise TokenError(f"a token lives for {LONGEST_LIFE.days:,} days at most, not {life.days:,}")


def _secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _named(name: str) -> ColumnElement[bool]:
    retired = TokenRow.name.startswith(name + _RETIRED, autoescape=True)
    return or_(TokenRow.name == name, retired)


def _present(connection: Connection, name: str) -> Row[Any] | None:
    if fault(name) is not None:
        return None
    return connection.execute(select(TokenRow).where(TokenRow.name == name)).one_or_none()


def _is_kept(row: Row[Any] | None, secret: str) -> bool:
    """Tell whether a token has this new secret, after a commit whose answer was lost."""
    return row is not None and row._mapping["digest"] == digest(secret)  # noqa: SLF001  # as below


def _check_dataset(connection: Connection, name: str) -> None:
    found = select(DatasetRow.id).where(DatasetRow.name == name)
    if not is_name(name) or connection.execute(found).first() is None:
        raise TokenError(f"no dataset named {name!r:.200}; `registry ls` lists them")


def _token(row: Row[Any]) -> Token:
    found = row._mapping  # noqa: SLF001  # SQLAlchemy's documented name for it
    return Token(
        found["id"],
        found["name"],
        found["dataset"],
        found["rights"],
        utc(found["created_at"]),
        utc(found["expires_at"]) if found["expires_at"] else None,
        utc(found["revoked_at"]) if found["revoked_at"] else None,
    )
