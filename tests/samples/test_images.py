"""Checks of image files on insert, and decoding of all stored images by `verify`."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from registry import ClassLabel, Dataset, Features, Image, Registry
from registry.cli.base import app
from registry.errors import FeatureError, ImageError, InvalidSampleError, RegistryError
from registry.samples.codec import Codec
from registry.samples.image_header import check_file
from tests.support.image_files import JPEG, PNG, chunk, photo, png

GRAY = Pillow.new("RGB", (9, 9), "gray")
WITH_THUMBNAIL = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(JPEG) + 2) + JPEG + JPEG[2:]
FILES = {
    "baseline": photo(),
    "progressive": photo(progressive=True),
    "restarts": photo(restart_marker_blocks=1),
    "gray, filled": photo().replace(b"\xff\xda", b"\xff\xff\xff\xda"),
    "thumbnail": WITH_THUMBNAIL,
    "png": photo(format="PNG"),
    "one pixel": png(),
    "gif": photo(format="GIF"),
    "gif, animated": photo(9, 9, format="GIF", save_all=True, append_images=[GRAY]),
    "webp": photo(format="WEBP"),
    "webp, lossless": photo(9, 9, format="WEBP", lossless=True),
    "webp, extended": photo(9, 9, format="WEBP", exif=b"Exif\0\0"),
    "bmp": photo(5, 7, format="BMP"),
    "bmp, gray": photo(5, 7, mode="L", format="BMP"),
    "bmp, masks": photo(5, 7, mode="RGBA", format="BMP"),
}


def problem(file: bytes) -> str | None:
    """Return the reason for which `check_file` rejects a file, or None."""
    try:
        check_file(file, None)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", FILES)
def test_a_complete_file_is_accepted_and_one_cut_anywhere_is_rejected(kind: str) -> None:
    file = FILES[kind]
    Pillow.open(io.BytesIO(file)).load()
    for rest in (b"", b"\0" * 7, JPEG, PNG, b"\xff\xd9", b"\xff"):
        assert problem(file + rest) is None, "decoders do not read past the end"
    for length in range(18, len(file)):
        assert (problem(file[:length]) or "").startswith("the image is cut off"), length
        # These two say only how long they are.
        if not kind.startswith(("bmp", "webp")):
            assert problem(file[:length] + b"\0" * 50) is not None, length


def _chunks(*parts: tuple[bytes, bytes]) -> bytes:
    return PNG[:8] + b"".join(chunk(*part) for part in parts)


def _gif(width: int, height: int, frames: int, canvas: tuple[int, int] | None = None) -> bytes:
    size = struct.pack("<HH", width, height)
    frame = b",\0\0\0\0" + size + b"\0\2\2\x44\1\0"
    picture = struct.pack("<HH", *(canvas or (width, height)))
    return b"GIF89a" + picture + bytes(3) + frames * frame + b";"


def _bmp(width: int, height: int, bits: int = 24, compression: int = 0, header: int = 40) -> bytes:
    sizes = struct.pack("<IIiiHHII", 54, header, width, height, 1, bits, compression, 0)
    return b"BM" + bytes(8) + sizes + bytes(16) + bytes(1024)


def _webp(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


ANIMATED = photo(9, 9, format="WEBP", save_all=True, append_images=[GRAY])
HEAD, PIXELS, END = (b"IHDR", PNG[16:29]), (b"IDAT", b"x"), (b"IEND", b"")
DAMAGED = [
    (PNG[:45] + b"?" + PNG[46:], "its 'IDAT' chunk fails its checksum"),
    (_chunks(HEAD, END), "it holds no pixels"),
    (_chunks(PIXELS, HEAD, END), "its first chunk is no header"),
    (_chunks((b"IHDR", bytes(13)), PIXELS, END), "claims 0 by 0 pixels"),
    (_chunks((b"IHDR", struct.pack(">II", 65000, 70000) + bytes(5))), "claims 65000 by 70000"),
    (b"\xff\xd8\xff\xd9", "it holds no pixels"),
    (b"\xff\xd8\xff\xda\x00\x02..\xff\xd9", "it holds no frame before its pixels"),
    (JPEG[: JPEG.index(b"\xff\xda")] + b"\xff\xd9", "it holds no pixels"),
    (png(50_000, 50_000), "claims 50000 by 50000 pixels"),
    (_gif(3, 0, 1), "claims 3 by 0 pixels"),
    (_gif(3, 2, 0), "it holds no pixels"),
    (_gif(50_000, 50_000, 1), "claims 50000 by 50000 pixels"),
    (_gif(10_000, 10_000, 3), "claims 300,000,000 pixels in its frames"),
    (_gif(3, 2, 1, (4, 2)), "gif file whose first frame does not fill the picture"),
    (_gif(3, 2, 1)[:-1] + _gif(4, 2, 1)[13:], "a frame reaches out of the picture"),
    (_gif(3, 2, 1)[:-1] + b"?;", "it holds a block of kind 0x3f"),
    (_bmp(0, 2), "claims 0 by 2 pixels"),
    (_bmp(3, -2_000_000_000), "claims 3 by 2000000000 pixels"),
    (_bmp(300, -200), "it has 1,078 of 180,054 bytes"),
    (_bmp(3, 2, bits=8), "bmp file with a palette of colors, which TensorFlow cannot decode"),
    (_bmp(3, 2, bits=4), "bmp file with 4 bits for each pixel and compression 0"),
    (_bmp(3, 2, bits=8, compression=1), "bmp file with 8 bits for each pixel and compression 1"),
    (_bmp(3, 2, bits=32, compression=3), "bmp file with channels in another order"),
    (_bmp(3, 2, header=12), "bmp file with a header of 12 bytes"),
    (ANIMATED, "an animated webp file, which TensorFlow cannot decode"),
    (_webp((b"VP8X", bytes(4) + b"\xff" * 6)), "claims 16777216 by 16777216 pixels"),
    (_webp((b"VP8X", bytes(10)), (b"EXIF", b"")), "it holds no pixels"),
    (_webp((b"VP8L", b"\x30" + bytes(9))), "it holds no pixels"),
    (_webp((b"VP8 ", b"...\x9d\x01\x2a" + bytes(4))), "claims 0 by 0 pixels"),
    (_webp((b"VP8L", bytes(9)))[:16] + b"\xff" * 14, "a chunk is longer than the file"),
]
OTHERS = [
    (b"", "they are empty"),
    (b"II*\0....", "they are TIFF"),
    (b"\0\0\0\x20ftypavif", "they are AVIF"),
    (b"\0\0\0\x18ftypheic", "they are HEIC"),
    (b"%PDF-1.7", "they are PDF"),
    (b'<?xml version="1.0"?><svg>', "they are SVG"),
    (b"\n<html>", "they are HTML or XML"),
    (b'{"error": 404}', "they are JSON"),
    (b"BMW is a car maker", "webp file$"),
    (b"?", "webp file$"),
]


@pytest.mark.parametrize(("file", "kind"), OTHERS)
def test_bytes_of_another_format_are_named(file: bytes, kind: str) -> None:
    reason = problem(file) or ""
    assert reason.startswith("the bytes are not a jpeg, png, gif, bmp or webp file")
    assert re.search(kind, reason)


@pytest.mark.parametrize(("file", "reason"), DAMAGED)
def test_a_file_that_no_decoder_accepts_is_rejected_with_the_reason(
    file: bytes, reason: str
) -> None:
    assert reason in (problem(file) or "")


def test_a_bad_checksum_matters_only_where_decoders_need_the_chunk() -> None:
    with_text = _chunks(HEAD, (b"tEXt", b"a\0b"), (b"IDAT", PNG[41:-16]), END)
    assert problem(with_text) is None
    assert problem(with_text.replace(b"a\0b", b"a\0c")) is None


@pytest.fixture
def photos(reg: Registry) -> Dataset:
    return reg.create("photos", {"photo": Image()})


def test_images_of_pillow_arrays_and_paths_are_stored_as_files_without_loss(
    photos: Dataset, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    colors = Pillow.fromarray(rng.integers(0, 256, (5, 7, 4), np.uint8))
    wide = Pillow.fromarray(rng.integers(0, 2**16, (5, 7), np.uint16))
    images = [wide, *(colors.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA"))]
    shapes = [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)]
    arrays = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    (tmp_path / "photo").write_bytes(JPEG + b"rest")
    photos.insert(
        {"photo": [*images, *arrays, tmp_path / "photo", memoryview(JPEG)]},
        keys=[str(number) for number in range(13)],
    )
    stored = [photos.get(str(number))["photo"] for number in range(13)]
    for file, image in zip(stored, images, strict=False):
        with Pillow.open(io.BytesIO(file)) as opened:
            assert (opened.format, opened.mode) == ("PNG", image.mode)
            assert opened.tobytes() == image.tobytes()
    for file, array in zip(stored[7:11], arrays, strict=True):
        with Pillow.open(io.BytesIO(file)) as opened:
            np.testing.assert_array_equal(
                np.asarray(opened), array.squeeze(-1) if array.shape[2:] == (1,) else array
            )
    assert stored[11:] == [JPEG + b"rest", JPEG]
    report = photos.insert({"photo": np.stack(arrays[2:3] * 2)}, keys=["9", "again"])
    assert (report.unchanged, report.inserted) == (1, 1), "a stack of images is a column of them"


UNFIT = [
    (Pillow.new("CMYK", (2, 2)), "PNG cannot hold an image of mode 'CMYK' without loss"),
    (Pillow.new("F", (2, 2)), "PNG cannot hold an image of mode 'F' without loss"),
    (Pillow.new("I", (2, 2)), "PNG cannot hold an image of mode 'I' without loss"),
    (Pillow.new("YCbCr", (2, 2)), "PNG cannot hold an image of mode 'YCbCr' without loss"),
    (Pillow.new("L", (0, 2)), "the image claims 0 by 2 pixels"),
    (Pillow.open(io.BytesIO(photo()[:-99])), "the image cannot be read (image file is truncated"),
    (np.zeros((2, 2)), "an image is an array of uint8, not of float64"),
    (np.zeros(4, np.uint8), "shape (4,) is not (height, width) or (height, width, 1, 3 or 4)"),
    (np.zeros((2, 2, 2), np.uint8), "shape (2, 2, 2) is not (height, width) or (height, width, 1"),
    (np.zeros((0, 2), np.uint8), "the image claims 2 by 0 pixels"),
    (Path("text"), "text: the bytes are not a jpeg, png, gif, bmp or webp file; they are JSON"),
    (Path("cut.jpg"), "cut.jpg: the image is cut off"),
    (Path("gone.jpg"), "gone.jpg cannot be read (No such file or directory)"),
    (Path("folder"), "folder is no file that can be read to its end"),
    (Path("pipe"), "pipe is no file that can be read to its end"),
    (Path("a\0b"), r"the path 'a\x00b' cannot hold \x00"),
    ("cut.jpg", "a value of type str is not bytes, a pathlib.Path, a PIL image or a uint8 array"),
    (None, "None is not bytes"),
]


@pytest.mark.parametrize(("value", "reason"), UNFIT)
def test_a_value_that_is_no_image_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text('{"a": 1}')
    Path("cut.jpg").write_bytes(JPEG[:-1])
    Path("folder").mkdir()
    os.mkfifo("pipe")
    with pytest.raises(InvalidSampleError) as caught:
        Codec(Features({"photo": Image()})).encode({"photo": [PNG, value]}, ["a", "b"])
    assert str(caught.value).startswith(f"row 1, key 'b', feature 'photo': {reason}")


@pytest.mark.parametrize("value", [np.zeros((2, 2), np.uint8), Pillow.new("L", (2, 2))])
def test_an_array_does_not_fit_a_feature_of_jpeg_files(value: Any) -> None:
    with pytest.raises(InvalidSampleError, match="is stored as png, and the feature takes jpeg"):
        Codec(Features({"photo": Image("jpeg")})).encode({"photo": [value]})


def test_batches_of_decoded_images_name_the_one_that_is_broken(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _store_unchecked(reg, monkeypatch, whole=JPEG, cut=JPEG[:-99])
    epoch = dataset.run("r").epoch(0)
    for batches in (
        epoch.batches(1, decode_images=True),
        dataset.run("r").stream(2, start=0, decode_images=True),
    ):
        with pytest.raises(ImageError, match="position 1, key 'cut', feature 'photo'"):
            list(batches)
    with pytest.raises(FeatureError, match="2 channels"):
        epoch.batches(1, decode_images=True, channels=2)


def test_without_pillow_what_needs_it_names_the_extra(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = reg.create("photos", {"photo": Image()})
    photos.insert({"photo": [PNG]})
    epoch = photos.run("r").epoch(0)
    monkeypatch.setitem(sys.modules, "PIL", None)
    (batch,) = epoch.batches(1)
    assert batch["photo"].tolist() == [PNG]
    for call in (
        lambda: photos.insert({"photo": [np.zeros((2, 2), np.uint8)]}),
        lambda: epoch.batches(1, decode_images=True),
    ):
        with pytest.raises(
            RegistryError, match=r"need Pillow; run: pip install 'registry-datasets\[images"
        ):
            call()


def test_verify_decodes_files_of_all_encodings(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = reg.create("photos", {"photo": Image(), "label": ClassLabel(100)})
    # A GIF whose pixels do not end, a PNG without them, a WebP whose pixels are none.
    broken = [
        _gif(3, 2, 1),
        _chunks(HEAD, (b"IDAT", b"x"), END),
        _webp((b"VP8L", b"\x2f" + bytes(60))),
    ]
    files = [*FILES.values(), *broken]
    photos.insert({"photo": files, "label": range(len(files))})
    wanted = [*range(len(FILES), len(files))]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "PIL", None)
        assert [each.position for each in photos.broken_images()] == wanted
    assert [each.position for each in photos.broken_images()] == wanted


def test_verify_decodes_all_images_and_reports_broken_ones(
    url: str, reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = JPEG.replace(JPEG[(at := JPEG.index(b"\xff\xc4") + 5) : at + 16], b"\xff" * 16)
    files = {"whole": JPEG, "damaged": damaged, "cut": JPEG[:-9], "revised": JPEG[:50]}
    dataset = _store_unchecked(reg, monkeypatch, **files)
    dataset.update("revised", photo=JPEG)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "PIL", None)
        by_tensorflow = dataset.broken_images()
    by_pillow = dataset.broken_images()
    for broken in (by_pillow, by_tensorflow):
        facts = [(each.position, each.key, each.feature, each.live) for each in broken]
        expected = [(1, "damaged", True), (2, "cut", True), (3, "revised", False)]
        assert facts == [(at, key, "photo", live) for at, key, live in expected]
    arguments = ["verify", "photos", "--images", "--url", url]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    for position, key in ((1, "damaged"), (2, "cut"), (3, "revised")):
        assert f"dataset 'photos', position {position}, key '{key}', feature" in result.output
    listed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [each["key"] for each in listed if "key" in each] == ["damaged", "cut", "revised"]
    dataset.retract("cut")
    dataset.update("damaged", photo=JPEG)
    assert CliRunner().invoke(app, arguments).exit_code == 0, "no later epoch has a broken image"


def _store_unchecked(reg: Registry, monkeypatch: pytest.MonkeyPatch, **files: bytes) -> Dataset:
    """Return a dataset that was filled without checks of the files."""
    dataset = reg.create("photos", {"photo": Image("jpeg"), "label": ClassLabel(10)})
    with monkeypatch.context() as patched:
        patched.setattr("registry.samples.image_values.check_file", lambda *_: None)
        rows = [{"photo": file, "label": number} for number, file in enumerate(files.values())]
        dataset.insert(rows, keys=list(files))
    return dataset


def test_other_features_of_a_sample_with_a_broken_image_can_be_revised(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _store_unchecked(reg, monkeypatch, whole=JPEG, cut=JPEG[:-1])
    dataset.update("cut", label=7)
    assert dataset.get("cut") == {"photo": JPEG[:-1], "label": 7}
    with pytest.raises(InvalidSampleError, match="key 'cut', feature 'photo': the image is cut"):
        dataset.update("cut", photo=JPEG[:-1])
