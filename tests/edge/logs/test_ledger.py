"""The ledger of credentials: exact against a plain count, bounded, and deaf to floods."""

from __future__ import annotations

import random
import sys
from collections import defaultdict

from keyfront.edge.logs import ledger as module
from keyfront.edge.logs.ledger import EARLY_ENTRIES, MOST_ENTRIES, CredentialLedger, network_of
from keyfront.edge.types.messages import Request
from keyfront.fleet.credential_use import MOST_REPORTED, PANE, PANES, CredentialUse, K
from keyfront.signing.credential import credential_of
from keyfront.signing.verify import Grant
from tests.rows import rows
from tests.viewer import Clock

START = 1_800_000_000 // (PANE * PANES) * (PANE * PANES)


def grant(name: str) -> Grant:
    return Grant("K1", "SHA256", "url", f"https://d.test/{name}", START + 10**6, "", False)


def request(agent: str = "agent") -> Request:
    return Request("GET", "/", "d.test", [(b"user-agent", agent.encode())], "https", "")


def clock_at_start() -> Clock:
    clock = Clock()
    clock.now = START
    return clock


def ledger_at(clock: Clock | None = None) -> CredentialLedger:
    return CredentialLedger(
        clock or clock_at_start(), lambda address: "DE" if address.startswith("10.") else "FR"
    )


def use(ledger: CredentialLedger, grant: Grant, address: str, agent: str = "agent", size: int = 1) -> None:
    ledger.pending.append((grant, address, request(agent), "E1", size))
    ledger.count()


def reported(ledger: CredentialLedger) -> dict[str, CredentialUse]:
    return {each.id: each for each in ledger.report()}


def busy(clock: Clock | None = None) -> CredentialLedger:
    """A ledger in which a credential with one network gets no entry."""
    ledger = ledger_at(clock)
    for number in range(EARLY_ENTRIES):
        use(ledger, grant(f"early{number}"), "10.9.9.9")
    return ledger


def test_one_network_takes_no_entry_where_there_are_many() -> None:
    ledger, one = busy(), grant("a")
    for host in range(1, 200):
        use(ledger, one, f"192.0.2.{host}", f"agent {host}")
    assert credential_of(one).id not in reported(ledger)
    use(ledger, one, "192.0.3.1")
    assert len(reported(ledger)[credential_of(one).id].networks) == 2


def test_workers_that_see_one_network_each_report_all_of_them_together() -> None:
    one = grant("a")
    workers = [ledger_at() for _ in range(10)]
    for number, worker in enumerate(workers):
        use(worker, one, f"192.0.{number}.1")
    networks = {number for worker in workers for number in reported(worker)[credential_of(one).id].networks}
    assert len(networks) == len(workers)


def test_what_is_reported_of_two_credentials_cannot_be_compared() -> None:
    ledger, one, other = ledger_at(), grant("a"), grant("b")
    use(ledger, one, "192.0.2.1")
    use(ledger, other, "192.0.2.1")
    found = reported(ledger)
    one_use, other_use = found[credential_of(one).id], found[credential_of(other).id]
    assert set(one_use.networks).isdisjoint(other_use.networks)
    assert set(one_use.agents).isdisjoint(other_use.agents)


def test_sharing_is_counted_exactly_below_the_size_of_a_sketch() -> None:
    generator = random.Random(7)
    ledger = ledger_at()
    grants = [grant(str(number)) for number in range(40)]
    seen: dict[str, set[str]] = defaultdict(set)
    for _ in range(3000):
        at = min(int(generator.expovariate(0.2)), len(grants) - 1)
        network = generator.randrange(1 + at % (K - 1))
        address = f"10.{network // 256}.{network % 256}.{generator.randrange(1, 250)}"
        seen[credential_of(grants[at]).id].add(network_of(address).decode())
        use(ledger, grants[at], address)
    expected = {name: len(networks) for name, networks in seen.items()}
    assert (
        expected.items()
        >= (found := {name: len(each.networks) for name, each in reported(ledger).items()}).items()
    )
    assert all(networks == 1 for name, networks in expected.items() if name not in found)
    assert ledger.evicted == 0


