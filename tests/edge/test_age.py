"""Age, in a table like that of http-tests/cache-tests: at least the Age of the origin's response, never lower on the
next response, calculated as in RFC 9111 §4.2.3."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from keyfront.edge.rules.freshness import age
from keyfront.edge.semantics.http_dates import format_date
from keyfront.edge.serving.fast_path import aged
from keyfront.edge.types.stored import Meta, Stored
from keyfront.model.snapshot import Behavior
from tests.origin import ReceivedRequest, ScriptedOrigin, Wire, answer
from tests.rows import rows
from tests.sites import site
from tests.viewer import Clock, EdgeHarness, Seen

WEEK = 604_800


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def harness(origin: ScriptedOrigin, clock: Clock) -> AsyncIterator[EdgeHarness]:
    methods = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
    behavior = Behavior("*", "scripted", allowed_methods=methods, max_ttl=10 * WEEK)
    async with EdgeHarness(site(origin.origin(), behavior), clock=clock) as harness:
        yield harness


def age_of(seen: Seen) -> int:
    value = seen.header("age")
    return 0 if value is None else int(value)


# Age as the origin sends it, in field lines; seconds by which Date is in the past; the least and the greatest Age
# that the first viewer may get.
TABLE: dict[str, tuple[list[str], int, int]] = {
    "none": ([], 0, 0),
    "none, and Date an hour ago": ([], 3600, 3600),
    "0": (["0"], 0, 0),
    "1": (["1"], 0, 1),
    "7200": (["7200"], 0, 7200),
    "7200, and Date now": (["7200"], 0, 7200),
    "7200, and Date an hour ago": (["7200"], 3600, 7200),
    "60, and Date two hours ago": (["60"], 7200, 7200),
    "86399": (["86399"], 0, 86399),
    "a list: the first counts": (["7200, 0"], 0, 7200),
    "two lines: the first counts": (["7200", "0"], 0, 7200),
    "blanks around it": (["  7200 "], 0, 7200),
    "zeros before it": (["0007200"], 0, 7200),
    "the largest that counts": (["2147483648"], 0, 2**31),
    "larger than that": (["99999999999999999999"], 0, 2**31),
    "negative": (["-7200"], 0, 0),
    "no number": (["soon"], 0, 0),
    "a fraction": (["7200.5"], 0, 0),
    "empty": ([""], 0, 0),
}


@pytest.mark.parametrize("name", TABLE)
async def test_the_first_answer_and_the_next_ones(
    harness: EdgeHarness, origin: ScriptedOrigin, clock: Clock, name: str
) -> None:
    lines, back, least = TABLE[name]
    headers = [("Cache-Control", f"max-age={5 * WEEK}"), ("Date", format_date(clock.now - back).decode())]
    origin.on("/x", answer(200, b"x", headers + [("Age", line) for line in lines]))
    first = await harness.get("/x")
    ages = [age_of(first)]
    assert least <= ages[0] <= least + 1
    for seconds in (0.0, 0.3, 0.3, 0.3, 0.3, 1.0, 59.0):
        clock.forward(seconds)
        for method in ("GET", "HEAD"):
            seen = await harness.get("/x", method=method)
            assert (
                len([n for n, _ in seen.headers if n == "age"]) == (1 if seen.x_cache == "Hit" else 0)
                or least
            )
            ages.append(age_of(seen))
    assert ages == sorted(ages)
    if least < 2**31:
        assert least + 61 <= ages[-1] <= least + 62


async def test_the_time_that_the_answer_took_counts(
    harness: EdgeHarness, origin: ScriptedOrigin, clock: Clock
) -> None:
    """RFC 9111 §4.2.3: corrected_age_value is age_value plus response_delay. The viewer's request came before
    both."""

    async def slow(_: ReceivedRequest, __: Wire) -> None:
        clock.forward(10)

    origin.on("/x", [slow, *answer(200, b"x", {"Cache-Control": "max-age=86400", "Age": "7200"})])
    assert age_of(await harness.get("/x")) == 7210
    assert age_of(await harness.get("/x")) == 7210


@pytest.mark.parametrize("etag", ['"1"', '"2"'])
async def test_after_a_revalidation(
    harness: EdgeHarness, origin: ScriptedOrigin, clock: Clock, etag: str
) -> None:
    headers = {"Cache-Control": "max-age=8000", "Age": "7200", "ETag": '"1"'}
    renewed = answer(304, b"", headers) if etag == '"1"' else answer(200, b"y", {**headers, "ETag": etag})
    origin.on("/x", answer(200, b"x", headers), renewed)
    await harness.get("/x")
    clock.forward(900)
    seen = await harness.get("/x")
    assert (seen.x_cache, age_of(seen)) == ("RefreshHit" if etag == '"1"' else "Miss", 7200)
    assert age_of(await harness.get("/x")) == 7200


async def test_a_range_and_a_condition(harness: EdgeHarness, origin: ScriptedOrigin) -> None:
    headers = {"Cache-Control": "max-age=86400", "Age": "7200", "ETag": '"1"'}
    origin.on("/x", answer(200, b"hello", headers))
    assert age_of(await harness.get("/x")) == 7200
    for _ in range(2):
        part = await harness.get("/x", headers=[("Range", "bytes=1-2")])
        assert (part.status, part.body, age_of(part)) == (206, b"el", 7200)
        same = await harness.get("/x", headers=[("If-None-Match", '"1"')])
        assert (same.status, age_of(same)) == (304, 7200)


@pytest.mark.parametrize("status", [200, 404, 403, 500])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_what_is_not_stored_keeps_its_one_age(
    harness: EdgeHarness, origin: ScriptedOrigin, status: int, method: str
) -> None:
    headers = {"Cache-Control": "no-store", "Age": "7200"}
    origin.on("/x", answer(status, b"" if method == "HEAD" else b"x", headers))
    seen = await harness.get("/x", method=method)
    assert (seen.status, age_of(seen)) == (status, 7200)  # `told` fails if Age occurs twice


@rows("received", [0, 1, 7, 59, 3599, 7200, 10**6 + 1, 2**31])
def test_no_rounding_takes_a_second_from_it(received: int) -> None:
    """The difference of two clock readings is not exact: 1764514348.123456 - (1764514348.123456 - 7200) < 7200."""
    for step in range(3000):
        now = 1_764_514_348.0 + step * 0.000_337
        meta = Meta(200, (), stored_at=now, fresh_until=now + 10**10, date=now, initial_age=float(received))
        stored = Stored("k", meta, b"")
        assert age(meta, now) == age(meta, now - 3) == received
        assert aged(stored, now) == b"\r\nAge: %d\r\n\r\n" % received
        assert age(meta, now + 0.5) == int(aged(stored, now + 0.5).split()[1])


@pytest.mark.parametrize("date", ["Thu, 01 Jan 0001 00:00:00 GMT", "Mon, 01 Jan 1601 00:00:00 GMT"])
async def test_an_old_date_does_not_make_an_unparsable_age(
    harness: EdgeHarness, origin: ScriptedOrigin, date: str
) -> None:
    """RFC 9111 §1.2.2: a value greater than 2,147,483,648 is sent as 2,147,483,648."""
    origin.on("/x", answer(200, b"hello", {"Date": date}))
    assert age_of(await harness.get("/x")) == 2**31
