"""The package as a whole."""

from __future__ import annotations

import ast
import email
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import registry
from registry import ClassLabel
from registry.cli.base import MODULES, app
from registry.distribution import DISTRIBUTION, install_extra
from registry.io.formats import FORMATS
from registry.storage.database.schema import REVISION
from tests.support.distributions import build
from tests.support.processes import run_python

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "google": "protobuf",
    "markdown_it": "markdown-it-py",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Of packages whose name is another one."""
FOR_TESTS = {"docs", "release", "test", "test-tools", "torch-tests"}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("dist"))


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


def test_a_wheel_has_the_package_alone_and_its_source_has_all_that_tests_need(
    distributions: tuple[Path, Path],
) -> None:
    def files(folder: str) -> set[str]:
        paths = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        return {str(each.relative_to(ROOT)) for each in paths if "__pycache__" not in each.parts}

    source, wheel = distributions
    package, migrations = files("registry"), files("migrations")
    assert package > {"registry/py.typed", "registry/html/templates/layout.html"}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        fields = email.message_from_bytes(archive.read(metadata))
    assert names == package | {f"registry/{name}" for name in migrations}
    assert (fields["Name"], fields["Version"]) == (DISTRIBUTION, registry.__version__)
    with tarfile.open(source) as packed:
        held = {name.partition("/")[2] for name in packed.getnames()}
    assert held >= package | migrations | files("tests") | {"README.md", "LICENSE", ".ci/run"}


def test_the_wheel_alone_sets_a_database_up(
    distributions: tuple[Path, Path], empty_postgresql_url: str, tmp_path: Path
) -> None:
    def run(*command: str | Path) -> str:
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=outside,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout

    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    wheel = distributions[1]
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    # What the package needs comes from this environment, where it may itself be a link to the
    # checkout: that is in a .pth file, which are not read in a folder that one of them names.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    assert run(python, "-c", "import registry; print(registry.__file__)").startswith(str(site))
    command, url = python.with_name("registry"), empty_postgresql_url
    assert run(command, "--version") == f"registry {registry.__version__}\n"
    alembic = "from alembic.config import main; main(prog='alembic')"
    upgrade = run_python(
        alembic, "upgrade", "head", "--sql", cwd=ROOT, check=True, REGISTRY_URL=url
    )
    assert run(command, "init", "--sql", "--url", url) == upgrade.stdout
    for each in (url, f"sqlite:///{tmp_path}/new.db"):
        assert run(command, "init", "--url", each).endswith(f"is at schema {REVISION}\n")
        assert run(command, "ls", "--json", "--url", each) == "[]\n"


def test_every_extra_that_is_named_exists_in_a_distribution_of_our_name() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    # Where an extra has ours by another name, that project would be installed.
    needed = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
    ours = {each.partition("[")[0] for each in needed if each.startswith("registry")}
    assert ours == {DISTRIBUTION}
    assert install_extra("xml") == f"pip install '{DISTRIBUTION}[xml]'"
    extras = {*PROJECT["optional-dependencies"]}
    code = "".join(path.read_text() for path in (ROOT / "registry").rglob("*.py"))
    asked = re.findall(r"install_extra\([\"'](\w+)[\"']\)", code)
    assert len(asked) > 8
    assert {*asked} <= extras
    assert {each.extra for each in FORMATS.values() if each.extra} <= extras
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "".join(page.read_text() for page in pages)
    named = re.findall(r"pip install .*?([\w.-]+)\[([\w,-]+)\]", text)
    assert len(named) > 8
    assert {name for name, _ in named} <= {DISTRIBUTION, "."}
    assert {extra for _, each in named for extra in each.split(",")} <= extras


def test_every_package_that_is_imported_has_a_lower_bound_of_its_own() -> None:
    extras = PROJECT["optional-dependencies"]
    runtime = [*PROJECT["dependencies"], *_needed(*{*extras} - FOR_TESTS)]
    # Users install the build of PyTorch that fits their machine.
    runtime += [each for each in extras["torch-tests"] if each.startswith("torch>")]
    every = [*runtime, *_needed(*extras)]
    for folder, needed in (("registry", runtime), ("tests", every)):
        names = [re.match(r"[\w-]+(?:\[.*\])?>=\d", each) for each in needed]
        assert all(names), needed
        bounded = {re.split(r"[\[>]", each)[0] for each in needed}
        imported = {*_imported(ROOT / folder)}
        assert len(imported) > 20
        assert {DISTRIBUTIONS.get(each, each.replace("_", "-")) for each in imported} <= bounded


def _needed(*extras: str) -> list[str]:
    each_extra = (PROJECT["optional-dependencies"][extra] for extra in extras)
    return [each for extra in each_extra for each in extra if not each.startswith(DISTRIBUTION)]


def _imported(folder: Path) -> Iterator[str]:
    """Yield the names of all packages of others that the modules in a folder import."""
    ours = {
        "registry",
        "tests",
        "benchmarks",
        *(each.stem for each in (ROOT / "docs").glob("*.py")),
    }
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                package = name.partition(".")[0]
                if package not in sys.stdlib_module_names | ours:
                    yield package
