"""Tags by commands, and what takes a tag in place of a dataset's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry import Dataset
from tests.support.commands import run
from tests.support.datasets import digit


@pytest.fixture
def tagged(url: str, digits: Dataset) -> str:
    """A dataset with the tag ``gold`` at position 3 of 5; return the database's URL."""
    digits.insert([digit(n) for n in range(3)], keys=["a", "b", "c"])
    run("tag", "digits", "gold", "--note", "[b]paper[/b]\n2", url=url)
    digits.retract("a")
    digits.insert([digit(7)], keys=["d"])
    return url


def test_tags_are_set_listed_moved_and_deleted(tagged: str, digits: Dataset) -> None:
    lines = run("tag", "digits", "v1", "--at", 1, url=tagged).stdout
    gold = {tag.name: tag for tag in digits.tags()}["gold"]
    (first, second) = digits.tags()
    assert lines == f"v1: {first.version}, 1 sample\n"
    table = [line.split() for line in run("tags", "digits", url=tagged).stdout.splitlines()]
    assert table[0] == ["tag", "position", "live", "set", "(UTC)", "version", "note"]
    assert [(row[:3], row[5]) for row in table[1:]] == [
        (["v1", "1", "1"], str(first.version)),
        (["gold", "3", "3"], str(gold.version)),
    ]
    assert table[2][6:] == [r"[b]paper[/b]\n2"]
    assert json.loads(run("tags", "digits", "--json", url=tagged).stdout)[1] == {
        "name": "gold",
        "position": 3,
        "version": str(second.version),
        "live": 3,
        "created_at": second.created_at.isoformat(),
        "note": "[b]paper[/b]\n2",
    }
    refused = run("tag", "digits", "gold", url=tagged, code=1)
    assert refused.stderr.startswith(f"error: tag 'gold' of 'digits' points to {gold.version}")
    moved = run("tag", "digits", "gold", "--move", "--note", "new", url=tagged).stdout
    assert moved == f"gold: {digits.version}, 3 samples\n"
    assert run("tag", "digits@v1", "v0", url=tagged).stdout.startswith("v0: digits@1:")
    assert run("untag", "digits", "v1", url=tagged).stdout == "deleted v1\n"
    unknown = run("untag", "digits", "v1", url=tagged, code=1).stderr
    assert unknown == ("error: 'digits' has no tag 'v1'; its tags are 'gold', 'v0'\n")
    for wrong, reason in {"15": "cannot be a tag", "a b": "cannot be a tag"}.items():
        assert reason in run("tag", "digits", wrong, url=tagged, code=1).stderr
    for position in (-1, 6):
        stderr = run("tag", "digits", "x", "--at", position, url=tagged, code=1).stderr
        assert stderr == f"error: 'digits' has versions at 0 to 5, not at {position}\n"


@pytest.mark.parametrize("name", ["digits@gold", "digits@3"])
def test_commands_take_a_tag_or_a_position(
    tagged: str, digits: Dataset, tmp_path: Path, name: str
) -> None:
    version = str(digits.tags()[0].version)
    shown = json.loads(run("show", name, "--json", url=tagged).stdout)
    assert (shown["version"], shown["live"], shown["positions"]) == (version, 3, 3)
    log = run("log", name, "--json", url=tagged).stdout.splitlines()
    assert [json.loads(line)["key"] for line in log] == ["a", "b", "c"]
    assert "3 rows match the stored hash chain" in run("verify", name, url=tagged).stdout
    path = tmp_path / "rows.jsonl"
    assert f"3 samples of {version}" in run("export", name, path, url=tagged).stdout
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b", "c"]
    for command in (
        ["insert", name, path, "--key=key"],
        ["erase", name, "a", "--yes"],
        ["drain", name],
    ):
        error = run(*command, url=tagged, code=1).stderr
        assert f"{version} never changes; open 'digits' instead" in error


@pytest.mark.parametrize("options", [["erase", "digits@gold", "a"], ["insert", "--dry-run"]])
def test_a_version_is_refused_before_anything_is_asked_or_read(
    tagged: str, tmp_path: Path, options: list[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(digit(5)) + "\n")
    files = ["digits@gold", path] if options[0] == "insert" else []
    refused = run(*options, *files, url=tagged, code=1)
    assert "never changes; open 'digits' instead" in refused.stderr
    assert not refused.stdout


def test_a_run_that_is_created_on_a_version_says_so(tagged: str, digits: Dataset) -> None:
    created = run("run", "create", "digits@gold", "r", url=tagged).stdout
    assert created.endswith(f", on {digits.run('r').version}\n")
