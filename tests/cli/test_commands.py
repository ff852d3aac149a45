"""The commands, as a terminal or a script runs them."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

import registry
from registry import Dataset
from registry.storage.database.schema import REVISION
from registry.storage.log.batch import Batch
from tests.support.commands import process, run
from tests.support.datasets import FIXED, digit

CREATE = ["create", "digits", "--feature", "image=uint8[2,2]", "--feature", "label=class:10"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Thirty samples, with their keys in ``id``."""
    path = tmp_path / "digits.jsonl"
    path.write_text("".join(json.dumps({**digit(n), "id": f"scan-{n}"}) + "\n" for n in range(30)))
    return path


@pytest.fixture
def created(url: str) -> str:
    """Create the dataset ``digits`` by a command; return the database's URL."""
    splits = ["--split", "train=0.9", "--split", "test=0.1", "--description", "Written by hand"]
    assert run(*CREATE, *splits, url=url).stdout == f"created digits@0:{'0' * 32}\n"
    return url


def test_a_file_is_inserted_once(created: str, file: Path) -> None:
    line = run("insert", "digits", file, "--key", "id", url=created).stdout
    assert line.startswith(f"{file}: 30 inserted, 0 revised, 0 unchanged; digits@30:")
    again = json.loads(run("insert", "digits", file, "--key=id", "--json", url=created).stdout)
    assert (again["inserted"], again["unchanged"]) == (0, 30)
    assert again["version"] in line


def test_ls_and_show_give_the_same_json(created: str, file: Path) -> None:
    line = run("insert", "digits", file, "--key", "id", url=created).stdout
    (listed,) = json.loads(run("ls", "--json", url=created).stdout)
    shown = json.loads(run("show", "digits", "--json", url=created).stdout)
    assert listed == shown
    assert shown.pop("created_at").endswith("+00:00")
    assert (shown.pop("schema"), shown.pop("changes")) == (0, [])
    assert shown == {
        "name": "digits",
        "description": "Written by hand",
        "features": [
            {"name": "image", "kind": "Tensor", "dtype": "uint8", "shape": [2, 2]},
            {"name": "label", "kind": "ClassLabel", "count": 10, "names": None},
        ],
        "splits": {"train": 0.9, "test": 0.1},
        "live": 30,
        "positions": 30,
        "version": line.split("; ")[1].strip(),
    }


def test_a_dataset_is_shown_as_it_is_and_at_a_version(created: str) -> None:
    assert "image=uint8[2,2] label=class:10" in run("ls", url=created).stdout
    lines = run("show", "digits", url=created).stdout.splitlines()
    assert [line.split()[0] for line in lines].count("features") == 1
    assert "image=uint8[2,2]" in lines[2]
    version = json.loads(run("show", "digits", "--json", url=created).stdout)["version"]
    assert run("show", version, url=created).stdout.splitlines() == lines


@pytest.fixture
def logged(url: str, digits: Dataset) -> str:
    """A log of 32 rows, the last of which revise and retract; return the database's URL."""
    digits.insert([digit(n) for n in range(30)], keys=[f"k{n}" for n in range(30)], source="tool")
    digits.update("k3", label=0)
    digits.retract("k4")
    return url


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        ((), range(12, 32)),
        (("-n", "2"), range(30, 32)),
        (("--after", "3"), range(3, 32)),
        (("--after", "3", "-n", "1"), range(31, 32)),
        (("--after", "32"), ()),
        (("--limit", "0"), ()),
    ],
)
def test_the_log_is_listed_from_its_end_or_from_a_position(
    logged: str, options: tuple[str, ...], positions: Iterable[int]
) -> None:
    lines = run("log", "digits", "--json", *options, url=logged).stdout.splitlines()
    assert [json.loads(line)["position"] for line in lines] == [*positions]


def test_a_row_of_the_log_as_json(logged: str) -> None:
    last = json.loads(run("log", "digits", "-n1", "--json", url=logged).stdout)
    assert last.pop("created_at").endswith("+00:00")
    assert last == {
        "position": 31,
        "key": "k4",
        "group": None,
        "action": "retract",
        "supersedes": 4,
        "source": None,
        "erased": False,
    }


def test_the_log_as_a_table(logged: str) -> None:
    table = [line.split() for line in run("log", "digits", "-n3", url=logged).stdout.splitlines()]
    assert table[0] == ["position", "time", "(UTC)", "action", "key", "source"]
    assert [row[0] for row in table[1:]] == ["29", "30", "31"]
    assert [row[3:] for row in table[1:]] == [
        ["inserts", "k29", "tool"],
        ["revises", "3", "k3"],
        ["retracts", "4", "k4"],
    ]


def test_names_are_neither_truncated_nor_interpreted(url: str, digits: Dataset) -> None:
    keys = ["x" * 500, "[red]a[/red] [/]", "a\x1b[31m\nb"]
    digits.insert([digit(n) for n in range(3)], keys=keys, source="[bold]s")
    _, *lines = run("log", "digits", url=url).stdout.splitlines()
    assert len(lines) == len(keys)
    assert keys[0] in lines[0]
    assert keys[1] in lines[1]
    assert r"a\x1b[31m\nb" in lines[2]
    assert all("[bold]s" in line for line in lines)


def test_a_database_is_set_up(tmp_path: Path, empty_postgresql_url: str) -> None:
    for url in (f"sqlite:///{tmp_path / 'new.db'}", empty_postgresql_url):
        assert run("init", url=url).stdout.endswith(f"is at schema {REVISION}\n")
        assert run("init", "--url", url).stdout.endswith(f"is at schema {REVISION}\n")
        assert json.loads(run("ls", "--json", "--url", url).stdout) == []


