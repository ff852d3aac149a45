"""The README is true: its examples run, its commands exist, and it stays short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from registry.cli.base import MODULES
from tests.support.pages import ROOT, blocks_of

README = (ROOT / "README.md").read_text()
BLOCKS = blocks_of(README)


@pytest.fixture
def namespace(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The examples define all that they use."""
    monkeypatch.setenv("REGISTRY_URL", url)
    values: dict[str, Any] = {}
    yield values
    values["reg"].close()
    values["run"].log.engine.dispose()


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
def test_the_examples_run_as_they_stand(namespace: dict[str, Any]) -> None:
    (example,) = (each.content for each in BLOCKS if each.language == "python")
    exec(example, namespace)
    digits, run = namespace["digits"], namespace["run"]
    assert len(digits) == 100
    assert run.consumed == 2 * run.epoch(0).size == 2 * sum(map(len, namespace["replay"]))
    assert digits.get("scan-17")["label"] != 5
    (correction,) = (each.content for each in BLOCKS if each.language == "sql")
    with namespace["reg"].engine.begin() as connection:
        connection.exec_driver_sql(correction)
    assert digits.get("scan-17")["label"] == 5


def test_every_command_has_an_example_and_every_one_there_exists() -> None:
    page = (ROOT / "docs" / "start" / "commands.md").read_text()
    assert set(re.findall(r"^registry (\w+)", page, re.MULTILINE)) == set(MODULES)


def test_the_readme_is_short_and_begins_with_code() -> None:
    assert len(README.split()) < 500
    assert "```python" in "\n".join(README.splitlines()[:30])


def test_the_test_command_is_the_one_that_is_checked() -> None:
    command = "pip install -e '.[test]' && pytest"
    assert f"{command}\n" in [each.content for each in BLOCKS]
    assert command in (ROOT / ".ci" / "run").read_text()
