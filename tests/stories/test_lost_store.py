"""A store that is damaged or gone: edges serve their last snapshot, and nobody makes it worse."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.stories.test_health import health, well
from tests.stories.test_stuck import PATIENCE, app, ask, distribution
from tests.up import Up

__all__ = ["app"]


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
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO schema (version) VALUES (999)")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def _no_table(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE counter")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _unreadable(path: Path) -> None:
    path.chmod(0)


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "zeros": (_zeros, "damaged"),
    "truncated": (_truncated, "malformed"),
    "garbage": (_garbage, "damaged"),
    "first page": (_first_page, "cannot be opened"),
    "empty": (_empty, "is empty"),
    "gone": (Path.unlink, "is gone"),
    "newer": (_newer, "a newer Keyfront"),
    "no table": (_no_table, "no such table"),
    "a folder": (_folder, "cannot be opened"),
    "unreadable": (_unreadable, "cannot be opened"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_edges_serve_without_their_store(app: int, tmp_path: Path, spoilt: str) -> None:
    if spoilt == "unreadable" and os.geteuid() == 0:
        pytest.skip("root reads everything")
    spoil, says = SPOILT[spoilt]
    up = Up(tmp_path / "data", workers=1)
    with up:
        host = distribution(up, app)
        ask(up, host)
    database = up.data / "keyfront.db"
    good = tmp_path / "good.db"
    shutil.copy(database, good)
    spoil(database)
    before = database.read_bytes() if database.is_file() and os.access(database, os.R_OK) else None
    with up:
        ask(up, host)
        status, body = health(up)
        assert status == 503
        assert says in body["reasons"]["control"][0]
        assert any("edges serve the last snapshot" in line and says in line for line in up.log)
        assert httpx.get(f"{up.endpoint}/livez", trust_env=False, timeout=PATIENCE).status_code == 200
        assert (
            "keyfront_edge_requests"
            in httpx.get(f"{up.endpoint}/metrics", trust_env=False, timeout=PATIENCE).text
        )
        with pytest.raises(ClientError, match=r"ServiceUnavailable.*The control plane cannot work"):
            up.client().list_public_keys()
        if before is not None:
            assert database.read_bytes() == before
        # Whoever brings it back need not start anything again.
        if database.is_dir():
            database.rmdir()
        for left in (f"{database}-wal", f"{database}-shm"):
            Path(left).unlink(missing_ok=True)
        shutil.copy(good, tmp_path / "copy.db")
        os.replace(tmp_path / "copy.db", database)
        up.until(lambda: well(up), PATIENCE)
        distribution(up, app, "2")
        ask(up, host)
        assert up.stop() == 0


def test_a_store_that_is_damaged_in_the_first_run(app: int, tmp_path: Path) -> None:
    """There was no snapshot when the supervisor started, but there is one when the control plane fails."""
    with Up(tmp_path / "data", workers=1) as up:
        host = distribution(up, app)
        ask(up, host)
        for left in ("keyfront.db-wal", "keyfront.db-shm"):
            (up.data / left).unlink(missing_ok=True)
        _garbage(up.data / "keyfront.db")
        (control,) = set(up.children()) - set(up.worker_pids())
        os.kill(control, signal.SIGKILL)
        up.until(lambda: any("edges serve the last snapshot" in line for line in up.log), PATIENCE)
        status, body = health(up)
        assert status == 503
        assert "damaged" in body["reasons"]["control"][0]
        ask(up, host)
        assert up.stop() == 0


def test_credentials_that_make_no_sense(app: int, tmp_path: Path) -> None:
    up = Up(tmp_path / "data", workers=1)
    with up:
        host = distribution(up, app)
    good = (up.data / "credentials").read_text()
    (up.data / "credentials").write_text("garbage\n")
    with up:
        ask(up, host)
        assert "shared-credentials format" in health(up)[1]["reasons"]["control"][0]
        (up.data / "credentials").write_text(good)
        up.until(lambda: well(up), PATIENCE)
        assert up.stop() == 0


def test_a_stand_in_ends_when_it_is_told_to(app: int, tmp_path: Path) -> None:
    up = Up(tmp_path / "data", workers=1)
    with up:
        distribution(up, app)
    (up.data / "keyfront.db").unlink()
    with up:
        assert up.stop() == 0
    assert not (up.data / "keyfront.db").exists()