def test_wrong_arguments_exit_with_2(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    for arguments, reason in [
        (["create", "d"], "Missing option '--feature'"),
        (["create", "d", "--feature", "x"], "'x' is not NAME=VALUE"),
        (["create", "d", "--feature", "x=text", "--feature", "x=bytes"], "'x' is given twice"),
        (["create", "d", "--feature", "x=text", "--split", "a=b"], "'b' is not a number"),
        (["insert", "d", "gone.csv"], "does not exist"),
        (["log", "d", "--after", "-1"], "Invalid value for '--after'"),
    ]:
        assert reason in run(*arguments, url=url, code=2).stderr
    assert not (tmp_path / "new.db").exists()


def test_an_error_in_a_file_names_its_line(url: str, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text('image,label\n"[[1,2],[3,4]]",x\n')
    result = run("insert", "digits", path, url=url, code=1)
    assert result.stdout == ""
    first, note = result.stderr.splitlines()
    assert first == f"error: {path}, line 2, feature 'label': 'x' is not a class"
    assert note.startswith("  nothing of it is stored; correct the file and import it again")
    assert len(digits) == 0


def test_a_file_of_unknown_format_stops_the_command_before_the_first_insert(
    url: str, digits: Dataset, tmp_path: Path
) -> None:
    known, unknown = tmp_path / "known.csv", tmp_path / "unknown.rar"
    known.write_text('image,label\n"[[1,2],[3,4]]",1\n')
    unknown.touch()
    assert "'.rar' names no" in run("insert", "digits", known, unknown, url=url, code=1).stderr
    assert len(digits) == 0


def test_an_interrupted_import_says_what_is_stored(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*CREATE, url=url)
    monkeypatch.setattr("registry.io.batching.PIECE_ROWS", 10)
    monkeypatch.setattr("registry.io.batching.BATCH_ROWS", 10)
    append, calls = Dataset.append, iter([0, 1])

    def interrupted(dataset: Dataset, batch: Batch) -> registry.Report:
        if next(calls):
            raise KeyboardInterrupt
        return append(dataset, batch)

    monkeypatch.setattr(Dataset, "append", interrupted)
    result = run("insert", "digits", file, "--key=id", url=url, code=130)
    assert result.stderr == (
        f"error: interrupted\n  {file}: 10 rows or more are stored; import it again for the rest\n"
    )


def test_the_demo_names_the_extra_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = run("demo", "--folder", tmp_path / "demo", code=1)
    assert result.stderr == (
        "error: the demo needs sklearn; run: pip install 'registry-datasets[demo]'\n"
    )


def test_commands_take_a_url_and_listings_give_json() -> None:
    assert "Commands" in run(code=2).output
    for command in ("init", "create", "insert", "ls", "show", "log"):
        text = run(command, "--help").stdout
        assert "--url" in text
        assert ("--json" in text) == (command not in {"init", "create"})


def test_an_error_is_one_line_without_a_traceback_or_a_password() -> None:
    url = "postgresql://someone:swordfish@localhost:1/nothing"
    with process("ls", "--url", url) as started:
        out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (1, "")
    assert err.startswith("error: postgresql+psycopg://someone:***@localhost:1/nothing: ")
    assert err.count("\n") == 1
    assert "swordfish" not in err


def test_the_log_is_followed_until_ctrl_c(url: str, digits: Dataset) -> None:
    digits.insert([digit(0)], keys=["before"])
    with process("log", "digits", "--follow", "--json", "--url", url) as started:
        assert started.stdout is not None
        assert json.loads(started.stdout.readline())["key"] == "before"
        digits.insert([digit(1), digit(2)], keys=["later", "last"])
        assert [json.loads(started.stdout.readline())["key"] for _ in range(2)] == ["later", "last"]
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=60)
    assert (started.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("_follow", ["log", "digits", "--follow"]),
        ("_follow", ["mirror", "digits", "--follow"]),
        ("_watch", ["drain", "--watch"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_that_follows_ends_without_error_while_modules_are_loaded(
    sqlite_url: str, number: str, function: str, arguments: list[str]
) -> None:
    with registry.connect(sqlite_url) as reg:
        reg.create("digits", FIXED)
    script = ["-m", "tests.support.interrupted_command", arguments[0], function, number]
    command = [sys.executable, *script, *arguments, "--url", sqlite_url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_command_that_waits_for_the_database_says_why(sqlite_url: str) -> None:
    url = f"{sqlite_url}?timeout=1"
    path = sqlite_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with process("init", "--url", url) as started:
            assert started.stderr is not None
            line = started.stderr.readline()
            assert line == (
                f"waiting: {url} is locked by another process (database is locked); try again\n"
            )
            other.execute("ROLLBACK")
            _, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (0, "")


def test_a_terminal_shows_progress_on_stderr_only(sqlite_url: str, file: Path) -> None:
    run(*CREATE, url=sqlite_url)
    ours, theirs = pty.openpty()
    arguments = ("insert", "digits", str(file), "--key", "id", "--url", sqlite_url)
    with process(*arguments, stderr=theirs) as started:
        out, _ = started.communicate(timeout=60)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert started.returncode == 0, shown
    assert "30 rows" in shown
    assert "rows/s" in shown
    assert out.startswith(f"{file}: 30 inserted")
    assert "\x1b" not in out
