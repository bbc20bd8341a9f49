"""Where the store's rows lie: what only one kind of database understands.

A database has three engines, one for each thing that a transaction can be for. What it says when it begins is what
makes it so: a reader sees one state from its first statement to its last, a writer is the only one from its first
statement on, and so is who brings the schema up to date.
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

SCHEMES = ("postgresql://", "postgres://")
"""How the URLs of PostgreSQL's databases begin."""

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process's write to end."""

STUCK_TIMEOUT = 20.0
"""Seconds after which PostgreSQL ends a statement that does not end, and the transaction of who says nothing more."""

ANSWER_TIMEOUT = 25.0
"""Seconds after which a server that answers nothing at all is given up."""

_SQLITE = b"SQLite format 3\0"
"""How a file of SQLite's begins."""

_BEGIN = "keyfront_begin"
_PATIENCE = "keyfront_patience"


class Database(Protocol):
    """What a `Store` needs of its database. The engines share one pool of connections."""

    shared: bool
    """True if control planes on other machines may use it too."""
    reading: sa.Engine
    writing: sa.Engine
    migrating: sa.Engine
    relaxed: sa.Engine
    """For data that is worth a few seconds only: it waits neither for other writers nor for the disk."""

    @property
    def name(self) -> str:
        """What a person calls it; without a secret."""

    def close(self) -> None: ...


def _begins(engine: sa.Engine, statement: str, **options: Any) -> sa.Engine:
    """`engine` for transactions that begin with `statement`."""
    return engine.execution_options(**{_BEGIN: statement}, **options)


