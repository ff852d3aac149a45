"""Cards in notebooks are self-contained, inert and small, and say what is not there."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from registry import (
    Bytes,
    ClassLabel,
    Dataset,
    Image,
    Registry,
    Tensor,
    Text,
    mix,
)
from registry.html.card import LARGEST
from registry.html.card_styles import card_styles
from tests.support.datasets import digit
from tests.support.image_files import photo

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></div><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }} &lt; \u202e\u2066",
    "\x1b[31m\n\t" * 20,
    "x" * 500,
]
_ALLOWED = {"class", "width", "height", "viewbox", "alt", "decoding", "src", "d", "x", "y", "rx"}
_ALLOWED |= {"role", "scope", "preserveaspectratio", "text-anchor", "tabindex", "dir"}


class _Parser(HTMLParser):
    """Collects a card's text outside of its styles, and checks what its elements may do."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "iframe", "object", "embed", "form", "base", "a"}
        for name, value in attrs:
            assert name in _ALLOWED or name.startswith("aria-"), name
            if name == "src":
                assert (value or "").startswith("data:image/")
        if tag not in {"img", "path", "rect", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "rect"}:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def text_of(shown: Any) -> str:
    """Return the text of an object's card, which is checked."""
    card: str = shown._repr_html_()
    assert len(card.encode()) <= LARGEST == 100_000
    assert "http" not in card
    assert "url(" not in card
    assert "@import" not in card
    parser = _Parser()
    parser.feed(card)
    assert parser.open == []
    return parser.text


@pytest.fixture
def ten(digits: Dataset) -> Dataset:
    """Ten digits of two sources, of which one is revised and one is gone."""
    digits.describe("handwritten")
    digits.insert([digit(n) for n in range(9)], keys=[f"k{n}" for n in range(9)], source="tool")
    digits.insert([digit(9)], keys=["last"], source="person")
    digits.update("k3", label=9)
    digits.retract("k4")
    return digits


def test_a_card_says_what_the_object_is(reg: Registry, ten: Dataset) -> None:
    ten.tag("gold")
    ten.insert([digit(1)])
    run = ten.run("cnn-1", seed=7, split="train")
    epoch = run.epoch(0)
    run.advance(3)
    both = mix({run: 3, ten.run("cnn-2"): 1})
    lost = both._repr_html_()
    both.record(0, rewind=True)
    both.advance(8)
    (page,) = ten.pages(until=12)
    expected: list[tuple[object, list[str]]] = [
        (reg, ["Registry", "digits", "handwritten", "live samples"]),
        (ten, ["Dataset", "digits", "handwritten", "uint8[2,2]", "class:10", "last", "person"]),
        (reg.open("digits@gold"), ["Version of a dataset", "digits@12:"]),
        (run, ["Run", "cnn-1", "train", "seed", "7", "consumed", f"{epoch.size}"]),
        (epoch, ["Epoch", "0 of cnn-1", f"{epoch.size}", "offset 0"]),
        (both, ["Mix", "cnn-1 + cnn-2 (", "75.00%", "25.00%", "consumed", "8", "uint8[2,2]"]),
        (page, ["Page of a log", "positions 0 to 12", "revised", "retracted", "position 0"]),
    ]
    for shown, words in expected:
        text = text_of(shown)
        assert [word for word in words if word not in text] == []
    # Its runs have consumed what no position of the mix has.
    assert lost is not None
    assert "have consumed" in lost


def test_hostile_text_is_shown_and_nothing_of_it_runs(reg: Registry) -> None:
    classes = [name[:200] for name in HOSTILE]
    dataset = reg.create(
        "hostile",
        {'<b>"name"': Text(), "kind": ClassLabel(classes), "blob": Bytes()},
        splits={"<i>a</i>": 0.5, "b": 0.5},
        description=HOSTILE[0],
    )
    for number, text in enumerate(HOSTILE):
        row = {'<b>"name"': text, "kind": number, "blob": text.encode()}
        dataset.insert([row], keys=[text[:200]], source=text[:200])
    run = dataset.run(HOSTILE[0], where={"source": [HOSTILE[1]]})
    (page,) = dataset.pages()
    for shown in (reg, dataset, run, run.epoch(0), page):
        assert HOSTILE[0] in text_of(shown)
    assert all(text[:60] in text_of(dataset) for text in HOSTILE[:4])


def test_what_does_not_fit_is_left_out(reg: Registry) -> None:
    features: dict[str, Any] = {f"photo {n}": Image() for n in range(4)}
    features |= {f"feature {n} {'x' * 100}": Tensor("float32", (64,)) for n in range(200)}
    photos = reg.create("photos", features)
    noise = [photo(200, 300) for _ in range(4)]
    sample: dict[str, Any] = {name: np.zeros(64, np.float32) for name in features}
    sample |= {f"photo {n}": noise[n] for n in range(4)}
    photos.insert([sample] * 9)
    for shown in (photos, photos.run("r").epoch(0), next(photos.pages())):
        assert "and 154 more" in text_of(shown)
    for number in range(60):
        reg.create(f"empty-{number}", {"x": Text()}, description="é" * 4000)
    assert "and 11 more" in text_of(reg)


def test_a_card_without_samples_or_without_the_database_says_so(
    reg: Registry, digits: Dataset
) -> None:
    run = digits.run("r")
    for shown in (digits, run):
        assert "0" in text_of(shown)
    reg.drop("digits")
    for shown in (digits, run):
        assert "was dropped" in text_of(shown)


def test_there_is_no_card_without_its_libraries(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.html.card.find_spec", lambda _name: None)
    assert digits._repr_html_() is None


def test_every_rule_of_a_card_is_within_it() -> None:
    rules = [line for line in card_styles().splitlines() if line and not line.startswith("@media")]
    selectors = [each for rule in rules for each in rule.partition("{")[0].split(",")]
    assert len(selectors) > 80
    outside = [each for each in selectors if ".registry-card.registry-card" not in each]
    # The parts of a condition on the notebook's theme, which has commas itself.
    assert [each for each in outside if "theme" not in each and "vscode" not in each] == []
