"""The reference is complete: it is generated from the code, or compared with it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from registry import errors
from registry.storage.database.models import metadata

ROOT = Path(__file__).parent.parent
VARIABLE = re.compile(r"^(?:[A-Z]+_[A-Z_]+|PG[A-Z]+|DISPLAY)$")
SECTION = re.compile(r"^## (\w+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def pages() -> Iterator[ModuleType]:
    """The module that generates pages, as Sphinx loads it."""
    sys.path.insert(0, str(ROOT / "docs"))
    yield importlib.import_module("reference_pages")
    sys.path.remove(str(ROOT / "docs"))


def test_the_page_of_the_schema_has_all_columns_indexes_and_keys(pages: ModuleType) -> None:
    sections = dict(SECTION.findall(pages.sql_page()))
    assert set(sections) == set(metadata.tables)
    for table in metadata.tables.values():
        text = sections[table.name]
        columns = re.findall(r"^\|`(\w+)`", text, re.MULTILINE)
        assert columns == [each.name for each in table.columns]
        assert all(f"`{index.name}`" in text for index in table.indexes)
        assert text.count(" refers to ") == len(table.foreign_keys)
    assert "Number of live samples." in sections["heads"]
    assert "Row`" not in "".join(sections.values())


def test_the_page_of_http_has_all_routes_and_forms(pages: ModuleType) -> None:
    page, document = pages.http_page(), importlib.import_module("http_page").openapi()
    routes = [
        f"## `{method.upper()} {path}`"
        for path, operations in document["paths"].items()
        for method in operations
    ]
    assert [each for each in page.splitlines() if each.startswith("## `")] == routes
    named = {*re.findall(r"\|`[\w/+]+` (?:list of )?`(\w+)`\|", page), "ProblemDetails"}
    assert [each for each in named if f"### `{each}`" not in page] == []
    assert len(named) > 5
    bodies = {*re.findall(r"^Body, `application/json`: `(\w+)`", page, re.MULTILINE)}
    assert {f"### `{each}`" for each in bodies} <= {*page.splitlines()}
    assert "SampleItem" in bodies


def test_the_page_of_python_has_all_public_names() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    modules = {
        "": "__init__.pyi",
        "tensorflow.": "tensorflow/__init__.py",
        "keras.": "keras.py",
        "torch.": "torch/__init__.py",
    }
    names = {
        prefix + name
        for prefix, path in modules.items()
        for node in ast.parse((ROOT / "registry" / path).read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.literal_eval(node.value)
    }
    assert "torch.collate" in names
    documented = set(re.findall(r":: registry\.((?:\w+\.)?\w+)$", page, re.MULTILINE))
    # The errors, of which one is also in `registry`, are documented by their module.
    assert documented - {"errors"} == names - {"RegistryError"}


def test_each_error_says_what_to_do(pages: ModuleType) -> None:
    page, rows = pages.errors_page(), {}
    for name, cause, remedy in re.findall(r"^\|[^|`]*`(\w+)`\|(.*)\|(.*)\|$", page, re.MULTILINE):
        rows[name] = (cause, remedy)
    kinds = {
        each.__name__
        for each in vars(errors).values()
        if inspect.isclass(each)
        and issubclass(each, errors.RegistryError | UserWarning)
        and each is not errors.RegistryError
    }
    assert kinds < set(rows)
    assert [name for name, texts in rows.items() if "" in texts] == []


def test_the_commands_that_remedies_name_exist(pages: ModuleType) -> None:
    text = pages.commands_page()
    assert re.findall(r"^\* `\w+`: .*\.\.\.$", text, re.MULTILINE) == []  # no summary is cut
    known = set(re.findall(r"^## `registry ([a-z]+)`", text, re.MULTILINE))
    named = set(re.findall(r"`registry ([a-z]+)", pages.errors_page()))
    assert named
    assert named <= known


def test_the_page_of_the_environment_has_all_variables_that_the_code_reads() -> None:
    page = (ROOT / "docs" / "reference" / "environment.md").read_text()
    described = {
        name
        for row in re.findall(r"^\|(`[^|]*)\|", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert described == {
        name
        for folder in ("registry", "migrations")
        for path in (ROOT / folder).rglob("*.py")
        for name in _variables(ast.parse(path.read_text()))
    }


def _variables(module: ast.Module) -> Iterator[str]:
    """Yield the names of variables in a module that reads the environment."""
    nodes = list(ast.walk(module))
    reads = {"environ", "envvar", "environment"}
    if any({getattr(node, "attr", ""), getattr(node, "arg", "")} & reads for node in nodes):
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from VARIABLE.findall(node.value)
