"""The pages of a dataset, of a sample and of runs, as answers of the server."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as Pillow

from registry import ClassLabel, Dataset, Image, Ragged, Registry, Replay, Tensor, Text
from registry.catalog.overview import overview
from registry.errors import InvalidSampleError
from registry.samples.features import Feature
from registry.samples.keys import check_key
from registry.server import tokens
from registry.server.pages import datasets as datasets_page
from registry.server.service import Service
from registry.server.settings import ServerSettings
from tests.storage.test_inbox import put
from tests.support.hostile_input import NAMES
from tests.support.image_files import broken, photo, png
from tests.support.page_clients import log_in
from tests.support.servers import serving

PETS: dict[str, Feature] = {
    "image": Tensor("uint8", (8, 8)),
    "label": ClassLabel(["cat", "dog", "lynx"]),
}

PATHS = ("", "/samples", "/samples?key=a", "/samples/a", "/images/0/image", "/runs", "/runs/run")


@pytest.fixture
def http(reg: Registry) -> Iterator[httpx.Client]:
    with serving(reg, ServerSettings(insecure=True)) as at, httpx.Client(base_url=at) as client:
        yield client


def pet(label: int, shade: int = 0) -> dict[str, Any]:
    return {"image": np.full((8, 8), shade, np.uint8), "label": label}


def cards(page: str) -> list[tuple[str, str]]:
    """Return the path and the key of each sample of a gallery."""
    matches = re.findall(r'<p class="card-key"><a href="([^"]*)" title="([^"]*)"', page)
    return [(html.unescape(path), html.unescape(key)) for path, key in matches]


def link(page: str, text: str) -> str | None:
    """Return where the link with a text leads."""
    match = re.search(rf'href="([^"]*)"[^>]*>{text}</a>', page)
    return html.unescape(match[1]) if match else None


def gallery(http: httpx.Client, path: str) -> list[str]:
    """Return the keys of all pages of a gallery."""
    keys: list[str] = []
    following: str | None = path
    while following is not None:
        answer = http.get(following)
        assert answer.status_code == 200, answer.text
        keys += [key for _, key in cards(answer.text)]
        following = link(answer.text, "(?:Older samples|Search further back)")
    return keys


def test_a_gallery_lists_each_live_sample_that_meets_its_filters_once(
    reg: Registry, http: httpx.Client
) -> None:
    pets = reg.create("pets", PETS, splits={"train": 0.7, "test": 0.3})
    keys = [f"pet-{number:02d}" for number in range(60)]
    labels = {key: number % 3 for number, key in enumerate(keys)}
    for source, part in (("ada", keys[:40]), (None, keys[40:])):
        pets.insert([pet(labels[key]) for key in part], keys=part, source=source)
    pets.tag("gold")
    pets.retract(keys[0])
    pets.update(keys[1], label="cat", source="bob")
    labels[keys[1]] = 0
    live = [keys[1], *reversed(keys[2:])]
    assert gallery(http, "/datasets/pets/samples") == live
    for query, expected in (
        ("class.label=dog", [key for key in live if labels[key] == 1]),
        ("source=bob", [keys[1]]),
        ("source=none:", live[1:21]),
        ("split=test", [key for key in live if pets.split_of(key) == "test"]),
        ("class.label=cat&source=ada", [k for k in live[21:] if labels[k] == 0]),
        ("key=pet-1", [f"pet-{number}" for number in range(10, 20)]),
        ("key=pet-00", ["pet-00"]),
        ("before=1", []),
    ):
        assert gallery(http, f"/datasets/pets/samples?{query}") == expected, query
    version = http.get("/datasets/pets/samples", params={"version": "gold", "split": "train"})
    assert version.headers["location"] == "/datasets/pets%40gold/samples?split=train"
    train = [key for key in reversed(keys) if pets.split_of(key) == "train"]
    assert gallery(http, version.headers["location"]) == train
    for query, reason in (
        ("class.label=cow", "'cow'"),
        ("class.image=1", "no feature with classes"),
        ("split=none", "split named 'none'"),
        ("boxes=round", "use one of rel_xyxy"),
        ("before=x", "valid integer"),
    ):
        answer = http.get(f"/datasets/pets/samples?{query}")
        assert answer.status_code == 422, query
        # With the form, where what somebody typed is corrected.
        assert ("Filter samples" in answer.text) == query.startswith(("class", "split")), query
        assert reason in html.unescape(answer.text)
        assert answer.headers["content-type"].startswith("text/html")


def test_the_page_of_a_sample_is_reached_whatever_its_key_is(
    reg: Registry, http: httpx.Client
) -> None:
    notes = reg.create("notes", {"text": Text()})
    keys = [key for key in NAMES if _is_key(key)]
    notes.insert([{"text": key} for key in keys], keys=keys)
    page, headings = http.get("/datasets/notes/samples").text, []
    while True:
        for path, _ in cards(page):
            answer = http.get(path)
            assert answer.status_code == 200, path
            heading = re.search(r'<h1 class="key"><bdi>(.*?)</bdi></h1>', answer.text, re.DOTALL)
            assert heading is not None
            headings.append(html.unescape(heading[1]))
            assert "<script>\n" not in answer.text
        following = link(page, "Older samples")
        if following is None:
            break
        page = http.get(following).text
    # HTTP has no lone surrogates, and browsers read all kinds of line breaks as one.
    assert [each.replace("\r\n", "\n") for each in headings] == [
        key.replace("\r\n", "\n") for key in reversed(keys)
    ]
    missing = http.get("/datasets/notes/samples/nothing")
    assert missing.status_code == 404
    assert "nothing" in missing.text


def _is_key(text: str) -> bool:
    try:
        check_key(text)
    except InvalidSampleError:
        return False
    return True


def test_the_page_of_a_sample_shows_what_each_revision_changed_and_which_epochs_held_it(
    reg: Registry, http: httpx.Client
) -> None:
    features: dict[str, Feature] = {"text": Text(), "label": ClassLabel(["cat", "dog"])}
    notes = reg.create("notes", features, splits={"train": 1.0})
    notes.insert([{"text": "two days", "label": 0}], keys=["a"], groups=["g<1>"], source="ada")
    run = notes.run("run/1", policy=Replay(1))
    run.epoch(0)
    notes.update("a", text="two <b>days</b>")
    notes.insert([{"text": "", "label": 0}], keys=["b"])
    run.epoch(1)
    notes.retract("a", source="bob")
    page = http.get("/datasets/notes/samples/a").text
    assert "retracted" in page
    assert "g&lt;1&gt;" in page
    # The newest first, with what is new in it.
    columns = re.findall(r"position ([\d,]+)", page)
    assert columns == ["3", "1", "0"]
    assert page.count('<span class="change') == 1
    assert "two <ins>&lt;b&gt;</ins>days<ins>&lt;/b&gt;</ins>" in page
    epochs = re.findall(r'<li><a href="([^"]*)"><bdi>run/1</bdi></a> (epochs? [\d to]+)', page)
    assert epochs == [("/datasets/notes/runs/run%2F1", f"epoch {n}") for n in (1, 0)]
    assert http.get(epochs[0][0]).status_code == 200
    older = [notes.update("b", text=str(number)) for number in range(10)]
    page = http.get("/datasets/notes/samples/b").text
    following = link(page, "Older revisions")
    assert following is not None
    rest = http.get(following).text
    positions = re.findall(r"position ([\d,]+)", page) + re.findall(r"position ([\d,]+)", rest)
    assert positions == [str(2 if not n else n + 3) for n in range(len(older), -1, -1)]


def test_pictures_are_small_and_those_that_cannot_be_drawn_say_why(
    reg: Registry, http: httpx.Client
) -> None:
    features: dict[str, Feature] = {
        "photo": Image(),
        "..": Tensor("float32", (80, 90)),
        "boxes": Ragged("int8", (4,)),
    }
    street = reg.create("street", features)
    files = {"ok": photo(300, 600), "bomb": png(12_000, 12_000), "bad": broken(photo(30, 40))}
    empty = {"..": np.zeros((80, 90), np.float32), "boxes": np.zeros((0, 4), np.int8)}
    street.insert([{"photo": file, **empty} for file in files.values()], keys=list(files))
    page = http.get("/datasets/street/samples").text
    sources = [html.unescape(each) for each in re.findall(r'<img src="(/datasets/[^"]*)"', page)]
    assert len(sources) == 5  # the bomb is known by its header
    assert "12,000 by 12,000 pixels are too many" in page
    for source in sources:
        answer = http.get(source)
        assert answer.status_code == 200, source
        assert answer.headers["cache-control"] == "private, max-age=60"
        if "/2/photo" in source:
            assert answer.headers["content-type"] == "image/svg+xml"
            # Within the page it has no height, so that nothing lies over it.
            assert 'height="1"' in answer.text
            assert "damaged" in http.get(source.replace("within=1", "")).text
        else:
            with Pillow.open(io.BytesIO(answer.content)) as image:
                assert max(image.size) <= 352
    for path in ("/0/boxes", "/0/other", "/9/photo", "/0"):
        answer = http.get(f"/datasets/street/images{path}")
        assert answer.headers["content-type"] == "image/svg+xml", path
        assert b"no " in answer.content
    tag = {"if-none-match": http.get(sources[-1]).headers["etag"]}
    again = http.get(sources[-1], headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    assert http.get(sources[-1].replace("352", "300"), headers=tag).status_code == 200
    street.erase("ok")
    erased = http.get(sources[-1], headers=tag)
    assert (erased.status_code, erased.headers["content-type"]) == (200, "image/svg+xml")
    assert http.get("/datasets/street/images/0/photo?side=9").status_code == 422


def test_the_page_of_a_run_says_what_changed_between_two_epochs(
    reg: Registry, http: httpx.Client
) -> None:
    pets = reg.create("pets", PETS)
    run = pets.run("<cnn>", policy="all")
    pets.insert([pet(0), pet(1)], keys=["a", "b"], source="ada")
    run.epoch(0)
    pets.insert([pet(1), pet(2)], keys=["c", "d"], source="bob")
    pets.update("a", label="lynx", source="<i>")
    run.epoch(1)
    run.advance(3)
    listed = http.get("/datasets/pets/runs").text
    path = re.search(r'href="(/datasets/pets/runs/[^"]*)"', listed)
    assert path is not None
    # The rows that a run's page speaks of are those that the server has counted.
    assert http.get("/datasets/pets").status_code == 200
    page = http.get(path[1]).text
    assert "in epoch 1, after 1 samples" in page
    rows = re.findall(r'data-label="(Samples|New|Revised)">(\d+)', page)
    assert rows == [
        ("Samples", "4"),
        ("New", "2"),
        ("Revised", "1"),
        ("Samples", "2"),
        ("New", "2"),
        ("Revised", "0"),
    ]
    changes = http.get(path[1], params={"since": 0, "until": 1}).text
    assert "3 rows came" in changes
    assert "1 row went" in changes
    tables = re.findall(r'<tr><th scope="row">(.*?)</th><td>(\d+)</td><td>(\d+)</td>', changes)
    assert {("cat", "0", "1"), ("dog", "1", "0"), ("lynx", "2", "0")} <= {*tables}
    assert {("bob", "2", "0"), ("&lt;i&gt;", "1", "0"), ("ada", "0", "1")} <= {*tables}
    missing = http.get(path[1], params={"since": 0, "until": 7}).text
    assert "has not pinned epoch 7" in missing
    assert http.get("/datasets/pets/runs/none").status_code == 404
    pets.erase("d")
    assert http.get("/datasets/pets").status_code == 200
    erased = http.get(path[1], params={"since": 1, "until": 0}).text
    assert "1 row was erased since, and has no class any more" in erased


def test_datasets_are_paged_by_name_and_only_those_of_the_page_are_counted(
    reg: Registry, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.server.pages.datasets._DATASETS", 2)
    counted: list[str] = []
    growth = datasets_page._growth

    def counting(service: Service, dataset: Dataset, position: int) -> Any:
        counted.append(dataset.name)
        return growth(service, dataset, position)

    monkeypatch.setattr(datasets_page, "_growth", counting)
    names = ["A", "_b", "a", "a-1", "b"]
    for name in names:
        reg.create(name, PETS).insert([pet(0)])
    shown, path = [], "/"
    while path:
        page = http.get(path).text
        assert "5 datasets, 5 live samples" in page
        shown.append(re.findall(r'class="clip"><a href="/datasets/([^"/]*)"', page))
        assert {*counted} == {name for names in shown for name in names}
        path = html.unescape(link(page, "More datasets") or "")
    assert shown == [["A", "_b"], ["a", "a-1"], ["b"]]
    assert "No more datasets" in http.get("/?after=zz").text


def test_runs_are_paged_and_compared_whatever_their_names_are(
    reg: Registry, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.server.pages.runs._RUNS", 1)
    pets = reg.create("pets", PETS)
    names = ["..", "a&after=z#x", "b %26+c", "d?e/f;g"]
    for name in names:
        pets.run(name)
    shown, path = [], "/datasets/pets/runs"
    while path:
        page = http.get(path).text
        shown += re.findall(r'<a href="[^"]*"><bdi>(.*?)</bdi>', page)
        following = re.search(r'href="([^"]*)" rel="next"', page)
        path = html.unescape(following[1]) if following else ""
    assert [html.unescape(each) for each in shown] == sorted(names)
    for _ in range(2):
        pets.insert([pet(0)])
        epochs = pets.run("..")
        epochs.epoch(0 if epochs.last is None else 1)
    # As the form of its page is sent, with the fields that it has.
    page = http.get("/datasets/pets/runs?run=..").text
    form = re.search(
        r'<form class="filters" method="get" action="([^"#]*)#changes">\s*'
        r'<input type="hidden" name="run" value="\.\.">',
        page,
    )
    assert form is not None
    http.get("/datasets/pets")
    compared = http.get(form[1], params={"run": "..", "since": 0, "until": 1}).text
    assert "From epoch 0 to epoch 1" in compared


def test_pages_leave_the_rows_that_wait_in_the_inbox(reg: Registry, http: httpx.Client) -> None:
    pets = reg.create("pets", PETS)
    pets.insert([pet(0)], keys=["a"])
    pets.run("run").epoch(0)
    with reg.engine.begin() as connection:
        put(connection, pets, "b", {"image": [[0] * 8] * 8, "label": "dog"})
    for path in PATHS:
        assert http.get(f"/datasets/pets{path}").status_code == 200, path
    assert [each.waiting for each in overview(reg)] == [1]
    assert pets.head.position == 2


def test_pages_and_pictures_are_for_those_who_may_read_the_dataset(reg: Registry) -> None:
    for name in ("pets", "secret"):
        reg.create(name, PETS).insert([pet(0)], keys=["a"])
        reg.open(name).run("run").epoch(0)
    secret = tokens.create(reg.engine, "ada", dataset="pets")
    with serving(reg) as at, httpx.Client(base_url=at) as http:
        for path in PATHS:
            assert http.get(f"/datasets/pets{path}").headers["location"].startswith("/login?next=")
        log_in(http, secret)
        for path in PATHS:
            assert http.get(f"/datasets/pets{path}").status_code == 200, path
            assert http.get(f"/datasets/pets%401{path}").status_code == 200, path
            for other in ("secret", "secret%401"):
                assert http.get(f"/datasets/{other}{path}").status_code == 403, path


def test_a_page_that_viewers_share_has_the_session_of_each(reg: Registry) -> None:
    reg.create("pets", PETS).insert([pet(0)], keys=["<!--session-->"])
    secrets = {name: tokens.create(reg.engine, name) for name in ("ada", "bob")}
    with serving(reg) as at, httpx.Client(base_url=at) as ada, httpx.Client(base_url=at) as bob:
        clients = {"ada": ada, "bob": bob}
        for name, client in clients.items():
            log_in(client, secrets[name])
        for path in ("", "/samples"):
            pages = {n: client.get(f"/datasets/pets{path}").text for n, client in clients.items()}
            for name, page in pages.items():
                assert re.findall(r'class="who[^>]* title="([^"]*)"', page) == [name]
                assert "<!--" not in page
        # The token of its form is its own.
        for name, page in pages.items():
            csrf = re.findall(r'name="csrf" value="([^"]*)"', page)
            assert len({*csrf}) == 1
            ended = clients[name].post("/logout", data={"csrf": csrf[0]})
            assert ended.headers["location"] == "/login"
            assert clients[name].get("/datasets/pets").status_code == 303
