"""Pickled registries, datasets, runs and epochs, which are opened again by their URL."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import registry
from registry import Dataset, Replay
from registry.errors import ErasedError, InvalidURLError
from registry.storage.database.address import Address
from registry.storage.database.engine import make_engine, url_of
from registry.storage.database.url import parse_url
from registry.storage.log.replica import open_replica
from tests.support.datasets import digit

SECRET = "correct-horse-battery"


def use(pickled: bytes, results: Any) -> None:
    """Read with unpickled objects, as a worker process does."""
    reg, dataset, run, epoch = pickle.loads(pickled)
    engines = {id(each) for each in (reg.engine, run.log.engine, epoch.source.log.engine)}
    results.put(
        {
            "engines": len(engines),
            "names": reg.names(),
            "sample": dataset.get("0")["label"],
            "batches": [batch["label"].tolist() for batch in epoch.batches(3)],
            "next": [batch["label"].tolist() for batch in run.epoch(1).batches(4)],
        }
    )


@pytest.mark.usefixtures("digits")
def test_a_spawned_process_gets_the_same_batches(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_URL", _with_secret(url))
    with registry.connect() as reg:
        dataset = reg.open("digits")
        dataset.insert([digit(n) for n in range(10)], keys=[str(n) for n in range(10)])
        run = dataset.run("r", seed=5, policy=Replay(0.5))
        epoch = run.epoch(0)
        pickled = pickle.dumps([reg, dataset, run, epoch])
        assert SECRET.encode() not in pickled
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        process = context.Process(target=use, args=(pickled, results))
        dataset.insert([digit(n) for n in range(10, 14)])
        process.start()
        result = results.get(timeout=120)
        process.join(60)
        assert process.exitcode == 0
        assert result["engines"] == 1
        assert (result["names"], result["sample"]) == (["digits"], 0)
        assert result["batches"] == [batch["label"].tolist() for batch in epoch.batches(3)]
        assert result["next"] == [batch["label"].tolist() for batch in run.epoch(1).batches(4)]


def _with_secret(url: str) -> str:
    """Return the URL with a password, which a server that trusts its clients does not require."""
    parsed = parse_url(url)
    if parsed.drivername != "sqlite":
        parsed = parsed.set(password=SECRET)
    return parsed.render_as_string(hide_password=False)


def test_unpickled_epochs_reject_erased_samples(digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(6)], keys=[str(n) for n in range(6)])
    run = digits.run("r")
    epoch = pickle.loads(pickle.dumps(run.epoch(0)))
    assert (len(epoch), epoch.features) == (6, digits.features)
    page = pickle.loads(pickle.dumps(next(digits.pages(0))))
    np.testing.assert_array_equal(page["label"], range(6))
    copy = pickle.loads(pickle.dumps(run))
    copy.record(4)
    assert (run.consumed, copy.seed, copy.policy) == (4, run.seed, run.policy)
    digits.erase("3")
    unread = pickle.loads(pickle.dumps(epoch))
    with pytest.raises(ErasedError, match="'3' at position 3"):
        list(unread.batches(6))


def test_an_unpickled_mix_continues(digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(10)])
    mix = registry.mix({digits.run("one"): 1, digits.run("two", seed=1): 2})
    next(mix.batches(8))
    mix.record(8)
    copy = pickle.loads(pickle.dumps(mix))
    digits.add_classes("label", 3)
    batch, same = next(mix.batches(12)), next(copy.batches(12))
    np.testing.assert_array_equal(same["image"], batch["image"])
    assert copy.features == mix.features != digits.features
    assert (copy.advance(12), mix.consumed, copy.name) == (20, 20, mix.name)


WITHOUT_PASSWORD = "postgresql+psycopg://user@host:5433/db"
WITH_PASSWORD = f"postgresql://user:{SECRET}@host:5433/db"


@pytest.mark.parametrize(
    ("url", "environment", "pickled"),
    [
        (
            "postgresql://user@host:5433/db",
            {"REGISTRY_URL": WITH_PASSWORD},
            Address(WITHOUT_PASSWORD, 30),
        ),
        (
            WITH_PASSWORD,
            {"REGISTRY_URL": WITH_PASSWORD},
            Address(WITHOUT_PASSWORD, 30, "REGISTRY_URL"),
        ),
        (WITH_PASSWORD, {"PGPASSWORD": SECRET}, Address(WITHOUT_PASSWORD, 30, "PGPASSWORD")),
        (
            f"postgresql://user@host:5433/db?sslpassword={SECRET}",
            {"REGISTRY_URL": f"postgresql://user@other/db?sslpassword={SECRET}"},
            Address(WITHOUT_PASSWORD, 30, "REGISTRY_URL"),
        ),
        (
            WITH_PASSWORD,
            {"PGPASSWORD": "another"},
            Address(WITH_PASSWORD.replace("://", "+psycopg://"), 30),
        ),
    ],
)
def test_a_pickle_holds_no_password_that_the_environment_holds(
    url: str, environment: dict[str, str], pickled: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REGISTRY_URL", "REGISTRY_REPLICA_URL", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    engine = make_engine(url)
    address = pickle.loads(pickle.dumps(Address.of(engine)))
    assert address == pickled
    opened = address.engine()
    assert opened is Address.of(engine).engine(), "one for each address in a process"
    complete = parse_url(WITHOUT_PASSWORD) if address.variable == "PGPASSWORD" else parse_url(url)
    assert url_of(opened) == complete, "libpq adds $PGPASSWORD itself"
    if address.variable == "REGISTRY_URL":
        del opened
        gc.collect()
        monkeypatch.delenv("REGISTRY_URL")
        with pytest.raises(InvalidURLError, match=r"was in \$REGISTRY_URL; set it"):
            address.engine()


def test_a_replica_is_pickled_by_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_REPLICA_URL", WITH_PASSWORD)
    pickled = pickle.dumps(
        open_replica(WITH_PASSWORD, make_engine("postgresql://user@primary/db"), None)
    )
    assert SECRET.encode() not in pickled
    assert url_of(pickle.loads(pickled).engine) == parse_url(WITH_PASSWORD)


def test_a_sqlite_file_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with registry.connect("sqlite:///here.db?timeout=12") as reg:
        pickled = pickle.dumps(reg)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pickle.loads(pickled) as reg:
        assert reg.engine.url.database == str(tmp_path / "here.db")
        assert reg.engine.get_execution_options()["registry_timeout"] == 12
        assert reg.names() == []
