"""The counters of workers in shared memory: series, limits, and continuing after a kill."""

from __future__ import annotations

import mmap
import os
import signal
import sys
from collections.abc import Iterator

import msgspec
import pytest

from keyfront.fleet import counter_table
from keyfront.fleet.counter_bounds import check_counters
from keyfront.fleet.counter_table import BANK, FRESH, CounterMemory, CounterTable
from keyfront.fleet.edge_counters import (
    CONNECTIONS,
    EVICTIONS,
    FAMILIES,
    LIMITS,
    OTHER,
    REQUESTS,
    SNAPSHOT,
    VERIFY,
    Series,
    Sums,
)
from keyfront.monitoring.edge_metrics import merged

HIT = ("E1", "200", "Hit", "")
NOW = 1000.0


@pytest.fixture
def memory() -> Iterator[CounterMemory]:
    made = CounterMemory.create()
    yield made
    made.close()


def add(table: CounterTable, labels: tuple[str, ...], number: int = 1) -> None:
    table.cells[table.of(REQUESTS)[labels]] += number


def total(memory: CounterMemory, name: str = "requests", labels: tuple[str, ...] = HIT) -> int:
    return merged(memory.read(NOW))[name][labels][0]


def only(series: list[Series], name: str) -> list[Series]:
    return [one for one in series if one[0] == name]


def test_what_workers_count_is_added_up(memory: CounterMemory) -> None:
    first, second = CounterTable.attached(memory.fd, 0), CounterTable.attached(memory.fd, BANK + 3)
    add(second, ("E2", "404", "Error", ""), 7)  # so that series have other places there
    add(first, HIT, 2)
    add(second, HIT, 3)
    assert total(memory) == 5
    assert total(memory, labels=("E2", "404", "Error", "")) == 7


def test_the_next_worker_continues(memory: CounterMemory) -> None:
    before = CounterTable.attached(memory.fd, 0)
    add(before, HIT, 2)
    before.advance(EVICTIONS, (), 5)
    before.advance(LIMITS, ("requests",), 1)
    after = CounterTable.attached(memory.fd, 0)
    assert after.since_start() == [("cache_evictions", (), (0,))]
    add(after, HIT)
    add(after, ("E1", "304", "Hit", ""))
    after.advance(EVICTIONS, (), 2)
    after.advance(EVICTIONS, (), 3)
    after.advance(LIMITS, ("connections",), 4)
    assert total(memory) == 3
    assert total(memory, "cache_evictions", ()) == 8
    assert total(memory, "limit_reached", ("requests",)) == 1
    assert only(after.since_start(), "requests") == [
        ("requests", HIT, (1,)),
        ("requests", ("E1", "304", "Hit", ""), (1,)),
    ]
    assert only(after.since_start(), "cache_evictions") == [("cache_evictions", (), (3,))]


