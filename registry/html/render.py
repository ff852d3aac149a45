"""Templates: every value is escaped, and an unknown name is an error rather than empty text."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from registry.html import formats
from registry.html.assets import asset, asset_text
from registry.html.charts import draw_chart, sparkline


def render(template: str, **values: Any) -> str:
    """Return the HTML of a template, such as ``datasets.html``, with these values."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    # Always: `select_autoescape` goes by the template's name, which a card could leave out.
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=PackageLoader("registry.html"),
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        number=formats.number,
        compact=formats.compact,
        filesize=formats.filesize,
        percent=formats.percent,
        shortened=formats.shortened,
        when=formats.when,
        url_path=formats.url_path,
    )
    environment.globals.update(
        asset_url=_asset_url,
        asset_text=asset_text,
        chart=draw_chart,
        plural=formats.plural,
        sparkline=sparkline,
    )
    return environment


def _asset_url(name: str) -> str | None:
    """Return the URL of a file; None for the script of a package that is not installed."""
    file = asset(name)
    return None if file is None else file.url
