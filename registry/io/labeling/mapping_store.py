"""Storage of how a tool's annotations become samples: for each dataset and labeling tool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select

from registry.io.labeling.consensus import ConsensusRule
from registry.storage.database.models import WebhookRow
from registry.storage.database.transactions import read, write


@dataclass(frozen=True)
class MappingSettings:
    """How a tool's annotations become samples.

    ``mapping`` has the path of each feature's value. With ``hull``, rotated boxes are replaced by
    their hulls. With a ``consensus``, each task has one sample.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    hull: bool = False
    consensus: ConsensusRule | None = None

    def options(self) -> dict[str, Any]:
        """Return what is stored next to the mapping."""
        options: dict[str, Any] = {"rotated": "hull"} if self.hull else {}
        if self.consensus is not None:
            options |= {"per": "task", **vars(self.consensus)}
        return options


def settings_of(engine: Engine, dataset_id: int, tool: str) -> MappingSettings:
    """Return the stored settings, or the defaults if none were stored."""
    query = select(WebhookRow.mapping, WebhookRow.options).where(
        WebhookRow.dataset_id == dataset_id, WebhookRow.tool == tool
    )
    row = read(engine, lambda c: c.execute(query).one_or_none())
    if row is None:
        return MappingSettings()
    mapping, options = row
    rule = None
    if options.get("per") == "task":
        rule = ConsensusRule(options["method"], options["min_annotators"])
    return MappingSettings(mapping, hull=options.get("rotated") == "hull", consensus=rule)


def set_settings(engine: Engine, dataset_id: int, tool: str, settings: MappingSettings) -> None:
    """Store settings; they replace earlier ones."""
    primary_key = {"dataset_id": dataset_id, "tool": tool}
    values = {"mapping": dict(settings.mapping), "options": settings.options()}

    def replace(connection: Connection) -> None:
        # Not an upsert: both statements are the same on every database, and the transaction is one.
        connection.execute(delete(WebhookRow).filter_by(**primary_key))
        connection.execute(insert(WebhookRow).values(**primary_key, **values))

    write(engine, replace)


def set_mapping(engine: Engine, dataset_id: int, tool: str, mapping: Mapping[str, str]) -> None:
    """Store a mapping with the default settings; it replaces an earlier one."""
    set_settings(engine, dataset_id, tool, MappingSettings(mapping))
