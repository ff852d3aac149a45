"""What is released; ``python -m tests.support.distributions FOLDER`` builds it."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]


def build(folder: Path) -> tuple[Path, Path]:
    """Write the source distribution to a folder, and the wheel that is built from it alone."""
    with TemporaryDirectory() as unpacked:
        _hatch("sdist", folder, ROOT)
        (source,) = folder.glob("*.tar.gz")
        with tarfile.open(source) as archive:
            archive.extractall(unpacked, filter="data")
        (checkout,) = Path(unpacked).iterdir()
        _hatch("wheel", folder, checkout)
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def _hatch(target: str, folder: Path, checkout: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    print(*build(Path(sys.argv[1]).absolute()), sep="\n")  # noqa: T201
