"""Versions of a dataset: a watermark and the chain value there, with a text form.

``digits@1500:9f86d081884c7d659a2feaa0c55ad015`` names the first 1,500 rows of the log of
``digits``. Where a version is opened, the first eight hex digits of the chain are enough; without
them, ``digits@1500``, it is whatever the log has there. ``digits@gold`` is the version that the tag
``gold`` points to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry.errors import VersionError
from registry.storage.log.reader import Log

NAME = r"\w[\w.-]{0,127}"
"""Pattern of a dataset's name: letters, digits, ``_``, ``.`` and ``-``, at most 128 of them."""
REFERENCE = rf"({NAME})@(?:([0-9]{{1,18}})(?::([0-9a-f]{{8,32}})…?)?|({NAME}))"
"""Pattern of a version as users write it. A position has at most 18 digits, to fit an int64."""


def is_name(value: object) -> bool:
    """Return whether this is a valid name for a dataset or a token."""
    return isinstance(value, str) and re.fullmatch(NAME, value) is not None


@dataclass(frozen=True)
class Version:
    """A dataset as it was at a watermark; ``chain`` is in hex, 32 digits.

    ``schema`` is the number of its features' schema, which is known for an opened version.
    """

    name: str
    watermark: int
    chain: str
    schema: int | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.watermark}:{self.chain}"


@dataclass(frozen=True)
class Reference:
    """What a user opens: a dataset, or a version of it by its tag or its watermark.

    ``chain`` has the first hex digits of the chain there, none if the user gave none.
    """

    name: str
    tag: str | None = None
    watermark: int | None = None
    chain: str = ""

    def __str__(self) -> str:
        if self.tag is not None:
            return f"{self.name}@{self.tag}"
        chain = f":{self.chain}" if self.chain else ""
        return self.name if self.watermark is None else f"{self.name}@{self.watermark}{chain}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse the name of a dataset or of a version.

        Raises `VersionError` for a text with an ``@`` that is not a version.
        """
        # A name has no ``@``, so that a mistyped version is not looked up as a name.
        if not isinstance(text, str) or "@" not in text:
            return cls(text)
        # A shortened chain may end with ``…``.
        match = re.fullmatch(REFERENCE, text)
        if match is None:
            raise VersionError(
                f"{text!r:.200} is not a dataset version; write name@tag, name@position, or "
                "name@position:chain with 8 to 32 hex digits of the chain, as `registry show` "
                "prints it"
            )
        name, position, chain, tag = match.groups()
        return cls(name, tag, None if position is None else int(position), chain or "")


def complete(log: Log, name: str, watermark: int, chain: str = "") -> Version:
    """Return the version of a log at a watermark, with its whole chain value.

    ``chain`` has the first hex digits that it must have. Raises `VersionError`, which says what the
    log has instead, if it does not hold the version.
    """
    stored = log.chain_reached(watermark)
    asked = Reference(name, watermark=watermark, chain=chain)
    if stored is None:
        raise VersionError(
            f"this database does not hold {asked}: {name!r} ends at position {log.head().position}"
        )
    if not stored.hex().startswith(chain):
        raise VersionError(
            f"this database does not hold {asked}: the log of {name!r} has {stored.hex()} there, "
            "another history"
        )
    return Version(name, watermark, stored.hex(), log.schemas.before(watermark).number)
