"""Processes that train with PyTorch as the ranks of one group, without a network."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT = 240.0
"""Seconds that a rank has, of which loading PyTorch on a busy machine takes most."""


def results_of_ranks(work: Callable[..., Any], count: int, folder: Path, *arguments: Any) -> Any:
    """Return what ``work(*arguments)`` returns in each rank of a group, in their order."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [
        context.Process(target=_rank, args=(queue, work, rank, count, folder, arguments))
        for rank in range(count)
    ]
    for each in ranks:
        each.start()
    results = dict(queue.get(timeout=TIMEOUT) for _ in ranks)
    for each in ranks:
        each.join(TIMEOUT)
    failed = [result for result in results.values() if isinstance(result, str)]
    if failed:
        raise AssertionError("\n".join(failed))
    return [results[rank] for rank in range(count)]


def _rank(
    queue: Any,
    work: Callable[..., Any],
    rank: int,
    count: int,
    folder: Path,
    arguments: tuple[Any, ...],
) -> None:
    from torch import distributed  # noqa: PLC0415  # only where there is PyTorch

    rendezvous = f"file://{folder / 'rendezvous'}"
    distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=count)
    try:
        queue.put((rank, work(*arguments)))
    except BaseException:  # noqa: BLE001  # the test reports it
        queue.put((rank, traceback.format_exc()))
    finally:
        distributed.destroy_process_group()
