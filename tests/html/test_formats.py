"""Numbers, sizes and times as people read them, and templates that escape."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest
from jinja2 import UndefinedError

from registry.html.assets import asset, asset_at
from registry.html.formats import ago, compact, filesize, url_path
from registry.html.render import render


def test_numbers_are_short_and_never_rounded_up_to_the_next_unit() -> None:
    texts = {0: "0", 9999: "9,999", 10_000: "10 k", 12_345: "12.3 k", 999_499: "999 k"}
    texts |= {
        999_500: "1 M",
        1_234_567: "1.23 M",
        999_499_999: "999 M",
        10**9: "1 G",
        10**12: "1 T",
    }
    assert {value: compact(value).replace("\u202f", " ") for value in texts} == texts
    assert compact(0.25) == "0.25"
    assert filesize(1023).replace("\u202f", " ") == "1023 bytes"
    assert filesize(1536).replace("\u202f", " ") == "1.5 KiB"
    assert filesize(5 << 40).replace("\u202f", " ") == "5.0 TiB"


def test_times_are_in_one_unit() -> None:
    now = datetime(2026, 11, 28, tzinfo=UTC)
    texts = {0.2: "just now", -30: "just now", 1: "1 second ago", 119: "1 minute ago"}
    texts |= {7200: "2 hours ago", 86400 * 29: "29 days ago", 86400 * 400: "1 year ago"}
    assert {s: ago(now - timedelta(seconds=s), now) for s in texts} == texts


def test_a_key_is_one_part_of_a_path() -> None:
    for key in ("a/b", "a?b#c", "100%", "\u00e4", "a b+c", "..", "%2F"):
        assert "/" not in url_path(key)
        assert unquote(url_path(key)) == key


def test_a_template_escapes_values_and_refuses_unknown_names() -> None:
    values = {"status": 404, "title": "<b>", "detail": '"><script>alert(1)</script>'}
    html = render("error.html", **values)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    del values["detail"]
    with pytest.raises(UndefinedError):
        render("error.html", **values)


def test_a_file_is_served_under_the_checksum_of_its_content_alone() -> None:
    for name in ("pages.css", "charts.js", "plotly.min.js"):
        file = asset(name)
        assert file is not None
        served = file.url.rpartition("/")[2]
        assert asset_at(served) is file
        stem, digest, suffix = served.rsplit(".", 2)
        assert asset_at(f"{stem}.{digest[::-1]}.{suffix}") is None
    for wrong in ("", "pages.css", "..", ".0.css", "../render.0.py", "none.0.css", "a.b.c.d"):
        assert asset_at(wrong) is None
