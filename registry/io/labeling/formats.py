"""The files of labeling tools, by the names of their formats.

`READERS` yield rows to insert, as all importers do. A Label Studio export also retracts, and
counts against the events that came before it, so it goes through
`registry.io.labeling.label_studio.webhook.insert_export` instead.
"""

from __future__ import annotations

from registry.io.labeling import coco, doccano, prodigy
from registry.io.row import Reader

READERS: dict[str, Reader] = {
    "coco": coco.read,
    "prodigy": prodigy.read,
    "doccano": doccano.read,
}
