"""All that the control plane must not forget: resources, what they refer to, tags, the audit log, two
counters.

A `Store` hands out transactions; whatever happens in one happens whole or not at all, and `write()` returns
only when it would survive a loss of power. A config is kept as JSON of the API's own dict: there is no
third form of it. In-use protection is also the database's: a reference is a foreign key, so that no path
through the code can remove a key that a group holds.

Everything between `Store` and the rows is SQLAlchemy Core. The tables stand in `schema.py`, what only one kind of
database understands in `database.py`.
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
    """The control plane's memory. Safe to use from several threads and from several processes.

    :param where: a path of a SQLite file, which is made, readable by its owner only, if there is none; a connection
        URI that begins with `postgresql://`; or a database that is open already, and will be closed with the store.
    :param password_file: holds PostgreSQL's password, where the URI does not.
    :raises SettingsError: if the database cannot be opened, is none, or was written by a newer Keyfront.
    """

    def __init__(self, where: str | Path | Database, *, password_file: Path | None = None) -> None:
        self._trouble = ""
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
        """Which database it is, for messages."""
        return self._database.name

    @property
    def shared(self) -> bool:
        """True if control planes on other machines may use it too."""
        return self._database.shared

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A transaction that sees one state and changes nothing.

        :raises ApiError: ServiceUnavailable if the database does not answer.
        """
        with self._transaction(self._database.reading) as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """The only writing transaction at this moment; an exception undoes it. When it ends, it is on the
        disk.

        :raises ApiError: ServiceUnavailable if another writer does not end, the disk is full, the database does not
            answer, or a newer Keyfront has changed its schema. Then nothing was changed, except where the message says
            that it is not known: the connection was lost between the commit and its acknowledgement.
        """
        with self._transaction(self._database.writing) as transaction:
            found = transaction.schema()
            if found > schema.VERSION:
                raise ApiError(
                    "ServiceUnavailable",
                    f"A newer Keyfront has brought the store to schema {found}; this one knows schemas up to "
                    f"{schema.VERSION} and only reads. Nothing was changed.",
                    503,
                )
            yield transaction

    @contextmanager
    def write_relaxed(self) -> Iterator[Transaction]:
        """A transaction for what is worth some seconds only (`set_edges`). It does not wait for the writer, and a power
        cut may take it.

        :raises ApiError: ServiceUnavailable if the database does not answer.
        """
        with self._transaction(self._database.relaxed) as transaction:
            yield transaction

    def close(self) -> None:
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
        self._trouble = ""

    def _unavailable(self, error: DBAPIError | PoolTimeout, ending: bool) -> ApiError:
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        said = cause(error)
        if said != self._trouble:  # once, not with each call
            log.error("the store %s is not available: %s", self.name, said)
            self._trouble = said
        outcome = (
            "Whether the change was made is not known: the connection was lost while it was made durable."
            if ending and lost
            else "Nothing was changed."
        )
        return ApiError("ServiceUnavailable", f"The store is not available: {said}. {outcome}", 503)


def _opened(where: str | Path | Database, password_file: Path | None) -> Database:
    if isinstance(where, str) and where.startswith(SCHEMES):
        return Postgres(where, password_file)
    return Sqlite(Path(where)) if isinstance(where, str | Path) else where


# ---- configs as JSON
#
# JSON has no bytes and no times, and a few configs of the API have. They are kept as {"$bytes": base64} and
# {"$time": ISO 8601}; no member of the API begins with a dollar sign.
