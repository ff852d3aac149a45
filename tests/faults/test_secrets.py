"""Passwords and tokens are neither shown nor stored, whatever fails."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url, text
from typer.testing import CliRunner

import registry
from registry import ClassLabel, Image, Registry, RegistryError, Text
from registry.cli.base import app
from registry.io.labeling import mapping_store as mappings
from registry.io.labeling.label_studio.export import insert_export
from registry.server import tokens
from registry.server.settings import ServerSettings, SettingsError, parse_secrets
from registry.storage.database import schema
from registry.storage.database.engine import make_engine
from registry.storage.database.models import metadata
from tests.support.figures import Figure
from tests.support.proxy import proxied
from tests.support.servers import serving
from tests.support.webhooks import signed_argilla, signed_cvat

SEED = "hsif-drows"[::-1]  # reversed, since tracebacks quote lines of source
ENCODED = base64.b64encode(f"{SEED} of argilla".encode()).decode()
OUTCOMES = {
    '"applied"',
    '"recorded"',
    '"quarantined"',
    '"ignored"',
    '"refused"',
    " 401,",
    " 404,",
    " 422,",
}
PARAMETERS = ("password", "sslpassword", "passfile_password", "oauth_client_secret")


class Texts:
    """All texts that the package has produced, to be searched for the seed."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, where: str, *values: object) -> None:
        self.texts += [(where, str(value)) for value in values]

    def error(self, where: str, error: BaseException) -> None:
        """Add the forms of an error: its traceback, notes, pickle, and chain of causes."""
        self.add(where, *traceback.format_exception(error), *getattr(error, "__notes__", ()))
        with suppress(pickle.PicklingError, TypeError, AttributeError):
            self.add(where, pickle.dumps(error))
        cause: BaseException | None = error
        while cause is not None:  # also those that a traceback leaves out
            self.add(where, cause, repr(cause), repr(cause.args))
            cause = cause.__cause__ or cause.__context__

    def leaks(self) -> list[str]:
        seeds = (SEED, ENCODED, SEED.replace("-", "%2D"))
        return [
            f"{where}: {text:.2000}" for where, text in self.texts if any(s in text for s in seeds)
        ]


@pytest.fixture
def texts(
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    figure: Figure,
) -> Iterator[Texts]:
    """Collect the output and every log at its lowest level; none may contain the seed."""
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "uvicorn", "registry"):
        caplog.set_level(logging.DEBUG, logger=name)
    texts = Texts()
    yield texts
    texts.add("log", caplog.text)
    texts.add("output", *capfd.readouterr())
    assert not texts.leaks()
    path = request.node.name.removeprefix("test_").replace("_", " ")
    figure(f"secrets: {path}", f"0 occurrences in {len(texts.texts):,} texts, logs and output")


def urls() -> list[str]:
    """Return URLs that contain a secret and cannot be connected to."""
    user = f"someone:{SEED}@"
    return [
        f"postgresql://{user}localhost:1/nothing",
        f"postgresql://{user}no.such.host.invalid/nothing",
        f"postgresql://{user}localhost:99999/nothing",
        f"postgresql://{user}localhost:port/nothing",
        f"postgresql://{user}[::1/nothing",
        f"postgresql://{user}localhost:1/nothing?nonsense=1",
        f"postgresql://{user}localhost:1/nothing?sslmode=nonsense",
        f"postgresql://{user}localhost:1/nothing?connect_timeout=soon&sslpassword={SEED}",
        f"postgresql://{user}localhost:1/nothing?timeout=soon",
        f"postgresql://{user}localhost:1/nothing?timeout=1",
        f"postgresql://{user}{'x' * 300}/nothing",
        f"postgresql://someone:{SEED}",
        f"postgresql://someone:{SEED}/with/slashes@localhost/nothing",
        f"postgresql://someone:with@{SEED}@localhost:1/nothing",
        f"postgresql://someone:%00{SEED}@localhost:1/nothing",
        f"postgresql+psycopg2://{user}localhost/nothing",
        f"postgresql+nonsense://{user}localhost/nothing",
        f"mysql://{user}localhost/nothing",
        f"{user}localhost/nothing",
        f"sqlite:///nothing.db?password={SEED}",
        f"sqlite:///no/such/folder.db?password={SEED}",
        *(f"postgresql://someone@localhost:1/nothing?{name}={SEED}" for name in PARAMETERS),
        *(f"postgresql:///?host=localhost&port=1&{name.upper()}={SEED}" for name in PARAMETERS),
    ]


