"""A parser for each language of the blocks on the pages."""

from __future__ import annotations

import configparser
import doctest
import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from typing import Any

import yaml
from defusedxml import ElementTree

from registry.storage.database.url import parse_url
from tests.support.pages import Block


def is_url(block: Block) -> bool:
    return block.content.startswith("postgresql://")


def _parse_python(block: Block) -> None:
    compile(block.content, block.caption or "page", "exec")
    # Only a file may be run by another test: it says so before the command that runs it.
    assert not block.reason


def _parse_shell(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.content, text=True, check=True)


def _parse_json(block: Block) -> None:
    texts = [block.content]
    if block.caption.endswith(".jsonl"):
        texts = block.content.splitlines()
    for text in texts:
        json.loads(text)


def _parse_yaml(block: Block) -> None:
    assert all(yaml.safe_load_all(block.content))


def _parse_ini(block: Block) -> None:
    settings = configparser.ConfigParser(strict=False, interpolation=None)
    # The settings of PostgreSQL are in no section.
    section = "" if block.content.startswith("[") else "[all]\n"
    settings.read_string(section + block.content)
    assert settings.sections()


def _parse_text(block: Block) -> None:
    if is_url(block):
        for line in block.content.splitlines():
            parse_url(line)
    elif block.caption == "crontab":
        for line in block.content.splitlines():
            times, command = line.split()[:5], line.split(maxsplit=5)[5]
            assert all(re.fullmatch(r"[\d*/,-]+", each) for each in times)
            assert "%" not in command  # a new line, to cron
            subprocess.run(["bash", "-n"], input=command, text=True, check=True)


def _parse_session(block: Block) -> None:
    for example in doctest.DocTestParser().get_examples(block.content):
        compile(example.source, "page", "single")
    assert block.reason


def _parse_nothing(block: Block) -> None:
    """A statement is executed by a test of its own."""
    assert block.content


PARSERS: dict[str, Callable[[Block], Any]] = {
    "python": _parse_python,
    "sh": _parse_shell,
    "pycon": _parse_session,
    "sql": _parse_nothing,
    "json": _parse_json,
    "yaml": _parse_yaml,
    "toml": lambda block: tomllib.loads(block.content),
    "xml": lambda block: ElementTree.fromstring(block.content),
    "ini": _parse_ini,
    "text": _parse_text,
}
