"""Copying a whole store into a new one of either kind, to move from one machine to several, or back."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from keyfront.control.store import schema
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import SettingsError

_BATCH = 500
"""Rows in one statement."""
_OWN = {schema.schema.name, schema.counter.name, schema.edge.name, schema.lease.name, schema.fleet_seen.name}
"""Tables that a new store has already filled, or whose rows are only temporarily valid."""


def copy(
    source: Store, target: Store, advance: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, int]:
    """Copy everything in `source`: resources, snapshot numbers, access keys, and the audit log with its chain. No
    process may write to `source` during the copy; its changes would be missing.

    :param advance: called with the number of rows copied so far, and of all rows.
    :returns: the number of rows of each table.
    :raises SettingsError: if `target` has been used. It is unchanged then.
    :raises ApiError: ServiceUnavailable if one of them does not respond. `target` is unchanged then.
    """
    with source.read() as old, target.write() as new:
        used = new.snapshot_number() or any(
            new.connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()
            for table in _tables()
        )
        if used:
            raise SettingsError(f"the store {target.name} is not new: a copy would mix two stores")
        return pour(old, new, advance)


def pour(
    old: Transaction, new: Transaction, advance: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, int]:
    """Copy all rows of `old` into the new store `new`; returns the number of rows of each table.

    :param advance: see `copy`.
    """
    total = sum(
        old.connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        for table in _tables()
    )
    copied: dict[str, int] = {}
    for table in _tables():
        copied[table.name] = 0
        rows = old.connection.execution_options(yield_per=_BATCH).execute(sa.select(table))
        for some in rows.mappings().partitions(_BATCH):
            new.connection.execute(sa.insert(table), [dict(row) for row in some])
            copied[table.name] += len(some)
            advance(sum(copied.values()), total)
    for name, value in old.connection.execute(sa.select(schema.counter.c.name, schema.counter.c.value)):
        new.connection.execute(
            sa.update(schema.counter).where(schema.counter.c.name == name).values(value=value)
        )
    if new.connection.dialect.name == "postgresql":  # advance its sequence past the copied numbers
        new.connection.exec_driver_sql(
            "SELECT setval(pg_get_serial_sequence('invalidation', 'sequence'), max(sequence))"
            " FROM invalidation HAVING max(sequence) IS NOT NULL"
        )
    return copied


def _tables() -> list[sa.Table]:
    return [table for table in schema.metadata.sorted_tables if table.name not in _OWN]
