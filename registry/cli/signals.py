"""Ending commands that run until somebody ends them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class _Ended(BaseException):
    """SIGTERM or Ctrl-C.

    Not `KeyboardInterrupt`: after one in ``exec``, which dataclasses call while modules are loaded,
    CPython ends with the status of SIGINT, though it was caught.
    """


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the block by SIGTERM or Ctrl-C, which is no error."""

    def end(*_: object) -> None:
        raise _Ended

    before = {each: signal.signal(each, end) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        with suppress(_Ended):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
