"""The tutorial of the team works as written, on PostgreSQL, with the events of Label Studio."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import registry
from tests.support.commands import run
from tests.support.label_studio_project import choice
from tests.support.labeling_events import annotation
from tests.support.servers import serving
from tests.test_docs import BLOCK, ROOT

PAGE = (ROOT / "docs" / "start" / "team.md").read_text()


# Keras's own, where it saves a variable.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_team_labels_and_trains_two_models(
    postgresql_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REGISTRY_URL", postgresql_url)
    monkeypatch.chdir(tmp_path)
    sections = re.split(r"^## \d\. ", PAGE, flags=re.MULTILINE)
    texts = [
        json.loads(content) for _, name, content in BLOCK.findall(PAGE) if name == "tasks.json"
    ]
    secrets = "".join(_commands(section) for section in sections[2:4])
    (secret, _) = re.findall(r"^rgy_\S+", secrets, re.MULTILINE)
    _commands(sections[4])
    (path,) = set(re.findall(r"`http://127\.0\.0\.1:8000(/v1/\S+)`", sections[4]))
    with registry.connect() as reg, serving(reg) as address:
        for number, task in enumerate(texts[0]):
            event = _event(number, task)
            answer = httpx.post(address + path, json=event, headers=_authorization(secret))
            assert answer.status_code == 200, answer.text
            assert "error" not in answer.text
        for _, name, content in BLOCK.findall(PAGE):
            if name:
                Path(name).write_text(content)
        trained = [_train(*arguments) for arguments in re.findall(r"train\.py (\w+) (\d+)", PAGE)]
        assert [*trained, _train("small", "4")] == [2 * 6, 2 * 6, 4 * 6]
        assert len(reg.open("moods")) == len(texts[0]) == 6
        printed = capsys.readouterr().out
        assert "large: 6 samples in the last epoch" in printed
    _commands(sections[6] + sections[7])


def _commands(section: str) -> str:
    """Run the commands of a section, and return what they print."""
    blocks = [content for language, _, content in BLOCK.findall(section) if language == "sh"]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return "".join(
        run(*shlex.split(line)[1:], url=os.environ["REGISTRY_URL"]).stdout for line in lines
    )


def _authorization(secret: str) -> dict[str, str]:
    return {"Authorization": f"Token {secret}"}


def _event(number: int, task: dict[str, str]) -> dict[str, Any]:
    """Return what Label Studio sends when a task is labeled."""
    mood = "good" if "fine" in task["text"] else "bad"
    labeled = annotation(number, choice(mood), id=number, task=number)
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": labeled,
        "task": {"id": number, "project": 2, "data": task},
        "project": {"id": 2},
    }


def _train(name: str, units: str) -> int:
    """Run the page's program for two epochs; return how many samples its run has consumed.

    Not in a process, which would load Keras.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["train.py", name, units, "2"])
        consumed: int = runpy.run_path("train.py")["run"].consumed
    return consumed
