"""Origin Shield: children, a parent and an origin, all real, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyfront.edge.origin import shield_client
from keyfront.edge.origin.shield_client import ReplayableBody, parent_address
from keyfront.edge.origin.shield_protocol import Secrets, sealed_answer, sealed_query
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.serving.shield_server import ShieldServer
from keyfront.edge.types.shield import SHIELD, ShieldAnswer, ShieldQuery
from keyfront.errors import SettingsError
from keyfront.model.snapshot import Behavior, ErrorResponse, Invalidation, OriginGroup, Select, Snapshot
from tests.edge.film import Film, bytes_of
from tests.origin import CLOSE, RESET, Authority, ScriptedOrigin, answer, closed_port
from tests.origin import ReceivedRequest as Seen
from tests.rows import rows
from tests.sites import site
from tests.viewer import Clock, EdgeHarness

REGION = "eu-central-1"
SECRET = b"0123456789abcdef0123456789abcdef"
ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
SLICE = 16 * 1024


def with_snapshot(snapshot: Snapshot, number: int, **members: Any) -> Snapshot:
    """The same snapshot with another number and its distribution changed."""
    (distribution,) = snapshot.distributions
    changed = msgspec.structs.replace(distribution, **members)
    return msgspec.structs.replace(snapshot, number=number, distributions=(changed,))


def invalidated(snapshot: Snapshot, number: int, *paths: str) -> Snapshot:
    return with_snapshot(snapshot, number, invalidations=(Invalidation(number, paths),))


class Family:
    """An origin, a parent in front of it, and as many children as requested, all of one installation."""

    def __init__(self, folder: Path) -> None:
        self.origin = ScriptedOrigin()
        self.clock = Clock()
        self.folder = folder
        self.parent: EdgeHarness
        self.snapshot = Snapshot(0, 0.0)
        (folder / "secret").write_bytes(SECRET + b"\n")
        self._stack = AsyncExitStack()
        self._settings = {"memory": 1 << 22, "max_object": 1 << 20, "slice": SLICE}

    async def __aenter__(self) -> Family:
        await self._stack.enter_async_context(self.origin)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        assert not self.origin.faults

    async def settle(
        self, *behaviors: Behavior, tls: Any = None, parent: dict[str, Any] | None = None, **members: Any
    ) -> EdgeHarness:
        """A distribution, its parent, and a first child."""
        reached = members.pop("origin", {})
        shielded = self.origin.origin(
            shield_region=REGION, connection_attempts=1, connection_timeout=1.0, read_timeout=5.0, **reached
        )
        self.snapshot = site(shielded, *behaviors, **members)
        settings = EdgeSettings(**(self._settings | (parent or {})))
        self.parent = EdgeHarness(self.snapshot, settings=settings, scheme=SHIELD, tls=tls, clock=self.clock)
        self.parent.listener.shared.scheme = SHIELD
        self.parent.listener.shared.handler = ShieldServer(self.parent.edge, Secrets((SECRET,)))
        await self._stack.enter_async_context(self.parent)
        return await self.child()

    async def child(self, at: str | None = None, **settings: Any) -> EdgeHarness:
        settings = (
            self._settings
            | {
                "shields": ((REGION, at or f"127.0.0.1:{self.parent.port}"),),
                "shield_secret": str(self.folder / "secret"),
            }
            | settings
        )
        child = EdgeHarness(self.snapshot, settings=EdgeSettings(**settings), clock=self.clock)
        return await self._stack.enter_async_context(child)

    async def barren(self) -> EdgeHarness:
        """An edge of the same installation without a parent."""
        return await self._stack.enter_async_context(EdgeHarness(self.snapshot, clock=self.clock))

    def publish(self, snapshot: Snapshot, *edges: EdgeHarness) -> None:
        for harness in edges:
            harness.edge.use(snapshot)


@pytest.fixture
async def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Family]:
    monkeypatch.setattr(shield_client, "PATIENCE", 60.0)  # a busy machine sends no health probes
    async with Family(tmp_path) as family:
        yield family


# -- the tier ----------------------------------------------------------------------------------------------------------


async def test_what_one_child_has_fetched_the_others_get_from_the_parent(family: Family) -> None:
    first = await family.settle()
    second = await family.child()
    family.origin.on("/a", answer(200, b"hello", {"Cache-Control": "max-age=60", "ETag": '"1"'}))
    seen = await first.get("/a")
    assert (seen.status, seen.body, seen.x_cache) == (200, b"hello", "Miss")
    family.clock.forward(10)
    seen = await second.get("/a")
    assert (seen.status, seen.body, seen.x_cache, seen.header("age")) == (200, b"hello", "Hit", "10")
    record = await second.recorded(1)
    assert (record["result"], record["detail"]) == ("Hit", "OriginShieldHit")
    assert (await second.get("/a")).x_cache == "Hit"
    assert (await second.recorded(2))["detail"] == "Hit"
    assert len(family.origin.requests) == 1
    assert [(r["scheme"], r["result"], r["status"]) for r in family.parent.records] == [
        (SHIELD, "Miss", 200),
        (SHIELD, "Hit", 200),
    ]


async def test_viewers_see_one_edge(family: Family) -> None:
    child = await family.settle()
    family.origin.on("/a", answer(200, b"hello", {"X-Cache": "Hit from elsewhere", "Via": "1.1 other"}))
    seen = await child.get("/a")
    assert seen.header("x-edge-shield") is None
    assert seen.header("via") == child.edge.via
    assert len([name for name, _ in seen.headers if name in ("x-cache", "x-amz-cf-pop", "x-amz-cf-id")]) == 3


async def test_an_origin_gets_the_same_requests_with_a_shield_as_without(family: Family) -> None:
    behavior = Behavior(
        "*",
        "scripted",
        key_headers=Select(
            "whitelist", ("accept", "cloudfront-viewer-country", "cloudfront-forwarded-proto")
        ),
        forward_headers=Select("whitelist", ("host", "accept", "cloudfront-viewer-country", "referer")),
        key_query=Select("whitelist", ("a",)),
        forward_query=Select("all"),
        key_cookies=Select("whitelist", ("c",)),
        forward_cookies=Select("whitelist", ("c", "d")),
        accept_gzip=True,
    )
    child = await family.settle(
        behavior, origin={"path": "/base", "custom_headers": (("X-Secret", "s3cr3t"),)}
    )
    family.origin.on("/base/x%20y/..;/z", answer(200, b"hello"))
    sent = [
        ("Accept", "text/html"), ("Referer", "http://r.test/"), ("Cookie", "d=2; c=1; e=3"), ("X-Secret", "mine"),
        ("X-Forwarded-For", "192.0.2.1"), ("Via", "1.0 proxy"), ("Accept-Encoding", "gzip, br"),
        ("X-Edge-Shield", "forged"), ("User-Agent", "me"),
    ]  # fmt: skip
    for harness in (child, await family.barren()):
        assert (await harness.get("/x%20y/..;/z?b=2&a=1&a=%20", headers=sent)).body == b"hello"
    shielded, bare = family.origin.requests
    assert (shielded.method, shielded.target) == (bare.method, bare.target)
    differing = ("via", "x-amz-cf-id")
    assert sorted(h for h in shielded.headers if h[0] not in differing) == sorted(
        h for h in bare.headers if h[0] not in differing
    )
    via = (shielded.header("via") or "").split(", ")
    assert via[:2] == ["1.0 proxy", child.edge.via]
    assert len(via) == 3
    assert "(CloudFront)" not in via[2]


async def test_children_wait_for_one_answer(family: Family) -> None:
    children = [await family.settle(), await family.child(), await family.child()]
    go = asyncio.Event()
    family.origin.on("/a", [go, *answer(200, b"hello", {"Cache-Control": "max-age=60"})])
    asking_ = [asyncio.ensure_future(child.get("/a")) for child in children for _ in range(3)]
    await family.origin.received(1)
    while len(next(iter(family.parent.edge.fills))._readers) < 3:
        await asyncio.sleep(0.001)
    go.set()
    assert [(await each).body for each in asking_] == [b"hello"] * 9
    assert len(family.origin.requests) == 1


async def test_the_parent_does_not_ask_a_parent(family: Family) -> None:
    """Not even if it is its own parent, or if two are configured as each other's."""
    child = await family.settle()
    edge = family.parent.edge
    settings = EdgeSettings(
        shields=((REGION, f"127.0.0.1:{family.parent.port}"),), shield_secret=str(family.folder / "secret")
    )
    fetcher = edge.fetcher
    fetcher.shields = shield_client.Shields(
        settings.shields, settings.shield_secret, fetcher.origins, edge.clock
    )
    family.origin.on("/a", answer(200, b"hello"))
    assert (await child.get("/a")).body == b"hello"
    family.origin.on("/b", answer(200, b"itself"))
    async with await family.parent.viewer() as viewer:
        assert (await viewer.ask("/b", "d.test")).status == 403  # it serves no viewers here
    assert len(family.origin.requests) == 1


