"""Feature types, and `Features`, the ordered mapping of names to features that defines a sample.

The types are named as in TensorFlow Datasets. A feature is an immutable value with a JSON form. Its
encoding to bytes is in ``codec.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from registry.errors import FeatureError
from registry.samples.text import name_problem, text_problem

DTYPES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()  # noqa: SIM905
)
LARGEST_RECORD = 256 << 20
"""Maximum size of a record in bytes (PostgreSQL's limit for a value is 1 GiB)."""


Encoding: TypeAlias = Literal["jpeg", "png", "gif", "bmp", "webp"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
"""The encodings of images that TensorFlow decodes, webp from version 2.20 on."""


def _dtype(name: str) -> None:
    if name not in DTYPES:
        raise FeatureError(f"dtype {name!r:.200} is not known; choose one of {', '.join(DTYPES)}")


def _shape(shape: Iterable[int]) -> tuple[int, ...]:
    # A caller may pass a list, which is not hashable.
    sides = tuple(shape)
    if any(not isinstance(side, int) or side < 1 for side in sides):
        raise FeatureError(f"shape {sides} must consist of whole numbers of at least 1")
    # 8 bytes is the largest item: the limit does not depend on the dtype.
    if math.prod(sides) * 8 > LARGEST_RECORD:
        raise FeatureError(f"shape {sides} is too large for one sample; divide it")
    return sides


@dataclass(frozen=True)
class Tensor:
    """A dense array of a fixed dtype and shape; ``shape=()`` is a scalar.

    ``dtype`` is one of `DTYPES`. Raises `FeatureError`.
    """

    dtype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _dtype(self.dtype)
        # The dataclass is frozen, so that plain assignment raises.
        object.__setattr__(self, "shape", _shape(self.shape))


@dataclass(frozen=True)
class ClassLabel:
    """A class index, stored as int32.

    Classes are defined by a count or by their names: ``ClassLabel(["cat", "dog"])``. Values may
    be given as indexes or, if the classes have names, as names. Raises `FeatureError`.
    """

    count: int
    names: tuple[str, ...] | None

    def __init__(self, classes: int | Sequence[str]) -> None:
        # bool is a subclass of int, and str a sequence of str: both must be rejected.
        counted = isinstance(classes, int) and not isinstance(classes, bool)
        names = None if counted or not isinstance(classes, Iterable) else tuple(classes)
        count = classes if isinstance(classes, int) and counted else len(names or ())
        # The upper limit is that of int32, in which indexes are stored.
        if isinstance(classes, str | bytes) or not 0 < count < 2**31:
            raise FeatureError(
                f"ClassLabel takes a count above 0 or a list of names, not {classes!r:.200}"
            )
        if names is not None:
            for name in names:
                if problem := name_problem(name):
                    raise FeatureError(f"a class name {problem}")
            if len(set(names)) != len(names):
                raise FeatureError("class names must differ from one another")
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "names", names)


@dataclass(frozen=True)
class Image:
    """An encoded image file, stored unchanged and decoded by the training pipeline.

    ``encoding`` is one of `ENCODINGS`; with None, the files of a dataset may have any of them.
    Values are the bytes of a file, a `pathlib.Path` to one, a `PIL.Image.Image`, or a uint8 array
    of shape ``(height, width)`` or ``(height, width, channels)`` with 1, 3 or 4 channels. Images
    of Pillow and arrays are stored as PNG. Raises `FeatureError`.
    """

    encoding: Encoding | None = None

    def __post_init__(self) -> None:
        if self.encoding is not None and self.encoding not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            raise FeatureError(
                f"image encoding {self.encoding!r:.200} is unknown; use one of {known}, or none "
                "for files of any of them"
            )


@dataclass(frozen=True)
class Text:
    """Unicode text of any length, stored as UTF-8; U+0000 and lone surrogates are rejected."""


@dataclass(frozen=True)
class Bytes:
    """Bytes of any length."""


@dataclass(frozen=True)
class Ragged:
    """Any number of items of a fixed dtype and shape, such as the boxes of a picture.

    A value is an array of shape ``(n, *shape)``: one-dimensional with ``shape=()``, and boxes are
    ``Ragged("float32", (4,))``. ``dtype`` is one of `DTYPES`. Raises `FeatureError`.
    """

    dtype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _dtype(self.dtype)
        object.__setattr__(self, "shape", _shape(self.shape))


Feature: TypeAlias = Tensor | ClassLabel | Image | Text | Bytes | Ragged
FixedFeature: TypeAlias = Tensor | ClassLabel
VariableFeature: TypeAlias = Image | Text | Bytes | Ragged

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Tensor, ClassLabel, Image, Text, Bytes, Ragged)
}


