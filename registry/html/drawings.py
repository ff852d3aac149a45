"""What is shown of a sample's values: plain text and numbers, which the templates escape.

The macros of ``templates/samples.html`` show each by its ``kind``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from registry.html.text_difference import Part
from registry.samples.box_formats import BoxFormat

Address: TypeAlias = Callable[[str], str]
"""Returns the URL of the picture of a feature."""

_LABEL_WIDTH = 38.0
"""Percent of the width of a picture that a label may take, if its box is narrower."""


@dataclass(frozen=True)
class DrawnBox:
    """A box over a picture; places and sizes are in percent of the picture's sides."""

    left: float
    top: float
    width: float
    height: float
    label: str
    color: int
    changed: bool

    @property
    def label_width(self) -> float:
        """The room for the label: the width of the box, but enough for a short word."""
        return max(self.width, _LABEL_WIDTH)

    @property
    def label_left(self) -> float:
        return max(0.0, self.left + min(0.0, 100 - self.left - self.label_width))

    @property
    def at_right(self) -> bool:
        """Whether the label ends at the right side of the box: there is no room to its right."""
        return self.label_left < self.left

    @property
    def at_top(self) -> bool:
        """Whether the label is inside of the box: there is no room above."""
        return self.top < 12


@dataclass(frozen=True)
class _Drawing:
    """What all have: the feature's name, a caption, and whether the value was changed."""

    name: str
    caption: str = field(default="", kw_only=True)
    changed: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Picture(_Drawing):
    """An image, or a placeholder with the ``problem`` why there is none.

    ``width`` and ``height`` are those at which it is shown, in CSS pixels.
    """

    kind: ClassVar[str] = "picture"
    source: str = ""
    width: int = 0
    height: int = 0
    coarse: bool = False
    boxes: list[DrawnBox] = field(default_factory=list)
    more: int = 0
    """Boxes that are not drawn."""
    labelled: bool = True
    """Whether the labels of boxes are written over the picture."""
    large: str = ""
    """The address of the picture at a larger size; empty if there is none."""
    problem: str = ""

    @property
    def alt(self) -> str:
        labels = ", ".join(box.label or "box" for box in self.boxes[:10])
        more = len(self.boxes) + self.more - 10
        boxes = f": {labels}" + (f" and {more} more" if more > 0 else "") if labels else ""
        return f"{self.name}, {self.caption}{boxes}"


@dataclass(frozen=True)
class Plot(_Drawing):
    """Lines of numbers, with the least and the largest of them as text."""

    kind: ClassVar[str] = "plot"
    paths: list[str]
    low: str
    high: str


@dataclass(frozen=True)
class Words(_Drawing):
    """Text in parts, which are marked where they differ from another text."""

    kind: ClassVar[str] = "words"
    parts: list[Part]
    left_out: int = 0
    """Characters that are not shown."""


@dataclass(frozen=True)
class ClassName(_Drawing):
    """The class of a sample; ``color`` counts from 0."""

    kind: ClassVar[str] = "class"
    text: str
    color: int


@dataclass(frozen=True)
class Numbers(_Drawing):
    """Numbers or bytes as text."""

    kind: ClassVar[str] = "numbers"
    text: str


Drawing: TypeAlias = Picture | Plot | Words | ClassName | Numbers


@dataclass(frozen=True)
class Style:
    """How samples are drawn. ``side`` is the longer side of a picture in CSS pixels.

    Pictures have the address that ``address`` returns, or are part of the page without one. Those
    that are shown smaller than they are have a link to what ``large`` returns. With
    ``whole``, values that are drawn as parts of an image are shown by themselves, too.
    """

    side: int = 176
    characters: int = 280
    boxes: int = 50
    form: BoxFormat | None = None
    address: Address | None = None
    large: Address | None = None
    whole: bool = False
    most: int | None = 8
    """Features that are drawn, at most: pictures first. None draws all, in their order."""


GALLERY = Style()
COMPACT = Style(side=112, characters=140, most=3)
SAMPLE = Style(side=480, characters=20_000, boxes=500, whole=True, most=None)
