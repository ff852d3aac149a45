"""Subject: batches for training, next to other pipelines over the same samples."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import registry
from benchmarks import permuted_gather, tfrecords
from benchmarks.cache import cache
from benchmarks.data import Samples, loaded, numbers
from benchmarks.measure import Bench, Result, Timing, compare, interleave, rate
from benchmarks.pipelines import (
    Make,
    check,
    contender,
    epoch,
    generated,
    hugging_face,
    in_memory,
    streamed,
)

STREAM = "StreamDataset"
EPOCH = "EpochDataset"
ANCHOR = "in-memory permuted gather"
CHUNKED = "in-memory permuted gather, 16 batches at a time"
MEMORY = "from_tensor_slices().shuffle()"
RECORDS = "TFRecord, batched before parsing"
HUGGING_FACE = "Hugging Face to_tf_dataset()"
MIX = "StreamDataset of a mix of two runs"
GENERATOR = "a Python generator of rows"
NOTHING = "an iterator that does nothing"
SLICE = 50_000
"""Rows for the pipelines that take one row at a time in Python."""
RECORD_ROWS = 200_000
"""Rows in TFRecord files, which take a second for every 40,000 to write."""


def train(bench: Bench) -> list[Result]:
    """Take batches of 256 records in the graph; the mirror exists and the epoch is pinned."""
    samples = numbers(bench.rows)
    few, recorded = _first(samples, SLICE), _first(samples, RECORD_ROWS)
    with (
        cache(),
        bench.server.database() as database,
        loaded(database, {"samples": samples}) as reg,
        tfrecords.written(recorded, tfrecords.number_example) as folder,
    ):
        digits = reg.open("samples")
        run = digits.run("train", seed=1)
        mix = registry.mix({digits.run("more"): 0.7, digits.run("less", seed=1): 0.3})
        forms = permuted_gather.forms(samples)
        ways: dict[str, tuple[Make, Samples]] = {
            STREAM: (partial(streamed, run, bench.rows), samples),
            EPOCH: (partial(epoch, run), samples),
            **{_form(name): (make, samples) for name, make in forms.items()},
            CHUNKED: (partial(permuted_gather.chunked, samples), samples),
            MEMORY: (partial(in_memory, samples), samples),
            RECORDS: (partial(tfrecords.numbers, folder, len(recorded)), recorded),
            HUGGING_FACE: (partial(hugging_face, few), few),
            GENERATOR: (partial(generated, few), few),
        }
        for name, (make, expected) in ways.items():
            check(name, make(), expected)
        makers = {name: make for name, (make, _) in ways.items()}
        makers[MIX] = partial(streamed, mix, bench.rows)
        makers[NOTHING] = partial(permuted_gather.nothing, samples)
        timings = interleave({name: contender(make) for name, make in makers.items()}, bench.rounds)
    fastest = max(map(_form, forms), key=lambda form: timings[form].rate)
    return [
        *(rate(name, timing) for name, timing in timings.items()),
        *_compared(timings, timings[fastest]),
    ]


def charted(results: list[Result]) -> list[Result]:
    """Return the rates for the chart: of the anchor's forms only the fastest, as `ANCHOR`."""
    rates = [result for result in results if result.baseline is None]
    forms = [result for result in rates if result.what.startswith(_form(""))]
    anchor = max(forms, key=lambda result: result.ours)
    others = [result for result in rates if result not in forms and result.what != CHUNKED]
    return [replace(anchor, what=ANCHOR), *others]


def _form(name: str) -> str:
    return f"{ANCHOR}: {name}"


def _compared(timings: dict[str, Timing], anchor: Timing) -> list[Result]:
    stream, epoch = timings[STREAM], timings[EPOCH]
    memory, generator = timings[MEMORY], timings[GENERATOR]
    records, nothing = timings[RECORDS], timings[NOTHING]
    return [
        compare(f"EpochDataset, next to {ANCHOR}", epoch, anchor, at_least=1.7),
        compare(f"StreamDataset, next to {ANCHOR}", stream, anchor, at_least=1.4),
        compare(f"{NOTHING}, next to {ANCHOR}", nothing, anchor),
        compare(f"EpochDataset, next to {NOTHING}", epoch, nothing),
        compare(f"EpochDataset, next to {CHUNKED}", epoch, timings[CHUNKED]),
        compare("EpochDataset, next to in-memory shuffle", epoch, memory, at_least=12),
        compare("StreamDataset, next to in-memory shuffle", stream, memory, at_least=8),
        compare(f"EpochDataset, next to {RECORDS}", epoch, records, other_rows=True),
        compare(
            "StreamDataset, next to a row at a time",
            stream,
            generator,
            at_least=150,
            other_rows=True,
        ),
        compare("a mix of two runs, next to one", timings[MIX], stream, at_least=0.7),
    ]


def _first(samples: Samples, rows: int) -> Samples:
    columns = {name: column[:rows] for name, column in samples.columns.items()}
    return replace(samples, columns=columns, keys=samples.keys[:rows])