def _begin(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if _PATIENCE in options:
        _patient(connection.connection.dbapi_connection, patience=options[_PATIENCE])
    if statement := options.get(_BEGIN):
        connection.exec_driver_sql(statement)


def _patient(connection: Any, _record: object = None, *, patience: float | None = None) -> None:
    """How long to wait for an answer; by default, ANSWER_TIMEOUT."""
    if connection is not None:  # as it is when it has been given up
        connection.patience = ANSWER_TIMEOUT if patience is None else patience


class Sqlite:
    """A file of SQLite's.

    WAL lets reads go on beside a write; synchronous=FULL has every commit on the disk before it returns
    (NORMAL would lose the last ones with the power); BEGIN IMMEDIATE takes the write lock before the first
    read, so that a transaction never acts on what another is about to change.

    :param path: it is made, readable by its owner only, if there is none.
    :raises OSError: if it cannot be made.
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
        connection.isolation_level = None  # pysqlite begins no transaction of its own
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
            raise OSError("it is not a database of SQLite's, or it is damaged")
        file = status.st_dev, status.st_ino
        _open_files[file] += 1
        return file


def _closed(file: tuple[int, int]) -> None:
    with _opening:
        _open_files[file] -= 1
        if _open_files[file] <= 0:
            del _open_files[file]


def _use_wal(connection: sqlite3.Connection) -> None:
    """Change the journal mode to WAL, which the file keeps.

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
    """A database of SQLite's that is nowhere but in this process, and gone when it is closed. For one thread."""

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
    """A database of PostgreSQL's, which several control planes may share.

    A writer holds the lock on one row from its first statement on, so there is one writer at a time as with SQLite, and
    whatever it reads then (each statement sees what is committed, and nobody else commits) is the state that it
    changes. Whoever stops in the middle, with its machine or without, loses the lock when the server's patience with
    an idle transaction ends.

    :param url: libpq's connection URI, with all that libpq understands in it (several hosts, sslmode, passfile, …).
    :param password_file: holds the password and nothing else; read for each new connection, so that the password may
        change.
    :raises SettingsError: if `url` is none, or the extra `postgres` is not installed. The message never holds a
        password.
    """

    shared = True

    def __init__(self, url: str, password_file: Path | None = None) -> None:
        said = _said(url)
        from keyfront.control.store import postgres_timeout

        self.name = _shown(said)
        self._parameters = _CONNECTION | said
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
        event.listen(self._engine, "checkin", _patient)
        self.reading: sa.Engine = self._engine.execution_options(
            isolation_level="REPEATABLE READ",
            postgresql_readonly=True,  # both are said together with BEGIN
        )
        self.writing = _begins(self._engine, "SELECT value FROM counter WHERE name = 'snapshot' FOR UPDATE")
        self.migrating = _begins(
            self._engine,
            f"SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0; "
            f"SELECT pg_advisory_xact_lock({_MIGRATING})",
            **{_PATIENCE: math.inf},
        )
        self.relaxed = _begins(self._engine, "SET LOCAL synchronous_commit TO off")

    def close(self) -> None:
        self._engine.dispose()

    def _connection(self) -> Any:
        at, why = self._failed
        if time.monotonic() < at + AGAIN:  # else everybody would wait in turn for who does not answer
            raise self._failure(why)
        given = dict(self._parameters)
        try:
            if self._password_file is not None:
                given["password"] = self._password_file.read_text().rstrip("\r\n")
            connection = self._connect(**given, autocommit=True)
        except (OSError, UnicodeDecodeError) as error:
            raise self._failure(f"the password file cannot be read: {error}") from error
        except self._failure as error:
            self._failed = time.monotonic(), str(error)
            raise
        _patient(connection)
        # Not by libpq's `options`, which poolers refuse.
        patience = [f"{seconds * 1000:.0f}ms" for seconds in (BUSY_TIMEOUT, STUCK_TIMEOUT, STUCK_TIMEOUT)]
        connection.execute(_SESSION, patience)
        connection.autocommit = False
        return connection


POOL = 16
"""Connections that one control plane holds at most."""

AGAIN = 0.5
"""Seconds after a connection failed until the next one is tried."""

_MIGRATING = 0x6B657966
"""The advisory lock of whoever brings the schema up to date."""

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
"""What libpq is told where the URL says nothing: to give up on who does not answer, and to pass over replicas that
cannot be written to."""

_SESSION = """
SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false),
       set_config('idle_in_transaction_session_timeout', %s, false),
       set_config('default_transaction_isolation', 'read committed', false),
       CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
            THEN set_config('synchronous_commit', 'on', false) END
"""
"""What was acknowledged is on the server's disk, whatever the server, the database or the role is set to."""


def has_password(url: str) -> bool:
    """True if the connection URI holds a password.

    :raises SettingsError: if it is none.
    """
    return "password" in _said(url)


def _said(url: str) -> dict[str, Any]:
    """What a connection URI says, by libpq's names."""
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        raise SettingsError(
            "a store on PostgreSQL needs the extra `postgres`: pip install 'keyfront[postgres]'"
        ) from None
    try:
        if not url.startswith(SCHEMES):
            raise psycopg.ProgrammingError
        said = conninfo_to_dict(url)
        # libpq ends a password at the first @ and takes the rest for a host, which messages would show.
        if "@" in str(said.get("host", "")) or not re.fullmatch(r"[0-9,]*", str(said.get("port", ""))):
            raise psycopg.ProgrammingError
        return said
    except psycopg.Error:  # whose words may quote a piece of the password
        raise SettingsError(
            "the store's URL is not of the form postgresql://USER@HOST:PORT/DATABASE; "
            "in its parts @ : / % are written %40 %3A %2F %25"
        ) from None


def cause(error: Exception) -> str:
    """What went wrong, in a few words for a person: no row's values, no password."""
    if isinstance(error, PoolTimeout):
        return f"all {POOL} connections have been in use for {BUSY_TIMEOUT:.0f} seconds"
    if not isinstance(error, DBAPIError):
        return str(error)
    diagnosis = getattr(error.orig, "diag", None)
    if diagnosis is not None and diagnosis.message_primary:
        said = str(diagnosis.message_primary)
        return "another writer does not end" if diagnosis.sqlstate == "55P03" else said
    return str(error.orig).partition("\n")[0].strip()


def _shown(said: dict[str, Any]) -> str:
    """Which database it is, for messages."""
    where = f"{said.get('host') or 'local'}" + (f":{said['port']}" if said.get("port") else "")
    return f"postgresql://{where}/{said.get('dbname') or ''}"
