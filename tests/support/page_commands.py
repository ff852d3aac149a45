"""Checking commands on the pages, without running them."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

from tests.support.commands import options_of, parse
from tests.support.pages import ROOT


def check_command(words: list[str]) -> None:
    """Check the arguments of a command of ours, and the names of modules and tests."""
    for index, word in enumerate(words):
        name = Path(word).name
        if name == "registry" and (index == 0 or "=" in words[index - 1]):
            rest = words[index + 1 :]
            assert rest
            if rest[0].startswith("--"):
                assert {*rest} <= options_of([])
            else:
                parse(rest)
        elif name == "python" and words[index + 1 : index + 2] == ["-m"]:
            _check_module(words[index + 2], words[index + 3 :])
        elif name == "pytest":
            paths = [each for each in words[index + 1 :] if each.startswith("tests/")]
            assert [each for each in paths if not (ROOT / each).exists()] == []


def _check_module(name: str, arguments: list[str]) -> None:
    if name.split(".", maxsplit=1)[0] not in {"benchmarks", "tests", "registry"}:
        return
    path = ROOT.joinpath(*name.split("."))
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name
    if name == "benchmarks":
        subjects, options = _benchmarks()
        named = {after for before, after in itertools.pairwise(arguments) if before == "--only"}
        assert named <= subjects
        assert {each for each in arguments if each.startswith("--")} <= options


def _benchmarks() -> tuple[set[str], set[str]]:
    """Return the subjects and the options of the benchmarks, which take seconds to import."""
    source = (ROOT / "benchmarks" / "__main__.py").read_text()
    (subjects,) = (
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "SUBJECTS"
    )
    assert isinstance(subjects, ast.Dict)
    keys = {key.value for key in subjects.keys if isinstance(key, ast.Constant)}
    return {*map(str, keys)}, {"--rows", "--rounds", "--only", "--json", "--png"}
