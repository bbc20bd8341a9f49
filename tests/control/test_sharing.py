"""Shared credentials: merged over workers and edges, judged, stored, and bounded."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyfront.control.sharing import findings
from keyfront.control.sharing import panes as module
from keyfront.control.sharing.panes import MOST_CREDENTIALS, Panes
from keyfront.control.sharing.watch import UPDATE, WINDOW, SharingWatch
from keyfront.control.store.store import Store
from keyfront.errors import SettingsError
from keyfront.fleet.counter_bounds import check_counters
from keyfront.fleet.credential_use import HASH_BITS, PANE, PANES, CredentialUse, K
from keyfront.fleet.edge_counters import Sums
from keyfront.fleet.feed import Report
from keyfront.fleet.file_feed import FileFeed
from keyfront.monitoring.anomalies import SharingThresholds
from tests.control.harness import BOTH, where
from tests.rows import rows

STORES = BOTH
NOW = 1_800_000_000.0
HERE = int(NOW) // PANE
THRESHOLDS = SharingThresholds(networks=10, countries=0, agents=0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(where(tmp_path))
    yield made
    made.close()


def seen(
    networks: range, name: str = "c1", *, pane: int = HERE, requests: int = 0, label: str = "ada"
) -> CredentialUse:
    return CredentialUse(
        name, label, "K1", "E1", pane, list(networks), [1], ["DE"], requests or len(networks), 100
    )


class Feeds:
    """The reports of several workers, through a feed."""

    def __init__(self, folder: Path) -> None:
        self._feed = FileFeed(folder)

    def say(self, run: str, *uses: CredentialUse, at: float = NOW) -> None:
        counters = Sums(run=run, credentials=list(uses))
        self._feed.report(f"edge-{run}", 1, at=at, counters=counters)

    def full_reports(self, now: float | None = None) -> list[Report]:
        return self._feed.reports(now)


@pytest.fixture
def feeds(tmp_path: Path) -> Feeds:
    return Feeds(tmp_path / "feed")


def found(store: Store) -> dict[str, tuple[int, int]]:
    with store.read() as transaction:
        return {
            each.credential: (each.now.networks, each.most.networks)
            for each in findings.newest(transaction, 99)
        }


def test_what_each_edge_sees_is_too_little_and_together_it_is_enough(store: Store, feeds: Feeds) -> None:
    watch = SharingWatch(store, feeds, THRESHOLDS)
    feeds.say("a", seen(range(6)))
    watch.gather(NOW)
    assert found(store) == {}
    feeds.say("b", seen(range(4, 10)))
    watch.gather(NOW)
    assert found(store) == {"c1": (10, 10)}


def test_panes_of_an_hour_count_together_and_older_ones_do_not(store: Store, feeds: Feeds) -> None:
    watch = SharingWatch(store, feeds, THRESHOLDS)
    for pane in range(3):
        now = NOW + pane * PANE
        feeds.say("a", seen(range(4 * pane, 4 * pane + 4), pane=HERE + pane), at=now)
        watch.gather(now)
    assert found(store) == {"c1": (12, 12)}
    later = NOW + (PANES + 1) * PANE
    feeds.say("a", seen(range(50, 58), "c2", pane=int(later) // PANE), at=later)
    watch.gather(later)
    assert set(found(store)) == {"c1"}


def test_a_report_that_is_read_again_changes_nothing(store: Store, feeds: Feeds) -> None:
    watch = SharingWatch(store, feeds, THRESHOLDS)
    feeds.say("a", seen(range(12), requests=40))
    for second in range(3):
        watch.gather(NOW + second)
    with store.read() as transaction:
        link = findings.newest(transaction, 9)[0]
    assert (link.now.requests, link.now.bytes, link.first, link.last) == (40, 100, NOW, NOW)
    assert (link.label, link.key_pair_ids, link.distributions) == ("ada", ("K1",), ("E1",))
    assert link.thresholds == {"networks": 10}


def test_it_is_logged_once_and_without_a_secret(
    store: Store, feeds: Feeds, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "keyfront.control"):
        watch = SharingWatch(store, feeds, THRESHOLDS)
        for at in range(4):
            now = NOW + at * UPDATE
            feeds.say("a", seen(range(12 + at), pane=int(now) // PANE), at=now)
            watch.gather(now)
        # Another control plane, or this one after a restart.
        SharingWatch(store, feeds, THRESHOLDS).gather(NOW + 3 * UPDATE)
    assert [record.getMessage() for record in caplog.records] == [
        "the credential c1 (label ada) of key K1 is shared: within an hour, it was used with 12 networks (threshold 10)"
    ]


def test_it_survives_a_restart_and_the_highest_values_stay(store: Store, feeds: Feeds) -> None:
    feeds.say("a", seen(range(30)))
    SharingWatch(store, feeds, THRESHOLDS).gather(NOW)
    later = NOW + 3 * WINDOW
    feeds.say("b", seen(range(11), pane=int(later) // PANE), at=later)
    watch = SharingWatch(store, feeds, THRESHOLDS)
    watch.gather(later)
    assert found(store) == {"c1": (11, 30)}
    with store.read() as transaction:
        link = findings.newest(transaction, 9)[0]
    assert (link.first, link.last) == (NOW, later)
    assert [each.value for each in watch.measurements(later)] == [1.0]
    assert [each.value for each in watch.measurements(later + WINDOW + 1)] == [0.0]
    assert [sample.value for each in watch.describe() for sample in each.samples] == []


def test_findings_are_bounded(store: Store, feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "MOST", 5)
    feeds.say("a", *(seen(range(12), f"c{number}") for number in range(9)))
    watch = SharingWatch(store, feeds, THRESHOLDS)
    watch.gather(NOW)
    later = NOW + WINDOW
    feeds.say("a", seen(range(12), "new", pane=int(later) // PANE), at=later)
    watch.gather(later)
    assert len(found(store)) <= 5
    assert "new" in found(store)
    with store.write() as transaction:
        findings.prune(transaction, later + findings.RETENTION + 1)
    assert found(store) == {}


def test_the_order_of_reports_makes_no_difference() -> None:
    generator = random.Random(3)
    uses = []
    for run in range(5):
        for pane in range(3):  # what a worker reports of a pane only grows
            first = generator.randrange(40)
            uses += [
                (f"run{run}", seen(range(first, first + size), pane=HERE - pane)) for size in range(1, 9)
            ]
    results = set()
    for _ in range(5):
        generator.shuffle(uses)
        panes = Panes()
        for name, use in uses + uses:
            panes.add(name, [use], NOW)
        results.add(tuple(each.evidence for each in panes.uses()))
    assert len(results) == 1


def test_a_flood_of_reports_is_bounded_and_leaves_what_is_shared_most() -> None:
    panes = Panes()
    panes.add("honest", [seen(range(40), "shared")], NOW)
    for number in range(2 * MOST_CREDENTIALS):
        panes.add("flood", [seen(range(2), f"flood{number}")], NOW)
    uses = list(panes.uses())
    assert len(uses) <= MOST_CREDENTIALS
    assert max(use.evidence.networks for use in uses) == 40


def test_an_edge_that_lies_takes_no_more_than_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OF_AN_EDGE", 3)
    monkeypatch.setattr(module, "MOST_COUNTS", 5)
    window = Panes()
    window.add("local", [seen(range(12), "known")], NOW)
    for number in range(50):
        window.add(f"liar:{number}", [seen(range(number, number + 2), "known")], NOW)
        window.add(f"liar:{number}", [seen(range(64), f"made-up{number}", requests=2**52)], NOW)
    window.add("honest:a", [seen(range(15), "other")], NOW)
    uses = {each.credential: each.evidence for each in window.uses()}
    assert set(uses) == {"known", "other", "made-up0", "made-up1", "made-up2"}
    assert uses["other"].networks == 15
    # Its sets are united also when its counts are not added any more.
    assert uses["known"].networks == 51
    assert uses["known"].requests < 12 + 2 * 5


def test_panes_of_another_time_are_ignored() -> None:
    panes = Panes()
    for pane in (0, HERE - PANES, HERE + 2, 1 << 52):
        panes.add("a", [seen(range(9), pane=pane)], NOW)
    assert list(panes.uses()) == []


@rows(
    "use",
    [
        CredentialUse("c", "", "K", "E", HERE, list(range(K + 1)), [], [], 1, 1),
        CredentialUse("c", "", "K", "E", HERE, [1 << HASH_BITS], [], [], 1, 1),
        CredentialUse("c", "", "K", "E", HERE, [-1], [], [], 1, 1),
        CredentialUse("c", "", "K", "E", HERE, [1], [], ["DE"] * 33, 1, 1),
        CredentialUse("c" * 300, "", "K", "E", HERE, [1], [], [], 1, 1),
        CredentialUse("c", "a\nb", "K", "E", HERE, [1], [], [], 1, 1),
        CredentialUse("c", "", "K", "E", HERE, [1], [], [], -1, 1),
        CredentialUse("c", "", "K", "E", HERE, [1], [], [], 1, 1 << 53),
    ],
)
def test_what_no_honest_edge_reports_is_refused(use: CredentialUse) -> None:
    import msgspec

    check_counters(msgspec.json.encode(Sums(credentials=[seen(range(3))])))
    with pytest.raises(SettingsError):
        check_counters(msgspec.json.encode(Sums(credentials=[use])))
