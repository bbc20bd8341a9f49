"""A worker's statistics about signing keys: how often each was accepted, where, and when its signatures expire."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from keyfront import sign_cookies, sign_url
from keyfront.edge.logs.access_log import AccessLog
from keyfront.fleet.key_counters import ExpiryStats, KeyCounts
from tests.edge.harness import signed_site
from tests.origin import ScriptedOrigin, answer
from tests.sites import ALICE, BOB
from tests.viewer import Clock, EdgeHarness

HOUR = 3600


@pytest.fixture
async def harness() -> AsyncIterator[EdgeHarness]:
    async with ScriptedOrigin() as origin:
        for path in ("/a/1", "/a/2", "/b/1", "/open"):
            origin.on(path, answer(200, b"the object", {"Cache-Control": "max-age=86400"}))
        async with EdgeHarness(signed_site(origin, "KALICE1"), clock=Clock()) as harness:
            yield harness


def now(harness: EdgeHarness) -> int:
    return int(harness.edge.clock())


def counted(log: AccessLog) -> KeyCounts:
    """As the control plane reads it from a report."""
    log.flush()
    sent = msgspec.structs.replace(log.counts.sums(), run="r")
    return msgspec.json.decode(msgspec.json.encode(sent), type=KeyCounts)


def about(seconds: int) -> object:
    """The clock advances in fractions of a second."""
    return pytest.approx(seconds, abs=2)


def target(path: str, signer: object, expires: int) -> str:
    return sign_url("http://d.test" + path, signer, expires=expires).removeprefix("http://d.test")  # type: ignore[arg-type]


async def test_requests_by_key_hash_and_distribution(harness: EdgeHarness) -> None:
    one = target("/a/1", ALICE, now(harness) + HOUR)
    async with await harness.viewer() as viewer:
        for _ in range(5):  # the first ones on the slow path, the others on the fast path
            await viewer.send(f"GET {one} HTTP/1.1\r\nHost: d.test\r\n\r\n".encode())
            assert (await viewer.answer()).status == 200
    await harness.get(target("/b/1", BOB, now(harness) + HOUR))
    await harness.get("/open")
    assert (await harness.get(target("/a/1", BOB, now(harness) + HOUR))).status == 403
    found = counted(harness.log)
    assert sorted(found.keys) == [("KALICE1", "SHA1", "ETEST", 5), ("KBOB1", "SHA256", "ETEST", 1)]
    assert found.run == "r"


async def test_when_signatures_end(harness: EdgeHarness) -> None:
    start = now(harness)
    for path, seconds in (("/a/1", HOUR), ("/a/2", 3 * HOUR), ("/a/1", 2 * HOUR)):
        assert (await harness.get(target(path, ALICE, start + seconds))).status == 200
    assert counted(harness.log).ends == [("KALICE1", start + 3 * HOUR, about(3 * HOUR), start + 3 * HOUR)]


async def test_what_is_refused_is_not_counted(harness: EdgeHarness) -> None:
    spoilt = target("/a/1", ALICE, now(harness) + HOUR).replace("Signature=", "Signature=A")
    assert (await harness.get(spoilt)).status == 403
    assert (await harness.get(target("/a/1", ALICE, now(harness) - 1))).status == 403
    assert counted(harness.log).ends == []
    assert counted(harness.log).keys == []


async def test_a_policy_that_was_first_refused_and_then_good(harness: EdgeHarness) -> None:
    """Its signature is remembered from the refusal, so it is never new where it is accepted."""
    start = now(harness)
    cookies = sign_cookies(
        "http://d.test/a/*", ALICE, expires=start + HOUR, starts=start + 60, now=start, secure=False
    )
    assert (await harness.get("/a/1", headers=[("Cookie", cookies.header)])).status == 403
    harness.edge.clock.forward(61)  # type: ignore[attr-defined]
    assert (await harness.get("/a/1", headers=[("Cookie", cookies.header)])).status == 200
    assert counted(harness.log).ends == [("KALICE1", start + HOUR, about(HOUR - 61), start + HOUR)]


async def test_cookies_that_change_on_the_quick_way(harness: EdgeHarness) -> None:
    start = now(harness)
    async with await harness.viewer() as viewer:
        for round_, seconds in enumerate((HOUR, 2 * HOUR)):
            cookies = sign_cookies(
                "http://d.test/a/*", ALICE, expires=start + seconds, now=start, secure=False
            )
            for _ in range(4):
                await viewer.send(
                    f"GET /a/1 HTTP/1.1\r\nHost: d.test\r\nCookie: {cookies.header}\r\n\r\n".encode()
                )
                assert (await viewer.answer()).status == 200
            assert counted(harness.log).ends == [
                ("KALICE1", start + seconds, about(seconds), start + seconds)
            ]
            assert counted(harness.log).keys == [("KALICE1", "SHA1", "ETEST", 4 * (round_ + 1))]


def test_a_lifetime_that_was_too_long_is_forgotten_with_its_signature() -> None:
    ends = ExpiryStats(1000, 900.0, 1000)
    assert not ends.add(500, 400.0, 500, now=100.0)
    assert ends.add(1100, 300.0, 1100, now=800.0)  # ends later, and is shorter
    assert (ends.latest, ends.longest, ends.until) == (1100, 900.0, 1000)
    assert ends.add(1050, 50.0, 1050, now=1000.0)
    assert (ends.latest, ends.longest, ends.until) == (1100, 50.0, 1050)
    assert not ends.add(900, 10.0, 900, now=2000.0)
    assert not ends.add(900, 99_999.0, 900, now=1000.0)  # expired, but still remembered by a cache
