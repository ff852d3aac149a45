"""Mappings of the parts of a Label Studio annotation to features.

A mapping gives the path of a feature's value, by the feature's name:

=================================  ===========================================================
``data.text``, ``data.meta.page``  a value of the task's data
``task.id``                        the task's id
``annotation.lead_time``           also ``annotation.id`` and ``annotation.completed_by``
``result.mood``                    the one answer to the control whose ``from_name`` is ``mood``:
                                   a choice, rating, number, text, date or label
``result.mood.json``               all answers to it, as JSON text
``result.mood.classes[good,bad]``  each choice or label, as its index in this list
``result.box.percent``             x, y, width, height of each rectangle, flattened, in percent of
                                   the picture's size, as Label Studio stores them
``result.box.pixels``              the same, in pixels of the original picture
``result.box.rel_xyxy``            each rectangle as a box of a named format, of shape (n, 4) for
                                   `Ragged` of shape (4,): also ``.rel_yxyx``, ``.xyxy``,
                                   ``.xywh``, ``.center_xywh`` (`registry.io.labeling.boxes`)
``result.name.spans``              start and end of each span of text
=================================  ===========================================================

Those with several values make a `Ragged` feature. Where classes have no names, a choice such as
"3" is an index. A feature that the mapping leaves out takes the answer to the control of the same
name or, if there is none, the task's data of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping

from registry.io.labeling.annotation import PathSyntax
from registry.io.labeling.rules import Rules, parse_mapping
from registry.samples.features import Features

PATHS = PathSyntax(
    answers="result",
    objects={"data": "the task's data"},
    values=("task.id", "annotation.id", "annotation.completed_by", "annotation.lead_time"),
    own=("annotation",),
    forms="data.NAME, result.NAME, result.NAME.json (.rel_xyxy, .xyxy, .xywh, .center_xywh, "
    ".rel_yxyx, .percent, .pixels, .spans, .classes[a,b])",
)


def check_mapping(
    features: Features, mapping: Mapping[str, str] | None, *, hull: bool = False
) -> Rules:
    """Return the parsed mapping, as `parse_mapping` does."""
    return parse_mapping(features, mapping, PATHS, hull=hull)
