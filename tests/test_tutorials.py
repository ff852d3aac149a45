"""The tutorial of the team works as written, on PostgreSQL, with the events of Label Studio."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import registry
from tests.support.commands import run
from tests.support.label_studio_project import choice
from tests.support.labeling_events import annotation
from tests.support.pages import DOCS, blocks_of
from tests.support.printed import assert_printed
from tests.support.servers import serving

PAGE = (DOCS / "start" / "team.md").read_text()
FILES = {each.caption: each.content for each in blocks_of(PAGE) if each.caption}


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
    tasks = json.loads(FILES["tasks.json"])
    secrets = "".join(_commands(section) for section in sections[2:4])
    (secret, _) = re.findall(r"^rgy_\S+", secrets, re.MULTILINE)
    form, log = (each.content for each in blocks_of(sections[4]) if each.language == "text")
    assert_printed(form, _commands(sections[4]))
    (path,) = set(re.findall(r"http://127\.0\.0\.1:8000(/v1/\S+)", sections[4]))
    with registry.connect() as reg, serving(reg) as address:
        for number, task in enumerate(tasks, 1):
            event = _event(number, task)
            answer = httpx.post(address + path, json=event, headers=_authorization(secret))
            assert answer.status_code == 200, answer.text
            assert "error" not in answer.text
        assert_printed(log, run("log", "moods", url=postgresql_url).stdout)
        Path("train.py").write_text(FILES["train.py"])
        trained = [_train(*arguments) for arguments in re.findall(r"train\.py (\w+) (\d+)", PAGE)]
        assert [*trained, _train("small", "4")] == [2 * 6, 2 * 6, 4 * 6]
        assert len(reg.open("moods")) == len(tasks) == 6
        printed = capsys.readouterr().out
        assert "large: 6 samples in the last epoch" in printed
    _commands(sections[6] + sections[7])


def _commands(section: str) -> str:
    """Run the commands of a section, and return what they print."""
    return "".join(
        run(*words[1:], url=os.environ["REGISTRY_URL"]).stdout
        for block in blocks_of(section)
        if block.language == "sh" and not block.reason
        for words in block.commands()
    )


def _authorization(secret: str) -> dict[str, str]:
    return {"Authorization": f"Token {secret}"}


def _event(number: int, task: dict[str, str]) -> dict[str, Any]:
    """Return what Label Studio sends when a task is labeled."""
    mood = "good" if "fine" in task["text"] else "bad"
    labeled = annotation(number, choice(mood), id=number, task=number, project=1)
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": labeled,
        "task": {"id": number, "project": 1, "data": task},
        "project": {"id": 1},
    }


def _train(name: str, units: str) -> int:
    """Run the page's program for two epochs; return how many samples its run has consumed.

    Not in a process, which would load Keras.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["train.py", name, units, "2"])
        consumed: int = runpy.run_path("train.py")["run"].consumed
    return consumed
