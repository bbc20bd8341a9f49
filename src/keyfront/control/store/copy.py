"""A store's whole content into a new store, of whichever kind: the way from one machine to many, and back."""

from __future__ import annotations

import sqlalchemy as sa

from keyfront.control.store import schema
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import SettingsError

_AT_ONCE = 500
"""Rows of one statement."""
_OWN = {schema.schema.name, schema.counter.name, schema.edge.name, schema.lease.name}
"""Tables whose rows a new store has already, or which say what is only now."""


def copy(source: Store, target: Store) -> dict[str, int]:
    """Everything that `source` holds: resources, snapshot numbers, access keys, the audit log with its chain. Nobody
    may be writing to `source`, or what is written meanwhile stays behind.

    :returns: how many rows of each table there were.
    :raises SettingsError: if `target` has been used; it is not touched then.
    :raises ApiError: ServiceUnavailable if one of them does not answer; then `target` is as it was.
    """
    with source.read() as old, target.write() as new:
        used = new.snapshot_number() or any(
            new.connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()
            for table in _tables()
        )
        if used:
            raise SettingsError(f"the store {target.name} is not new: a copy would mix two stores")
        return pour(old, new)


def pour(old: Transaction, new: Transaction) -> dict[str, int]:
    """Everything that `old` holds into `new`, a new store's; how many rows of each table there were."""
    copied: dict[str, int] = {}
    for table in _tables():
        copied[table.name] = 0
        rows = old.connection.execution_options(yield_per=_AT_ONCE).execute(sa.select(table))
        for some in rows.mappings().partitions(_AT_ONCE):
            new.connection.execute(sa.insert(table), [dict(row) for row in some])
            copied[table.name] += len(some)
    for name, value in old.connection.execute(sa.select(schema.counter.c.name, schema.counter.c.value)):
        new.connection.execute(
            sa.update(schema.counter).where(schema.counter.c.name == name).values(value=value)
        )
    if new.connection.dialect.name == "postgresql":  # which numbers by itself, and has not done so here
        new.connection.exec_driver_sql(
            "SELECT setval(pg_get_serial_sequence('invalidation', 'sequence'), max(sequence))"
            " FROM invalidation HAVING max(sequence) IS NOT NULL"
        )
    return copied


def _tables() -> list[sa.Table]:
    return [table for table in schema.metadata.sorted_tables if table.name not in _OWN]
