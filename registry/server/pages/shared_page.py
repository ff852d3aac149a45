"""A page that is kept for the viewers of the next moments."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import BaseRoute


@dataclass(frozen=True)
class SharedPage:
    """A page with places for what is each viewer's, the dataset that they must be allowed to read.

    ``dataset`` may be the name of a version, ``route`` is the one that made the page.
    """

    text: str
    dataset: str
    route: BaseRoute
