"""The rules of caching through a whole edge: what is reused, what is requested again, and what is for one viewer only.

`test_freshness` checks the rules themselves against tables; here they are combined with viewers, an origin and each
other.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from keyfront.model.snapshot import Behavior, ErrorResponse, Select
from tests.origin import CLOSE, RESET, ReceivedRequest, ScriptedOrigin, Wire, answer, closed_port
from tests.sites import site
from tests.viewer import Clock, EdgeHarness, Seen

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        yield origin
    assert not origin.faults


@pytest.fixture
def clock() -> Clock:
    return Clock()


def edge_for(origin: ScriptedOrigin, clock: Clock | None = None, **members: Any) -> EdgeHarness:
    """An edge with one behavior, built from `members`, in front of an origin with one attempt and short timeouts."""
    rules = members.pop("error_responses", ())
    members.setdefault("allowed_methods", ALL)
    reached = origin.origin(connection_attempts=1, connection_timeout=0.5, read_timeout=5.0)
    snapshot = site(reached, Behavior("*", "scripted", **members), error_responses=rules)
    return EdgeHarness(snapshot) if clock is None else EdgeHarness(snapshot, clock=clock)


def says(control: str, body: bytes = b"one", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(200, body, {"Cache-Control": control, **named})


async def words(harness: EdgeHarness, clock: Clock, *moments: float, path: str = "/a") -> list[str]:
    """X-Cache and body of a request at each of the given seconds after the first."""
    begin = clock.now
    seen = []
    for moment in moments:
        clock.now = begin + moment
        it = await harness.get(path)
        seen.append(f"{it.x_cache} {it.body.decode()}" if it.status == 200 else f"{it.status}")
    return seen


class TestStaleWhileRevalidate:
    async def test_the_stale_answer_at_once_and_one_request_behind_it(
        self, origin: ScriptedOrigin, clock: Clock
    ) -> None:
        gate = asyncio.Event()
        control = "max-age=10, stale-while-revalidate=60"
        origin.on("/a", says(control), [gate, *says(control, b"two")])
        async with edge_for(origin, clock) as harness:
            await harness.get("/a")
            clock.forward(11)
            for _ in range(5):
                seen = await harness.get("/a")
                assert (seen.x_cache, seen.body, seen.header("age")) == ("Hit", b"one", "11")
            await origin.received(2)
            gate.set()
            while (await harness.get("/a")).body != b"two":
                await asyncio.sleep(0.01)
            assert len(origin.requests) == 2

    async def test_it_ends_and_then_viewers_wait(self, origin: ScriptedOrigin, clock: Clock) -> None:
        control = "max-age=10, stale-while-revalidate=20"
        origin.on("/a", says(control), says(control, b"two"))
        async with edge_for(origin, clock) as harness:
            assert await words(harness, clock, 0, 31) == ["Miss one", "Miss two"]

    async def test_max_ttl_bounds_it(self, origin: ScriptedOrigin, clock: Clock) -> None:
        control = "max-age=10, stale-while-revalidate=600"
        origin.on("/a", says(control), says(control, b"two"))
        async with edge_for(origin, clock, max_ttl=15) as harness:
            assert await words(harness, clock, 0, 26) == ["Miss one", "Miss two"]

    async def test_a_dead_origin_does_not_get_a_request_for_every_hit(
        self, origin: ScriptedOrigin, clock: Clock
    ) -> None:
        control = "max-age=10, stale-while-revalidate=600, stale-if-error=0"
        origin.on("/a", [*says(control), CLOSE], [CLOSE], says(control, b"two"))
        async with edge_for(origin, clock) as harness:
            await harness.get("/a")
            clock.forward(11)
            for _ in range(5):
                assert (await harness.get("/a")).body == b"one"
                await asyncio.sleep(0.01)
            assert len(origin.requests) == 2
            clock.forward(10)
            assert (await harness.get("/a")).body == b"one"
            await origin.received(3)

    async def test_what_was_validated_meanwhile_is_fresh(self, origin: ScriptedOrigin, clock: Clock) -> None:
        control = "max-age=10, stale-while-revalidate=60"
        origin.on(
            "/a", says(control, ETag='"1"'), answer(304, headers={"ETag": '"1"', "Cache-Control": control})
        )
        async with edge_for(origin, clock) as harness:
            await harness.get("/a")
            clock.forward(15)
            assert (await harness.get("/a")).header("age") == "15"
            while (await harness.get("/a")).header("age") != "0":
                await asyncio.sleep(0.01)
            clock.forward(9)
            assert (await harness.get("/a")).header("age") == "9"
        assert origin.requests[1].header("if-none-match") == '"1"'
        assert len(origin.requests) == 2


# An origin that fails once a response is stored.
DOWN = [
    ("500", answer(500, b"down")),
    ("503", answer(503, b"down")),
    ("hangs up", [CLOSE]),
    ("resets", [RESET]),
]


class TestStaleOnFailure:
    @pytest.mark.parametrize("script", [script for _, script in DOWN], ids=[name for name, _ in DOWN])
    async def test_without_limit_unless_one_is_set_and_asked_again_after_the_error_ttl(
        self, origin: ScriptedOrigin, clock: Clock, script: Any
    ) -> None:
        origin.on(
            "/a", [*says("max-age=10"), CLOSE], [*script, CLOSE], [*script, CLOSE], says("max-age=10", b"two")
        )
        async with edge_for(origin, clock) as harness:
            year = 365 * 86400
            moments = (0, year, year + 9, year + 10.1, year + 20.2, year + 20.3)
            assert await words(harness, clock, *moments) == [
                "Miss one", "Hit one", "Hit one", "Hit one", "Miss two", "Hit two",
            ]  # fmt: skip
        assert len(origin.requests) == 4

    async def test_the_error_ttl_is_the_codes_own(self, origin: ScriptedOrigin, clock: Clock) -> None:
        rules = (ErrorResponse(500, 3), ErrorResponse(503, 30))
        origin.on("/a", says("max-age=10"), answer(503), says("max-age=10", b"two"))
        async with edge_for(origin, clock, error_responses=rules) as harness:
            assert await words(harness, clock, 0, 20, 49, 51) == [
                "Miss one",
                "Hit one",
                "Hit one",
                "Miss two",
            ]

    async def test_stale_if_error_bounds_it(self, origin: ScriptedOrigin, clock: Clock) -> None:
        origin.on("/a", says("max-age=10, stale-if-error=20"), answer(500, b"down"))
        async with edge_for(origin, clock) as harness:
            assert await words(harness, clock, 0, 25, 31) == ["Miss one", "Hit one", "500"]

    async def test_max_ttl_bounds_stale_if_error(self, origin: ScriptedOrigin, clock: Clock) -> None:
        origin.on("/a", says("max-age=10, stale-if-error=2000"), answer(500, b"down"))
        async with edge_for(origin, clock, max_ttl=15) as harness:
            assert await words(harness, clock, 0, 24, 36) == ["Miss one", "Hit one", "500"]

    @pytest.mark.parametrize("control", ["must-revalidate", "proxy-revalidate", "stale-if-error=0"])
    async def test_what_forbids_it(self, origin: ScriptedOrigin, clock: Clock, control: str) -> None:
        origin.on("/a", says(f"max-age=10, {control}"), answer(503, b"down"), [CLOSE])
        async with edge_for(origin, clock) as harness:
            assert await words(harness, clock, 0, 9, 11, 22) == ["Miss one", "Hit one", "503", "502"]

    async def test_4xx_is_an_answer(self, origin: ScriptedOrigin, clock: Clock) -> None:
        origin.on("/a", says("max-age=10"), answer(404, b"gone"))
        async with edge_for(origin, clock) as harness:
            assert await words(harness, clock, 0, 11, 12) == ["Miss one", "404", "404"]
        assert len(origin.requests) == 2

    async def test_a_min_ttl_against_no_store_holds_in_a_failure_too(
        self, origin: ScriptedOrigin, clock: Clock
    ) -> None:
        origin.on("/a", says("no-store"), answer(500, b"down"))
        async with edge_for(origin, clock, min_ttl=10) as harness:
            assert await words(harness, clock, 0, 9, 11) == ["Miss one", "Hit one", "Hit one"]

    async def test_before_the_custom_error_page(self, origin: ScriptedOrigin, clock: Clock) -> None:
        origin.on("/a", says("max-age=10"), answer(500, b"down"))
        origin.on("/page", answer(200, b"sorry"))
        rules = (ErrorResponse(500, 10, "/page", 500),)
        async with edge_for(origin, clock, error_responses=rules) as harness:
            assert await words(harness, clock, 0, 11) == ["Miss one", "Hit one"]
        assert [request.target for request in origin.requests] == ["/a", "/a"]

    async def test_stale_ranges_and_heads(self, origin: ScriptedOrigin, clock: Clock) -> None:
        origin.on("/a", says("max-age=10", b"0123456789"), answer(500, b"down"))
        async with edge_for(origin, clock) as harness:
            await harness.get("/a")
            clock.forward(11)
            seen = await harness.get("/a", headers=[("Range", "bytes=2-4")])
            assert (seen.status, seen.body) == (206, b"234")
            assert (await harness.get("/a", method="HEAD")).header("content-length") == "10"


class TestValidation:
    async def test_304_renews_what_is_stored_with_its_headers(
        self, origin: ScriptedOrigin, clock: Clock
    ) -> None:
        stamp = "Sun, 06 Nov 1994 08:49:37 GMT"
        stored = says("max-age=10", ETag='"1"', Last_Modified=stamp, X_Old="old", X_Both="old")
        renewed = answer(304, headers={"ETag": '"1"', "Cache-Control": "max-age=99", "X-Both": "new"})
        origin.on("/a", stored, renewed)
        async with edge_for(origin, clock) as harness:
            await harness.get("/a")
            clock.forward(11)
            for word in ("RefreshHit", "Hit"):
                seen = await harness.get("/a")
                assert (seen.x_cache, seen.body) == (word, b"one")
                assert (seen.header("x-old"), seen.header("x-both")) == ("old", "new")
                assert seen.header("cache-control") == "max-age=99"
        asked = origin.requests[1]
        assert (asked.header("if-none-match"), asked.header("if-modified-since")) == ('"1"', stamp)

    async def test_no_cache_is_stored_and_validated_at_each_use(
        self, origin: ScriptedOrigin, clock: Clock
    ) -> None:
        same = answer(304, headers={"ETag": '"1"'})
        origin.on("/a", says("no-cache", ETag='"1"'), same, same, says("no-cache", b"two", ETag='"2"'))
        async with edge_for(origin, clock) as harness:
            assert await words(harness, clock, 0, 0, 0, 0) == [
                "Miss one", "RefreshHit one", "RefreshHit one", "Miss two",
            ]  # fmt: skip

    async def test_a_304_about_another_version_is_not_believed(
        self, origin: ScriptedOrigin, clock: Clock
    ) -> None:
        origin.on(
            "/a",
            says("max-age=10", ETag='"1"'),
            answer(304, headers={"ETag": '"2"'}),
            says("max-age=10", b"two"),
        )
        async with edge_for(origin, clock) as harness:
            assert await words(harness, clock, 0, 11) == ["Miss one", "Miss two"]
        assert [request.header("if-none-match") for request in origin.requests] == [None, '"1"', None]

    async def test_the_viewers_conditions_are_answered_here(
        self, origin: ScriptedOrigin, clock: Clock
    ) -> None:
        origin.on("/a", says("max-age=10", ETag='"1"'), answer(304, headers={"ETag": '"1"'}))
        async with edge_for(origin, clock) as harness:
            for moment, status in ((0, 304), (1, 304), (10, 304)):
                clock.forward(moment)
                seen = await harness.get("/a", headers=[("If-None-Match", '"1"')])
                assert (seen.status, seen.header("etag")) == (status, '"1"')
            assert (await harness.get("/a", headers=[("If-None-Match", '"0"')])).body == b"one"
        # The first fill requested all of it.
        assert [request.header("if-none-match") for request in origin.requests] == [None, '"1"']

    @pytest.mark.parametrize("compress", [False, True])
    @pytest.mark.parametrize(
        ("field", "value", "status"),
        [
            ("If-None-Match", '"1"', 304),
            ("If-None-Match", '"2"', 200),
            ("If-Match", '"1"', 200),
            ("If-Match", '"2"', 412),
            ("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT", 304),
            ("If-Modified-Since", "Sun, 06 Nov 1994 08:49:36 GMT", 200),
            ("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT", 412),
        ],
    )
    async def test_conditions_on_what_is_not_stored(
        self, origin: ScriptedOrigin, field: str, value: str, status: int, compress: bool
    ) -> None:
        stamp = "Sun, 06 Nov 1994 08:49:37 GMT"
        said = {"ETag": '"1"', "Last_Modified": stamp, "Content_Type": "text/css"}
        origin.on("/a", says("no-store", b"x" * 2000, **said))
        if compress and field == "If-Match":
            status = 412  # the tag of the compressed body is weak
        async with edge_for(origin, compress=compress, accept_gzip=True) as harness:
            seen = await harness.get("/a", headers=[(field, value), ("Accept-Encoding", "gzip")])
            assert seen.status == status
            assert seen.header("etag") == ('W/"1"' if compress else '"1"')

    async def test_conditions_are_not_used_where_cookies_are_forwarded(
        self, origin: ScriptedOrigin, clock: Clock
    ) -> None:
        origin.on("/a", says("max-age=10", ETag='"1"'), says("max-age=10", b"two"))
        everything = Select("all")
        async with edge_for(origin, clock, key_cookies=everything, forward_cookies=everything) as harness:
            assert await words(harness, clock, 0, 11) == ["Miss one", "Miss two"]
        assert origin.requests[1].header("if-none-match") is None

    async def test_a_head_for_something_stale_renews_it_as_a_get(
        self, origin: ScriptedOrigin, clock: Clock
    ) -> None:
        # RFC 9111 §4.3.5 concerns a HEAD that reaches the origin while a GET's response is stored: here none does.
        origin.on("/a", says("max-age=10", ETag='"1"'), answer(304, headers={"ETag": '"1"', "X-New": "yes"}))
        origin.on("/b", says("max-age=10"), says("max-age=10", b"longer"))
        async with edge_for(origin, clock) as harness:
            for path in ("/a", "/b"):
                await harness.get(path)
            clock.forward(11)
            head = await harness.get("/a", method="HEAD")
            assert (head.x_cache, head.header("x-new"), head.header("content-length")) == (
                "RefreshHit",
                "yes",
                "3",
            )
            assert (await harness.get("/a")).x_cache == "Hit"
            head = await harness.get("/b", method="HEAD")
            assert (head.x_cache, head.header("content-length")) == ("Miss", "6")
            assert (await harness.get("/b")).body == b"longer"
        assert [request.method for request in origin.requests] == ["GET"] * 4

    async def test_a_viewers_cache_control_changes_nothing(
        self, origin: ScriptedOrigin, clock: Clock
    ) -> None:
        origin.on("/a", says("max-age=10"))
        wishes = ["no-cache", "no-store", "max-age=0", "only-if-cached", "min-fresh=99", "max-stale=99"]
        async with edge_for(origin, clock) as harness:
            assert (await harness.get("/a", headers=[("Cache-Control", "only-if-cached")])).x_cache == "Miss"
            for wish in wishes:
                seen = await harness.get("/a", headers=[("Cache-Control", wish), ("Pragma", "no-cache")])
                assert seen.x_cache == "Hit"
            clock.forward(11)
            assert (await harness.get("/a", headers=[("Cache-Control", "max-stale=99")])).x_cache == "Miss"


class TestUnsafeMethods:
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    @pytest.mark.parametrize("status", [200, 204, 303])
    async def test_end_what_is_stored(self, origin: ScriptedOrigin, method: str, status: int) -> None:
        origin.on("/a", says("max-age=99"), answer(status), says("max-age=99", b"two"))
        origin.on("/b", says("max-age=99"))
        async with edge_for(origin) as harness:
            await harness.get("/a")
            await harness.get("/b")
            await harness.get("/a", method=method, body=b"x")
            assert (await harness.get("/a")).body == b"two"
            assert (await harness.get("/b")).x_cache == "Hit"

    @pytest.mark.parametrize("status", [400, 404, 500])
    async def test_not_if_they_fail(self, origin: ScriptedOrigin, status: int) -> None:
        origin.on("/a", says("max-age=99"), answer(status))
        async with edge_for(origin) as harness:
            await harness.get("/a")
            await harness.get("/a", method="POST", body=b"x")
            assert (await harness.get("/a")).x_cache == "Hit"

    async def test_under_every_key_of_the_url_and_of_no_other(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", says("max-age=99"))
        names = Select("whitelist", ("x-kind",))
        selects: dict[str, Any] = {
            "key_query": Select("all"),
            "forward_query": Select("all"),
            "accept_gzip": True,
        }
        async with edge_for(origin, key_headers=names, forward_headers=names, **selects) as harness:

            async def ask(target: str) -> list[str]:
                kinds: list[list[tuple[str, str]]] = [[], [("X-Kind", "k")], [("Accept-Encoding", "gzip")]]
                return [(await harness.get(target, headers=headers)).x_cache for headers in kinds]

            for target in ("/a", "/a?x=1", "/a?x=12"):
                assert await ask(target) == ["Miss"] * 3
                assert await ask(target) == ["Hit"] * 3
            await harness.get("/a?x=1", method="POST", body=b"x")
            assert await ask("/a?x=12") == await ask("/a") == ["Hit"] * 3
            assert await ask("/a?x=1") == ["Miss"] * 3
            await harness.get("/a", method="POST", body=b"x")
            assert await ask("/a?x=1") == ["Hit"] * 3
            assert await ask("/a") == ["Miss"] * 3

    async def test_vary_variants_too(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", says("max-age=99", Vary="Origin"))
        forwards = Select("whitelist", ("origin",))
        async with edge_for(origin, forward_headers=forwards) as harness:
            for round_ in range(2):
                for value in ("https://a", "https://b"):
                    assert (await harness.get("/a", headers=[("Origin", value)])).x_cache == "Miss"
                if not round_:
                    await harness.get("/a", method="PUT", body=b"x")

    @pytest.mark.parametrize(
        ("field", "value", "ends"),
        [
            ("Location", "/b", True),
            ("Content-Location", "/b", True),
            ("Location", "http://d.test/b", True),
            ("Location", "http://D.test:80/b", True),
            ("Location", "b", True),
            ("Location", "./x/../b#part", True),
            ("Location", "http://other.test/b", False),
            ("Location", "https://d.test/b", False),
            ("Location", "http://d.test:81/b", False),
            ("Location", "http://[bad/b", False),
            ("Location", "//d.test/b", True),
            ("Refresh", "/b", False),
        ],
    )
    async def test_what_the_answer_names_if_it_is_of_the_same_origin(
        self, origin: ScriptedOrigin, field: str, value: str, ends: bool
    ) -> None:
        origin.on("/a", answer(201, headers={field: value}))
        origin.on("/b", says("max-age=99"))
        async with edge_for(origin) as harness:
            await harness.get("/b")
            await harness.get("/a", method="POST", body=b"x")
            assert (await harness.get("/b")).x_cache == ("Miss" if ends else "Hit")

    async def test_a_response_under_way_is_not_stored(self, origin: ScriptedOrigin, clock: Clock) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *says("max-age=99", b"before")], answer(204), says("max-age=99", b"after"))
        async with edge_for(origin, clock) as harness:
            early = asyncio.create_task(harness.get("/a"))
            await origin.received(1)
            clock.forward(1)
            assert (await harness.get("/a", method="PUT", body=b"x")).status == 204
            clock.forward(1)
            # No viewer joins the old fill, and it does not overwrite the new one's response.
            assert (await harness.get("/a")).body == b"after"
            gate.set()
            assert (await early).body == b"before"
            assert (await harness.get("/a")).body == b"after"

    async def test_safe_methods_end_nothing(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", says("max-age=99"))
        async with edge_for(origin) as harness:
            await harness.get("/a")
            for method in ("OPTIONS", "HEAD"):
                await harness.get("/a", method=method)
            assert (await harness.get("/a")).x_cache == "Hit"


class TestAuthorization:
    LISTED = Select("whitelist", ("authorization",))
    VIEWER = Select("all")

    @pytest.mark.parametrize(
        ("control", "shared"),
        [
            ("max-age=99", False),
            ("public, max-age=99", True),
            ("s-maxage=99", True),
            ("max-age=99, must-revalidate", True),
            ("private, max-age=99", False),
        ],
    )
    async def test_sent_on_but_not_in_the_key(
        self, origin: ScriptedOrigin, control: str, shared: bool
    ) -> None:
        origin.on("/a", says(control, b"of alice"), says(control, b"of bob"))
        async with edge_for(origin, forward_headers=self.VIEWER) as harness:
            first = await harness.get("/a", headers=[("Authorization", "alice")])
            second = await harness.get("/a", headers=[("Authorization", "bob")])
            assert (first.body, second.body) == (b"of alice", b"of alice" if shared else b"of bob")
        assert origin.requests[0].header("authorization") == "alice"

    async def test_in_the_key(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", says("max-age=99", b"of alice"), says("max-age=99", b"of bob"))
        async with edge_for(origin, key_headers=self.LISTED, forward_headers=self.LISTED) as harness:
            for word in ("Miss", "Hit"):
                for name in ("alice", "bob"):
                    seen = await harness.get("/a", headers=[("Authorization", name)])
                    assert (seen.body, seen.x_cache) == (b"of " + name.encode(), word)

    async def test_not_sent_on(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", says("max-age=99"))
        async with edge_for(origin) as harness:
            for word in ("Miss", "Hit"):
                assert (await harness.get("/a", headers=[("Authorization", word)])).x_cache == word
        assert origin.requests[0].header("authorization") is None


async def at_once(
    harness: EdgeHarness, count: int, origin: ScriptedOrigin, gate: asyncio.Event
) -> list[Seen]:
    """That many viewers, which send requests while the first of them waits for the origin, which answers when all are
    there."""
    viewers = [await harness.viewer() for _ in range(count)]
    asking = [asyncio.create_task(viewer.ask("/a", "d.test")) for viewer in viewers]
    await origin.received(1)
    while sum(connection._task is not None for connection in harness.listener.connections) < count:
        await asyncio.sleep(0.005)
    gate.set()
    seen = await asyncio.gather(*asking)
    for viewer in viewers:
        viewer.writer.close()
    return seen


class TestCollapsing:
    N = 25

    @pytest.mark.parametrize("size", [10, 300_000])
    async def test_one_request_for_all(self, origin: ScriptedOrigin, size: int) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *says("max-age=9", b"x" * size)])
        async with edge_for(origin) as harness:
            seen = await at_once(harness, self.N, origin, gate)
        assert len(origin.requests) == 1
        assert {len(s.body) for s in seen} == {size}
        assert sorted(s.x_cache for s in seen) == ["Hit"] * (self.N - 1) + ["Miss"]

    async def test_one_validation_for_all(self, origin: ScriptedOrigin, clock: Clock) -> None:
        gate = asyncio.Event()
        origin.on("/a", says("max-age=9", ETag='"1"'), [gate, *answer(304, headers={"ETag": '"1"'})])
        async with edge_for(origin, clock) as harness:
            await harness.get("/a")
            clock.forward(10)
            origin.requests.clear()
            seen = await at_once(harness, self.N, origin, gate)
        assert len(origin.requests) == 1
        assert {s.body for s in seen} == {b"one"}

    async def test_one_stored_error_for_all(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *answer(503, b"down")])
        async with edge_for(origin) as harness:
            seen = await at_once(harness, self.N, origin, gate)
        assert len(origin.requests) == 1
        assert {(s.status, s.x_cache) for s in seen} == {(503, "Error")}

    @pytest.mark.parametrize(
        ("control", "status"),
        [
            ("no-store", 200),
            ("private", 200),
            ("no-cache", 200),
            ("max-age=0", 200),
            ("s-maxage=0", 200),
            ("max-age=9", 418),
        ],
    )
    async def test_what_cannot_be_shared_is_fetched_for_each_all_together(
        self, origin: ScriptedOrigin, control: str, status: int
    ) -> None:
        """No viewer gets another's response, none waits for more than the first, and none sends two requests."""
        gate, more = asyncio.Event(), asyncio.Event()
        number = 0

        async def mine(_: ReceivedRequest, wire: Wire) -> None:
            nonlocal number
            number += 1
            own = number
            await (gate if own == 1 else more).wait()
            for step in answer(status, b"for %d" % own, {"Cache-Control": control}):
                assert isinstance(step, bytes)
                await wire.send(step)

        origin.on("/a", [mine])
        async with edge_for(origin) as harness:
            asking = asyncio.create_task(at_once(harness, self.N, origin, gate))
            # The others are requested at once, not one after the other.
            await asyncio.wait_for(origin.received(self.N), 5)
            more.set()
            seen = await asking
            assert len({s.body for s in seen}) == self.N
            assert {s.x_cache for s in seen} == {"Miss" if status == 200 else "Error"}
            assert len(origin.requests) == self.N
            # And for a while no viewer waits for another's response.
            gate.clear()
            more.clear()
            late = [asyncio.create_task(harness.get("/a")) for _ in range(3)]
            await asyncio.wait_for(origin.received(self.N + 3), 5)
            more.set()
            assert len({s.body for s in await asyncio.gather(*late)}) == 3

    async def test_what_becomes_storable_is_shared_again(self, origin: ScriptedOrigin, clock: Clock) -> None:
        gate = asyncio.Event()
        origin.on("/a", says("no-store"), [gate, *says("max-age=9", b"two")])
        async with edge_for(origin, clock) as harness:
            assert (await harness.get("/a")).body == b"one"
            clock.forward(10)
            origin.requests.clear()
            seen = await at_once(harness, 5, origin, gate)
            assert {s.body for s in seen} == {b"two"}
            assert len(origin.requests) == 1

    async def test_not_where_cookies_are_forwarded(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *says("max-age=9")])
        async with edge_for(origin, forward_cookies=Select("all")) as harness:
            await at_once(harness, 5, origin, gate)
            assert len(origin.requests) == 5
            # A response stored by one of them serves all later ones.
            assert (await harness.get("/a")).x_cache == "Hit"

    async def test_not_where_caching_is_disabled(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *says("max-age=9")])
        async with edge_for(origin, min_ttl=0, default_ttl=0, max_ttl=0) as harness:
            seen = await at_once(harness, 5, origin, gate)
        assert len(origin.requests) == 5
        assert {s.x_cache for s in seen} == {"Miss"}

    async def test_min_ttl_collapses_requests_for_no_store(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *says("no-store")])
        async with edge_for(origin, min_ttl=1) as harness:
            await at_once(harness, 5, origin, gate)
        assert len(origin.requests) == 1

    async def test_other_variants_ask_for_themselves(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()

        async def own(asked: ReceivedRequest, wire: Wire) -> None:
            await gate.wait()
            for step in says("max-age=9", (asked.header("origin") or "").encode(), Vary="Origin"):
                await wire.send(step)

        origin.on("/a", [own])
        async with edge_for(origin, forward_headers=Select("whitelist", ("origin",))) as harness:
            names = ["https://a", "https://b", "https://a", "https://b"]
            asking = [asyncio.create_task(harness.get("/a", headers=[("Origin", name)])) for name in names]
            await origin.received(1)
            gate.set()
            assert [(await one).body.decode() for one in asking] == names

    async def test_the_first_may_leave(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *says("max-age=9")])
        async with edge_for(origin) as harness:
            async with await harness.viewer() as first:
                await first.send(b"GET /a HTTP/1.1\r\nHost: d.test\r\n\r\n")
                await origin.received(1)
                second = asyncio.create_task(harness.get("/a"))
                await asyncio.sleep(0.05)
                linger = struct.pack("ii", 1, 0)
                first.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            assert (await harness.recorded(1))["detail"] == "ClientHungUpRequest"
            gate.set()
            assert (await second).body == b"one"
        assert len(origin.requests) == 1


