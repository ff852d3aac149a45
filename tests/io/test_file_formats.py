"""Each format as its own tools write it, and what none of them may do to us."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from registry import Bytes, ClassLabel, Dataset, Features, Image, Ragged, Registry, Tensor, Text
from registry.errors import ImportFileError
from registry.io.dry_run import DryRun
from registry.io.files.jsonl import parse_block, parse_object
from registry.io.files.tfrecord import checksum
from registry.io.formats import find_reader
from registry.io.import_file import import_size, insert_file
from registry.samples.features import Feature
from tests.support.datasets import digit
from tests.support.image_files import PNG, png

PHOTOS: dict[str, Feature] = {"photo": Image("png"), "kind": ClassLabel(["cat", "dog"])}
XY: dict[str, Feature] = {"x": Tensor("float32", (2,)), "y": ClassLabel(["no", "yes"])}


def keys(dataset: Dataset) -> list[str]:
    return [entry.key for entry in dataset.entries()]


def refusal(path: Path, features: dict[str, Feature], key: str | None = None) -> str:
    with pytest.raises(ImportFileError) as caught:
        list(find_reader(path).read(path, Features(features), key, {}))
    return str(caught.value).removeprefix(str(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("cat/b.png", "dog/old/1.PNG", "cat/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(len(name)))
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "cat" / "._a.png").write_text("what some systems leave")
    return folder


def test_a_folder_of_images_goes_in_by_class_and_is_known_by_its_paths(
    reg: Registry, folder: Path
) -> None:
    dataset = reg.create("photos", PHOTOS)
    seen: list[tuple[int, int]] = []
    assert insert_file(dataset, folder, progress=lambda *done: seen.append(done)).inserted == 3
    assert keys(dataset) == ["photos/cat/a.png", "photos/cat/b.png", "photos/dog/old/1.PNG"]
    assert dataset.get("photos/dog/old/1.PNG") == {"photo": png(len("dog/old/1.PNG")), "kind": 1}
    assert insert_file(dataset, folder).unchanged == 3
    assert seen == [(3, import_size(folder))]
    named = reg.create("named", {"i": Image(), "n": Text()})
    insert_file(named, folder, mapping={"i": "image", "n": "path"})
    assert named.get("photos/cat/a.png")["n"] == "cat/a.png"
    with pytest.raises(ImportFileError, match="fit a dataset of one Image and one ClassLabel"):
        insert_file(named, folder)


def test_links_out_of_a_folder_of_images_are_not_followed(
    reg: Registry, folder: Path, tmp_path: Path
) -> None:
    dataset = reg.create("photos", PHOTOS)
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "cat" / "again.png").symlink_to(folder / "dog" / "old" / "1.PNG")
    assert insert_file(dataset, folder).inserted == 4
    links: list[tuple[str, str | Path]] = [
        ("cat/c.png", tmp_path / "secret.png"),
        ("cat/c.png", "../../secret.png"),
        ("cat/c.png", "gone.png"),
        ("dog/loop", ".."),
        ("dog/elsewhere", tmp_path),
    ]
    for name, target in links:
        (folder / name).symlink_to(target)
        with pytest.raises(ImportFileError, match="links are followed to files in the folder only"):
            insert_file(dataset, folder)
        (folder / name).unlink()
    assert len(dataset) == 4


def test_images_that_are_none_or_claim_too_much_name_their_file(
    reg: Registry, folder: Path
) -> None:
    dataset = reg.create("photos", PHOTOS)
    for name, content, reason in [
        ("cat/x.png", b"GIF89a", "the bytes are not a png file"),
        ("cat/x.png", PNG[:-1], "the image is cut off: its 66 bytes hold no IEND chunk"),
        ("cat/x.png", png(100_000, 100_000), "the image claims 100000 by 100000 pixels"),
        ("cow/x.png", png(), "unknown class 'cow'; the classes are 'cat', 'dog'"),
        ("x.png", png(), "x.png, feature 'kind': it lies in no class's folder"),
    ]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        with pytest.raises(ImportFileError, match=reason) as caught:
            insert_file(dataset, folder)
        assert name in str(caught.value)
        (folder / name).unlink()
    assert len(dataset) == 0


def test_jpegs_that_claim_too_much_are_refused(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("photos", {"photo": Image("jpeg")})
    frame = b"\xff\xe0\x00\x04ab\xff\xff\xc2\x00\x11\x08" + struct.pack(">HH", 65000, 65000)
    data = b"\xff\xd8" + frame + b"\x03" * 12
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"photo": "data:image/jpeg," + quote_from_bytes(data)}))
    with pytest.raises(ImportFileError, match=r"line 1, .*claims 65000 by 65000 pixels"):
        insert_file(dataset, path)


def test_parquet_of_other_tools_is_read_a_few_rows_at_a_time(
    reg: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.files.parquet.BATCH_BYTES", 64)
    path = tmp_path / "t.parquet"
    table = pa.table(
        {
            "id": pa.array(range(5), pa.int16()),
            "x": pa.array([[n, n / 2] for n in range(5)], pa.large_list(pa.float64())),
            "y": pa.array(["no", "yes", "no", "no", "yes"]).dictionary_encode(),
            "more": pa.array([None] * 5),
        }
    )
    pq.write_table(table, path, row_group_size=3)
    dataset = reg.create("xy", XY)
    insert_file(dataset, path, key="id", mapping={"x": "x"})
    assert keys(dataset) == ["0", "1", "2", "3", "4"]
    assert dataset.get("4")["x"].tolist() == [4, 2]
    assert dataset.get("4")["y"] == 1
    assert insert_file(dataset, path, key="id", mapping={"x": "x"}).unchanged == 5
    insert_file(dataset, path, mapping={"y": "y"})
    assert insert_file(dataset, path, mapping={"y": "y"}).unchanged == 5
    assert refusal(path, XY, "id").startswith(": header: unknown 'more'; the features are 'x'")
    pq.write_table(pa.table({"x": [[0.0, 1.0], None], "y": ["no", "no"]}), path)
    with pytest.raises(ImportFileError, match=r"row 2, key '.*', feature 'x': "):
        insert_file(dataset, path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "arquet" in refusal(path, XY)


def test_arrays_of_numpy_are_read_in_blocks(
    reg: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.files.npz.BLOCK_BYTES", 64)
    path = tmp_path / "a.npz"
    x = np.arange(18, dtype=">f4").reshape(9, 2)
    names = np.array([f"k{n}" for n in range(9)])
    for save in (np.savez, np.savez_compressed):
        save(path, x=x, y=np.arange(9) % 2, name=names)
        dataset = reg.create(save.__name__, XY)
        insert_file(dataset, path, key="name")
        assert keys(dataset) == names.tolist()
        assert dataset.get("k8")["x"].tolist() == [16, 17]
        assert insert_file(dataset, path, key="name").unchanged == 9
        assert insert_file(dataset, path, mapping={"x": "x"}).inserted == 9
        assert insert_file(dataset, path, mapping={"x": "x"}).unchanged == 9


def test_an_array_that_lies_or_needs_unpickling_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    x, y = np.zeros((3, 2), np.float32), np.zeros(3, np.int64)

    def said(**arrays: object) -> str:
        np.savez(path, **arrays)  # type: ignore[arg-type]  # stubs know of no objects
        return refusal(path, XY)

    assert said(x=np.array([[1, None]], object), y=y).startswith(": array 'x' is of dtype object")
    assert "array 'x' is in Fortran order" in said(x=np.asfortranarray(x), y=y)
    assert "the arrays differ in length" in said(x=x[:2], y=y)
    assert "missing 'y'" in said(x=x)
    assert "needs a row of values per sample" in said(x=x, y=np.int64(1))
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in (("x", "(1000000000000, 2)"), ("y", "(1000000000000,)")):
            head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
            magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head))
            archive.writestr(f"{name}.npy", magic + head)
    assert "ends within this row" in refusal(path, XY)
    path.write_bytes(b"PK\x03\x04 no archive")
    assert "damaged or no archive" in refusal(path, XY)


def test_tfrecord_files_of_tensorflow_are_read(reg: Registry, tmp_path: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415  # takes seconds to load

    def feature(values: list[float] | list[int] | list[bytes]) -> tf.train.Feature:
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    path = tmp_path / "t.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for n in range(3):
            parts = {"x": feature([n + 0.5, -1.0]), "y": feature([b"yes"]), "id": feature([n])}
            example = tf.train.Example(features=tf.train.Features(feature=parts))
            writer.write(example.SerializeToString())
    dataset = reg.create("xy", XY)
    assert insert_file(dataset, path, key="id").inserted == 3
    assert dataset.get("2")["x"].tolist() == [2.5, -1]
    assert insert_file(dataset, path, key="id").unchanged == 3
    whole = path.read_bytes()
    size = len(whole) // 3
    for bad, reason in [
        (whole[:-1], ", record 3: the file ends 1 bytes before the record does"),
        (whole[: 2 * size + 5], ", record 3: the file ends within the record's head"),
        (whole[: size + 20] + b"?" + whole[size + 21 :], ", record 2: the record's checksum"),
        (b"?" + whole[1:], ", record 1: the checksum of its length is wrong"),
        (_framed(b"\xff\xff"), ", record 1: not a tf.train.Example"),
        (_head(2**60), f", record 1: the file ends {2**60 + 4:,} bytes before"),
        (whole + _framed(b""), ", record 4: header: missing 'x', missing 'y', missing 'id'"),
    ]:
        path.write_bytes(bad)
        assert refusal(path, XY, "id").startswith(reason)


def _head(length: int) -> bytes:
    head = struct.pack("<Q", length)
    return head + checksum(head)


def _framed(data: bytes) -> bytes:
    return _head(len(data)) + data + checksum(data)


def test_a_mapping_picks_and_renames(reg: Registry, tmp_path: Path) -> None:
    dataset = reg.create("xy", XY)
    record = {"meta": {"id": 7}, "a.b": {"c": 1}, "data": [{"x": [1, 2]}], "y": "no", "more": 1}
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(record))
    insert_file(dataset, path, key="meta.id", mapping={"x": "data.0.x"})
    assert dataset.get("7")["x"].tolist() == [1, 2]
    table = tmp_path / "d.csv"
    table.write_text('who,v,w,extra\nk,"[3, 4]",yes,?\n')
    insert_file(dataset, table, key="who", mapping={"x": "v", "y": "w"})
    assert (dataset.get("k")["x"].tolist(), dataset.get("k")["y"]) == ([3, 4], 1)
    for mapped, reason in [
        ({"x": "data.1.x"}, "line 1, key '7', feature 'x': there is no '1' on the way to"),
        ({"z": "data"}, "'z' is mapped and is no feature; the features are 'x', 'y'"),
    ]:
        with pytest.raises(ImportFileError, match=reason):
            insert_file(dataset, path, key="meta.id", mapping=mapped)


def test_a_rehearsal_tells_what_would_become_of_a_file_and_writes_nothing(
    reg: Registry, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.io.batching.PIECE_ROWS", 2)
    monkeypatch.setattr("registry.io.batching.BATCH_ROWS", 2)
    digits.insert([digit(n) for n in range(3)], keys=["k0", "k1", "k2"])
    digits.retract("k2")
    path = tmp_path / "d.jsonl"
    values = [("k0", 0), ("k1", 5), ("k2", 2), ("new", 4), ("new", 5)]
    path.write_text("\n".join(json.dumps({"id": key, **digit(n)}) for key, n in values))
    before = digits.head
    rehearsal = DryRun(reg.engine, digits)
    told = insert_file(rehearsal, path, key="id")
    again = insert_file(rehearsal, path, key="id")
    rehearsal.close()
    assert digits.head == before
    done = insert_file(digits, path, key="id")
    for report, real in ((told, done), (again, insert_file(digits, path, key="id"))):
        assert (report.inserted, report.revised, report.unchanged) == (
            real.inserted,
            real.revised,
            real.unchanged,
        )
    assert (told.inserted, told.revised, told.unchanged) == (2, 2, 1)


def test_a_key_that_comes_twice_is_refused(digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"k{n % 2}", **digit(n)}) for n in range(3)))
    with pytest.raises(ImportFileError, match="line 3, key 'k0': the key is that of line 1, too"):
        insert_file(digits, path, key="id")
    assert len(digits) == 0


def test_gzipped_lines_are_unpacked_line_by_line(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(digit(1)).encode()))
    assert insert_file(digits, path).inserted == 1
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ImportFileError, match="line 1: the gzip data is damaged or ends too soon"):
        insert_file(digits, path)
    monkeypatch.setattr("registry.io.files.lines.LONGEST_LINE", 1 << 16)
    path.write_bytes(gzip.compress(b"[" * (64 << 20)))
    with pytest.raises(ImportFileError, match="line 1: over 65536 bytes without a line end"):
        insert_file(digits, path)


def test_fast_and_strict_reading_of_json_agree() -> None:
    for text in ['{"a": 1, "b": [2.5, -0.0]}', '{"a": "x:{y"}', '{"a": 18446744073709551615}']:
        assert repr(parse_object(text.encode())) == repr(json.loads(text))
    for text in [
        '{"a": 1, "a": 1}',
        '{"a": {"b": 1, "b": 1}}',
        '{"a": ":", "a": 1}',
        '{"a": 1, "\\u0061": 1}',
        '{"a": [{"b": 1, "b": 2}], "c": ":"}',
        '{"a": 1e400}',
        '{"a": 123456789012345678901}',
        '{"a": NaN}',
        '{"a": 1} {"a": 2}',
        '[{"a": 1}]',
        '{"a": 1',
        "{\"a\": 'b'}",
        "1",
    ]:
        with pytest.raises(ValueError, match=r"."):
            parse_object(text.encode())


@pytest.mark.parametrize(
    "lines",
    [
        ['{"a": 1', '"b": 2}', '{"a": 1}, {"b": 2}'],
        ['{"a": [{}', "{}]}, {}"],
        ['{"a": "}', '{"}'],
        ['{"a": [1', "2]}"],
        ['{"a": 1}', '{"a": 1}, {"a": 2}'],
        ['{"a": 1}', '{"a": 1, "a": 2}'],
        ['{"a": 1},', '{"a": 1}'],
        ['{"a": 1}', "[1]"],
    ],
)
def test_lines_are_objects_of_their_own_wherever_they_are_cut(lines: list[str]) -> None:
    assert parse_block([line.encode() for line in lines]) is None
    assert parse_block([b'{"a": 1}', b'{"a": 2} ']) == [{"a": 1}, {"a": 2}]


def test_small_floats_are_not_taken_for_long_whole_numbers() -> None:
    small, large = "0.00012345678901234567", "1234567890123456789"
    assert parse_block([f'{{"a": {small}}}'.encode()]) == [{"a": float(small)}]
    assert parse_block([f'{{"a": [{small}, {large}]}}'.encode()]) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"t": "a\\u0000b", "r": []}', r"feature 't': text cannot hold \\x00"),
        ('{"t": "a\\ud800b", "r": []}', "feature 't': text cannot hold a lone surrogate"),
        ('{"t": "", "r": ' + "[" * 10_000 + "]" * 10_000 + "}", "nested too deeply"),
        ('{"t": "", "r": ' + "[" * 500 + "]" * 500 + "}", "feature 'r': "),
        ('{"t": "", "r": [1, [2]]}', "feature 'r': "),
        ('{"t": "", "r": {}}', "feature 'r': "),
        ('{"t": [], "r": []}', "feature 't': .* is not text"),
        ('{"t": "", "r": [300]}', "feature 'r': 300 does not fit int8"),
        ('{"t": "", "r": [1.5]}', "feature 'r': float64 does not fit int8"),
        ('{"t": ""}', "missing 'r'"),
        ('{"t": "", "r": [], "__proto__": 1}', "unknown '__proto__'"),
        ('{"t": "", "r": [NaN]}', "NaN is not JSON"),
        ('{\n"t": ""', "not JSON"),
        ("\x00", "not JSON"),
        ("null", "not a JSON object"),
    ],
)
def test_a_hostile_line_is_named_and_leaves_nothing(
    reg: Registry, tmp_path: Path, line: str, reason: str
) -> None:
    dataset = reg.create("texts", {"t": Text(), "r": Ragged("int8")})
    path = tmp_path / "d.jsonl"
    path.write_text('{"t": "good", "r": [1]}\n' + line)
    with pytest.raises(ImportFileError, match=f"line 2.*{reason}") as caught:
        insert_file(dataset, path)
    assert caught.value.stored == len(dataset) == 0


def test_bytes_are_no_list(reg: Registry, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"b": [1]}')
    with pytest.raises(ImportFileError, match=r"line 1, .*feature 'b': .* is not bytes"):
        insert_file(reg.create("blobs", {"b": Bytes()}), path)
