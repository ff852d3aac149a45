"""Bodies of requests: what is rejected, up to where it is read, and how much of it."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry import Dataset, Registry
from registry.server import request_body
from registry.server.settings import ServerSettings
from registry.storage.log.changes import Change
from tests.support.datasets import digit
from tests.support.servers import JSON, NDJSON, POST, client, eventually, item, problem


def _pixels(text: str) -> bytes:
    return f'{{"key": "k", "fields": {{"image": {text}, "label": 1}}}}'.encode()


_DEEP = b"[" * 10_000 + b"]" * 10_000
_PIXELS = "[[1, 2], [3, 4]]"
BAD: dict[str, tuple[dict[str, str], bytes, int, dict[str, object]]] = {
    "empty": (JSON, b"", 400, {}),
    "empty list": (JSON, b"[]", 422, {}),
    "empty lines": (NDJSON, b"\n\n", 422, {}),
    "truncated": (JSON, b'[{"key": "a", "fields": {"label"', 400, {}),
    "truncated line": (NDJSON, b'{"key":"a","action":"retract"}\n{"key":', 400, {"row": 1}),
    "pretty-printed lines": (NDJSON, b'{\n "key": "a"\n}', 400, {"row": 0}),
    "nested": (JSON, _DEEP, 400, {}),
    "nested fields": (JSON, _pixels(_DEEP.decode()), 400, {}),
    "NaN": (JSON, _pixels("NaN"), 400, {}),
    "Infinity": (JSON, _pixels("-Infinity"), 400, {}),
    "too large a float": (JSON, _pixels("1e999"), 400, {}),
    "too large a number": (JSON, _pixels("9" * 5000), 400, {}),
    "a name twice": (JSON, b'{"key": "a", "key": "b", "action": "retract"}', 400, {}),
    "not UTF-8": (JSON, b'{"key": "\xff"}', 400, {}),
    "a lone surrogate": (JSON, b'{"key": "\\ud800", "action": "retract"}', 422, {"row": 0}),
    "a lone surrogate's name": (JSON, b'{"key": "a", "fields": {"\\udfff": 1}}', 422, {"row": 0}),
    "a null character": (JSON, b'{"key": "a\\u0000", "action": "retract"}', 422, {"row": 0}),
    "a number as key": (JSON, b'{"key": 1, "fields": {}}', 422, {"row": 0, "field": "key"}),
    "fields as list": (JSON, b'{"key": "a", "fields": []}', 422, {"row": 0, "field": "fields"}),
    "no object": (JSON, b'[{"key": "a", "action": "retract"}, 1]', 422, {"row": 1}),
    "an unknown name": (JSON, b'{"key": "a", "Fields": {}}', 422, {"row": 0, "key": "a"}),
    "an unknown action": (JSON, b'{"key": "a", "action": "drop"}', 422, {"row": 0, "key": "a"}),
    "an unknown feature": (JSON, b'{"key": "a", "fields": {"x": 1}}', 422, {"row": 0, "key": "a"}),
    "an unknown class": (
        JSON,
        b'{"key": "a", "fields": {"image": %s, "label": "cat"}}' % _PIXELS.encode(),
        422,
        {"row": 0, "field": "label"},
    ),
    "text for a tensor": (JSON, _pixels('"../../etc/passwd"'), 422, {"row": 0, "field": "image"}),
    "a URI for a tensor": (
        JSON,
        _pixels('"file:///etc/passwd"'),
        422,
        {"row": 0, "field": "image"},
    ),
    "an absent key": (
        JSON,
        b'[{"key":"good","fields":{"image":%s,"label":1}},{"key":"gone","action":"retract"}]'
        % _PIXELS.encode(),
        422,
        {"row": 1, "key": "gone"},
    ),
    "a form": ({"content-type": "application/x-www-form-urlencoded"}, b"key=a", 415, {}),
    "gzip": ({**JSON, "content-encoding": "gzip"}, gzip.compress(b" " * 10**7), 415, {}),
}


def test_bad_input_is_rejected_with_its_row_and_field(reg: Registry, digits: Dataset) -> None:
    with client(reg) as http:
        for case, (headers, body, status, members) in BAD.items():
            answer = http.post(POST, content=body, headers=headers)
            assert problem(answer, status, **members), case
    assert digits.head.position == 0


def test_one_bad_sample_rejects_its_whole_request(reg: Registry, digits: Dataset) -> None:
    with client(reg) as http:
        many = [item(n) for n in range(100)]
        many[57]["fields"] = {**digit(1), "image": [[1, 2], [3, 256]]}
        detail = problem(http.post(POST, json=many), 422, row=57, key="k57", field="image")
        assert "256 does not fit uint8" in detail
    assert digits.head.position == 0


def test_a_body_is_read_up_to_its_limit_only(reg: Registry, digits: Dataset) -> None:
    """Whatever length its head declares."""

    def endless() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * (1 << 20)

    with client(reg, ServerSettings(body_bytes=1 << 20, body_memory=8 << 20)) as http:
        for headers in (JSON, {**JSON, "content-length": str(300 << 20)}):
            detail = problem(http.post(POST, content=endless(), headers=headers), 413)
            assert "1,048,576 bytes" in detail
        padded = json.dumps(item(1)).encode() + b" " * (1 << 19)
        assert http.post(POST, content=padded, headers=JSON).status_code == 200
        # The memory reserved for rejected bodies was released.
        assert http.post(POST, content=padded, headers=JSON).json()["unchanged"] == 1
    assert digits.head.position == 1


def test_a_body_of_too_many_samples_is_rejected(reg: Registry, digits: Dataset) -> None:
    with client(reg, ServerSettings(body_rows=3)) as http:
        for headers, template in ((JSON, "[%s]"), (NDJSON, "%s")):
            separator = "," if headers is JSON else "\n"
            lines = [json.dumps(item(n)) for n in range(3)]
            content = (template % separator.join(lines)).encode()
            assert http.post(POST, content=content, headers=headers).status_code == 200
            # Nothing after the first sample over the limit is read: "?" is not JSON.
            content = (template % separator.join([*lines, lines[0], "?"])).encode()
            detail = problem(http.post(POST, content=content, headers=headers), 413)
            assert "may have 3 samples" in detail
    assert digits.head.position == 3


def test_a_body_is_read_up_to_the_first_wrong_sample(reg: Registry, digits: Dataset) -> None:
    with client(reg) as http:
        for row, content in enumerate([b"[[], ?", b'[{"key": "a", "action": "retract"}, [], ?']):
            problem(http.post(POST, content=content, headers=JSON), 422, row=row)
    assert digits.head.position == 0


def test_a_body_that_is_slow_to_parse_is_stored(
    reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeout for the database begins after parsing."""

    def slow(content_type: str, body: bytes, limit: int) -> list[Change]:
        time.sleep(2.5)
        return request_body.parse_changes(content_type, body, limit)

    monkeypatch.setattr("registry.server.routes.datasets.parse_changes", slow)
    with client(reg, ServerSettings(database_timeout=2)) as http:
        padded = json.dumps(item(1)).encode() + b" " * (1 << 17)
        assert http.post(POST, content=padded, headers=JSON).status_code == 200
    assert digits.head.position == 1


def test_bodies_that_stall_or_are_too_many_are_rejected(reg: Registry, digits: Dataset) -> None:
    def stalling() -> Iterator[bytes]:
        yield b'{"key": "k1", '
        assert stalled.wait(30)

    stalled = threading.Event()
    with (
        client(reg, ServerSettings(idle_timeout=1, body_memory=2000)) as http,
        ThreadPoolExecutor() as pool,
    ):
        waits = pool.submit(http.post, POST, content=stalling(), headers=JSON)
        eventually(lambda: "body_memory_bytes 502.0" in http.get("/metrics").text)
        full = http.post(POST, json=item(2))
        assert "too much is being sent" in problem(full, 503)
        assert full.headers["retry-after"]
        eventually(lambda: 'status="408"' in http.get("/metrics").text)
        stalled.set()
        assert "no data arrived for 1 seconds" in problem(waits.result(), 408)
    assert digits.head.position == 0
