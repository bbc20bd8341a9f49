"""Stuck and dead processes: which process takes their connections, how they are replaced, and how `/healthz` and the
metrics report them.

SIGSTOP simulates anything that can block a process (a loop, a deadlock, a disk that does not answer)."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from keyfront.fleet.file_feed import FileFeed
from tests.stories.conftest import PAGE, Viewers
from tests.up import PATIENCE, Up, suspended


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


def create_site(up: Up, origin_port: int) -> str:
    """Once all processes run, a distribution that all edges have. Returns its hostname."""
    up.well()
    return str(up.create_distribution(origin_port)["DomainName"])


def wait_replaced(up: Up, before: list[int], workers: int) -> None:
    """Wait until that many workers run that are not among those from before."""
    up.until(lambda: len(set(up.worker_pids()) - set(before)) == workers)


def check_served(up: Up, host: str) -> None:
    assert up.get(host, "/a").body == PAGE


def test_both_workers_take_a_share_of_the_connections(page_origin: int, shared_up: Up) -> None:
    """Each worker accepts on its own socket only, so that the kernel still distributes connections."""
    up = shared_up
    host = create_site(up, page_origin)

    def counted() -> list[int]:
        reports = FileFeed(up.data).last_reports()
        return [
            sum(cells[0] for name, _, cells in report.counters["series"] if name == "requests")
            for report in reports
        ]

    before = counted()
    for _ in range(60):
        check_served(up, host)
    up.until(lambda: sum(counted()) >= sum(before) + 60)
    assert min(after - earlier for after, earlier in zip(counted(), before, strict=True)) >= 10


def test_connections_of_a_stuck_worker_are_taken_by_the_other_one(page_origin: int, shared_up: Up) -> None:
    up = shared_up
    host = create_site(up, page_origin)
    check_served(up, host)
    stuck, running = up.worker_pids()
    with suspended(stuck):
        for _ in range(40):  # half of them would queue at the stuck worker
            check_served(up, host)
        assert set(up.worker_pids()) == {stuck, running}  # with --stuck-after 0, no process is killed
    # Both accept their own connections again.
    with suspended(running):
        for _ in range(20):
            check_served(up, host)


def test_stuck_workers_are_replaced_and_counted(page_origin: int, watched: Up) -> None:
    up = watched
    host = create_site(up, page_origin)
    check_served(up, host)
    before = up.worker_pids()
    with suspended(before[0]):
        wait_replaced(up, before, 1)
        check_served(up, host)
    assert before[1] in up.worker_pids()
    # Then all workers at once.
    up.well()
    stuck = up.worker_pids()
    with Viewers(up, host) as viewers:
        viewers.wait_for_answers()
        with suspended(*stuck):
            wait_replaced(up, stuck, 2)
        viewers.wait_for_answers()
    assert viewers.refused == 0
    assert not viewers.wrong
    killed = [before[0], *stuck]
    for pid in killed:
        message = f"(pid {pid}) has had no heartbeat for 3 seconds"
        up.until(lambda message=message: any(message in line for line in up.log))  # type: ignore[misc]
    os.kill(up.worker_pids()[0], signal.SIGKILL)
    up.until(lambda: sum(edge["restarts"] for edge in up.health()[1]["edges"]) == 4)
    assert sum(edge["killed"] for edge in up.health()[1]["edges"]) == 3
    up.well()
    lines = up.control("/metrics").body.decode().splitlines()
    restarts = [line for line in lines if line.startswith("keyfront_process_restarts_total")]
    assert sum(float(line.split()[-1]) for line in restarts if 'reason="stuck"' in line) == 3
    assert sum(float(line.split()[-1]) for line in restarts if 'reason="ended"' in line) == 1
    up.create_distribution(page_origin)


def test_a_stuck_control_plane_is_replaced_and_its_callers_only_wait(page_origin: int, watched: Up) -> None:
    up = watched
    host = create_site(up, page_origin)
    control = up.control_pid()
    with suspended(control):
        up.until(lambda: control not in up.children())
        # No process accepts yet, and no connection is refused.
        with socket.create_connection(("127.0.0.1", up.control_port), PATIENCE) as waiting:
            waiting.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert waiting.recv(12) == b"HTTP/1.1 200"
    up.create_distribution(page_origin)
    check_served(up, host)


def test_workers_that_are_killed_again_and_again_refuse_no_connection(page_origin: int, single: Up) -> None:
    up = single
    host = create_site(up, page_origin)
    logged = len(up.log)
    rounds = 4  # the pause between two starts doubles each time, up to a second
    with Viewers(up, host) as viewers:
        for _ in range(rounds):
            viewers.wait_for_answers()
            before = up.worker_pids()
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            socket.create_connection(("127.0.0.1", up.edge_port), PATIENCE).close()
            wait_replaced(up, before, 1)
        viewers.wait_for_answers()
    up.until(lambda: sum("restarting it" in line for line in up.log[logged:]) == rounds)
    assert not viewers.wrong
    assert viewers.refused == 0
    assert viewers.lost <= rounds * 4  # the connections that the killed workers had accepted


def test_a_killed_worker_loses_its_open_connections_and_nothing_else(page_origin: int, shared_up: Up) -> None:
    up = shared_up
    host = create_site(up, page_origin)
    logged = len(up.log)
    killed, other = up.worker_pids()
    with Viewers(up, host) as viewers:
        viewers.wait_for_answers()
        os.kill(killed, signal.SIGKILL)
        up.until(lambda: len(set(up.worker_pids()) - {killed}) == 2)
        viewers.wait_for_answers(100)
    assert not viewers.wrong
    assert viewers.refused == 0
    assert viewers.lost <= 4  # the connections that the killed worker had accepted
    assert other in up.worker_pids()
    # The new worker obeys the same snapshot and reports, so changes still deploy.
    up.create_distribution(page_origin)
    assert any("restarting it" in line for line in up.log[logged:])


def test_a_worker_that_gets_sigterm_hands_its_connections_over(page_origin: int, shared_up: Up) -> None:
    up = shared_up
    host = create_site(up, page_origin)
    with Viewers(up, host) as viewers:
        viewers.wait_for_answers()
        before = up.worker_pids()
        os.kill(before[0], signal.SIGTERM)
        up.until(lambda: len(set(up.worker_pids()) - {before[0]}) == 2)
        viewers.wait_for_answers()
    assert not viewers.wrong
    assert viewers.refused == 0
    assert viewers.lost <= 4  # accepted a moment before, and closed by the drain before they sent a request


def test_a_stuck_worker_does_not_delay_shutdown(watched: Up) -> None:
    up = watched
    up.well()
    with suspended(up.worker_pids()[0]):
        assert up.stop() == 0
