"""Numbers, sizes and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

from markupsafe import Markup

_STEPS = ((60, "second"), (60, "minute"), (24, "hour"), (30, "day"), (12, "month"))
# "k" from 10,000 on: four digits are as short as "1.23 k", and exact. From 999,500 on, three digits
# of thousands would be rounded to 1000.
_SUFFIXES = (
    (10**12, "T", 9.995e11),
    (10**9, "G", 9.995e8),
    (10**6, "M", 9.995e5),
    (10**3, "k", 10**4),
)
_NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"


def number(value: float) -> str:
    """Return a whole number with commas: ``12,345``."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """Return a number to three digits with a suffix, from 10,000 on: ``12.3 k``, ``1.2 M``."""
    size = abs(value)
    for unit, suffix, least in _SUFFIXES:
        if size >= least:
            return f"{value / unit:.3g}{_NARROW_SPACE}{suffix}"
    return number(value) if float(value).is_integer() else f"{value:.3g}"


def filesize(value: float) -> str:
    """Return a number of bytes with its unit, in powers of 1024: ``1.4 GiB``."""
    size = float(value)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    digits = f"{size:.0f}" if unit == "bytes" or abs(size) >= 100 else f"{size:.1f}"
    return f"{digits}{_NARROW_SPACE}{unit}"


def percent(value: float) -> str:
    """Return a share of 1: ``12.3 %``."""
    return f"{100 * value:.3g}{_NARROW_SPACE}%"


def plural(count: float, word: str, words: str | None = None) -> str:
    """Return a count with its noun: ``1 row``, ``1,200 rows``."""
    return f"{number(count)} {word if count == 1 else words or f'{word}s'}"


def shortened(text: str, length: int = 200) -> str:
    """Return text of at most ``length`` characters, with an ellipsis where it was cut."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def url_path(text: str) -> str:
    """Return text as it stands in the path of a URL, with every slash of it escaped."""
    # Not Jinja2's `urlencode`, which leaves slashes: those of a key would be folders. A key of dots
    # alone would be resolved by the browser, also where its dots are escaped.
    return quote(text, safe="", errors="surrogatepass")


def when(moment: datetime, now: datetime | None = None) -> Markup:
    """Return a ``<time>`` of how long ago a moment was, with the moment itself as its title."""
    moment = moment.astimezone(UTC)
    exact = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), exact, ago(moment, now)
    )


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago a moment was, in one unit: ``3 hours ago``."""
    amount = ((now or datetime.now(UTC)) - moment).total_seconds()
    if amount < 1:
        # Also for the future: the clock of the database may be ahead of this machine's.
        return "just now"
    for step, unit in _STEPS:
        if amount < step:
            return f"{plural(int(amount), unit)} ago"
        amount /= step
    return f"{plural(int(amount), 'year')} ago"
