"""Sends queries to PostgreSQL together and receives their results together, in one round trip.

They are sent in libpq's pipeline mode: after an error, the server skips all that follow. A session
prepares each statement when it is first sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.abc import PQGen
from psycopg.errors import OperationalError, error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Ready, Wait

from registry.storage.database.exchange import Query, Statement

_BINARY = 1


class Session:
    """The statements that a session of PostgreSQL has prepared. Not thread-safe."""

    def __init__(self) -> None:
        self._names: dict[Statement, bytes] = {}
        self._count = 0

    def forget(self) -> None:
        """Forget the statements, which the server no longer has."""
        self._names.clear()

    def exchange(
        self, connection: PGconn, queries: Sequence[Query], *, prepare: bool
    ) -> PQGen[list[PGresult]]:
        """Send queries; return the result of each. Without ``prepare``, no statement is kept.

        A query that failed, or was skipped, has a result that `check` raises an error for.
        """
        connection.enter_pipeline_mode()
        results: list[PGresult] = []
        try:
            new = self._send(connection, queries, prepare=prepare)
            yield from _receive(connection, results)
            connection.exit_pipeline_mode()
        except BaseException:
            # Else the answers that are still to come would be read as those of later queries.
            connection.finish()
            # A server that ends a session sends the reason first.
            check(results)
            raise
        for number, statement, name in new:
            # It stays prepared even if a later query fails, and the transaction is rolled back.
            if results[number].status == ExecStatus.COMMAND_OK:
                self._names[statement] = name
        for number, _, _ in reversed(new):
            prepared = results.pop(number)
            if prepared.status == ExecStatus.FATAL_ERROR:
                results[number] = prepared
        return results

    def _send(
        self, connection: PGconn, queries: Sequence[Query], *, prepare: bool
    ) -> list[tuple[int, Statement, bytes]]:
        """Send queries; return the statements to be prepared, and the number of each result."""
        new: list[tuple[int, Statement, bytes]] = []
        for number, (statement, values) in enumerate(queries):
            formats = [_BINARY] * len(values)
            if not prepare or not statement.types:
                text, types = statement
                connection.send_query_params(text, values, types, formats, _BINARY)
                continue
            name = self._names.get(statement)
            if name is None:
                self._count += 1
                name = b"registry_%d" % self._count
                connection.send_prepare(name, *statement)
                new.append((number + len(new), statement, name))
            connection.send_query_prepared(name, values, formats, _BINARY)
        connection.pipeline_sync()
        return new


def check(results: Sequence[PGresult]) -> None:
    """Raise the error of the first query that failed."""
    for result in results:
        if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            raise error_from_result(result)


def _receive(connection: PGconn, results: list[PGresult]) -> PQGen[None]:
    """Append the results up to the end of the pipeline, in the order of what was sent."""
    while connection.flush():
        # The server may wait until an answer is read before it reads on.
        if (yield Wait.RW) & Ready.R:
            _consume_input(connection)
    while True:
        while connection.is_busy():
            if (yield Wait.R):
                _consume_input(connection)
        result = connection.get_result()
        if result is None:  # the end of a query's results, or of the connection
            if connection.status == ConnStatus.BAD:
                raise OperationalError(connection.get_error_message())
        elif result.status == ExecStatus.PIPELINE_SYNC:
            return
        else:
            results.append(result)


def _consume_input(connection: PGconn) -> None:
    connection.consume_input()
    # libpq would keep the notifications, and who waits for data to arrive would not notice them.
    handle = connection.notify_handler
    while handle and (notification := connection.notifies()) is not None:
        handle(notification)
