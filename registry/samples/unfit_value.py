"""The error for a value that does not fit its feature, and what its reasons have in common."""

from __future__ import annotations


class UnfitValueError(Exception):
    """A value does not fit; ``row`` is its index, or None if the whole column is invalid.

    The codec turns it into the error that users see, which also names the feature and the key.
    """

    def __init__(self, reason: str, row: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.row = row


NULL = "the value is null; fill it, or leave the row out"


def unlike_column(dtype: object) -> str:
    """Return the reason for rejecting a column of times or decimals, which no feature holds."""
    return (
        f"a column of {dtype} fits no feature; convert it first, to a number (such as seconds "
        "since 1970 as float64) or to text"
    )


def described(value: object) -> str:
    """Return a value for a message: its repr, or its type if that is long."""
    if value is None or isinstance(value, str | int | float):
        return repr(value) if len(repr(value)) < 40 else f"a {type(value).__name__}"
    return f"a value of type {type(value).__name__}"
