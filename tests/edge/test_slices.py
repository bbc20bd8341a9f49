"""Bodies too large to hold in memory: what is requested, what is trusted, and what viewers get, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyfront.edge.cache import slice_reader, spool
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.types.messages import Piece
from keyfront.model.snapshot import Behavior, ErrorResponse, Select
from tests.edge.film import MODIFIED, Film, bytes_of
from tests.origin import CLOSE, ScriptedOrigin, Wire, answer
from tests.sites import site
from tests.viewer import Clock, EdgeHarness, Seen, Viewer

KIB = 1024
SLICE = 16 * KIB
SIZE = 40 * SLICE + 1000


# -- through the edge --------------------------------------------------------------------------------------------------


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        yield origin
    assert not origin.faults


@pytest.fixture(params=["disk", "memory"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> EdgeSettings:
    """An edge for which 16 KiB is a lot."""
    disk = 64 << 20 if request.param == "disk" else 0
    return EdgeSettings(
        memory=8 << 20, max_object=SLICE, slice=SLICE, cache_dir=str(tmp_path / "cache"), cache_disk=disk
    )


@contextlib.asynccontextmanager
async def edge_for(
    origin: ScriptedOrigin,
    settings: EdgeSettings,
    clock: Callable[[], float] = time.time,
    **members: object,
) -> AsyncIterator[EdgeHarness]:
    behavior = Behavior("*", "scripted", **members)  # type: ignore[arg-type]
    async with EdgeHarness(site(origin.origin(), behavior), settings=settings, clock=clock) as harness:
        yield harness


def ranged(value: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [("Range", f"bytes={value}"), *more]


class TestSlices:
    async def test_a_seek_into_a_cold_object_fetches_only_the_slices_that_it_needs(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        async with edge_for(origin, small) as harness:
            first = 20 * SLICE + 5
            seen = await harness.get("/film", headers=ranged(f"{first}-{first + 99}"))
            assert (seen.status, seen.body) == (206, film.body[first : first + 100])
            assert seen.header("content-range") == f"bytes {first}-{first + 99}/{SIZE}"
            assert seen.header("content-length") == "100"
            assert seen.header("etag") == '"1"'
            assert seen.x_cache == "Miss"
            assert film.spans == [(20 * SLICE, 21 * SLICE - 1)]
            seen = await harness.get("/film", headers=ranged(f"{first + 7}-{first + 8}"))
            assert (seen.status, seen.body, seen.x_cache) == (206, film.body[first + 7 : first + 9], "Hit")
            assert film.fetched == 1

    async def test_everything_is_assembled_from_what_is_there_and_what_is_not(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        async with edge_for(origin, small) as harness:
            for index in (3, 17, 40):
                await harness.get("/film", headers=ranged(f"{index * SLICE}-{index * SLICE}"))
            assert film.fetched == 3
            seen = await harness.get("/film")
            assert (seen.status, seen.body) == (200, film.body)
            assert seen.header("content-length") == str(SIZE)
            assert seen.header("content-range") is None
            fetched = sorted(span for span in film.spans if span)
            assert fetched[0][0] == 0
            assert all(a[1] + 1 == b[0] for a, b in pairwise(fetched))
            assert fetched[-1][1] == SIZE - 1
            asked = film.fetched
            again = await harness.get("/film")
            assert (again.status, again.body, again.x_cache) == (200, film.body, "Hit")
            assert film.fetched == asked

    async def test_a_large_body_is_stored_while_it_goes_to_the_viewer(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        async with edge_for(origin, small) as harness:
            miss = await harness.get("/film")
            assert (miss.status, miss.body, miss.x_cache) == (200, film.body, "Miss")
            hit = await harness.get("/film")
            assert (hit.status, hit.body, hit.x_cache) == (200, film.body, "Hit")
            part = await harness.get("/film", headers=ranged("-1000"))
            assert (part.status, part.body, part.x_cache) == (206, film.body[-1000:], "Hit")
            head = await harness.get("/film", method="HEAD")
            assert (head.status, head.header("content-length"), head.x_cache) == (200, str(SIZE), "Hit")
            assert film.statuses == [200]

    @pytest.mark.parametrize("cold", [True, False])
    async def test_ranges_of_every_kind(
        self, origin: ScriptedOrigin, small: EdgeSettings, cold: bool
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        body = film.body
        async with edge_for(origin, small) as harness:
            if not cold:
                await harness.get("/film")
            two = await harness.get("/film", headers=ranged("5-9,20000-50000"))
            assert two.status == 206
            assert parts_of(two) == [
                (f"bytes 5-9/{SIZE}", body[5:10]),
                (f"bytes 20000-50000/{SIZE}", body[20000:50001]),
            ]
            last = await harness.get("/film", headers=ranged("-3"))
            assert (last.status, last.body) == (206, body[-3:])
            overlong = await harness.get("/film", headers=ranged(f"{SIZE - 3}-{SIZE * 10}"))
            assert (overlong.status, overlong.body) == (206, body[-3:])
            for odd in ("9-5", "a-b", "0-10,5-20"):
                seen = await harness.get("/film", headers=ranged(odd))
                assert (seen.status, seen.body) == (200, body)
            past = await harness.get("/film", headers=ranged(f"{SIZE}-"))
            assert (past.status, past.header("content-range")) == (416, f"bytes */{SIZE}")
            far = await harness.get("/film", headers=ranged(f"{SIZE * 9}-"))
            assert (far.status, far.header("content-range")) == (416, f"bytes */{SIZE}")
            one = await harness.get("/film", headers=ranged("0-0", ("If-Range", '"1"')))
            assert (one.status, one.body) == (206, body[:1])
            for wrong in ('"2"', 'W/"1"', MODIFIED):
                seen = await harness.get("/film", headers=ranged("0-0", ("If-Range", wrong)))
                assert (seen.status, seen.body) == (200, body)
            known = await harness.get("/film", headers=[("If-None-Match", '"1"')])
            assert (known.status, known.body) == (304, b"")

    async def test_cold_and_past_the_end(self, origin: ScriptedOrigin, small: EdgeSettings) -> None:
        Film(bytes_of(SIZE)).on(origin)
        async with edge_for(origin, small) as harness:
            seen = await harness.get("/film", headers=ranged(f"{SIZE * 9}-"))
            assert (seen.status, seen.header("content-range")) == (416, f"bytes */{SIZE}")
            seen = await harness.get("/film", headers=ranged(f"{SIZE}-"))
            assert (seen.status, seen.header("content-range")) == (416, f"bytes */{SIZE}")
            seen = await harness.get("/film", headers=ranged("99999999999999999999999999-"))
            assert seen.status == 416

    async def test_a_small_object_requested_by_range_is_stored_whole(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(b"0123456789").on(origin)
        async with edge_for(origin, small) as harness:
            seen = await harness.get("/film", headers=ranged("2-4"))
            assert (seen.status, seen.body, seen.header("content-range")) == (206, b"234", "bytes 2-4/10")
            seen = await harness.get("/film")
            assert (seen.status, seen.body, seen.x_cache) == (200, b"0123456789", "Hit")
            assert harness.edge.memory.get_any_variant("ETEST/film") is not None
            assert film.fetched == 1

    async def test_parallel_viewers_share_the_fills(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        film.brake, film.before = asyncio.Event(), 1000
        go = film.brake
        async with edge_for(origin, small) as harness:
            tasks = [
                asyncio.create_task(harness.get("/film", headers=ranged(f"{7 * SLICE + n}-{8 * SLICE + n}")))
                for n in range(8)
            ]
            await origin.received(1)
            go.set()
            for n, task in enumerate(tasks):
                seen = await task
                assert (seen.status, seen.body) == (206, film.body[7 * SLICE + n : 8 * SLICE + n + 1])
            assert film.fetched == 1

    async def test_parallel_viewers_of_everything_share_one_answer(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        film.brake, film.before = asyncio.Event(), 10 * SLICE + 77
        go = film.brake
        async with edge_for(origin, small) as harness:
            async with await harness.viewer() as early, await harness.viewer() as late:
                await early.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                await early.reader.readexactly(9 * SLICE)
                await late.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                head = await late.reader.readuntil(b"\r\n\r\n")
                assert b"X-Cache: Hit" in head
                assert await late.reader.readexactly(8 * SLICE) == film.body[: 8 * SLICE]
                go.set()
                assert await late.reader.readexactly(SIZE - 8 * SLICE) == film.body[8 * SLICE :]
            assert film.statuses == [200]

    async def test_who_leaves_takes_nothing_from_others_nor_from_the_cache(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        film.brake, film.before = asyncio.Event(), 5 * SLICE + 10
        go = film.brake
        async with edge_for(origin, small) as harness:
            async with await harness.viewer() as leaves, await harness.viewer() as stays:
                for viewer in (leaves, stays):
                    await viewer.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                await leaves.reader.readexactly(SLICE)
                reset(leaves)
                go.set()
                seen = await stays.answer()
            assert seen.body == film.body
            assert film.statuses == [200]

    async def test_who_leaves_what_cannot_be_asked_for_again_takes_nothing_from_others(
        self, origin: ScriptedOrigin, tmp_path: Path
    ) -> None:
        size = 1024 * KIB
        film = Film(bytes_of(20 * size), etag="").on(
            origin
        )  # of which the sockets' buffers hold less than half
        film.brake, film.before = asyncio.Event(), 12 * size + 77
        go = film.brake
        disk = EdgeSettings(
            memory=8 << 20, max_object=size, slice=size, cache_dir=str(tmp_path), cache_disk=256 << 20
        )
        async with edge_for(origin, disk) as harness:
            narrow = socket.socket()
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            narrow.connect(("127.0.0.1", harness.port))
            narrow.setblocking(False)
            late = Viewer(*await asyncio.open_connection(sock=narrow))
            async with await harness.viewer() as early, late:
                await early.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                await early.reader.readexactly(12 * size)
                await late.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                assert b"X-Cache: Hit" in await late.reader.readuntil(b"\r\n\r\n")
                leaver = early.writer.get_extra_info("socket")
                leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                early.writer.transport.abort()
                await harness.recorded(1)
                (fill,) = next(iter(harness.edge.filler.slice_fills._fills.values()))
                go.set()
                while film.sent < len(film.body) and not fill.ended:
                    await asyncio.sleep(0)
                narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
                assert await late.reader.readexactly(len(film.body)) == film.body
            assert film.fetched == 1

    async def test_what_is_evicted_after_the_head_is_out_is_read_to_the_end(
        self, origin: ScriptedOrigin, tmp_path: Path
    ) -> None:
        size = 256 * KIB
        film = Film(bytes_of(spool.OPEN * size), etag="").on(origin)  # more than the sockets' buffers hold
        cache = tmp_path / "cache"
        disk = EdgeSettings(
            memory=8 << 20, max_object=size, slice=size, cache_dir=str(cache), cache_disk=256 << 20
        )
        async with edge_for(origin, disk) as harness:
            await harness.get("/film")
            while harness.edge.filler.slice_fills._fills:
                await asyncio.sleep(0.01)
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                assert b"X-Cache: Hit" in await viewer.reader.readuntil(b"\r\n\r\n")
                for path in cache.rglob("*"):
                    if path.is_file() and len(path.name) == 64:
                        path.unlink()
                assert await viewer.reader.readexactly(len(film.body)) == film.body
            assert film.fetched == 1

    async def test_when_all_viewers_leave_complete_slices_stay_and_the_fetch_ends(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        film.brake, film.before = asyncio.Event(), 5 * SLICE + 10
        go = film.brake
        async with edge_for(origin, small) as harness:
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                await viewer.reader.readexactly(5 * SLICE)
                reset(viewer)
                await harness.recorded(1)
            go.set()
            await origin.disconnected(1)
            seen = await harness.get("/film")
            assert (seen.status, seen.body) == (200, film.body)
            assert film.spans[1] is not None
            assert film.spans[1][0] >= 5 * SLICE

    async def test_an_origin_without_ranges_sends_everything_and_so_does_the_edge(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        film.ranges = False
        async with edge_for(origin, small) as harness:
            first = await harness.get("/film", headers=ranged("5-9"))
            assert (first.status, first.body) == (200, film.body)
            second = await harness.get("/film", headers=ranged("5-9"))
            assert (second.status, second.body, second.x_cache) == (206, film.body[5:10], "Hit")
            assert film.fetched == 1

    async def test_a_small_body_from_an_origin_without_ranges(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(b"0123456789").on(origin)
        film.ranges = False
        async with edge_for(origin, small) as harness:
            first = await harness.get("/film", headers=ranged("5-9"))
            assert (first.status, first.body) == (200, film.body)
            second = await harness.get("/film", headers=ranged("5-9"))
            assert (second.status, second.body, second.x_cache) == (206, b"56789", "Hit")
            assert film.fetched == 1

    @pytest.mark.parametrize(
        ("etag", "modified"), [("", ""), ('W/"1"', ""), ('W/"1"', MODIFIED), ("", "now")]
    )
    async def test_without_a_strong_validator_nothing_is_put_together(
        self, origin: ScriptedOrigin, small: EdgeSettings, etag: str, modified: str
    ) -> None:
        film = Film(bytes_of(SIZE), etag=etag, modified=modified).on(origin)
        if modified == "now":
            film.modified = film.date()
            film.clock = lambda date=film.clock(): date  # type: ignore[misc]
        async with edge_for(origin, small) as harness:
            first = 20 * SLICE + 5
            for _ in range(2):
                seen = await harness.get("/film", headers=ranged(f"{first}-{first + 99}"))
                assert (seen.status, seen.body) == (206, film.body[first : first + 100])
            assert film.spans[-1] == (first, first + 99)
            whole = await harness.get("/film")
            assert (whole.status, whole.body) == (200, film.body)
            asked = film.fetched
            hit = await harness.get("/film", headers=ranged(f"{first}-{first + 99}"))
            assert (hit.status, hit.body, hit.x_cache) == (206, film.body[first : first + 100], "Hit")
            assert film.fetched == asked

    async def test_a_date_can_be_a_strong_validator(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE), etag="", modified=MODIFIED).on(origin)
        async with edge_for(origin, small) as harness:
            await harness.get("/film", headers=ranged("0-0"))
            seen = await harness.get("/film")
            assert (seen.status, seen.body) == (200, film.body)
            assert film.asked[1].header("if-range") == MODIFIED

    async def test_what_may_not_be_stored_is_passed_on(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE), control="private").on(origin)
        async with edge_for(origin, small) as harness:
            for _ in range(2):
                seen = await harness.get("/film", headers=ranged("5-9"))
                assert (seen.status, seen.body, seen.x_cache) == (206, film.body[5:10], "Miss")
            assert film.spans[-2:] == [(5, 9), (5, 9)]
            assert film.fetched == 3

    async def test_a_body_of_unknown_length_is_sliced_once_it_is_large(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        film.chunked = True
        async with edge_for(origin, small) as harness:
            seen = await harness.get("/film")
            assert (seen.status, seen.body, seen.header("transfer-encoding")) == (200, film.body, "chunked")
            hit = await harness.get("/film")
            assert (hit.status, hit.body, hit.x_cache) == (200, film.body, "Hit")
            assert hit.header("content-length") == str(SIZE)
            part = await harness.get("/film", headers=ranged(f"{SLICE}-{SLICE}"))
            assert (part.status, part.body) == (206, film.body[SLICE : SLICE + 1])
            assert film.fetched == 1

    async def test_requests_join_a_fill_of_unknown_length(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        film.chunked = True
        film.brake, film.before = asyncio.Event(), 10 * SLICE + 77
        go = film.brake
        async with edge_for(origin, small) as harness:
            async with await harness.viewer() as early, await harness.viewer() as late:
                await early.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                await early.reader.readexactly(9 * SLICE)
                await late.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                await late.reader.readexactly(9 * SLICE)
                await late.reader.readuntil(b"\r\n")
                go.set()
                third = await harness.get("/film")
            assert third.body == film.body
            assert film.fetched == 1

    async def test_variants_are_sliced_each_for_itself(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        films = {"de": Film(bytes_of(SIZE, 1)), "fr": Film(bytes_of(SIZE, 2), etag='"f"')}
        for film in films.values():
            film.extra = ["Vary: X-Tongue"]

        async def by_tongue(asked: object, wire: object) -> None:
            await films[asked.header("x-tongue")](asked, wire)  # type: ignore[attr-defined, arg-type]

        origin.on("/film", [by_tongue])
        forwarded = Select("whitelist", ("x-tongue",))
        async with edge_for(origin, small, forward_headers=forwarded) as harness:
            for _ in range(2):
                for tongue, film in films.items():
                    first = 7 * SLICE
                    headers = ranged(f"{first}-{first + 9}", ("X-Tongue", tongue))
                    seen = await harness.get("/film", headers=headers)
                    assert (seen.status, seen.body) == (206, film.body[first : first + 10])
            for tongue, film in films.items():
                seen = await harness.get("/film", headers=[("X-Tongue", tongue)])
                assert seen.body == film.body
            assert sum(film.spans.count((7 * SLICE, 8 * SLICE - 1)) for film in films.values()) == 2


def reset(viewer: Viewer) -> None:
    """Abort the connection with a TCP reset."""
    sock = viewer.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    viewer.writer.transport.abort()


def parts_of(seen: Seen) -> list[tuple[str, bytes]]:
    """The parts of a multipart/byteranges body: Content-Range and content."""
    found = re.fullmatch(r"multipart/byteranges; boundary=(\w+)", seen.header("content-type") or "")
    assert found is not None
    mark = b"\r\n--" + found[1].encode()
    first, *middle, last = seen.body.split(mark)
    assert (first, last) == (b"", b"--\r\n")
    parts = []
    for part in middle:
        head, _, content = part.partition(b"\r\n\r\n")
        ranges = re.findall(rb"Content-Range: (.*)", head)
        parts.append((ranges[0].strip().decode(), content))
    return parts


class TestChanges:
    async def test_a_slice_of_another_version_drops_the_old_one(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        async with edge_for(origin, small) as harness:
            await harness.get("/film", headers=ranged("0-0"))
            film.body, film.etag = bytes_of(SIZE, 2), '"2"'
            seen = await harness.get("/film", headers=ranged(f"{9 * SLICE}-{9 * SLICE + 9}"))
            assert (seen.status, seen.body) == (206, film.body[9 * SLICE : 9 * SLICE + 10])
            assert seen.header("etag") == '"2"'
            assert (await harness.get("/film")).body == film.body

    @pytest.mark.parametrize("if_range", [True, False])
    async def test_a_change_in_the_middle_cuts_the_connection(
        self, origin: ScriptedOrigin, small: EdgeSettings, if_range: bool
    ) -> None:
        """If-Range is not sent where cookies are forwarded: there the tags alone must show the change."""
        film = Film(bytes_of(SIZE)).on(origin)
        old = film.body
        cookies = Select("none" if if_range else "all")
        async with edge_for(origin, small, forward_cookies=cookies, key_cookies=cookies) as harness:
            await harness.get("/film", headers=ranged(f"0-{3 * SLICE}"))
            film.body, film.etag = bytes_of(SIZE, 2), '"2"'
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                head = await viewer.reader.readuntil(b"\r\n\r\n")
                assert b'ETag: "1"' in head
                rest = await viewer.at_end()
            assert rest == old[: 4 * SLICE]
            seen = await harness.get("/film")
            assert (seen.status, seen.body) == (200, film.body)
            assert (film.asked[1].header("if-range") is not None) is if_range

    @pytest.mark.parametrize("version", ["the same", "another"])
    @pytest.mark.parametrize("request_range", [None, f"{30 * SLICE}-{30 * SLICE + 9}"])
    async def test_revalidation(
        self, origin: ScriptedOrigin, small: EdgeSettings, version: str, request_range: str | None
    ) -> None:
        clock = Clock()
        film = Film(bytes_of(SIZE), control="max-age=10").on(origin)
        film.clock = clock
        async with edge_for(origin, small, clock) as harness:
            await harness.get("/film", headers=ranged(f"{30 * SLICE}-{31 * SLICE}"))
            clock.forward(10_000_000)
            if version == "another":
                film.body, film.etag = bytes_of(SIZE, 2), '"2"'
            headers = ranged(request_range) if request_range else []
            seen = await harness.get("/film", headers=headers)
            expected = film.body if request_range is None else film.body[30 * SLICE : 30 * SLICE + 10]
            assert seen.body == expected
            assert seen.header("etag") == film.etag
            second = film.asked[1]
            assert second.header("if-none-match") == '"1"'
            assert (second.header("range") is not None) is (request_range is not None)
            if version == "the same":
                assert film.statuses[1] == 304
                assert seen.x_cache == "RefreshHit"
                # What was stored is not fetched again.
                assert (30 * SLICE, 32 * SLICE - 1) not in film.spans[2:]
            else:
                assert film.statuses[1] == (200 if request_range is None else 206)

    async def test_when_the_origin_fails_a_stale_one_goes_out_as_far_as_it_is_there(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        clock = Clock()
        film = Film(bytes_of(SIZE), control="max-age=10").on(origin)
        film.clock = clock
        async with edge_for(origin, small, clock) as harness:
            await harness.get("/film", headers=ranged("0-0"))
            clock.forward(1000)
            film.fail = 503
            seen = await harness.get("/film", headers=ranged("5-9"))
            assert (seen.status, seen.body) == (206, film.body[5:10])
            missing = await harness.get("/film", headers=ranged(f"{9 * SLICE}-{9 * SLICE}"))
            assert (missing.status, missing.body) == (503, b"the origin is not well")
            film.fail = 0
            clock.forward(1000)
            whole = await harness.get("/film")
            assert (whole.status, whole.body) == (200, film.body)

    async def test_a_missing_slice_that_the_origin_refuses_is_the_origins_answer(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        async with edge_for(origin, small) as harness:
            await harness.get("/film", headers=ranged("0-0"))
            film.fail = 500
            seen = await harness.get("/film", headers=ranged(f"{9 * SLICE}-"))
            assert (seen.status, seen.x_cache) == (500, "Error")
            film.fail = 0
            seen = await harness.get("/film", headers=ranged(f"{9 * SLICE}-{9 * SLICE}"))
            assert (seen.status, seen.body) == (206, film.body[9 * SLICE : 9 * SLICE + 1])

    async def test_an_origin_that_cannot_be_reached_for_a_missing_slice(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        async with edge_for(origin, small) as harness:
            await harness.get("/film", headers=ranged("0-0"))
            await origin.stop()
            seen = await harness.get("/film", headers=ranged(f"{9 * SLICE}-"))
            assert (seen.status, seen.x_cache) == (502, "Error")
            seen = await harness.get("/film", headers=ranged("3-4"))
            assert (seen.status, seen.body) == (206, film.body[3:5])

    async def test_a_break_in_the_middle_is_mended_without_the_viewer_noticing(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        film.break_at = 12 * SLICE + 100
        async with edge_for(origin, small) as harness:
            seen = await harness.get("/film")
            assert (seen.status, seen.body) == (200, film.body)
            assert film.statuses[:2] == [200, 206]
            assert film.spans[1] is not None
            assert film.spans[1][0] == 12 * SLICE

    async def test_a_break_in_what_cannot_be_mended_cuts_the_connection(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE), etag="").on(origin)
        film.break_at = 12 * SLICE + 100
        async with edge_for(origin, small) as harness:
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                await viewer.reader.readuntil(b"\r\n\r\n")
                rest = await viewer.at_end()
            assert film.body.startswith(rest)
            assert len(rest) < SIZE
            seen = await harness.get("/film")
            assert (seen.status, seen.body) == (200, film.body)

    async def test_an_unsafe_request_ends_what_is_sliced(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        methods = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
        async with edge_for(origin, small, allowed_methods=methods) as harness:
            await harness.get("/film")
            origin.on("/film", answer(204), [film])
            assert (await harness.get("/film", method="PUT", body=b"x")).status == 204
            film.body = bytes_of(SIZE, 2)  # under the same tag, which no honest origin does
            seen = await harness.get("/film")
            assert seen.body == film.body

    async def test_a_custom_error_page_may_be_large(
        self, origin: ScriptedOrigin, small: EdgeSettings
    ) -> None:
        film = Film(bytes_of(SIZE)).on(origin)
        origin.on("/missing", answer(404, b"no"))
        rule = ErrorResponse(404, 10, "/film", 404)
        async with EdgeHarness(
            site(origin.origin(), Behavior("*", "scripted"), error_responses=(rule,)), settings=small
        ) as harness:
            for _ in range(2):
                seen = await harness.get("/missing")
                assert (seen.status, seen.body) == (404, film.body)


class TestSlow:
    async def test_who_reads_slowly_does_not_make_the_origin_send_it_all(
        self, origin: ScriptedOrigin, small: EdgeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("keyfront.edge.cache.fill.MAX_FILL_LEAD", 8 * SLICE)
        film = Film(bytes_of(3000 * SLICE)).on(origin)
        async with edge_for(origin, small) as harness:
            async with await harness.viewer() as viewer:
                viewer.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await viewer.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                await origin.received(1)
                await origin.wires[0].blocked.wait()
                assert film.sent < len(film.body) // 2
                viewer.writer.transport.resume_reading()  # type: ignore[attr-defined]
                seen = await viewer.answer()
            assert seen.body == film.body

    async def test_what_is_evicted_while_it_is_read_is_read_to_the_end(
        self, origin: ScriptedOrigin, tmp_path: Path
    ) -> None:
        """Without a strong validator the rest could not be requested again."""
        size = 256 * KIB
        film = Film(bytes_of(spool.OPEN * size), etag="").on(origin)  # more than the sockets' buffers hold
        film.chunked = True
        cache = tmp_path / "cache"
        disk = EdgeSettings(
            memory=8 << 20, max_object=size, slice=size, cache_dir=str(cache), cache_disk=256 << 20
        )
        async with edge_for(origin, disk) as harness, await harness.viewer() as viewer:
            viewer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await viewer.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
            while harness.edge.filler.slice_fills._fills or film.sent < len(film.body):
                await asyncio.sleep(0.01)
            evicted = [path for path in cache.rglob("*") if path.is_file() and len(path.name) == 64]
            assert len(evicted) >= spool.OPEN
            for path in evicted:
                path.unlink()
            viewer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert (await viewer.answer()).body == film.body

    @pytest.mark.parametrize("when", ["before somebody joins", "after somebody joined"])
    async def test_a_response_evicted_while_it_is_received(
        self, origin: ScriptedOrigin, tmp_path: Path, when: str
    ) -> None:
        """Its length is unknown, so a viewer reads it from its fill: from the beginning, or from a separate fill."""
        body = bytes_of(20 * SLICE)
        on = {n: asyncio.Event() for n in (15, 16)}
        fetched = 0

        async def send(asked: object, wire: Wire) -> None:
            nonlocal fetched
            fetched += 1
            head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
            await wire.send(head.encode())
            for n in range(20):
                if fetched == 1 and n in on:
                    await on[n].wait()
                await wire.send(b"%x\r\n%b\r\n" % (SLICE, body[n * SLICE : (n + 1) * SLICE]))
            await wire.send(b"0\r\n\r\n")

        origin.on("/film", [send])
        cache = tmp_path / "cache"
        disk = EdgeSettings(
            memory=8 << 20, max_object=SLICE, slice=SLICE, cache_dir=str(cache), cache_disk=64 << 20
        )

        async def evicted() -> None:
            for path in cache.rglob("*"):
                if path.is_file() and len(path.name) == 64:
                    path.unlink()

        async with edge_for(origin, disk) as harness:
            async with await harness.viewer() as early, await harness.viewer() as late:
                await early.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
                await early.reader.readuntil(b"\r\n\r\n")
                await early.reader.readexactly(15 * SLICE)
                while len([p for p in cache.rglob("*") if len(p.name) == 64]) < 15:
                    await asyncio.sleep(0.001)
                on[15].set()
                # After this, the fill has no open slice that `early` has already read.
                await early.reader.readexactly(SLICE)
                if when.startswith("before"):
                    await evicted()
                late.writer.transport.pause_reading()  # type: ignore[attr-defined]
                waiting = asyncio.ensure_future(late.ask("/film", "d.test"))
                flight = next(iter(harness.edge.filler.slice_fills._fills.values()))[0]
                while len(flight._readers) < 2 and fetched < 2 and not waiting.done():
                    await asyncio.sleep(0.001)
                if when.startswith("after"):
                    await evicted()
                late.writer.transport.resume_reading()  # type: ignore[attr-defined]
                on[16].set()
                assert (await waiting).body == body
            assert fetched == (2 if when.startswith("before") else 1)

    async def test_what_could_not_be_stored_is_fetched_again_for_late_viewers(
        self, origin: ScriptedOrigin
    ) -> None:
        """Slices too large for memory, and no disk: only viewers that were there from the beginning can share the
        fill."""
        body = bytes_of(20 * SLICE)
        on = asyncio.Event()
        fetched = 0

        async def send(asked: object, wire: Wire) -> None:
            nonlocal fetched
            fetched += 1
            await wire.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nConnection: close\r\n\r\n")
            await wire.send(body[: 15 * SLICE])
            if fetched == 1:
                await on.wait()
            await wire.send(body[15 * SLICE :])

        origin.on("/film", [send, CLOSE])
        tiny = EdgeSettings(memory=3 * SLICE, max_object=SLICE, slice=SLICE)
        async with edge_for(origin, tiny) as harness, await harness.viewer() as early:
            await early.send(b"GET /film HTTP/1.1\r\nHost: d.test\r\n\r\n")
            await early.reader.readuntil(b"\r\n\r\n")
            await early.reader.readexactly(15 * SLICE)
            late = asyncio.ensure_future(harness.get("/film"))
            (flight,) = harness.edge.fills
            while len(flight._readers) < 2 and fetched < 2 and not late.done():
                await asyncio.sleep(0.001)
            on.set()
            assert (await late).body == body
        assert fetched == 2


# -- arbitrary ranges --------------------------------------------------------------------------------------------------


async def pieces_of(body: bytes, cuts: list[int]) -> AsyncIterator[Piece]:
    at = 0
    for size in cuts:
        if at < len(body):
            yield body[at : at + size]
            at += size
    if at < len(body):
        yield body[at:]


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(1, 50), max_size=20), st.data())
@settings(max_examples=100, deadline=None)
def test_a_body_that_is_read_once_is_cut_as_any_other(
    body: bytes, cuts: list[int], data: st.DataObject
) -> None:
    points = sorted(data.draw(st.sets(st.integers(0, len(body) - 1), max_size=8)))
    parts: list[bytes | tuple[int, int]] = []
    expected = b""
    for first, last in zip(points[::2], points[1::2], strict=False):
        parts += [b"--mark--", (first, last)]
        expected += b"--mark--" + body[first : last + 1]

    async def run() -> bytes:
        return b"".join([bytes(p) async for p in slice_reader.sequence(pieces_of(body, cuts), parts)])  # type: ignore[arg-type]

    assert asyncio.run(run()) == expected


async def test_any_ranges_in_any_order_equal_those_of_a_naive_server(
    origin: ScriptedOrigin, small: EdgeSettings
) -> None:
    """Arbitrary ranges, concurrent and sequential, over a store from which slices vanish, of an object that changes
    now and then."""
    dice = random.Random(20260204)
    film = Film(bytes_of(SIZE)).on(origin)
    versions = {film.etag: film.body}
    tight = msgspec.structs.replace(small, memory=40 * SLICE) if not small.cache_disk else small
    async with edge_for(origin, tight) as harness:

        async def ask(viewer: Viewer) -> None:
            kind = dice.randrange(5)
            low = dice.randrange(SIZE)
            high = min(SIZE - 1, low + int(dice.paretovariate(0.3)) if dice.random() < 0.9 else SIZE - 1)
            value = (f"{low}-{high}", f"{low}-", f"-{SIZE - low}", f"{low}-{high}", "")[kind]
            headers = ranged(value) if value else []
            seen = await viewer.ask("/film", "d.test", headers)
            body = versions[seen.header("etag") or ""]
            if kind in (0, 3):
                assert (seen.status, seen.body) == (206, body[low : high + 1])
            elif kind in (1, 2):
                assert (seen.status, seen.body) == (206, body[low:])
            else:
                assert (seen.status, seen.body) == (200, body)

        async def many(count: int) -> None:
            async with await harness.viewer() as viewer:
                for _ in range(count):
                    await ask(viewer)

        for round_ in range(6):
            await asyncio.gather(*(many(12) for _ in range(4)))
            forget_some(harness, dice)
            if round_ in (2, 4):
                film.etag, film.body = f'"{round_}"', bytes_of(SIZE, round_)
                versions[film.etag] = film.body
                harness.edge.tiers.drop("ETEST/film")


def forget_some(harness: EdgeHarness, dice: random.Random) -> None:
    for key in list(harness.edge.memory._entries):
        if dice.random() < 0.5:
            harness.edge.memory.drop(key)
    for path in files_of(harness):
        if dice.random() < 0.5:
            path.unlink(missing_ok=True)


def files_of(harness: EdgeHarness) -> Iterator[Path]:
    if harness.edge.tiers.disk is not None:
        yield from harness.edge.tiers.disk.folder.glob("??/*")
