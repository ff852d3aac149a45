"""Tags: names for versions of a dataset, such as the one that a paper describes.

A tag is a row with the position, the chain and the schema of its version. Setting one locks nothing
of the log. The chain is compared with the log whenever a tag is opened, as it is for a version that
is written in full.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.sql import func

from registry.errors import ConflictError, TagError, VersionError
from registry.samples.text import text_problem
from registry.storage.database.models import TagRow
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import read, write
from registry.storage.log.head import refuse_if_dropped
from registry.storage.log.reader import Log
from registry.storage.log.version import Reference, Version, complete, is_name

_LISTED = 20
"""Tags that an error lists."""


@dataclass(frozen=True)
class Tag:
    """A name for a version of a dataset.

    ``created_at``, in UTC, is when the tag was set or moved; ``live`` is the number of samples of
    the version.
    """

    name: str
    version: Version
    created_at: datetime
    note: str
    live: int

    @property
    def position(self) -> int:
        """The position at which the version ends."""
        return self.version.watermark


def check_tag(name: object, note: object = None) -> None:
    """Raise `TagError` unless this can be the name of a tag, and its note."""
    # Not digits alone: ``digits@1500`` is a position.
    if not isinstance(name, str) or not is_name(name) or name.isdigit():
        raise TagError(
            f"{name!r:.200} cannot be a tag; use 1 to 128 letters, digits, '_', '.' and '-', and "
            "not digits alone, which are a position",
            str(name),
        )
    if note is not None and (problem := text_problem(note)):
        raise TagError(f"the note of tag {name!r} {problem}", name)


def set_tag(
    log: Log, name: str, version: Version, live: int, note: str | None, *, move: bool
) -> Tag:
    """Point a tag to a version, whose schema is known; return the tag.

    Raises `TagError` if it points to another version, unless ``move`` is true.
    """
    target = {
        "position": version.watermark,
        "chain": bytes.fromhex(version.chain),
        "schema": version.schema or 0,
    }
    of_name = (TagRow.dataset_id == log.dataset_id, TagRow.name == name)

    def store(connection: Connection) -> Row[TagRow]:
        refuse_if_dropped(connection, log.dataset_id)
        values = {"dataset_id": log.dataset_id, "name": name, "note": note or ""}
        values |= {**target, "live": live}
        if not insert_if_new(connection, TagRow, values):
            # Locked, so that of two concurrent calls without ``move`` one sees the other's tag.
            row = connection.execute(select(TagRow).where(*of_name).with_for_update()).one_or_none()
            if row is None:
                raise ConflictError(f"tag {name!r} was deleted meanwhile; try again")
            if any(getattr(row, column) != value for column, value in target.items()):
                if not move:
                    raise _taken(version, row)
                # The note was on the version that the tag leaves.
                changes = {**target, "live": live, "note": note or "", "created_at": func.now()}
            else:
                changes = {"note": row.note if note is None else note}
            connection.execute(update(TagRow).where(*of_name).values(changes))
        return connection.execute(select(TagRow).where(*of_name)).one()

    return _tag(version.name, write(log.engine, store))


def _taken(version: Version, row: Row[TagRow]) -> TagError:
    other = Version(version.name, row.position, row.chain.hex())
    here = f"position {version.watermark}"
    if row.position == version.watermark:
        here = "the same position with other features"
    return TagError(
        f"tag {row.name!r} of {version.name!r} points to {other}, and not to {here}; move it by "
        "move=True (--move), or choose another name",
        row.name,
    )


def all_tags(log: Log, dataset: str) -> list[Tag]:
    """Read the tags of a dataset, by their positions and then by their names."""
    query = select(TagRow).where(TagRow.dataset_id == log.dataset_id)
    ordered = query.order_by(TagRow.position, TagRow.name)
    rows = read(log.engine, lambda connection: connection.execute(ordered).all())
    return [_tag(dataset, row) for row in rows]


def delete_tag(log: Log, dataset: str, name: str) -> None:
    """Delete a tag; raises `TagError` if there is none of this name."""
    # Before the DELETE, whose count of rows is 0 in the second attempt after a lost answer.
    row = _row(log, dataset, name)
    statement = delete(TagRow).where(TagRow.dataset_id == log.dataset_id, TagRow.name == row.name)
    write(log.engine, lambda connection: connection.execute(statement))


def resolve(log: Log, reference: Reference) -> tuple[Version, int | None] | None:
    """Return the version that a reference names, and its number of live samples if it is known.

    None for a dataset as a whole. Raises `TagError` for an unknown tag, and `VersionError` if the
    log does not hold the version.
    """
    if reference.tag is None:
        if reference.watermark is None:
            return None
        return complete(log, reference.name, reference.watermark, reference.chain), None
    tag = _tag(reference.name, _row(log, reference.name, reference.tag))
    try:
        complete(log, reference.name, tag.position, tag.version.chain)
    except VersionError as error:
        error.add_note(f"tag {tag.name!r} was set there at {tag.created_at:%Y-%m-%d %H:%M} UTC")
        raise
    return tag.version, tag.live


def _row(log: Log, dataset: str, name: str) -> Row[TagRow]:
    """Read a tag's row; raises `TagError`, which lists the tags, if there is none."""
    check_tag(name)
    query = select(TagRow).where(TagRow.dataset_id == log.dataset_id, TagRow.name == name)
    row = read(log.engine, lambda connection: connection.execute(query).one_or_none())
    if row is None:
        names = sorted(tag.name for tag in all_tags(log, dataset))
        raise TagError(f"{dataset!r} has no tag {name!r}; {_hint(dataset, name, names)}", name)
    return row


def _hint(dataset: str, name: str, names: list[str]) -> str:
    if not names:
        return f"it has none; set one by `registry tag {dataset} NAME`"
    listed = ", ".join(map(repr, names[:_LISTED]))
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    close = difflib.get_close_matches(name, names, n=1)
    return f"{f'did you mean {close[0]!r}? ' if close else ''}its tags are {listed}{more}"


def _tag(dataset: str, row: Row[TagRow]) -> Tag:
    version = Version(dataset, row.position, row.chain.hex(), row.schema)
    return Tag(row.name, version, row.created_at, row.note, row.live)
