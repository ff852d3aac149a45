"""NumPy archives: arrays are read in blocks, and those that lie are refused."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from registry import ClassLabel, Features, Registry, Tensor
from registry.errors import ImportFileError
from registry.io.files.npz import read
from registry.io.import_file import insert_file
from registry.samples.features import Feature

XY: dict[str, Feature] = {"x": Tensor("float32", (2,)), "y": ClassLabel(["no", "yes"])}
X, Y = np.zeros((3, 2), np.float32), np.zeros(3, np.int64)


def refusal(path: Path) -> str:
    with pytest.raises(ImportFileError) as caught:
        list(read(path, Features(XY), None, {}))
    return str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_in_blocks(
    reg: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None]
) -> None:
    monkeypatch.setattr("registry.io.files.npz.BLOCK_BYTES", 64)
    path = tmp_path / "a.npz"
    names = np.array([f"k{n}" for n in range(9)])
    save(path, x=np.arange(18, dtype=">f4").reshape(9, 2), y=np.arange(9) % 2, name=names)
    dataset = reg.create("xy", XY)
    insert_file(dataset, path, key="name")
    assert [entry.key for entry in dataset.entries()] == names.tolist()
    assert dataset.get("k8")["x"].tolist() == [16, 17]
    assert insert_file(dataset, path, key="name").unchanged == 9
    assert insert_file(dataset, path, mapping={"x": "x"}).inserted == 9
    assert insert_file(dataset, path, mapping={"x": "x"}).unchanged == 9


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.array([[1, None]], object), "y": Y}, ": array 'x' is of dtype object"),
        ({"x": np.asfortranarray(X), "y": Y}, "array 'x' is in Fortran order"),
        ({"x": X[:2], "y": Y}, "the arrays differ in length"),
        ({"x": X}, "missing 'y'"),
        ({"x": X, "y": np.int64(1)}, "needs a row of values per sample"),
    ],
    ids=["objects", "Fortran order", "lengths", "missing", "scalar"],
)
def test_an_array_that_cannot_be_read_by_rows_is_refused(
    tmp_path: Path, arrays: dict[str, npt.NDArray[np.generic]], reason: str
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]  # stubs know of no objects
    assert reason in refusal(path)


def test_an_array_that_claims_rows_it_does_not_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in (("x", "(1000000000000, 2)"), ("y", "(1000000000000,)")):
            head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
            magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head))
            archive.writestr(f"{name}.npy", magic + head)
    assert "ends within this row" in refusal(path)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\x03\x04 no archive")
    assert "damaged or no archive" in refusal(path)
