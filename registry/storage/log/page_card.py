"""The card of a page in a notebook."""

from __future__ import annotations

import numpy as np

from registry.html.card import MOST_SAMPLES, Card, CardSample, card_sample
from registry.samples.feature_text import feature_texts
from registry.storage.log.page import Page


def page_card(page: Page) -> Card:
    """Return what a notebook shows of a page: its rows, and its first samples."""
    rows, records = len(page), len(page.positions)
    replaced = int(np.isin(page.superseding, page.positions).sum())
    facts = [
        ("rows", f"{rows:,}"),
        ("inserted", f"{records - replaced:,}"),
        ("revised", f"{replaced:,}"),
        ("retracted", f"{len(page.retracted):,}"),
        *([("erased", f"{len(page.erased):,}")] if len(page.erased) else []),
        ("bytes", f"{len(page.data):,}"),
        ("schema", str(page.schema.number)),
    ]
    return Card(
        "Page of a log",
        f"positions {page.start:,} to {page.stop:,}",
        facts=facts,
        features=feature_texts(page.schema.features),
        samples_title="First samples",
        samples=[_sample(page, row) for row in range(min(MOST_SAMPLES, records))],
    )


def _sample(page: Page, row: int) -> CardSample:
    values = {name: column[row] for name, column in page.columns.items()}
    return card_sample(page.schema.features, values, f"position {page.positions[row]:,}")
