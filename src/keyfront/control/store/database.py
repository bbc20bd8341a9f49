"""The databases, SQLite and PostgreSQL: everything that is specific to one of them.

A database has one engine for each purpose of a transaction, and they differ in how a transaction begins. A reader sees
one state from its first statement to its last; a writer is the only one from its first statement on, and so is a
migration.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from keyfront.errors import SettingsError
from keyfront.extras import remedy

SCHEMES = ("postgresql://", "postgres://")
"""Prefixes of PostgreSQL connection URIs."""

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process's write transaction."""

STUCK_TIMEOUT = 20.0
"""Seconds after which PostgreSQL cancels a statement, and ends a transaction whose client is idle."""

ANSWER_TIMEOUT = 25.0
"""Seconds after which a connection is closed if the server sends no response at all."""

_SQLITE = b"SQLite format 3\0"
"""The first bytes of a SQLite file."""

_BEGIN = "keyfront_begin"
_TIMEOUT = "keyfront_timeout"


class Database(Protocol):
    """What a `Store` needs. The engines share one pool of connections."""

    shared: bool
    """True if control planes on other machines can use it too."""
    reading: sa.Engine
    writing: sa.Engine
    migrating: sa.Engine
    relaxed: sa.Engine
    """For data that is valid for only a few seconds: it waits neither for other writers nor for the disk."""

    @property
    def name(self) -> str:
        """Its name for people, without secrets."""

    def close(self) -> None:
        """Close all connections."""


def _begins(engine: sa.Engine, statement: str, **options: Any) -> sa.Engine:
    """`engine`, with transactions that begin with `statement`."""
    return engine.execution_options(**{_BEGIN: statement}, **options)


def _begin(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if _TIMEOUT in options:
        _set_timeout(connection.connection.dbapi_connection, timeout=options[_TIMEOUT])
    if statement := options.get(_BEGIN):
        connection.exec_driver_sql(statement)


def _set_timeout(connection: Any, _record: object = None, *, timeout: float | None = None) -> None:
    """Set the connection's response timeout in seconds; by default ANSWER_TIMEOUT."""
    if connection is not None:  # None once it has been closed
        connection.patience = ANSWER_TIMEOUT if timeout is None else timeout


class Sqlite:
    """A SQLite file.

    WAL allows reads during a write. With synchronous=FULL every commit is on disk before it returns (NORMAL could lose
    the last commits in a power failure). BEGIN IMMEDIATE acquires the write lock before the first read, so a
    transaction never acts on data that another one is about to change.

    :param path: created, readable by its owner only, if there is no such file.
    :raises OSError: if it cannot be created, or is not a SQLite file.
    """

    shared = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._file: tuple[int, int] | None = _open(path)
        url = sa.URL.create("sqlite", database=str(path))
        self._engine = sa.create_engine(
            url, connect_args={"timeout": BUSY_TIMEOUT}, pool_size=16, max_overflow=-1
        )
        event.listen(self._engine, "connect", self._connected)
        event.listen(self._engine, "begin", _begin)
        self.reading = _begins(self._engine, "BEGIN")
        self.writing = self.migrating = self.relaxed = _begins(self._engine, "BEGIN IMMEDIATE")

    def close(self) -> None:
        self._engine.dispose()
        if self._file is not None:
            _closed(self._file)
            self._file = None

    @staticmethod
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # keeps pysqlite from starting transactions itself
        _use_wal(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}")


_open_files: Counter[tuple[int, int]] = Counter()
"""How many times this process has each database file open, by device and inode."""
_opening = threading.Lock()


def _open(path: Path) -> tuple[int, int]:
    """Create the database file if there is none, and refuse a file of another format before SQLite may write its log
    back into it. Returns the file's device and inode, counted in `_open_files`.

    A file that this process has open already is not inspected again: closing any descriptor of a file drops the POSIX
    locks that the process holds on it, those of SQLite's connections included
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    with _opening:
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if (file := (status.st_dev, status.st_ino)) in _open_files:
                _open_files[file] += 1
                return file
        # The file holds origins' secret headers; SQLite gives its -wal and -shm files the same mode.
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            first = os.pread(fd, len(_SQLITE), 0)
            status = os.fstat(fd)
        finally:
            os.close(fd)
        if first and first != _SQLITE:
            raise OSError("it is not a SQLite database, or it is damaged")
        file = status.st_dev, status.st_ino
        _open_files[file] += 1
        return file


def _closed(file: tuple[int, int]) -> None:
    with _opening:
        _open_files[file] -= 1
        if _open_files[file] <= 0:
            del _open_files[file]


def _use_wal(connection: sqlite3.Connection) -> None:
    """Change the journal mode to WAL, which is stored in the file.

    SQLite does not call its busy handler here: two connections that change the mode of a new file at the same time
    would each wait for the other, so one of them fails at once and has to try again.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(0.005)


class Memory:
    """A SQLite database in this process's memory, discarded when it is closed. Not thread-safe."""

    shared = False
    name = "in memory"

    def __init__(self) -> None:
        self._engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        event.listen(self._engine, "connect", Sqlite._connected)
        event.listen(self._engine, "begin", _begin)
        self.reading = self.writing = self.migrating = self.relaxed = _begins(self._engine, "BEGIN")

    def close(self) -> None:
        self._engine.dispose()


class Postgres:
    """A PostgreSQL database, which several control planes can share.

    A writer locks one row with its first statement, so there is one writer at a time, as with SQLite. Each of its
    statements sees what is committed, and because no other writer can commit, they all see the state that it changes. A
    writer that stops in the middle of a transaction, with or without its machine, loses the lock when the server ends
    the idle transaction.

    :param url: libpq's connection URI, with everything that libpq supports (several hosts, sslmode, passfile, …).
    :param password_file: contains only the password. It is read for each new connection, so the password can change.
    :raises SettingsError: if `url` is not such a URI, or the extra `postgres` is not installed. The message contains no
        password.
    """

    shared = True

    def __init__(self, url: str, password_file: Path | None = None) -> None:
        parameters = _parse(url)
        from keyfront.control.store import postgres_timeout

        self.name = _display_name(parameters)
        self._parameters = _CONNECTION | parameters
        self._password_file = password_file
        self._connect: Callable[..., Any] = postgres_timeout.Connection.connect
        self._failure = postgres_timeout.Failure
        self._failed: tuple[float, str] = (-math.inf, "")
        self._engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=self._connection,
            pool_size=POOL,
            max_overflow=0,
            pool_timeout=BUSY_TIMEOUT,
            pool_pre_ping=True,
            pool_recycle=1800,
        )
        event.listen(self._engine, "begin", _begin)
        event.listen(self._engine, "checkin", _set_timeout)
        self.reading: sa.Engine = self._engine.execution_options(
            isolation_level="REPEATABLE READ",
            postgresql_readonly=True,  # sent together with BEGIN
        )
        self.writing = _begins(self._engine, "SELECT value FROM counter WHERE name = 'snapshot' FOR UPDATE")
        self.migrating = _begins(
            self._engine,
            f"SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0; "
            f"SELECT pg_advisory_xact_lock({_MIGRATING})",
            **{_TIMEOUT: math.inf},
        )
        self.relaxed = _begins(self._engine, "SET LOCAL synchronous_commit TO off")

    def close(self) -> None:
        self._engine.dispose()

    def _connection(self) -> Any:
        at, reason = self._failed
        if time.monotonic() < at + RETRY_AFTER:  # otherwise every caller would wait for the timeout in turn
            raise self._failure(reason)
        parameters = dict(self._parameters)
        try:
            if self._password_file is not None:
                parameters["password"] = self._password_file.read_text().rstrip("\r\n")
            connection = self._connect(**parameters, autocommit=True)
        except (OSError, UnicodeDecodeError) as error:
            raise self._failure(f"the password file cannot be read: {error}") from error
        except self._failure as error:
            self._failed = time.monotonic(), str(error)
            raise
        _set_timeout(connection)
        # Not through libpq's `options`, which connection poolers refuse.
        timeouts = [f"{seconds * 1000:.0f}ms" for seconds in (BUSY_TIMEOUT, STUCK_TIMEOUT, STUCK_TIMEOUT)]
        connection.execute(_SESSION, timeouts)
        connection.autocommit = False
        return connection


