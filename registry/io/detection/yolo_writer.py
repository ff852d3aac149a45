"""Writing of YOLO: ``data.yaml``, and a folder of images and one of labels for each split."""

from __future__ import annotations

import json
from pathlib import Path

from registry.io.detection.exported_image import ExportedImage, ImageSelector
from registry.io.labeling.boxes import Size, boxes_of

_WHOLE = Size(1, 1)
_VALIDATION = ("val", "validation", "valid", "test")
"""The splits that can be ``val``, which Ultralytics needs, the best first."""


class YoloWriter:
    """Writes the images into a new folder."""

    def __init__(self, folder: Path, selector: ImageSelector) -> None:
        self._folder = folder
        self._selector = selector
        self._splits: list[str] = []

    def write(self, image: ExportedImage) -> None:
        split = image.split or "train"
        images, labels = (self._folder / name / split for name in ("images", "labels"))
        if split not in self._splits:
            self._splits.append(split)
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
        (images / image.name).write_bytes(image.content)
        # As shares of the image, whatever its size is.
        boxes = boxes_of(image.corners, "center_xywh", _WHOLE).tolist()
        lines = [
            " ".join([str(index), *(f"{side:.8g}" for side in box)]) + "\n"
            for box, index in zip(boxes, image.classes, strict=True)
        ]
        path = (labels / image.name).with_suffix(".txt")
        path.write_text("".join(lines), encoding="ascii", newline="\n")

    def finish(self) -> None:
        """Write the ``data.yaml``, now that all classes are known."""
        entries = {split: f"images/{split}" for split in sorted(self._splits)}
        rest = [split for split in (*_VALIDATION, "train") if split in entries]
        # Ultralytics trains on nothing without a validation set, and calls it so.
        if "val" not in entries and rest:
            entries["val"] = entries[rest[0]]
        names = dict(enumerate(self._selector.names))
        # JSON strings are YAML, too, whatever is in them.
        lines = [f"{json.dumps(name)}: {json.dumps(path)}" for name, path in entries.items()]
        lines += [f"nc: {len(names)}", "names:"]
        lines += [f"  {index}: {json.dumps(name)}" for index, name in names.items()]
        text = "\n".join(lines) + "\n"
        (self._folder / "data.yaml").write_text(text, encoding="utf-8", newline="\n")

    def close(self) -> None:
        """Do nothing: no file is open between two images."""