COOKIES: dict[str, Any] = {"forward_cookies": Select("all"), "key_cookies": Select("all")}


class TestSetCookie:
    async def test_removed_where_cookies_are_not_forwarded(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", says("max-age=9", Set_Cookie="a=1"))
        origin.on("/p", answer(200, b"ok", {"Set-Cookie": "a=1"}))
        async with edge_for(origin) as harness:
            for _ in range(2):
                assert (await harness.get("/a")).header("set-cookie") is None
            assert (await harness.get("/p", method="POST", body=b"x")).header("set-cookie") is None

    async def test_stored_and_replayed_where_they_are(self, origin: ScriptedOrigin) -> None:
        two = [("Cache-Control", "max-age=9"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; Path=/")]
        origin.on("/a", answer(200, b"one", two))
        async with edge_for(origin, **COOKIES) as harness:
            for word in ("Miss", "Hit"):
                seen = await harness.get("/a")
                assert seen.x_cache == word
                assert [v for n, v in seen.headers if n == "set-cookie"] == ["a=1", "b=2; Path=/"]

    async def test_once_only_if_no_cache_names_it(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", says('max-age=9, no-cache="Set-Cookie"', Set_Cookie="a=1"))
        async with edge_for(origin, **COOKIES) as harness:
            assert [(await harness.get("/a")).header("set-cookie") for _ in range(3)] == ["a=1", None, None]

    async def test_each_cookie_its_own_answer(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", says("max-age=9", b"one"), says("max-age=9", b"two"))
        async with edge_for(origin, **COOKIES) as harness:
            for word in ("Miss", "Hit"):
                for value, body in (("u=1; v=2", b"one"), ("u=2", b"two")):
                    seen = await harness.get("/a", headers=[("Cookie", value)])
                    assert (seen.x_cache, seen.body) == (word, body)
            # The order of cookies makes no difference.
            assert (await harness.get("/a", headers=[("Cookie", "v=2; u=1")])).x_cache == "Hit"


class TestTheWire:
    async def test_informational_answers_stay_between_the_edge_and_the_origin(
        self, origin: ScriptedOrigin
    ) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\n"
        first = b"HTTP/1.1 100 Continue\r\n\r\n" + hints + b"HTTP/1.1 102 Processing\r\n\r\n"
        origin.on("/a", [first, *says("max-age=9")])
        async with edge_for(origin) as harness:
            for word in ("Miss", "Hit"):
                seen = await harness.get("/a")
                assert (seen.status, seen.x_cache, seen.body) == (200, word, b"one")
                assert seen.header("link") is None

    async def test_trailers_are_dropped(self, origin: ScriptedOrigin) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\nTE: trailers\r\n\r\n"
        origin.on("/a", [head + b"3\r\none\r\n0\r\nX-Late: secret\r\nCache-Control: no-store\r\n\r\n"])
        async with edge_for(origin) as harness:
            for word in ("Miss", "Hit"):
                seen = await harness.get("/a")
                assert (seen.x_cache, seen.body) == (word, b"one")
                for name in ("trailer", "te", "x-late"):
                    assert seen.header(name) is None

    async def test_an_unsized_body_is_stored_although_it_may_be_truncated(
        self, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", [b"HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\n\r\nall there is", CLOSE])
        async with edge_for(origin) as harness:
            for word in ("Miss", "Hit"):
                seen = await harness.get("/a")
                assert (seen.x_cache, seen.body) == (word, b"all there is")

    @pytest.mark.parametrize("size", [10, 400_000])
    async def test_age_counts_from_the_first_cache_on(
        self, origin: ScriptedOrigin, clock: Clock, size: int
    ) -> None:
        origin.on("/a", says("max-age=99", b"x" * size, Age="30"))
        async with edge_for(origin, clock) as harness:
            assert (await harness.get("/a")).header("age") == "30"
            clock.forward(5)
            assert (await harness.get("/a")).header("age") == "35"
            clock.forward(65)
            assert (await harness.get("/a")).x_cache == "Miss"

    async def test_redirects_are_stored_and_passed_on(self, origin: ScriptedOrigin) -> None:
        origin.on(
            "/a", answer(302, headers={"Location": "http://elsewhere.test/", "Cache-Control": "max-age=9"})
        )
        async with edge_for(origin) as harness:
            for word in ("Miss", "Hit"):
                seen = await harness.get("/a")
                assert (seen.status, seen.x_cache) == (302, word)
                assert seen.header("location") == "http://elsewhere.test/"

    async def test_vary_star_is_fetched_each_time(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", says("max-age=9", Vary="*"), says("max-age=9", b"two", Vary="*"))
        async with edge_for(origin) as harness:
            assert [(await harness.get("/a")).body for _ in range(2)] == [b"one", b"two"]

    async def test_an_edge_with_a_dead_origin_and_nothing_stored(self, origin: ScriptedOrigin) -> None:
        snapshot = site(origin.origin(http_port=closed_port()), Behavior("*", "scripted"))
        async with EdgeHarness(snapshot) as harness:
            seen = await harness.get("/a")
            assert (seen.status, seen.header("server")) == (502, "CloudFront")
