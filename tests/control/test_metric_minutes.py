"""Metrics by minute: nothing counted twice, nothing negative, whichever process restarts or vanishes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyfront.control.alarms import minutes
from keyfront.control.alarms.sampler import LAG, MetricSampler
from keyfront.control.store.store import Store
from keyfront.fleet.edge_counters import Series, Sums
from keyfront.fleet.file_feed import FileFeed
from keyfront.monitoring.metric_series import (
    CLOUDFRONT,
    KEYFRONT,
    Measurement,
    MetricId,
    samples_of,
    subject_of,
)
from keyfront.monitoring.statistics import combined, value
from tests.control.harness import BOTH, where

STORES = BOTH
MINUTE = 1_800_000_000
"""The first second of a minute."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(where(tmp_path))
    yield made
    made.close()


Machine = Callable[..., tuple[FileFeed, MetricSampler]]


@pytest.fixture
def machine(tmp_path: Path, store: Store) -> Machine:
    """A control plane on the store with its own feed."""

    def made(name: str, *, leads: bool = True) -> tuple[FileFeed, MetricSampler]:
        feed = FileFeed(tmp_path / name)
        return feed, MetricSampler(store, lambda: leads, feed)

    return made


def say(feed: FileFeed, run: str, *series: Series, edge: str = "edge-1") -> None:
    feed.report(edge, 1, at=MINUTE, counters=Sums(run=run, series=list(series)))


def requests(number: int, status: str = "200", result: str = "Hit", distribution: str = "E1") -> Series:
    return ("requests", (distribution, status, result, ""), (number,))


def ended(minute: int) -> float:
    """When the minute is sampled."""
    return MINUTE + (minute + 1) * 60 + LAG


def of(
    store: Store, name: str, statistic: str = "Sum", *, minutes_: int = 10, distribution: str = "E1"
) -> list[float | None]:
    """The metric in each of the first minutes."""
    names = (("DistributionId", distribution), ("Region", "Global"))
    return values(store, MetricId(CLOUDFRONT, name, names), statistic, minutes_)


def values(store: Store, metric: MetricId, statistic: str, count: int) -> list[float | None]:
    subject = subject_of(metric)
    assert subject is not None
    with store.read() as transaction:
        found = minutes.read(transaction, subject, MINUTE, MINUTE + count * 60)
    samples = [
        samples_of(metric, found[at]) if at in found else None
        for at in range(MINUTE, MINUTE + count * 60, 60)
    ]
    return [None if each is None else value(each, statistic) for each in samples]


def test_what_is_new_is_added_once(store: Store, machine: Machine) -> None:
    feed, sampler = machine("one")
    sampler.sample(ended(-1))
    say(feed, "a", requests(30), requests(10, "404", "Error"), requests(10, "503", "Error"))
    for _ in range(3):
        sampler.sample(ended(0))
    say(feed, "a", requests(80), requests(60, "404", "Error"), requests(10, "503", "Error"))
    sampler.sample(ended(1))
    sampler.sample(ended(2))
    assert of(store, "Requests", minutes_=4) == [50, 100, None, None]
    assert of(store, "4xxErrorRate", "Average", minutes_=3) == [20.0, 50.0, None]
    assert of(store, "5xxErrorRate", "Average", minutes_=2) == [20.0, 0.0]
    assert of(store, "TotalErrorRate", "Average", minutes_=2) == [40.0, 50.0]
    assert of(store, "404ErrorRate", "Average", minutes_=2) == [20.0, 50.0]
    assert of(store, "403ErrorRate", "Average", minutes_=2) == [0.0, 0.0]


def test_several_control_planes_add_to_the_same_minute(store: Store, machine: Machine) -> None:
    one, first = machine("one")
    two, second = machine("two", leads=False)
    first.sample(ended(-1))
    say(one, "a", requests(3))
    say(two, "b", requests(4))
    say(two, "c", requests(5, distribution="E2"), edge="edge-2")
    for sampler in (first, second, first, second):
        sampler.sample(ended(0))
    # The edge moves to the other control plane.
    say(two, "a", requests(9), edge="edge-9")
    for sampler in (first, second):
        sampler.sample(ended(1))
    assert of(store, "Requests", minutes_=2) == [7, 6]
    assert of(store, "Requests", minutes_=2, distribution="E2") == [5, None]


