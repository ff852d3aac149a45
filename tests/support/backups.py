"""Copies of databases, to be restored as from an older dump."""

from __future__ import annotations

import sqlite3

from sqlalchemy import URL

import registry
from registry import Registry
from tests.support.databases import administrator
from tests.support.growing_datasets import Kind


class Backup:
    """A copy of a database, which can be restored while the database is in use."""

    def __init__(self, reg: Registry) -> None:
        self._reg = reg
        self._name = f"{reg.engine.url.database}_backup"
        self.url = reg.engine.url.set(database=self._name).render_as_string(hide_password=False)
        reg.engine.dispose()
        if self._sqlite:
            self._copy(str(reg.engine.url.database), self._name)
        else:
            self._clone(str(reg.engine.url.database), self._name)

    def restore(self) -> None:
        """Restore it: connections break, and later reads see the older database."""
        self._reg.engine.dispose()
        if self._sqlite:
            self._copy(self._name, str(self._reg.engine.url.database))
        else:
            self._drop(str(self._reg.engine.url.database))
            self._clone(self._name, str(self._reg.engine.url.database))

    def remove(self) -> None:
        if not self._sqlite:
            self._drop(self._name)

    def regrow(self, kind: Kind, count: int, first: int | None = None) -> None:
        """Write rows by another registry, which has not seen the lost rows."""
        with registry.connect(self._reg.engine.url.render_as_string(hide_password=False)) as reg:
            kind.grow(reg.open("growing"), count, first)

    @property
    def _sqlite(self) -> bool:
        return self._reg.engine.dialect.name == "sqlite"

    @property
    def _server(self) -> URL:
        return self._reg.engine.url.set(database="postgres")

    def _copy(self, source: str, target: str) -> None:
        with sqlite3.connect(source) as origin, sqlite3.connect(target) as copy:
            origin.backup(copy)
        origin.close()
        copy.close()

    def _clone(self, source: str, target: str) -> None:
        with administrator(self._server) as connection:
            connection.exec_driver_sql(f'CREATE DATABASE "{target}" TEMPLATE "{source}"')

    def _drop(self, name: str) -> None:
        with administrator(self._server) as connection:
            connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')
