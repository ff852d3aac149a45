"""The pages are true: their blocks run or are parsed, and the files that they name exist.

A block that cannot run, or whose output differs each time, says why in a comment before it:
``<!-- not run: … -->`` or ``<!-- not compared: … -->``.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

import registry
from registry import ClassLabel, Tensor, Text
from registry.cli.base import MODULES
from tests.support.block_parsers import PARSERS, is_url
from tests.support.commands import options_of, run
from tests.support.page_commands import check_command
from tests.support.pages import DOCS, GENERATED, PAGES, ROOT, blocks, inline_code
from tests.support.printed import assert_printed

NEEDS = {"pytorch.md": ("torch", "torchdata", "grain", "jax")}
"""Packages of the examples of a page that are not among those of the tests."""
EXTRAS = {
    "tensorflow": r"^(?:from|import) (?:registry\.)?(?:tensorflow|keras)\b",
    "images": r"^from PIL\b|decode_images=True",
    "parquet": r"^import (?:pyarrow|polars|datasets)\b|to_arrow|\.parquet",
    "duckdb": r"^registry sql|^import duckdb",
    "tfrecord": r"^registry insert.*\.tfrecord",
    "xml": r"^registry insert.*\.xml",
    "yaml": r"data\.yaml",
    "server": r"^registry (?:serve|demo)",
}
"""What of a block needs which extra."""
EXAMPLES = [
    page
    for page in PAGES[1:]
    if any(each.language in {"python", "sh"} and not each.reason for each in blocks(page))
]
"""README's are run by its own test."""


def _by_name(page: Path) -> str:
    return page.name


# Keras's own, where it saves a variable.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
# What torchdata calls in PyTorch.
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("page", EXAMPLES, ids=_by_name)
def test_the_examples_of_a_page_run_in_order(
    page: Path,
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package, reason=f"needs {package}, which `.ci/run` tests in a step")
    monkeypatch.setenv("REGISTRY_URL", sqlite_url)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    printed = ""
    for block in blocks(page):
        if block.caption:
            Path(block.caption).parent.mkdir(parents=True, exist_ok=True)
            Path(block.caption).write_text(block.content)
        elif block.reason:
            pass
        elif block.language == "python":
            # Line numbers in a traceback are the page's.
            exec(compile("\n" * block.line + block.content, str(page), "exec"), namespace)
            printed = capsys.readouterr().out
        elif block.language == "sh":
            printed = "".join(_output(words, sqlite_url) for words in block.commands() if words)
        elif block.language == "text" and not is_url(block):
            assert_printed(block.content, printed)


@pytest.mark.parametrize("page", PAGES, ids=_by_name)
def test_a_page_names_the_extras_that_its_blocks_need(page: Path) -> None:
    code = "".join(each.content for each in blocks(page) if each.language in {"python", "sh"})
    needed = {extra for extra, use in EXTRAS.items() if re.search(use, code, re.MULTILINE)}
    named = re.findall(r"(?:registry-datasets|\.|`)\[([a-z,-]+)\]", page.read_text())
    extras = {extra for names in named for name in names.split(",") for extra in _with(name)}
    assert needed <= extras, f"it needs a line with: pip install 'registry-datasets[{needed}]'"


def _with(extra: str) -> set[str]:
    """Return an extra, and those that it consists of."""
    requirements = re.findall(r"registry-datasets\[(.*?)\]", " ".join(_extras()[extra]))
    return {extra, *(part for names in requirements for part in names.split(","))}


def _extras() -> dict[str, list[str]]:
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras: dict[str, list[str]] = settings["project"]["optional-dependencies"]
    return extras


def test_the_page_on_installing_names_each_extra() -> None:
    rows = re.findall(r"^\|(`.*?)\|", (DOCS / "start" / "install.md").read_text(), re.MULTILINE)
    assert {*re.findall(r"[\w-]+", " ".join(rows))} == {*_extras()} - {"test-tools"}


def _output(words: list[str], url: str) -> str:
    program, *arguments = words
    assert program == "registry", "a block of other programs says why it is not run"
    return run(*arguments, url=url).stdout


