"""A control plane that cannot run, because its store or its credentials are damaged or missing: edges serve their last
snapshot, callers get the reason, and once the cause is repaired, nothing needs a restart.

`tests/runtime/test_lost_store.py` has the table of damages."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.stories.conftest import PAGE
from tests.up import Up, has_exited, suspended


class Site:
    """A Keyfront, and the hostname of a distribution that it serves."""

    def __init__(self, up: Up, origin_port: int) -> None:
        self.up = up
        self.database = up.data / "keyfront.db"
        self._origin_port = origin_port
        self._host = up.create_distribution(origin_port)["DomainName"]
        self.check_served()

    def check_served(self) -> None:
        assert self.up.get(self._host, "/a").body == PAGE

    @contextlib.contextmanager
    def control_plane_down(self, number: signal.Signals) -> Iterator[None]:
        """Stop the control process with this signal. The supervisor restarts it afterward."""
        control = self.up.control_pid()
        with suspended(self.up.pid):
            os.kill(control, number)
            self.up.until(lambda: has_exited(control))
            yield

    def check_stand_in(self, reason: str, log: list[str]) -> None:
        """Edges serve, and the control port answers with the reason. `log` is what was logged since the damage."""
        self.check_served()
        status, body = self.up.health()
        assert status == 503
        assert reason in body["reasons"]["control"][0]
        assert any("edges serve the last snapshot" in line and reason in line for line in log)
        assert self.up.control("/livez").status == 200
        assert b"keyfront_edge_requests" in self.up.control("/metrics").body
        with pytest.raises(ClientError, match=r"ServiceUnavailable.*The control plane cannot work"):
            self.up.client().list_public_keys()

    def check_recovery(self) -> None:
        """The control plane works again without a restart."""
        self.up.well()
        self.up.create_distribution(self._origin_port)
        self.check_served()

    def restore(self, copy: Path) -> None:
        for left in (f"{self.database}-wal", f"{self.database}-shm"):
            Path(left).unlink(missing_ok=True)
        temporary = copy.with_name("temporary.db")
        shutil.copy(copy, temporary)
        os.replace(temporary, self.database)


@pytest.fixture
def site(page_origin: int, tmp_path: Path) -> Iterator[Site]:
    with Up(tmp_path / "data", workers=1) as up:
        yield Site(up, page_origin)


def test_edges_serve_while_the_control_plane_cannot_run(site: Site, tmp_path: Path) -> None:
    up, good = site.up, tmp_path / "good.db"

    def wait_for_stand_in(logged: int) -> list[str]:
        up.until(lambda: any("edges serve the last snapshot" in line for line in up.log[logged:]))
        return up.log[logged:]

    # The store is damaged in the first run: the snapshot did not exist when the supervisor started, but does when the
    # control plane fails.
    logged = len(up.log)
    with site.control_plane_down(signal.SIGTERM):
        shutil.copy(site.database, good)
        site.database.write_bytes(os.urandom(site.database.stat().st_size))
    site.check_stand_in("damaged", wait_for_stand_in(logged))
    site.restore(good)
    site.check_recovery()

    # The same for the credentials, after a crash.
    logged = len(up.log)
    credentials = (up.data / "credentials").read_text()
    with site.control_plane_down(signal.SIGKILL):
        (up.data / "credentials").write_text("garbage\n")
    wait_for_stand_in(logged)
    site.check_served()
    assert "shared-credentials format" in up.health()[1]["reasons"]["control"][0]
    (up.data / "credentials").write_text(credentials)
    site.check_recovery()

    # A start with a snapshot but without a store.
    assert up.stop() == 0
    shutil.move(site.database, good)
    up.log.clear()
    with up:
        site.check_stand_in("is gone", up.log)
        site.restore(good)
        site.check_recovery()
        assert up.stop() == 0
    # An installation whose store never returns stops at SIGTERM, and does not create another store.
    site.database.unlink()
    with up:
        assert up.stop() == 0
    assert not site.database.exists()
