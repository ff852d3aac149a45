"""What operators copy from the pages is valid: units, manifests, settings, SQL."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import registry
from registry import Tensor
from tests.support.commands import parse

DOCS = Path(__file__).parent.parent / "docs"
OPERATE = sorted(DOCS.glob("operate/*.md"))
HAND_WRITTEN = [*OPERATE, *(DOCS / "reference" / f"{n}.md" for n in ("mirror", "order", "records"))]
BLOCK = re.compile(
    r"(<!-- not run: .{10,}? -->\n)?"
    r"^```(?:(\w+)|\{code-block\} (\w+)\n:caption: (\S+)\n)\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
CHECKED = {"python", "sh", "yaml", "ini", "sql", "text"}
"""Languages of blocks that tests run or parse; a text is no code."""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield the caption and the content of the operators' blocks."""
    for page in OPERATE:
        for _, plain, captioned, caption, content in BLOCK.findall(page.read_text()):
            if language in {plain, captioned}:
                yield caption, content


def contents(suffix: str, language: str) -> dict[str, str]:
    """Return the blocks whose captions end so."""
    return {name: text for name, text in blocks(language) if name.endswith(suffix)}


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=lambda page: page.name)
def test_each_block_is_run_or_parsed_or_says_why_not(page: Path) -> None:
    text = page.read_text()
    all_blocks = BLOCK.findall(text)
    assert len(all_blocks) == text.count("\n```") / 2
    for reason, plain, captioned, _, content in all_blocks:
        assert reason or {plain, captioned} & CHECKED, content
    # Indented blocks would be neither.
    outside = BLOCK.sub("", text)
    assert re.findall(r"^\n {4}\S.*", outside, re.MULTILINE) == []


def test_the_manifests_run_commands_that_exist() -> None:
    (manifest,) = contents("kubernetes.yaml", "yaml").values()
    job, deployment = yaml.safe_load_all(manifest)
    assert (job["kind"], deployment["kind"]) == ("Job", "Deployment")
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    services = yaml.safe_load(contents("compose.yaml", "yaml")["compose.yaml"])["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
    containers = [
        *job["spec"]["template"]["spec"]["containers"],
        *pod["spec"]["initContainers"],
        *pod["spec"]["containers"],
        *(each for each in services.values() if "command" in each),
    ]
    for container in containers:
        assert "REGISTRY_URL" in str(container.get("env") or container["environment"])
        check_command(container["command"])
    assert len(containers) == 5


def test_the_units_are_valid_and_run_commands_that_exist(tmp_path: Path) -> None:
    units = contents(".service", "ini")
    assert len(units) == 2
    program = shutil.which("systemd-analyze")
    for name, text in units.items():
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(text)
        path, *arguments = unit["Service"]["ExecStart"].split()
        check_command([Path(path).name, *arguments])
        # A file that can be executed, as the page's own is not on this machine.
        (tmp_path / name).write_text(text.replace(path, sys.executable))
    if program is None:
        pytest.skip("needs systemd-analyze")
    paths = [str(tmp_path / name) for name in units]
    done = subprocess.run([program, "verify", *paths], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert (complaints, done.returncode) == ([], 0), done.stderr


def test_the_settings_and_statements_are_known_to_postgresql(postgresql_url: str) -> None:
    (text,) = contents("postgresql.conf", "ini").values()
    page = (DOCS / "operate" / "postgresql.md").read_text()
    table = page.partition("## Settings of the server")[2].partition("##")[0]
    named = set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
    for row in re.findall(r"^\|(`[^|]+)\|", table, re.MULTILINE):
        named |= set(re.findall(r"`(\w+)`", row))
    assert len(named) > 10
    statements = [content for _, content in blocks("sql")]
    assert statements
    with registry.connect(postgresql_url) as reg:
        reg.create("digits", {"label": Tensor("int32")})
        with reg.engine.connect() as connection:
            known = connection.exec_driver_sql("SELECT name FROM pg_settings").scalars().all()
            assert named <= {*known}
            for statement in statements:
                connection.exec_driver_sql(statement)
            connection.rollback()


def test_the_settings_of_the_pooler_are_those_of_a_pool_in_transaction_mode() -> None:
    (text,) = contents("pgbouncer.ini", "ini").values()
    settings = configparser.ConfigParser()
    settings.read_string(text)
    assert settings["pgbouncer"]["pool_mode"] == "transaction"
    assert "host=" in settings["databases"]["registry"]


def check_command(command: list[str]) -> None:
    """Parse the arguments of a command of the registry; a shell's are in its script."""
    if command[0] == "sh":
        command = re.findall(r"registry \w+", command[-1])[0].split()
    program, *arguments = command
    assert program == "registry"
    parse(arguments)
