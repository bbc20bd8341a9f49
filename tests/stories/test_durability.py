"""Durability: a worker killed, everything killed, a torn snapshot, a dead parent, SIGTERM under load."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.up import PATIENCE, Up, distribution_config, gone

PUBLIC = (Path(__file__).resolve().parent.parent / "vectors" / "keys" / "rsa.pub").read_text()


pytestmark = pytest.mark.xdist_group("durability")


class App(BaseHTTPRequestHandler):
    """Responses to `/slow…` wait until they are released."""

    protocol_version = "HTTP/1.1"
    slow = threading.Semaphore(0)
    released = threading.Event()

    def do_GET(self) -> None:
        if self.path.startswith("/slow"):
            App.slow.release()
            App.released.wait(PATIENCE)
        body = b"hello " * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def app() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A Keyfront for the stories that end with all processes running, as at their start."""
    with Up(tmp_path_factory.mktemp("durability") / "data") as up:
        yield up


def distribution(up: Up, app: int, reference: str = "1") -> dict[str, Any]:
    made = up.client().create_distribution(DistributionConfig=distribution_config(reference, app, []))
    up.deployed(made["Distribution"]["Id"])
    result: dict[str, Any] = made["Distribution"]
    return result


def test_a_killed_worker_loses_its_open_connections_and_nothing_else(app: int, running: Up) -> None:
    up = running
    up.well()
    host = distribution(up, app, "killed")["DomainName"]
    before = up.worker_pids()
    assert len(before) == 2
    answered, broken, wrong = 0, 0, []
    stop = threading.Event()

    def view() -> None:
        nonlocal answered, broken
        while not stop.is_set():
            try:
                answer = up.get(host, "/a")
            except (ConnectionError, http.client.HTTPException):
                broken += 1
                continue
            if answer.status != 200 or answer.body != b"hello " * 1000:
                wrong.append(answer)
            answered += 1

    viewers = [threading.Thread(target=view) for _ in range(4)]
    for viewer in viewers:
        viewer.start()
    up.until(lambda: answered > 50)
    os.kill(before[0], signal.SIGKILL)
    up.until(lambda: len(set(up.worker_pids()) - {before[0]}) == 2)
    seen = answered
    up.until(lambda: answered > seen + 100)
    stop.set()
    for viewer in viewers:
        viewer.join(10)
    assert not wrong
    assert broken <= 16  # the requests that were open or queued at the dead worker
    assert before[1] in up.worker_pids()
    # The new worker obeys the same snapshot and reports, so changes still deploy.
    distribution(up, app, "killed 2")
    assert any("restarting it" in line for line in up.log)


def test_everything_killed_loses_no_acknowledged_change(app: int, tmp_path: Path) -> None:
    up = Up(tmp_path / "data").start()
    host = distribution(up, app)["DomainName"]
    client = up.client()
    acknowledged: list[str] = []

    def write() -> None:
        with contextlib.suppress(Exception):
            for number in range(10_000):
                config = {"CallerReference": f"k{number}", "Name": f"k{number}", "EncodedKey": PUBLIC}
                acknowledged.append(client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"])
                group = {"Name": f"g{number}", "Items": [acknowledged[-1]]}
                acknowledged.append(client.create_key_group(KeyGroupConfig=group)["KeyGroup"]["Id"])
                tag = client.get_key_group(Id=acknowledged[-1])["ETag"]
                client.delete_key_group(Id=acknowledged.pop(), IfMatch=tag)
                tag = client.get_public_key(Id=acknowledged[-1])["ETag"]
                if number % 2:
                    client.delete_public_key(Id=acknowledged[-1], IfMatch=tag)
                    acknowledged.pop()
                elif len(acknowledged) > 4:
                    first = acknowledged[0]
                    client.delete_public_key(Id=first, IfMatch=client.get_public_key(Id=first)["ETag"])
                    acknowledged.remove(first)

    writer = threading.Thread(target=write)
    writer.start()
    up.until(lambda: len(acknowledged) >= 4)
    up.kill()
    writer.join(30)
    with up:
        client = up.client()
        found = {item["Id"] for item in client.list_public_keys()["PublicKeyList"].get("Items", [])}
        groups = client.list_key_groups()["KeyGroupList"].get("Items", [])
        known = found | {item["KeyGroup"]["Id"] for item in groups}
        # One call may have been in progress: what it created may exist, what it deleted may be gone.
        assert len(set(acknowledged) - known) <= 1
        assert len(known - set(acknowledged)) <= 1
        assert up.get(host, "/a").status == 200
        up.until(lambda: client.list_distributions()["DistributionList"]["Items"][0]["Status"] == "Deployed")


@pytest.mark.parametrize("spoil", ["truncated", "garbage", "empty", "gone"])
def test_a_spoilt_snapshot_is_refused_and_the_old_one_stays(app: int, running: Up, spoil: str) -> None:
    up = running
    up.well()
    host = distribution(up, app, spoil)["DomainName"]
    logged = len(up.log)
    snapshot = up.data / "snapshot"
    good = snapshot.read_bytes()
    if spoil == "gone":
        snapshot.unlink()
    else:
        bad = {"truncated": good[: len(good) // 2], "garbage": os.urandom(500), "empty": b""}[spoil]
        snapshot.write_bytes(bad)
        up.until(lambda: sum("refused a snapshot" in line for line in up.log[logged:]) >= 2)
    for _ in range(10):
        assert up.get(host, "/a").status == 200
    # A worker that starts now loads the last accepted one.
    for pid in up.worker_pids():
        os.kill(pid, signal.SIGKILL)

    def served() -> bool:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            return up.get(host, "/a").status == 200
        return False

    up.until(served)
    # The next change repairs everything.
    distribution(up, app, f"{spoil} 2")


def test_children_end_when_their_parent_is_gone(app: int, tmp_path: Path) -> None:
    up = Up(tmp_path / "data").start()
    children = up.children()
    up.kill(children=False)

    up.until(lambda: all(gone(pid) for pid in children), PATIENCE)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE):
        return True
    return False


def test_sigterm_finishes_what_is_under_way(app: int, tmp_path: Path) -> None:
    with Up(tmp_path / "data") as up:
        host = distribution(up, app)["DomainName"]
        answers: list[int] = []
        viewers = [
            threading.Thread(target=lambda n=n: answers.append(up.get(host, f"/slow/{n}").status))
            for n in range(8)
        ]
        for viewer in viewers:
            viewer.start()
        for _ in viewers:
            assert App.slow.acquire(timeout=PATIENCE)
        up.end()
        up.until(lambda: not listens(up.edge_port))
        App.released.set()
        assert up.ended() == 0
        for viewer in viewers:
            viewer.join(10)
        assert answers == [200] * 8
        assert len([r for r in up.records() if r["path"].startswith("/slow")]) == 8


def test_two_on_one_folder_or_one_port_is_refused_clearly(running: Up, tmp_path: Path) -> None:
    second = Up(running.data)
    with pytest.raises(AssertionError, match="another keyfront uses the data folder"):
        second.start()
    third = Up(tmp_path / "other")
    third.edge_port = running.edge_port
    with pytest.raises(AssertionError, match=r"--edge 127\.0\.0\.1:\d+ cannot be used"):
        third.start()
