"""Names, keys, labels and texts that attack the pages which show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page

import registry
from registry import Bytes, ClassLabel, Image, Registry, Text
from registry.samples.features import Feature
from registry.server.settings import ServerSettings
from tests.support.image_files import photo
from tests.support.page_clients import reject
from tests.support.servers import serving
from tests.support.visitors import Visitor

HOSTILE = (
    "<script>alert(1)</script>",
    "</script></title></textarea><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)><animate onbegin=alert(1) attributeName=x dur=1s>",
    '" autofocus onfocus=alert(1) x="',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "//evil.example/x",
    "https://evil.example/?a=b#c",
    "<iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<base href=https://evil.example/><meta http-equiv=refresh content=0;url=//evil.example>",
    "<style>body{display:none}</style><link rel=stylesheet href=//evil.example>",
    "}}{{ 7 * 7 }}{% raw %}${7*7}#{7*7}<%= 7 %>",
    "&lt;b&gt;&#60;script&#62;&amp;quot;",
    "<!--session--> <!-- ]]> -->",
    "../../login",
    "..%2F..%2Flogin?next=/x#main",
    "a//b/./c/;d=%00%252F\\..\\e",
    "\u202e\u2066evil.exe\u202d gnp.",
    "Z\u0351\u036b\u0343\u036a\u0302" * 12,
    "\u2028line\u2029separators\u0085and\ttabs\nand breaks",
    "\x01\x08\x1b[31m\x7f\ufeff\u200b\ufffe\U000e0001",
    '=HYPERLINK("https://evil.example","x")',
    "w" * 128,
    "\u6f22\U0001f9d1\u200d\U0001f52c" * 20,
)
PAYLOAD = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><script>alert(1)</script>"
PHOTO = photo(8, 8, comment=PAYLOAD) + PAYLOAD
# Attributes that would run a script, or load something, if a value had become one.
ACTIVE = """() => [...document.querySelectorAll("*")].flatMap(element =>
  [...element.attributes]
    .filter(each => each.name.startsWith("on")
      || ["href", "src", "action", "formaction", "xlink:href", "srcdoc"].includes(each.name)
        && !/^(\\/(?!\\/)|data:image\\/|#|\\?)/.test(each.value))
    .map(each => `${element.tagName} ${each.name}=${each.value}`))"""
# Texts that turn the direction of others in their line; all of `HOSTILE` in a row is a paragraph.
TURNING = """first => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), results = [];
  while (texts.nextNode()) {
    const text = texts.currentNode, parent = text.parentElement;
    if (!text.data.includes("\\u202e") || text.data.includes(first)) continue;
    if (parent.closest("bdi, [dir=auto], option, textarea, script, svg")) continue;
    let block = parent;
    while (getComputedStyle(block).display.startsWith("inline")) block = block.parentElement;
    const alone = block.textContent.trim() === text.data.trim();
    if (!alone || !text.data.trim().startsWith("\\u202e")) results.push(block.outerHTML);
  }
  return results;
}"""


@pytest.fixture
def at(sqlite_url: str) -> Iterator[str]:
    with registry.connect(sqlite_url) as reg:
        _fill(reg)
        with serving(reg, ServerSettings(insecure=True)) as address:
            yield address


def _fill(reg: Registry) -> None:
    names = [text for text in HOSTILE if text.isprintable()]
    features: dict[str, Feature] = {
        "label": ClassLabel(list(HOSTILE)),
        "text": Text(),
        "picture": Image(),
        "raw": Bytes(),
        **{name: ClassLabel([f"{name}!", "x"]) for name in names[:9]},
    }
    shares = dict.fromkeys(HOSTILE[:5], 0.2)
    things = reg.create("0..-_", features, splits=shares, description=" ".join(HOSTILE))
    for number, text in enumerate(HOSTILE):
        sample = {"label": number, "text": text, "picture": PHOTO, "raw": PAYLOAD}
        zeros = dict.fromkeys(names[:9], 0)
        things.insert([{**sample, **zeros}], keys=[text], source=text, groups=[text])
        things.run(text, split=HOSTILE[number % 5])
    things.update(HOSTILE[0], text=HOSTILE[1], source=HOSTILE[19])
    run = things.run(HOSTILE[19] + HOSTILE[3], where={"label": list(HOSTILE[:20])})
    run.epoch(0)
    things.retract(HOSTILE[2], source=HOSTILE[2])
    things.insert([{**sample, **zeros}], keys=["one more"], source=HOSTILE[5])
    things.update(HOSTILE[4], label=5, source=HOSTILE[4])
    run.epoch(1)
    things.tag("0.e-_", note=" ".join(HOSTILE))
    for text in HOSTILE:
        reject(things, text, source=text, **{"label": f"{text}?", text: text})


def test_hostile_texts_run_nothing_and_leave_every_page_readable(
    at: str, visit: Callable[..., Visitor]
) -> None:
    phone = visit(at, viewport={"width": 390, "height": 800})
    links: set[str] = set()
    for path in (
        "/",
        "/datasets/0..-_",
        "/datasets/0..-_/samples",
        "/datasets/0..-_/runs",
        "/datasets/0..-_/rejected",
        "/datasets/0..-_@0.e-_/samples?" + urlencode({"key": HOSTILE[0][:3]}),
    ):
        page = _checked(phone, path)
        links |= {*page.evaluate("[...document.links].map(link => link.href)")}
    samples = sorted(link for link in links if "0..-_/samples/" in link)
    headings = set()
    for link in samples:
        page = _checked(phone, link.removeprefix(at))
        headings.add(page.locator("h1").evaluate("heading => heading.textContent"))
    # The gallery has 24 of the samples, and the page of data no other ones.
    assert len(headings) == len(samples) == 24
    assert headings < {*HOSTILE, "one more"}
    runs = sorted(link for link in links if "/runs/" in link)
    assert len(runs) == len(HOSTILE) + 1
    (run,) = [link for link in runs if "animate" in link and "evil.exe" in link]
    _checked(phone, run.removeprefix(at) + "?since=0&until=1")
    for link in links - {*samples}:
        answer = page.request.get(link)
        assert answer.ok, link
    assert all(link.startswith(at) for link in links)


def test_a_gallery_is_filtered_by_hostile_classes_and_sources(
    at: str, visit: Callable[..., Visitor]
) -> None:
    page = visit(at).open("/datasets/0..-_/samples")
    for text in HOSTILE[6:]:
        query = urlencode({"class.label": text, "source": text})
        content = page.request.get(f"{at}/datasets/0..-_/samples?{query}").text()
        assert content.count('class="card-key"') == 1, text
    # A form sends other line breaks than the name has.
    (broken,) = [number for number, text in enumerate(HOSTILE) if "\n" in text]
    page.get_by_label("label", exact=True).select_option(index=1 + broken)
    page.get_by_label("Source").select_option(value=HOSTILE[broken])
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**?class.label=*")
    assert page.locator(".card").count() == 1
    for name in ("label", "Source"):
        assert page.get_by_label(name, exact=True).input_value() == HOSTILE[broken]


def _checked(visitor: Visitor, path: str) -> Page:
    page = visitor.open(path)
    assert page.locator("h1").count() == 1, path
    visitor.fits()
    for script in (ACTIVE, TURNING):
        problems: Any = page.evaluate(script, HOSTILE[0])
        assert problems == [], path
    visitor.check()
    return page
