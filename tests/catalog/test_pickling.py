"""Registries, datasets, runs and epochs in pickles: opened again by their URL."""

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


def use(pickled: bytes, answers: Any) -> None:
    """Read with unpickled objects, as a worker process does."""
    reg, dataset, run, epoch = pickle.loads(pickled)
    engines = {id(each) for each in (reg.engine, run.log.engine, epoch.source.log.engine)}
    answers.put(
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
        answers = context.Queue()
        process = context.Process(target=use, args=(pickled, answers))
        dataset.insert([digit(n) for n in range(10, 14)])
        process.start()
        answer = answers.get(timeout=120)
        process.join(60)
        assert process.exitcode == 0
        assert answer["engines"] == 1
        assert (answer["names"], answer["sample"]) == (["digits"], 0)
        assert answer["batches"] == [batch["label"].tolist() for batch in epoch.batches(3)]
        assert answer["next"] == [batch["label"].tolist() for batch in run.epoch(1).batches(4)]


def _with_secret(url: str) -> str:
    """The URL with a password, which a server that trusts its clients does not ask for."""
    parsed = parse_url(url)
    if parsed.drivername != "sqlite":
        parsed = parsed.set(password=SECRET)
    return parsed.render_as_string(hide_password=False)


def test_what_was_unpickled_reads_versions_and_refuses_what_was_erased(digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(6)], keys=[str(n) for n in range(6)])
    run = digits.run("r")
    epoch = pickle.loads(pickle.dumps(run.epoch(0)))
    assert (len(epoch), epoch.features) == (6, digits.features)
    page = pickle.loads(pickle.dumps(next(digits.pages(0))))
    np.testing.assert_array_equal(page["label"], range(6))
    again = pickle.loads(pickle.dumps(run))
    again.record(4)
    assert (run.consumed, again.seed, again.policy) == (4, run.seed, run.policy)
    digits.erase("3")
    unread = pickle.loads(pickle.dumps(epoch))
    with pytest.raises(ErasedError, match="'3' at position 3"):
        list(unread.batches(6))


PLAIN = "postgresql+psycopg://user@host:5433/db"
GIVEN = f"postgresql://user:{SECRET}@host:5433/db"


@pytest.mark.parametrize(
    ("url", "environment", "pickled"),
    [
        ("postgresql://user@host:5433/db", {"REGISTRY_URL": GIVEN}, Address(PLAIN, 30)),
        (GIVEN, {"REGISTRY_URL": GIVEN}, Address(PLAIN, 30, "REGISTRY_URL")),
        (GIVEN, {"PGPASSWORD": SECRET}, Address(PLAIN, 30, "PGPASSWORD")),
        (
            f"postgresql://user@host:5433/db?sslpassword={SECRET}",
            {"REGISTRY_URL": f"postgresql://user@other/db?sslpassword={SECRET}"},
            Address(PLAIN, 30, "REGISTRY_URL"),
        ),
        (GIVEN, {"PGPASSWORD": "another"}, Address(GIVEN.replace("://", "+psycopg://"), 30)),
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
    again = address.engine()
    assert again is Address.of(engine).engine(), "one for each address in a process"
    complete = parse_url(PLAIN) if address.variable == "PGPASSWORD" else parse_url(url)
    assert url_of(again) == complete, "libpq adds $PGPASSWORD itself"
    if address.variable == "REGISTRY_URL":
        del again
        gc.collect()
        monkeypatch.delenv("REGISTRY_URL")
        with pytest.raises(InvalidURLError, match=r"stood in \$REGISTRY_URL; set it"):
            address.engine()


def test_a_replica_is_pickled_by_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_REPLICA_URL", GIVEN)
    pickled = pickle.dumps(open_replica(GIVEN, make_engine("postgresql://user@primary/db"), None))
    assert SECRET.encode() not in pickled
    assert url_of(pickle.loads(pickled).engine) == parse_url(GIVEN)


def test_a_sqlite_file_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with registry.connect("sqlite:///here.db?timeout=12") as reg:
        pickled = pickle.dumps(reg)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pickle.loads(pickled) as again:
        assert again.engine.url.database == str(tmp_path / "here.db")
        assert again.engine.get_execution_options()["registry_timeout"] == 12
        assert again.names() == []
