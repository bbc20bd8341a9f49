"""The rules of the limits in isolation: tables of calls, without a socket or a clock."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfront.edge.limits.origins import Breaker, Slots
from keyfront.edge.limits.rates import Floor
from keyfront.edge.limits.reports import QUIET, Reached
from keyfront.edge.limits.uploads import Gathered, Memory
from keyfront.edge.limits.viewers import SITE, Gauge, network_of
from tests.rows import rows

# -- rates: at 10 bytes a second over windows of 30 s ------------------------------------------------------------


@rows(
    ("looks", "slow_at"),
    [
        ([(0, 0), (10, 0), (29, 0)], None),  # the window is not over
        ([(0, 0), (30, 0)], 30),
        ([(0, 0), (30, 299)], 30),
        ([(0, 0), (30, 300)], None),
        ([(0, 0), (29, 5_000), (30, 5_000), (59, 5_000)], None),  # a burst is as good as a steady trickle
        ([(0, 0), (30, 5_000), (60, 5_001)], 60),  # but not for the next window
        ([(0, 0), (90, 800)], 90),  # checked late: judged by what was due until then
        ([(0, 0), (90, 900)], None),
        ([(0, 7_000), (30, 7_100)], 30),  # what was moved before does not count
        ([(0, 0), (20, 0), "rest", (31, 0), (60, 0)], None),  # no waiting in between
        ([(0, 0), "rest", (31, 0), (61, 0)], 61),
    ],
)
def test_a_floor(looks: list[tuple[float, int] | str], slow_at: float | None) -> None:
    floor = Floor()
    found = None
    for look in looks:
        if isinstance(look, str):
            floor.rest()
        elif floor.slow(look[0], look[1], 10, 30.0):
            found = look[0]
            break
    assert found == slow_at


@rows(
    ("looks", "slow_at"),
    [
        ([(0, 0, 40), (30, 40, 40), (60, 80, 40)], None),  # small events, each taken soon after it arrived
        ([(0, 0, 40), (30, 39, 41)], 30),  # not even what was waiting when the window began
        ([(0, 0, 100_000), (30, 299, 99_701)], 30),
        ([(0, 0, 100_000), (30, 300, 99_700)], None),
        ([(0, 0, 40), (30, 40, 50_000), (60, 90, 49_950)], 60),  # each window has its own
        ([(0, 0, 0), (30, 0, 0)], None),
    ],
)
def test_a_floor_asks_for_no_more_than_there_was(
    looks: list[tuple[float, int, int]], slow_at: float | None
) -> None:
    floor = Floor()
    found = [now for now, moved, waiting in looks if floor.slow(now, moved, 10, 30.0, waiting=waiting)]
    assert (found[0] if found else None) == slow_at


def test_no_floor_asks_for_nothing() -> None:
    floor = Floor()
    assert not any(floor.slow(float(now), 0, 0, 5.0) for now in range(100))


# -- viewers ----------------------------------------------------------------------------------------------------


def test_a_gauge_counts_by_address_and_in_all() -> None:
    gauge = Gauge("things", 4, 2)
    steps = [
        ("+a", ""),
        ("+a", ""),
        ("+a", "things_per_address"),
        ("+b", ""),
        ("+", ""),
        ("+", "things"),
        ("+c", "things"),
        ("-a", ""),
        ("+a", ""),
        ("-", ""),
        ("+a", "things_per_address"),
        ("+c", ""),
    ]
    for step, outcome in steps:
        if step[0] == "+":
            assert gauge.enter(step[1:]) == outcome, step
        else:
            gauge.leave(step[1:])
    assert (gauge.total, gauge.addresses) == (4, 3)


def test_the_networks_of_one_site_are_bounded_together() -> None:
    """A client with a /48 has 65,536 of the prefixes that count as one address."""
    gauge = Gauge("things", 1000, 2)
    site = [network_of(f"2001:db8:1:{number:x}::1") for number in range(20)]
    got = [gauge.enter(network) for network in site]
    assert got == [""] * 2 * SITE + ["things_per_address"] * (20 - 2 * SITE)
    assert gauge.total == 2 * SITE
    assert gauge.enter(network_of("2001:db8:2::1")) == ""  # another site
    assert gauge.enter("192.0.2.1") == ""
    gauge.leave(site[0])
    assert [gauge.enter(site[19]), gauge.enter(site[18])] == ["", "things_per_address"]
    for network in (*site[1 : 2 * SITE], site[19], network_of("2001:db8:2::1"), "192.0.2.1"):
        gauge.leave(network)
    assert (gauge.total, gauge.addresses, gauge._by_site) == (0, 0, {})


def test_a_gauge_drops_workers_that_are_gone() -> None:
    gauge = Gauge("things", 0, 0)
    for number in range(1000):
        assert gauge.enter(str(number)) == ""
    for number in range(1000):
        gauge.leave(str(number))
    assert (gauge.total, gauge.addresses) == (0, 0)


@rows(("total", "pressed"), [(8, False), (9, True), (10, True)])
def test_when_a_gauge_is_nearly_full(total: int, pressed: bool) -> None:
    gauge = Gauge("things", 10, 0)
    for _ in range(total):
        gauge.enter("")
    assert gauge.pressed is pressed
    assert not Gauge("things", 0, 0).pressed


@rows(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::6", "2001:db8:1:2::/64"),
        ("2001:db8::1", "2001:db8:0:0::/64"),
        ("2001:DB8::1", "2001:db8:0:0::/64"),
        ("2001:0db8:0000:0000::1", "2001:db8:0:0::/64"),
        ("::1", "0:0:0:0::/64"),
        ("fe80::1%eth0", "fe80:0:0:0::/64"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.1"),
        ("", ""),
    ],
)
def test_what_an_address_is_counted_as(address: str, network: str) -> None:
    assert network_of(address) == network


@given(st.ip_addresses(v=6))
def test_a_network_is_that_of_the_address(address: ipaddress.IPv6Address) -> None:
    if address.ipv4_mapped is not None or str(address).startswith("64:ff9b:"):
        return
    for spelled in (str(address), address.exploded):
        found = ipaddress.ip_network(network_of(spelled))
        assert address in found
        assert found.prefixlen == 64


# -- origins ------------------------------------------------------------------------------------------------------

# t TIME: may a connection be tried? ("y"/"n") · f TIME: it failed · s: it connected · g: it was abandoned
BREAKER = [
    ("ty0 f0 ty1 f1 ty1 f1 tn1 tn2 ty3", "three failures open it for two seconds, then one may probe"),
    ("ty0 f0 ty0 f0 s ty0 f0 ty0 f0 ty0", "a success in between closes the count"),
    ("f0 f0 f0 tn0 ty2 tn2 tn9", "one probe at a time"),
    ("f0 f0 f0 ty2 f2 tn3 tn3.9 ty4", "a probe that fails opens it again"),
    ("f0 f0 f0 ty2 s ty2 ty2 ty2", "a probe that succeeds closes it"),
    ("f0 f0 f0 ty2 s f2 f2 ty2 f2 tn2", "and the count begins anew"),
    ("f0 f0 f0 ty2 g ty2 tn2", "a probe that is given up leaves its place to another"),
    ("ty0 ty0 ty0 ty0 f0 f0 f0 f1 tn1 ty2", "those under way when it opened do not prolong it"),
    ("ty0 f0 f0 f0 tn1 s ty1", "one that was under way and connects after all closes it"),
]


@rows(("steps", "why"), BREAKER, ids=[why for _, why in BREAKER])
def test_a_breaker(steps: str, why: str) -> None:
    breaker = Breaker(3, 2.0)
    for step in steps.split():
        if step[0] == "t":
            assert breaker.permits(float(step[2:])) is (step[1] == "y"), step
        elif step[0] == "f":
            breaker.failed(float(step[1:]))
        elif step == "s":
            breaker.succeeded()
        else:
            breaker.given_up()


def test_no_breaker() -> None:
    breaker = Breaker(0, 2.0)
    assert breaker.closed
    for _ in range(100):
        assert breaker.failed(0.0) is False
        assert breaker.permits(0.0)


def test_slots() -> None:
    slots: Slots[str] = Slots(2, 2)
    assert [slots.take() for _ in range(3)] == [True, True, False]
    assert [slots.wait(who) for who in "abc"] == [True, True, False]
    assert (slots.active, slots.idle) == (2, False)
    assert slots.release() == "a"
    slots.give_up("b")
    slots.give_up("b")
    assert slots.release() is None
    assert slots.release() is None
    assert slots.idle


def test_slots_without_a_limit() -> None:
    slots: Slots[str] = Slots(0, 0)
    assert all(slots.take() for _ in range(10_000))


# -- memory, and what is logged and counted ----------------------------------------------------------------------


def test_memory() -> None:
    memory = Memory(10)
    assert [memory.take(size) for size in (6, 5, 4, 1)] == [True, False, True, False]
    memory.give(6)
    assert memory.take(6)
    assert memory.used == 10


@pytest.mark.parametrize("size", [1, 3, 1000, 5000])
async def test_what_is_gathered_is_as_few_objects_as_bytes(size: int) -> None:
    async def source() -> AsyncIterator[bytes]:
        for number in range(60_000 // size):
            yield bytes([number % 251]) * size

    gathered = Gathered(source(), Memory(1 << 20))
    assert await gathered.gather(1 << 16)
    chunks = [chunk async for chunk in gathered]
    assert b"".join(chunks) == b"".join([chunk async for chunk in source()])
    assert len(chunks) <= 60_000 // 2048 + 1


async def test_a_body_is_gathered_as_far_as_it_may_be() -> None:
    async def source() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(4000)

    memory = Memory(10_000)
    long = Gathered(source(), memory)
    assert await long.gather(5000)
    assert (long.whole, memory.used) == (False, 8000)
    assert [len(chunk) async for chunk in long] == [4000] * 3
    assert not await Gathered(source(), memory).gather(5000)  # no memory for another
    for _ in range(2):
        long.release()
        assert memory.used == 0


def test_the_log_names_a_limit_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    reached = Reached()
    for second in range(int(QUIET) + 1):
        reached.add("requests", "192.0.2.1", float(second))
    reached.add("connections", "192.0.2.1", 1.0)
    assert reached.counts == {"requests": QUIET + 1, "connections": 1}
    assert [record.getMessage().split()[2] for record in caplog.records] == [
        "requests",
        "requests",
        "connections",
    ]