def test_a_worker_that_is_killed_while_it_adds_a_series_breaks_nothing(memory: CounterMemory) -> None:
    """The name is complete, and its integer is not in use yet."""
    table = CounterTable.attached(memory.fd, 0)
    add(table, HIT, 2)
    header = memoryview(mmap.mmap(memory.fd, mmap.PAGESIZE)).cast("q")
    used = header[1]
    table.of(REQUESTS)["E9", "200", "Hit", ""]
    header[1] = used
    assert total(memory) == 2
    after = CounterTable.attached(memory.fd, 0)
    add(after, ("E3", "200", "Hit", ""), 5)
    add(after, HIT)
    assert total(memory) == 3
    assert total(memory, labels=("E3", "200", "Hit", "")) == 5
    assert ("E9", "200", "Hit", "") not in merged(memory.read(NOW))["requests"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork without threads")
def test_kill_9_loses_nothing_that_was_added(memory: CounterMemory) -> None:
    pid = os.fork()
    if pid == 0:
        table = CounterTable.attached(memory.fd, 0)
        for number in range(100):
            add(table, (f"E{number}", "200", "Hit", ""))
            add(table, HIT)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert total(memory) == 101
    assert len(merged(memory.read(NOW))["requests"]) == 100


def test_series_beyond_the_limit_are_added_to_other(memory: CounterMemory) -> None:
    table = CounterTable.attached(memory.fd, 0)
    for number in range(REQUESTS.limit + 100):
        add(table, (f"E{number}", "200", "Hit", ""))
    add(table, ("E5", "200", "Hit", ""), 10)
    add(table, ("E99999", "200", "Hit", ""), 10)
    found = merged(memory.read(NOW))["requests"]
    assert len(found) == REQUESTS.limit + 1
    assert found[(OTHER,) * 4] == (110,)
    assert found["E5", "200", "Hit", ""] == (11,)
    assert sum(cells[0] for cells in found.values()) == REQUESTS.limit + 120


def test_all_families_fit_up_to_their_limits() -> None:
    table = CounterTable.private()
    for family in FAMILIES:
        for number in range(family.limit + 1):
            table.of(family)[tuple(f"{number:036d}" for _ in family.labels)]
        assert len(table.of(family)) == family.limit + bool(family.labels)


def test_labels_that_a_control_plane_would_refuse_are_other() -> None:
    table = CounterTable.private()
    for label in ("x" * 256, "x" * 257, "a\u00a0b", "a\nb", "\ud800"):
        add(table, (label, "200", "Hit", ""))
    assert only(table.since_start(), "requests") == [
        ("requests", ("x" * 256, "200", "Hit", ""), (1,)),
        ("requests", (OTHER,) * 4, (4,)),
    ]


def test_the_longest_names_leave_room_for_other() -> None:
    """With labels of the greatest length, there is less room than the limits allow; nothing is lost then."""
    table = CounterTable.private()
    for number in range(REQUESTS.limit):
        add(table, (f"{number:0256d}",) * 4)
    for number in range(3):
        table.cells[table.of(LIMITS)[f"{number}",]] += 1
    found = only(table.since_start(), "requests")
    assert sum(cells[0] for _, _, cells in found) == REQUESTS.limit
    assert 2000 < len(found) < REQUESTS.limit


def test_a_control_plane_accepts_a_report_with_every_series_that_there_can_be() -> None:
    table = CounterTable.private()
    for family in FAMILIES:
        for number in range(family.limit + 2):
            labels = tuple(f"{number}" for _ in family.labels)
            table.cells[table.of(family)[labels]] += 1
    check_counters(msgspec.json.encode(Sums(series=table.since_start())))


def test_a_histogram() -> None:
    table = CounterTable.private()
    for value in (0, 10, 11, 100_000, 100_001, 7):
        table.of(VERIFY).observe((), value)
    [(_, _, cells)] = only(table.since_start(), "verify_duration_seconds")
    assert cells == (3, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 200_029)


def test_gauges_of_a_worker_that_does_not_measure_are_ignored(memory: CounterMemory) -> None:
    one, two = CounterTable.attached(memory.fd, 0), CounterTable.attached(memory.fd, 1)
    for table, snapshot in ((one, 7), (two, 9)):
        table.set(CONNECTIONS, 3)
        table.set(SNAPSHOT, snapshot)
        table.measured(NOW)
    assert merged(memory.read(NOW + FRESH))["connections"] == {(): (6,)}
    assert merged(memory.read(NOW + FRESH))["snapshot_number"] == {(): (7,)}
    one.measured(0.0)
    assert merged(memory.read(NOW))["connections"] == {(): (3,)}
    assert merged(memory.read(NOW))["snapshot_number"] == {(): (9,)}
    two.measured(NOW - FRESH - 1)
    assert "connections" not in merged(memory.read(NOW))
    successor = CounterTable.attached(memory.fd, 1)
    successor.measured(NOW)
    assert "connections" not in merged(memory.read(NOW))


def test_a_slot_of_another_version_starts_again(
    memory: CounterMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(CounterTable.attached(memory.fd, 0), HIT, 9)
    monkeypatch.setattr(counter_table, "_FINGERPRINT", counter_table._FINGERPRINT + 1)
    assert CounterMemory(os.dup(memory.fd)).read(NOW) == []
    table = CounterTable.attached(memory.fd, 0)
    add(table, ("E2", "200", "Hit", ""))
    assert merged(CounterMemory(os.dup(memory.fd)).read(NOW))["requests"] == {("E2", "200", "Hit", ""): (1,)}
