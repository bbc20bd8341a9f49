"""Where the store's rows lie: what only one kind of database understands.

A database has three engines, one for each thing that a transaction can be for. What it says when it begins is what
makes it so: a reader sees one state from its first statement to its last, a writer is the only one from its first
statement on, and so is who brings the schema up to date.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import event

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process's write to end."""

_BEGIN = "keyfront_begin"


class Database(Protocol):
    """What a `Store` needs of its database. The engines share one pool of connections."""

    reading: sa.Engine
    writing: sa.Engine
    migrating: sa.Engine

    @property
    def name(self) -> str:
        """What a person calls it; without a secret."""

    def close(self) -> None: ...


def _begins(engine: sa.Engine, statement: str, **options: Any) -> sa.Engine:
    """`engine` for transactions that begin with `statement`."""
    return engine.execution_options(**{_BEGIN: statement}, **options)


def _begin(connection: sa.Connection) -> None:
    if statement := connection.get_execution_options().get(_BEGIN):
        connection.exec_driver_sql(statement)


class Sqlite:
    """A file of SQLite's.

    WAL lets reads go on beside a write; synchronous=FULL has every commit on the disk before it returns
    (NORMAL would lose the last ones with the power); BEGIN IMMEDIATE takes the write lock before the first
    read, so that a transaction never acts on what another is about to change.

    :param path: it is made, readable by its owner only, if there is none.
    :raises OSError: if it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        # The file holds origins' secret headers; SQLite gives its -wal and -shm files the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        url = sa.URL.create("sqlite", database=str(path))
        self._engine = sa.create_engine(
            url, connect_args={"timeout": BUSY_TIMEOUT}, pool_size=16, max_overflow=-1
        )
        event.listen(self._engine, "connect", self._connected)
        event.listen(self._engine, "begin", _begin)
        self.reading = _begins(self._engine, "BEGIN")
        self.writing = self.migrating = _begins(self._engine, "BEGIN IMMEDIATE")

    def close(self) -> None:
        self._engine.dispose()

    @staticmethod
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # pysqlite begins no transaction of its own
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}")
