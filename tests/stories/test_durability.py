"""Durability: everything killed, a torn snapshot, a dead parent, SIGTERM under load. Killed workers are in
`test_stuck.py`."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.application import Request, Response, served
from tests.keys import public_pem
from tests.up import PATIENCE, Up, has_exited


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE):
        return True
    return False


def test_kill_9_loses_no_acknowledged_change_and_sigterm_no_request(tmp_path: Path) -> None:
    arrived, released = threading.Semaphore(0), threading.Event()

    def respond(request: Request) -> Response:
        if request.path.startswith("/slow"):
            arrived.release()
            released.wait(PATIENCE)
        return Response(b"hello")

    up = Up(tmp_path / "data")
    with served(respond) as port:
        up.start()
        made = up.create_distribution(port)
        host = made["DomainName"]
        kill_while_changes_are_made(up)

        with up:
            assert up.get(host, "/a").status == 200
            up.deployed(made["Id"])
            answers: list[int] = []
            viewers = [
                threading.Thread(target=lambda n=n: answers.append(up.get(host, f"/slow/{n}").status))
                for n in range(8)
            ]
            for viewer in viewers:
                viewer.start()
            for _ in viewers:
                assert arrived.acquire(timeout=PATIENCE)
            up.end()
            up.until(lambda: not listens(up.edge_port))
            released.set()
            assert up.ended() == 0
            for viewer in viewers:
                viewer.join(PATIENCE)
            assert answers == [200] * 8
            assert len([r for r in up.records() if r["path"].startswith("/slow")]) == 8


def kill_while_changes_are_made(up: Up) -> None:
    """Kill all processes during changes, start again, and compare what exists with what was acknowledged. Ends with
    the parent killed: its children exit."""
    client = up.client()
    acknowledged: list[str] = []
    pem = public_pem()

    def write() -> None:
        with contextlib.suppress(Exception):
            for number in range(10_000):
                config = {"CallerReference": f"k{number}", "Name": f"k{number}", "EncodedKey": pem}
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
    writer.join(PATIENCE)
    up.start()
    client = up.client()
    keys = {item["Id"] for item in client.list_public_keys()["PublicKeyList"].get("Items", [])}
    groups = client.list_key_groups()["KeyGroupList"].get("Items", [])
    found = keys | {item["KeyGroup"]["Id"] for item in groups}
    # One call may have been in progress: what it created may exist, what it deleted may be gone.
    assert len(set(acknowledged) - found) <= 1
    assert len(found - set(acknowledged)) <= 1

    children = up.children()
    up.kill(children=False)
    up.until(lambda: all(has_exited(pid) for pid in children))


def test_a_torn_snapshot_is_refused_and_the_old_one_stays(page_origin: int, shared_up: Up) -> None:
    """`tests/fleet/test_file.py` has the other ways in which a snapshot can be damaged."""
    up = shared_up
    up.well()
    host = up.create_distribution(page_origin)["DomainName"]
    logged = len(up.log)
    snapshot = up.data / "snapshot"
    good = snapshot.read_bytes()
    snapshot.write_bytes(good[: len(good) // 2])
    up.until(lambda: sum("refused a snapshot" in line for line in up.log[logged:]) >= 2)
    for _ in range(10):
        assert up.get(host, "/a").status == 200
    # A worker that starts now loads the last accepted one.
    for pid in up.worker_pids():
        os.kill(pid, signal.SIGKILL)

    def is_served() -> bool:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            return up.get(host, "/a").status == 200
        return False

    up.until(is_served)
    # The next change repairs everything.
    up.create_distribution(page_origin)


def test_a_second_keyfront_on_one_folder_or_one_port_is_refused(shared_up: Up, tmp_path: Path) -> None:
    second = Up(shared_up.data)
    with pytest.raises(AssertionError, match="another keyfront uses the data folder"):
        second.start()
    third = Up(tmp_path / "other")
    third.edge_port = shared_up.edge_port
    with pytest.raises(AssertionError, match=r"--edge 127\.0\.0\.1:\d+ cannot be used"):
        third.start()
