"""A damaged or missing store: the control process refuses to run, says why, and changes nothing.

`tests/stories/test_lost_store.py` shows what edges and callers see meanwhile, and the return of a repaired store.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyfront.control.identity.credentials import load
from keyfront.control.store.store import Store
from keyfront.errors import KeyfrontError
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.heartbeat import Board
from keyfront.runtime.control_process import ControlProcess
from keyfront.runtime.settings import ACCOUNT, ControlInherited, ControlSettings
from tests.fleet.snapshots import snapshot


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def _first_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:16] + os.urandom(4080) + path.read_bytes()[4096:])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _newer(path: Path) -> None:
    _execute(path, "INSERT INTO schema (version) VALUES (999)")


def _no_table(path: Path) -> None:
    _execute(path, "DROP TABLE counter")


def _execute(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        with database:
            database.execute(statement)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _unreadable(path: Path) -> None:
    path.chmod(0)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "zeros": (_zeros, "damaged"),
    "truncated": (_truncated, "malformed"),
    "garbage": (_garbage, "damaged"),
    "garbage in the first page": (_first_page, "cannot be opened"),
    "empty": (_empty, "is empty"),
    "missing": (Path.unlink, "is gone"),
    "of a newer version": (_newer, "a newer Keyfront"),
    "without a table": (_no_table, "no such table"),
    "a folder": (_folder, "cannot be opened"),
    "unreadable": (_unreadable, "cannot be opened"),
}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose edges have something to serve."""
    data = tmp_path_factory.mktemp("installation")
    load(data / "credentials", ACCOUNT)
    Store(data / "keyfront.db").close()
    FileFeed(data).publish(snapshot(1))
    return data


@pytest.fixture
def control(installation: Path, tmp_path: Path) -> Iterator[ControlProcess]:
    """The control process of a copy of that data folder, which is `tmp_path / "data"`."""
    data = shutil.copytree(installation, tmp_path / "data")
    with socket.socket() as listener, contextlib.closing(Board.create(1)) as board:
        inherited = ControlInherited(board.fd, listener.fileno(), ())
        settings = ControlSettings(str(data), "127.0.0.1", 0, "cloudfront.localhost", inherited=inherited)
        yield ControlProcess(settings, inherited, lifeline=-1, ready=-1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_refused_and_left_unchanged(
    control: ControlProcess, tmp_path: Path, damage: str
) -> None:
    if damage == "unreadable" and os.geteuid() == 0:
        pytest.skip("root can read every file")
    inflict, message = DAMAGES[damage]
    database = tmp_path / "data" / "keyfront.db"
    inflict(database)
    before = database.read_bytes() if database.is_file() and os.access(database, os.R_OK) else None
    with pytest.raises((KeyfrontError, OSError), match=message):
        control.run()
    assert not control.has_worked
    assert control.edges_serve()
    if before is not None:
        assert database.read_bytes() == before
    else:
        assert not database.is_file() or not os.access(database, os.R_OK)