@pytest.mark.parametrize("page", PAGES, ids=_by_name)
def test_each_block_of_a_page_is_run_or_parsed_or_says_why_not(page: Path) -> None:
    all_blocks = blocks(page)
    for number, block in enumerate(all_blocks):
        where = f"{page.name}, line {block.line}"
        if block.language.startswith("{"):  # a directive, which the strict build checks
            assert block.language in {"{toctree}", "{eval-rst}"}, where
            continue
        assert block.language, f"{where}: an indented block has no language"
        assert block.language in PARSERS, f"{where}: nothing checks {block.language}"
        PARSERS[block.language](block)
        for test in re.findall(r"tests/[\w/]+\.py", block.reason):
            assert (ROOT / test).exists(), where
        later = all_blocks[number + 1 :]
        code = "".join(each.content for each in later)
        if block.language == "text" and not (block.reason or is_url(block)):
            # What is printed follows on what prints it; a file is read by what follows.
            before = all_blocks[number - 1]
            read = block.caption and block.caption.partition("/")[0] in code
            ran = before.language in {"python", "sh"} and not before.reason
            assert read or (not block.caption and page in EXAMPLES and ran), where
        if block.language == "python" and block.caption:
            # A program is run by the test that the reason of its command names.
            uses = [each.reason for each in later if f"python {block.caption}" in each.content]
            assert any("tests/" in each for each in uses), where


def test_a_block_in_no_known_way_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```toml\na = \n```\n\n<!-- not run: why -->\n\ntext\n\n```sh\nx | y\n```\n")
    toml, shell = blocks(page)
    with pytest.raises(tomllib.TOMLDecodeError):
        PARSERS[toml.language](toml)
    assert (shell.reason, list(shell.commands())) == ("", [["x"], ["y"]])
    with pytest.raises(AssertionError):
        assert_printed("samples  5\n", "samples  4\n")
    assert_printed(
        "at 2026-01-31 12:00:02 UTC, v@1:" + "a" * 32 + "\n…\n1s 0.8123\n",
        "x\nat 1999-01-01 01:00:02 UTC, v@1:" + "b" * 32 + "\nand\n3s 0.8500\n",
    )


@pytest.mark.parametrize("page", PAGES, ids=_by_name)
def test_the_commands_of_a_page_take_their_arguments(page: Path) -> None:
    # Also those that are not run: they need a tool, a token, files or a terminal.
    for block in blocks(page):
        if block.language == "sh" or block.caption == "crontab":
            for words in block.commands():
                check_command(words)
    for code in inline_code(page):
        words = code.removeprefix("$ ").split()
        if words[:1] == ["registry"] and len(words) > 1 and words[1].isalpha():
            assert words[1] in MODULES, code
            assert {each.partition("=")[0] for each in words if each.startswith("--")} <= {
                "--help",
                *options_of(words[1:]),
            }, code
        elif words[:2] == ["python", "-m"]:
            check_command(shlex.split(code))


def test_the_statements_on_the_pages_are_known_to_postgresql(postgresql_url: str) -> None:
    statements = [
        (page.name, block.content)
        for page in PAGES
        for block in blocks(page)
        if block.language == "sql"
    ]
    assert len(statements) > 3
    with registry.connect(postgresql_url) as reg:
        reg.create("digits", {"label": Tensor("int32")})
        reg.create("notes", {"text": Text(), "label": ClassLabel(["cat", "dog"])})
        for _page, statement in statements:
            with reg.engine.connect() as connection:
                done = connection.exec_driver_sql(statement)
                assert done.rowcount == 1 or "INSERT" not in statement, statement
                connection.rollback()


@pytest.mark.parametrize("page", PAGES, ids=_by_name)
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


def test_each_guarantee_names_the_test_of_its_fault() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text()
    rows = re.findall(r"^\|.*\|`(.*\.py)`\|$", page, re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        *options, name = row.split()
        code = (ROOT / "tests" / "faults" / name).read_text()
        slow = re.search(r"^@rounds|mark\.slow", code, re.MULTILINE)
        assert options == [] or (options == ["-m", "slow"] and slow), row


def test_the_drawing_of_the_house_is_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    rooms, folders = (contract["layers"] for contract in settings["contracts"])
    (drawing,) = (each for each in blocks(ROOT / "docs" / "house.md") if each.language == "text")
    upper, lower = drawing.content.splitlines()
    faces = {"__main__", "keras"}
    assert upper.replace(", ", " | ").split(" → ") == [each for each in rooms if each not in faces]
    assert lower.strip() == "storage: " + " → ".join(folders)
