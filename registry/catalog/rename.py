"""Renaming a dataset, and the tokens that are for it alone.

All that belongs to a dataset refers to its row by id, and mirrors to its uid: samples, runs, tags,
webhooks and the inbox need no change. A token holds the name of its dataset, and usually ends with
it (``label-studio.digits``), as its rows of the inbox are found by the part before.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, Row, bindparam, select, update
from sqlalchemy.exc import IntegrityError

from registry.errors import (
    DatasetDroppedError,
    DatasetExistsError,
    DatasetNotFoundError,
    RenameError,
)
from registry.storage.database.models import NOT_DROPPED, DatasetRow, SampleRow, TokenRow
from registry.storage.database.transactions import read, write
from registry.storage.log.version import is_name

# Built once: the server asks at each request, and building it takes longer than the answer.
_ID = select(DatasetRow.id).where(DatasetRow.name == bindparam("name"))
_ROTATED = "~"
"""Separates the name and the id of a rotated token, as in `server/tokens.py`."""


def rename(engine: Engine, dataset: Row[DatasetRow], name: str) -> dict[str, str]:
    """Rename a dataset; return the new names of its tokens by their old ones.

    Raises `DatasetExistsError` and `RenameError`.
    """
    if name == dataset.name:
        raise DatasetExistsError(name)

    def work(connection: Connection) -> dict[str, str]:
        # FOR NO KEY UPDATE: a tool's open transaction may hold the key of the row for its rows of
        # the inbox, and must not be waited for.
        query = select(DatasetRow.name).where(DatasetRow.id == dataset.id)
        present = connection.execute(query.with_for_update(key_share=True)).scalar_one_or_none()
        # Renamed by an attempt whose answer was lost.
        if present == name:
            return {}
        if present != dataset.name:
            raise DatasetNotFoundError(dataset.name, ())
        renamed = _rename_tokens(connection, dataset.name, name)
        change = update(DatasetRow).where(DatasetRow.id == dataset.id).values(name=name)
        try:
            connection.execute(change)
        except IntegrityError:
            # Not asked before: the unique index decides between concurrent calls.
            raise DatasetExistsError(name) from None
        return renamed

    return write(engine, work)


def name_of(engine: Engine, dataset_id: int) -> str:
    """Read a dataset's present name. Raises `DatasetDroppedError`."""
    query = select(DatasetRow.name).where(DatasetRow.id == dataset_id, NOT_DROPPED)
    name = read(engine, lambda connection: connection.execute(query).scalar_one_or_none())
    if name is None:
        raise DatasetDroppedError
    return name


def id_of(engine: Engine, name: str) -> int | None:
    """Read the primary key of the dataset that has a name now; None if there is none."""
    return read(engine, lambda connection: connection.execute(_ID, {"name": name}).scalar())


def holder_of(engine: Engine, watermark: int, chain: str) -> str | None:
    """Return the name of a dataset whose log has this chain at this position; None for none.

    ``chain`` has the first hex digits of it.
    """
    query = (
        select(DatasetRow.name, SampleRow.chain)
        .join(SampleRow, SampleRow.dataset_id == DatasetRow.id)
        .where(NOT_DROPPED, SampleRow.position == watermark - 1)
        .order_by(DatasetRow.name)
    )
    rows = read(engine, lambda connection: connection.execute(query).all())
    return next((row.name for row in rows if row.chain.hex().startswith(chain)), None)


def _rename_tokens(connection: Connection, old: str, new: str) -> dict[str, str]:
    """Let the tokens of one dataset name be those of another; return the names that change."""
    tokens = connection.execute(select(TokenRow).order_by(TokenRow.id)).all()
    by_name = {token.name: token for token in tokens}
    for token in tokens:
        # Made for an earlier dataset of that name, it would open this one.
        if token.dataset == new and _usable(token):
            raise RenameError(token.name, f"is for a dataset named {new!r}")
    renamed: dict[str, str] = {}
    for token in tokens:
        if token.dataset != old:
            continue
        name = _token_name(token.name, old, new)
        other = by_name.get(name)
        if name != token.name:
            renamed[token.name] = name
        if name != token.name and other is not None:
            if _usable(other):
                raise RenameError(name, f"has the name that {token.name!r} would get")
            # Only a trace of a token: it makes room, named as a rotated one is.
            ended = update(TokenRow).where(TokenRow.id == other.id)
            connection.execute(ended.values(name=f"{name}{_ROTATED}{other.id}"))
        follows = update(TokenRow).where(TokenRow.id == token.id)
        connection.execute(follows.values(name=name, dataset=new))
    return renamed


def _token_name(name: str, old: str, new: str) -> str:
    """Return the name of a token with the new dataset's at its end, if the old one's is there."""
    base, rotated, number = name.partition(_ROTATED)
    if not base.endswith(f".{old}"):
        return name
    renamed = f"{base.removesuffix(old)}{new}"
    if not is_name(renamed):
        raise RenameError(base, f"would be {renamed!r}, which is too long")
    return f"{renamed}{rotated}{number}"


def _usable(token: Row[TokenRow]) -> bool:
    """Return whether a token may be used now."""
    return token.revoked_at is None and (
        token.expires_at is None or datetime.now(UTC) < token.expires_at
    )
