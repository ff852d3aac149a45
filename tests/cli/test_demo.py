"""The demo: two processes, a database file, and a model that improves as the dataset grows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import registry


def test_the_demo_trains_on_a_dataset_that_another_process_labels(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "registry", "demo", "--folder", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    lines = re.findall(r"^ +(\d+) +(\d+) +(\d+) +(\d+) +([\d.]+)%$", result.stdout, re.MULTILINE)
    samples = [int(line[1]) for line in lines]
    assert samples == sorted(samples)
    assert len(set(samples)) > 5, "the dataset grew while the model trained"
    assert sum(int(line[2]) for line in lines) == samples[-1]
    assert sum(int(line[3]) for line in lines) > 20, "wrong labels were corrected"
    assert float(lines[-1][4]) > 90
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    with registry.connect(f"sqlite:///{tmp_path}/out/digits.db") as reg:
        digits = reg.open("digits")
        assert len(digits) == 1797
        assert digits.run("demo").epoch(0).size < samples[-1]
