"""Run a command that gets a signal while it loads a module.

``python -m tests.support.interrupted_command MODULE FUNCTION SIGNAL ARGUMENT …`` runs the command
of these arguments, and lets a function of its module get the signal in ``exec``, which dataclasses
call while modules are loaded. CPython remembers a `KeyboardInterrupt` from there, even if it is
caught, and then ends with the status of SIGINT; with ``-c`` in place of ``-m``, it does not.
"""

from __future__ import annotations

import importlib
import sys

from registry.cli import app

module, function, name = (sys.argv.pop(1) for _ in range(3))


def interrupted(*_: object) -> tuple[()]:
    exec(f"import signal; signal.raise_signal(signal.{name})")
    return ()


if __name__ == "__main__":
    setattr(importlib.import_module(f"registry.cli.{module}"), function, interrupted)
    app()
