"""`keyfront reload` and SIGHUP: new settings without a restart, and without a refused connection."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.conftest import PAGE, Viewers
from tests.up import PATIENCE, Up


class Site:
    """A Keyfront with a configuration file, and a distribution."""

    def __init__(self, up: Up, host: str, notices: list[bytes]) -> None:
        self.up = up
        self.host = host
        self.file = up.data / "keyfront.toml"
        self.notices = notices

    def reload(self, text: str) -> subprocess.CompletedProcess[str]:
        self.file.write_text(text)
        argv = [sys.executable, "-m", "keyfront", "reload", "--data", str(self.up.data)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)

    def settled(self) -> None:
        """Wait until the workers from before a reload have exited."""
        self.up.until(lambda: len(self.up.children()) == self.up.workers + 1)

    def reports_cache_status(self) -> bool:
        return "cache-status" in self.up.get(self.host, "/a").headers


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, page_origin: int) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("reload")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(folder / "notify"))
    notices: list[bytes] = []
    up = Up(folder / "data")
    up.data.mkdir(mode=0o700)
    (up.data / "keyfront.toml").write_text("")
    os.environ["NOTIFY_SOCKET"] = str(folder / "notify")
    reader = threading.Thread(target=_collect, args=(manager, notices), daemon=True)
    reader.start()
    try:
        up.start()
    finally:
        del os.environ["NOTIFY_SOCKET"]
    try:
        up.well()
        yield Site(up, str(up.create_distribution(page_origin)["DomainName"]), notices)
    finally:
        status = up.stop()
    assert status == 0
    reader.join(PATIENCE)
    manager.close()
    assert notices[-1] == b"STOPPING=1"


def _collect(manager: socket.socket, notices: list[bytes]) -> None:
    """What the service manager receives, until Keyfront stops."""
    while not notices or notices[-1] != b"STOPPING=1":
        notices.append(manager.recv(100))


def test_a_reload_under_load_refuses_and_loses_no_request(site: Site) -> None:
    up = site.up
    workers, control = up.worker_pids(), up.control_pid()
    assert not site.reports_cache_status()
    with Viewers(up, site.host) as viewers:
        viewers.wait_for_answers()
        for setting in ("false", "true"):
            done = site.reload(f"[edge]\ncache-status = {setting}\n")
            assert (done.returncode, done.stdout, done.stderr) == (0, "reloaded\n", "")
            viewers.wait_for_answers()
    assert (viewers.refused, viewers.lost, viewers.wrong) == (0, 0, [])
    assert site.reports_cache_status()
    site.settled()
    assert not {*workers, control} & {*up.children()}
    up.well()
    assert up.client().list_distributions()["DistributionList"]["Quantity"] == 1
    assert [notice.partition(b"=")[0] for notice in site.notices] == [b"READY", *[b"RELOADING", b"READY"] * 2]
    assert site.notices[1].startswith(b"RELOADING=1\nMONOTONIC_USEC=")


def test_a_response_that_is_being_sent_during_a_reload_is_completed(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.up.edge_port)) as viewer:
        viewer.sendall(f"GET /a HTTP/1.1\r\nHost: {site.host}\r\n".encode())
        assert site.reload("[edge]\ncache-status = true\n").returncode == 0
        viewer.sendall(b"\r\n")
        viewer.settimeout(PATIENCE)
        received = b"".join(iter(lambda: viewer.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close" in head.lower()
    assert body == PAGE


def test_an_invalid_file_changes_nothing(site: Site) -> None:
    assert site.reload("[edge]\ncache-status = true\n").returncode == 0
    up = site.up
    site.settled()
    before = set(up.children())
    done = site.reload("[edge]\ncache-status = false\nmemory = 0\n")
    assert done.returncode == 2
    assert done.stderr.startswith(f"keyfront: {site.file}:3: edge.memory: 0 is not in the range")
    assert set(up.children()) == before
    assert site.reports_cache_status()
    up.until(
        lambda: any("the settings are not reloaded" in line and ":3: edge.memory" in line for line in up.log)
    )


def test_what_needs_a_restart_is_named_and_the_rest_applies(site: Site) -> None:
    done = site.reload(
        '[supervision]\nworkers = 1\n[control]\nedges = "127.0.0.1:0"\n[edge]\ncache-status = false\n'
    )
    # The command line of this Keyfront sets the workers, and takes precedence.
    assert (done.returncode, done.stderr.partition(":")[2].partition(":")[0]) == (
        0,
        " a restart is needed for --edges",
    )
    assert not site.reports_cache_status()


def test_sighup_reloads_too(site: Site) -> None:
    assert site.reload("[edge]\ncache-status = false\n").returncode == 0
    assert not site.reports_cache_status()
    site.file.write_text("[edge]\ncache-status = true\n")
    (site.up.data / "reload.json").unlink()
    os.kill(site.up.pid, signal.SIGHUP)
    site.up.until((site.up.data / "reload.json").exists)
    assert json.loads((site.up.data / "reload.json").read_text())["error"] == ""
    assert site.reports_cache_status()


def test_without_a_running_keyfront_there_is_nothing_to_reload(tmp_path: Path) -> None:
    keyfront = shutil.which("keyfront", path=str(Path(sys.executable).parent))
    assert keyfront is not None
    done = subprocess.run(
        [keyfront, "reload", "--data", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"keyfront: no Keyfront is running in {tmp_path}: ")


def test_before_it_stops_health_checks_fail_and_viewers_are_served(site: Site) -> None:
    """The last test of this Keyfront."""
    up = site.up
    assert up.get("127.0.0.1", "/healthz").status == 403
    text = '[edge]\nhealth-check = ["127.0.0.1/healthz"]\nhealth-max-age = "1h"\n'
    assert site.reload(f"{text}[supervision]\nshutdown-delay = 600\n").returncode == 0
    site.settled()
    found = up.get("127.0.0.1", "/healthz")
    assert (found.status, found.body) == (200, b"ok\n")
    up.end()
    up.until(lambda: up.get("127.0.0.1", "/healthz").status == 503)
    assert up.get("127.0.0.1", "/healthz").body == b"stopping\n"
    assert up.get(site.host, "/a").status == 200
    assert all("/healthz" not in record["path"] or record["status"] == 403 for record in up.records())
    up.end()  # a second signal ends the wait
    assert up.ended() == 0
