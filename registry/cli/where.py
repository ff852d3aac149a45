"""The text form of conditions, as ``--where`` takes it.

``label=cat,lynx`` is a list of values, ``score=0.5..0.9`` a half-open interval of numbers in which
an end may be left out. A list that begins with ``[`` is JSON, for values with a comma and for rows
without a source: ``source=[null,"team-a"]``. The same name again adds values to its list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import typer

from registry.samples.features import ClassLabel, Feature, Features, Tensor

_OPTION = "--where"


def parse_where(texts: Iterable[str], features: Features) -> dict[str, Any]:
    """Parse conditions, by name; raises `typer.BadParameter` for what is no condition.

    Whether the values fit the features is not checked.
    """
    where: dict[str, Any] = {}
    for text in texts:
        # At the last "=" of a feature's name, which may have more; otherwise at the first one.
        names = [name for name in features if text.startswith(f"{name}=")]
        name = max(names, key=len, default=text.partition("=")[0])
        if not text.startswith(f"{name}=") or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUES", param_hint=_OPTION)
        given = _parse(text[len(name) + 1 :], features.get(name))
        before = where.get(name, given)
        if isinstance(before, tuple) or isinstance(given, tuple):
            if name in where:
                raise typer.BadParameter(f"{name!r} has another interval", param_hint=_OPTION)
            where[name] = given
        else:
            where[name] = [*where.get(name, []), *given]
    return where


def _parse(text: str, feature: Feature | None) -> Any:
    if text.startswith("["):
        try:
            return list(json.loads(text))
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is not JSON: {error}", param_hint=_OPTION) from None
    if isinstance(feature, Tensor) and ".." in text:
        start, _, stop = text.partition("..")
        return (
            _number(start, feature) if start else None,
            _number(stop, feature) if stop else None,
        )
    items = text.split(",")
    if isinstance(feature, Tensor):
        return [_number(item, feature) for item in items]
    if isinstance(feature, ClassLabel):
        names = feature.names or ()
        return [int(i) if i not in names and i.isdecimal() and len(i) < 11 else i for i in items]
    return items


def _number(text: str, feature: Tensor) -> float:
    kind = np.dtype(feature.dtype).kind
    try:
        if kind == "b":
            return {"true": True, "false": False}[text]
        return float(text) if kind == "f" else int(text)
    except (KeyError, ValueError):
        raise typer.BadParameter(
            f"{text!r:.200} is no {feature.dtype}; write numbers as 1,2 and intervals as 0..10, "
            "0.. or ..10, bools as true or false",
            param_hint=_OPTION,
        ) from None
