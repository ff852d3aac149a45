"""The pages of the runs of a dataset: which there are, and the epochs of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from registry.catalog.dataset import Dataset
from registry.catalog.epoch_changes import EpochChanges
from registry.catalog.epoch_origins import EpochOrigins
from registry.catalog.statistics.count import StatisticsError
from registry.errors import DivergenceError, EpochError, ErasedError, RunNotFoundError
from registry.server.pages.dataset import frame
from registry.server.pages.paging import named_page
from registry.server.pages.paths import dataset_path, run_path
from registry.server.pages.run_charts import change_charts, epoch_charts
from registry.server.pages.viewer import show_shared, viewer_of
from registry.server.problems import Problem
from registry.server.routes.datasets import service_of
from registry.server.service import Service
from registry.training.pin_store import Pin, PinnedEpoch
from registry.training.run import Run

router: APIRouter = APIRouter(include_in_schema=False)

_RUNS: Final = 50
"""Runs of a page."""
_EPOCHS: Final = 25
"""Epochs of a page."""

_Number = Annotated[int | None, Query(ge=0, lt=1 << 63)]


@dataclass(frozen=True)
class _RunLine:
    """A run on the page of all runs; ``sizes`` are those of its newest epochs, in their order."""

    run: Run
    url: str
    last: Pin | None
    consumed: int
    sizes: Sequence[int]


@dataclass(frozen=True)
class _EpochLine:
    """An epoch of a run. Its origins are None where they are not known."""

    pin: Pin
    pinned_at: Any
    version: str
    version_url: str
    origins: EpochOrigins | None
    rows: int
    compare_url: str | None
    consumed: float
    """The share of its samples that was trained on."""


@router.get("/datasets/{name}/runs")
async def runs_page(
    name: str,
    request: Request,
    after: str = "",
    run: str | None = None,
    before: _Number = None,
    since: _Number = None,
    until: _Number = None,
) -> Response:
    """Show the runs of a dataset, in the order of their names."""
    if run is not None:
        return await _show_run(name, run, request, before, since, until)
    viewer = await viewer_of(request, name)
    service = service_of(request)
    return await show_shared(
        request,
        viewer,
        "runs.html",
        lambda: service.open_here(name).use(lambda opened: _runs(opened, name, after)),
    )


@router.get("/datasets/{name}/runs/{run:key}")
async def run_page(
    name: str,
    run: str,
    request: Request,
    before: _Number = None,
    since: _Number = None,
    until: _Number = None,
) -> Response:
    """Show a run's epochs, the newest first, and what changed from one epoch to another."""
    return await _show_run(name, run, request, before, since, until)


async def _show_run(
    name: str,
    run: str,
    request: Request,
    before: int | None,
    since: int | None,
    until: int | None,
) -> Response:
    viewer = await viewer_of(request, name)
    service = service_of(request)
    compared = None if since is None or until is None else (since, until)
    return await show_shared(
        request,
        viewer,
        "run.html",
        lambda: service.open_here(name).use(
            lambda opened: _run(service, opened, name, run, before, compared)
        ),
    )


def _runs(dataset: Dataset, name: str, after: str) -> Mapping[str, Any]:
    path = dataset_path(name, "runs")
    shown, following = named_page(dataset.runs(), after, _RUNS, path)
    return {
        **frame(dataset, name, "Runs"),
        "lines": [_run_line(name, run) for run in shown],
        "first_url": path if after else None,
        "next_url": following,
    }


def _run_line(name: str, run: Run) -> _RunLine:
    epochs = [each.pin for each in run.epochs(_EPOCHS)]
    return _RunLine(
        run,
        run_path(name, run.name),
        epochs[-1] if epochs else None,
        run.consumed,
        [pin.size for pin in epochs],
    )


def _run(
    service: Service,
    dataset: Dataset,
    name: str,
    run_name: str,
    before: int | None,
    compared: tuple[int, int] | None,
) -> Mapping[str, Any]:
    try:
        run = dataset.find_run(run_name)
    except RunNotFoundError as error:
        raise Problem(404, str(error)) from None
    last, consumed = run.last, run.consumed
    pinned = run.epochs_before(before, _EPOCHS + 1)
    shown = pinned[-_EPOCHS:][::-1]
    pins = [each.pin for each in shown]
    origins = service.comparisons.origins(dataset, run.settings, pins)
    lines = [_epoch_line(name, run, each, origins, consumed) for each in shown]
    changes, problem = None, ""
    if compared is not None:
        changes, problem = _changes(service, run, compared)
    following = None
    if len(pinned) > _EPOCHS:
        following = run_path(name, run_name, {"before": shown[-1].pin.number})
    runs = dataset_path(name, "runs")
    schema = run.log.schemas.newest
    return {
        **frame(dataset, name, "Runs"),
        "crumbs": [(name, dataset_path(name)), ("Runs", runs), (run_name, None)],
        "run": run,
        "run_url": run_path(name, run_name),
        # A form replaces the parameters of its address.
        "form_url": run_path(name, run_name).partition("?")[0],
        "compared_url": compared
        and run_path(name, run_name, dict(zip(("since", "until"), compared, strict=True))),
        "last": last,
        "consumed": consumed,
        "position": _position(run, last, consumed),
        "lines": lines,
        "charts": epoch_charts(pins[::-1], origins, schema.features),
        "compared": compared,
        "changes": changes,
        "change_charts": [] if changes is None else change_charts(changes, schema),
        "erased": 0 if changes is None else _erased(changes),
        "problem": problem,
        "uncounted": any(each.origins is None for each in lines),
        "first_url": run_path(name, run_name) if before is not None else None,
        "next_url": following,
    }


def _epoch_line(
    name: str, run: Run, pinned: PinnedEpoch, origins: Mapping[int, EpochOrigins], consumed: int
) -> _EpochLine:
    pin = pinned.pin
    base = name.partition("@")[0]
    version = f"{base}@{pin.watermark}:{pin.chain.hex()}"
    compare = None
    if pin.number:
        compare = run_path(name, run.name, {"since": pin.number - 1, "until": pin.number})
    share = min(1.0, max(0.0, (consumed - pin.start) / pin.size)) if pin.size else 1.0
    return _EpochLine(
        pin,
        pinned.pinned_at,
        version,
        dataset_path(f"{base}@{pin.watermark}:{pin.chain.hex()[:8]}"),
        origins.get(pin.number),
        pin.watermark - pin.since,
        None if compare is None else f"{compare}#changes",
        share,
    )


def _position(run: Run, last: Pin | None, consumed: int) -> str:
    """Return where training stands, in words."""
    if last is None:
        return "no epoch is pinned yet"
    if not consumed:
        return "nothing yet"
    if consumed >= last.end:
        return f"all of epoch {last.number}"
    number, offset = run.locate(consumed)
    return f"in epoch {number}, after {offset:,} samples"


def _erased(changes: EpochChanges) -> int:
    """Return how many of the rows that came or went have no class, as they were erased."""
    # Each sample has a class of each feature with classes.
    return sum(
        each.size
        - min((sum(counts.values()) for counts in each.classes.values()), default=each.size)
        for each in (changes.came, changes.went)
    )


def _changes(
    service: Service, run: Run, compared: tuple[int, int]
) -> tuple[EpochChanges | None, str]:
    """Return what changed, None while it is not known, and why it cannot be said."""
    try:
        changes = service.comparisons.of(run, *compared)
    except (EpochError, ErasedError, DivergenceError, StatisticsError) as error:
        return None, str(error)
    if changes is None:
        return None, ""
    return changes, ""
