"""Health checks of load balancers on the ports for viewers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from keyfront.edge.follower import Follower, FollowerSettings
from keyfront.edge.http.asgi import EdgeApp
from keyfront.edge.limits.viewers import ViewerLimits
from keyfront.edge.serving.settings import EdgeSettings, HealthCheckSettings
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.snapshot import EMPTY, Behavior
from tests.origin import ScriptedOrigin
from tests.rows import rows
from tests.sites import site
from tests.viewer import Clock, EdgeHarness

TARGETS = (("10.0.0.5", "/healthz"), ("[::1]", "/healthz"), ("check.internal", "/"))
SETTINGS = EdgeSettings(memory=1 << 22, health=HealthCheckSettings(TARGETS, 60.0), cache_status=True)


@pytest.fixture
async def harness(origin: ScriptedOrigin) -> AsyncIterator[EdgeHarness]:
    async with EdgeHarness(site(origin.origin()), settings=SETTINGS, clock=Clock()) as harness:
        harness.edge.health.confirmed_at = harness.edge.clock
        yield harness


async def test_a_health_check_reaches_no_origin_cache_or_record(
    harness: EdgeHarness, origin: ScriptedOrigin
) -> None:
    async with await harness.viewer() as viewer:
        for _ in range(4):  # the fast path would have learned a viewer's request by now
            seen = await viewer.ask("/healthz", "10.0.0.5")
            assert (seen.status, seen.body) == (200, b"ok\n")
            assert seen.header("cache-control") == "no-store"
            assert seen.header("cache-status") is None
        seen = await viewer.ask("/healthz", "10.0.0.5:8080", method="HEAD")
        assert (seen.status, seen.body, seen.header("content-length")) == (200, b"", "3")
        assert (await viewer.ask("/", "check.internal")).status == 200
        assert (await viewer.ask("/healthz", "[::1]:80")).status == 200
        assert (await viewer.ask("/healthz", "CHECK.internal")).status == 403
        assert (await viewer.ask("/", "CHECK.internal")).status == 200
    harness.edge.log.flush()
    assert [record["path"] for record in harness.records] == ["/healthz"]  # the one that was none
    assert harness.edge.log.counts.requests.total() == 1
    assert not origin.requests


@rows(
    ("host", "target", "method"),
    [
        ("d.test", "/healthz", "GET"),
        ("10.0.0.6", "/healthz", "GET"),
        ("x.10.0.0.5", "/healthz", "GET"),
        ("10.0.0.5", "/healthz?", "GET"),
        ("10.0.0.5", "/healthz/", "GET"),
        ("10.0.0.5", "//healthz", "GET"),
        ("10.0.0.5", "/%68ealthz", "GET"),
        ("10.0.0.5", "/HEALTHZ", "GET"),
        ("10.0.0.5", "/healthz", "POST"),
        ("10.0.0.5", "/", "GET"),
    ],
)
async def test_everything_else_is_a_request_of_a_viewer(
    harness: EdgeHarness, host: str, target: str, method: str
) -> None:
    seen = await harness.get(target, host=host, method=method)
    assert seen.body != b"ok\n"
    assert harness.records.pop()["path"] == target.partition("?")[0]


async def test_the_reasons_and_their_log(harness: EdgeHarness, caplog: pytest.LogCaptureFixture) -> None:
    health, clock = harness.edge.health, harness.edge.clock
    assert isinstance(clock, Clock)
    confirmed = clock.now
    health.confirmed_at = lambda: confirmed

    async def seen() -> tuple[int, bytes]:
        found = await harness.get("/healthz", host="10.0.0.5")
        return found.status, found.body

    with caplog.at_level(logging.INFO, "keyfront.edge"):
        assert await seen() == (200, b"ok\n")
        clock.forward(61)
        assert await seen() == (503, b"snapshot_too_old\n")
        assert await seen() == (503, b"snapshot_too_old\n")
        health.stopping = lambda: True
        assert await seen() == (503, b"stopping\n")
        health.stopping = lambda: False
        confirmed = clock.now
        assert await seen() == (200, b"ok\n")
    assert [record.getMessage() for record in caplog.records] == [
        "health checks get 503: snapshot_too_old",
        "health checks get 503: stopping",
        "health checks get 200 again",
    ]


async def test_without_a_snapshot() -> None:
    async with EdgeHarness(EMPTY, settings=SETTINGS) as harness:
        seen = await harness.get("/healthz", host="10.0.0.5")
        assert (seen.status, seen.body) == (503, b"no_snapshot\n")


async def test_no_limit_on_requests_applies(origin: ScriptedOrigin) -> None:
    viewers = ViewerLimits(requests=1)
    settings = EdgeSettings(memory=1 << 22, health=HealthCheckSettings(TARGETS), viewers=viewers)
    async with EdgeHarness(site(origin.origin()), settings=settings) as harness:
        harness.edge.viewers.requests.enter("127.0.0.1")
        assert (await harness.get("/a", host="d.test")).status == 503
        assert (await harness.get("/healthz", host="10.0.0.5")).status == 200


async def test_the_host_of_a_distribution_is_named(
    origin: ScriptedOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EdgeSettings(memory=1 << 22, health=HealthCheckSettings((("d.test", "/healthz"),)))
    with caplog.at_level(logging.WARNING, "keyfront.edge"):
        async with EdgeHarness(site(origin.origin()), settings=settings) as harness:
            harness.edge.use(site(origin.origin()))
            assert (await harness.get("/healthz", host="d.test")).body == b"ok\n"
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("d.test is the host of a health check and of a distribution")


async def test_over_asgi(harness: EdgeHarness) -> None:
    transport = httpx.ASGITransport(EdgeApp(harness.edge))
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.5") as client:
        seen = await client.get("/healthz")
    assert (seen.status_code, seen.text) == (200, "ok\n")
    assert not harness.records


async def test_how_old_a_followed_snapshot_is(tmp_path: Path, origin: ScriptedOrigin) -> None:
    feed, now = FileFeed(tmp_path), time.time()
    settings = EdgeSettings(memory=1 << 22, health=HealthCheckSettings(TARGETS, 60.0))
    async with EdgeHarness(EMPTY, settings=settings) as harness:
        follower = Follower(harness.edge, FollowerSettings("edge-1", tmp_path), lambda: 0)

        def answer(at: float) -> int:
            return harness.edge.health.reply(at).status

        assert answer(now) == 503
        feed.publish(site(origin.origin(), Behavior("*", "scripted")))
        follower.poll()
        assert (answer(now), answer(now + 70)) == (200, 503)  # a control plane that confirms nothing
        feed.confirm(now + 50)
        assert (answer(now + 70), answer(now + 120)) == (200, 503)
        (tmp_path / "snapshot").write_bytes(b"garbage")
        follower.poll()
        feed.confirm(now + 100)  # of what this edge has refused
        assert (answer(now + 50), answer(now + 70)) == (200, 503)
        await asyncio.sleep(0)
