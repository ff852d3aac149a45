"""Renaming: all that belongs to a dataset stays with it, and nothing of another gets mixed in."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

import registry
from registry import Dataset, Registry
from registry.errors import (
    DatasetDroppedError,
    DatasetExistsError,
    DatasetNotFoundError,
    FeatureError,
    RegistryError,
    RenameError,
    VersionError,
)
from registry.io.labeling.mapping_store import set_mapping, settings_of
from registry.server import tokens
from registry.storage.database.engine import make_engine
from registry.storage.database.models import TokenRow
from registry.storage.database.transactions import reading, writing
from tests.support.datasets import FIXED, digit
from tests.support.growing_datasets import yielded
from tests.support.servers import JSON, client, item, problem


def test_a_renamed_dataset_keeps_what_belongs_to_it_and_what_is_open_continues(
    reg: Registry, url: str, digits: Dataset, cache: Path
) -> None:
    digits.insert([digit(n) for n in range(10)])
    run = digits.run("cnn-1")
    epoch = run.epoch(0)
    samples, old_version = yielded(epoch), str(digits.version)
    set_mapping(reg.engine, digits.id, "cvat", {"label": "label"})
    follower = digits.follow(after=10)
    with registry.connect(url) as other:
        assert other.rename("digits", "mnist") == {}
        renamed = other.open("mnist")
        assert other.names() == ["mnist"]
        assert [each.name for each in renamed.runs()] == ["cnn-1"]
        assert settings_of(other.engine, renamed.id, "cvat").mapping == {"label": "label"}
        assert yielded(renamed.run("cnn-1").epoch(0)) == samples
        # A dataset of the old name is another one.
        taken = other.create("digits", FIXED)
        taken.insert([digit(1)])
        digits.insert([digit(2), digit(3)])
        assert len(next(follower)) == 2
        assert (len(digits), len(renamed), len(taken)) == (12, 12, 1)
        assert digits.run("cnn-1").epoch(1).size == 12
        assert str(digits.version) == str(renamed.version)
        assert len(list(cache.iterdir())) == 1, "the mirror is read again under no other name"
        # Neither the new dataset of the old name nor an error may pass for the old version.
        with pytest.raises(VersionError, match=r"the log of 'digits' has|ends at position 1"):
            other.open(old_version)
        other.drop("digits")
        chain = old_version.partition(":")[2]
        for given in (old_version, old_version[:-20]):
            with pytest.raises(DatasetNotFoundError) as caught:
                other.open(given)
            assert str(caught.value) == (
                f"no dataset named 'digits'; 'mnist' has this version, as mnist{given[6:]}: "
                "it may have been renamed"
            )
            assert caught.value.suggestion == "mnist"
        assert len(other.open(f"mnist@10:{chain}")) == 10
    assert yielded(epoch) == samples


def test_a_name_that_is_taken_or_not_valid_changes_nothing(reg: Registry, digits: Dataset) -> None:
    reg.create("mnist", FIXED)
    refused: list[tuple[str, str, type[RegistryError], str]] = [
        ("digits", "mnist", DatasetExistsError, "a dataset named 'mnist' exists already"),
        ("digits", "digits", DatasetExistsError, "a dataset named 'digits' exists already"),
        ("digits", "a@b", FeatureError, "dataset name 'a@b': use 1 to 128 letters"),
        ("digits", "x" * 129, FeatureError, "use 1 to 128 letters"),
        ("digits", "\0", FeatureError, "use 1 to 128 letters"),
        ("digit", "new", DatasetNotFoundError, "did you mean 'digits'"),
        (str(digits.version), "new", DatasetNotFoundError, "no dataset named 'digits@0:"),
    ]
    for name, new_name, error, message in refused:
        with pytest.raises(error, match=message):
            reg.rename(name, new_name)
    assert reg.names() == ["digits", "mnist"]
    reg.drop("mnist")
    reg.rename("digits", "mnist")
    assert reg.names() == ["mnist"]


def test_a_name_that_is_being_taken_is_not_taken_twice(
    reg: Registry, url: str, digits: Dataset
) -> None:
    raised: list[RegistryError] = []

    def rename() -> None:
        try:
            reg.rename("digits", "mnist")
        except RegistryError as error:
            raised.append(error)

    reg.create("other", FIXED)
    renaming = threading.Thread(target=rename)
    engine = make_engine(url)
    with writing(engine) as connection:
        connection.execute(text("UPDATE datasets SET name = 'mnist' WHERE name = 'other'"))
        renaming.start()
        renaming.join(0.5)
        assert renaming.is_alive(), "it waits for the transaction"
    renaming.join(30)
    engine.dispose()
    assert [type(error) for error in raised] == [DatasetExistsError]
    assert reg.names() == ["digits", "mnist"]
    assert digits.version.name == "digits"


def test_an_open_inbox_transaction_does_not_delay_a_rename(postgresql_url: str) -> None:
    engine = make_engine(postgresql_url)
    with registry.connect(postgresql_url) as reg, engine.connect() as tool:
        digits = reg.create("digits", FIXED)
        tool.execute(text(f"INSERT INTO inbox (dataset_id, key) VALUES ({digits.id}, 'k')"))
        renaming = threading.Thread(target=reg.rename, args=("digits", "mnist"), daemon=True)
        renaming.start()
        renaming.join(30)
        assert not renaming.is_alive(), "it waits for the tool"
    engine.dispose()


def stored(reg: Registry) -> dict[str, str | None]:
    with reading(reg.engine) as connection:
        rows = connection.execute(select(TokenRow.name, TokenRow.dataset)).all()
    return {row.name: row.dataset for row in rows}


def expire(reg: Registry, name: str) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    with writing(reg.engine) as connection:
        connection.execute(update(TokenRow).where(TokenRow.name == name).values(expires_at=past))


@pytest.mark.usefixtures("digits")
def test_tokens_follow_the_dataset_that_they_were_made_for(reg: Registry) -> None:
    def make(name: str, dataset: str | None = "digits") -> str:
        return tokens.create(reg.engine, name, dataset=dataset)

    make("label-studio.digits")
    secret = tokens.rotate(reg.engine, "label-studio.digits", grace=timedelta(days=1))
    make("mine")
    make("every.digits", None)
    reg.create("mnist", FIXED)
    for ended in ("cvat.mnist", "cvat.digits"):
        make(ended, ended.partition(".")[2])
    tokens.revoke(reg.engine, "cvat.mnist")
    reg.drop("mnist")
    assert reg.rename("digits", "mnist") == {
        "label-studio.digits~1": "label-studio.mnist~1",
        "label-studio.digits": "label-studio.mnist",
        "cvat.digits": "cvat.mnist",
    }
    assert stored(reg) == {
        "label-studio.mnist~1": "mnist",
        "label-studio.mnist": "mnist",
        "mine": "mnist",
        "every.digits": None,
        "cvat.mnist": "mnist",
        "cvat.mnist~5": "mnist",  # the one that was revoked
    }
    token = tokens.check(reg.engine, tokens.digest(secret))
    assert token is not None
    assert token.source == "label-studio", "its rows of the inbox stay its own"
    tokens.revoke(reg.engine, "label-studio.mnist")
    assert tokens.check(reg.engine, tokens.digest(secret)) is None


@pytest.mark.parametrize("ended", ["revoked", "expired"])
def test_no_token_comes_to_open_another_dataset_by_a_rename(reg: Registry, ended: str) -> None:
    for name in ("mnist", "digits"):
        reg.create(name, FIXED)
    tokens.create(reg.engine, "old-tool", dataset="mnist")
    tokens.create(reg.engine, "cvat.mnist")
    tokens.create(reg.engine, "cvat.digits", dataset="digits")
    reg.drop("mnist")
    before = stored(reg)
    for token, reason in [
        ("old-tool", "is for a dataset named 'mnist'"),
        ("cvat.mnist", "has the name that 'cvat.digits' would get"),
    ]:
        with pytest.raises(RenameError, match=f"the token '{token}' {reason}: revoke it first"):
            reg.rename("digits", "mnist")
        assert (stored(reg), reg.names()) == (before, ["digits"])
        (tokens.revoke if ended == "revoked" else lambda _, n: expire(reg, n))(reg.engine, token)
    assert reg.rename("digits", "mnist") == {"cvat.digits": "cvat.mnist"}


def test_a_running_server_never_writes_to_the_dataset_that_had_the_name(reg: Registry) -> None:
    digits = reg.create("digits", FIXED)
    with client(reg) as http:
        http.post("/v1/datasets/digits/samples", json=item(1), headers=JSON).raise_for_status()
        reg.rename("digits", "mnist")
        answer = http.post("/v1/datasets/digits/samples", json=item(2), headers=JSON)
        assert "no dataset named 'digits'" in problem(answer, 404)
        assert problem(http.get("/v1/datasets/digits/head"), 404)
        http.post("/v1/datasets/mnist/samples", json=item(3), headers=JSON).raise_for_status()
        other = reg.create("digits", FIXED)
        http.post("/v1/datasets/digits/samples", json=item(4), headers=JSON).raise_for_status()
        assert http.get("/v1/datasets/digits/head").json()["live"] == 1
    assert [entry.key for entry in digits.entries()] == ["k1", "k3"]
    assert [entry.key for entry in other.entries()] == ["k4"]


def test_a_description_is_set_and_shown(reg: Registry, digits: Dataset) -> None:
    digits.describe("Written by hand\n“été”")
    assert digits.description == reg.open("digits").description == "Written by hand\n“été”"
    with pytest.raises(FeatureError, match="a description cannot hold"):
        digits.describe("\0")
    with pytest.raises(VersionError, match="never changes"):
        reg.open(str(digits.version)).describe("")
    assert reg.open("digits").description.startswith("Written")
    reg.drop("digits")
    with pytest.raises(DatasetDroppedError):
        digits.describe("")
