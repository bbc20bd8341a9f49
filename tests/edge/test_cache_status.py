"""Fields that CloudFront does not have: CDN-Cache-Control and Cache-Status, and the structured fields beneath
them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior, ErrorResponse
from tests.origin import CLOSE, ScriptedOrigin, answer
from tests.sites import site
from tests.viewer import Clock, EdgeHarness


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
