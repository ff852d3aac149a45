"""The key that signs the cookies of sessions, in a file that only the server's user can read."""

from __future__ import annotations

import logging
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

_NAME: Final = "sessions.key"
_BYTES: Final = 32

logger: logging.Logger = logging.getLogger("registry.server")


def session_key(folder: Path) -> bytes:
    """Return the key that is kept in a folder, 32 bytes; it is made if there is none.

    Servers that share the folder share the key, and so their sessions, which also survive a
    restart. If the folder cannot be written, the key is one of this process.
    """
    path = folder / _NAME
    try:
        return _read(path) or _make(path)
    except OSError as error:
        logger.warning("sessions end with this process, as %s: %s", path, error.strerror)
        return secrets.token_bytes(_BYTES)


def _read(path: Path) -> bytes | None:
    """Return the key in a file; None if there is none that only its owner can read."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            key = file.read(_BYTES + 1)
    except FileNotFoundError:
        return None
    # Anyone who could read the key could sign a session of any token.
    private = not state.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or os.name == "nt"
    if len(key) == _BYTES and private:
        return key
    path.unlink()
    return None


def _make(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
        # A link, not a rename: of two servers that start at once, the first one's key stays.
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    return path.read_bytes()
