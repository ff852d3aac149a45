"""What a person enters in a labeling tool, so that it sends its events."""

from __future__ import annotations

from registry.catalog.dataset import Dataset

ANY_SERVER = "http://HOST:8000"
"""Stands for the address of `registry serve`, which the database does not know."""


def setup_lines(dataset: Dataset, tool: str, server: str) -> list[tuple[str, str]]:
    """Return the properties of a webhook, by their names in the tool, and what to know about it."""
    address = f"{server.rstrip('/')}/v1/datasets/{dataset.name}/webhooks/{tool}"
    if tool == "argilla":
        return [("URL", address), ("secret", "that of registry serve --secrets")]
    return [
        ("URL", address),
        ("header", "Authorization: Token SECRET"),
        ("SECRET", f"registry token create {tool}.{dataset.name} --dataset {dataset.name}"),
        ("events", "annotations created, updated and deleted; tasks deleted"),
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
