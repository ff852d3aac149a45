"""Writing of COCO: an annotation file and a folder of images for each split.

Without splits, they are ``annotations/instances_all.json`` and ``images/all/``.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Any

from registry.io.detection.exported_image import ExportedImage, ImageSelector
from registry.io.labeling.boxes import boxes_of

_DIGITS = 4
"""Digits after the point of a number of pixels, which is that of a float32 in a large image."""


class CocoWriter:
    """Writes the images into a new folder."""

    def __init__(self, folder: Path, selector: ImageSelector) -> None:
        self._folder = folder
        self._selector = selector
        self._parts: dict[str, _Part] = {}
        self._files = ExitStack()
        (folder / "annotations").mkdir()

    def write(self, image: ExportedImage) -> None:
        split = image.split or "all"
        if split not in self._parts:
            self._parts[split] = _Part(self._folder, split, self._files)
        self._parts[split].write(image)

    def finish(self) -> None:
        """Complete the annotation files, now that all classes are known."""
        for part in self._parts.values():
            part.finish(self._selector.names)

    def close(self) -> None:
        self._files.close()


class _Part:
    """The images and the annotation file of a split."""

    def __init__(self, folder: Path, split: str, files: ExitStack) -> None:
        self._images = folder / "images" / split
        self._images.mkdir(parents=True)
        path = folder / "annotations" / f"instances_{split}.json"
        self._file: IO[str] = files.enter_context(path.open("x", encoding="utf-8", newline="\n"))
        # The annotations follow the images in the file: until then they are in one of their own.
        self._other = path.with_suffix(".part")
        self._annotations: IO[str] = files.enter_context(
            self._other.open("x+", encoding="utf-8", newline="\n")
        )
        self._counts = [0, 0]
        self._file.write('{"images": [')

    def write(self, image: ExportedImage) -> None:
        assert image.size is not None  # the selector is asked for sizes
        (self._images / image.name).write_bytes(image.content)
        number = self._write(
            0,
            self._file,
            {
                "file_name": image.name,
                "width": image.size.width,
                "height": image.size.height,
                "key": image.key,
                "group": image.group,
            },
        )
        boxes = boxes_of(image.corners, "xywh", image.size)
        for box, index in zip(boxes.round(_DIGITS).tolist(), image.classes, strict=True):
            self._write(
                1,
                self._annotations,
                {
                    "image_id": number,
                    "category_id": index + 1,
                    "bbox": box,
                    "area": round(box[2] * box[3], _DIGITS),
                    "iscrowd": 0,
                },
            )

    def finish(self, names: list[str]) -> None:
        self._file.write('\n], "annotations": [')
        self._annotations.seek(0)
        copyfileobj(self._annotations, self._file)
        # Ids count from 1, as COCO's own do.
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        self._file.write(f'\n], "categories": {json.dumps(categories, ensure_ascii=False)}}}\n')
        self._annotations.close()
        self._other.unlink()

    def _write(self, kind: int, file: IO[str], properties: dict[str, Any]) -> int:
        """Write an object with the next id, and return the id."""
        comma = "," if self._counts[kind] else ""
        self._counts[kind] += 1
        number = self._counts[kind]
        file.write(f"{comma}\n{json.dumps({'id': number, **properties}, ensure_ascii=False)}")
        return number