async def test_an_edge_may_be_its_own_parent(family: Family) -> None:
    await family.settle()
    harness = await family.child()
    handler = ShieldServer(harness.edge, Secrets((SECRET,)))
    family.origin.on("/a", answer(200, b"hello", {"Cache-Control": "max-age=60"}))
    server = await asyncio.get_running_loop().create_server(
        lambda: type(harness.listener)(harness.edge, handler=handler, scheme=SHIELD)(), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    harness.edge.fetcher.shields = shield_client.Shields(
        ((REGION, f"127.0.0.1:{port}"),),
        str(family.folder / "secret"),
        harness.edge.fetcher.origins,
        family.clock,
    )
    try:
        for _ in range(2):
            assert (await harness.get("/a")).body == b"hello"
    finally:
        server.close()
    assert len(family.origin.requests) == 1


async def test_two_distributions_may_be_passed_still(family: Family) -> None:
    """The parent's entry in Via does not count as another one (§3.3)."""
    child = await family.settle()
    family.origin.on("/a", answer(200, b"hello"))
    seen = await child.get("/a", headers=[("Via", "1.1 x.cloudfront.net (CloudFront)")])
    assert seen.body == b"hello"
    seen = await child.get(
        "/b", headers=[("Via", "1.1 x.cloudfront.net (CloudFront), 1.1 y.cloudfront.net (CloudFront)")]
    )
    assert seen.status == 403


# -- which requests a parent accepts -----------------------------------------------------------------------------------


def sealed(
    family: Family, asked: ShieldQuery, *, secret: bytes = SECRET, target: str = "/a", **headers: str
) -> list[tuple[str, str]]:
    """The headers of a child's request."""
    fields = [("Host", "d.test"), *headers.items()]
    context = sealed_query("GET", target, [(n.lower().encode(), v.encode()) for n, v in fields])
    return [*fields[1:], ("X-Edge-Shield", Secrets((secret,)).sealed(context, asked).decode())]


def question(family: Family, **members: Any) -> ShieldQuery:
    values: dict[str, Any] = {
        "time": int(family.clock()),
        "nonce": b"n" * 12,
        "distribution": "ETEST",
        "digest": family.parent.edge.routing.sites["ETEST"].digest,
        "host": "origin.test",
        "cached": True,
    }
    return ShieldQuery(**(values | members))


class TestWhoMayAsk:
    async def test_who_has_the_secret(self, family: Family) -> None:
        await family.settle()
        family.origin.on("/a", answer(200, b"hello"))
        seen = await family.parent.get("/a", headers=sealed(family, question(family)))
        assert (seen.status, seen.body) == (200, b"hello")
        payload = Secrets((SECRET,)).opened(
            sealed_answer(b"n" * 12, 200), (seen.header("x-edge-shield") or "").encode()
        )
        assert payload is not None
        assert msgspec.msgpack.decode(payload, type=ShieldAnswer).snapshot == 1
        assert family.origin.requests[0].header("host") == "origin.test"

    async def test_nobody_else(self, family: Family) -> None:
        await family.settle()
        good = sealed(family, question(family))
        seal = good[-1][1]
        for headers in (
            [],
            [("X-Edge-Shield", "")],
            [("X-Edge-Shield", "x")],
            [("X-Edge-Shield", seal[:-4])],
            [("X-Edge-Shield", seal[::-1])],
            [("X-Edge-Shield", seal), ("X-Edge-Shield", seal)],
            [("X-Edge-Shield", seal), ("X-More", "1")],
            sealed(family, question(family), secret=SECRET[::-1]),
            sealed(family, question(family), target="/b"),
        ):
            seen = await family.parent.get("/a", headers=headers)
            assert (seen.status, seen.header("x-edge-shield")) == (403, None), headers
        assert (await family.parent.get("/a", headers=good, method="HEAD")).status == 403
        assert (await family.parent.get("/a", host="other.test", headers=good)).status == 403
        assert {record["reason"] for record in family.parent.records} == {"not_an_edge"}
        assert not family.origin.requests

    @pytest.mark.parametrize(
        ("members", "why"),
        [
            ({"time": -301}, "its clock is 301 s ahead"),
            ({"time": 301}, "its clock is 301 s behind"),
            ({"distribution": "EOTHER"}, "has no distribution EOTHER"),
            ({"digest": b"0123456789abcdef"}, "has another version of distribution ETEST"),
            ({"behavior": 1}, "does not know this behavior or origin"),
            ({"behavior": -1}, "does not know this behavior or origin"),
            ({"origin": 1}, "does not know this behavior or origin"),
        ],
    )
    async def test_what_the_parent_does_not_know_it_refuses(
        self, family: Family, members: dict[str, Any], why: str
    ) -> None:
        await family.settle()
        if "time" in members:
            members = {"time": int(family.clock()) + members["time"]}
        asked = question(family, **members)
        seen = await family.parent.get("/a", headers=sealed(family, asked))
        payload = Secrets((SECRET,)).opened(
            sealed_answer(asked.nonce, seen.status), (seen.header("x-edge-shield") or "").encode()
        )
        assert (seen.status, seen.body) == (421, b"")
        assert payload is not None
        assert why in msgspec.msgpack.decode(payload, type=ShieldAnswer).refused
        assert not family.origin.requests

    async def test_a_secret_is_changed_without_a_gap(self, family: Family) -> None:
        await family.settle()
        family.parent.listener.shared.handler = ShieldServer(
            family.parent.edge, Secrets((SECRET[::-1], SECRET))
        )
        (family.folder / "secret").write_bytes(SECRET + b"\n\n" + SECRET[::-1] + b"\n")
        child = await family.child()
        family.origin.on("/a", answer(200, b"hello"))
        assert (await child.get("/a")).body == b"hello"
        assert len(family.parent.records) == 1

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"short\n", SECRET + b"\nshort"])
    def test_a_shield_secret_that_cannot_be_used_is_a_settings_error(
        self, content: bytes, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_bytes(content)
        with pytest.raises(SettingsError, match="openssl rand"):
            Secrets.of_file(str(tmp_path / "secret"))
        with pytest.raises(SettingsError, match="cannot be read"):
            Secrets.of_file(str(tmp_path / "none"))

    @rows("text", ["", "host", "host:0", "host:65536", "ftp://h:1", "h:1/x", "a b:1", "h:1?", "@h:1"])
    def test_what_is_no_address(self, text: str) -> None:
        with pytest.raises(SettingsError, match="not an edge's address"):
            parent_address(text)

    async def test_what_goes_over_the_wire_and_what_does_not(self, family: Family) -> None:
        """An impostor in the parent's place gets no secret of the origin, and its response is not trusted."""
        await family.settle(origin={"custom_headers": (("X-Secret", "s3cr3t"),)})
        family.origin.on("/a", answer(200, b"hello"))
        async with ScriptedOrigin() as impostor:
            impostor.on("/a", answer(200, b"lies", {"X-Edge-Shield": "AAAA"}))
            child = await family.child(f"127.0.0.1:{impostor.port}")
            assert (await child.get("/a")).body == b"hello"
            (asked,) = impostor.requests
        assert asked.header("x-edge-shield")
        assert "s3cr3t" not in str(asked.headers)
        assert family.origin.requests[0].header("x-edge-shield") is None
        assert family.origin.requests[0].header("x-secret") == "s3cr3t"
        assert (asked.header("x-edge-shield") or "?") not in json.dumps(child.records)


# -- freshness across tiers --------------------------------------------------------------------------------------------


class TestFreshness:
    @pytest.mark.parametrize(
        ("members", "control", "fresh"),
        [
            ({"default_ttl": 100}, "", 100),
            ({"min_ttl": 100}, "max-age=5", 100),
            ({"max_ttl": 100, "default_ttl": 50}, "max-age=1000", 100),
            ({}, "max-age=100", 100),
            ({"min_ttl": 100}, "no-store", 100),
        ],
    )
    async def test_two_caches_keep_no_longer_than_one(
        self, family: Family, members: dict[str, int], control: str, fresh: int
    ) -> None:
        child = await family.settle(Behavior("*", "scripted", **members))  # type: ignore[arg-type]
        headers = {"Cache-Control": control} if control else {}
        family.origin.on("/a", answer(200, b"one", headers), answer(200, b"two", headers))
        await child.get("/a")
        late = await family.child()
        family.clock.forward(fresh - 10)
        assert (await late.get("/a")).body == b"one"
        family.clock.forward(9)
        assert (await late.get("/a")).body == b"one"
        family.clock.forward(2)
        assert (await late.get("/a")).body == b"two"

    async def test_errors_too(self, family: Family) -> None:
        child = await family.settle(error_responses=(ErrorResponse(404, 100),))
        family.origin.on("/a", answer(404, b"none"), answer(200, b"now"))
        await child.get("/a")
        late = await family.child()
        family.clock.forward(90)
        assert (await late.get("/a")).status == 404
        family.clock.forward(11)
        assert (await late.get("/a")).body == b"now"

    async def test_stale_while_it_is_renewed(self, family: Family) -> None:
        child = await family.settle()
        control = {"Cache-Control": "max-age=10, stale-while-revalidate=100"}
        family.origin.on("/a", answer(200, b"one", control), answer(200, b"two", control))
        await child.get("/a")
        late = await family.child()
        family.clock.forward(50)
        assert (
            await late.get("/a")
        ).body == b"one"  # the parent's, stale, and the parent requests a newer one
        await family.origin.received(2)
        while b"two" not in [s.body for s in family.parent.edge.memory._entries.values()]:
            await asyncio.sleep(0.001)
        assert (
            await late.get("/a")
        ).body == b"one"  # the child's, stale, and the child revalidates with the parent
        while (await late.get("/a")).body != b"two":
            await asyncio.sleep(0.001)
        assert len(family.origin.requests) == 2

    async def test_a_validator_goes_all_the_way(self, family: Family) -> None:
        child = await family.settle()
        film = Film(b"hello", control="max-age=10").on(family.origin, "/a")
        film.clock = family.clock
        await child.get("/a")
        family.clock.forward(11)
        seen = await child.get("/a")
        assert (seen.body, seen.x_cache) == (b"hello", "RefreshHit")
        assert film.statuses == [200, 304]
        late = await family.child()
        assert (await late.get("/a")).body == b"hello"
        family.clock.forward(5)
        seen = await child.get("/a")
        assert seen.x_cache == "Hit"
        family.clock.forward(5)
        # Both are stale now; the first to revalidate renews it for the other, whose parent answers 304 itself.
        assert (await child.get("/a")).x_cache == "RefreshHit"
        assert (await late.get("/a")).x_cache == "RefreshHit"
        assert film.statuses == [200, 304, 304]

    async def test_an_origin_that_is_down(self, family: Family) -> None:
        child = await family.settle()
        family.origin.on("/a", answer(200, b"one", {"Cache-Control": "max-age=10"}))
        await child.get("/a")
        await family.origin.stop()
        family.clock.forward(20)
        late = await family.child()
        for harness in (child, late):
            seen = await harness.get("/a")
            assert (seen.status, seen.body) == (200, b"one")
        assert (await late.get("/b")).status == 502
        assert (await late.recorded(2))["detail"] == "OriginConnectError"
        assert (await late.recorded(1))["detail"] == "OriginShieldHit"

    async def test_a_failure_is_remembered_once(self, family: Family) -> None:
        child = await family.settle(error_responses=(ErrorResponse(502, 100),))
        family.origin.on("/a", [RESET], answer(200, b"well"))
        assert (await child.get("/a")).status == 502
        late = await family.child()
        family.clock.forward(90)
        assert (await late.get("/a")).status == 502
        assert len(family.origin.requests) == 1
        family.clock.forward(11)
        assert (await late.get("/a")).body == b"well"


# -- invalidations -----------------------------------------------------------------------------------------------------


class TestInvalidation:
    async def both_hold(self, family: Family, child: EdgeHarness) -> None:
        control = {"Cache-Control": "max-age=1000", "ETag": '"same"'}
        family.origin.on("/a", answer(200, b"old", control), answer(200, b"new", control))
        assert (await child.get("/a")).body == b"old"

    async def test_when_both_know_it(self, family: Family) -> None:
        child = await family.settle()
        await self.both_hold(family, child)
        family.publish(invalidated(family.snapshot, 2, "/a"), family.parent, child)
        assert (await child.get("/a")).body == b"new"

    async def test_when_the_parent_does_not_know_it_yet(self, family: Family) -> None:
        child = await family.settle()
        await self.both_hold(family, child)
        after = invalidated(family.snapshot, 2, "/a")
        family.publish(after, child)
        assert (await child.get("/a")).body == b"new"
        assert (await child.get("/a")).x_cache == "Hit"
        assert len(family.origin.requests) == 2
        # It is stored as requested now, and the parent's old copy ends when the parent learns of the invalidation.
        family.publish(after, family.parent)
        late = await family.child()
        family.publish(after, late)
        assert (await late.get("/a")).body == b"new"

    async def test_when_the_child_does_not_know_it_yet(self, family: Family) -> None:
        child = await family.settle()
        await self.both_hold(family, child)
        after = invalidated(family.snapshot, 2, "/a")
        family.publish(after, family.parent)
        late = await family.child()
        assert (await late.get("/a")).body == b"new"  # requested under 2; the child can only report 1
        family.publish(after, late, child)
        assert (await late.get("/a")).body == b"new"
        assert (await child.get("/a")).body == b"new"

    async def test_what_the_parent_is_about_to_fetch_is_too_old_as_well(self, family: Family) -> None:
        child = await family.settle()
        go = asyncio.Event()
        control = {"Cache-Control": "max-age=1000"}
        family.origin.on("/a", [go, *answer(200, b"old", control)], answer(200, b"new", control))
        first = asyncio.ensure_future(child.get("/a"))
        await family.origin.received(1)
        after = invalidated(family.snapshot, 2, "/a")
        family.publish(after, child)
        second = asyncio.ensure_future(child.get("/a"))
        while len(next(iter(family.parent.edge.fills))._readers) < 2:
            await asyncio.sleep(0.001)
        go.set()
        assert (await second).body == b"new"
        assert (await first).body == b"new"
        assert (await child.get("/a")).body == b"new"

    async def test_a_304_of_a_copy_that_is_ended_confirms_nothing(self, family: Family) -> None:
        child = await family.settle()
        control = {"Cache-Control": "max-age=10", "ETag": '"same"'}
        family.origin.on("/a", answer(200, b"old", control))
        await child.get("/a")
        family.clock.forward(8)
        family.origin.on("/a", answer(304, b"", control), answer(200, b"new", control))
        family.clock.forward(3)
        late = await family.child()
        await late.get("/a")  # the parent's copy is revalidated, under snapshot 1
        family.publish(invalidated(family.snapshot, 2, "/a"), child)
        assert (await child.get("/a")).body == b"new"

    async def test_slices(self, family: Family) -> None:
        child = await family.settle(parent={"max_object": SLICE})
        film = Film(bytes_of(20 * SLICE)).on(family.origin)
        await child.get("/film")
        film.body = bytes_of(20 * SLICE, seed=2)  # under the same entity tag
        family.publish(invalidated(family.snapshot, 2, "/film"), child)
        for range_ in ("bytes=100-199", f"bytes={10 * SLICE}-{10 * SLICE + 9}"):
            seen = await child.get("/film", headers=[("Range", range_)])
            first, last = map(int, range_[6:].split("-"))
            assert seen.body == film.body[first : last + 1]

    async def test_what_a_request_changes_is_forgotten_on_the_way(self, family: Family) -> None:
        child = await family.settle(Behavior("*", "scripted", allowed_methods=ALL))
        await self.both_hold(family, child)
        family.origin.on("/a", answer(200, b"stored"), answer(200, b"new", {"Cache-Control": "max-age=1000"}))
        seen = await child.get("/a", method="POST", body=b"x" * 10)
        assert (seen.status, seen.body, family.origin.requests[-1].body) == (200, b"stored", b"x" * 10)
        assert (await child.get("/a")).body == b"new"
        assert len(family.parent.records) == 3


# -- parts, conditions, variants ---------------------------------------------------------------------------------------


class TestWhatPassesThrough:
    async def test_a_seek_costs_a_few_slices_on_either_tier(self, family: Family) -> None:
        small: dict[str, Any] = {"max_object": SLICE}
        await family.settle(parent=small)
        child = await family.child(**small)
        film = Film(bytes_of(200 * SLICE)).on(family.origin)
        first = 150 * SLICE + 77
        seen = await child.get("/film", headers=[("Range", f"bytes={first}-{first + 999}")])
        assert (seen.status, seen.body) == (206, film.body[first : first + 1000])
        assert seen.header("content-range") == f"bytes {first}-{first + 999}/{len(film.body)}"
        assert film.sent <= 4 * SLICE
        late = await family.child(**small)
        seen = await late.get("/film", headers=[("Range", f"bytes={first}-{first + 999}")])
        assert (seen.status, seen.body, seen.x_cache) == (206, film.body[first : first + 1000], "Hit")
        assert film.fetched == 1
        assert (await late.get("/film")).body == film.body
        sent = film.sent
        assert (await child.get("/film")).body == film.body
        assert film.sent == sent <= len(film.body) + 4 * SLICE

    async def test_another_version_half_way(self, family: Family) -> None:
        small: dict[str, Any] = {"max_object": SLICE}
        await family.settle(parent=small)
        child = await family.child(**small)
        film = Film(bytes_of(50 * SLICE)).on(family.origin)
        await child.get("/film", headers=[("Range", "bytes=0-9")])
        film.body, film.etag = bytes_of(50 * SLICE, seed=2), '"2"'
        for _ in range(3):
            seen = await child.get("/film", headers=[("Range", f"bytes={40 * SLICE}-{40 * SLICE + 9}")])
            assert seen.body == film.body[40 * SLICE : 40 * SLICE + 10]
        assert (await child.get("/film")).body == film.body

    async def test_an_origin_without_ranges_and_without_validators(self, family: Family) -> None:
        await family.settle(parent={"max_object": SLICE})
        child = await family.child(max_object=SLICE)
        film = Film(bytes_of(10 * SLICE), etag="").on(family.origin)
        film.ranges = False
        film.chunked = True
        for harness in (child, await family.child(max_object=SLICE)):
            assert (await harness.get("/film")).body == film.body
            assert (await harness.get("/film", headers=[("Range", "bytes=5-9")])).body in (
                film.body,
                film.body[5:10],
            )
        assert film.fetched == 1

    async def test_conditions_and_heads(self, family: Family) -> None:
        child = await family.settle()
        film = Film(b"hello").on(family.origin, "/a")
        seen = await child.get("/a", method="HEAD")
        assert (seen.status, seen.header("content-length")) == (200, "5")
        assert (await child.get("/a", headers=[("If-None-Match", '"1"')])).status == 304
        late = await family.child()
        assert (await late.get("/a", headers=[("If-None-Match", '"1"')])).status == 304
        assert (await late.get("/a", headers=[("If-Match", '"2"')])).status == 412
        assert (await late.get("/a", headers=[("Range", "bytes=9-")])).status == 416
        third = await family.child()
        seen = await third.get("/a", method="HEAD")
        assert (seen.header("content-length"), seen.x_cache) == ("5", "Hit")
        assert (await third.recorded(1))["detail"] == "OriginShieldHit"
        assert film.fetched == 2

    async def test_the_child_compresses(self, family: Family) -> None:
        behavior = Behavior("*", "scripted", accept_gzip=True, compress=True)
        child = await family.settle(behavior)
        text = b"a text " * 1000
        family.origin.on("/a", answer(200, text, {"Content-Type": "text/plain", "ETag": '"1"'}))
        seen = await child.get("/a", headers=[("Accept-Encoding", "gzip")])
        assert (gzip.decompress(seen.body), seen.header("etag")) == (text, 'W/"1"')
        assert [s.body for s in family.parent.edge.memory._entries.values()] == [text]
        assert family.origin.requests[0].header("accept-encoding") == "gzip"
        assert (await child.get("/a")).body == text
        assert len(family.origin.requests) == 2

    async def test_variants_stay_apart(self, family: Family) -> None:
        behavior = Behavior(
            "*",
            "scripted",
            min_ttl=0,
            key_headers=Select("whitelist", ("x-key",)),
            key_cookies=Select("all"),
            key_query=Select("all"),
            forward_headers=Select("whitelist", ("x-key", "x-vary")),
            forward_cookies=Select("all"),
            forward_query=Select("all"),
        )

        async def tell(asked: Seen, wire: Any) -> None:
            said = [asked.target, *(asked.header(name) or "" for name in ("x-key", "x-vary", "cookie"))]
            body = json.dumps(said).encode()
            await wire.send(
                b"HTTP/1.1 200 OK\r\nVary: X-Vary\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )

        children = [await family.settle(behavior), await family.child()]
        family.origin.on("/a", [tell])
        kinds = list(
            itertools.product(("/a", "/a?q", "/a?q=1&q"), ("", "k"), ("", "v"), ("", "c=1", "c=1; d=2"))
        )
        for child in children:
            for target, key, vary, cookie in kinds:
                headers = [("X-Key", key), ("X-Vary", vary), ("Cookie", cookie)]
                seen = await child.get(target, headers=[h for h in headers if h[1]])
                assert json.loads(seen.body) == [target, key, vary, cookie]
        assert len(family.origin.requests) == len(kinds)

    async def test_what_passes_caches_by_passes_both(self, family: Family) -> None:
        child = await family.settle(Behavior("*", "scripted", max_ttl=0, default_ttl=0, allowed_methods=ALL))
        family.origin.on("/a", answer(200, b"hello", {"Cache-Control": "max-age=60"}))
        for method in ("GET", "HEAD", "OPTIONS", "GET"):
            seen = await child.get("/a", method=method)
            assert (seen.status, seen.x_cache) == (200, "Miss")
        assert len(family.origin.requests) == len(family.parent.records) == 4

    async def test_private_answers_are_for_one(self, family: Family) -> None:
        child = await family.settle()
        family.origin.on("/a", answer(200, b"one", {"Cache-Control": "private"}), answer(200, b"two"))
        assert (await child.get("/a")).body == b"one"
        assert (await child.get("/a")).body == b"two"

    async def test_origin_groups_and_error_pages(self, family: Family) -> None:
        second = ScriptedOrigin()
        async with second:
            child = await family.settle(
                Behavior("*", "group"),
                more_origins=(second.origin(id="second", shield_region=REGION),),
                origin_groups=(OriginGroup("group", ("scripted", "second"), (404,)),),
                error_responses=(ErrorResponse(403, 10, "/sorry", 200),),
            )
            family.origin.on("/a", answer(404, b"none"))
            second.on("/a", answer(200, b"from the second"))
            family.origin.on("/b", [RESET])
            second.on("/b", answer(403, b"no"))
            family.origin.on("/sorry", answer(200, b"sorry"))
            for harness in (child, await family.child()):
                assert (await harness.get("/a")).body == b"from the second"
                assert (await harness.get("/b")).body == b"sorry"
            assert [request.target for request in second.requests] == ["/a", "/b", "/b"]
        assert len(family.parent.records) == 10

    async def test_a_body_that_breaks_off(self, family: Family) -> None:
        child = await family.settle()
        family.origin.on(
            "/a", [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", RESET], answer(200, b"whole")
        )
        with pytest.raises(asyncio.IncompleteReadError):
            await child.get("/a")
        assert (await child.get("/a")).body == b"whole"

    async def test_over_tls(self, family: Family) -> None:
        authority = Authority(family.folder)
        await family.settle(tls=authority.server("localhost"))
        family.origin.on("/a", answer(200, b"hello"))
        child = await family.child(f"https://localhost:{family.parent.port}", ca_file=authority.ca_file)
        assert (await child.get("/a")).body == b"hello"
        stranger = await family.child(f"https://localhost:{family.parent.port}")
        assert (await stranger.get("/a")).body == b"hello"
        assert [len(family.parent.records), len(family.origin.requests)] == [1, 2]

    async def test_with_a_cache_on_disk(self, family: Family, tmp_path: Path) -> None:
        disk = {"cache_dir": str(tmp_path / "cache"), "cache_disk": 1 << 24}
        child = await family.settle(parent=disk)
        family.origin.on("/a", answer(200, b"hello", {"Cache-Control": "max-age=60"}))
        await child.get("/a")
        await asyncio.get_running_loop().run_in_executor(None, family.parent.edge.tiers.disk.close)  # type: ignore[union-attr]
        family.parent.edge.memory.drop_all("ETEST/a")
        assert (await (await family.child()).get("/a")).body == b"hello"
        assert len(family.origin.requests) == 1


# -- when the parent fails ---------------------------------------------------------------------------------------------


class TestWithoutAParent:
    async def test_a_shield_region_without_a_parent_is_bypassed(self, family: Family) -> None:
        await family.settle()
        child = await family.child(shields=(("us-east-1", "127.0.0.1:1"),))
        family.origin.on("/a", answer(200, b"hello"))
        assert (await child.get("/a")).body == b"hello"
        assert not family.parent.records

    async def test_nobody_there(self, family: Family, caplog: pytest.LogCaptureFixture) -> None:
        await family.settle(Behavior("*", "scripted", allowed_methods=ALL))
        child = await family.child(f"127.0.0.1:{closed_port()}")
        family.origin.on("/a", answer(200, b"hello"))
        assert (await child.get("/a", method="POST", body=b"x" * 100_000)).body == b"hello"
        for target in ("/a", "/b", "/c"):
            family.origin.on(target, answer(200, b"hello"))
            assert (await child.get(target)).body == b"hello"
        assert family.origin.requests[0].body == b"x" * 100_000
        assert caplog.text.count("is bypassed") == 1

    async def test_it_is_retried_after_a_while(
        self, family: Family, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shield_client, "DOWN", 0.0)
        child = await family.settle()
        family.origin.on("/a", answer(200, b"hello", {"Cache-Control": "no-store"}))
        family.parent._server.close()  # type: ignore[union-attr]
        assert (await child.get("/a")).body == b"hello"
        assert not family.parent.records
        family.parent._server = await asyncio.get_running_loop().create_server(
            family.parent._connection, "127.0.0.1", family.parent.port
        )
        assert (await child.get("/a")).body == b"hello"
        assert len(family.parent.records) == 1
        assert "answers again" in caplog.text

    async def test_a_machine_that_stands_still(self, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
        """It accepts connections and does nothing else. Repeatable requests go around it; those that must not be
        repeated fail."""
        monkeypatch.setattr(shield_client, "PATIENCE", 0.02)
        monkeypatch.setattr(shield_client, "DOWN", 0.0)
        await family.settle(Behavior("*", "scripted", allowed_methods=ALL))
        family.origin.on("/a", answer(200, b"hello"))
        async with ScriptedOrigin() as still:
            never = asyncio.Event()
            for path in ("/a", "/b", "*"):
                still.on(path, [never])
            child = await family.child(f"127.0.0.1:{still.port}")
            family.origin.on("/b", answer(200, b"hello"))
            both = await asyncio.gather(child.get("/a"), child.get("/b"))
            assert [seen.body for seen in both] == [b"hello", b"hello"]
            seen = await child.get("/a", method="POST", body=b"once")
            assert (seen.status, len(family.origin.requests)) == (504, 2)

    async def test_a_slow_origin_is_waited_for(self, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shield_client, "PATIENCE", 0.02)
        child = await family.settle()
        go = asyncio.Event()
        family.origin.on("/a", [go, *answer(200, b"at last")])
        waiting = asyncio.ensure_future(child.get("/a"))
        await family.parent.recorded(3)  # a health probe was sent to it, three times
        go.set()
        assert (await waiting).body == b"at last"
        assert len(family.origin.requests) == 1
        assert {record["status"] for record in family.parent.records[:3]} == {204}

    @pytest.mark.parametrize(
        "script",
        [
            [b"nonsense\r\n\r\n", CLOSE],
            [RESET],
            [CLOSE],
            answer(200, b"of another server"),
            answer(502, b"a proxy's"),
            answer(200, b"", {"X-Edge-Shield": "é"}),
        ],
        ids=["no HTTP", "reset", "closed", "another server", "a proxy", "no seal"],
    )
    async def test_what_is_no_parent(self, family: Family, script: Any) -> None:
        await family.settle()
        family.origin.on("/a", answer(200, b"hello"))
        async with ScriptedOrigin() as impostor:
            impostor.on("/a", script)
            child = await family.child(f"127.0.0.1:{impostor.port}")
            assert (await child.get("/a")).body == b"hello"

    async def test_a_parent_that_knows_another_state(self, family: Family) -> None:
        """While a change is propagating, requests bypass the parent, including those with bodies."""
        child = await family.settle(Behavior("*", "scripted", allowed_methods=ALL))
        family.origin.on("/a", answer(200, b"hello"))
        after = with_snapshot(family.snapshot, 2, default_root_object="index.html")
        family.publish(after, child)
        body = bytes_of(600_000)
        assert (await child.get("/a", method="PUT", body=body)).body == b"hello"
        assert family.origin.requests[0].body == body
        assert (await child.get("/a")).body == b"hello"
        assert [record["status"] for record in family.parent.records] == [421, 421]
        family.publish(after, family.parent)
        await child.get("/b")
        assert family.parent.records[-1]["status"] == 404

    async def test_a_body_too_large_to_store(self, family: Family) -> None:
        child = await family.settle(Behavior("*", "scripted", allowed_methods=ALL))
        family.origin.on("/a", answer(200, b"hello"))
        body = bytes_of(4_000_000)
        assert (await child.get("/a", method="PUT", body=body)).body == b"hello"
        assert family.origin.requests[0].body == body
        assert len(family.parent.records) == 1

    async def test_a_head_too_large_for_the_parent(self, family: Family) -> None:
        child = await family.settle(Behavior("*", "scripted", legacy=True))
        family.origin.on("/a", answer(200, b"hello"))
        seen = await child.get("/a", headers=[("X-Long", "x" * 19_900)])
        assert seen.body == b"hello"
        assert not family.parent.records

    async def test_viewers_that_disconnect(self, family: Family) -> None:
        child = await family.settle()
        go = asyncio.Event()
        family.origin.on("/a", [go, *answer(200, b"hello", {"Cache-Control": "max-age=60"})])
        async with await child.viewer() as viewer:
            await viewer.send(b"GET /a HTTP/1.1\r\nHost: d.test\r\n\r\n")
            await family.origin.received(1)
        go.set()
        assert (await child.get("/a")).body == b"hello"
        assert len(family.origin.requests) == 1


async def test_a_kept_body_can_be_read_again_from_its_beginning() -> None:
    async def source() -> AsyncIterator[bytes]:
        for n in range(10):
            yield b"%d" % n

    kept = ReplayableBody(source())
    assert [await anext(kept) for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    assert kept.rewound()
    assert [chunk async for chunk in kept] == [b"%d" % n for n in range(10)]
    assert kept.rewound()
    assert len([chunk async for chunk in kept]) == 10


def test_edges_agree_on_a_distribution_whatever_was_invalidated() -> None:
    from keyfront.edge.rules.routing import Routing

    def digest(snapshot: Snapshot) -> bytes:
        return Routing(snapshot).sites["ETEST"].digest

    one = site(ScriptedOrigin().origin(shield_region=REGION))
    assert digest(one) == digest(invalidated(one, 2, "/a"))
    assert digest(one) != digest(with_snapshot(one, 2, enabled=False))
