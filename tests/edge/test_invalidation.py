"""What an invalidation ends and what it leaves, in the memory tier and in an edge with viewers and an origin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from keyfront.edge.cache.memory import MemoryTier
from keyfront.edge.serving.purge import SWEPT_AT_ONCE
from keyfront.edge.types.stored import Meta, Stored
from keyfront.model.snapshot import Behavior, Invalidation, Select, Snapshot
from tests.origin import Script, ScriptedOrigin, answer
from tests.sites import site
from tests.viewer import Clock, EdgeHarness, Seen

# -- the memory tier --------------------------------------------------------------------------------------------


def stored(key: str, snapshot: int, *, vary: bytes | None = None) -> Stored:
    names, values = ((), ()) if vary is None else ((b"x",), (vary,))
    return Stored(
        key,
        Meta(200, (), stored_at=0, fresh_until=9, date=0, vary=names, vary_values=values, snapshot=snapshot),
        b"12345",
    )


def gone(key: str, snapshot: int, tags: tuple[str, ...]) -> bool:
    return key.startswith("old") and snapshot < 2


def test_a_sweep_is_right_at_once_and_frees_memory_step_by_step() -> None:
    tier = MemoryTier(1 << 20, 1 << 20)
    for number in range(10):
        tier.put(stored(f"old{number}", 1))
        tier.put(stored(f"new{number}", 1))
    full = tier.bytes
    tier.start_sweep(gone)
    assert tier.get_any_variant("old3") is None
    assert tier.find("old4", list) is None
    assert tier.get_any_variant("new3") is not None
    tier.put(stored("old5", 2))  # fetched since then
    tier.put(stored("late", 2))
    assert tier.get_any_variant("old5") is not None
    assert not tier.sweep_some(12)
    assert tier.sweep_some(12)
    assert not tier.sweeping
    assert len(tier) == 12
    assert tier.bytes == full // 2 + 2 * stored("old5", 2).size
    assert tier.sweep_some(5)


def test_a_sweep_distinguishes_variants() -> None:
    tier = MemoryTier(1 << 20, 1 << 20)
    for value, number in ((b"1", 1), (b"2", 2), (b"3", 1)):
        tier.put(stored("old", number, vary=value))
    size = stored("old", 1, vary=b"1").size
    tier.start_sweep(gone)
    assert tier.find("old", lambda: [(b"x", b"1")]) is None
    assert tier.find("old", lambda: [(b"x", b"2")]) is not None
    tier.put(stored("old", 2, vary=b"3"))
    assert tier.find("old", lambda: [(b"x", b"3")]) is not None
    assert tier.sweep_some(1)
    assert (len(tier), tier.bytes) == (2, 2 * size)
    tier.drop("old")
    assert (len(tier), tier.bytes) == (0, 0)


def test_a_second_sweep_while_one_is_under_way() -> None:
    tier = MemoryTier(1 << 20, 1 << 20)
    for number in range(4):
        tier.put(stored(f"k{number}", 1))
    tier.start_sweep(lambda key, snapshot, tags: key == "k0" and snapshot < 2)
    tier.sweep_some(1)
    tier.start_sweep(lambda key, snapshot, tags: key in ("k0", "k3") and snapshot < 3)
    assert [tier.get_any_variant(f"k{number}") is None for number in range(4)] == [True, False, False, True]
    assert tier.sweep_some(10)
    assert len(tier) == 2


# -- an edge ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as running:
        yield running


def invalidating(snapshot: Snapshot, number: int, *paths: str, **changes: Any) -> Snapshot:
    (distribution,) = snapshot.distributions
    changed = msgspec.structs.replace(
        distribution, invalidations=(*distribution.invalidations, Invalidation(number, paths)), **changes
    )
    return msgspec.structs.replace(snapshot, number=number, distributions=(changed,))


def fresh(body: bytes, **headers: str) -> list[Any]:
    return answer(200, body, {"Cache-Control": "max-age=600", **headers})


def seen(one: Seen) -> tuple[bytes, str]:
    return one.body, one.x_cache


async def test_what_is_named_goes_and_the_rest_stays(origin: ScriptedOrigin) -> None:
    snapshot = site(origin.origin())
    origin.on("/a/1", fresh(b"old"), fresh(b"new"))
    origin.on("/b", fresh(b"b"))
    async with EdgeHarness(snapshot) as harness:
        for _ in range(2):
            assert (await harness.get("/a/1")).body == b"old"
        await harness.get("/b")
        harness.edge.use(invalidating(snapshot, 2, "/a/*"))
        assert seen(await harness.get("/a/1")) == (b"new", "Miss")
        assert seen(await harness.get("/b")) == (b"b", "Hit")
        # The same invalidation in the next snapshot ends nothing further.
        harness.edge.use(msgspec.structs.replace(invalidating(snapshot, 2, "/a/*"), number=3))
        assert seen(await harness.get("/a/1")) == (b"new", "Hit")


async def test_a_fill_under_way_is_neither_stored_nor_joined(origin: ScriptedOrigin) -> None:
    """It was requested before the invalidation: the viewers that wait for it get it, no others do."""
    snapshot = site(origin.origin())
    head, rest = asyncio.Event(), asyncio.Event()
    slow = fresh(b"old")[0]
    origin.on("/a", [head, slow[:-1], rest, slow[-1:]], fresh(b"new"))
    async with EdgeHarness(snapshot) as harness:
        first = asyncio.ensure_future(harness.get("/a"))
        await origin.received(1)
        joined = asyncio.ensure_future(harness.get("/a"))
        await asyncio.sleep(0.05)
        head.set()
        harness.edge.use(invalidating(snapshot, 2, "/a"))
        assert seen(await harness.get("/a")) == (b"new", "Miss")
        rest.set()
        assert (await first).body == b"old"
        assert (await joined).body == b"old"
        assert seen(await harness.get("/a")) == (b"new", "Hit")
        assert len(origin.requests) == 2
        assert not harness.edge.fills


async def test_a_fill_that_ends_last_does_not_bring_the_old_back(origin: ScriptedOrigin) -> None:
    snapshot = site(origin.origin())
    rest = asyncio.Event()
    slow = fresh(b"old")[0]
    origin.on(
        "/a",
        [slow[:-1], rest, slow[-1:]],
        answer(200, b"transient", {"Cache-Control": "no-store"}),
        fresh(b"new"),
    )
    async with EdgeHarness(snapshot) as harness:
        first = asyncio.ensure_future(harness.get("/a"))
        await origin.received(1)
        harness.edge.use(invalidating(snapshot, 2, "/a"))
        assert (await harness.get("/a")).body == b"transient"
        rest.set()
        assert (await first).body == b"old"
        assert seen(await harness.get("/a")) == (b"new", "Miss")


@pytest.mark.parametrize("outcome", ["confirmed", "failed"])
async def test_a_validation_under_way_does_not_bring_the_old_back(
    origin: ScriptedOrigin, outcome: str
) -> None:
    """Neither through a 304 nor as a stale response for an origin that fails."""
    snapshot = site(origin.origin())
    go = asyncio.Event()
    second: Script = [go, b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nCache-Control: max-age=600\r\n\r\n']
    if outcome == "failed":
        second = [go, answer(503, b"down")[0]]
    origin.on("/a", answer(200, b"old", {"Cache-Control": "max-age=0", "ETag": '"1"'}), second, fresh(b"new"))
    async with EdgeHarness(snapshot) as harness:
        await harness.get("/a")
        waiting = asyncio.ensure_future(harness.get("/a"))
        await origin.received(2)
        harness.edge.use(invalidating(snapshot, 2, "/*"))
        assert seen(await harness.get("/a")) == (b"new", "Miss")
        go.set()
        assert (await waiting).body == b"old"
        assert seen(await harness.get("/a")) == (b"new", "Hit")


async def test_who_waited_asks_for_all_of_it_afterwards(origin: ScriptedOrigin) -> None:
    """Not a conditional request: validators may be the reason for the invalidation."""
    snapshot = site(origin.origin())
    go = asyncio.Event()
    first = answer(200, b"old", {"Cache-Control": "max-age=10", "ETag": '"1"'})
    unshared = answer(200, b"for one", {"Cache-Control": "no-store"})
    origin.on("/a", first, [go, *unshared], fresh(b"new", ETag='"1"'))
    clock = Clock()
    async with EdgeHarness(snapshot, clock=clock) as harness:
        await harness.get("/a")
        clock.forward(20)
        one = asyncio.ensure_future(harness.get("/a"))
        assert (await origin.received(2)).header("if-none-match") == '"1"'
        other = asyncio.ensure_future(harness.get("/a"))
        while not any(len(flight._readers) == 2 for flight in harness.edge.fills):
            await asyncio.sleep(0.001)
        harness.edge.use(invalidating(snapshot, 2, "/a"))
        go.set()
        assert (await one).body == b"for one"
        assert (await other).body == b"new"
        assert origin.requests[2].header("if-none-match") is None
        assert seen(await harness.get("/a")) == (b"new", "Hit")


async def test_what_was_confirmed_since_stays(origin: ScriptedOrigin) -> None:
    snapshot = site(origin.origin())
    confirmed = [b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nCache-Control: max-age=600\r\n\r\n']
    origin.on("/a", answer(200, b"a", {"Cache-Control": "max-age=0", "ETag": '"1"'}), confirmed)
    async with EdgeHarness(snapshot) as harness:
        await harness.get("/a")
        harness.edge.use(invalidating(snapshot, 2, "/b"))
        assert seen(await harness.get("/a")) == (b"a", "RefreshHit")
        # A response requested under snapshot 1 would be removed now; one revalidated under snapshot 2 stays.
        harness.edge.use(invalidating(invalidating(snapshot, 2, "/a", "/b"), 4, "/c"))
        assert seen(await harness.get("/a")) == (b"a", "Hit")


async def test_skipped_snapshots_are_made_up_for(origin: ScriptedOrigin) -> None:
    snapshot = site(origin.origin())
    origin.on("/a", fresh(b"old"), fresh(b"new"))
    origin.on("/b", fresh(b"b"))
    async with EdgeHarness(snapshot) as harness:
        await harness.get("/a")
        await harness.get("/b")
        later = invalidating(invalidating(snapshot, 5, "/a"), 7, "/c")
        harness.edge.use(msgspec.structs.replace(later, number=9))
        assert seen(await harness.get("/a")) == (b"new", "Miss")
        assert seen(await harness.get("/b")) == (b"b", "Hit")


async def test_every_variant_goes(origin: ScriptedOrigin) -> None:
    behavior = Behavior(
        "*",
        "scripted",
        key_headers=Select("whitelist", ("x",)),
        forward_headers=Select("whitelist", ("x", "y")),
        key_query=Select("all"),
        forward_query=Select("all"),
    )
    snapshot = site(origin.origin(), behavior)
    origin.on("/a", fresh(b"a", Vary="y"))
    requests = [("/a?q=1", [("X", x), ("Y", y)]) for x in "12" for y in "12"]
    async with EdgeHarness(snapshot) as harness:
        for target, headers in [*requests, ("/a", []), ("/a?q=2", [])]:
            await harness.get(target, headers=headers)
            assert (await harness.get(target, headers=headers)).x_cache == "Hit"
        harness.edge.use(invalidating(snapshot, 2, "/a?q=1"))
        for target, headers in requests:
            assert (await harness.get(target, headers=headers)).x_cache == "Miss"
            assert (await harness.get(target, headers=headers)).x_cache == "Hit"
        for target in ("/a", "/a?q=2"):
            assert (await harness.get(target)).x_cache == "Hit"


async def test_errors_that_are_stored_go_too(origin: ScriptedOrigin) -> None:
    snapshot = site(origin.origin())
    origin.on("/a", answer(404, b"none"), fresh(b"here"))
    async with EdgeHarness(snapshot) as harness:
        assert (await harness.get("/a")).status == 404
        harness.edge.use(invalidating(snapshot, 2, "/a"))
        assert seen(await harness.get("/a")) == (b"here", "Miss")


async def test_a_large_sweep_lets_viewers_through(origin: ScriptedOrigin) -> None:
    snapshot = site(origin.origin())
    origin.on("/a/x", fresh(b"new"))
    async with EdgeHarness(snapshot) as harness:
        count = 5 * SWEPT_AT_ONCE
        for number in range(count):
            harness.edge.memory.put(stored(f"ETEST/a/{number}", 1))
            harness.edge.memory.put(stored(f"ETEST/b/{number}", 1))
        harness.edge.memory.put(stored("ETEST/a/x", 1))
        harness.edge.use(invalidating(snapshot, 2, "/a/*"))
        assert len(harness.edge.memory) > count + 1
        assert seen(await harness.get("/a/x")) == (b"new", "Miss")
        harness.edge.use(msgspec.structs.replace(invalidating(snapshot, 2, "/a/*"), number=3))
        while harness.edge.memory.sweeping:
            await asyncio.sleep(0)
        assert len(harness.edge.memory) == count + 1
        assert seen(await harness.get("/a/x")) == (b"new", "Hit")


# -- an edge that reads cache tags ---------------------------------------------------------------------------------


def tagged(body: bytes, tags: str, **headers: str) -> list[Any]:
    return answer(200, body, {"Cache-Control": "max-age=600", "Cache-Tag": tags, **headers})


async def test_a_tag_ends_every_response_that_carries_it(origin: ScriptedOrigin) -> None:
    """Under any path and query string, in memory immediately; responses with other tags, or none, stay."""
    snapshot = site(
        origin.origin(),
        Behavior("*", "scripted", key_query=Select("all"), forward_query=Select("all")),
        cache_tag_header="cache-tag",
    )
    origin.on("/a", tagged(b"a1", "Product:1, shop"), tagged(b"a2", "product:1"))
    origin.on("/b", tagged(b"b1", "other, PRODUCT:1"), tagged(b"b2", "product:1"))
    origin.on("/c", tagged(b"c", "product:11"))
    origin.on("/d", fresh(b"d"))
    origin.on(
        "/e", answer(404, b"gone", {"Cache-Control": "max-age=600", "Cache-Tag": "product:1"}), fresh(b"e2")
    )
    async with EdgeHarness(snapshot) as harness:
        for target in ("/a", "/b?x=1", "/c", "/d", "/e"):
            await harness.get(target)
        harness.edge.use(invalidating(snapshot, 2, "#product:1"))
        assert seen(await harness.get("/a")) == (b"a2", "Miss")
        assert seen(await harness.get("/b?x=1")) == (b"b2", "Miss")
        assert seen(await harness.get("/c")) == (b"c", "Hit")
        assert seen(await harness.get("/d")) == (b"d", "Hit")
        assert seen(await harness.get("/e")) == (b"e2", "Miss")
        assert seen(await harness.get("/a")) == (b"a2", "Hit")


async def test_without_the_setting_tags_mean_nothing(origin: ScriptedOrigin) -> None:
    snapshot = site(origin.origin())
    origin.on("/a", tagged(b"a1", "one"))
    async with EdgeHarness(snapshot) as harness:
        await harness.get("/a")
        harness.edge.use(invalidating(snapshot, 2, "#one"))
        assert seen(await harness.get("/a")) == (b"a1", "Hit")


async def test_a_fill_whose_tags_are_not_known_yet_is_not_joined(origin: ScriptedOrigin) -> None:
    snapshot = site(origin.origin(), cache_tag_header="cache-tag")
    head = asyncio.Event()
    origin.on("/a", [head, *tagged(b"old", "one")], tagged(b"new", "one"))
    async with EdgeHarness(snapshot) as harness:
        first = asyncio.ensure_future(harness.get("/a"))
        await origin.received(1)
        harness.edge.use(invalidating(snapshot, 2, "#one"))
        assert seen(await harness.get("/a")) == (b"new", "Miss")
        head.set()
        assert (await first).body == b"old"
        assert seen(await harness.get("/a")) == (b"new", "Hit")


async def test_a_revalidated_response_keeps_its_tags_or_gets_new_ones(origin: ScriptedOrigin) -> None:
    snapshot = site(origin.origin(), cache_tag_header="cache-tag")

    def confirmed(*lines: str) -> Script:
        text = "\r\n".join(("HTTP/1.1 304 Not Modified", 'ETag: "1"', "Cache-Control: max-age=600", *lines))
        return [(text + "\r\n\r\n").encode()]

    stale = {"ETag": '"1"', "Cache-Control": "max-age=0"}
    origin.on("/kept", tagged(b"k1", "one", **stale), confirmed(), fresh(b"k2"))
    origin.on("/new", tagged(b"n1", "one", **stale), confirmed("Cache-Tag: two"), fresh(b"n2"))
    async with EdgeHarness(snapshot) as harness:
        for target in ("/kept", "/new"):
            await harness.get(target)
            assert (await harness.get(target)).x_cache == "RefreshHit"
            assert (await harness.get(target)).x_cache == "Hit"
        harness.edge.use(invalidating(snapshot, 2, "#one"))
        assert (await harness.get("/kept")).body == b"k2"
        assert seen(await harness.get("/new")) == (b"n1", "Hit")
        harness.edge.use(invalidating(invalidating(snapshot, 2, "#one"), 3, "#two"))
        assert (await harness.get("/new")).body == b"n2"
