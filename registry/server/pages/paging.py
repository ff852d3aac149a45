"""Pages of a list in the order of names, of which an address says after which name it begins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar
from urllib.parse import urlencode


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str: ...


Item = TypeVar("Item", bound=Named)


def named_page(
    items: Iterable[Item], after: str, most: int, path: str
) -> tuple[list[Item], str | None]:
    """Return the items of a page, at most ``most``, and the address of the next page, if any."""
    # By Python's order, which `after` is compared by; that of the database may be another.
    following = sorted((each for each in items if each.name > after), key=lambda each: each.name)
    shown = following[:most]
    more = len(following) > len(shown)
    return shown, f"{path}?{urlencode({'after': shown[-1].name})}" if more else None
