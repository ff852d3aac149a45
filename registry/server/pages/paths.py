"""The paths of pages, whatever characters names and keys have."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from registry.html.formats import url_path

_DOTS = (".", "..")
"""Texts that are no part of a path: browsers resolve them, also where they are escaped."""


def dataset_path(name: str, page: str = "") -> str:
    """Return the path of a page of a dataset, or of a version, such as its ``runs``."""
    return f"/datasets/{url_path(name)}{f'/{page}' if page else ''}"


def samples_path(name: str, query: Mapping[str, str | int | None] | None = None) -> str:
    """Return the path of a dataset's samples, with the parameters that have a value."""
    given = {key: value for key, value in (query or {}).items() if value not in (None, "")}
    path = dataset_path(name, "samples")
    return f"{path}?{urlencode(given, errors='surrogatepass')}" if given else path


def sample_path(name: str, key: str, before: int | None = None) -> str:
    """Return the path of a sample's page; ``before`` is the position that its revisions precede."""
    if key in _DOTS:
        return samples_path(name, {"sample": key, "before": before})
    path = f"{dataset_path(name, 'samples')}/{url_path(key)}"
    return path if before is None else f"{path}?before={before}"


def picture_path(name: str, position: int, feature: str, side: int, *, within: bool = False) -> str:
    """Return the path of a picture of the value of a feature, at a position of the log.

    ``within`` is whether it is part of a page, which says by itself that there is no picture.
    """
    query = {"side": side, **({"within": 1} if within else {})}
    if feature in _DOTS:
        return (
            f"{dataset_path(name, 'images')}/{position}?{urlencode(query | {'feature': feature})}"
        )
    return f"{dataset_path(name, 'images')}/{position}/{url_path(feature)}?{urlencode(query)}"


def run_path(name: str, run: str, query: Mapping[str, str | int | None] | None = None) -> str:
    """Return the path of a run's page, with the parameters that have a value."""
    given = {key: value for key, value in (query or {}).items() if value not in (None, "")}
    path = dataset_path(name, "runs")
    if run in _DOTS:
        return f"{path}?{urlencode({'run': run, **given})}"
    return f"{path}/{url_path(run)}{f'?{urlencode(given)}' if given else ''}"
