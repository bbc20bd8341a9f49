"""The store's rows as lines of database-independent JSON, and the loading of such lines into a database.

A row is an object with a member per column. Bytes are `{"u": text}` if they are UTF-8, as nearly all are, so that they
are readable and compress well; otherwise they are `{"b": base64}`. Lines carry no types: the schema of the archive's
version defines them.

An older archive is upgraded in the same way as an older store: its rows go into the tables of its schema version, and
`schema.STEPS` migrate those.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from keyfront.control.store import schema
from keyfront.control.store.database import Database, cause
from keyfront.control.store.rows import AuditRow
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import BackupError

_AT_ONCE = 500
"""Rows per statement."""
_NOT_KEPT = {"schema", "edge", "fleet_seen", "lease", "metric_minute", "metric_run"}
"""Tables whose content is in the manifest, or that describe only the current state; and the metrics, which are larger
than everything else and begin anew."""

PREFIX = "store/"

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(dict[str, Any])


def tables() -> list[sa.Table]:
    """Return the archived tables of a store, each after those that it references."""
    return [table for table in schema.metadata.sorted_tables if table.name not in _NOT_KEPT]


def rows(transaction: Transaction, table: sa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows in the order of their primary key, which is the same in all databases."""
    query = sa.select(table).order_by(*table.primary_key)  # text sorts by its bytes in both kinds of database
    found = transaction.connection.execution_options(yield_per=_AT_ONCE).execute(query)
    for some in found.mappings().partitions(_AT_ONCE):
        for row in some:
            yield dict(row)


def line(row: dict[str, Any]) -> bytes:
    return _encoder.encode({name: neutral(value) for name, value in row.items()})


def neutral(value: Any) -> Any:
    """Return `value` in its JSON form."""
    if not isinstance(value, bytes):
        return value
    try:
        return {"u": value.decode()}
    except UnicodeDecodeError:
        return {"b": base64.b64encode(value).decode()}


# ---- loading into a database


def filled(
    database: Database,
    version: int,
    names: Iterable[str],
    lines: Callable[[str], Iterator[bytes]],
    leave_out: Iterable[str] = (),
) -> Store:
    """Return a store on `database`, a new SQLite database, filled with the rows of an archive.

    :param version: the schema version of the rows.
    :param names: the archive's sections; the names of tables begin with PREFIX.
    :param lines: returns a section's lines.
    :param leave_out: tables that stay empty.
    :raises BackupError: if the rows do not match a store of that version. `database` is closed then.
    """
    try:
        if not 1 <= version <= schema.VERSION:
            raise BackupError(
                f"its rows are of schema {version}, and this Keyfront supports schemas up to {schema.VERSION}: "
                "a newer Keyfront took it"
            )
        with database.migrating.begin() as connection:
            connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
            for number in range(1, version + 1):
                schema.step(connection, number)
            connection.exec_driver_sql("DELETE FROM counter")
            known = _columns(connection)
            for name in names:
                table = name.removeprefix(PREFIX)
                if name == table or table in leave_out:
                    continue
                if table not in known:
                    raise BackupError(f"schema {version} has no table {table!r}")
                _insert(connection, table, known[table], lines(name))
        return Store(database)
    except (DBAPIError, OverflowError, UnicodeError) as error:
        database.close()
        why = cause(error) if isinstance(error, DBAPIError) else str(error)
        raise BackupError(f"its rows are not those of a store: {why}") from error
    except BaseException:
        database.close()
        raise


def audit_row(data: bytes) -> AuditRow:
    """Parse a line of the audit log.

    :raises BackupError: if it is not one.
    """
    columns = {name: _TYPES[kind] for name, kind in _AUDIT.items()}
    found = _row(schema.audit.name, columns, data)
    try:
        return msgspec.convert({name: found[name] for name in ("number", "record", "digest")}, AuditRow)
    except msgspec.ValidationError as error:
        raise BackupError(f"a row of audit cannot be read: {error}") from error


_AUDIT = {"number": "BIGINT", "time": "FLOAT", "name": "TEXT", "principal": "TEXT", "resource": "TEXT"} | {
    "error": "TEXT",
    "record": "BLOB",
    "digest": "BLOB",
}
"""The columns of the audit log, which have never changed."""


def _columns(connection: sa.Connection) -> dict[str, dict[str, type | tuple[type, ...]]]:
    """Return each table's columns, and the types that JSON values must have there."""
    found: dict[str, dict[str, type | tuple[type, ...]]] = {}
    for table in sa.inspect(connection).get_table_names():
        if table not in _NOT_KEPT:
            info = connection.exec_driver_sql(f'PRAGMA table_info("{table}")')
            found[table] = {row[1]: _TYPES[row[2]] for row in info}
    return found


_TYPES: dict[str, type | tuple[type, ...]] = {
    "TEXT": str,
    "BLOB": bytes,
    "FLOAT": (float, int),
    "INTEGER": int,
    "BIGINT": int,
}


def _insert(
    connection: sa.Connection,
    table: str,
    columns: dict[str, type | tuple[type, ...]],
    lines: Iterator[bytes],
) -> None:
    marks = ", ".join(f":{name}" for name in columns)
    quoted = ", ".join(f'"{name}"' for name in columns)
    statement = sa.text(f'INSERT INTO "{table}" ({quoted}) VALUES ({marks})')  # noqa: S608 - names of the schema's
    some: list[dict[str, Any]] = []
    for one in lines:
        some.append(_row(table, columns, one))
        if len(some) == _AT_ONCE:
            connection.execute(statement, some)
            some = []
    if some:
        connection.execute(statement, some)


def _row(table: str, columns: dict[str, type | tuple[type, ...]], data: bytes) -> dict[str, Any]:
    try:
        found = {name: _own(value) for name, value in _decoder.decode(data).items()}
    except (msgspec.MsgspecError, RecursionError, binascii.Error, ValueError) as error:
        raise BackupError(f"a row of {table} cannot be read: {error}") from error
    if found.keys() != columns.keys():
        raise BackupError(f"a row of {table} has other columns than the table")
    for name, value in found.items():
        if (value is not None and not isinstance(value, columns[name])) or isinstance(value, bool):
            raise BackupError(f"a row of {table} has a {type(value).__name__} for {name}")
    return found


def _own(value: Any) -> Any:
    return bytes_of(value) if isinstance(value, dict) else value


def bytes_of(value: dict[str, Any]) -> bytes:
    """Return the bytes that were passed to `neutral`.

    :raises ValueError: if `value` does not represent bytes.
    """
    if len(value) == 1 and isinstance(text := value.get("u"), str):
        return text.encode()
    if len(value) == 1 and isinstance(text := value.get("b"), str):
        return base64.b64decode(text, validate=True)
    raise ValueError("it holds an object that stands for no bytes")
