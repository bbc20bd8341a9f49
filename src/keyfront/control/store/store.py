"""The control plane's durable state: resources with their references and tags, users, the audit log, and counters.

A `Store` provides transactions. A transaction is atomic, and `write()` returns only when it would survive a power
failure. A config is stored as JSON of the API's own dict; there is no other stored form. The database also protects
resources in use: a reference is a foreign key, so no code path can delete a key that a group contains.

The statements, in SQLAlchemy Core, are in `queries/`, the tables in `schema.py`, and everything specific to one
database in `database.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from keyfront.control.store import schema
from keyfront.control.store.database import SCHEMES, Database, Postgres, Sqlite, cause
from keyfront.control.store.transaction import Transaction
from keyfront.errors import ApiError, SettingsError

log = logging.getLogger("keyfront.control")


class Store:
    """Opens transactions on one database. Safe to use from several threads and from several processes.

    :param where: the path of a SQLite file, which is created, readable by its owner only, if there is none; a
        connection URI that begins with `postgresql://`; or an open database, which is closed with the store.
    :param password_file: contains PostgreSQL's password, if the URI does not.
    :raises SettingsError: if the database cannot be opened, is not a database, or was written by a newer Keyfront.
    """

    def __init__(self, where: str | Path | Database, *, password_file: Path | None = None) -> None:
        self._logged = ""
        try:
            self._database = _opened(where, password_file)
        except OSError as error:
            raise SettingsError(f"the store {where} cannot be opened: {error}") from error
        try:
            with self._database.migrating.begin() as connection:
                schema.migrate(connection)
        except (OSError, DBAPIError, PoolTimeout) as error:
            self._database.close()
            raise SettingsError(
                f"the store {self._database.name} cannot be opened: {cause(error)}"
            ) from error

    @property
    def name(self) -> str:
        """The database's name for messages, without secrets."""
        return self._database.name

    @property
    def shared(self) -> bool:
        """True if control planes on other machines can use the database too."""
        return self._database.shared

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read-only transaction on one consistent state.

        :raises ApiError: ServiceUnavailable if the database does not respond.
        """
        with self._transaction(self._database.reading) as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A read-write transaction, the only one at a time. An exception rolls it back; when it ends, it is on disk.

        :raises ApiError: ServiceUnavailable if another writer does not end, the disk is full, the database does not
            respond, or a newer Keyfront has migrated the schema. Nothing was changed then, unless the message says that
            this is unknown: the connection was lost between the commit and its acknowledgment.
        """
        with self._transaction(self._database.writing) as transaction:
            found = transaction.schema()
            if found > schema.VERSION:
                raise ApiError(
                    "ServiceUnavailable",
                    f"A newer Keyfront has migrated the store to schema {found}; this one supports schemas up to "
                    f"{schema.VERSION} and only reads. Nothing was changed.",
                    503,
                )
            yield transaction

    @contextmanager
    def write_relaxed(self) -> Iterator[Transaction]:
        """A read-write transaction for data that is valid for only a few seconds, such as `set_edges`. On PostgreSQL it
        waits neither for the writer nor for the disk, so a power failure may undo it.

        :raises ApiError: ServiceUnavailable if the database does not respond.
        """
        with self._transaction(self._database.relaxed) as transaction:
            yield transaction

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    @contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[Transaction]:
        ending = False
        try:
            with engine.begin() as connection:
                yield Transaction(connection)
                ending = True
        except (DBAPIError, PoolTimeout) as error:
            raise self._unavailable(error, ending) from error
        self._logged = ""

    def _unavailable(self, error: DBAPIError | PoolTimeout, ending: bool) -> ApiError:
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        reason = cause(error)
        if reason != self._logged:  # once, not for each call
            log.error("the store %s is not available: %s", self.name, reason)
            self._logged = reason
        outcome = (
            "It is unknown whether the change was made: the connection was lost during the commit."
            if ending and lost
            else "Nothing was changed."
        )
        return ApiError("ServiceUnavailable", f"The store is not available: {reason}. {outcome}", 503)


def _opened(where: str | Path | Database, password_file: Path | None) -> Database:
    if isinstance(where, str) and where.startswith(SCHEMES):
        return Postgres(where, password_file)
    return Sqlite(Path(where)) if isinstance(where, str | Path) else where
