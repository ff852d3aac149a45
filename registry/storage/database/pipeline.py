"""Sends queries to PostgreSQL together and receives their results together, in one round trip.

They are sent in libpq's pipeline mode: after an error, the server skips all that follow. A session
prepares each statement when it is first sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import Transformer
from psycopg.copy import LibpqWriter
from psycopg.errors import OperationalError, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Ready, Wait

from registry.storage.database.exchange import BEGIN, COMMIT, Query, Statement

_BINARY = 1
_PART = 1 << 20
_MOST_KEPT = 8 << 20
"""Bytes of a COPY that are kept until the server takes them, about."""


class PipelinedConnection(psycopg.Connection[Any]):
    """A psycopg connection that can run several queries in one round trip."""

    pooled = False
    """Whether a pooler is in between, so that the next transaction has another session."""
    _before_commit: Sequence[Query] = ()
    _after_commit: Sequence[Query] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._session = _Session()
        # Without this connection as its context, which would then only be closed by the garbage
        # collector.
        self._transformer = Transformer()

    def exchange(self, queries: Sequence[Query]) -> list[list[tuple[Any, ...]]]:
        """Run queries in one round trip, in the transaction; return the rows of each.

        A transaction is begun if there is none. Raises the error of the first query that fails.
        """
        idle = self.pgconn.transaction_status == TransactionStatus.IDLE
        begin = idle and not self.autocommit
        results = self._run([BEGIN, *queries] if begin else queries)
        _check(results)
        return [self._rows(result) for result in results[begin:]]

    def _rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        if not result.ntuples:
            return []
        self._transformer.set_pgresult(result, format=Format.BINARY)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def copy_in(self, statement: bytes, pieces: Iterable[bytes]) -> None:
        """Run a COPY … FROM STDIN of the pieces, each computed while the server reads others."""
        with self.cursor() as cursor, cursor.copy(statement, writer=_CopyWriter(cursor)) as copy:
            for piece in pieces:
                copy.write(piece)

    def send_with_commit(self, before: Sequence[Query], after: Sequence[Query] = ()) -> None:
        """Send queries in the round trip of the next commit, instead of in their own.

        Those ``before`` are part of the transaction. Those ``after`` are in one that follows it if
        it was committed, and whose errors are ignored. A rollback discards all of them.
        """
        self._before_commit, self._after_commit = before, after

    def commit(self) -> None:
        before, after = self._before_commit, self._after_commit
        self.send_with_commit(())
        if not before and not after:
            super().commit()
            return
        results = self._run([*before, COMMIT, *after])
        _check(results[: len(before) + 1])

    def rollback(self) -> None:
        self.send_with_commit(())
        # The pool calls this whenever a connection returns to it.
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            super().rollback()
        # For this use of the connection alone: the next one may be a transaction.
        if self.autocommit:
            self.autocommit = False

    def _run(self, queries: Sequence[Query]) -> list[PGresult]:
        with self.lock:
            return self.wait(self._session.exchange(self.pgconn, queries, prepare=not self.pooled))

    # psycopg deallocates all statements of the session after some rollbacks, and not only its own.
    def _deallocate(self, name: bytes | None) -> PQGen[None]:
        if name is None:
            self._session.forget()
        yield from super()._deallocate(name)


class _CopyWriter(LibpqWriter):
    """Sends as much data as the server takes at the moment, and keeps the rest.

    psycopg's waits until the server has taken all of it. It would then have nothing to do while the
    next data are computed.
    """

    _kept = 0

    def write(self, data: Buffer) -> None:
        connection = self.connection.pgconn
        # In parts: libpq may not be able to take all of it at once.
        for start in range(0, len(data), _PART):
            part = data[start : start + _PART]
            if not connection.put_copy_data(part):
                raise OperationalError(connection.get_error_message())
            self._kept += len(part)
            if not connection.flush():
                self._kept = 0
            elif self._kept > _MOST_KEPT:
                self.connection.wait(_flush(connection))
                self._kept = 0


def _flush(connection: PGconn) -> PQGen[None]:
    while connection.flush():
        yield Wait.W


class _Session:
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

        A query that failed, or was skipped, has a result that `_check` raises an error for.
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
            _check(results)
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


def _check(results: Sequence[PGresult]) -> None:
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
