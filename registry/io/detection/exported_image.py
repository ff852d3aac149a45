"""The images of a dataset as an export for object detection writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from registry.catalog.live_samples import Samples
from registry.errors import FeatureError
from registry.io.detection.image_size import image_size
from registry.io.labeling.boxes import Array, Size, corners_of
from registry.samples.box_formats import BoxFormat
from registry.samples.features import Feature, Features, Image, Ragged
from registry.samples.image_header import encoding_of

_SUFFIXES = {"jpeg": "jpg"}
_ROLES = ("image", "boxes", "classes")


class ExportedImage(NamedTuple):
    """An image: its sample's key, group and split, its file, and its boxes as corners.

    ``classes`` has the index of the class of each box, ``size`` is None unless it was asked for,
    and ``split`` is "" in a dataset without splits.
    """

    key: str
    group: str | None
    split: str
    name: str
    content: bytes
    size: Size | None
    corners: Array
    classes: Sequence[int]


@dataclass
class ImageSelector:
    """Selects the parts of samples that an export for object detection has.

    ``roles`` has the features that take the roles ``image``, ``boxes`` and ``classes``, ``form`` is
    the format of the boxes, and ``names`` are those of the classes; without them, each class is
    called by its index, and `names` grows with the classes. Raises `FeatureError`.
    """

    features: Features
    form: BoxFormat
    names: list[str] = field(default_factory=list)
    mapping: Mapping[str, str] = field(default_factory=dict)
    sized: bool = False

    def __post_init__(self) -> None:
        self._roles = _roles(self.features, self.mapping)
        self._is_named = bool(self.names)

    def images(self, samples: Samples, splits: Sequence[str]) -> Iterator[ExportedImage]:
        """Yield the images of samples, whose splits are given; raises `ValueError` with the key."""
        for row, names in enumerate(zip(samples.keys, samples.groups, splits, strict=True)):
            values = {role: samples.columns[n][row] for role, n in self._roles.items()}
            try:
                yield self._image(*names, values)
            except ValueError as error:
                raise ValueError(f"key {names[0]!r}: {error}") from None

    def _image(
        self, key: str, group: str | None, split: str, values: Mapping[str, Any]
    ) -> ExportedImage:
        content, boxes, classes = bytes(values["image"]), values["boxes"], values.get("classes")
        is_relative = self.form.startswith("rel_")
        size = image_size(content) if self.sized or (len(boxes) and not is_relative) else None
        corners = corners_of(boxes, self.form, size or Size(1, 1))
        indexes = [0] * len(corners) if classes is None else np.asarray(classes).tolist()
        if len(indexes) != len(corners):
            raise ValueError(f"{len(corners)} boxes have {len(indexes)} classes")
        for index in indexes:
            self._check_class(index, is_counted=classes is not None)
        name = _file_name(key, content)
        return ExportedImage(key, group, split, name, content, size, corners, indexes)

    def _check_class(self, index: int, *, is_counted: bool) -> None:
        if index < 0 or (self._is_named and index >= len(self.names)):
            raise ValueError(f"class {index} is none of the {len(self.names)} that are named")
        if not self._is_named and index >= len(self.names):
            new = range(len(self.names), index + 1)
            self.names += [str(each) for each in new] if is_counted else ["object"]


def _roles(features: Features, mapping: Mapping[str, str]) -> dict[str, str]:
    """Return the feature of each role: the one that is named, or the only one that fits."""
    for role in mapping:
        if role not in _ROLES:
            raise FeatureError(f"{role!r} is nothing to export; map {', '.join(_ROLES)}")
    roles: dict[str, str] = {}
    for role in _ROLES:
        fitting = [name for name, feature in features.items() if _fits(role, feature)]
        if role in mapping:
            if mapping[role] not in fitting:
                fit = ", ".join(map(repr, fitting)) or "none"
                reason = f"{mapping[role]!r} cannot be the {role}; the features that fit: {fit}"
                raise FeatureError(reason)
            roles[role] = mapping[role]
        elif len(fitting) == 1:
            (roles[role],) = fitting
        elif fitting or role != "classes":
            named = ", ".join(map(repr, fitting)) or "no feature"
            raise FeatureError(
                f"the {role} could be {named}; say which by --map {role}=FEATURE. An image is an "
                "Image, boxes are a Ragged of floats and shape (4,), and classes a Ragged of "
                "whole numbers"
            )
    return roles


def _fits(role: str, feature: Feature) -> bool:
    if role == "image":
        return isinstance(feature, Image)
    if not isinstance(feature, Ragged):
        return False
    if role == "boxes":
        return feature.shape == (4,) and feature.dtype.startswith("float")
    return not feature.shape and feature.dtype.startswith(("int", "uint"))


def _file_name(key: str, content: bytes) -> str:
    """Return the name of an image's file: the same in every export, and another for another key."""
    encoding = encoding_of(content)
    suffix = "bin" if encoding is None else _SUFFIXES.get(encoding, encoding)
    last = re.split(r"[/:\\]", key)[-1].rpartition(".")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", last[0] or last[2])[:64].strip("-")
    digest = blake2b(key.encode(), digest_size=6).hexdigest()
    return f"{stem}-{digest}.{suffix}" if stem else f"{digest}.{suffix}"
