"""The limit on log-ins, and sessions in memory: tables without a clock."""

from __future__ import annotations

from keyfront.console import attempts, sessions
from keyfront.console.attempts import Attempts, Rate, network_of
from keyfront.console.sessions import IDLE, Session, Sessions
from tests.rows import rows


def test_failures_are_limited_and_forgiven_slowly() -> None:
    limit = Attempts(Rate(3, 10.0), Rate(5, 10.0))
    for _ in range(3):
        assert limit.wait("192.0.2.1", "A", 100.0) == 0
        limit.begun("192.0.2.1", "A", 100.0)
    assert limit.wait("192.0.2.1", "B", 100.0) == 10.0
    assert limit.wait("192.0.2.2", "A", 100.0) == 0
    assert limit.wait("192.0.2.1", "A", 109.0) == 1.0
    assert limit.wait("192.0.2.1", "A", 110.0) == 0
    for _ in range(2):
        limit.begun("192.0.2.2", "A", 100.0)
    assert limit.wait("192.0.2.3", "A", 100.0) == 10.0, "the key, from any address"


def test_successes_are_not_counted() -> None:
    limit = Attempts(Rate(2, 10.0), Rate(2, 10.0))
    for _ in range(50):
        assert limit.wait("192.0.2.1", "A", 0.0) == 0
        limit.begun("192.0.2.1", "A", 0.0)
        limit.succeeded("192.0.2.1", "A")
    limit.succeeded("192.0.2.9", "Z")
    assert limit.wait("192.0.2.9", "Z", 0.0) == 0


def test_a_flood_of_addresses_takes_bounded_memory() -> None:
    limit = Attempts()
    for number in range(attempts.MOST + 500):
        limit.begun(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", f"K{number}", 0.0)
    assert all(len(buckets._full_at) == attempts.MOST for buckets in limit._buckets)


@rows(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "-"),
        ("unix", "unix"),
    ],
)
def test_an_ipv6_network_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


def session(id_: str, opened: float) -> Session:
    return Session(id_, "secret", "csrf", "arn:aws:iam::1:user/ada", opened, opened)


def test_only_the_hash_of_a_token_is_in_memory() -> None:
    found = Sessions()
    found.add("the-token", session("A", 0.0))
    assert all(b"the-token" not in name for name in found._sessions)
    assert found.find("the-token", 1.0) is not None
    assert found.find("another", 1.0) is None
    assert "secret" not in repr(found.find("the-token", 1.0))


def test_sessions_that_are_over_make_room() -> None:
    found = Sessions()
    found.add("one", session("A", 0.0))
    found.add("two", session("B", IDLE / 2))
    assert [each.id for each in found.add("three", session("C", IDLE))] == ["A"]
    assert found.find("two", IDLE) is not None
    for number in range(sessions.MOST - 2):
        assert found.add(f"more-{number}", session("D", IDLE)) == []
    assert [each.id for each in found.add("last", session("E", IDLE))] == ["B"]
    assert [each.id for each in found.of("arn:aws:iam::1:user/ada", IDLE)][-1] in ("C", "D", "E")
