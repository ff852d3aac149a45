"""Decoding every image of a log, to find those that would make training fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from registry.distribution import install_extra
from registry.errors import RegistryError
from registry.samples.features import Encoding, Image
from registry.samples.image_header import encoding_of
from registry.samples.pillow import opener
from registry.storage.database.transactions import read
from registry.storage.log.entries import entries
from registry.storage.log.page import Page
from registry.storage.log.paging import pages
from registry.storage.log.reader import Log

Decode = Callable[[bytes], None]
"""Decodes a file; raises any `Exception` if that fails."""


@dataclass(frozen=True)
class BrokenImage:
    """An image that cannot be decoded; ``live`` unless its sample was revised or retracted since.

    If it is not live, only epochs that were pinned before the revision or retraction hold it.
    """

    position: int
    key: str
    feature: str
    reason: str
    live: bool


def broken_images(log: Log, until: int) -> list[BrokenImage]:
    """Decode all images at positions ``[0, until)``; return those that cannot be decoded.

    Pillow decodes them, in as many threads as there are cores, or TensorFlow without Pillow. Raises
    `RegistryError` if neither is installed.
    """
    decode, failures, superseded = _decoder(), list[tuple[int, str, str]](), set[int]()
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="registry-images") as pool:
        for page in pages(log, 0, until):
            failures += _failures(page, decode, pool)
            # A revision may be on a later page than the broken image that it supersedes: it is
            # compared with those of all pages so far.
            broken = {position for position, _, _ in failures}
            superseded |= broken.intersection(page.supersedes.tolist())
    return [
        BrokenImage(position, _key(log, position), feature, reason, position not in superseded)
        for position, feature, reason in failures
    ]


def _failures(
    page: Page, decode: Decode, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, str, str]]:
    positions = page.positions.tolist()
    for name, feature in page.codec.features.items():
        if isinstance(feature, Image):
            encoding = feature.encoding
            # Bound as a default: the lambda runs later, when ``encoding`` may be another one's.
            reasons = pool.map(lambda file, as_=encoding: _reason(decode, as_, file), page[name])
            for position, reason in zip(positions, reasons, strict=True):
                if reason is not None:
                    yield position, name, reason


def _reason(decode: Decode, encoding: Encoding | None, file: bytes) -> str | None:
    if encoding not in (None, encoding_of(file)):
        return f"it is no {encoding} file"
    try:
        decode(file)
    except Exception as error:  # noqa: BLE001  # decoders raise what they like
        return str(error) or type(error).__name__
    return None


def _key(log: Log, position: int) -> str:
    return read(log.engine, entries, log.dataset_id, position, position + 1)[0].key


def _decoder() -> Decode:
    try:
        return _pillow()
    except RegistryError:
        pass
    try:
        return _tensorflow()
    except ModuleNotFoundError:
        raise RegistryError(
            f"decoding images needs Pillow or TensorFlow; run: {install_extra('images')}"
        ) from None


def _pillow() -> Decode:
    open_file = opener()

    def decode(file: bytes) -> None:
        with open_file(file) as image:
            image.load()

    return decode


def _tensorflow() -> Decode:
    # TensorFlow takes seconds to load.
    from registry.tensorflow.image_decoding import decode_image  # noqa: PLC0415

    def decode(file: bytes) -> None:
        decode_image(file, encoding_of(file), channels=3)

    return decode
