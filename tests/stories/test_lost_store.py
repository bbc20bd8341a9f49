"""A damaged or missing store: edges serve their last snapshot, and no process makes the damage worse.

The tests damage the store of one running Keyfront in one way after another, while its control plane is down. Two
stories start a whole Keyfront on a damaged folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.stories.test_health import control_pid, health, well
from tests.stories.test_stuck import app, ask, distribution, stopped
from tests.up import PATIENCE, Up, gone

__all__ = ["app"]

pytestmark = pytest.mark.xdist_group("lost store")


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


@pytest.fixture(scope="module")
def running(app: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, str]]:
    """A Keyfront, and the hostname of a distribution that it serves."""
    with Up(tmp_path_factory.mktemp("lost") / "data", workers=1) as up:
        host = distribution(up, app)
        ask(up, host)
        yield up, host
        assert up.stop() == 0


@contextlib.contextmanager
def control_down(up: Up) -> Iterator[None]:
    """The control plane has stopped cleanly, and is not restarted yet."""
    control = control_pid(up)
    with stopped(up.pid):
        os.kill(control, signal.SIGTERM)
        up.until(lambda: gone(control), PATIENCE)
        yield


def serves_without_its_store(up: Up, host: str, says: str, log: list[str]) -> None:
    """Edges serve, and the control plane answers with the reason why it cannot work. `log` is what was logged since
    the store was damaged."""
    ask(up, host)
    status, body = health(up)
    assert status == 503
    assert says in body["reasons"]["control"][0]
    assert any("edges serve the last snapshot" in line and says in line for line in log)
    assert up.control("/livez").status == 200
    assert b"keyfront_edge_requests" in up.control("/metrics").body
    with pytest.raises(ClientError, match=r"ServiceUnavailable.*The control plane cannot work"):
        up.client().list_public_keys()


def bring_back(database: Path, good: Path) -> None:
    if database.is_dir():
        database.rmdir()
    for left in (f"{database}-wal", f"{database}-shm"):
        Path(left).unlink(missing_ok=True)
    copy = good.with_name("copy.db")
    shutil.copy(good, copy)
    os.replace(copy, database)


@pytest.mark.parametrize("spoilt", SPOILT)
def test_edges_serve_without_their_store(
    running: tuple[Up, str], app: int, tmp_path: Path, spoilt: str
) -> None:
    if spoilt == "unreadable" and os.geteuid() == 0:
        pytest.skip("root reads everything")
    up, host = running
    spoil, says = SPOILT[spoilt]
    database, good = up.data / "keyfront.db", tmp_path / "good.db"
    logged = len(up.log)
    with control_down(up):
        shutil.copy(database, good)
        spoil(database)
        before = database.read_bytes() if database.is_file() and os.access(database, os.R_OK) else None
    up.until(lambda: any("edges serve the last snapshot" in line for line in up.log[logged:]), PATIENCE)
    serves_without_its_store(up, host, says, up.log[logged:])
    if before is not None:
        assert database.read_bytes() == before
    # After the store is restored, nothing needs a restart.
    bring_back(database, good)
    up.until(lambda: well(up), PATIENCE)
    distribution(up, app, spoilt)
    ask(up, host)


def test_a_start_without_its_store(app: int, tmp_path: Path) -> None:
    up = Up(tmp_path / "data", workers=1)
    with up:
        host = distribution(up, app)
        ask(up, host)
    database, good = up.data / "keyfront.db", tmp_path / "good.db"
    shutil.move(database, good)
    with up:
        serves_without_its_store(up, host, "is gone", up.log)
        bring_back(database, good)
        up.until(lambda: well(up), PATIENCE)
        distribution(up, app, "2")
        ask(up, host)
        assert up.stop() == 0
    database.unlink()
    with up:  # and an installation that never got its store back stops when asked
        assert up.stop() == 0
    assert not database.exists()


def test_a_store_that_is_damaged_in_the_first_run(app: int, tmp_path: Path) -> None:
    """The snapshot did not exist when the supervisor started, but does when the control plane fails."""
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
