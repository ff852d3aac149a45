"""The pages are true: their examples run, and the files that they name exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import parse, run

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
GENERATED = [REFERENCE / f"{name}.md" for name in ("commands", "errors", "http", "sql")]
"""What Sphinx generates from the code, before it reads the pages."""
PAGES = sorted({*(ROOT / "docs").rglob("*.md")} - {*GENERATED})
BLOCK = re.compile(
    r"(?<!-->\n)^```(?:(python|sh)|\{code-block\} \w+\n:caption: (\S+)\n)\n(.*?)^```",
    re.DOTALL | re.MULTILINE,
)
"""Python, commands, or the content of the file that the caption names; not after a comment, which
says why the block is not run."""
NEEDS = {"pytorch.md": ("torch", "torchdata", "grain", "jax")}
"""Packages of the examples of a page that are not among those of the tests."""
COMMAND = re.compile(r"^(?: {4})?(?:\$ )?registry (?!…)([a-z].*)$", re.MULTILINE)
"""A line of a block; in a paragraph, a line begins with code in backticks."""
SHELL = {"|", ">", "&&", ";", "&"}
WITH_EXAMPLES = [page for page in PAGES if BLOCK.search(page.read_text())]


# Keras's own, where it saves a variable.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
# What torchdata calls in PyTorch.
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run_in_order(
    page: Path, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package, reason=f"needs {package}, which `.ci/run` tests in a step")
    monkeypatch.setenv("REGISTRY_URL", sqlite_url)
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace: dict[str, Any] = {}
    for block in BLOCK.finditer(text):
        language, name, content = block.groups()
        if name is not None:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(content)
        elif language == "python":
            # Line numbers in a traceback are the page's.
            lines = "\n" * text.count("\n", 0, block.start(3))
            exec(compile(lines + content, str(page), "exec"), namespace)
        else:
            for command in content.replace("\\\n", " ").splitlines():
                program, *arguments = shlex.split(command)
                assert program == "registry"
                run(*arguments, url=sqlite_url)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_the_commands_of_a_page_take_their_arguments(page: Path) -> None:
    # Also those that are not run: they need a tool, a token, files or a terminal.
    text = page.read_text().replace("\\\n", " ")
    for command in COMMAND.findall(text):
        words = shlex.split(command, comments=True)
        end = next((i for i, word in enumerate(words) if word in SHELL), len(words))
        parse(words[:end])


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())
    files = [(page.parent / each).resolve() for each in targets]
    assert [each for each in files if not each.exists() and each not in GENERATED] == []


@pytest.mark.parametrize(("name", "most"), [("house", 40), ("contributing", 30)])
def test_a_page_about_the_code_names_files_that_exist(name: str, most: int) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text()
    names = re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?|[a-z_]+\.(?:py|toml))`", page)
    assert len(names) > most
    roots = (ROOT, ROOT / "registry")
    assert [name for name in names if not any((root / name).exists() for root in roots)] == []
