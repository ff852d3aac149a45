"""``registry insert`` and ``registry export``, as a terminal runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import registry
from registry import ClassLabel, Dataset, Text
from tests.support.commands import run
from tests.support.datasets import digit


def test_an_export_is_of_the_dataset_or_of_a_version(
    url: str, digits: Dataset, tmp_path: Path
) -> None:
    digits.insert([digit(n) for n in range(3)], keys=["a", "b", "c"])
    version = str(digits.version)
    digits.retract("a")
    path = tmp_path / "d.parquet"
    assert run("export", version, path, url=url).stdout == f"{path}: 3 samples of {version}\n"
    line = run("export", "digits", tmp_path / "d", "--format=jsonl", "--json", url=url).stdout
    assert json.loads(line) == {
        "file": str(tmp_path / "d"),
        "samples": 2,
        "version": str(digits.version),
    }


def test_an_exported_dataset_can_be_inserted(url: str, digits: Dataset, tmp_path: Path) -> None:
    digits.insert([digit(n) for n in range(3)], keys=["a", "b", "c"])
    parquet, lines = tmp_path / "d.parquet", tmp_path / "d"
    run("export", "digits", parquet, url=url)
    run("export", "digits", lines, "--format=jsonl", url=url)
    run("create", "copy", "--feature", "image=uint8[2,2]", "--feature", "label=class:10", url=url)
    run("insert", "copy", parquet, "--key=key", url=url)
    run("insert", "copy", lines, "--key=key", "--format=jsonl", url=url)
    with registry.connect(url) as reg:
        assert reg.open("copy").head == digits.head


def test_a_dry_run_changes_nothing(url: str, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"id": n, **digit(n)}) + "\n" for n in range(3)))
    lines = run(
        "insert", "digits", path, path, "--key=id", "--dry-run", url=url
    ).stdout.splitlines()
    assert lines[0].startswith(f"{path}: would be 3 inserted, 0 revised, 0 unchanged; digits@0:")
    assert lines[1].startswith(f"{path}: would be 0 inserted, 0 revised, 3 unchanged; digits@0:")
    assert len(digits) == 0


@pytest.mark.usefixtures("digits")
def test_a_dry_run_reports_errors(url: str, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"id": n, **digit(n)}) + "\n" for n in range(3)) + "{")
    result = run("insert", "digits", path, "--key=id", "--dry-run", url=url, code=1)
    assert "d.jsonl, line 4: not JSON" in result.stderr
    assert "stored" not in result.stderr


def test_fields_are_mapped(url: str, tmp_path: Path) -> None:
    with registry.connect(url) as reg:
        dataset = reg.create("notes", {"text": Text(), "mood": ClassLabel(["sad", "glad"])})
        path = tmp_path / "export.txt"
        path.write_text('{"data": {"t": "hello"}, "marks": [{"m": "glad"}], "n": 4}')
        mapped = ("--map", "text=data.t", "--map", "mood=marks.0.m")
        run("insert", "notes", path, "--format=jsonl", "--key=n", *mapped, url=url)
        assert dataset.get("4") == {"text": "hello", "mood": 1}


def test_options_that_do_not_fit_the_file_are_errors(url: str, tmp_path: Path) -> None:
    with registry.connect(url) as reg:
        reg.create("notes", {"text": Text(), "mood": ClassLabel(["sad", "glad"])})
    path = tmp_path / "export.txt"
    path.write_text('{"data": {"t": "hello"}, "marks": [{"m": "glad"}], "n": 4}')
    for options, code, reason in [
        ((), 1, "suffix '.txt' names no known format; files can be .jsonl"),
        (("--format=xml",), 1, "no format is named 'xml'; choose one of jsonl, csv"),
        (("--format=jsonl", "--map", "text"), 2, "'text' is not NAME=VALUE"),
        (("--format=jsonl", "--map", "tex=n"), 1, "'tex' is mapped and is no feature"),
        (("--format=jsonl", "--project=2"), 2, "goes with --format label-studio"),
        (("--format=label-studio", "--key=id"), 2, "an annotation's own number is its key"),
    ]:
        result = run("insert", "notes", path, *options, url=url, code=code)
        assert reason in " ".join(result.stderr.replace("│", "").split())


def test_a_label_studio_export_is_inserted_once(url: str, tmp_path: Path) -> None:
    def task(number: int, mood: str) -> dict[str, object]:
        answer = {"from_name": "mood", "type": "choices", "value": {"choices": [mood]}}
        annotation = {"id": number, "result": [answer], "updated_at": "2024-05-01T10:00:00Z"}
        return {
            "id": number,
            "project": 2,
            "data": {"text": f"t{number}"},
            "annotations": [annotation],
        }

    path = tmp_path / "project.json"
    arguments = ("insert", "notes", path, "--format=label-studio", "--json")
    with registry.connect(url) as reg:
        dataset = reg.create("notes", {"text": Text(), "mood": ClassLabel(["sad", "glad"])})
        path.write_text(json.dumps([task(1, "sad"), task(2, "glad")]))
        assert json.loads(run(*arguments, "--dry-run", url=url).stdout)["inserted"] == 2
        assert len(dataset) == 0
        assert json.loads(run(*arguments, url=url).stdout)["inserted"] == 2
        assert dataset.get("label-studio:2:2") == {"text": "t2", "mood": 1}
        # Without the format, the file is recognized by its content.
        again = json.loads(run("insert", "notes", path, "--json", url=url).stdout)
        assert (again["inserted"], again["unchanged"]) == (0, 2)


def test_a_failed_export_leaves_what_was_there(url: str, digits: Dataset, tmp_path: Path) -> None:
    digits.insert([digit(1)])
    result = run("export", "digits", tmp_path / "d.xml", url=url, code=1)
    assert "suffix '.xml' names no format that can be written" in result.stderr
    result = run("export", "digits", tmp_path / "d.jsonl", "--key=label", url=url, code=1)
    assert "'label' is a feature; choose another name" in result.stderr
    assert not [*tmp_path.glob("d.*")]


def studio_tasks(*numbers: int, mood: str = "glad") -> str:
    answer = {"from_name": "mood", "type": "choices", "value": {"choices": [mood]}}
    time = {"updated_at": "2024-05-01T10:00:00Z"}
    return json.dumps(
        [
            {
                "id": number,
                "project": 2,
                "data": {"text": f"t{number}"},
                **time,
                "annotations": [{"id": number, "result": [answer], **time}],
            }
            for number in numbers
        ],
        indent=1,
    )


def test_an_export_that_retracts_much_needs_a_yes(url: str, tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    arguments = ("insert", "notes", path, "--format=label-studio")
    with registry.connect(url) as reg:
        dataset = reg.create("notes", {"text": Text(), "mood": ClassLabel(["sad", "glad"])})
        path.write_text(studio_tasks(*range(10)))
        run(*arguments, url=url)
        path.write_text(studio_tasks(1, 2, 77))
        for _ in range(2):
            refused = run(*arguments, url=url, code=1).stderr
            assert "lacks 8 of the 10 live samples of project 2: retract them?" in refused
            assert "Nothing was stored; confirm it with --yes" in refused
            assert len(dataset) == 10
        dry = run(*arguments, "--dry-run", "--json", url=url)
        assert json.loads(dry.stdout)["retracted"] == 8
        assert "without --dry-run, this is asked: the export lacks 8 of" in dry.stderr
        assert ", 0 revised, 2 unchanged;" in run(*arguments, "--no-retract", url=url).stdout
        assert len(dataset) == 11
        assert "8 retracted" in run(*arguments, "--yes", url=url).stdout
        assert len(dataset) == 3


def test_faults_are_listed_or_quarantined(url: str, tmp_path: Path) -> None:
    lines = [json.dumps({"id": n, "text": f"t{n}", "mood": "sad"}) for n in range(2)]
    lines += [json.dumps({"id": n, "text": f"t{n}", "mood": "odd"}) for n in range(2, 25)]
    rows, project = tmp_path / "rows.jsonl", tmp_path / "project.json"
    rows.write_text("\n".join(lines))
    project.write_text(studio_tasks(*range(23), mood="odd"))
    for path, option, extra in [(rows, "--key=id", 2), (project, "--format=label-studio", 0)]:
        with registry.connect(url) as reg:
            dataset = reg.create(path.stem, {"text": Text(), "mood": ClassLabel(["sad", "glad"])})
            arguments = ("insert", path.stem, path, option)
            dry = run(*arguments, "--dry-run", url=url, code=1)
            assert f"would be {extra} inserted, 0 revised, 0 unchanged, 23 rejected" in dry.stdout
            assert dry.stderr.count("unknown class 'odd'") == 20
            assert "and 3 more that do not fit" in dry.stderr
            assert (len(dataset), dataset.inbox.refused()) == (0, [])
            stored = json.loads(run(*arguments, "--quarantine", "--json", url=url).stdout)
            assert (stored["inserted"], stored["rejected"]) == (extra, 23)
            assert (len(dataset), len(dataset.inbox.refused())) == (extra, 23)
            assert f"{path.name}, line " in dataset.inbox.refused()[0].error


def test_a_large_retraction_is_asked_about_on_a_terminal(sqlite_url: str, tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    arguments = ["insert", "notes", str(path), "--format=label-studio", f"--url={sqlite_url}"]
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("notes", {"text": Text(), "mood": ClassLabel(["sad", "glad"])})
        path.write_text(studio_tasks(*range(10)))
        run(*arguments)
        path.write_text(studio_tasks(1))
        for answer, left in [("n", 10), ("y", 1)]:
            terminal, end = os.openpty()
            os.write(terminal, f"{answer}\n".encode())
            command = [sys.executable, "-m", "registry", *arguments]
            asked = subprocess.run(command, stdin=end, stdout=end, stderr=end, check=False)
            shown = os.read(terminal, 1 << 16).decode()
            os.close(terminal)
            os.close(end)
            # A bar that is already shown would be drawn over the question.
            assert "rows/s" not in shown.partition("retract them? [y/N]:")[0]
            assert "retract them? [y/N]:" in shown
            assert (asked.returncode == 0, len(dataset)) == (answer == "y", left)
