"""Subject: epochs of datasets that were relabeled or divided, next to an epoch of a fresh one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.cache import cache
from benchmarks.data import SEED, Samples, loaded, numbers
from benchmarks.measure import Bench, Result, compare, interleave
from benchmarks.numpy_batches import drained, of_epoch
from benchmarks.pipelines import check, contender, epoch
from registry import Dataset, Registry
from registry.training.run import Run

RELABELED = 0.2
SPLITS = {"train": 0.8, "test": 0.2}
CHANGED = {
    "relabeled": "with 20 % relabeled",
    "split": "of a split",
    "both": "of a split with 20 % relabeled",
}
"""What the epochs of these datasets are. Their positions in the log have gaps."""


def train_changed(bench: Bench) -> list[Result]:
    """Take epochs of such datasets in the graph and in NumPy."""
    samples = numbers(bench.rows)
    with (
        cache(),
        bench.server.database() as database,
        loaded(database, {"fresh": samples}) as reg,
    ):
        expected = {"fresh": samples, **_insert(reg, samples)}
        database.settle()
        runs = {name: _run(reg.open(name)) for name in expected}
        for name, run in runs.items():
            check(name, epoch(run), expected[name], run.epoch(0).size)
        timings = interleave(
            {
                f"{way} {name}": contender(partial(epoch, run))
                if way == "EpochDataset"
                else drained(partial(of_epoch, run))
                for name, run in runs.items()
                for way in ("EpochDataset", "Epoch.batches")
            },
            bench.rounds,
        )
    return [
        compare(
            f"{way} {what}, next to a fresh one",
            timings[f"{way} {name}"],
            timings[f"{way} fresh"],
            at_least=0.9,
            # A split has fewer rows.
            other_rows=True,
        )
        for way in ("EpochDataset", "Epoch.batches")
        for name, what in CHANGED.items()
    ]


def _insert(reg: Registry, samples: Samples) -> dict[str, Samples]:
    """Insert the samples into the datasets of `CHANGED`; return what their epochs are made of."""
    rng = np.random.default_rng(SEED)
    rows = rng.permutation(len(samples))[: int(RELABELED * len(samples))]
    label = samples.columns["label"].copy()
    label[rows] = (label[rows] + 1) % 10
    relabeled = replace(samples, columns={**samples.columns, "label": label})
    keys = [samples.keys[row] for row in rows.tolist()]
    for name in CHANGED:
        splits = None if name == "relabeled" else SPLITS
        dataset = reg.create(name, samples.features, splits=splits)
        dataset.insert(samples.columns, keys=samples.keys)
        if name != "split":
            columns = relabeled.columns.items()
            dataset.insert({feature: column[rows] for feature, column in columns}, keys=keys)
    return {name: samples if name == "split" else relabeled for name in CHANGED}


def _run(dataset: Dataset) -> Run:
    return dataset.run("train", split="train" if dataset.splits else None)
