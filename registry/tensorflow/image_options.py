"""How the images of a dataset are decoded: the arguments, and their checks."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import FeatureError
from registry.samples.box_formats import BOX_FORMATS, BoxFormat
from registry.samples.features import Features, Ragged
from registry.tensorflow.image_fitting import RATIOS, Ratio, Size

Boxes = str | Mapping[str, BoxFormat]
"""A feature with boxes in the format ``rel_xyxy``, or a format for each feature with boxes."""


@dataclass(frozen=True)
class ImageOptions:
    """The arguments of a dataset that concern images; see `EpochDataset`.

    Raises `FeatureError` for what they cannot be.
    """

    channels: int = 3
    size: Size | None = None
    ratio: Ratio = "stretch"
    boxes: Boxes | None = None
    decoded: bool = True

    def __post_init__(self) -> None:
        if self.channels not in (0, 1, 3, 4):
            raise FeatureError(
                f"{self.channels} channels: an image has 1, 3 or 4, or 0 for its own"
            )
        if self.size is not None and not _is_size(self.size):
            raise FeatureError(
                f"image_size is (height, width), two numbers of pixels, not {self.size!r:.200}"
            )
        if self.ratio not in RATIOS:
            raise FeatureError(f"ratio is one of {', '.join(RATIOS)}, not {self.ratio!r:.200}")
        if self.ratio != "stretch" and self.size is None:
            raise FeatureError(f"ratio={self.ratio!r} needs image_size=(height, width)")

    @property
    def formats(self) -> Mapping[str, BoxFormat]:
        """The format of each feature that has boxes."""
        return {self.boxes: "rel_xyxy"} if isinstance(self.boxes, str) else self.boxes or {}

    def check(self, features: Features, wanted: Sequence[str], images: Sequence[str]) -> None:
        """Raise `FeatureError` unless boxes can be fitted to the images, both among ``wanted``."""
        for name, form in self.formats.items():
            if name not in features or not _may_be_boxes(features[name]):
                raise FeatureError(
                    f"boxes={name!r:.200}: boxes are a feature Ragged(dtype, (4,)) of numbers"
                )
            if form not in BOX_FORMATS:
                known = ", ".join(BOX_FORMATS)
                raise FeatureError(f"boxes of the format {form!r:.200}: use one of {known}")
        if self.size is None or not images:
            return
        if len(images) > 1 and any(name in wanted for name in self.formats):
            raise FeatureError(
                f"boxes are those of one image, but there are {', '.join(map(repr, images))}; "
                "name the image and its boxes in x and y"
            )
        unnamed = [name for name in wanted if _may_be_boxes(features[name])]
        if self.ratio != "stretch" and self.boxes is None and unnamed:
            raise FeatureError(
                f"with ratio={self.ratio!r}, the boxes of an image move: pass "
                f"boxes={unnamed[0]!r}, or boxes={{}} if {unnamed[0]!r} has no boxes"
            )


def _is_size(size: Any) -> bool:
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        return False
    return height > 0 and width > 0


def _may_be_boxes(feature: Any) -> bool:
    return isinstance(feature, Ragged) and feature.shape == (4,) and feature.dtype != "bool"
