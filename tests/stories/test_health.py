"""`GET /healthz`: 200 only while every component on the machine can do its work; otherwise the reason. Replaced
workers are in `test_stuck.py`."""

from __future__ import annotations

import resource

from tests.up import Up, suspended


def is_failing(up: Up, check: str, reason: str) -> bool:
    status, body = up.health()
    return (
        status == 503 and body["status"] == "failing" and reason in "; ".join(body["reasons"].get(check, []))
    )


def forbid_growth(*pids: int) -> list[tuple[int, tuple[int, int]]]:
    """From now on, no file of these processes can grow, as on a full disk. Returns the previous limits."""
    return [(pid, resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))) for pid in pids]


def test_one_stuck_worker_and_all_of_them(page_origin: int, shared_up: Up) -> None:
    up = shared_up
    up.well()
    first, second = up.worker_pids()
    with suspended(first):
        up.until(lambda: is_failing(up, "edges", "does not respond"))
        with suspended(second):
            up.until(lambda: len(up.health()[1]["reasons"].get("edges", [])) == 2)
            assert up.health()[0] == 503
    up.well()


def test_a_full_disk(page_origin: int, shared_up: Up) -> None:
    up = shared_up
    up.well()
    host = up.create_distribution(page_origin)["DomainName"]
    logged = len(up.log)
    before = forbid_growth(up.control_pid())
    up.until(lambda: is_failing(up, "data folder", "cannot be written"))
    up.until(lambda: is_failing(up, "store", "not available"))
    before += forbid_growth(*up.worker_pids())
    up.until(lambda: is_failing(up, "edges", "cannot write its report"))
    assert up.get(host, "/a").status == 200  # viewers are still served
    up.until(lambda: is_failing(up, "edges", "cannot write the access log"))
    assert up.control("/livez").status == 200
    for pid, limits in before:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    up.get(host, "/a")
    up.well()
    assert not any("restarting it" in line for line in up.log[logged:])


def test_an_edge_that_refuses_the_published_snapshot(page_origin: int, shared_up: Up) -> None:
    up = shared_up
    up.well()
    up.create_distribution(page_origin)
    (up.data / "snapshot").write_bytes(b"garbage")
    up.until(lambda: is_failing(up, "edges", "refused a snapshot"))
    up.create_distribution(page_origin)
    up.well()
