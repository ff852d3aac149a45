"""The formats in which boxes are stored. Their names are those of Keras.

===============  ======================================================
``rel_xyxy``     left, top, right, bottom, from 0 to 1
``rel_yxyx``     top, left, bottom, right, from 0 to 1
``xyxy``         left, top, right, bottom, in pixels
``xywh``         left, top, width, height, in pixels
``center_xywh``  x and y of the center, width, height, in pixels
===============  ======================================================
"""

from __future__ import annotations

from typing import Literal, get_args

BoxFormat = Literal["rel_xyxy", "rel_yxyx", "xyxy", "xywh", "center_xywh"]
BOX_FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)
