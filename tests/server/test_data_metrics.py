"""The metrics of the data, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import make_url

import registry
from registry import Dataset, Registry
from registry.catalog.statistics.count import statistics_of
from registry.server import data_metrics
from registry.server.settings import ServerSettings
from tests.support.databases import administrator
from tests.support.datasets import FIXED, digit
from tests.support.servers import client, eventually

DOCS = Path(__file__).parents[2] / "docs"
Numbers = dict[tuple[str, ...], float]


def numbers(http: httpx.Client) -> dict[str, Numbers]:
    """The values of all metrics, by name and by the values of their labels."""
    answer = http.get("/metrics")
    assert answer.status_code == 200
    read: dict[str, Numbers] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            read.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return read


@pytest.fixture(autouse=True)
def always_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_metrics, "REFRESHED", 0.0)


def test_metrics_show_datasets_runs_and_mirrors(reg: Registry, digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(20)], keys=[f"k{n}" for n in range(20)])
    reg.create("empty", FIXED)
    run = digits.run('tab\t"1"')
    for batch in run.epoch(0).batches(7):
        run.advance(len(batch["label"]))
    reg.open(f"digits@{digits.head.position}").run("on a version").epoch(0)
    digits.retract("k1")
    digits.update("k2", label=3)
    with reg.engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO inbox (dataset_id, key) VALUES ({digits.id}, 'waits')"
        )
    statistics_of(digits)
    with client(reg) as http:
        read = numbers(http)
        one, name = ("digits",), ("digits", 'tab\t"1"')
        assert read["registry_dataset_samples"] == {one: 19, ("empty",): 0}
        assert read["registry_dataset_positions"] == {one: 22, ("empty",): 0}
        assert read["registry_dataset_waiting"] == {one: 1, ("empty",): 0}
        assert read["registry_dataset_rejected"] == {one: 0, ("empty",): 0}
        assert read["registry_dataset_bytes"] == {one: 19 * 8}
        assert read["registry_dataset_stored_bytes"] == {one: 21 * 8}
        assert read["registry_dataset_counted_positions"][one] == 22
        assert list(read["registry_dataset_last_row_timestamp_seconds"]) == [one]
        assert read["registry_run_consumed_samples"][name] == 20
        assert read["registry_run_pinned_samples"][name] == 20
        assert read["registry_run_epochs"][name] == 1
        assert read["registry_run_lag_positions"] == {name: 2, ("digits", "on a version"): 0}
        assert read["registry_mirror_positions"] == {one: 20}
        assert read["registry_mirror_lag_positions"] == {one: 2}
        assert read["registry_mirror_bytes"][one] > 20 * 8
        digits.inbox.drain()
        assert numbers(http)["registry_dataset_rejected"][one] == 1
        reg.rename("digits", "mnist")
        reg.drop("empty")
        assert list(numbers(http)["registry_dataset_samples"]) == [("mnist",)]


def test_the_number_of_series_is_limited(
    reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_metrics, "MOST_DATASETS", 2)
    monkeypatch.setattr(data_metrics, "MOST_RUNS", 3)
    for name in ("a", "b", "c"):
        reg.create(name, FIXED)
    digits.insert([digit(1)])
    for number in range(5):
        digits.run(f"r{number}")
    with client(reg) as http:
        read = numbers(http)
        assert [*read["registry_dataset_samples"]] == [("digits",), ("c",)]
        assert [run for _, run in read["registry_run_epochs"]] == ["r2", "r3", "r4"]
        assert read["registry_data_left_out"] == {("dataset",): 2, ("run",): 2}


def test_a_cache_that_cannot_be_used_hides_no_number(
    reg: Registry, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits.insert([digit(1)])
    (tmp_path / "file").touch()
    with client(reg) as http:
        monkeypatch.setenv("REGISTRY_CACHE", str(tmp_path / "file"))
        assert numbers(http)["registry_dataset_samples"] == {("digits",): 1}
        eventually(lambda: numbers(http).get("registry_dataset_bytes") == {("digits",): 8})
        # Nor can temporary files.
        monkeypatch.setenv("REGISTRY_CACHE", str(tmp_path / "file" / "below"))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
        read = numbers(http)
        assert read["registry_dataset_samples"] == {("digits",): 1}
        assert "registry_dataset_bytes" not in read


def test_a_scrape_does_not_wait_for_a_database_that_is_down(
    request: pytest.FixtureRequest, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_metrics, "WAITED", 0.2)
    name = make_url(postgresql_url).database
    settings = ServerSettings(insecure=True)  # a token would be looked up in the database
    with (
        registry.connect(postgresql_url) as reg,
        client(reg, settings) as http,
        administrator(request.getfixturevalue("server")) as connection,
    ):
        reg.create("digits", FIXED).insert([digit(1)])
        eventually(lambda: "registry_dataset_samples" in numbers(http))
        connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.exec_driver_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        try:
            first, second = numbers(http), numbers(http)
            assert second["registry_dataset_samples"] == {("digits",): 1}
            age = "registry_data_age_seconds"
            assert second[age][()] > first[age][()] > 0
        finally:
            connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        reg.open("digits").insert([digit(2)])
        eventually(lambda: numbers(http)["registry_dataset_samples"] == {("digits",): 2})


def lost(form: Any, read: Any, path: str = "") -> list[str]:
    """Where a form has what was not read of it."""
    if isinstance(form, dict) and isinstance(read, dict):
        return [
            each
            for key, value in form.items()
            for each in (lost(value, read[key], f"{path}.{key}") if key in read else [path + key])
        ]
    if isinstance(form, list) and isinstance(read, list) and len(form) == len(read):
        pairs = enumerate(zip(form, read, strict=True))
        return [each for at, (a, b) in pairs for each in lost(a, b, f"{path}[{at}]")]
    return [] if form == read else [path]


@pytest.fixture
def dashboard() -> Any:
    return json.loads((DOCS / "grafana.json").read_text())


def test_the_dashboard_has_the_form_that_grafana_reads(dashboard: Any) -> None:
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    plugins.register_default_plugins()
    read = json.loads(encoder.JSONEncoder().encode(models.Dashboard.from_json(dashboard)))
    assert lost(dashboard, read) == []
    assert lost({**dashboard, "titel": "Registry"}, read) == ["titel"]
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len({*numbers}) == len(numbers) > 20


def test_the_dashboard_and_the_page_name_the_metrics_that_there_are(
    sqlite_url: str, dashboard: Any
) -> None:
    with registry.connect(sqlite_url) as reg, client(reg) as http:
        text = http.get("/metrics").text
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    exposed = {name + ("_total" if kind == "counter" else "") for name, kind in families.items()}
    buckets = {f"{name}_bucket" for name, kind in families.items() if kind == "histogram"}
    queries = json.dumps([dashboard["panels"], dashboard["templating"]])
    asked = {*re.findall(r"registry_[a-z_]+", queries)}
    assert len(asked) > 15
    assert asked <= exposed | buckets
    page = (DOCS / "monitoring.md").read_text()
    assert {*re.findall(r"^\|`(registry_[a-z_]+)`", page, re.MULTILINE)} == exposed
    assert {*re.findall(r"registry_[a-z_]+", page)} <= exposed
