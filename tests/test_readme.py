"""The README is true: its examples run, its commands exist, and it stays short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.cli.base import MODULES

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.fixture
def namespace(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The examples define all that they use."""
    monkeypatch.setenv("REGISTRY_URL", url)
    values: dict[str, Any] = {}
    yield values
    values["reg"].close()
    values["run"].log.engine.dispose()


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
def test_the_examples_run_in_order(namespace: dict[str, Any]) -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 3
    follow = "for page in digits.follow(after=digits.head.position):  # waits for the next commit"
    assert follow in examples[2]
    # No commit comes here: begin before the last one.
    examples[2] = examples[2].replace(follow, follow.replace("position)", "position - 1)"))
    for example in examples:
        exec(example, namespace)
    assert len(namespace["digits"]) == 100
    assert set(namespace["batch"]) == {"image", "label"}
    (insert,) = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    with namespace["reg"].engine.begin() as connection:
        connection.exec_driver_sql(insert)
    assert namespace["digits"].get("scan-18")["label"] == 3


def test_every_command_is_in_the_readme_and_every_one_there_exists() -> None:
    assert set(re.findall(r"^    registry (\w+)", README, re.MULTILINE)) == set(MODULES)


def test_the_readme_is_short_and_begins_with_code() -> None:
    assert len(README.split()) < 700
    assert "```python" in "\n".join(README.splitlines()[:30])


def test_the_test_command_is_the_one_that_is_checked() -> None:
    command = "pip install -e '.[test]' && pytest"
    assert f"    {command}\n" in README
    assert command in (Path(__file__).parent.parent / ".ci" / "run").read_text()