@pytest.mark.usefixtures("cache")
def test_no_url_shows_its_secrets(
    texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pass").write_text(f"*:*:*:*:{SEED}\n")
    (tmp_path / "pass").chmod(0o600)
    (tmp_path / "services").write_text(f"[x]\nhost=localhost\nport=1\npassword={SEED}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    files = ["postgresql:///?service=x", f"postgresql://localhost:1/x?passfile={tmp_path}/pass"]
    for url in [*urls(), *files]:
        try:
            with registry.connect(url) as reg:
                texts.add(url, reg)
        except RegistryError as error:
            texts.error(url, error)
        with suppress(RegistryError), closing_engine(url) as engine:
            texts.add(url, engine, repr(engine), engine.url, repr(engine.url), engine.pool)
        for command in (["ls"], ["show", "digits"], ["init"], ["init", "--sql"], ["doctor"]):
            result = CliRunner().invoke(app, [*command, "--url", url])
            texts.add(url, result.output)
            assert isinstance(result.exception, SystemExit | None), result.output
    texts.texts = [(where.replace(SEED, "…"), text) for where, text in texts.texts]
    assert len(texts.texts) > 300


@contextmanager
def closing_engine(url: str) -> Iterator[Any]:
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def test_a_process_with_all_debug_output_prints_no_secrets(texts: Texts) -> None:
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONDEVMODE": "1"}
    for url in urls()[:2]:
        process = subprocess.run(
            [sys.executable, "-m", "registry", "ls"],
            env={**environment, "REGISTRY_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 1
        texts.add("process", process.stdout, process.stderr)


def refusing(listener: socket.socket) -> None:
    """Act as a server that requests a password and rejects it."""
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(8)
                connection.sendall(b"N")  # no TLS
                connection.recv(4096)
                connection.sendall(
                    b"R\0\0\0\x08\0\0\0\x03"
                )  # a request for the password in clear text
                connection.recv(4096)
                error = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0"
                connection.sendall(b"E" + (len(error) + 4).to_bytes(4, "big") + error)


def test_a_server_that_rejects_cuts_or_is_outdated_reveals_no_secret(
    texts: Texts, postgresql_url: str, empty_postgresql_url: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refusing, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        url = f"postgresql://someone:{SEED}@127.0.0.1:{port}/x?sslmode=disable"
        with pytest.raises(RegistryError) as caught:
            registry.connect(url)
        texts.error("refused", caught.value)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for server, statement in (
        (empty_postgresql_url, None),
        (postgresql_url, "UPDATE registry_alembic_version SET version_num = '9999'"),
        (postgresql_url, "UPDATE registry_alembic_version SET version_num = '0001'"),
    ):
        secret = make_url(server).set(password=SEED).update_query_dict({"sslpassword": SEED})
        engine = make_engine(secret)
        if statement:
            with engine.begin() as connection:
                connection.execute(text(statement))
        with pytest.raises(RegistryError) as caught:
            schema.check(engine)
        texts.error("schema", caught.value)
        texts.add("schema", repr(engine), engine.pool.status())
        engine.dispose()
    with proxied(make_url(server)) as (proxy, through):
        engine = make_engine(through.set(password=SEED))
        for after in (0, 40):
            proxy.arm("to client", after)
            with pytest.raises(RegistryError) as caught:
                schema.revision(engine)
            texts.error("cut", caught.value)
        engine.dispose()


def event(**more: Any) -> dict[str, Any]:
    """Return an event as Label Studio sends it, with secrets in every field that may have them."""
    storage = {"aws_secret_access_key": SEED, "password": SEED, "url": f"s3://a:{SEED}@b"}
    image = f"https://someone:{SEED}@host/a.png?X-Amz-Signature={SEED}"
    value = {"choices": ["good"]}
    result = [{"from_name": "mood", "to_name": "t", "type": "choices", "value": value}]
    return {
        "action": "ANNOTATION_CREATED",
        "project": {"id": 3, "token": SEED, "source_storages": [storage]},
        "annotation": {"id": 5, "result": result, "updated_at": "2026-01-02T03:04:05Z"},
        "task": {"id": 9, "data": {"body": "a letter", "image": image}, "storage": storage},
        **more,
    }


@pytest.fixture
def moods(reg: Registry) -> Registry:
    moods = reg.create("moods", {"text": Text(), "mood": ClassLabel(["bad", "good"])})
    mappings.set_mapping(reg.engine, moods.id, "label-studio", {"text": "data.body"})
    photos = reg.create("photos", {"image": Image(), "mood": ClassLabel(["bad", "good"])})
    mappings.set_mapping(reg.engine, photos.id, "label-studio", {"image": "data.image"})
    return reg


def test_no_request_stores_or_shows_a_secret(
    texts: Texts, moods: Registry, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tokens.create(moods.engine, "good")
    secrets = {name: {"cvat": SEED, "argilla": ENCODED} for name in ("moods", "photos", "gone")}
    settings = ServerSettings(secrets=parse_secrets(json.dumps(secrets)), rate=1e9)
    texts.add("settings", repr(settings), settings)
    with serving(moods, settings) as at, httpx.Client(base_url=at) as http:
        _send_requests(texts, http, good)
        outcomes = {each for _, text in texts.texts for each in OUTCOMES if each in text}
        assert outcomes == OUTCOMES
        monkeypatch.setattr("registry.server.routes.webhooks.apply_event", _fail)
        monkeypatch.setattr("registry.server.routes.datasets.parse_changes", _fail)
        _send_requests(texts, http, good)
        assert "the server failed; its log says where" in str(texts.texts)
    path = tmp_path / "export.json"
    task = {**event()["task"], "annotations": [event()["annotation"]], "project": 3}
    for tasks in ([task], [{**task, "token": SEED}, 5], SEED):
        path.write_text(json.dumps(tasks))
        for name in ("moods", "photos"):
            try:
                insert_export(moods.open(name), path, None)
            except RegistryError as error:
                texts.error("export", error)
    for command in (["show", "moods"], ["inbox", "ls", "photos"], ["token", "ls"], ["doctor"]):
        texts.add("command", CliRunner().invoke(app, [*command, "--url", url]).output)
    _dump(texts, moods)
    assert not [where for where, text in texts.texts if good in text]


def _fail(*_: object, **__: object) -> Any:
    raise RuntimeError(f"a value that is quoted: {SEED}")


def _send_requests(texts: Texts, http: httpx.Client, good: str) -> None:
    """Send valid and invalid requests that contain the seed to every route."""
    bearer = {"authorization": f"Bearer {good}"}
    bad = [{}, {"authorization": f"Bearer {SEED}"}, {"authorization": f"Basic {SEED}"}]
    signed: dict[str, str] = {
        "x-signature-256": SEED,
        "webhook-signature": SEED,
        "webhook-id": SEED,
    }
    bodies: list[Any] = [
        event(),
        event(action="TASKS_CREATED"),
        event(annotation=SEED),
        event(task=None),
        SEED,
        [],
        {"token": SEED},
    ]
    for headers in [bearer, *bad]:
        for path in ("/metrics", "/openapi.json", "/readyz", "/v1/datasets", "/nowhere"):
            texts.add(path, http.get(path, headers=headers).text)
        for name in ("moods", "photos", "gone"):
            for tool in ("label-studio", "cvat", "argilla"):
                for number, body in enumerate(bodies):
                    to = f"/v1/datasets/{name}/webhooks/{tool}"
                    raw = json.dumps(body).encode()
                    if headers is bearer:
                        signed = signed_argilla(raw, f"{number}", ENCODED)
                        signed["x-signature-256"] = signed_cvat(raw, SEED)
                    sent = {**headers, **signed, "content-type": "application/json"}
                    answer = http.post(to, content=raw, headers=sent)
                    texts.add(to, answer.text, answer.headers)
        answer = http.post("/v1/datasets/moods/samples", json=event(), headers=headers)
        texts.add("samples", answer.text, answer.headers)


def _dump(texts: Texts, reg: Registry) -> None:
    with reg.engine.connect() as connection:
        for table in metadata.sorted_tables:
            texts.add(table.name, *connection.execute(table.select()).all())


def test_invalid_secrets_of_webhooks_are_not_quoted(
    texts: Texts, sqlite_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "secrets.json"
    for secrets in (
        f"{{{SEED}",
        json.dumps({"digits": SEED}),
        json.dumps({"digits": {"cvat": [SEED, 5]}}),
        json.dumps({"digits": {"argilla": SEED}}),
        json.dumps({"digits": {"label-studio": SEED}}),
    ):
        with pytest.raises(SettingsError) as caught:
            parse_secrets(secrets)
        texts.error("settings", caught.value)
        path.write_text(secrets)
        command = ["serve", "--secrets", str(path), "--url", sqlite_url]
        texts.add("serve", CliRunner().invoke(app, command).output)
