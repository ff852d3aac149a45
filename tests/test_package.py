"""The package as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import registry
from registry import ClassLabel
from registry.cli.base import MODULES, app


def test_importing_registry_loads_nothing_heavy_and_no_database() -> None:
    code = (
        "import sys, json; before = set(sys.modules); import registry; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    heavy = {"tensorflow", "numpy", "sqlalchemy", "alembic", "psycopg", "typer", "rich"}
    assert not loaded & heavy


def test_connecting_loads_nothing_that_only_trainers_and_servers_need(tmp_path: Path) -> None:
    code = (
        f"import sys, json; import registry; registry.connect('sqlite:///{tmp_path}/r.db'); "
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "tensorflow",
        "keras",
        "fastapi",
        "pyarrow",
        "PIL",
        "numpy",
        "psycopg",
        "typer",
        "rich",
        "sklearn",
    }
    assert not heavy & set(json.loads(done.stdout))


def test_a_command_loads_no_other_commands_and_nothing_that_only_they_need(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/r.db"
    registry.connect(url).create("digits", {"label": ClassLabel(10)})
    code = (
        "import atexit, json, sys; from registry.cli import app; sys.argv[1:] = ['ls', '--url', "
        f"{url!r}]; atexit.register(lambda: print(json.dumps(sorted(sys.modules)))); app()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *table, last = done.stdout.splitlines()
    assert table[1].startswith("digits")
    loaded = json.loads(last)
    commands = {name.split(".")[2] for name in loaded if name.startswith("registry.cli.")}
    assert commands & {*MODULES} == {"ls"}
    rooms = ("registry.training.", "registry.storage.mirror.", "registry.io.", "registry.server.")
    assert not [name for name in loaded if name.startswith(rooms)]
    assert not {"alembic", "numpy", "sqlalchemy.orm"} & {*loaded}


def test_every_command_is_listed_and_a_wrong_one_gets_the_right_one_suggested() -> None:
    group = get_command(app)
    assert group.list_commands(None) == [*MODULES]  # type: ignore[attr-defined]
    for name in MODULES:
        assert group.get_command(None, name).name == name  # type: ignore[attr-defined]
    # In a new process, where no command is loaded yet.
    command = [sys.executable, "-m", "registry", "lss"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean 'ls'?" in done.stderr


def test_everything_public_is_exported_and_documented() -> None:
    assert list(registry.__all__) == sorted(registry.__all__) == dir(registry)
    for name in registry.__all__:
        assert getattr(registry, name).__doc__, f"{name} has no docstring"


def test_a_name_that_does_not_exist_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="Dataste"):
        registry.Dataste  # type: ignore[attr-defined]  # noqa: B018