def test_what_is_reported() -> None:
    ledger, one = ledger_at(), grant("a")
    use(ledger, one, "10.0.0.1", "first", 100)
    use(ledger, one, "10.0.1.1", "second", 200)
    use(ledger, one, "192.0.2.1", "second", 300)
    found = reported(ledger)[credential_of(one).id]
    assert (found.key_pair_id, found.distribution, found.pane) == ("K1", "E1", START // PANE)
    assert (len(found.networks), len(found.agents), found.countries) == (3, 2, ["DE", "FR"])
    assert (found.requests, found.bytes) == (3, 600)


def test_requests_of_one_viewer_are_counted_together() -> None:
    ledger, one, same = ledger_at(), grant("a"), request()
    use(ledger, one, "10.0.0.1")
    ledger.pending += [(one, "10.0.1.1", same, "E1", 5)] * 100
    ledger.count()
    assert ledger.pending == []
    found = reported(ledger)[credential_of(one).id]
    assert (found.requests, found.bytes) == (101, 501)


def test_panes_end() -> None:
    clock, one = clock_at_start(), grant("a")
    ledger = ledger_at(clock)
    use(ledger, one, "10.0.0.1")
    use(ledger, one, "10.0.1.1")
    clock.forward(PANE)
    use(ledger, one, "10.0.2.1")
    use(ledger, one, "10.0.3.1")
    assert [(each.pane - START // PANE, len(each.networks)) for each in ledger.report()] == [(0, 2), (1, 2)]
    clock.forward(PANE)
    assert [each.pane - START // PANE for each in ledger.report()] == [1]
    clock.forward(2 * PANE)
    assert ledger.report() == []


def test_networks_of_different_hours_are_not_combined() -> None:
    clock, one = clock_at_start(), grant("a")
    ledger = busy(clock)
    use(ledger, one, "10.0.0.1")
    clock.forward(PANE * PANES)
    for number in range(EARLY_ENTRIES):
        use(ledger, grant(f"early{number}"), "10.9.9.9")
    use(ledger, one, "10.0.1.1")
    assert credential_of(one).id not in reported(ledger)


def test_a_flood_takes_no_memory_and_leaves_what_is_shared_most() -> None:
    ledger, shared = ledger_at(), grant("shared")
    for network in range(30):
        use(ledger, shared, f"10.0.{network}.1")
    for number in range(3 * MOST_ENTRIES):
        one = grant(f"flood{number}")
        for network in range(2):
            use(ledger, one, f"10.1.{network}.1", f"agent {number}")
    assert len(ledger._entries) <= MOST_ENTRIES
    assert ledger.evicted >= 2 * MOST_ENTRIES
    found = ledger.report()
    assert len(found) == MOST_REPORTED
    assert (found[0].id, len(found[0].networks)) == (credential_of(shared).id, 30)


def test_a_credential_with_many_viewers_takes_no_more_memory_than_one_with_some() -> None:
    ledger, one = ledger_at(), grant("a")
    for number in range(20_000):
        use(ledger, one, f"10.{number % 251}.{number // 251}.1", f"agent {number}")
    entry = ledger._entries[credential_of(one).id]
    assert len(entry.networks.hashes) == len(entry.agents.hashes) == K
    assert 14_000 < len(entry.networks) < 27_000
    assert sys.getsizeof(entry.networks.hashes) < 16_384


def test_the_table_of_first_networks_has_a_fixed_size() -> None:
    assert module.SLOTS & (module.SLOTS - 1) == 0
    ledger = ledger_at()
    before = ledger._ids.buffer_info()[1], ledger._first.buffer_info()[1]
    for number in range(1000):
        use(ledger, grant(str(number)), "10.0.0.1")
    assert (ledger._ids.buffer_info()[1], ledger._first.buffer_info()[1]) == before
    assert len(ledger._entries) == EARLY_ENTRIES


@rows(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.200", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("::ffff:192.0.2.1", "192.0.2.9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", True),
        ("2001:db8:1::1", "2001:db8:2::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("no:address", "another:one", True),
        ("", "", True),
    ],
)
def test_networks(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same
