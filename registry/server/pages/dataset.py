"""The pages of one dataset: what is in it, and its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from registry.catalog.dataset import Dataset
from registry.catalog.statistics.charts import charts_of, class_text
from registry.catalog.statistics.model import Statistics
from registry.catalog.summary import DatasetSummary
from registry.errors import FeatureError, InvalidSampleError
from registry.html.boxes import box_features
from registry.html.drawings import COMPACT
from registry.samples.box_formats import BOX_FORMATS
from registry.samples.feature_text import feature_text
from registry.samples.features import ClassLabel
from registry.samples.schema_text import default_text
from registry.server.pages import gallery
from registry.server.pages.gallery import NO_SOURCE_VALUE, cards_of
from registry.server.pages.paths import dataset_path, samples_path
from registry.server.pages.responses import redirect
from registry.server.pages.sample import show_sample
from registry.server.pages.viewer import show, show_shared, viewer_of
from registry.server.problems import Problem
from registry.server.routes.datasets import service_of

router: APIRouter = APIRouter(include_in_schema=False)

_LATEST: Final = 12
"""Samples on the first page of a dataset."""
_MOST_OPTIONS: Final = 500
"""Classes that a filter lists; those of larger features are typed."""
_MOST_FILTERS: Final = 8
"""Features with classes that have a filter; others are filtered by the URL."""
_MOST_TAGS: Final = 200

Before = Annotated[int | None, Query(ge=0, lt=1 << 63)]


@router.get("/datasets/{name}")
async def dataset_page(name: str, request: Request) -> Response:
    """Show what is in a dataset, or in a version of one."""
    viewer = await viewer_of(request, name)
    service = service_of(request)
    return await show_shared(
        request,
        viewer,
        "dataset.html",
        lambda: service.open_here(name).use(
            lambda opened: _overview(opened, name, service.counts.of(opened))
        ),
    )


@router.get("/datasets/{name}/samples")
async def samples_page(name: str, request: Request, before: Before = None) -> Response:
    """Show the samples that the parameters ask for, the newest first."""
    viewer = await viewer_of(request, name)
    parameters = dict(request.query_params)
    if (key := parameters.get("sample")) is not None:
        return await show_sample(name, key, request, before)
    query = gallery.Query.of(request.query_params.items(), before)
    # Chosen in the form, which cannot change the path that it is sent to.
    if (version := parameters.get("version")) is not None:
        base = name.partition("@")[0]
        named = f"{base}@{version}" if version else base
        if named != name:
            return redirect(samples_path(named, query.parameters()))
    service, template = service_of(request), "samples_page.html"

    def values(problem: str = "") -> Mapping[str, Any]:
        return service.open_here(name).use(
            lambda opened: _samples(opened, name, query, service.counts.of(opened), problem)
        )

    try:
        return await show_shared(request, viewer, template, values)
    except Problem as error:
        if error.status != 422:
            raise
        # With the form: a class that was mistyped is corrected there.
        detail = error.details.detail
        return await show(request, viewer, template, lambda: values(detail), 422)


def frame(dataset: Dataset, name: str, page: str) -> dict[str, Any]:
    """Return the values that all pages of a dataset have: its names, and the way to here."""
    base, _, version = name.partition("@")
    crumbs = [(name, dataset_path(name) if page else None)]
    return {
        "name": name,
        "base": base,
        "version": version or None,
        "description": dataset.description,
        "crumbs": [*crumbs, *([(page, None)] if page else [])],
        "dataset_url": dataset_path(name),
        "base_url": dataset_path(base),
    }


def _overview(dataset: Dataset, name: str, statistics: Statistics) -> Mapping[str, Any]:
    head = dataset.extent.stored_head()
    today = datetime.now(UTC).date()
    summary = DatasetSummary.of(dataset, head)
    schema = dataset.schemas.numbered(summary.schema)
    return {
        **frame(dataset, name, ""),
        "head": head,
        "summary": summary,
        "statistics": statistics,
        "charts": charts_of(statistics, schema.features, list(dataset.splits), today),
        "features": [
            {
                "name": each,
                "kind": feature_text(feature, brief=True),
                "classes": list(feature.names or ())[:100]
                if isinstance(feature, ClassLabel)
                else [],
                "default": default_text(schema, each),
            }
            for each, feature in schema.features.items()
        ],
        "shares": summary.shares,
        "tags": dataset.tags()[-_MOST_TAGS:][::-1],
        "latest": cards_of(dataset, name, gallery.Query(style=COMPACT), _LATEST).cards,
        "samples_url": samples_path(name),
    }


def _samples(
    dataset: Dataset, name: str, query: gallery.Query, statistics: Statistics, problem: str
) -> Mapping[str, Any]:
    """Return what the page shows; a ``problem`` in place of the samples."""
    sources = [source for source in statistics.by_source if source is not None]
    query = query.as_named(dataset.features, dataset.splits, sources)
    try:
        cards = gallery.Cards([]) if problem else cards_of(dataset, name, query)
    except (FeatureError, InvalidSampleError) as error:
        raise Problem(422, str(error)) from None
    following = None
    if cards.following is not None:
        following = samples_path(name, query.parameters(cards.following))
    tags = [tag.name for tag in dataset.tags()][-_MOST_TAGS:]
    version = name.partition("@")[2]
    return {
        **frame(dataset, name, "Samples"),
        "query": query,
        "problem": problem,
        "cards": cards,
        "first_url": samples_path(name, query.parameters()) if query.before is not None else None,
        "next_url": following,
        "all_url": samples_path(name),
        "class_filters": _class_filters(dataset, query),
        "sources": _sources(statistics),
        "splits": list(dataset.splits),
        "versions": tags if version in ("", *tags) else [*tags, version],
        "formats": BOX_FORMATS if box_features(dataset.features) else (),
        "live": statistics.live,
        "most": gallery.CARDS,
    }


def _class_filters(dataset: Dataset, query: gallery.Query) -> list[dict[str, Any]]:
    """Return, for each feature with classes, its options, and the one that was chosen."""
    return [
        {
            "feature": name,
            "chosen": query.classes.get(name, ""),
            "options": [class_text(feature, index) for index in range(feature.count)]
            if feature.count <= _MOST_OPTIONS
            else None,
        }
        for name, feature in dataset.features.items()
        if isinstance(feature, ClassLabel)
    ][:_MOST_FILTERS]


def _sources(statistics: Statistics) -> Sequence[tuple[str, str]]:
    """Return the sources that rows came from, each as a value and its text."""
    return [
        (NO_SOURCE_VALUE, "no source") if source is None else (source, source)
        for source in statistics.by_source
    ]
