"""What a person enters in a labeling tool, so that it sends its events."""

from __future__ import annotations

from registry.catalog.dataset import Dataset

ANY_SERVER = "http://HOST:8000"
"""Stands for the address of `registry serve`, which the database does not know."""


def setup_lines(dataset: Dataset, tool: str, server: str) -> list[tuple[str, str]]:
    """Return the properties of a webhook, by their names in the tool, and what to know about it."""
    address = f"{server.rstrip('/')}/v1/datasets/{dataset.name}/webhooks/{tool}"
    if tool == "argilla":
        return [
            ("url", address),
            ("events", "response.created, response.updated, response.deleted, record.deleted"),
            ("secret", "Argilla answers with it; give it to registry serve --secrets"),
        ]
    return [
        ("Payload URL", address),
        ("Headers", "Authorization: Token SECRET"),
        ("Payload", "leave both on: Send payload, Send for all actions"),
        ("SECRET", f"registry token create {tool}.{dataset.name} --dataset {dataset.name}"),
        ("address", "a loopback or private one needs SSRF_PROTECTION_ENABLED=false in the tool"),
        ("lost events", "are never sent again: import an export of the project every night"),
    ]


def unseen_controls(questions: dict[str, str]) -> str:
    """Return a warning about controls that no annotation has confirmed yet."""
    controls = ", ".join(dict.fromkeys(map(repr, questions.values())))
    return (
        f"check that the project has controls named {controls}: only an import compares the "
        "mapping with the answers, and events that lack one are rejected"
    )
