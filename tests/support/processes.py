"""Processes that are forked from one that has imported what they need, to start at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

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


def tensorflow_context() -> ForkServerContext:
    """Return the context of processes that have imported TensorFlow, but not used it yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(USERS_OF_TENSORFLOW)
    return context


def results_with_tensorflow(*works: Work) -> list[Any]:
    """Run functions in a process each, all at the same time, and return their results."""
    with ProcessPoolExecutor(len(works), tensorflow_context()) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in works]
        return [future.result(timeout=200) for future in futures]
