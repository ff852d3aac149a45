"""Sphinx builds the pages: ``sphinx-build -W docs build/docs``."""

from pathlib import Path

import typer.main
from typer.cli import get_docs_for_click

import registry
from registry.cli import app

project = "Registry"
author = "The Registry authors"
release = registry.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "Registry"
myst_heading_anchors = 3
# Docstrings write the names of objects in single backticks.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch"]  # its classes are only a base of ours
autodoc_default_options = {"members": True, "show-inheritance": True}

# The page of the commands is what they print as their help.
command = typer.main.get_command(app)
context = command.context_class(command, info_name="registry")
page = get_docs_for_click(obj=command, ctx=context, name="registry", title="Commands")
Path(__file__).with_name("reference").joinpath("commands.md").write_text(page)
