"""Fields that CloudFront does not have: CDN-Cache-Control and Cache-Status, and the structured fields beneath
them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from http_sf import DisplayString
from hypothesis import given
from hypothesis import strategies as st

from keyfront.edge.rules.freshness import ReceivedResponse, admit
from keyfront.edge.semantics.cache_control import CacheControl
from keyfront.edge.semantics.structured_fields import Token, item, parse_dictionary
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior, ErrorResponse
from tests.origin import CLOSE, ScriptedOrigin, answer
from tests.rows import rows
from tests.sites import site
from tests.viewer import Clock, EdgeHarness

MALFORMED = [
    b"Max-Age=60", b"max-age=60,", b"max-age=60,,no-store", b"max-age 60", b"max-age=", b"=60", b"max-age==60",
    b'a="unclosed', b'a="bad \\x escape"', b"a=?2", b"a=1.2345", b"a=1.", b"a=1234567890123456", b"a=(1 2", b"a=(1,2)",
    b"a=:not base64!:", b"a=\xff", b'a="\xc3\xa9"', b"max-age=60;", b"max-age=60; =1", b"a=--1", b"a=@1.5", b"\ta=1",
    b"1a=2",
]  # fmt: skip


class TestStructuredFields:
    @rows(
        ("lines", "members"),
        [
            ([b""], {}),
            ([b"max-age=60"], {"max-age": 60}),
            ([b"max-age=60, must-revalidate"], {"max-age": 60, "must-revalidate": True}),
            ([b"max-age=60 \t,\t no-store"], {"max-age": 60, "no-store": True}),
            ([b"max-age=60", b"no-store"], {"max-age": 60, "no-store": True}),
            ([b"a=1, b=2, a=3"], {"b": 2, "a": 3}),
            ([b"a=?0, b=?1"], {"a": False, "b": True}),
            ([b"a=-12.5"], {"a": -12.5}),
            ([b'a="x, \\"y\\" \\\\"'], {"a": 'x, "y" \\'}),
            ([b"a=tok/en:*"], {"a": Token("tok/en:*")}),
            ([b"a=:aGVsbG8=:, b=@1659578233"], {"a": b"hello", "b": datetime.fromtimestamp(1659578233, UTC)}),
            ([b"a=(1 2;p  x);q=1, b"], {"a": [(1, {}), (2, {"p": True}), (Token("x"), {})], "b": True}),
            ([b"a=()"], {"a": []}),
            ([b"a;x=1;y, b=2; z"], {"a": True, "b": 2}),
            ([b"  a=1  "], {"a": 1}),
            ([b'a=%"f%c3%bc"'], {"a": DisplayString("fü")}),
            *[([data], None) for data in MALFORMED],
        ],
    )
    def test_dictionaries(self, lines: list[bytes], members: dict[str, Any] | None) -> None:
        assert parse_dictionary(lines) == members

    @given(st.binary(max_size=60))
    def test_any_bytes_are_parsed_or_refused(self, data: bytes) -> None:
        parse_dictionary([data])

    @rows(
        ("name", "parameters", "text"),
        [
            ("KFR50-P1", {"hit": True}, b"KFR50-P1; hit"),
            ("my edge", {"fwd": "uri-miss", "ttl": -3}, b'"my edge"; fwd=uri-miss; ttl=-3'),
            ('a"b\\c', {"stored": False}, b'"a\\"b\\\\c"'),
            ("kéy", {}, b'"k?y"'),
            ("", {"detail": "a:b"}, b'""; detail=a:b'),
        ],
    )
    def test_items(self, name: str, parameters: dict[str, bool | int | str], text: bytes) -> None:
        assert item(name, parameters) == text


FOR_CDNS = b"cdn-cache-control"
FOR_ALL = b"cache-control"
TTL = Behavior("*", "o", default_ttl=500)


def lifetime(*headers: tuple[bytes, bytes], behavior: Behavior = TTL) -> float | None:
    meta = admit(behavior, None, "GET", ReceivedResponse(200, list(headers), [], 1000.0, 1000.0))
    return None if meta is None else meta.fresh_until - 1000.0


class TestCdnCacheControl:
    @rows(
        ("headers", "seconds"),
        [
            ([(FOR_CDNS, b"max-age=60"), (FOR_ALL, b"no-store")], 60),
            ([(FOR_CDNS, b"no-store"), (FOR_ALL, b"max-age=60")], None),
            ([(FOR_CDNS, b"private"), (FOR_ALL, b"public, max-age=60")], None),
            ([(FOR_CDNS, b"max-age=60, s-maxage=7")], 7),
            # Of the wrong type (RFC 9213 §2.1): a Date is not a number, a Display String is not a field name.
            ([(FOR_CDNS, b"max-age=@60, s-maxage=7")], 7),
            ([(FOR_CDNS, b'max-age=60, x-note=%"f%c3%bc"'), (FOR_ALL, b"no-store")], 60),
            # No other field counts beside it, not even where it sets nothing itself.
            ([(FOR_CDNS, b"must-revalidate"), (FOR_ALL, b"max-age=60")], 500),
            ([(FOR_CDNS, b"public"), (b"expires", b"Thu, 01 Jan 1970 00:00:00 GMT")], 500),
            ([(FOR_CDNS, b"max-age=60"), (b"expires", b"0")], 60),
            ([(FOR_CDNS, b"max-age=60"), (FOR_CDNS, b"no-store")], None),
            # Wrong values are ignored one by one ...
            ([(FOR_CDNS, b'max-age="60"'), (FOR_ALL, b"max-age=9")], 500),
            ([(FOR_CDNS, b"max-age=6.5, s-maxage=7")], 7),
            ([(FOR_CDNS, b"max-age=-1"), (FOR_ALL, b"max-age=9")], 500),
            ([(FOR_CDNS, b"max-age, no-store=?0"), (FOR_ALL, b"max-age=9")], 500),
            ([(FOR_CDNS, b"no-store=1, max-age=60")], 60),
            # ... a malformed or empty field counts as absent.
            ([(FOR_CDNS, b"Max-Age=60"), (FOR_ALL, b"max-age=9")], 9),
            ([(FOR_CDNS, b"max-age=60,"), (FOR_ALL, b"no-store")], None),
            ([(FOR_CDNS, b""), (FOR_ALL, b"max-age=9")], 9),
        ],
    )
    def test_counts_in_the_place_of_cache_control_and_expires(
        self, headers: list[tuple[bytes, bytes]], seconds: float | None
    ) -> None:
        assert lifetime(*headers) == seconds

    def test_under_the_same_ttls(self) -> None:
        behavior = Behavior("*", "o", min_ttl=10, default_ttl=20, max_ttl=30)
        for said, seconds in (
            (b"max-age=5", 10),
            (b"max-age=25", 25),
            (b"max-age=99", 30),
            (b"no-store", 10),
        ):
            assert lifetime((FOR_CDNS, said), behavior=behavior) == seconds

    def test_stale_windows_and_fields(self) -> None:
        said = b'max-age=1, stale-while-revalidate=5, stale-if-error=7, no-cache="set-cookie, x"'
        control = CacheControl.of([(FOR_CDNS, said), (FOR_ALL, b"stale-if-error=99")])
        assert (control.stale_while_revalidate, control.stale_if_error) == (5, 7)
        assert control.no_cache_fields == {b"set-cookie", b"x"}
        assert not control.no_cache

    @rows("data", MALFORMED)
    def test_what_is_malformed_changes_nothing(self, data: bytes) -> None:
        assert lifetime((FOR_CDNS, data), (FOR_ALL, b"max-age=42")) == 42


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        yield origin
    assert not origin.faults


TELLING = EdgeSettings(memory=1 << 22, max_object=1 << 20, cache_status=True)
ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")


def edge_for(origin: ScriptedOrigin, clock: Clock, *behaviors: Behavior, **members: Any) -> EdgeHarness:
    reached = origin.origin(connection_attempts=1)
    behavior = Behavior("*", "scripted", allowed_methods=ALL)
    return EdgeHarness(site(reached, *behaviors, behavior, **members), settings=TELLING, clock=clock)


async def cache_status(harness: EdgeHarness, target: str, **request: Any) -> str:
    value = (await harness.get(target, **request)).header("cache-status") or ""
    name, _, parameters = value.partition("; ")
    assert name == "KFR50-P1"
    return parameters


class TestCacheStatus:
    async def test_is_not_sent_unless_enabled(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(200, b"x", {"Cache-Control": "max-age=60", "Cache-Status": "Upstream; hit"}))
        async with EdgeHarness(site(origin.origin())) as harness:
            for _ in range(2):
                assert (await harness.get("/a")).header("cache-status") == "Upstream; hit"

    async def test_a_miss_hits_a_validation_and_an_error(self, origin: ScriptedOrigin) -> None:
        clock = Clock()
        fresh = {"Cache-Control": "max-age=60", "ETag": '"1"'}
        origin.on("/a", answer(200, b"x", fresh), answer(304, headers=fresh), answer(503, b"down"))
        async with edge_for(origin, clock) as harness:
            assert await cache_status(harness, "/a") == "fwd=uri-miss; fwd-status=200; ttl=60; stored"
            clock.forward(20)
            assert await cache_status(harness, "/a") == "hit; ttl=40"
            assert await cache_status(harness, "/a", headers=[("If-None-Match", '"1"')]) == "hit; ttl=40"
            assert await cache_status(harness, "/a", headers=[("Range", "bytes=0-0")]) == "hit; ttl=40"
            assert await cache_status(harness, "/a", method="HEAD") == "hit; ttl=40"
            clock.forward(41)
            assert await cache_status(harness, "/a") == "fwd=stale; fwd-status=304; ttl=60; stored"
            clock.forward(61)
            assert await cache_status(harness, "/a") == "fwd=stale; fwd-status=503; ttl=10"
            clock.forward(1)
            assert await cache_status(harness, "/a") == "hit; ttl=9"

    async def test_stale_while_revalidate_has_a_negative_ttl(self, origin: ScriptedOrigin) -> None:
        clock = Clock()
        origin.on("/a", answer(200, b"x", {"Cache-Control": "max-age=10, stale-while-revalidate=60"}))
        async with edge_for(origin, clock) as harness:
            await harness.get("/a")
            clock.forward(15)
            assert await cache_status(harness, "/a") == "hit; ttl=-5"

    async def test_what_passes(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(200, b"x", {"Cache-Control": "no-store"}))
        origin.on("/off", answer(200, b"x"))
        off = Behavior("/off", "scripted", default_ttl=0, max_ttl=0)
        async with edge_for(origin, Clock(), off) as harness:
            assert await cache_status(harness, "/a") == "fwd=uri-miss; fwd-status=200"
            assert await cache_status(harness, "/a", method="POST", body=b"x") == "fwd=method; fwd-status=200"
            assert await cache_status(harness, "/off") == "fwd=bypass; fwd-status=200"
            assert (
                await cache_status(harness, "/a", headers=[("Range", "bytes=0-0")])
                == "fwd=uri-miss; fwd-status=200"
            )

    async def test_variants(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(200, b"x", {"Cache-Control": "max-age=60", "Vary": "Via"}))
        async with edge_for(origin, Clock()) as harness:
            assert (await cache_status(harness, "/a")).startswith("fwd=uri-miss")
            assert (await cache_status(harness, "/a", headers=[("Via", "1.1 x")])).startswith("fwd=vary-miss")
            assert (await cache_status(harness, "/a", headers=[("Via", "1.1 x")])).startswith("hit")

    async def test_a_dead_origin_and_what_is_remembered_of_it(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", [CLOSE])
        async with edge_for(origin, Clock()) as harness:
            assert await cache_status(harness, "/a") == "fwd=uri-miss; detail=OriginCommError"
            assert await cache_status(harness, "/a") == "hit; detail=OriginCommError"

    async def test_a_custom_error_page_has_the_cache_status_of_the_original_request(
        self, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(404))
        origin.on("/page", answer(200, b"sorry"))
        async with edge_for(
            origin, Clock(), error_responses=(ErrorResponse(404, 5, "/page", 200),)
        ) as harness:
            assert await cache_status(harness, "/a") == "fwd=uri-miss; fwd-status=404; ttl=5; stored"
            assert await cache_status(harness, "/a") == "hit; ttl=5"

    async def test_refusals_tell_nothing(self, origin: ScriptedOrigin) -> None:
        async with edge_for(origin, Clock(), enabled=False) as harness:
            assert (await harness.get("/a")).header("cache-status") is None

    async def test_collapsed(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *answer(200, b"x", {"Cache-Control": "max-age=60"})])
        async with edge_for(origin, Clock()) as harness:
            asking = [asyncio.create_task(cache_status(harness, "/a")) for _ in range(2)]
            await origin.received(1)
            while sum(connection._task is not None for connection in harness.listener.connections) < 2:
                await asyncio.sleep(0.005)
            gate.set()
            assert sorted(await asyncio.gather(*asking)) == [
                "fwd=uri-miss; fwd-status=200; ttl=60; stored",
                "fwd=uri-miss; fwd-status=200; ttl=60; stored; collapsed",
            ]

    async def test_the_origins_own_come_first(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(200, b"x", {"Cache-Control": "max-age=60", "Cache-Status": "Upstream; hit"}))
        async with edge_for(origin, Clock()) as harness:
            for mine in ("fwd=uri-miss; fwd-status=200; ttl=60; stored", "hit; ttl=60"):
                seen = await harness.get("/a")
                values = [value for name, value in seen.headers if name == "cache-status"]
                assert values == ["Upstream; hit", f"KFR50-P1; {mine}"]
