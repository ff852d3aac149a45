"""Clients of pages that log in as a browser does, without one."""

from __future__ import annotations

import re

import httpx

from registry import Dataset
from tests.storage.test_inbox import put


def form_token(page: httpx.Response) -> str:
    """Return the token of the forms of a page."""
    match = re.search(r'name="csrf" value="([0-9a-f]{64})"', page.text)
    assert match is not None, page.text
    return match[1]


def log_in(http: httpx.Client, secret: str, path: str = "/") -> httpx.Response:
    """Send the form of the login page."""
    csrf = form_token(http.get("/login"))
    return http.post("/login", data={"csrf": csrf, "token": secret, "next": path})


def reject(dataset: Dataset, *keys: str | None, source: str = "tool", **fields: object) -> None:
    """Insert rows into the inbox that do not fit the dataset."""
    with dataset.inbox.engine.begin() as connection:
        for key in keys:
            put(connection, dataset, key, fields, source=source)
    drained = dataset.inbox.drain()
    assert drained.refused == len(keys)
