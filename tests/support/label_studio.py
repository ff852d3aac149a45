"""A real Label Studio, driven by its API: started as a process, with its data in a folder.

It is installed in its own virtual environment, since its dependencies exclude ours;
``$REGISTRY_TEST_LABEL_STUDIO`` is the path of its command.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

COMMAND_VARIABLE = "REGISTRY_TEST_LABEL_STUDIO"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
_START_SECONDS = 600
"""The first start migrates its database, which takes minutes on a slow machine."""


@contextmanager
def label_studio(folder: Path) -> Iterator[LabelStudio]:
    """Run Label Studio on loopback, and stop it afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [
        os.environ[COMMAND_VARIABLE],
        *("start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)),
        *("--username", "person@example.com", "--password", "not-a-secret"),
        *("--user-token", TOKEN, "--enable-legacy-api-token"),
    ]
    environment = os.environ | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        # It refuses webhooks to loopback addresses otherwise.
        "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    # Of this process's own packages it must see none.
    environment.pop("PYTHONPATH", None)
    log = folder / "label-studio.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        studio = LabelStudio(f"http://127.0.0.1:{port}")
        studio.await_start(process, log)
        yield studio
        studio.http.close()
    finally:
        process.terminate()
        process.wait(60)


class LabelStudio:
    """The API of a running Label Studio."""

    def __init__(self, address: str) -> None:
        self.address = address
        headers = {"authorization": f"Token {TOKEN}"}
        self.http = httpx.Client(base_url=address, headers=headers, timeout=60)

    def await_start(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                if self.http.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)

    def request(self, method: str, path: str, **body: Any) -> Any:
        answer = self.http.request(method, path, **body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text:.500}"
        return answer.json() if "json" in answer.headers.get("content-type", "") else None

    def project(self, config: str, webhook: str, authorization: str) -> Project:
        """Create a project whose events are sent to a webhook."""
        created = self.request(
            "POST", "/api/projects/", json={"title": "project", "label_config": config}
        )
        self.request(
            "POST",
            "/api/webhooks/",
            json={
                "project": created["id"],
                "url": webhook,
                "send_payload": True,
                "send_for_all_actions": True,
                "headers": {"Authorization": authorization},
            },
        )
        return Project(self, created["id"])


@dataclass(frozen=True)
class Project:
    """A project, and what people do in it."""

    studio: LabelStudio
    id: int

    def import_tasks(self, tasks: Sequence[dict[str, Any]]) -> None:
        self.studio.request("POST", f"/api/projects/{self.id}/import", json=list(tasks))

    def upload(self, name: str, content: bytes) -> None:
        """Upload a file; each makes a task."""
        files = {"file": (name, content, "application/octet-stream")}
        self.studio.request("POST", f"/api/projects/{self.id}/import", files=files)

    def tasks(self) -> list[dict[str, Any]]:
        """Return the tasks with their annotations, as an export has them."""
        exported: list[dict[str, Any]] = self.studio.request(
            "GET",
            f"/api/projects/{self.id}/export",
            params={"exportType": "JSON", "download_all_tasks": "true"},
        )
        return sorted(exported, key=lambda task: int(task["id"]))

    def export(self, path: Path) -> Path:
        answer = self.studio.http.get(
            f"/api/projects/{self.id}/export",
            params={"exportType": "JSON", "download_all_tasks": "true"},
        )
        assert answer.is_success, answer.text
        path.write_bytes(answer.content)
        return path

    def annotate(self, task: int, result: Sequence[dict[str, Any]]) -> int:
        created = self.studio.request(
            "POST", f"/api/tasks/{task}/annotations/", json={"result": list(result)}
        )
        identity: int = created["id"]
        return identity

    def correct(self, annotation: int, result: Sequence[dict[str, Any]]) -> None:
        body = {"result": list(result)}
        self.studio.request("PATCH", f"/api/annotations/{annotation}/", json=body)

    def delete_annotation(self, annotation: int) -> None:
        self.studio.request("DELETE", f"/api/annotations/{annotation}/")

    def delete_task(self, task: int) -> None:
        self.studio.request("DELETE", f"/api/tasks/{task}/")

    def edit_data(self, task: int, data: dict[str, Any]) -> None:
        self.studio.request("PATCH", f"/api/tasks/{task}/", json={"data": data})

    def annotate_by_predictions(self) -> None:
        """Turn the predictions of all tasks to annotations."""
        self.studio.request(
            "POST",
            "/api/dm/actions",
            params={"id": "predictions_to_annotations", "project": self.id},
            json={"selectedItems": {"all": True, "excluded": []}},
        )
