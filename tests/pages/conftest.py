"""A real browser for the tests of pages: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.support.visitors import Visitor


# Not for the whole session: until Playwright is stopped, its event loop counts as running in this
# thread, and asyncio.run() of other tests would fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, started once for the tests of a module."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium; on Debian, apt-get install chromium")
    # Chromium has no sandbox for root, as whom containers run tests.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """A function that opens a page of a server, in a browser without any cookie.

    At the end, no page may have logged an error, or sent a request to another server.
    """
    with ExitStack() as stack:

        def open_page(at: str, secret: str | None = None, **options: object) -> Visitor:
            context = stack.enter_context(_context(browser, **options))
            visitor = Visitor(context.new_page(), at)
            stack.callback(visitor.check)
            if secret is not None:
                visitor.log_in(secret)
            return visitor

        yield open_page


@contextmanager
def _context(browser: Browser, **options: object) -> Iterator[BrowserContext]:
    context = browser.new_context(**options)  # type: ignore[arg-type]
    # A busy machine must not decide a test.
    context.set_default_timeout(120_000)
    try:
        yield context
    finally:
        context.close()
