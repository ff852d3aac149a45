"""A chart of the rates at which batches for training are made."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.measure import Result

OURS, OTHERS = "#2a6f97", "#b8b8b8"


def draw(rates: list[Result], rows: int, path: Path) -> None:
    """Draw a bar for each rate, the longest at the top, on a logarithmic scale.

    Of pipelines that are timed in several forms, ``NAME: FORM``, the fastest has the bar.
    """
    fastest: dict[str, Result] = {}
    for result in sorted(rates, key=lambda result: result.ours):
        name = result.what.partition(":")[0]
        fastest.pop(name, None)
        fastest[name] = result
    ordered = list(fastest.values())
    figure = Figure(figsize=(9, 0.9 + 0.5 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(
        list(fastest),
        [result.ours for result in ordered],
        color=[OURS if _ours(result) else OTHERS for result in ordered],
        height=0.65,
    )
    axes.bar_label(bars, [f"{result.ours:,.0f}" for result in ordered], padding=4)
    axes.set_xscale("log")
    # A logarithmic scale has no zero, so each bar would begin at an arbitrary value.
    axes.set_xlim(ordered[0].ours / 5, ordered[-1].ours * 9)
    axes.set_xlabel(
        f"samples per second (logarithmic)\n{rows:,} samples of 44 bytes, batches of 256"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params("y", length=0)
    figure.savefig(path, format="png", dpi=150)


def _ours(result: Result) -> bool:
    return result.what.startswith(("StreamDataset", "EpochDataset"))
