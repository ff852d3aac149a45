"""Connections whose use was interrupted, as by Ctrl-C: their transactions end.

An interrupt can arise between any two steps, and a second one while the first is handled. In
SQLAlchemy's own steps that can leave a connection in a transaction, in its pool or out of reach,
and a SQLite file is then locked until the process ends.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DisconnectionError

_HOLDER = "registry_holder"


def watch(engine: Engine) -> None:
    """Keep the pool from taking back open transactions and handing out closed connections."""

    @event.listens_for(engine, "checkin")
    def checkin(driver: Any, record: Any) -> None:
        if driver is None:  # it was invalidated, and that may have been interrupted
            return
        if _in_transaction(driver):
            _end_transaction(driver)
        record.info.pop(_HOLDER, None)

    @event.listens_for(engine, "checkout")
    def checkout(driver: Any, _: object, __: object) -> None:
        if _is_closed(driver):
            raise DisconnectionError

    @event.listens_for(engine, "close")
    def close(driver: Any, _: object) -> None:
        # A statement that was not read to its end keeps a file open, and locked, past its
        # connection; a rollback ends it.
        if isinstance(driver, sqlite3.Connection):
            _end_transaction(driver)


class Guard:
    """A block at whose end a connection is in no transaction, even if it is not in its pool.

    What ends that can be interrupted, too: two guards, one in the other, withstand two interrupts.
    """

    def __init__(self, connection: Connection) -> None:
        self._driver = connection.connection.dbapi_connection
        self._info = connection.info
        self._info[_HOLDER] = self._driver

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Once it is back in the pool, another thread may have it.
        if error is not None and self._info.get(_HOLDER) is self._driver:
            _end_transaction(self._driver)


def interrupt_behind(error: BaseException | None, handled: BaseException | None) -> Any:
    """Return the interrupt that led to an error; None if there is none.

    ``handled`` is the exception that was being handled before.
    """
    while error is not None and error is not handled:
        if not isinstance(error, Exception):
            return error
        error = error.__context__
    return None


def _end_transaction(driver: Any) -> None:
    """End it in one step that nothing interrupts."""
    if isinstance(driver, sqlite3.Connection):
        with suppress(sqlite3.Error):
            driver.rollback()
    else:
        driver.close()


def _in_transaction(driver: Any) -> bool:
    if isinstance(driver, sqlite3.Connection):
        return not _is_closed(driver) and driver.in_transaction
    return bool(driver.pgconn.transaction_status)


def _is_closed(driver: Any) -> bool:
    if isinstance(driver, sqlite3.Connection):
        try:
            driver.in_transaction  # noqa: B018  # it can be asked of an open one alone
        except sqlite3.ProgrammingError:
            return True
        return False
    return bool(driver.closed)
