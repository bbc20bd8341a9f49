"""Several workers on one segment, each with its own edge, in front of a scripted origin and under one clock."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from keyfront.edge.cache.shared_segment import Segment, create
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior, Select, Snapshot
from tests.origin import ScriptedOrigin, answer, closed_port
from tests.sites import site
from tests.viewer import Clock, EdgeHarness

ALL = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"})
KIB = 1024


def open_to_all(**members: object) -> Behavior:
    given: dict[str, object] = {
        "allowed_methods": ALL,
        "key_query": Select("all"),
        "forward_query": Select("all"),
        **members,
    }
    return Behavior("*", "scripted", **given)  # type: ignore[arg-type]


@asynccontextmanager
async def machine(tmp_path: Path, snapshot: Snapshot, clock: Clock) -> AsyncIterator[list[EdgeHarness]]:
    fd = create(3, 3 << 20, tmp_path)
    settings = EdgeSettings(memory=1 << 22, max_object=32 * KIB, slice=64 * KIB)
    try:
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    EdgeHarness(snapshot, settings=settings, clock=clock, segment=Segment.attach(fd, number))
                )
                for number in range(3)
            ]
    finally:
        os.close(fd)


CACHED = {"Cache-Control": "max-age=100", "ETag": '"v1"'}


async def test_what_one_has_renewed_the_others_need_not_ask_for(tmp_path: Path) -> None:
    clock = Clock()
    async with (
        ScriptedOrigin() as origin,
        machine(tmp_path, site(origin.origin(), open_to_all()), clock) as edges,
    ):
        origin.on("/a", answer(200, b"one", CACHED), answer(304, headers=CACHED), answer(200, b"two", CACHED))
        assert [(await harness.get("/a")).x_cache for harness in edges] == ["Miss", "Hit", "Hit"]
        clock.forward(150)
        assert [(await harness.get("/a")).x_cache for harness in edges] == ["RefreshHit", "Hit", "Hit"]
        clock.forward(150)
        seen = [await harness.get("/a") for harness in edges]
        assert [one.x_cache for one in seen] == ["Miss", "Hit", "Hit"]
        assert {one.body for one in seen} == {b"two"}
        assert len(origin.requests) == 3


async def test_what_was_removed_does_not_stand_in_for_an_origin_that_fails(tmp_path: Path) -> None:
    """A stale response is removed while a worker waits to revalidate it: it is not stored again."""
    clock = Clock()
    async with (
        ScriptedOrigin() as origin,
        machine(tmp_path, site(origin.origin(), open_to_all()), clock) as edges,
    ):
        go = asyncio.Event()
        origin.on(
            "/a",
            answer(200, b"old", CACHED),
            [go, *answer(503, b"down")],
            answer(200, b"done"),
            answer(200, b"new", CACHED),
        )
        assert (await edges[0].get("/a")).body == b"old"
        clock.forward(150)
        waits = asyncio.ensure_future(edges[1].get("/a"))
        await origin.received(2)
        assert (await edges[2].get("/a", method="POST", body=b"x")).status == 200
        go.set()
        assert (await waits).body == b"old"  # it began before the removal
        assert [(await harness.get("/a")).body for harness in edges] == [b"new"] * 3


async def test_no_request_joins_a_fill_that_began_before_a_change(tmp_path: Path) -> None:
    clock = Clock()
    async with (
        ScriptedOrigin() as origin,
        machine(tmp_path, site(origin.origin(), open_to_all()), clock) as edges,
    ):
        go = asyncio.Event()
        origin.on("/a", [go, *answer(200, b"old", CACHED)], answer(200, b"done"), answer(200, b"new", CACHED))
        waits = asyncio.ensure_future(edges[0].get("/a"))
        await origin.received(1)
        await edges[1].get("/a", method="DELETE")
        assert (await edges[0].get("/a")).body == b"new"
        go.set()
        assert (await waits).body == b"old"
        assert [(await harness.get("/a")).body for harness in edges] == [b"new"] * 3
        assert len(origin.requests) == 3


@pytest.mark.parametrize("target", ["/a?x=1", "/a"])
async def test_a_change_ends_what_has_the_same_query_string_and_nothing_else(
    tmp_path: Path, target: str
) -> None:
    clock = Clock()
    async with (
        ScriptedOrigin() as origin,
        machine(tmp_path, site(origin.origin(), open_to_all()), clock) as edges,
    ):
        old, new = answer(200, b"old", CACHED), answer(200, b"new", CACHED)
        origin.on("/a", old, old, old, answer(200, b"done"), new)
        for each in ("/a", "/a?x=1", "/a?x=2"):
            for harness in edges:
                assert (await harness.get(each)).body == b"old"
        await edges[0].get(target, method="POST", body=b"x")
        for each in ("/a", "/a?x=1", "/a?x=2"):
            wanted = b"new" if each == target else b"old"
            assert [(await harness.get(each)).body for harness in edges] == [wanted] * 3
        assert len(origin.requests) == 5


async def test_a_body_that_cannot_be_refetched_is_shared_once_it_is_complete(tmp_path: Path) -> None:
    """Until then another worker sends its own request, and takes nothing away from the one that is still fetching."""
    clock = Clock()
    body = os.urandom(200 * KIB)
    whole = answer(200, body, {"Cache-Control": "max-age=100"})
    async with (
        ScriptedOrigin() as origin,
        machine(tmp_path, site(origin.origin(), open_to_all()), clock) as edges,
    ):
        go = asyncio.Event()
        head = whole[0]
        assert isinstance(head, bytes)
        origin.on("/a", [head[:-1000], go, head[-1000:]], whole)
        waits = asyncio.ensure_future(edges[0].get("/a"))
        await origin.received(1)
        assert (await edges[1].get("/a")).body == body
        go.set()
        assert (await waits).body == body
        for harness in edges:
            seen = await harness.get("/a")
            assert (seen.x_cache, seen.body) == ("Hit", body)
        assert len(origin.requests) == 2


async def test_another_version_of_what_is_sliced_takes_the_old_one_away_everywhere(tmp_path: Path) -> None:
    clock = Clock()
    old, new = os.urandom(150 * KIB), os.urandom(150 * KIB)
    behavior = open_to_all()
    async with (
        ScriptedOrigin() as origin,
        machine(tmp_path, site(origin.origin(), behavior), clock) as edges,
    ):
        part = {
            "Content-Range": f"bytes 0-{64 * KIB - 1}/{150 * KIB}",
            "ETag": '"1"',
            "Cache-Control": "max-age=100",
        }
        origin.on(
            "/a",
            answer(206, old[: 64 * KIB], part),
            answer(200, new, {"ETag": '"2"', "Cache-Control": "max-age=100"}),
            answer(200, new, {"ETag": '"2"', "Cache-Control": "max-age=100"}),
        )
        first = await edges[0].get("/a", headers=[("Range", "bytes=0-9")])
        assert (first.status, first.body) == (206, old[:10])
        # The second worker finds the head, and learns from the origin that the missing part is of another version.
        assert (await edges[1].get("/a", headers=[("Range", "bytes=-10")])).body == new
        for harness in edges:
            assert (await harness.get("/a")).body == new


async def test_the_failure_of_an_origin_is_one_for_all_and_ends_with_a_new_configuration(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with ScriptedOrigin() as origin:
        gone = origin.origin(http_port=closed_port())
        async with machine(tmp_path, site(gone, open_to_all()), clock) as edges:
            for harness in edges:
                assert (await harness.get("/a")).status == 502
            assert [
                harness.edge.tiers.arena.finds for harness in edges if harness.edge.tiers.arena is not None
            ] == [0] * 3
            assert all(len(harness.edge.fetcher.failures) == 1 for harness in edges)
            kept = [
                harness.edge.fetcher.failures.seconds_left(key, clock())
                for harness in edges
                for key in harness.edge.fetcher.failures._failures._entries
            ]
            assert kept == [kept[0]] * 3
            clock.forward(kept[0] + 1)
            assert [
                harness.edge.fetcher.failures.get(key, clock()) for harness in edges for key in ["E/a"]
            ] == [None] * 3
