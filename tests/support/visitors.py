"""Visitors of pages: a browser's page, and what went wrong on it."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Dialog, Page, Request

_REPORTED = ("error", "warning", "trace")
"""Messages of the console that are problems; Plotly warns by ``trace``."""
THEMES = ("light", "dark")
WIDTHS = (390, 1440)
"""CSS pixels of a phone and of a screen."""


class Visitor:
    """A page of a browser at the address of a server.

    It records errors and warnings of the console, dialogs that nobody expected, and requests to
    other servers.
    """

    def __init__(self, page: Page, at: str) -> None:
        self.page = page
        self.at = at
        self.problems: list[str] = []
        self.refused = False
        """Whether an answer of 400 or more is expected, which the console reports as an error."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("request", self._request)
        page.on("dialog", self._dialog)

    def open(self, path: str) -> Page:
        """Open a page, and wait until its scripts have run."""
        self.page.goto(self.at + path)
        self.page.wait_for_load_state("load")
        return self.page

    def log_in(self, secret: str) -> None:
        self.open("/login")
        self.page.get_by_label("Token").fill(secret)
        self.page.get_by_role("button", name="Log in").click()

    def accessible(self) -> None:
        """Check the page by axe's rules, among them WCAG's level AA."""
        violations = Axe().run(self.page).response["violations"]
        serious = [
            f"{each['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for each in violations
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
        assert serious == [], f"{self.page.url}: {serious}"

    def fits(self) -> None:
        """Check that the page is not wider than the window."""
        width: Any = self.page.evaluate("document.documentElement.scrollWidth")
        assert width <= self.page.viewport_size["width"], self.page.url  # type: ignore[index]

    def check(self) -> None:
        assert self.problems == []

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in _REPORTED and not (self.refused and "status of 4" in message.text):
            self.problems.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.at}/", "data:", "blob:")):
            self.problems.append(f"request: {request.url}")

    def _dialog(self, dialog: Dialog) -> None:
        # A script that was injected says alert(); our own pages ask to confirm.
        if dialog.type != "confirm":
            self.problems.append(f"dialog: {dialog.message}")
        dialog.accept()
