"""Versions of a dataset: a watermark and the chain value there, with a text form.

``digits@1500:9f86d081884c7d659a2feaa0c55ad015`` names the first 1,500 rows of the log of
``digits``. When it is parsed, the first eight hex digits of the chain are enough.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry.errors import VersionError
from registry.storage.log.reader import Log

NAME = r"\w[\w.-]{0,127}"
"""Pattern of a dataset's name: letters, digits, ``_``, ``.`` and ``-``, at most 128 of them."""


def is_name(value: object) -> bool:
    """Return whether this is a valid name for a dataset or a token."""
    return isinstance(value, str) and re.fullmatch(NAME, value) is not None


@dataclass(frozen=True)
class Version:
    """A dataset as it was at a watermark; ``chain`` is in hex, 8 to 32 digits."""

    name: str
    watermark: int
    chain: str

    def __str__(self) -> str:
        return f"{self.name}@{self.watermark}:{self.chain}"

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """Parse the text form; return None for a plain dataset name.

        Raises `VersionError` for a text with an ``@`` that is not a version.
        """
        # A name has no ``@``, so that a mistyped version is not looked up as a name.
        if not isinstance(text, str) or "@" not in text:
            return None
        # At most 18 digits, so that a watermark fits an int64. A shortened text may end with ``…``.
        match = re.fullmatch(rf"({NAME})@(\d{{1,18}}):([0-9a-f]{{8,32}})…?", text)
        if match is None:
            raise VersionError(
                f"{text!r:.200} is not a dataset version; write name@watermark:chain with 8 to 32 "
                "hex digits of the chain, as `registry show` prints it"
            )
        return cls(match[1], int(match[2]), match[3])


def complete(log: Log, version: Version) -> Version:
    """Return the version with its whole chain value, of which users may give the first digits only.

    Raises `VersionError`, which says what the log has instead, if it does not hold the version.
    """
    chain = log.chain_reached(version.watermark)
    if chain is None:
        raise VersionError(
            f"this database does not hold {version}: {version.name!r} ends at position "
            f"{log.head().position}"
        )
    if not chain.hex().startswith(version.chain):
        raise VersionError(
            f"this database does not hold {version}: the log of {version.name!r} has {chain.hex()} "
            "there, another history"
        )
    return Version(version.name, version.watermark, chain.hex())
