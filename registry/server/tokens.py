"""Access tokens: created, stored as hashes, checked, revoked and rotated.

A token is 256 random bits, so its plain SHA-256 cannot be inverted by trying. A slow hash protects
passwords, which have less entropy; here it would only slow down each request. The timing of the
index lookup reveals nothing to an attacker: similar digests belong to unrelated tokens.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import ColumnElement, Connection, Engine, Row, insert, or_, select, update

from registry.errors import RegistryError
from registry.samples.text import text_problem
from registry.storage.database.models import DatasetRow, TokenRow
from registry.storage.database.retry import PATIENCE
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import read, write
from registry.storage.log.version import is_name

Right = Literal["read", "write"]

PREFIX = "rgy_"
"""Prefix of each token, by which secret scanners recognize it in leaked code."""
MOST_LIFETIME = timedelta(days=36525)
_ROTATED = "~"
"""Separates the name and the id of a rotated token. It is not allowed in the name of a token."""


class TokenError(RegistryError):
    """A token cannot be created, or there is none of the name to revoke or rotate.

    Remedy: correct what the message names; ``registry token ls`` lists the tokens.
    """


@dataclass(frozen=True)
class Token:
    """The stored properties of a token, without its secret.

    ``dataset`` is the one dataset that it grants access to, None for all. The right to write
    includes the right to read. Times are in UTC; ``expires_at`` is None for a token that never
    expires.
    """

    id: int
    name: str
    dataset: str | None
    rights: Right
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def source(self) -> str | None:
        """The source of the inbox rows that belong to the token; None if all rows do.

        It is the token's name, without the name of its dataset at the end, as each dataset needs
        its own token of a tool: ``label-studio`` of ``label-studio.moods``. A token that was
        rotated keeps it. To a token for every dataset, all rows belong.
        """
        if self.dataset is None:
            return None
        return self.name.partition(_ROTATED)[0].removesuffix(f".{self.dataset}")

    def usable(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def opens(self, dataset: str | None, right: Right) -> bool:
        """Return whether the token grants this right on a dataset; None means on every dataset."""
        return self.dataset in (None, dataset) and (self.rights == "write" or right == "read")


def create(
    engine: Engine,
    name: str,
    *,
    dataset: str | None = None,
    rights: Right = "write",
    lifetime: timedelta | None = None,
) -> str:
    """Create a token and return its secret, which is not stored and cannot be shown again.

    Raises `TokenError` for invalid arguments and for a name that is in use.
    """
    if not is_name(name):
        raise TokenError(
            f"token name {name!r:.200}: use 1 to 128 letters, digits, '_', '.' and '-'"
        )
    if rights not in get_args(Right):
        raise TokenError(f"rights {rights!r:.200}: a token may 'read' or 'write'")
    _check_lifetime(lifetime)
    # Outside work(), which is run again after a lost connection: the secret must be the same, so
    # that a token whose commit was not acknowledged is recognized as this one.
    secret = _make_secret()
    expires_at = datetime.now(UTC) + lifetime if lifetime is not None else None
    row = {"name": name, "dataset": dataset, "rights": rights, "expires_at": expires_at}

    def work(connection: Connection) -> None:
        if dataset is not None:
            _check_dataset(connection, dataset)
        inserted = insert_if_new(connection, TokenRow, {**row, "digest": digest(secret)})
        if not inserted and not _is_stored(_row_named(connection, name), secret):
            raise TokenError(f"there is a token named {name!r}; rotate it, or choose another name")

    write(engine, work)
    return secret


def tokens_of(engine: Engine) -> list[Token]:
    """Return every token in order of creation, including revoked and expired ones."""
    query = select(TokenRow).order_by(TokenRow.id)
    rows = read(engine, lambda connection: connection.execute(query).all())
    return [_token(row) for row in rows]


def revoke(engine: Engine, name: str) -> None:
    """Revoke a token and the tokens that it was rotated from; raises `TokenError` for none.

    A running server accepts them until its cache expires.
    """

    def work(connection: Connection) -> None:
        if not _row_named(connection, name):
            raise TokenError(f"no token named {name!r:.200}; `registry token ls` lists them")
        connection.execute(
            update(TokenRow)
            .where(_has_name(name), TokenRow.revoked_at.is_(None))
            .values(revoked_at=datetime.now(UTC))
        )

    write(engine, work)


def rotate(engine: Engine, name: str, *, grace: timedelta) -> str:
    """Return a new secret for a token.

    The old secret remains valid for ``grace``, but not beyond its expiry. The new one has the same
    lifetime as the old one had, from now. Raises `TokenError` if no usable token has the name.
    """
    _check_lifetime(grace)
    # Outside work(), as in create().
    secret, now = _make_secret(), datetime.now(UTC)

    def work(connection: Connection) -> None:
        row = _row_named(connection, name)
        if _is_stored(row, secret):
            return
        if not row or not (old := _token(row)).usable(now):
            raise TokenError(
                f"no token named {name!r:.200} is in use; make one with `token create`"
            )
        lifetime = old.expires_at - old.created_at if old.expires_at else None
        old_expires_at = min(now + grace, old.expires_at) if old.expires_at else now + grace
        # Renamed before the insert: names are unique.
        connection.execute(
            update(TokenRow)
            .where(TokenRow.id == old.id)
            .values(name=f"{name}{_ROTATED}{old.id}", expires_at=old_expires_at)
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


def check(engine: Engine, digest: bytes, timeout: float = PATIENCE) -> Token | None:
    """Return the token with this digest; None if there is none, or it has expired or was revoked.

    ``timeout`` is for how many seconds a transient error is retried.
    """
    query = select(TokenRow).where(TokenRow.digest == digest)
    row = read(engine, lambda connection: connection.execute(query).one_or_none(), patience=timeout)
    token = _token(row) if row is not None else None
    return token if token is not None and token.usable(datetime.now(UTC)) else None


def any_usable(engine: Engine) -> bool:
    """Return whether any token is valid now."""
    now = datetime.now(UTC)
    return any(token.usable(now) for token in tokens_of(engine))


def digest(secret: str) -> bytes:
    """Return the stored form of a secret: its SHA-256, 32 bytes."""
    # surrogatepass: text with a lone surrogate is an unknown token, not an error.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _check_lifetime(lifetime: timedelta | None) -> None:
    """Reject a duration that, added to the present time, would overflow `datetime`."""
    if lifetime is not None and abs(lifetime) > MOST_LIFETIME:
        raise TokenError(
            f"a token lives for {MOST_LIFETIME.days:,} days at most, not {lifetime.days:,}"
        )


def _make_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _has_name(name: str) -> ColumnElement[bool]:
    # autoescape: "_" is allowed in names, and matches any character in LIKE.
    is_rotated = TokenRow.name.startswith(name + _ROTATED, autoescape=True)
    return or_(TokenRow.name == name, is_rotated)


def _row_named(connection: Connection, name: str) -> Row[TokenRow] | None:
    # PostgreSQL would raise an error for text that it cannot store.
    if text_problem(name) is not None:
        return None
    return connection.execute(select(TokenRow).where(TokenRow.name == name)).one_or_none()


def _is_stored(row: Row[TokenRow] | None, secret: str) -> bool:
    """Return whether an earlier attempt committed this secret, but lost the acknowledgement."""
    return row is not None and row.digest == digest(secret)


def _check_dataset(connection: Connection, name: str) -> None:
    query = select(DatasetRow.id).where(DatasetRow.name == name)
    if not is_name(name) or connection.execute(query).first() is None:
        raise TokenError(f"no dataset named {name!r:.200}; `registry ls` lists them")


def _token(row: Row[TokenRow]) -> Token:
    return Token(
        id=row.id,
        name=row.name,
        dataset=row.dataset,
        rights=row.rights,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
