"""The package as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import registry


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
        "psycopg",
        "typer",
        "rich",
        "sklearn",
    }
    assert not heavy & set(json.loads(done.stdout))


def test_everything_public_is_exported_and_documented() -> None:
    assert list(registry.__all__) == sorted(registry.__all__) == dir(registry)
    for name in registry.__all__:
        assert getattr(registry, name).__doc__, f"{name} has no docstring"


def test_a_name_that_does_not_exist_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="Dataste"):
        registry.Dataste  # type: ignore[attr-defined]  # noqa: B018