def test_an_edge_that_vanishes_or_starts_again_counts_from_zero(store: Store, machine: Machine) -> None:
    feed, sampler = machine("one")
    sampler.sample(ended(-1))
    say(feed, "a", requests(100))
    sampler.sample(ended(0))
    say(feed, "a", requests(110))
    feed.remove_report("edge-1")  # it shut down; its last report is still added
    say(feed, "b", requests(5))
    sampler.sample(ended(1))
    say(feed, "b", requests(2))  # a counter that fell, which no edge reports
    sampler.sample(ended(2))
    assert of(store, "Requests", minutes_=3) == [100, 15, None]


def test_a_new_control_plane_continues_where_another_stopped(store: Store, machine: Machine) -> None:
    feed, sampler = machine("one")
    sampler.sample(ended(-1))
    say(feed, "a", requests(10))
    sampler.sample(ended(0))
    say(feed, "a", requests(40))
    _, later = machine("one")
    later.sample(ended(3))  # three minutes passed without any
    assert of(store, "Requests", minutes_=4) == [10, 10, 10, 10]


def test_what_an_idle_edge_counts_belongs_to_the_minute(store: Store, machine: Machine) -> None:
    feed, sampler = machine("one")
    sampler.sample(ended(-1))
    say(feed, "a", requests(10))
    for minute in range(5):
        sampler.sample(ended(minute))
    say(feed, "a", requests(40))
    sampler.sample(ended(5))
    assert of(store, "Requests", minutes_=6) == [10, None, None, None, None, 30]


def test_a_long_gap_is_spread_over_an_hour_at_most(store: Store, machine: Machine) -> None:
    feed, sampler = machine("one")
    sampler.sample(ended(-1))
    say(feed, "a", requests(10))
    sampler.sample(ended(0))
    say(feed, "a", requests(130))
    sampler.sample(ended(100))
    found = of(store, "Requests", minutes_=101)
    assert found == [10, *[None] * 40, *[2] * 60]


def test_counts_from_before_a_long_gap_say_nothing(store: Store, machine: Machine) -> None:
    feed, sampler = machine("one")
    say(feed, "a", requests(1_000_000))  # an edge that has run for days, and a store that is new
    sampler.sample(ended(0))
    say(feed, "a", requests(1_000_007))
    sampler.sample(ended(1))
    assert of(store, "Requests", minutes_=2) == [None, 7]


def test_what_happens_within_a_minute_adds_up(store: Store, machine: Machine) -> None:
    """With a shorter sampling interval."""
    feed, sampler = machine("one")
    for second in range(10):
        say(feed, "a", requests(second * 10))
        sampler.sample(MINUTE + LAG + 1 + second)
    assert of(store, "Requests", minutes_=2) == [90, None]


class Source:
    def __init__(self) -> None:
        self.values = [3.0]

    def measurements(self, now: float) -> list[Measurement]:
        return [
            *(Measurement("KeyDaysLeft", each) for each in self.values),
            Measurement("KeyDaysLeft", 1.0, (("KeyPairId", "K1"),)),
            Measurement("KeyDaysLeft", 1.0, (("Unknown", "K1"),)),
            Measurement("NoSuchMetric", 1.0),
        ]


class Broken:
    def measurements(self, now: float) -> list[Measurement]:
        raise OSError("no such file")


