"""Pickling of engines: an `Address` is pickled in place of an engine, and opens one again.

A pickle may be written to disk or sent to another machine. If the environment holds the URL's
secrets, too, the pickle stores the name of the variable instead of them; the process that unpickles
reads the secrets from its own environment. Secrets that only the program itself knows are pickled.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import URL, Engine

from registry.errors import InvalidURLError
from registry.storage.database.engine import make_engine, url_of
from registry.storage.database.url import masked, parse_url, secrets

_VARIABLES = ("REGISTRY_URL", "REGISTRY_REPLICA_URL")
_PASSWORD = "PGPASSWORD"  # noqa: S105  # the name of a variable
_engines: WeakValueDictionary[Address, Engine] = WeakValueDictionary()
_lock = threading.Lock()


@dataclass(frozen=True)
class Address:
    """What is needed to connect as an engine does; picklable.

    ``timeout`` is in seconds. If ``variable`` is set, the environment variable of that name holds
    the secrets, and ``url`` contains none.
    """

    url: str
    timeout: float
    variable: str | None = None

    @classmethod
    def of(cls, engine: Engine) -> Address:
        """Return the address of an engine that `make_engine` created."""
        url = url_of(engine)
        # The process that unpickles may run in another directory, where a relative path names
        # another file.
        if url.drivername == "sqlite" and not (url.database or "").startswith("file:"):
            url = url.set(database=os.path.abspath(url.database or ""))  # noqa: PTH100  # no links
        variable = _variable_of(url)
        if variable is not None:
            url = _without_secrets(url)
        timeout: float = engine.get_execution_options()["registry_timeout"]
        return cls(url.render_as_string(hide_password=False), timeout, variable)

    def engine(self) -> Engine:
        """Return this process's one engine for the address, without connecting. Thread-safe."""
        # A pool for each unpickled object would open connections without bound. The dictionary is
        # weak, so that an engine ends with the last object that uses it.
        with _lock:
            engine = _engines.get(self)
            if engine is None:
                engine = _engines[self] = make_engine(self._complete(), self.timeout)
            return engine

    def _complete(self) -> URL:
        url = parse_url(self.url)
        # libpq itself reads $PGPASSWORD.
        if self.variable not in _VARIABLES:
            return url
        value = os.environ.get(self.variable)
        if value is None:
            raise InvalidURLError(
                f"{masked(url)} was pickled without its password, which was in ${self.variable}; "
                "set it in this process, too"
            )
        complete = parse_url(value)
        return url._replace(password=complete.password).update_query_dict(secrets(complete))


class Pickled:
    """Mixin that pickles the engines among an object's attributes as their addresses."""

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: Address.of(value) if isinstance(value, Engine) else value
            for name, value in vars(self).items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(
            (name, value.engine() if isinstance(value, Address) else value)
            for name, value in state.items()
        )


def _variable_of(url: URL) -> str | None:
    """Return the environment variable that holds a URL's secrets; None if there is none."""
    if not url.password and not secrets(url):
        return None
    for name in _VARIABLES:
        value = os.environ.get(name)
        if value is not None and _credentials(parse_url(value)) == _credentials(url):
            return name
    if url.password == os.environ.get(_PASSWORD) and not secrets(url):
        return _PASSWORD
    return None


def _credentials(url: URL) -> tuple[object, object]:
    return url.password, secrets(url)


def _without_secrets(url: URL) -> URL:
    return url.difference_update_query(secrets(url))._replace(password=None)
