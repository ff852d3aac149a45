"""The built pages of `docs/` in a browser; ``$REGISTRY_TEST_DOCS`` is their folder."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.visitors import Visitor

FOLDER = Path(os.environ.get("REGISTRY_TEST_DOCS", "docs-are-not-built"))
PAGES = sorted(each.relative_to(FOLDER).as_posix() for each in FOLDER.rglob("*.html"))
LOOK = """() => ({
    broken: [...document.images].filter(each => !each.naturalWidth).map(each => each.src),
    links: [...document.querySelectorAll('a[href]')].map(each => each.href),
    ids: [...document.querySelectorAll('[id]')].map(each => each.id),
})"""

pytestmark = pytest.mark.skipif(
    not PAGES, reason="build the pages, and name the folder: REGISTRY_TEST_DOCS=build/docs"
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing: the output is that of the tests."""


@pytest.fixture
def at() -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(FOLDER))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1440, "dark")])
def test_every_page_fits_and_leads_nowhere_in_vain(
    visit: Callable[..., Visitor], at: str, width: int, theme: str
) -> None:
    visitor = visit(at, viewport={"width": width, "height": 900}, color_scheme=theme)
    looks: dict[str, Any] = {}
    for name in PAGES:
        looks[f"/{name}"] = visitor.open(f"/{name}").evaluate(LOOK)
        visitor.fits()
        assert looks[f"/{name}"]["broken"] == [], name
    dead = []
    for name, look in looks.items():
        for link in map(urlsplit, look["links"]):
            if f"{link.scheme}://{link.netloc}" != at:
                continue
            page = looks.get(link.path)
            if page is None:
                missing = not (FOLDER / link.path[1:]).is_file()
            else:
                missing = bool(link.fragment) and link.fragment not in page["ids"]
            dead += [(name, link.geturl())] if missing else []
    assert dead == []


@pytest.mark.parametrize(
    ("words", "title"),
    [("consensus", "Several annotators"), ("install", "Install"), ("GDPR", "Erase a person")],
)
def test_the_search_finds_the_page(
    visit: Callable[..., Visitor], at: str, words: str, title: str
) -> None:
    page = visit(at).open(f"/search.html?q={words}")
    assert page.locator("ul.search li > a").first.inner_text().startswith(title)
