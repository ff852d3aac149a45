"""Loading of the images and bytes that the rows of a file name by a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from registry.errors import ImportFileError
from registry.io.media import MediaReader, safe
from registry.io.row import FileRow
from registry.samples.features import Bytes, Feature, Features, Image


def with_media(
    rows: Iterable[FileRow], features: Features, media: MediaReader, path: Path, unit: str
) -> Iterator[FileRow]:
    """Yield the rows with the content of every image and bytes feature whose value is a text.

    A row with a text that cannot be read gets an error with the line, the key and the feature.
    """
    names = [name for name, feature in features.items() if is_named(feature)]
    if not names:
        return iter(rows)

    def load(row: FileRow) -> FileRow:
        texts = {name: row.values[name] for name in names if type(row.values.get(name)) is str}
        if not texts or row.error is not None:
            return row
        loaded: dict[str, Any] = {}
        for name, text in texts.items():
            try:
                loaded[name] = media.load(text)
            except ValueError as error:
                problem = ImportFileError(
                    str(error), file=str(path), line=row.line, key=row.key, feature=name, unit=unit
                )
                # The values are kept with the error, where no password belongs.
                hidden = {each: safe(named) for each, named in texts.items()}
                return row._replace(values=row.values | hidden, error=problem)
        return row._replace(values=row.values | loaded)

    return media.map(load, rows)


def is_named(feature: Feature) -> bool:
    """Return whether a text in place of a value is the name of its content, or its base64."""
    return isinstance(feature, Image | Bytes)


def unnamed(features: Features) -> Mapping[str, Feature]:
    """Return the features whose values no text names: readers convert their texts themselves."""
    return {name: feature for name, feature in features.items() if not is_named(feature)}
