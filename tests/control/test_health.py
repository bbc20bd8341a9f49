"""The checks behind `/healthz`, and how they are combined."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from keyfront.control.store.store import Store
from keyfront.control.wire import health
from keyfront.control.wire.health import CALLS_SLOW, Calls, EdgeWorkers, Health, committable, writable
from keyfront.errors import ApiError
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.heartbeat import SILENT, Board, Trouble


def failing() -> Iterable[str]:
    yield "one"
    yield "two"


def test_all_is_well() -> None:
    well, body = asyncio.run(Health({"a": lambda: ()}, lambda: {"more": 1}).answer())
    assert (well, body) == (True, {"status": "ok", "reasons": {}, "more": 1})


def test_each_reason_is_told() -> None:
    well, body = asyncio.run(Health({"a": failing, "b": lambda: ()}).answer())
    assert (well, body) == (False, {"status": "failing", "reasons": {"a": ["one", "two"]}})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ApiError("ServiceUnavailable", "The store is away.", 503), "The store is away."),
        (OSError(28, "No space left on device", "/secret/path"), "No space left on device"),
        (KeyError("a secret"), "the check failed: KeyError"),
    ],
)
def test_a_check_that_fails_itself_is_a_reason(error: Exception, message: str) -> None:
    def broken() -> Iterable[str]:
        raise error

    assert asyncio.run(Health({"a": broken}).answer())[1]["reasons"] == {"a": [message]}


def test_a_check_that_hangs_is_a_reason_and_is_not_begun_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ANSWER", 0.05)
    monkeypatch.setattr(health, "FRESH", 0.0)
    release, begun = threading.Event(), []

    def hangs() -> Iterable[str]:
        begun.append(1)
        release.wait(60)
        return ()

    async def ask() -> None:
        health = Health({"a": hangs, "b": lambda: ()})
        for _ in range(5):
            assert list((await health.answer())[1]["reasons"]) == ["a"]
        release.set()
        while not (await health.answer())[0]:
            await asyncio.sleep(0.01)

    asyncio.run(ask())
    assert begun.count(1) <= 3


def test_many_who_ask_at_once_are_one_look() -> None:
    looked = []

    def look() -> Iterable[str]:
        looked.append(1)
        return ()

    async def ask() -> None:
        health = Health({"a": look})
        await asyncio.gather(*(health.answer() for _ in range(50)))

    asyncio.run(ask())
    assert len(looked) == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert list(writable(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
    assert list(writable(tmp_path / "none")) == ["cannot be written: No such file or directory"]


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "keyfront.db")
    assert list(committable(store)) == []
    assert list(committable(store)) == []
    with sqlite3.connect(tmp_path / "keyfront.db") as other:
        other.execute("UPDATE counter SET value = 99 WHERE name = 'schema'")
        other.execute("DROP TABLE lease")
    other.close()
    assert "not available" in next(iter(committable(store)))
    store.close()


def test_calls_that_do_not_end() -> None:
    calls = Calls(2)
    calls.begin(0.0)
    assert calls.held_up(1000.0) == 0.0  # a thread is free
    calls.begin(1000.0)
    calls.begin(1001.0)
    assert calls.held_up(1000.0 + CALLS_SLOW) == CALLS_SLOW
    calls.end(1050.0)
    assert calls.held_up(1060.0) == 10.0  # one ended in the meantime
    calls.end(1061.0)
    assert calls.held_up(2000.0) == 0.0


class Machine:
    """A heartbeat board with two workers, and the feed that they report to."""

    def __init__(self, folder: Path) -> None:
        self.board = Board.create(3)
        self.feed = FileFeed(folder)
        self.workers = EdgeWorkers(self.board, ("edge-1", "edge-2"), self.feed)

    def beat(self, *slots: int, at: float) -> None:
        for slot in slots:
            self.board.beat(slot, at)
        self.workers.note_heartbeats(at)


def test_workers_that_do_not_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "time", lambda: clock[0])
    for name in ("edge-1", "edge-2"):
        machine.feed.report(name, 0, at=1000.0)
    machine.beat(0, 1, at=1000.0)
    assert list(machine.workers.reasons()) == []
    clock[0] += SILENT + 1
    machine.beat(0, at=clock[0])
    assert list(machine.workers.reasons()) == ["edge-2 does not respond"]
    machine.board.clear(1)
    assert list(machine.workers.reasons()) == ["edge-2 is not running"]
    machine.beat(1, at=clock[0])
    machine.board.set_trouble(1, Trouble.ACCESS_LOG | Trouble.CACHE_DISK)
    assert list(machine.workers.reasons()) == ["edge-2 cannot write the access log"]
    assert "edge-2 cannot write the cache on disk" in machine.workers.details()["notes"][0]
    machine.board.set_trouble(1, Trouble(0))
    clock[0] += 10
    machine.beat(0, 1, at=clock[0])
    machine.feed.report("edge-1", 0, at=clock[0], refused="it is older")
    machine.feed.report("at-elsewhere-80-1", 0, at=clock[0], refused="it is older")
    assert list(machine.workers.reasons()) == [
        "edge-1 refused a snapshot: it is older",
        "edge-2 has not reported for 5 seconds",
    ]
    assert [edge["name"] for edge in machine.workers.details()["edges_elsewhere"]] == ["at-elsewhere-80-1"]


def test_workers_that_beat_are_well_before_the_first_note_of_them(tmp_path: Path) -> None:
    """A request may arrive right after the start, before the first check."""
    machine = Machine(tmp_path)
    for slot in (0, 1):
        machine.board.beat(slot, time.monotonic())
        machine.feed.report(f"edge-{slot + 1}", 0, at=time.time())
    assert list(machine.workers.reasons()) == []


def test_a_worker_that_is_being_replaced_is_no_reason_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    machine.beat(0, 1, at=1000.0)
    machine.board.clear(0)
    machine.board.clear(1)
    clock[0] += SILENT - 0.5
    assert list(machine.workers.reasons()) == []
    clock[0] += 1
    assert len(list(machine.workers.reasons())) == 2
