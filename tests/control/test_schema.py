"""The schema: its migrations create its tables, and a database of every past version is upgraded with its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keyfront.control.store import schema
from keyfront.control.store.database import Database, Postgres, Sqlite
from keyfront.control.store.rows import Row
from keyfront.control.store.store import Store
from tests.control.harness import BOTH, where

STORES = BOTH


def shape(connection: sa.Connection, table: str) -> dict[str, Any]:
    """A database's description of `table`, without what is specific to one kind of database."""
    inspector = sa.inspect(connection)
    return {
        "columns": [
            (column["name"], column["type"]._type_affinity, column["nullable"])
            for column in inspector.get_columns(table)
        ],
        "primary key": inspector.get_pk_constraint(table)["constrained_columns"],
        "foreign keys": sorted(
            (
                tuple(key["constrained_columns"]),
                key["referred_table"],
                tuple(key["referred_columns"]),
                key["options"].get("ondelete", ""),
            )
            for key in inspector.get_foreign_keys(table)
        ),
        "unique": sorted(tuple(one["column_names"]) for one in inspector.get_unique_constraints(table)),
        "indexes": sorted(
            (str(one["name"]), tuple(one["column_names"]))
            for one in inspector.get_indexes(table)
            if not one.get("duplicates_constraint")
        ),
    }


def test_the_steps_make_the_tables(tmp_path: Path) -> None:
    store = Store(where(tmp_path))
    declared = sa.create_engine("sqlite://")
    schema.metadata.create_all(declared)
    with store.read() as transaction, declared.connect() as wanted:
        made = transaction.connection
        assert set(sa.inspect(made).get_table_names()) == set(schema.metadata.tables)
        for table in schema.metadata.tables:
            assert shape(made, table) == shape(wanted, table)
    store.close()


def test_ids_are_compared_byte_by_byte(tmp_path: Path) -> None:
    store = Store(where(tmp_path))
    with store.write() as transaction:
        for id_ in ("b", "A", "a", "B", "é", "-"):
            transaction.insert(Row("PublicKey", id_, "E1", 1.5, 2.5, {}, {}, 0))
        assert list(transaction.versions("PublicKey")) == ["-", "A", "B", "a", "b", "é"]
        assert [found.id for found in transaction.page("PublicKey", "B", 2)] == ["a", "b"]
        if transaction.connection.dialect.name == "postgresql":
            collations = transaction.connection.exec_driver_sql(
                "SELECT DISTINCT collation_name FROM information_schema.columns"
                " WHERE table_schema = 'public' AND data_type = 'text'"
            )
            assert collations.scalars().all() == ["C"]
    store.close()


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_an_old_store_comes_up_to_date_with_what_it_holds(tmp_path: Path, version: int) -> None:
    if isinstance(named := where(tmp_path), str):
        old: Database = Postgres(named)
        with old.migrating.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    else:
        old = Sqlite(named)
    with old.writing.begin() as connection:
        for number in range(1, version + 1):
            schema.step(connection, number)
        connection.execute(
            sa.text(
                "INSERT INTO resource (kind, id, etag, created, modified, config, attributes, snapshot)"
                " VALUES ('PublicKey', 'K1', 'E1', 1.5, 2.5, :config, :attributes, 7)"
            ),
            {"config": b'{"Name":"a"}', "attributes": b"{}"},
        )
        connection.exec_driver_sql("UPDATE counter SET value = 7 WHERE name = 'snapshot'")
    old.close()
    for _ in range(2):
        store = Store(where(tmp_path))
        with store.read() as transaction:
            found = transaction.get("PublicKey", "K1")
            assert found is not None
            assert (found.config, found.snapshot) == ({"Name": "a"}, 7)
            assert transaction.snapshot_number() == 7
            assert transaction.highest_deployed() == 0
            assert transaction.carried("E1") == ()
        store.close()
