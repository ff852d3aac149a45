"""What was counted so far, in a file that is replaced atomically."""

from __future__ import annotations

import base64
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from xxhash import xxh3_64_hexdigest

from registry.catalog.statistics.row_facts import CountedLabel
from registry.catalog.statistics.row_store import StoredFiles, StoredLabel
from registry.catalog.statistics.tally import Tally
from registry.storage.log.watermark import GENESIS, Watermark
from registry.storage.mirror.layout import draft_path

FORMAT = 1
"""A file in another format is not read: all rows are counted again."""

_NEVER = datetime.min.replace(tzinfo=UTC)

Hashes = npt.NDArray[np.uint64]


@dataclass
class CountState:
    """The counts of a log's first ``position`` rows, after which it has this chain.

    ``generation`` is the number of the folder of its `RowStore`. ``erased`` is the number of the
    database's erasures that are applied, and ``last_erased`` the position of the last of them.
    ``sources`` has the texts of the sources that are counted, by their hashes, ``groups`` the
    hashes of the groups, sorted. ``counted`` says of the labels that are counted by class whether
    they are counted by day, too.
    """

    generation: int = 0
    position: int = 0
    chain: bytes = GENESIS
    erased: int = 0
    last_erased: int = -1
    counted_at: datetime = _NEVER
    last_row: tuple[datetime, str | None] | None = None
    sources: dict[int, str | None] = field(default_factory=dict)
    groups: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    counted: dict[str, bool] = field(default_factory=dict)
    files: StoredFiles = field(default_factory=StoredFiles)
    tally: Tally = field(default_factory=Tally)

    @property
    def watermark(self) -> Watermark:
        return Watermark(self.position, self.chain)


def load_counts(path: Path) -> CountState | None:
    """Read a state; None if there is none, or it is damaged or of another format."""
    try:
        total, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if total.decode("latin-1") != xxh3_64_hexdigest(body):
        return None
    form = orjson.loads(body)
    return _from_json(form) if form.pop("format") == FORMAT else None


def store_counts(path: Path, state: CountState) -> None:
    """Replace the file, atomically."""
    body = orjson.dumps({"format": FORMAT, **_to_json(state)})
    draft = draft_path(path)
    try:
        draft.write_bytes(xxh3_64_hexdigest(body).encode() + b"\n" + body)
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _to_json(state: CountState) -> dict[str, Any]:
    plain = {name: getattr(state, name) for name in _PLAIN}
    last = state.last_row
    return {
        **plain,
        "chain": state.chain.hex(),
        "counted_at": state.counted_at.isoformat(),
        "last_row": None if last is None else [last[0].isoformat(), last[1]],
        "sources": [*state.sources.items()],
        "groups": base64.b64encode(state.groups.astype("<u8").tobytes()).decode(),
        "sums": _packed(state.files.sums),
        "labels": [
            [each.label.name, each.label.default, each.first, _packed(each.sums)]
            for each in state.files.labels
        ],
        "tally": {
            name: [[*key, count] for key, count in counts.items()]
            for name, counts in vars(state.tally).items()
        },
    }


_PLAIN = ("generation", "position", "erased", "last_erased", "counted")


def _from_json(form: dict[str, Any]) -> CountState:
    labels = [
        StoredLabel(CountedLabel(name, default), first, _unpacked(sums))
        for name, default, first, sums in form["labels"]
    ]
    last = form["last_row"]
    return CountState(
        **{name: form[name] for name in _PLAIN},
        chain=bytes.fromhex(form["chain"]),
        counted_at=datetime.fromisoformat(form["counted_at"]),
        last_row=None if last is None else (datetime.fromisoformat(last[0]), last[1]),
        sources=dict(form["sources"]),
        groups=np.frombuffer(base64.b64decode(form["groups"]), "<u8"),
        files=StoredFiles(form["position"], _unpacked(form["sums"]), labels),
        tally=Tally(
            **{
                each.name: Counter({tuple(key): count for *key, count in form["tally"][each.name]})
                for each in fields(Tally)
            }
        ),
    )


def _packed(sums: list[int]) -> str:
    return base64.b64encode(np.array(sums, "<u8").tobytes()).decode()


def _unpacked(text: str) -> list[int]:
    sums: list[int] = np.frombuffer(base64.b64decode(text), "<u8").tolist()
    return sums
