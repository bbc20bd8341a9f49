"""What a worker sees of the keys that sign: how often each was accepted, where, and when its signatures end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from keyfront import sign_cookies, sign_url
from keyfront.edge.accesslog import AccessLog
from keyfront.edge.metrics import sums
from keyfront.fleet.keycounts import Ends, KeyCounts
from tests.edge.test_gate import ALICE, BOB, signed_site
from tests.origin import ScriptedOrigin, answer
from tests.viewer import Clock, EdgeHouse

HOUR = 3600


@pytest.fixture
async def house() -> AsyncIterator[EdgeHouse]:
    async with ScriptedOrigin() as origin:
        for path in ("/a/1", "/a/2", "/b/1", "/open"):
            origin.on(path, answer(200, b"the object", {"Cache-Control": "max-age=86400"}))
        async with EdgeHouse(signed_site(origin, "KALICE1"), clock=Clock()) as house:
            yield house


def now(house: EdgeHouse) -> int:
    return int(house.edge.clock())


def counted(log: AccessLog) -> KeyCounts:
    """As the control plane reads it from a report."""
    log.flush()
    sent = sums(log.counts, connections=0, cache=(0, 0, 0), lost=0, run="r")
    return msgspec.json.decode(msgspec.json.encode(sent), type=KeyCounts)


def about(seconds: int) -> object:
    """The clock goes by fractions of a second."""
    return pytest.approx(seconds, abs=2)


def target(path: str, signer: object, expires: int) -> str:
    return sign_url("http://d.test" + path, signer, expires=expires).removeprefix("http://d.test")  # type: ignore[arg-type]


async def test_requests_by_key_hash_and_distribution(house: EdgeHouse) -> None:
    one = target("/a/1", ALICE, now(house) + HOUR)
    async with await house.viewer() as viewer:
        for _ in range(5):  # the first ones the long way, the others the quick one
            await viewer.send(f"GET {one} HTTP/1.1\r\nHost: d.test\r\n\r\n".encode())
            assert (await viewer.answer()).status == 200
    await house.get(target("/b/1", BOB, now(house) + HOUR))
    await house.get("/open")
    assert (await house.get(target("/a/1", BOB, now(house) + HOUR))).status == 403
    found = counted(house.log)
    assert sorted(found.keys) == [("KALICE1", "SHA1", "ETEST", 5), ("KBOB1", "SHA256", "ETEST", 1)]
    assert found.run == "r"


async def test_when_signatures_end(house: EdgeHouse) -> None:
    start = now(house)
    for path, seconds in (("/a/1", HOUR), ("/a/2", 3 * HOUR), ("/a/1", 2 * HOUR)):
        assert (await house.get(target(path, ALICE, start + seconds))).status == 200
    assert counted(house.log).ends == [("KALICE1", start + 3 * HOUR, about(3 * HOUR), start + 3 * HOUR)]


async def test_what_is_refused_is_not_counted(house: EdgeHouse) -> None:
    spoilt = target("/a/1", ALICE, now(house) + HOUR).replace("Signature=", "Signature=A")
    assert (await house.get(spoilt)).status == 403
    assert (await house.get(target("/a/1", ALICE, now(house) - 1))).status == 403
    assert counted(house.log).ends == []
    assert counted(house.log).keys == []


async def test_a_policy_that_was_first_refused_and_then_good(house: EdgeHouse) -> None:
    """Its signature is remembered from the refusal, so that it is never new where it is accepted."""
    start = now(house)
    cookies = sign_cookies(
        "http://d.test/a/*", ALICE, expires=start + HOUR, starts=start + 60, now=start, secure=False
    )
    assert (await house.get("/a/1", headers=[("Cookie", cookies.header)])).status == 403
    house.edge.clock.forward(61)  # type: ignore[attr-defined]
    assert (await house.get("/a/1", headers=[("Cookie", cookies.header)])).status == 200
    assert counted(house.log).ends == [("KALICE1", start + HOUR, about(HOUR - 61), start + HOUR)]


async def test_cookies_that_change_on_the_quick_way(house: EdgeHouse) -> None:
    start = now(house)
    async with await house.viewer() as viewer:
        for round_, seconds in enumerate((HOUR, 2 * HOUR)):
            cookies = sign_cookies(
                "http://d.test/a/*", ALICE, expires=start + seconds, now=start, secure=False
            )
            for _ in range(4):
                await viewer.send(
                    f"GET /a/1 HTTP/1.1\r\nHost: d.test\r\nCookie: {cookies.header}\r\n\r\n".encode()
                )
                assert (await viewer.answer()).status == 200
            assert counted(house.log).ends == [("KALICE1", start + seconds, about(seconds), start + seconds)]
            assert counted(house.log).keys == [("KALICE1", "SHA1", "ETEST", 4 * (round_ + 1))]


def test_a_lifetime_that_was_too_long_is_forgotten_with_its_signature() -> None:
    ends = Ends(1000, 900.0, 1000)
    assert not ends.add(500, 400.0, 500, now=100.0)
    assert ends.add(1100, 300.0, 1100, now=800.0)  # ends later, and is shorter
    assert (ends.latest, ends.longest, ends.until) == (1100, 900.0, 1000)
    assert ends.add(1050, 50.0, 1050, now=1000.0)
    assert (ends.latest, ends.longest, ends.until) == (1100, 50.0, 1050)
    assert not ends.add(900, 10.0, 900, now=2000.0)
    assert not ends.add(900, 99_999.0, 900, now=1000.0)  # what somebody has not forgotten yet
