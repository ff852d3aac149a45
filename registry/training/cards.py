"""The cards of runs, epochs and mixes in a notebook."""

from __future__ import annotations

from collections.abc import Iterator

from registry.errors import MixPositionError
from registry.html.card import MOST_SAMPLES, Card, CardSample, CardTable, Fact, card_sample
from registry.html.chart import Chart, Series
from registry.samples.feature_text import feature_texts
from registry.training.epoch import Epoch
from registry.training.mix import Mix
from registry.training.run import Run
from registry.training.run_store import RunSettings

_MOST_EPOCHS = 12
_MOST_RUNS = 50


def run_card(run: Run) -> Card:
    """Return what a notebook shows of a run: its settings, its progress and its last epochs."""
    last, consumed, epochs = run.last, run.consumed, run.epochs(_MOST_EPOCHS)
    count, end = (last.number + 1, last.end) if last else (0, 0)
    facts = [
        ("dataset", str(run.version or run.dataset)),
        *_settings(run.settings),
        ("epochs", f"{count:,}"),
        ("samples", f"{end:,}"),
        ("consumed", f"{consumed:,}"),
    ]
    names = "epoch", "pinned (UTC)", "watermark", "samples", "first"
    rows = [
        (
            f"{each.pin.number:,}",
            f"{each.pinned_at:%Y-%m-%d %H:%M:%S}",
            f"{each.pin.watermark:,}",
            f"{each.pin.size:,}",
            f"{each.pin.start:,}",
        )
        for each in epochs
    ]
    sizes = Chart(
        "Samples by epoch",
        [str(each.pin.number) for each in epochs],
        [Series("samples", [each.pin.size for each in epochs])],
    )
    return Card(
        "Run",
        run.name,
        facts=facts,
        charts=[sizes] if len(epochs) > 1 else [],
        tables=[CardTable("Last epochs", names, rows[::-1], (0, 2, 3, 4))],
    )


def epoch_card(epoch: Epoch) -> Card:
    """Return what a notebook shows of an epoch: where it is in the run, and its first samples."""
    facts = [
        *_settings(epoch.run),
        ("samples", f"{epoch.size:,}"),
        ("first sample of the run", f"{epoch.start:,}"),
        ("watermark", f"{epoch.watermark:,}"),
    ]
    return Card(
        "Epoch",
        f"{epoch.number} of {epoch.run.name}",
        facts=facts,
        features=feature_texts(epoch.features),
        samples_title="First samples, in the order of the epoch",
        samples=[*_samples(epoch)],
    )


def mix_card(mix: Mix) -> Card:
    """Return what a notebook shows of a mix: its runs, their shares, and what they consumed."""
    total = sum(part.weight for part in mix.parts)
    rows = [
        (
            part.run.name,
            str(part.run.version or part.run.dataset),
            f"{part.weight:g}",
            f"{part.weight / total:.2%}",
            f"{part.run.consumed:,}",
        )
        for part in mix.parts[:_MOST_RUNS]
    ]
    facts, notice = [("seed", str(mix.seed)), ("runs", f"{len(mix.parts):,}")], ""
    try:
        facts.append(("consumed", f"{mix.consumed:,}"))
    except MixPositionError as error:
        notice = str(error)
    names = "run", "dataset", "weight", "share", "consumed"
    more = max(0, len(mix.parts) - _MOST_RUNS)
    return Card(
        "Mix",
        mix.name,
        facts=facts,
        features=feature_texts(mix.features),
        tables=[CardTable("Runs", names, rows, (2, 3, 4), more)],
        notice=notice,
    )


def _settings(run: RunSettings) -> list[Fact]:
    return [
        ("seed", str(run.seed)),
        ("split", run.split or "all samples"),
        ("policy", str(run.policy)),
        *([("where", str(run.conditions))] if run.conditions else []),
    ]


def _samples(epoch: Epoch) -> Iterator[CardSample]:
    for batch in epoch.batches(MOST_SAMPLES):
        count = len(next(iter(batch.values())))
        for row in range(count):
            values = {name: column[row] for name, column in batch.items()}
            yield card_sample(epoch.features, values, f"offset {row}")
        return