def test_measurements_are_those_of_the_leader(
    store: Store, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source()
    for name, leads in (("one", True), ("two", False)):
        _, sampler = machine(name, leads=leads)
        sampler.sources += [Broken(), source]
        for at in (5, 10):
            sampler.sample(MINUTE + LAG + at)
    source.values = [7.0]
    _, sampler = machine("one")
    sampler.sources.append(source)
    sampler.sample(MINUTE + LAG + 20)
    whole = MetricId(KEYFRONT, "KeyDaysLeft")
    for statistic, expected in (("SampleCount", 3), ("Minimum", 3.0), ("Maximum", 7.0), ("Sum", 13.0)):
        assert values(store, whole, statistic, 2) == [expected, None]
    key = MetricId(KEYFRONT, "KeyDaysLeft", (("KeyPairId", "K1"),))
    assert values(store, key, "p50", 1) == [1.0]
    assert caplog.text.count("Broken could not be measured: no such file") == 1


def test_metrics_of_the_whole_installation(store: Store, machine: Machine) -> None:
    feed, sampler = machine("one")
    sampler.sample(ended(-1))
    say(
        feed, "a", requests(6), requests(4, distribution="E2"), ("log_records_lost", (), (2,)),
        ("denials", ("E1", "expired", "K1", "g"), (2,)), ("denials", ("E1", "unknown_key", "other", ""), (3,)),
        ("denials", ("E2", "unknown_key", "other", ""), (1,)), ("origin_failures", ("E2", "app", "refused"), (5,)),
    )  # fmt: skip
    sampler.sample(ended(0))
    expected = {
        ("Denials",): 6,
        ("Denials", ("DistributionId", "E1")): 5,
        ("Denials", ("DistributionId", "E1"), ("Reason", "expired")): 2,
        ("Denials", ("Reason", "unknown_key")): 4,
        ("DenialRate",): 60,
        ("UnknownKeyRequests",): 4,
        ("UnknownKeyRequests", ("DistributionId", "E2")): 1,
        ("OriginFailures",): 5,
        ("OriginFailures", ("DistributionId", "E1")): 0,
        ("LogRecordsLost",): 2,
    }
    for (name, *dimensions), number in expected.items():
        metric = MetricId(KEYFRONT, str(name), tuple(dimensions))  # type: ignore[arg-type]
        assert values(store, metric, "Average", 1) == [number], metric


def test_origin_latency_has_percentiles(store: Store, machine: Machine) -> None:
    feed, sampler = machine("one")
    sampler.sample(ended(-1))
    cells = [0] * 14
    cells[2], cells[4], cells[-1] = 90, 10, 90 * 7_000 + 10 * 40_000
    say(
        feed,
        "a",
        requests(100, result="Miss"),
        ("origin_response_duration_seconds", ("E1", "app"), tuple(cells)),
    )
    sampler.sample(ended(0))
    assert of(store, "OriginLatency", "Average", minutes_=1) == [pytest.approx(10.3)]
    assert of(store, "OriginLatency", "p90", minutes_=1) == [10.0]
    assert of(store, "OriginLatency", "p95", minutes_=1) == [37.5]
    assert of(store, "CacheHitRate", "Average", minutes_=1) == [0.0]


def test_a_report_that_no_edge_writes_is_ignored(store: Store, machine: Machine) -> None:
    feed, sampler = machine("one")
    sampler.sample(ended(-1))
    bad: list[Series] = [
        requests(-1),
        requests(1 << 60),
        requests(5, distribution="E" * 200),
        ("requests", ("E1",), (5,)),
        ("no_such_family", (), (5,)),
    ]
    for number, each in enumerate(bad):
        say(feed, f"r{number}", each, edge=f"edge-{number}")
    say(feed, "good", requests(2), edge="edge-9")
    feed.report("edge-10", 1, at=MINUTE, counters={"series": "x"})
    sampler.sample(ended(0))
    assert of(store, "Requests", minutes_=1) == [2]


def test_what_is_stored_is_bounded(store: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    feed, sampler = machine("one")
    sampler.sample(ended(-1))
    for number in range(8):
        say(feed, "a", requests(number + 1), requests(number + 1, distribution="E2"))
        sampler.sample(ended(number))
    monkeypatch.setattr(minutes, "MOST_ROWS", 12)
    with store.write_relaxed() as transaction:
        minutes.prune(transaction, ended(7))
        assert len(minutes.read(transaction, "", MINUTE, MINUTE + 600)) == 3
        assert minutes.subjects(transaction, MINUTE) == ["", "E1", "E2"]
        minutes.prune(transaction, ended(7) + minutes.RETENTION + 60)
        assert minutes.subjects(transaction, 0) == []
    assert combined([]) is None
