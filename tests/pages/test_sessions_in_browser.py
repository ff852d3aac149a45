"""Sessions as a browser keeps them, and what pages of other sites can do with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import itsdangerous
import pytest
from playwright.sync_api import Browser, Page

import registry
from registry import Dataset, Registry
from registry.server import tokens
from tests.support.datasets import FIXED, digit
from tests.support.media_servers import media_server, status
from tests.support.page_clients import reject
from tests.support.servers import serving
from tests.support.visitors import THEMES, Visitor

REJECTED = "/datasets/digits/rejected"
PATHS = (
    "",
    "@gold",
    "/samples",
    "/samples/secret-key",
    "/images/0/image",
    "/runs",
    "/runs/secret-run",
    "/rejected",
)


@pytest.fixture
def reg(sqlite_url: str) -> Iterator[Registry]:
    with registry.connect(sqlite_url) as opened:
        for name in ("digits", "other"):
            dataset = opened.create(name, FIXED)
            dataset.insert([digit(number) for number in range(3)])
            dataset.insert([digit(3)], keys=["secret-key"], source="secret-source")
            dataset.run("secret-run").epoch(0)
            dataset.tag("gold")
            reject(dataset, "a", "b", source="scanner", label=99)
        yield opened


@pytest.fixture
def digits(reg: Registry) -> Dataset:
    return reg.open("digits")


@pytest.fixture
def at(reg: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("registry.server.auth.CACHE_SECONDS", 0.0)
    with serving(reg) as address:
        yield address


def test_a_session_ends_with_its_token_its_time_and_a_logout_elsewhere(
    reg: Registry, at: str, visit: Callable[..., Visitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tokens.create(reg.engine, "ada")
    visitor = visit(at)
    page = visitor.page
    wanted = "/datasets/digits/samples?class.label=3&split="
    _log_in(visitor.open(wanted), secret)
    # Back at the page that was asked for.
    assert page.url == at + wanted
    # Scripts do not have the cookie; it is no token.
    assert page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert secret not in cookie["value"]
    later = 12 * 3600 + 60
    with monkeypatch.context() as clock:
        clock.setattr(
            itsdangerous.TimestampSigner, "get_timestamp", lambda _: int(time.time() + later)
        )
        page.reload()
        assert _asks_to_log_in(page)
        _log_in(page, secret)
        assert page.url == at + wanted
    _log_in(visitor.open("/login"), secret)
    # A form that is open in another tab does nothing after the logout.
    other = page.context.new_page()
    other.goto(at + REJECTED)
    page.get_by_role("button", name="Log out").click()
    other.get_by_role("button", name="Retry row").first.click()
    assert other.url.startswith(f"{at}/login")
    _log_in(other, secret)
    assert other.url.partition("?")[0] == at + REJECTED
    tokens.revoke(reg.engine, "ada")
    other.goto(at + REJECTED)
    assert _asks_to_log_in(other)
    visitor.refused = True
    _log_in(other, secret)
    assert "unknown, revoked or expired" in other.get_by_role("alert").inner_text()


def test_pages_of_other_sites_can_neither_send_forms_nor_show_pages_in_frames(
    reg: Registry, digits: Dataset, at: str, browser: Browser
) -> None:
    with browser.new_context() as context, media_server() as elsewhere:
        page = context.new_page()
        page.goto(at)
        _log_in(page, tokens.create(reg.engine, "ada"))
        page.goto(at + REJECTED)
        token = page.locator("[name=csrf]").first.get_attribute("value")
        (first, _) = digits.inbox.refused()
        attack = (
            f"<form method=post action='{at}{REJECTED}'><input name=csrf value={token}>"
            f"<input name=discard value={first.id}></form><iframe src='{at}{REJECTED}'></iframe>"
        )
        elsewhere.answers["/"] = status(200, attack.encode(), **{"content-type": "text/html"})
        # Another port of the same host is the same site, and browsers send the cookie from there.
        for site, answer in (
            (f"http://localhost:{elsewhere.port}/", "Log in"),
            (elsewhere.at, "This form was sent by a page of another site"),
        ):
            page.goto(site)
            page.frames[1].wait_for_url("chrome-error://chromewebdata/")
            with page.expect_navigation():
                page.evaluate("document.forms[0].submit()")
            assert answer in page.locator("main").inner_text()
            assert len(digits.inbox.refused()) == 2
        # The form is right: from the server's own page it does what it says.
        page.goto(at + REJECTED)
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name=f"Discard row {first.id}").click()
        page.wait_for_url("**discarded=1*")
        assert len(digits.inbox.refused()) == 1


def test_a_token_that_reads_one_dataset_sees_nothing_of_others(
    reg: Registry, at: str, visit: Callable[..., Visitor]
) -> None:
    visitor = visit(at)
    _log_in(visitor.open("/"), tokens.create(reg.engine, "reader", dataset="digits", rights="read"))
    page = visitor.page
    assert page.locator("tbody tr").count() == 1
    for path in PATHS:
        assert page.request.get(f"{at}/datasets/digits{path}").status == 200, path
    for row in page.get_by_role("link", name="2 rejected").all():
        row.click()
    assert page.get_by_role("button", name="Retry").count() == 0
    visitor.refused = True
    for path in PATHS:
        for name in ("other", "none"):
            visitor.open(f"/datasets/{name}{path}")
            text = page.locator("main").inner_text()
            assert f"may not read the dataset '{name}'" in text
            assert "secret" not in text


def test_the_login_is_accessible_in_both_themes(
    reg: Registry, at: str, visit: Callable[..., Visitor]
) -> None:
    del reg
    visitor = visit(at, viewport={"width": 390, "height": 800})
    visitor.refused = True
    for theme in THEMES:
        visitor.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        page = visitor.open("/datasets/digits")
        assert page.evaluate("document.activeElement.id") == "token"
        visitor.accessible()
        _log_in(page, "rgy_wrong")
        assert page.locator("#token").get_attribute("aria-invalid") == "true"
        visitor.accessible()
        visitor.fits()


def _log_in(page: Page, secret: str) -> None:
    page.get_by_label("Token").fill(secret)
    with page.expect_navigation():
        page.get_by_role("button", name="Log in").click()


def _asks_to_log_in(page: Page) -> bool:
    return "The session has ended" in page.get_by_role("status").inner_text()
