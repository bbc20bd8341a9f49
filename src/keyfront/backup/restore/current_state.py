"""The current state of a store, read for a plan without any change to the store, not even the migration that a newer
schema would make."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import NamedTuple, cast

from sqlalchemy.exc import DBAPIError

from keyfront.control.store import schema
from keyfront.control.store.database import Memory, Postgres, cause
from keyfront.control.store.store import Store
from keyfront.errors import ApiError, SettingsError


class StoreState(NamedTuple):
    """`store` is None if there is no store, or none that can be compared; `trouble` then says why."""

    store: Store | None
    trouble: str = ""


def inspect_store(file: Path, url: str, password_file: Path | None) -> StoreState:
    """:param file: the SQLite file, used if `url` is empty. It is copied into memory and migrated there.
    :param url: the URL of a PostgreSQL database; only one with this version's schema is read.
    :raises SettingsError: if the database cannot be opened."""
    return _shared(Postgres(url, password_file)) if url else _copied(file)


def _copied(file: Path) -> StoreState:
    if not file.exists():
        return StoreState(None)
    memory = Memory()
    try:
        # Opening a file that has no journal beside it must not leave one behind that another user could not write.
        journal = file.with_name(f"{file.name}-wal").exists()
        source = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode=ro{'' if journal else '&immutable=1'}", uri=True
        )
        with contextlib.closing(source), memory.reading.connect() as connection:
            source.backup(cast(sqlite3.Connection, connection.connection.driver_connection))
        store = Store(memory)
        with store.read() as transaction:
            problem = str(transaction.connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
    except (sqlite3.Error, SettingsError, ApiError, DBAPIError) as error:
        problem = str(error)
    if problem == "ok":
        return StoreState(store)
    memory.close()
    return StoreState(None, problem)


def _shared(database: Postgres) -> StoreState:
    try:
        with database.reading.connect() as connection:
            found = schema.version(connection)
        if found >= schema.VERSION:
            return StoreState(Store(database))  # this has nothing to migrate, or refuses
    except DBAPIError as error:
        database.close()
        raise SettingsError(f"the store {database.name} cannot be opened: {cause(error)}") from error
    except BaseException:
        database.close()
        raise
    database.close()
    if not found:
        return StoreState(None)
    why = f"{database.name} has schema {found}, which the restore brings to {schema.VERSION} before it keeps it aside"
    return StoreState(None, why)
