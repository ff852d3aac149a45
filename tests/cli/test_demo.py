"""The demo: two processes, a database file, and a model that improves as the dataset grows."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from urllib.parse import urlsplit

import httpx

import registry
from tests.support.commands import process


def test_the_demo_trains_on_a_dataset_that_another_process_labels(tmp_path: Path) -> None:
    with process("demo", "--serve", "--folder", str(tmp_path / "out")) as demo:
        assert demo.stdout is not None
        printed = ""
        while not (serving := re.search(r"^serving (\S+) until Ctrl-C$", printed, re.MULTILINE)):
            line = demo.stdout.readline()
            assert line, printed
            printed += line
        served = httpx.get(serving[1], timeout=60, trust_env=False)
        run = httpx.get(served.url.join("/datasets/digits/runs/demo"), timeout=60, trust_env=False)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60)
    assert (errors, demo.returncode, served.status_code, run.status_code) == ("", 0, 200, 200)
    lines = re.findall(r"^ +(\d+) +(\d+) +(\d+) +(\d+) +([\d.]+)%$", printed, re.MULTILINE)
    samples = [int(line[1]) for line in lines]
    assert samples == sorted(samples)
    assert len(set(samples)) > 5, "the dataset grew while the model trained"
    assert sum(int(line[2]) for line in lines) == samples[-1]
    assert sum(int(line[3]) for line in lines) > 20, "wrong labels were corrected"
    assert float(lines[-1][4]) > 90
    (address,) = re.findall(r"^The accuracy.*: (file://\S+)$", printed, re.MULTILINE)
    page = Path(urlsplit(address).path)
    assert page == tmp_path / "out" / "index.html"
    file = page.read_text("utf-8")
    assert "<script" not in file
    for text in (file, served.text):
        assert f"<td>{lines[-1][4]}</td>" in text, "the accuracy of the last epoch"
        assert "24 of 90" in text, "labels that were corrected"
    with registry.connect(f"sqlite:///{tmp_path}/out/digits.db") as reg:
        digits = reg.open("digits")
        assert len(digits) == 1797
        assert digits.run("demo").epoch(0).size < samples[-1]
