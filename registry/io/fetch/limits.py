"""The limits of fetching."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FetchLimits:
    """The limits of one fetch, and of all at a time."""

    seconds: float = 60.0
    """The whole fetch: the wait for its turn, connecting, redirects, repetitions and content."""
    size: int = 64 << 20
    """Bytes of the content."""
    redirects: int = 5
    pauses: tuple[float, ...] = (0.2, 1.0)
    """Seconds before each repetition of a request that failed; a moment later it may succeed."""
    at_a_time: int = 8
    """Fetches at a time; others wait. So contents take ``size * at_a_time`` bytes of memory."""
