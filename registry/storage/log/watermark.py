"""A watermark: how far a log was read or pinned, and which history of the log that was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

GENESIS = bytes(16)
"""The chain of a log without rows."""


class _End(Protocol):
    @property
    def position(self) -> int: ...

    @property
    def chain(self) -> bytes: ...


@dataclass(frozen=True)
class Watermark:
    """A log's first ``position`` rows; ``chain`` (16 bytes) is the hash of all of them.

    A position alone is not enough: after a restore, the log may have other rows at the same
    positions. Equal watermarks mean equal rows, in whatever database they are stored. The text form
    is the one in messages: ``1500 (9f86d081884c7d659a2feaa0c55ad015)``.
    """

    position: int
    chain: bytes

    @classmethod
    def of(cls, head: _End) -> Self:
        """Return the watermark at a head, or at what else has a position and its chain."""
        return cls(head.position, head.chain)

    def __str__(self) -> str:
        return f"{self.position} ({self.chain.hex()})"
