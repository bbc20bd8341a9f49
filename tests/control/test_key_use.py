"""Key use as seen by edges, added up: nothing counted twice, nothing lost, whichever process restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyfront.cloudfront.key_usage import KeyUse, KeyUses
from keyfront.control.keys.usage import KEY_RETENTION, KeyUsageCollector, uses
from keyfront.control.store.store import Store
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.key_counters import KeyCounts
from tests.control.harness import BOTH, where

STORES = BOTH
NOW = 1_800_000_000.0
HOUR = 3600.0

Machine = Callable[[str], tuple[FileFeed, KeyUsageCollector]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(where(tmp_path))
    yield made
    made.close()


@pytest.fixture
def machine(tmp_path: Path, store: Store) -> Machine:
    """A control plane on the store with its own feed."""

    def made(name: str) -> tuple[FileFeed, KeyUsageCollector]:
        feed = FileFeed(tmp_path / name)
        return feed, KeyUsageCollector(store, feed)

    return made


def say(
    feed: FileFeed, run: str, *keys: tuple[str, str, str, int], at: float = NOW, edge: str = "edge-1"
) -> None:
    feed.report(edge, 1, at=at, counters=KeyCounts(run, list(keys)))


def known(store: Store, now: float = NOW) -> KeyUses:
    with store.read() as transaction:
        return uses(transaction, now)


def use(store: Store, key: str, now: float = NOW) -> KeyUse:
    found = known(store, now).of(key)
    assert found is not None
    return found


def test_what_is_new_is_added_once(store: Store, machine: Machine) -> None:
    feed, gatherer = machine("one")
    say(feed, "a", ("K1", "SHA1", "E1", 3), ("K2", "SHA256", "E1", 1))
    for _ in range(3):
        gatherer.gather(NOW)
    say(feed, "a", ("K1", "SHA1", "E1", 5), ("K1", "SHA1", "E2", 4), ("K2", "SHA256", "E1", 1), at=NOW + 10)
    gatherer.gather(NOW + 10)
    gatherer.gather(NOW + 20)
    found = use(store, "K1", NOW + 20)
    assert (found.requests, found.first_seen, found.last_seen) == (9, NOW, NOW + 10)
    assert {name: each.requests for name, each in found.distributions.items()} == {"E1": 5, "E2": 4}
    assert {name: each.requests for name, each in found.hashes.items()} == {"SHA1": 9}
    assert found.share == pytest.approx(0.9)
    other = use(store, "K2", NOW + 20)
    assert (other.requests, other.last_seen) == (1, NOW)
    assert known(store).of("K3") is None
    assert known(store).since == NOW


def test_an_edge_that_starts_again_begins_with_nothing(store: Store, machine: Machine) -> None:
    feed, gatherer = machine("one")
    say(feed, "a", ("K1", "SHA1", "E1", 5))
    gatherer.gather(NOW)
    say(feed, "b", ("K1", "SHA1", "E1", 5))  # under the same name, without a clean shutdown
    gatherer.gather(NOW)
    assert use(store, "K1").requests == 10


def test_what_an_edge_counted_last_is_taken_from_what_it_left(store: Store, machine: Machine) -> None:
    feed, gatherer = machine("one")
    say(feed, "a", ("K1", "SHA1", "E1", 5))
    gatherer.gather(NOW)
    say(feed, "a", ("K1", "SHA1", "E1", 7))
    feed.remove_report("edge-1")
    say(feed, "b", ("K1", "SHA1", "E1", 1))
    gatherer.gather(NOW)
    gatherer.gather(NOW)
    assert use(store, "K1").requests == 8
    assert feed.ended() == []


def test_an_edge_that_is_not_live_any_more_counts_too(store: Store, machine: Machine) -> None:
    """As when everything was killed, and the next start finds old reports."""
    feed, gatherer = machine("one")
    say(feed, "a", ("K1", "SHA1", "E1", 5), at=NOW - 1000)
    gatherer.gather(NOW)
    assert (use(store, "K1").requests, use(store, "K1").last_seen) == (5, NOW - 1000)


def test_a_control_plane_that_starts_again_goes_on(store: Store, machine: Machine) -> None:
    feed, gatherer = machine("one")
    say(feed, "a", ("K1", "SHA1", "E1", 5))
    gatherer.gather(NOW)
    _, again = machine("one")
    again.gather(NOW)
    say(feed, "a", ("K1", "SHA1", "E1", 6))
    again.gather(NOW)
    assert use(store, "K1").requests == 6


def test_a_crash_between_the_store_and_the_feed(
    store: Store, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts are stored, and the edge's leftover report was not yet removed."""
    feed, gatherer = machine("one")
    say(feed, "a", ("K1", "SHA1", "E1", 5))
    feed.remove_report("edge-1")
    with monkeypatch.context() as patched:
        patched.setattr(feed, "forget", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gatherer.gather(NOW)
    feed, again = machine("one")
    again.gather(NOW)
    assert use(store, "K1").requests == 5
    assert feed.ended() == []


def test_control_planes_that_share_a_store_add_up(store: Store, machine: Machine) -> None:
    machines = [machine(name) for name in ("one", "two", "three")]
    rounds = 10

    def work(number: int) -> None:
        feed, gatherer = machines[number]
        for n in range(1, rounds + 1):
            say(feed, f"run-{number}", ("K1", "SHA1", "E1", n), (f"K-{number}", "SHA1", "E1", n))
            gatherer.gather(NOW)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert use(store, "K1").requests == 3 * rounds
    assert use(store, "K-2").requests == rounds


def test_two_that_look_at_the_same_edges_count_once(store: Store, machine: Machine) -> None:
    feed, gatherer = machine("one")
    _, other = machine("one")
    say(feed, "a", ("K1", "SHA1", "E1", 5))
    gatherer.gather(NOW)
    other.gather(NOW)
    assert use(store, "K1").requests == 5


def test_the_share_is_of_the_last_day(store: Store, machine: Machine) -> None:
    feed, gatherer = machine("one")
    say(feed, "a", ("K1", "SHA1", "E1", 100))
    gatherer.gather(NOW)
    then = NOW + 25 * HOUR
    say(feed, "a", ("K1", "SHA1", "E1", 101), ("K2", "SHA1", "E1", 3), at=then)
    gatherer.gather(then)
    found = use(store, "K1", then)
    assert (found.requests, found.requests_last_day, found.share) == (101, 1, 0.25)
    assert use(store, "K1", then + 25 * HOUR).share == 0.0


def test_until_when_signatures_are_good(store: Store, machine: Machine) -> None:
    feed, gatherer = machine("one")
    start = int(NOW)

    def end(run: str, latest: int, longest: float, until: int, at: float = NOW) -> None:
        counts = KeyCounts(run, [("K1", "SHA1", "E1", 1)], [("K1", latest, longest, until)])
        feed.report(f"edge-{run}", 1, at=at, counters=counts)

    end("a", start + 600, 600.0, start + 600)
    end("b", start + 900, 500.0, start + 900)
    gatherer.gather(NOW)
    found = use(store, "K1")
    assert (found.signatures_end, found.longest_lifetime, found.longest_ends) == (NOW + 900, 600.0, NOW + 600)
    later = NOW + 700  # the longest has expired: a lifetime that was once too long does not count forever
    assert use(store, "K1", later).longest_lifetime == 0.0
    end("b", start + 950, 100.0, start + 800, at=later)
    gatherer.gather(later)
    found = use(store, "K1", later)
    assert (found.signatures_end, found.longest_lifetime) == (NOW + 950, 100.0)


@pytest.mark.parametrize(
    "counters",
    [
        {},
        {"run": ""},
        {"run": 7},
        {"run": "a", "keys": [["K1", "SHA1", 3]]},
        {"run": "a", "keys": "K1"},
        {"run": "a", "keys": [["K1", "SHA1", "E1", 1 << 62]]},
        {"run": "a", "keys": [["K1", "SHA1", "E1", -1]]},
        {"run": "a", "keys": [["K1\0", "SHA1", "E1", 1]]},
        {"run": "a", "keys": [["K" * 4000, "SHA1", "E1", 1]]},
        {"run": "a", "keys": [["K1", "SHA1", "E1", 1]], "ends": [["K1", 1 << 62, 1.0, 1]]},
        {"run": "a", "keys": [["K1", "SHA1", "E1", 1]], "ends": [["K1", 1, 1e300, 1]]},
    ],
    ids=lambda counters: str(counters)[:60].replace("\0", "0"),
)
def test_reports_of_another_kind_are_passed_over(
    store: Store, machine: Machine, counters: dict[str, object]
) -> None:
    feed, gatherer = machine("one")
    feed.report("old", 1, at=NOW, counters=counters)
    say(feed, "b", ("K1", "SHA1", "E1", 5))
    gatherer.gather(NOW)
    assert [each.key_pair_id for each in known(store).items] == ["K1"]
    assert use(store, "K1").requests == 5


@pytest.mark.parametrize("at", [-1e300, 0.0, NOW + 1e6, 1e300])
def test_a_report_of_a_time_that_cannot_be(store: Store, machine: Machine, at: float) -> None:
    feed, gatherer = machine("one")
    say(feed, "b", ("K1", "SHA1", "E1", 5), at=at)
    gatherer.gather(NOW)
    assert (use(store, "K1").requests, use(store, "K1").last_seen) == (5, NOW)


def test_a_lifetime_that_one_edge_still_tells_of_does_not_hide_anothers(
    store: Store, machine: Machine
) -> None:
    feed, gatherer = machine("one")
    start = int(NOW)

    def end(run: str, n: int, longest: float, until: int, at: float) -> None:
        counts = KeyCounts(run, [("K1", "SHA1", "E1", n)], [("K1", until, longest, until)])
        feed.report(f"edge-{run}", 1, at=at, counters=counts)
        gatherer.gather(at)

    end("a", 1, 600.0, start + 600, NOW)
    end("b", 1, 100.0, start + 900, NOW + 800)
    end("a", 2, 600.0, start + 600, NOW + 801)
    assert use(store, "K1", NOW + 802).longest_lifetime == 100.0


def test_a_key_that_nobody_uses_is_forgotten_in_the_end(store: Store, machine: Machine) -> None:
    feed, gatherer = machine("one")
    say(feed, "a", ("K1", "SHA1", "E1", 5))
    gatherer.gather(NOW)
    much_later = NOW + KEY_RETENTION + 1
    say(feed, "b", ("K2", "SHA1", "E1", 5), at=much_later)
    gatherer.gather(much_later)
    assert [each.key_pair_id for each in known(store, much_later).items] == ["K2"]


def test_nothing_is_written_where_nothing_is_new(store: Store, machine: Machine) -> None:
    feed, gatherer = machine("one")
    say(feed, "a", ("K1", "SHA1", "E1", 5))
    gatherer.gather(NOW)
    opened: list[object] = []
    write_relaxed = store.write_relaxed

    def counting() -> object:
        opened.append(None)
        return write_relaxed()

    store.write_relaxed = counting  # type: ignore[method-assign, assignment]
    say(feed, "a", ("K1", "SHA1", "E1", 5), at=NOW + 1)
    gatherer.gather(NOW + 1)
    assert opened == []
    say(feed, "a", ("K1", "SHA1", "E1", 6), at=NOW + 2)
    gatherer.gather(NOW + 2)
    assert len(opened) == 1
