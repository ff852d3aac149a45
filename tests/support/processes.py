"""Processes that are forked from one that has imported what they need, to start at once."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import alembic.config  # noqa: F401  # for scripts that import it

from registry import Dataset, Registry  # noqa: F401
from registry.catalog.statistics import count  # noqa: F401  # as psycopg
from registry.storage.database import postgresql  # noqa: F401  # or each would import psycopg

Work = tuple[Callable[..., object], tuple[Any, ...]]
"""A function, and its arguments."""

USERS_OF_TENSORFLOW = [
    "tests.support.keras_distributed",
    "tests.support.strategies",
    "tests.support.trainers",
]


def run_all(*works: Work) -> None:
    """Run functions in a process each, all at the same time, until they have ended.

    To be run in a new process: in pytest's, TensorFlow has threads, which a fork loses.
    """
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=function, args=arguments) for function, arguments in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def started(*works: Work) -> BaseProcess:
    """Start a process that runs functions in a process each; it fails if one of them does."""
    process = multiprocessing.get_context("spawn").Process(target=run_all, args=works)
    process.start()
    return process


def run_python(
    code: str, *arguments: str, cwd: Path | None = None, check: bool = False, **environment: str
) -> CompletedProcess[str]:
    """Run a script as ``python -c`` does, but in a process that is forked from a warm one.

    The interpreter is not finalized at the end of the script.
    """
    call = (code, arguments, cwd or Path.cwd(), {**os.environ, **environment})
    done = _warm_process().submit(_run, *call).result(timeout=200)
    if check:
        done.check_returncode()
    return done


@functools.cache
def _warm_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _run(
    code: str, arguments: tuple[str, ...], cwd: Path, environment: Mapping[str, str]
) -> CompletedProcess[str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:

        def execute() -> None:
            os.dup2(out.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            os.chdir(cwd)
            set_environment(environment)
            sys.argv = ["-c", *arguments]
            exec(code, {"__name__": "__main__"})

        process = multiprocessing.get_context("fork").Process(target=execute)
        process.start()
        process.join()
        assert process.exitcode is not None
        printed = [(file.seek(0), file.read())[1] for file in (out, errors)]
        return CompletedProcess(["python", *arguments], process.exitcode, *printed)


def tensorflow_context() -> ForkServerContext:
    """Return the context of processes that have imported TensorFlow, but not used it yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(USERS_OF_TENSORFLOW)
    return context


def results_with_tensorflow(*works: Work) -> list[Any]:
    """Run functions in a process each, all at the same time, and return their results."""
    environment = (dict(os.environ),)
    with ProcessPoolExecutor(
        len(works), tensorflow_context(), set_environment, environment
    ) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in works]
        return [future.result(timeout=200) for future in futures]


def set_environment(environment: Mapping[str, str]) -> None:
    """Replace the environment, which of a fork server is that of the test that has started it."""
    os.environ.clear()
    os.environ.update(environment)
