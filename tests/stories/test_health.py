"""`GET /healthz`: 200 only while every component on the machine can do its work; otherwise the reason."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stories.test_stuck import app, distribution, stopped
from tests.up import PATIENCE, Up

__all__ = ["app"]


pytestmark = pytest.mark.xdist_group("health")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A Keyfront in which no process is killed."""
    with Up(tmp_path_factory.mktemp("health") / "data", options=("--stuck-after", "0")) as up:
        yield up


def health(up: Up) -> tuple[int, dict[str, Any]]:
    found = up.control("/healthz")
    return found.status, json.loads(found.body)


def well(up: Up) -> bool:
    status, body = health(up)
    return status == 200 and body["status"] == "ok" and not body["reasons"]


def ill(up: Up, check: str, says: str) -> bool:
    status, body = health(up)
    return status == 503 and body["status"] == "failing" and says in "; ".join(body["reasons"].get(check, []))


def control_pid(up: Up) -> int:
    return (set(up.children()) - set(up.worker_pids())).pop()


def no_room(*pids: int) -> list[tuple[int, tuple[int, int]]]:
    """From now on, no file of these processes can grow, as on a full disk."""
    return [(pid, resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))) for pid in pids]


def test_one_stuck_worker_and_all_of_them(app: int, running: Up) -> None:
    up = running
    distribution(up, app)
    up.until(lambda: well(up), PATIENCE)
    first, second = up.worker_pids()
    with stopped(first):
        up.until(lambda: ill(up, "edges", "does not respond"), PATIENCE)
        with stopped(second):
            up.until(lambda: len(health(up)[1]["reasons"].get("edges", [])) == 2, PATIENCE)
            assert health(up)[0] == 503
    up.until(lambda: well(up), PATIENCE)


def test_a_replaced_worker_is_counted_and_all_is_well_again(app: int, tmp_path: Path) -> None:
    with Up(tmp_path / "data", options=("--stuck-after", "3")) as up:
        distribution(up, app)
        os.kill(up.worker_pids()[0], signal.SIGKILL)
        up.until(lambda: sum(edge["restarts"] for edge in health(up)[1]["edges"]) == 1, PATIENCE)
        with stopped(up.worker_pids()[0]):
            up.until(lambda: sum(edge["killed"] for edge in health(up)[1]["edges"]) == 1, PATIENCE)
        up.until(lambda: well(up), PATIENCE)
        metrics = up.control("/metrics").body.decode()
        counted = [
            line for line in metrics.splitlines() if line.startswith("keyfront_process_restarts_total")
        ]
        assert sum(float(line.split()[-1]) for line in counted if 'reason="stuck"' in line) == 1
        assert sum(float(line.split()[-1]) for line in counted if 'reason="ended"' in line) == 1


def test_a_full_disk(app: int, running: Up) -> None:
    up = running
    host = distribution(up, app)
    up.until(lambda: well(up), PATIENCE)
    control = control_pid(up)
    before = no_room(control)
    up.until(lambda: ill(up, "data folder", "cannot be written"), PATIENCE)
    up.until(lambda: ill(up, "store", "not available"), PATIENCE)
    before += no_room(*up.worker_pids())
    up.until(lambda: ill(up, "edges", "cannot write its report"), PATIENCE)
    assert up.get(host, "/a").status == 200  # viewers are still served
    up.until(lambda: ill(up, "edges", "cannot write the access log"), PATIENCE)
    assert up.control("/livez").status == 200
    for pid, limits in before:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    up.get(host, "/a")
    up.until(lambda: well(up), PATIENCE)
    # No process was restarted for it.
    assert not any("restarting it" in line for line in up.log)


def test_an_edge_that_refuses_what_is_published(app: int, running: Up) -> None:
    up = running
    up.well()
    distribution(up, app)
    (up.data / "snapshot").write_bytes(b"garbage")
    up.until(lambda: ill(up, "edges", "refused a snapshot"), PATIENCE)
    distribution(up, app)
    up.until(lambda: well(up), PATIENCE)
