"""Writing of JSON Lines, with samples as `registry.samples.json_codec` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.io.live_samples import Samples
from registry.samples.features import Features
from registry.samples.json_codec import to_fields


@contextmanager
def writer(path: Path, features: Features, key: str) -> Iterator[Callable[[Samples], None]]:
    """Write an object a line, in UTF-8: the key, then a property per feature."""
    # Without ``newline``, Windows would write "\r\n".
    with path.open("x", encoding="utf-8", newline="\n") as file:

        def write(samples: Samples) -> None:
            for row, name in enumerate(samples.keys):
                sample = {feature: column[row] for feature, column in samples.columns.items()}
                fields = {key: name, **to_fields(features, sample)}
                file.write(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")

        yield write
