"""Sphinx builds the pages: ``sphinx-build -W docs build/docs``."""

import sys
from pathlib import Path

import registry

sys.path.insert(0, str(Path(__file__).parent))

from reference_pages import write_pages

project = "Registry"
author = project_copyright = "The Registry authors"
release = registry.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "Registry"
html_favicon = "../registry/html/static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
myst_heading_anchors = 3
# Docstrings write the names of objects in single backticks.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch"]  # its classes are only a base of ours
autodoc_default_options = {"members": True, "show-inheritance": True}

write_pages()
