"""Behavior specific to a store in an SQLite file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from keyfront.control.store.store import Store
from keyfront.errors import SettingsError
from tests.control.test_store import row


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "keyfront.db")


def test_only_its_owner_can_read_it(store: Store, tmp_path: Path) -> None:
    with store.write() as transaction:
        transaction.insert(row("a"))
    files = list(tmp_path.iterdir())
    assert {path.name for path in files} >= {"keyfront.db", "keyfront.db-wal"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_commit_waits_for_the_disk(store: Store) -> None:
    with store._database.reading.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "keyfront.db"
    path.write_bytes(b"this is not a database, it is a love letter" * 100)
    with pytest.raises(SettingsError, match="cannot be opened"):
        Store(path)
    assert path.read_bytes().startswith(b"this is not a database")
    with pytest.raises(SettingsError, match="cannot be opened"):
        Store(tmp_path / "no such folder" / "keyfront.db")
