"""What is in a store now, for a plan: without a change to it, not even that which a newer schema would make."""

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


class Look(NamedTuple):
    """`store` is None where there is nothing, or nothing that can be compared, as `trouble` says then."""

    store: Store | None
    trouble: str = ""


def look(file: Path, url: str, password_file: Path | None) -> Look:
    """:param file: SQLite's, if `url` is empty. It is copied into memory, and brought up to date there.
    :param url: of a PostgreSQL database; only one of this version's schema is looked into.
    :raises SettingsError: if that cannot be opened."""
    return _shared(Postgres(url, password_file)) if url else _copied(file)


def _copied(file: Path) -> Look:
    if not file.exists():
        return Look(None)
    memory = Memory()
    try:
        # Whoever opens a file beside no journal leaves none behind so, which another user could not write.
        journal = file.with_name(f"{file.name}-wal").exists()
        source = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode=ro{'' if journal else '&immutable=1'}", uri=True
        )
        with contextlib.closing(source), memory.reading.connect() as connection:
            source.backup(cast(sqlite3.Connection, connection.connection.driver_connection))
        store = Store(memory)
        with store.read() as transaction:
            said = str(transaction.connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
    except (sqlite3.Error, SettingsError, ApiError, DBAPIError) as error:
        said = str(error)
    if said == "ok":
        return Look(store)
    memory.close()
    return Look(None, said)


def _shared(database: Postgres) -> Look:
    try:
        with database.reading.connect() as connection:
            found = schema.version(connection)
        if found >= schema.VERSION:
            return Look(Store(database))  # which has nothing to migrate, or refuses
    except DBAPIError as error:
        database.close()
        raise SettingsError(f"the store {database.name} cannot be opened: {cause(error)}") from error
    except BaseException:
        database.close()
        raise
    database.close()
    if not found:
        return Look(None)
    why = f"{database.name} has schema {found}, which the restore brings to {schema.VERSION} before it keeps it aside"
    return Look(None, why)
