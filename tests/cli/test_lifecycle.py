"""The commands that rename, describe and remove, and those that list what there is."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import registry
from registry import Dataset, Registry
from registry.cli.base import app
from registry.cli.complete import dataset_names
from tests.support.commands import run
from tests.support.datasets import FIXED, digit


@pytest.fixture
def trained(reg: Registry, digits: Dataset) -> Dataset:
    """Ten samples in 12 rows, and a run with two epochs; and another dataset with a run."""
    other = reg.create("other", FIXED)
    other.insert([digit(1)])
    other.run("r").epoch(0)
    digits.insert([digit(n) for n in range(11)], keys=[f"k{n}" for n in range(11)])
    digits.retract("k10")
    training = digits.run("cnn-1", seed=7, split="train")
    for number in range(2):
        training.epoch(number)
    training.record(9)
    return reg.open("digits")


def on_terminal(url: str, answer: bytes, *arguments: str) -> tuple[int, str]:
    """Run a command whose user sees a question, and answers it; return its exit code and output."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "registry", *arguments, "--url", url]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as started:
        os.close(theirs)
        shown = b""
        # The terminal echoes the answer at once, so it must not be before the question.
        while b"[y/N]: " not in shown:
            shown += os.read(ours, 1 << 16)
        os.write(ours, answer + b"\n")
        try:
            while more := os.read(ours, 1 << 16):
                shown += more
        except OSError:  # the other end is closed
            pass
        code = started.wait(60)
    os.close(ours)
    return code, shown.decode()


def test_runs_are_listed_and_shown(url: str, trained: Dataset) -> None:
    size = trained.find_run("cnn-1").epochs(1)[0].pin.size
    (listed,) = json.loads(run("run", "ls", "digits", "--json", url=url).stdout)
    assert listed == {
        "name": "cnn-1",
        "seed": 7,
        "split": "train",
        "policy": "all",
        "where": None,
        "version": None,
        "epochs": 2,
        "watermark": 12,
        "samples": 2 * size,
        "consumed": 9,
    }
    shown = json.loads(run("run", "show", "digits", "cnn-1", "--json", url=url).stdout)
    assert {name: shown[name] for name in listed} == listed
    assert [epoch["number"] for epoch in shown["last_epochs"]] == [0, 1]
    assert shown["last_epochs"][1].pop("pinned_at").endswith("+00:00")
    assert shown["last_epochs"][1] == {
        "number": 1,
        "since": 12,
        "watermark": 12,
        "chain": trained.head.chain.hex(),
        "size": size,
        "start": size,
    }
    lines = run("run", "show", "digits", "cnn-1", "-n1", url=url).stdout.splitlines()
    *properties, header, last = [line.rstrip() for line in lines]
    assert properties[-3:] == [f"epochs    2, of {2 * size} samples", "consumed  9 samples", ""]
    assert header.split() == ["epoch", "pinned", "(UTC)", "watermark", "samples", "first"]
    assert last.split()[0] == "1"
    assert "did you mean 'cnn-1'" in run("run", "show", "digits", "cnn", url=url, code=1).stderr


def test_a_run_is_removed_by_a_command_only_if_the_user_agrees(url: str, trained: Dataset) -> None:
    size = trained.find_run("cnn-1").epochs(1)[0].pin.size
    what = f"2 epochs of {2 * size} samples, 9 of them consumed"
    question = f"Remove run 'cnn-1' of digits ({what}), permanently?"
    refused = run("run", "rm", "digits", "cnn-1", url=url, code=1)
    assert refused.stdout == ""
    assert refused.stderr == f"error: {question} Pass --yes to do it; nothing was changed\n"
    assert [each.name for each in trained.runs()] == ["cnn-1"]
    removed = run("run", "rm", "digits", "cnn-1", "--yes", url=url)
    assert removed.stdout == f"removed cnn-1: {what}\n"
    assert trained.runs() == []
    assert "no run named 'cnn-1'" in run("run", "rm", "digits", "cnn-1", url=url, code=1).stderr