class Features(Mapping[str, Feature]):
    """An ordered, immutable mapping of names to features. Raises `FeatureError`.

    Unlike dictionaries, two of them are equal only if the order is the same, too: it determines the
    layout of records.
    """

    def __init__(self, features: Mapping[str, Feature]) -> None:
        if not features:
            raise FeatureError("a dataset needs at least one feature")
        for name, feature in features.items():
            if text_problem(name) is not None or not re.fullmatch(r"[^\x00-\x1f]{1,128}", name):
                raise FeatureError(
                    f"feature name {name!r:.200} must be 1 to 128 printable characters"
                )
            # A subclass would lose its type in the JSON form.
            if type(feature) not in _KINDS.values():
                raise FeatureError(f"feature {name!r} is {feature!r:.200}; use {', '.join(_KINDS)}")
        # A copy: a change of the caller's mapping would change the layout of records.
        self._features = dict(features)

    def __getitem__(self, name: str) -> Feature:
        return self._features[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Features):
            return NotImplemented
        # As lists, since dictionaries are equal in any order.
        return list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(tuple(self.items()))

    def __repr__(self) -> str:
        return f"Features({self._features!r})"

    @property
    def fixed(self) -> dict[str, FixedFeature]:
        """The features whose values all have the same number of bytes, in order."""
        return {n: f for n, f in self.items() if isinstance(f, FixedFeature)}

    @property
    def variable(self) -> dict[str, VariableFeature]:
        """The features whose values differ in length, in order."""
        return {n: f for n, f in self.items() if not isinstance(f, FixedFeature)}

    def to_json(self) -> list[dict[str, Any]]:
        """Return the JSON form: a list, since JSONB does not keep the order of a mapping."""
        return [{"name": n, "kind": type(f).__name__, **_to_json(f)} for n, f in self.items()]

    @classmethod
    def from_json(cls, form: list[dict[str, Any]]) -> Features:
        """Read the JSON form; raises `FeatureError` if it is not one."""
        try:
            return cls({entry["name"]: _from_json(entry) for entry in form})
        except (KeyError, TypeError) as error:
            raise FeatureError(f"{form!r} is not the JSON form of features") from error


def _to_json(feature: Feature) -> dict[str, Any]:
    form = asdict(feature)
    # Earlier versions of the library read this form, which had no shape.
    if isinstance(feature, Ragged) and not feature.shape:
        del form["shape"]
    return form


def _from_json(entry: Mapping[str, Any]) -> Feature:
    facts = {name: value for name, value in entry.items() if name not in ("name", "kind")}
    kind = _KINDS[entry["kind"]]
    feature: Feature
    if kind is ClassLabel:
        feature = ClassLabel(facts["names"] or facts["count"])
    elif kind is Tensor:
        feature = Tensor(facts["dtype"], tuple(facts["shape"]))
    elif kind is Ragged:
        # Forms that earlier versions of the library stored have no shape.
        feature = Ragged(facts["dtype"], tuple(facts.get("shape", ())))
    else:
        feature = kind(**facts)
    return feature
