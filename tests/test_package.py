"""The package as a whole."""

from __future__ import annotations

import json
import subprocess
import sys

import registry


def test_importing_registry_loads_nothing_heavy_and_no_database() -> None:
    code = (
        "import sys, json; before = set(sys.modules); import registry; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    heavy = {"tensorflow", "keras", "fastapi", "pyarrow", "alembic", "psycopg", "typer", "sklearn"}
    assert not loaded & heavy
    assert "registry.connection" in loaded


def test_everything_public_is_exported_and_documented() -> None:
    public = {
        name
        for name, value in vars(registry).items()
        if not name.startswith("_") and type(value).__name__ != "module"
    }
    assert public == set(registry.__all__)
    assert list(registry.__all__) == sorted(registry.__all__)
    for name in registry.__all__:
        assert getattr(registry, name).__doc__, f"{name} has no docstring"