def test_a_dataset_is_dropped_by_a_command_only_if_the_user_agrees(
    url: str, trained: Dataset
) -> None:
    what = "12 rows, 10 samples, 1 run with 2 epochs, 0 tags"
    refused = run("drop", "digits", url=url, code=1)
    assert (refused.stdout, refused.stderr) == (
        "",
        f"error: Drop digits ({what}), permanently? Pass --yes to do it; nothing was changed\n",
    )
    assert len(trained) == 10
    version = run("drop", "digits@3", "--yes", url=url, code=1)
    assert version.stderr == "error: no dataset named 'digits@3'; did you mean 'digits'?\n"
    run("token", "create", "cvat.digits", "--dataset", "digits", url=url)
    run("token", "create", "revoked.digits", "--dataset", "digits", url=url)
    run("token", "revoke", "revoked.digits", url=url)
    dropped = run("drop", "digits", "--yes", url=url)
    assert dropped.stdout == f"dropped digits: {what}\n"
    note = "the token cvat.digits would open a new dataset of this name; revoke it"
    assert dropped.stderr == f"note: {note}\n"
    with registry.connect(url) as opened:
        assert opened.names() == ["other"]
    assert "no dataset named 'digits'" in run("drop", "digits", "-y", url=url, code=1).stderr


def test_the_user_of_a_terminal_is_asked(sqlite_url: str) -> None:
    with registry.connect(sqlite_url) as reg:
        reg.create("digits", FIXED)
        question = "Drop digits (0 rows, 0 samples, 0 runs with 0 epochs, 0 tags), permanently?"
        for answer, code, left in [(b"n", 1, ["digits"]), (b"y", 0, [])]:
            exit_code, shown = on_terminal(sqlite_url, answer, "drop", "digits")
            assert (exit_code, shown.startswith(f"{question} [y/N]: ")) == (code, True), shown
            assert reg.names() == left


@pytest.mark.usefixtures("trained")
def test_a_dataset_is_renamed_and_described_by_commands(url: str) -> None:
    run("token", "create", "cvat.digits", "--dataset", "digits", url=url)
    renamed = run("rename", "digits", "mnist", url=url)
    assert renamed.stdout == "digits is now mnist\n"
    assert renamed.stderr == (
        "note: the token cvat.digits is now cvat.mnist, with the same secret\n"
    )
    run("describe", "mnist", "Written by hand", url=url)
    shown = json.loads(run("show", "mnist", "--json", url=url).stdout)
    assert (shown["name"], shown["description"]) == ("mnist", "Written by hand")
    assert "exists already" in run("rename", "mnist", "mnist", url=url, code=1).stderr


COMPLETED = r"""
eval "$(registry --show-completion)"
try() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    _registry_completion registry
    echo "${COMPREPLY[@]}"
}
try registry des
try registry run ls mn
"""


def test_a_shell_completes_commands_and_names_of_datasets(sqlite_url: str) -> None:
    with registry.connect(sqlite_url) as reg:
        for name in ("mnist", "mnist-2", "other"):
            reg.create(name, FIXED)
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    completed = subprocess.run(
        ["bash", "-c", COMPLETED],
        env={**os.environ, "PATH": binaries, "REGISTRY_URL": sqlite_url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout == "describe\nmnist mnist-2\n"
    assert completed.stderr == ""


def test_completing_a_name_neither_creates_a_database_nor_prints_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, broken = tmp_path / "empty.db", tmp_path / "broken.db"
    empty.touch()
    broken.write_text("no database" * 1000)
    context = typer.Context(typer.main.get_command(app))
    for name in ("missing.db", "empty.db", "broken.db", "folder-that-is-missing/missing.db"):
        monkeypatch.setenv("REGISTRY_URL", f"sqlite:///{tmp_path / name}")
        assert dataset_names(context, "") == []
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.db", "empty.db"]
    assert empty.stat().st_size == 0


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"registry {registry.__version__}\n"
