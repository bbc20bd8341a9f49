"""Stuck and dead processes: which process takes their connections, and how they are replaced.

SIGSTOP simulates anything that can block a process (a loop, a deadlock, a disk that does not answer): the process and
its sockets exist, but it does nothing.

There are three Keyfronts, each for several stories.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.up import PATIENCE, Up, distribution_config

pytestmark = pytest.mark.xdist_group("stuck")

BODY = b"hello " * 1000


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.send_header("Cache-Control", "max-age=3600")
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def app() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Two workers; no process is killed."""
    with Up(tmp_path_factory.mktemp("unwatched") / "data", options=("--stuck-after", "0")) as up:
        yield up


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Two workers; one that makes no progress for three seconds is killed."""
    with Up(tmp_path_factory.mktemp("watched") / "data", options=("--stuck-after", "3")) as up:
        yield up


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One worker."""
    with Up(tmp_path_factory.mktemp("single") / "data", workers=1) as up:
        yield up


def distribution(up: Up, app: int, reference: str = "") -> str:
    """A distribution that all edges obey. Returns its hostname."""
    reference = reference or str(time.time_ns())
    made = up.client().create_distribution(DistributionConfig=distribution_config(reference, app, []))
    up.deployed(made["Distribution"]["Id"], PATIENCE)
    return str(made["Distribution"]["DomainName"])


def begin(up: Up, app: int) -> str:
    """Once all processes run, a distribution that all edges obey. Returns its hostname."""
    up.well()
    return distribution(up, app)


class Viewers:
    """Threads that send requests continuously, each on its own connection, and count the outcomes."""

    def __init__(self, up: Up, host: str, count: int = 4) -> None:
        self._up = up
        self._host = host
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._view, daemon=True) for _ in range(count)]
        self.answered = 0
        self.refused = 0
        """Connections that nobody took."""
        self.lost = 0
        """Connections that were taken, and then closed or left without an answer."""
        self.wrong: list[object] = []

    def _view(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._up.get(self._host, "/a")
            except ConnectionRefusedError:
                self.refused += 1
            except (OSError, http.client.HTTPException):
                self.lost += 1
            else:
                if answer.status != 200 or answer.body != BODY:
                    self.wrong.append(answer)
                self.answered += 1

    def __enter__(self) -> Viewers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def go_on(self, more: int = 200) -> None:
        """Wait until that many more are answered."""
        seen = self.answered
        Up.until(lambda: self.answered >= seen + more, PATIENCE)


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def replaced(up: Up, before: list[int], workers: int = 2) -> None:
    """Wait until that many workers run that are not among those from before."""
    up.until(lambda: len(set(up.worker_pids()) - set(before)) == workers, PATIENCE)


def ask(up: Up, host: str) -> None:
    assert up.get(host, "/a").body == BODY


def test_both_workers_take_a_share(app: int, unwatched: Up) -> None:
    """Each worker accepts on its own socket only, so that the kernel still distributes connections."""
    up = unwatched
    host = begin(up, app)
    for _ in range(60):
        ask(up, host)

    def counted() -> list[int]:
        from keyfront.fleet.file_feed import FileFeed

        return [
            sum(row[-1] for row in report.counters["requests"]) for report in FileFeed(up.data).last_reports()
        ]

    up.until(lambda: sum(counted()) >= 60, PATIENCE)
    assert min(counted()) >= 10


def test_connections_of_a_stuck_worker_are_taken_by_the_other_one(app: int, unwatched: Up) -> None:
    up = unwatched
    host = begin(up, app)
    ask(up, host)
    stuck, well = up.worker_pids()
    with stopped(stuck):
        for _ in range(40):  # half of them would queue at the stuck worker
            ask(up, host)
        assert set(up.worker_pids()) == {stuck, well}  # with 0, no process is killed
    # Both accept their own connections again.
    with stopped(well):
        for _ in range(20):
            ask(up, host)


@pytest.mark.parametrize("which", ["one", "all"])
def test_a_stuck_worker_is_replaced(app: int, watched: Up, which: str) -> None:
    up = watched
    host = begin(up, app)
    ask(up, host)
    before = up.worker_pids()
    stuck = before[:1] if which == "one" else before
    with stopped(*stuck):
        up.until(lambda: len(set(up.worker_pids()) - set(stuck)) == 2, PATIENCE)
        ask(up, host)
    assert set(before) - set(stuck) <= set(up.worker_pids())
    up.until(
        lambda: all(
            any(f"(pid {pid}) has had no heartbeat for 3 seconds" in line for line in up.log) for pid in stuck
        ),
        PATIENCE,
    )
    distribution(up, app)


def test_a_stuck_control_plane_is_replaced_and_its_callers_only_wait(app: int, watched: Up) -> None:
    up = watched
    host = begin(up, app)
    control = (set(up.children()) - set(up.worker_pids())).pop()
    with stopped(control):
        up.until(lambda: control not in up.children(), PATIENCE)
        # No worker accepts yet, and no connection is refused.
        with socket.create_connection(("127.0.0.1", up.control_port), PATIENCE) as waiting:
            waiting.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert waiting.recv(12) == b"HTTP/1.1 200"
    distribution(up, app)
    ask(up, host)


@pytest.mark.parametrize("workers", [1, 2])
def test_all_workers_killed_at_once_refuse_no_connection(
    app: int, single: Up, unwatched: Up, workers: int
) -> None:
    up = single if workers == 1 else unwatched
    host = begin(up, app)
    with Viewers(up, host) as viewers:
        for _ in range(3):
            viewers.go_on()
            before = up.worker_pids()
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            replaced(up, before, workers)
        viewers.go_on()
    assert not viewers.wrong
    assert viewers.refused == 0
    assert viewers.lost <= 3 * 4  # the connections that the killed workers had accepted


def test_a_worker_that_dies_again_and_again_leaves_the_port_open(app: int, single: Up) -> None:
    up = single
    host = begin(up, app)
    logged = len(up.log)
    killed: set[int] = set()
    for _ in range(6):  # the pause between two starts doubles each time, up to a second
        up.until(lambda: len(set(up.worker_pids()) - killed) == 1, PATIENCE)
        pid = (set(up.worker_pids()) - killed).pop()
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
        socket.create_connection(("127.0.0.1", up.edge_port), PATIENCE).close()
    up.until(lambda: sum("restarting it" in line for line in up.log[logged:]) == 6, PATIENCE)
    ask(up, host)


def test_a_worker_ended_by_hand_hands_its_connections_over(app: int, unwatched: Up) -> None:
    up = unwatched
    host = begin(up, app)
    with Viewers(up, host) as viewers:
        viewers.go_on()
        before = up.worker_pids()
        os.kill(before[0], signal.SIGTERM)
        up.until(lambda: len(set(up.worker_pids()) - {before[0]}) == 2, PATIENCE)
        viewers.go_on()
    assert not viewers.wrong
    assert viewers.refused == 0
    assert viewers.lost <= 4  # accepted a moment before, and closed by the drain before they sent a request


def test_a_stuck_worker_does_not_hold_up_the_end(watched: Up) -> None:
    up = watched
    up.well()
    with stopped(up.worker_pids()[0]):
        assert up.stop() == 0
