"""The errors, as their docstrings describe them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

from page_text import in_cell, one_line

import registry
from registry import errors

PACKAGE = Path(registry.__file__).parent
ERRORS = """\
# Errors

What this package raises is a `RegistryError`, whose message has the values. An error with a dash is
a kind of the one above that has a dash less. Those of `registry.errors` have their facts as
attributes, which [the Python API](api.md#errors) lists.
"""


def errors_page() -> str:
    """Return the errors and warnings: what happened, and what to do."""
    lines = [
        ERRORS,
        "|error|what happened|what to do|",
        "|---|---|---|",
    ]
    for path in sorted(PACKAGE.rglob("*.py")):
        if "(RegistryError)" in path.read_text():
            name = path.relative_to(PACKAGE.parent).with_suffix("")
            importlib.import_module(".".join(name.parts))
    lines += [_error_row(each, depth) for each, depth in _below(errors.RegistryError)]
    lines += ["", "## Warnings", "", "|warning|what happened|what to do|", "|---|---|---|"]
    lines += [_error_row(each) for each in vars(errors).values() if _is_warning(each)]
    return "\n".join([*lines, ""])


def remedy(kind: type) -> tuple[str, str]:
    """Return what the docstring of an error says: what happened, and what to do."""
    cause, _, what = inspect.cleandoc(kind.__doc__ or "").partition("Remedy: ")
    what = one_line(what)
    return one_line(cause), what[:1].upper() + what[1:]


def _below(kind: type, depth: int = 0) -> Iterator[tuple[type, int]]:
    """Yield the kinds of an error, each followed by its own."""
    # Those of other modules last. They are in the order in which the modules were loaded.
    elsewhere = [each for each in kind.__subclasses__() if each.__module__ != errors.__name__]
    here = [each for each in kind.__subclasses__() if each not in elsewhere]
    for each in here + sorted(elsewhere, key=lambda each: each.__name__):
        # Not those of tests.
        if each.__module__.startswith("registry."):
            yield each, depth
            yield from _below(each, depth + 1)


def _is_warning(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, UserWarning)


def _error_row(kind: type, depth: int = 0) -> str:
    cause, what = remedy(kind)
    name = "\N{EN DASH} " * depth + f"`{kind.__name__}`"
    return f"|{name}|{in_cell(cause)}|{in_cell(what)}|"
