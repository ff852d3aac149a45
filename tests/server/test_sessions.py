"""Sessions of the pages: login, expiry, tokens of forms, and what others must not do with them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import itsdangerous
import pytest

import registry
from registry import Dataset, Registry
from registry.server import tokens
from registry.server.pages.session_key import session_key
from registry.server.pages.viewer import local_path
from registry.server.settings import ServerSettings
from tests.support.datasets import FIXED, digit
from tests.support.page_clients import form_token, log_in, reject
from tests.support.servers import serving

REJECTED = "/datasets/digits/rejected"


@pytest.fixture
def digits(sqlite_url: str) -> Iterator[Dataset]:
    """A dataset with three rejected rows, of two sources."""
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("digits", FIXED, splits={"train": 1.0})
        reg.create("other", FIXED)
        reject(dataset, "a", "b", source="tool/7", label=99)
        reject(dataset, "c", source="scanner", label=99)
        yield dataset


@pytest.fixture
def reg(digits: Dataset, sqlite_url: str) -> Iterator[Registry]:
    del digits
    with registry.connect(sqlite_url) as reg:
        yield reg


@pytest.fixture
def secret(reg: Registry) -> str:
    return tokens.create(reg.engine, "ada")


@pytest.fixture
def address(reg: Registry, secret: str) -> Iterator[str]:
    del secret
    with serving(reg, ServerSettings(forwarded_allow_ips=("127.0.0.1",))) as at:
        yield at


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, verify=False) as client:
        yield client


def is_login(answer: httpx.Response) -> bool:
    return answer.status_code == 303 and answer.headers["location"].startswith("/login")


def test_a_page_needs_a_login_that_leads_back_to_it(http: httpx.Client, secret: str) -> None:
    wanted = f"{REJECTED}?after=1"
    answer = http.get(wanted)
    assert is_login(answer)
    login = http.get(answer.headers["location"])
    form = {"csrf": form_token(login), "token": f" {secret}\n", "next": wanted}
    assert f'value="{wanted}"' in login.text
    back = http.post("/login", data=form)
    assert (back.status_code, back.headers["location"]) == (303, wanted)
    assert http.get(wanted).status_code == 200
    # Also where its path has characters that end a path, as keys may.
    http.cookies.clear()
    key = "/datasets/digits/samples/a%3Fb%23c%2F%C3%A9%25?before=3"
    login = http.get(http.get(key).headers["location"])
    assert f'value="{key}"' in login.text
    log_in(http, secret)
    # Every answer, also of errors, confines what a browser does with it.
    for path in (wanted, "/", "/login", "/datasets/none/rejected", "/static/pages.0.css"):
        headers = http.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_a_login_never_leads_to_another_site() -> None:
    for path in ("/", "/datasets/a@b:1f?after=3&x=%2F%2F", "/datasets/a%20b/rejected"):
        assert local_path(path) == path
    outside = ("//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)")
    for path in (
        *outside,
        "",
        "evil",
        "/a\r\nset-cookie: x=1",
        "/\u00e9",
        "///evil.example",
        "//[",
    ):
        assert local_path(path) == "/"


def test_the_cookie_is_signed_and_out_of_reach_of_scripts(http: httpx.Client, secret: str) -> None:
    login = log_in(http, secret)
    (cookie,) = login.headers.get_list("set-cookie")
    assert {"HttpOnly", "SameSite=lax", "Path=/", "Max-Age=43200"} <= {*cookie.split("; ")}
    assert "Secure" not in cookie
    assert secret not in cookie
    name, _, value = cookie.partition(";")[0].partition("=")
    assert http.get("/").status_code == 200
    http.cookies.clear()
    for index in range(0, len(value) - 1, 7):
        wrong = value[:index] + ("A" if value[index] != "A" else "B") + value[index + 1 :]
        assert is_login(http.get("/", headers={"cookie": f"{name}={wrong}"})), index
    assert http.get("/", headers={"cookie": f"{name}={value}"}).status_code == 200
    # Behind a proxy that speaks TLS.
    secure = http.get("/login", headers={"x-forwarded-proto": "https"}).headers["set-cookie"]
    assert "Secure" in secure.split("; ")


def test_a_wrong_token_begins_no_session_and_guesses_are_slowed_down(http: httpx.Client) -> None:
    csrf = form_token(http.get("/login"))
    guesses = [
        http.post("/login", data={"csrf": csrf, "token": f"rgy_{number}"}) for number in range(60)
    ]
    assert guesses[0].status_code == 401
    assert "token is unknown" in guesses[0].text
    assert {each.status_code for each in guesses} == {401, 429}
    assert guesses[-1].headers["content-type"].startswith("text/html")
    # Anybody may send this form: it is small, or not read.
    assert http.post("/login", data={"csrf": csrf, "token": "x" * 10_000}).status_code == 413
    assert is_login(http.get("/"))


def test_a_session_ends_with_its_token(
    http: httpx.Client, reg: Registry, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.server.auth.CACHE_SECONDS", 0.0)
    log_in(http, secret)
    assert http.get("/").status_code == 200
    tokens.revoke(reg.engine, "ada")
    answer = http.get(REJECTED)
    assert is_login(answer)
    assert "The session has ended" in http.get(answer.headers["location"]).text
    assert log_in(http, secret).status_code == 401


def test_a_session_ends_after_its_time(
    http: httpx.Client, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(http, secret)
    later = 0.0
    monkeypatch.setattr(
        itsdangerous.TimestampSigner, "get_timestamp", lambda _: int(time.time() + later)
    )
    later = 12 * 3600 - 60
    assert http.get("/").status_code == 200
    later = 12 * 3600 + 60
    assert is_login(http.get("/"))


def test_a_session_that_was_logged_out_stays_so(http: httpx.Client, secret: str) -> None:
    log_in(http, secret)
    copy = dict(http.cookies)
    page = http.get("/")
    assert http.post("/logout", data={"csrf": "0" * 64}).status_code == 403
    assert http.get("/").status_code == 200
    assert is_login(http.post("/logout", data={"csrf": form_token(page)}))
    assert not http.cookies
    assert is_login(http.get("/"))
    http.cookies.update(copy)
    assert is_login(http.get("/"))


def test_a_form_from_elsewhere_changes_nothing(
    http: httpx.Client, digits: Dataset, secret: str
) -> None:
    log_in(http, secret)
    csrf = form_token(http.get(REJECTED))
    with httpx.Client(base_url=http.base_url, verify=False) as visitor:
        of_another = form_token(visitor.get("/login"))
    form = {"discard": "1", "csrf": csrf}
    for other in ({}, {"csrf": ""}, {"csrf": of_another}, {"csrf": "\u00e9"}):
        assert http.post(REJECTED, data={"discard": "1", **other}).status_code == 403
    for site in ("cross-site", "same-site"):
        answer = http.post(REJECTED, data=form, headers={"sec-fetch-site": site})
        assert answer.status_code == 403
    assert http.post(REJECTED, json=form).status_code == 415
    # The token of an API client is no session.
    bearer = {"authorization": f"Bearer {secret}"}
    assert is_login(httpx.post(f"{http.base_url}{REJECTED}", data=form, headers=bearer))
    assert len(digits.inbox.refused()) == 3
    assert http.post(REJECTED, data=form).status_code == 303
    assert len(digits.inbox.refused()) == 2


def test_a_token_sees_its_dataset_alone_and_changes_what_it_may(
    http: httpx.Client, reg: Registry, digits: Dataset
) -> None:
    log_in(http, tokens.create(reg.engine, "reader", dataset="digits", rights="read"))
    text = http.get("/").text
    assert ("/datasets/digits" in text, "/datasets/other" in text) == (True, False)
    # Also one that does not exist: 404 would say which ones do.
    for name in ("other", "none"):
        answer = http.get(f"/datasets/{name}/rejected")
        assert (answer.status_code, "may not read" in answer.text) == (403, True)
        assert answer.headers["content-type"].startswith("text/html")
    csrf = form_token(http.get(REJECTED))
    form = {"csrf": csrf, "discard": "1"}
    assert http.post(REJECTED, data=form).status_code == 403
    # One that may write: the rows of its source.
    log_in(http, tokens.create(reg.engine, "tool", dataset="digits"))
    page = http.get(REJECTED)
    assert ("tool/7" in page.text, "scanner" in page.text) == (True, False)
    ids = {row.key: row.id for row in digits.inbox.refused()}
    selected = {"csrf": form_token(page), "discard": "selected", "id": [*map(str, ids.values())]}
    answer = http.post(REJECTED, data=selected)
    assert answer.headers["location"].endswith("discarded=2&gone=1&after=0")
    assert [row.key for row in digits.inbox.refused()] == ["c"]


def test_a_page_that_is_kept_for_others_is_shown_to_those_alone_who_may_see_it(
    http: httpx.Client, reg: Registry, digits: Dataset, secret: str
) -> None:
    log_in(http, secret)
    tool = tokens.create(reg.engine, "tool", dataset="digits")
    reader = tokens.create(reg.engine, "reader", dataset="digits", rights="read")
    stranger = tokens.create(reg.engine, "stranger", dataset="other")
    with httpx.Client(base_url=http.base_url, verify=False) as other:
        for path in ("/datasets/digits/samples", REJECTED):
            assert http.get(path).status_code == 200
            other.cookies.clear()
            assert is_login(other.get(path))
            log_in(other, stranger)
            assert other.get(path).status_code == 403
            log_in(other, reader)
            page = other.get(path)
            # Also where it was made for this one alone: the token of its forms is its own.
            assert (page.status_code, "ada" in page.text) == (200, False)
            assert form_token(page) != form_token(http.get(path))
        assert "Discard" in http.get(REJECTED).text
        assert "Discard" not in other.get(REJECTED).text
        log_in(other, tool)
        assert "scanner" in http.get(REJECTED).text
        assert "scanner" not in other.get(REJECTED).text
    row = digits.inbox.refused()[0].id
    form = {"csrf": form_token(http.get(REJECTED)), "discard": str(row)}
    http.post(REJECTED, data=form)
    # What was just changed is not shown as it was.
    assert f"row-{row}" not in http.get(REJECTED).text
    metrics = http.get("/metrics", headers={"authorization": f"Bearer {secret}"}).text
    samples = 'requests_total{method="GET",route="/datasets/{name}/samples",status='
    counts = re.findall(samples + r'"(\d+)"} (\d)', metrics)
    assert dict(counts) == {"200": "3", "303": "1", "403": "1"}


def test_a_row_is_corrected_retried_and_discarded_by_the_page(
    http: httpx.Client, digits: Dataset, secret: str
) -> None:
    log_in(http, secret)
    csrf = form_token(http.get(REJECTED))
    ids = {row.key: str(row.id) for row in digits.inbox.refused()}
    wrong = {"csrf": csrf, "retry": ids["a"], "fields": '{"label": "<b>", "image": 1}'}
    answer = http.post(REJECTED, data=wrong)
    assert answer.status_code == 422
    # The text is kept, to be corrected again.
    assert "{&#34;label&#34;: &#34;&lt;b&gt;&#34;, &#34;image&#34;: 1}</textarea>" in answer.text
    for text in ("{", "[]", '{"label": NaN}', "[" * 100_000):
        answer = http.post(REJECTED, data={**wrong, "fields": text})
        assert answer.status_code == 422, text
    right = {**wrong, "fields": str(digit(7)).replace("'", '"')}
    assert "stored=1" in http.post(REJECTED, data=right).headers["location"]
    assert digits.get("a")["label"] == 7
    # Tried again as they are, they do not fit, and the page says so.
    retry = {"csrf": csrf, "retry": "selected", "id": [ids["b"], ids["c"], ids["a"]]}
    answer = http.post(REJECTED, data=retry, follow_redirects=True)
    assert "2 rows still do not fit" in answer.text
    assert "1 row was gone already" in answer.text
    for number in ("", "x", "1.5"):
        assert http.post(REJECTED, data={"csrf": csrf, "discard": number}).status_code == 422
    assert len(digits.inbox.refused()) == 2


def test_a_server_without_tokens_needs_no_login_but_tokens_of_forms(
    reg: Registry, digits: Dataset
) -> None:
    with (
        serving(reg, ServerSettings(insecure=True)) as at,
        httpx.Client(base_url=at, verify=False) as http,
    ):
        page = http.get(REJECTED)
        assert page.status_code == 200
        assert "Log out" not in page.text
        assert http.get("/login").headers["location"] == "/"
        assert http.get("/datasets/digits").status_code == 200  # kept
        for path in ("/", "/login", REJECTED, "/datasets/digits"):
            assert http.get(path, headers={"host": "evil.example"}).status_code == 421
        form = {"discard": "1"}
        assert http.post(REJECTED, data=form).status_code == 403
        form["csrf"] = form_token(page)
        evil = http.post(REJECTED, data=form, headers={"host": "evil.example"})
        assert evil.status_code == 421
        assert httpx.post(at + REJECTED, data=form).status_code == 403
        assert len(digits.inbox.refused()) == 3
        assert http.post(REJECTED, data=form).status_code == 303
        assert len(digits.inbox.refused()) == 2


def test_errors_of_pages_are_pages_and_those_of_the_api_json(
    http: httpx.Client, secret: str
) -> None:
    log_in(http, secret)
    browser = {"accept": "text/html,application/xhtml+xml"}
    for path in ("/datasets/none/rejected", "/datasets/digits/nothing", "/static/x.0.js"):
        answer = http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (
            404,
            "text/html; charset=utf-8",
        )
    assert "<h1>Not found</h1>" in http.get("/nothing", headers=browser).text
    for path in ("/nothing", "/v1/nothing"):
        assert http.get(path).headers["content-type"] == "application/problem+json"
    of_the_api = http.get("/v1/datasets", headers=browser)
    assert (of_the_api.status_code, of_the_api.json()["status"]) == (401, 401)
    late = http.get(f"{REJECTED}?after=x")
    assert late.status_code == 422
    assert "<h1>Invalid request</h1>" in late.text
    assert '<p class="clip">after: Input should be a valid integer' in late.text
    # A message that begins with a name leaves it as it is.
    assert '<p class="clip">digits@0:' in http.get("/datasets/digits@0/rejected").text


def test_servers_that_share_a_cache_folder_share_sessions(
    http: httpx.Client, reg: Registry, secret: str, cache: Path
) -> None:
    log_in(http, secret)
    with serving(reg) as at:
        again = httpx.get(at, cookies=dict(http.cookies))
        assert again.status_code == 200
    key = cache / "sessions.key"
    assert key.stat().st_mode & 0o777 == 0o600
    # Somebody may have read it.
    key.chmod(0o640)
    with serving(reg) as at:
        assert is_login(httpx.get(at, cookies=dict(http.cookies)))
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_key_that_cannot_be_kept_is_one_of_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert session_key(tmp_path) == session_key(tmp_path)
    (tmp_path / "file").touch()
    assert session_key(tmp_path / "file") != session_key(tmp_path / "file")
    assert "sessions end with this process" in caplog.text
