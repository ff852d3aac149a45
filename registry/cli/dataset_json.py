"""A dataset as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from registry.catalog.summary import DatasetSummary


def dataset_json(summary: DatasetSummary) -> dict[str, Any]:
    """Return a dataset as ``--json`` prints it: splits by their shares, the head's values flat."""
    return {
        "name": summary.name,
        "description": summary.description,
        "features": summary.features,
        "schema": summary.schema,
        "changes": [asdict(change) for change in summary.changes],
        "splits": summary.shares,
        "live": summary.head.live,
        "positions": summary.head.position,
        "version": summary.head.version,
        "created_at": summary.created_at.isoformat(),
    }
