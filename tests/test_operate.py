"""What operators copy from the pages is valid: units, manifests, settings."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import registry
from tests.support.commands import parse
from tests.support.pages import DOCS, blocks

OPERATE = sorted(DOCS.glob("operate/*.md"))


def contents(suffix: str, language: str) -> dict[str, str]:
    """Return the operators' blocks whose captions end so."""
    return {
        block.caption: block.content
        for page in OPERATE
        for block in blocks(page)
        if block.language == language and block.caption.endswith(suffix)
    }


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


def test_the_settings_are_known_to_postgresql(postgresql_url: str) -> None:
    (text,) = contents("postgresql.conf", "ini").values()
    page = (DOCS / "operate" / "postgresql.md").read_text()
    table = page.partition("## Settings of the server")[2].partition("##")[0]
    named = set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
    for row in re.findall(r"^\|(`[^|]+)\|", table, re.MULTILINE):
        named |= set(re.findall(r"`(\w+)`", row))
    assert len(named) > 10
    with registry.connect(postgresql_url) as reg, reg.engine.connect() as connection:
        known = connection.exec_driver_sql("SELECT name FROM pg_settings").scalars().all()
        assert named <= {*known}


def test_the_settings_of_the_pooler_are_those_of_a_pool_in_transaction_mode() -> None:
    (text,) = contents("pgbouncer.ini", "ini").values()
    settings = configparser.ConfigParser()
    settings.read_string(text)
    assert settings["pgbouncer"]["pool_mode"] == "transaction"
    assert "host=" in settings["databases"]["registry"]


def test_the_sizes_that_are_computed_follow_from_those_that_are_measured() -> None:
    page = (DOCS / "operate" / "sizing.md").read_text()
    (measured,) = re.findall(r"^\|10 numbers and a label\|\d+\|(.*)\|$", page, re.MULTILINE)
    sizes = [int(each) for each in measured.split("|")]
    computed = dict(re.findall(r"^\|(10[⁶⁸⁹])\|(.*)\|$", page, re.MULTILINE))
    for rows, power, unit in (("10⁶", 6, 6), ("10⁸", 8, 9), ("10⁹", 9, 9)):
        name = {6: "MB", 9: "GB"}[unit]
        texts = [f"{size * 10**power / 10**unit:.0f} {name}" for size in sizes]
        assert computed[rows].split("|") == texts
    per_row = int(re.findall(r"takes about (\d+) bytes a row more", page)[0])
    assert abs(sizes[0] - 44 - per_row) < 10


def check_command(command: list[str]) -> None:
    """Parse the arguments of a command of the registry; a shell's are in its script."""
    if command[0] == "sh":
        command = re.findall(r"registry \w+", command[-1])[0].split()
    program, *arguments = command
    assert program == "registry"
    parse(arguments)
