"""Shapes that people draw on images, in CVAT and LabelMe, and the fields that are made of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from registry.io.labeling.boxes import Size, hull

Points = Sequence[Sequence[float]]
Role = Literal["box", "polygon", "area", "line", "points"]
_BOXED = ("boxes", "names", "classes")
_OUTLINED = ("polygons", "shapes")


@dataclass(frozen=True)
class Shape:
    """A shape, in pixels of the image.

    ``name`` is the shape's in messages, ``kind`` the tool's word for what it is. ``points`` are
    those that the tool stores. ``outline`` has points whose hull is the shape's; those of a box are
    two corners. Lines and points have none.
    """

    name: str
    kind: str
    label: str
    points: Points
    role: Role
    outline: Points = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


class ShapeFields:
    """Makes the boxes and fields of an image's shapes.

    ``paths`` are those that features take values from. With ``hulls``, polygons, circles and
    rotated boxes are boxes, too. Otherwise they are refused where boxes are taken and neither
    polygons nor shapes are: they would be lost.
    """

    def __init__(
        self, paths: Collection[str], *, hulls: bool, labels: Sequence[str] | None = None
    ) -> None:
        self.used: set[str] = {path.partition(".")[0] for path in paths}
        self._hulls = hulls
        self._indexes = {label: index for index, label in enumerate(labels or ())}
        self._is_boxed = not self.used.isdisjoint(_BOXED)
        self._is_outlined = not self.used.isdisjoint(_OUTLINED)

    def boxed(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Return the shapes that make boxes; raises `ValueError` for one that would be lost."""
        areas = ("box", "polygon", "area") if self._hulls else ("box",)
        for shape in shapes:
            is_lost = shape.role in ("polygon", "area") and not self._is_outlined
            if is_lost and self._is_boxed and not self._hulls:
                raise ValueError(
                    f"{shape.name} is a {shape.kind}, which four numbers cannot say; take its hull "
                    "with --rotated hull, or map polygons or shapes"
                )
        return [shape for shape in shapes if shape.role in areas]

    def fields(self, shapes: Sequence[Shape], boxed: Sequence[Shape]) -> dict[str, Any]:
        """Return the fields that are made of shapes; raises `ValueError`."""
        fields = {
            "names": [shape.label for shape in boxed],
            "polygons": [_region(shape) for shape in shapes if shape.role == "polygon"],
            "lines": [_region(shape) for shape in shapes if shape.role == "line"],
            "points": [_region(shape) for shape in shapes if shape.role == "points"],
            "shapes": [{"type": shape.kind, **_region(shape)} for shape in shapes],
        }
        if "classes" in self.used:
            fields["classes"] = [self._index(shape) for shape in boxed]
        return fields

    def _index(self, shape: Shape) -> int:
        if shape.label not in self._indexes:
            raise ValueError(
                f"{shape.name} has the label {shape.label!r:.40}, whose index the file does not "
                "say; map classes by name, as in names.classes[cat,dog]"
            )
        return self._indexes[shape.label]


def box_of(shape: Shape, size: Size | None) -> list[float]:
    """Return left, top, right and bottom of a shape in pixels."""
    # A box is not clipped: one that is outside of the image is an error.
    return hull(shape.outline, None if shape.role == "box" else size)


def _region(shape: Shape) -> dict[str, Any]:
    """Return a shape as a region of the answers of tools, whose class is in ``labels``."""
    return {
        "labels": [shape.label],
        "points": [[*point] for point in shape.points],
        **({"attributes": dict(shape.attributes)} if shape.attributes else {}),
    }
