"""Ends the transactions of connections whose use was interrupted, such as by Ctrl-C.

Python can raise a `KeyboardInterrupt` between any two bytecodes, and again while the first is
handled. Inside SQLAlchemy this can leave a connection in a transaction, in its pool or unreachable;
a SQLite file is then locked until the process ends. Pool events (`watch`) handle connections that
reach the pool, and a `Guard` handles those that do not.
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
    """Keep open transactions from returning to the pool, and closed connections from leaving it."""

    @event.listens_for(engine, "checkin")
    def checkin(driver: Any, record: Any) -> None:
        if driver is None:  # invalidated; an interrupt may have stopped that halfway
            return
        if _in_transaction(driver):
            _end_transaction(driver)
        record.info.pop(_HOLDER, None)

    @event.listens_for(engine, "checkout")
    def checkout(driver: Any, _: object, __: object) -> None:
        if _is_closed(driver):
            raise DisconnectionError  # the pool then connects again

    @event.listens_for(engine, "close")
    def close(driver: Any, _: object) -> None:
        # A statement whose rows were not all read keeps the file open and locked even after its
        # connection is closed. A rollback resets it.
        if isinstance(driver, sqlite3.Connection):
            _end_transaction(driver)


class Guard:
    """Context manager that ends a connection's transaction if its block raises.

    It does so even if the connection never returns to its pool. An interrupt can also stop the
    guard itself: two nested guards withstand two interrupts.
    """

    def __init__(self, connection: Connection) -> None:
        self._driver = connection.connection.dbapi_connection
        self._info = connection.info  # kept, since a closed Connection has none
        self._info[_HOLDER] = self._driver

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After its return to the pool, another thread may use the connection; this would roll back
        # that thread's transaction.
        if error is not None and self._info.get(_HOLDER) is self._driver:
            _end_transaction(self._driver)


def interrupt_behind(error: BaseException | None, handled: BaseException | None) -> Any:
    """Return the interrupt in an error's chain of contexts; None if there is none.

    SQLAlchemy and the drivers may raise another error while they handle an interrupt.
    ``handled`` is the exception that was already being handled before; the search stops at it.
    """
    while error is not None and error is not handled:
        if not isinstance(error, Exception):
            return error
        error = error.__context__
    return None


def _end_transaction(driver: Any) -> None:
    """End the transaction in a single step, which an interrupt cannot divide."""
    if isinstance(driver, sqlite3.Connection):
        with suppress(sqlite3.Error):
            driver.rollback()
    else:
        driver.close()


def _in_transaction(driver: Any) -> bool:
    if isinstance(driver, sqlite3.Connection):
        return not _is_closed(driver) and driver.in_transaction
    return bool(driver.pgconn.transaction_status)  # IDLE is 0


def _is_closed(driver: Any) -> bool:
    if isinstance(driver, sqlite3.Connection):
        try:
            driver.in_transaction  # noqa: B018  # raises if the connection is closed
        except sqlite3.ProgrammingError:
            return True
        return False
    return bool(driver.closed)
