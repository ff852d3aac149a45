"""Export of datasets for object detection, as a folder of images and annotations.

It is written next to the destination and then renamed: a failed export leaves nothing.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from registry.catalog.dataset import Dataset
from registry.catalog.live_samples import Samples, live_samples
from registry.errors import ExportFileError, FeatureError
from registry.io.detection.coco_writer import CocoWriter
from registry.io.detection.exported_image import ImageSelector
from registry.io.detection.yolo_writer import YoloWriter
from registry.samples.box_formats import BoxFormat
from registry.samples.splits import Interval
from registry.samples.text import path_problem

Progress = Callable[[int, int], None]


def export_folder(  # options that are all given by name
    dataset: Dataset,
    path: Path,
    *,
    form: str,
    boxes: BoxFormat = "rel_xyxy",
    classes: Sequence[str] = (),
    mapping: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> int:
    """Write a dataset's live samples as a COCO or YOLO dataset, and return their number.

    ``path`` is a folder that is not there yet, or is empty. The dataset has one `Image` feature,
    boxes as `Ragged` floats of shape (4,), and, if they have classes, one `Ragged` feature of their
    indexes; ``mapping`` names the features where there are several, by the names ``image``,
    ``boxes`` and ``classes``. ``boxes`` is the format in which the boxes are stored, and
    ``classes`` are the names of the classes in the order of their indexes. A dataset with splits
    has a folder for each.

    Raises `ExportFileError` for samples that cannot be written and for errors of the file system,
    and the errors of `live_samples`.
    """
    if problem := path_problem(path):
        raise ExportFileError(f"the name of a folder {problem}", file=repr(str(path)))
    # One version with its features, for the roles and all rows.
    dataset = dataset.snapshot()
    try:
        _check_splits(dataset.splits)
        selector = ImageSelector(
            dataset.features, boxes, [*classes], mapping or {}, sized=form == "coco"
        )
        path = path.resolve()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ExportFileError("it is there already; name a new folder", file=str(path))
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        part.mkdir()
        try:
            count = _write(dataset, part, form, selector, progress)
            # On Windows, a folder cannot replace another one.
            if path.exists():
                path.rmdir()
            part.rename(path)
        finally:
            # After a failure; a complete folder has been renamed, and is not there.
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise ExportFileError(error.strerror or str(error), file=str(path)) from error
    except (ValueError, FeatureError) as error:
        raise ExportFileError(str(error), file=str(path)) from None
    return count


def _write(
    dataset: Dataset,
    folder: Path,
    form: str,
    selector: ImageSelector,
    progress: Progress | None,
) -> int:
    writer = CocoWriter(folder, selector) if form == "coco" else YoloWriter(folder, selector)
    count, size = 0, 0
    with closing(writer):
        for samples in live_samples(dataset):
            for image in selector.images(samples, _splits(samples, dataset.splits)):
                writer.write(image)
            count += len(samples.keys)
            size += samples.size
            if progress is not None:
                progress(count, size)
        writer.finish()
    return count


def _check_splits(splits: Mapping[str, Interval]) -> None:
    """Raise `ValueError` for a split whose name cannot be that of a folder."""
    for name in splits:
        if re.fullmatch(r"[\w-][\w .-]*", name) is None:
            raise ValueError(f"the split {name!r} cannot be the name of a folder")


def _splits(samples: Samples, splits: Mapping[str, Interval]) -> list[str]:
    """Return the name of each sample's split, which is "" if there is none."""
    return [
        next((name for name, (start, stop) in splits.items() if start <= bucket < stop), "")
        for bucket in samples.buckets.tolist()
    ]