POOL = 16
"""Maximum number of connections of one control plane."""

RETRY_AFTER = 0.5
"""Seconds between a failed connection and the next attempt."""

_MIGRATING = 0x6B657966
"""The advisory lock of a migration."""

_CONNECTION: dict[str, Any] = {
    "application_name": "keyfront",
    "client_encoding": "UTF8",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "target_session_attrs": "read-write",
}
"""Connection parameters that the URI can override: give up on a server that does not respond, and skip read-only
replicas."""

_SESSION = """
SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false),
       set_config('idle_in_transaction_session_timeout', %s, false),
       set_config('default_transaction_isolation', 'read committed', false),
       CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
            THEN set_config('synchronous_commit', 'on', false) END
"""
"""Session settings. They make sure that an acknowledged commit is on the server's disk, whatever the defaults of the
server, the database, or the role."""


def has_password(url: str) -> bool:
    """True if the connection URI contains a password.

    :raises SettingsError: if it is not a connection URI.
    """
    return "password" in _parse(url)


def _parse(url: str) -> dict[str, Any]:
    """The parameters in a connection URI, by libpq's names."""
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        raise SettingsError(
            f"a store on PostgreSQL needs the extra `postgres`: {remedy('postgres')}"
        ) from None
    try:
        if not url.startswith(SCHEMES):
            raise psycopg.ProgrammingError
        parameters = conninfo_to_dict(url)
        # libpq ends a password at the first @ and takes the rest for the host, which messages would show.
        if "@" in str(parameters.get("host", "")) or not re.fullmatch(
            r"[0-9,]*", str(parameters.get("port", ""))
        ):
            raise psycopg.ProgrammingError
        return parameters
    except psycopg.Error:  # its message may quote a part of the password
        raise SettingsError(
            "the store's URL is not of the form postgresql://USER@HOST:PORT/DATABASE; "
            "inside its parts, write @ : / % as %40 %3A %2F %25"
        ) from None


def cause(error: Exception) -> str:
    """A short reason for people, without values of rows and without passwords."""
    if isinstance(error, PoolTimeout):
        return f"all {POOL} connections have been in use for {BUSY_TIMEOUT:.0f} seconds"
    if not isinstance(error, DBAPIError):
        return str(error)
    diagnosis = getattr(error.orig, "diag", None)
    if diagnosis is not None and diagnosis.message_primary:
        message = str(diagnosis.message_primary)
        return "another writer does not end" if diagnosis.sqlstate == "55P03" else message
    return str(error.orig).partition("\n")[0].strip()


def _display_name(parameters: dict[str, Any]) -> str:
    """The database's name for messages."""
    host, port = parameters.get("host") or "local", parameters.get("port")
    return f"postgresql://{host}{f':{port}' if port else ''}/{parameters.get('dbname') or ''}"
