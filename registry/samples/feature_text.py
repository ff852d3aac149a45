"""The text form of features, which `--feature` accepts and `registry show` prints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from registry.errors import FeatureError
from registry.samples.features import Bytes, ClassLabel, Feature, Image, Ragged, Tensor, Text


def parse_feature(text: str) -> Feature:
    """Parse the text form of a feature; raises `FeatureError`.

    ``uint8[8,8]``, ``float32``, ``class:10``, ``class:cat,dog``, ``image``, ``image:png``,
    ``text``, ``bytes``, ``ragged:int64``, ``ragged:float32[4]``.
    """
    kind, _, rest = text.partition(":")
    if kind == "class" and rest:
        # Cut off, since int() raises a ValueError for thousands of digits. Eleven digits are too
        # large a count, too, so ClassLabel rejects it.
        return ClassLabel(int(rest[:11]) if rest.isdecimal() else rest.split(","))
    if kind == "image":
        return Image(rest or None)  # type: ignore[arg-type]  # checked by Image itself
    if text in ("text", "bytes"):
        return Text() if text == "text" else Bytes()
    array: type[Tensor | Ragged] = Ragged if kind == "ragged" else Tensor
    if match := re.fullmatch(r"(\w+)(?:\[([\d, ]*)\])?", rest if array is Ragged else text):
        sides = (match[2] or "").replace(" ", "").split(",")
        if max(map(len, sides)) <= 9:  # int() raises a ValueError for thousands of digits
            return array(match[1], tuple(int(side) for side in sides if side))
    raise FeatureError(
        f"{text!r:.200} is not a feature; write uint8[8,8], float32, class:10, class:cat,dog, "
        "image, image:png, text, bytes, ragged:int64 or ragged:float32[4]"
    )


def feature_text(feature: Feature, *, brief: bool = False) -> str:
    """Return the text form of a feature, which `parse_feature` reads.

    If ``brief``, a count replaces the names of classes.
    """
    match feature:
        case Tensor(dtype, shape):
            return _array_text(dtype, shape)
        case ClassLabel(count=count, names=names):
            return f"class:{count if brief or names is None else ','.join(names)}"
        case Image(encoding):
            return f"image:{encoding}" if encoding else "image"
        case Ragged(dtype, shape):
            return f"ragged:{_array_text(dtype, shape)}"
        case Text():
            return "text"
        case Bytes():
            return "bytes"


def feature_texts(features: Mapping[str, Feature]) -> list[tuple[str, str]]:
    """Return the name and the text form of each feature."""
    return [(name, feature_text(feature)) for name, feature in features.items()]


def _array_text(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]" if shape else dtype
