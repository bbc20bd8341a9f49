"""Limits on an edge's concurrent requests to origins: turns, breakers, and uploads that hold no connection."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from keyfront.edge.http.timeouts import Limits
from keyfront.edge.limits.origins import OriginLimits
from keyfront.edge.limits.uploads import UploadLimits
from keyfront.edge.origin.client import Origins
from keyfront.edge.origin.request import OriginRequest
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.errors import OriginFailure
from keyfront.model.snapshot import Behavior, ErrorResponse, Origin, OriginGroup, Snapshot
from tests.origin import LEAVE_BODY, RESET, Authority, ScriptedOrigin, answer, closed_port
from tests.sites import site
from tests.viewer import Clock, EdgeHarness, Viewer

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
HOST = b"Host: d.test\r\n"
WITHIN = 20.0
UNCACHED = {"Cache-Control": "no-store"}


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as scripted:
        yield scripted


def settings_of(**given: Any) -> EdgeSettings:
    return EdgeSettings(
        memory=1 << 22,
        max_object=1 << 20,
        origins=OriginLimits(**given.pop("origins", {})),
        uploads=UploadLimits(**given.pop("uploads", {})),
        **given,
    )


def open_site(origin: Origin, **members: Any) -> Snapshot:
    return site(origin, Behavior("*", origin.id, allowed_methods=ALL), **members)


async def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < ends, "it did not become true in time"
        await asyncio.sleep(0.01)


async def fetched(origins: Origins, origin: Origin, target: str = "/", method: str = "GET") -> Any:
    reply = await origins.fetch(origin, OriginRequest("http", method, target, [(b"host", b"o.example")]))
    return b"".join([chunk async for chunk in reply.body])


# -- turns ----------------------------------------------------------------------------------------------------


async def test_no_more_connections_than_turns(origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    origin.on("/", [gate, *answer(200, b"done")])
    origins = Origins(limits=OriginLimits(connections=2, queue=10, queue_timeout=30))
    try:
        asked = [asyncio.create_task(fetched(origins, origin.origin())) for _ in range(6)]
        await origin.received(2)
        await until(lambda: origins.load == (2, 4, 0))
        assert origin.connections == 2
        gate.set()
        assert await asyncio.gather(*asked) == [b"done"] * 6
        assert origins.load == (0, 0, 0)
        assert origin.connections == 2
    finally:
        await origins.aclose()


async def test_a_turn_lasts_as_long_as_the_answer(origin: ScriptedOrigin) -> None:
    """Not only until its head arrives."""
    gate = asyncio.Event()
    origin.on("/", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", gate, b"cd"])
    origins = Origins(limits=OriginLimits(connections=1, queue=0))
    try:
        reply = await origins.fetch(origin.origin(), OriginRequest("http", "GET", "/", [(b"host", b"o")]))
        with pytest.raises(OriginFailure) as refused:
            await fetched(origins, origin.origin())
        assert (refused.value.status, refused.value.reason) == (503, "origin_busy")
        gate.set()
        assert b"".join([chunk async for chunk in reply.body]) == b"abcd"
        assert origins.load == (0, 0, 0)
    finally:
        await origins.aclose()


@pytest.mark.parametrize(
    "script",
    [
        answer(200, b"done"),
        answer(200, b"done", close=True),
        answer(200, chunks=[b"do", b"ne"]),
        answer(204),
        answer(404, b"no"),
        [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo", RESET],
        [RESET],
        [b"nonsense\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n\r\nto the end", RESET],
    ],
)
async def test_every_end_of_an_answer_gives_the_turn_back(origin: ScriptedOrigin, script: Any) -> None:
    origin.on("/", script)
    origins = Origins(limits=OriginLimits(connections=1, queue=0))
    try:
        for _ in range(3):
            with contextlib.suppress(OriginFailure):
                await fetched(origins, origin.origin())
            await until(lambda: origins.load[0] == 0)
    finally:
        await origins.aclose()


async def test_who_gives_up_gives_the_turn_back(origin: ScriptedOrigin) -> None:
    """While waiting for a turn, while waiting for the response, and in the middle of it."""
    origin.on("/", [b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\nab", asyncio.Event()])
    origin.on("/never", [asyncio.Event()])
    origins = Origins(limits=OriginLimits(connections=1, queue=5))
    try:
        reply = await origins.fetch(origin.origin(), OriginRequest("http", "GET", "/", [(b"host", b"o")]))
        waiting = asyncio.create_task(fetched(origins, origin.origin()))
        await until(lambda: origins.load == (1, 1, 0))
        waiting.cancel()
        await until(lambda: origins.load == (1, 0, 0))
        await reply.aclose()
        await until(lambda: origins.load == (0, 0, 0))
        asked = asyncio.create_task(fetched(origins, origin.origin(), "/never"))
        await origin.received(2)
        asked.cancel()
        await until(lambda: origins.load == (0, 0, 0))
    finally:
        await origins.aclose()


async def test_a_failed_connection_gives_the_turn_back() -> None:
    nobody = Origin("o", "127.0.0.1", http_port=closed_port(), connection_attempts=1)
    origins = Origins(limits=OriginLimits(connections=1, queue=0, failures=0))
    try:
        for _ in range(3):
            with pytest.raises(OriginFailure, match="OriginConnectError"):
                await fetched(origins, nobody)
        assert origins.load == (0, 0, 0)
    finally:
        await origins.aclose()


async def test_the_queue_has_an_end_in_length_and_in_time(origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    for number in (1, 2, 3):
        origin.on(f"/wait{number}", [gate, *answer(200, b"done", UNCACHED)])
    settings = settings_of(origins={"connections": 1, "queue": 1, "queue_timeout": 0.5})
    snapshot = open_site(origin.origin(), error_responses=(ErrorResponse(503, 10, "/page.html", 200),))
    async with EdgeHarness(snapshot, settings=settings) as harness:
        first = asyncio.create_task(harness.get("/wait1"))
        await origin.received(1)
        queued = asyncio.create_task(harness.get("/wait2"))
        await until(lambda: harness.edge.fetcher.origins.load == (1, 1, 0))
        crowded = await harness.get("/wait3")
        assert (crowded.status, crowded.x_cache) == (503, "LimitExceeded")
        late = await queued
        assert (late.status, late.x_cache) == (503, "LimitExceeded")
        record = await harness.recorded(2)
        assert record["reason"] == "origin_busy"
        assert "127.0.0.1" in record["explanation"]
        assert harness.edge.reached.counts == {"origin_busy": 2}
        gate.set()
        assert (await first).body == b"done"
        assert (await harness.get("/wait2")).body == b"done"  # a full queue is not remembered


async def test_origins_do_not_wait_for_each_other(origin: ScriptedOrigin) -> None:
    origin.on("/", [asyncio.Event()])
    async with ScriptedOrigin() as other:
        other.on("/", answer(200, b"done"))
        origins = Origins(limits=OriginLimits(connections=1, queue=0))
        try:
            stuck = asyncio.create_task(fetched(origins, origin.origin()))
            await origin.received(1)
            assert await fetched(origins, other.origin()) == b"done"
            stuck.cancel()
        finally:
            await origins.aclose()


# -- breakers -------------------------------------------------------------------------------------------------


def held_port() -> tuple[socket.socket, int]:
    """A port on which nothing listens until `listen` is called."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock, sock.getsockname()[1]


async def test_an_origin_that_is_down_gets_no_requests_and_recovers() -> None:
    sock, port = held_port()
    down = Origin("o", "127.0.0.1", http_port=port, connection_attempts=1)
    origins = Origins(limits=OriginLimits(failures=3, pause=1.0))
    try:
        seen = []
        for _ in range(5):
            with pytest.raises(OriginFailure) as failed:
                await fetched(origins, down)
            assert (failed.value.kind, failed.value.status) == ("OriginConnectError", 502)
            seen.append(failed.value.reason)
        assert seen == ["", "", "", "origin_circuit_open", "origin_circuit_open"]
        assert "refused" in failed.value.detail.lower()
        assert origins.load == (0, 0, 1)
        assert origins.reached.counts == {"origin_circuit_opened": 1, "origin_circuit_open": 2}

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback")
            writer.close()

        server = await asyncio.start_server(serve, sock=sock)
        got = None
        ends = time.monotonic() + WITHIN
        while got is None and time.monotonic() < ends:
            with contextlib.suppress(OriginFailure):
                got = await fetched(origins, down)
            await asyncio.sleep(0.02)
        assert got == b"back"
        assert origins.load == (0, 0, 0)
        server.close()
    finally:
        await origins.aclose()
        sock.close()


async def test_connection_attempts_are_failures_each() -> None:
    down = Origin("o", "127.0.0.1", http_port=closed_port(), connection_attempts=3)
    origins = Origins(limits=OriginLimits(failures=3, pause=60.0))
    try:
        seen = []
        for _ in range(2):
            with pytest.raises(OriginFailure) as failed:
                await fetched(origins, down)
            seen.append(failed.value.reason)
        assert seen == ["", "origin_circuit_open"]
    finally:
        await origins.aclose()


@pytest.mark.parametrize("websocket", [False, True])
async def test_a_request_that_opens_the_circuit_breaker_reports_its_own_failure(websocket: bool) -> None:
    """It counts as a failure like any other, and so is remembered for its key."""
    down = Origin("o", "127.0.0.1", http_port=closed_port(), connection_attempts=3)
    origins = Origins(limits=OriginLimits(failures=2, pause=60.0))
    try:
        with pytest.raises(OriginFailure) as failed:
            if websocket:
                await origins.open_websocket(down, "http", "/", [(b"host", b"o")], b"key")
            else:
                await fetched(origins, down)
        assert (failed.value.kind, failed.value.reason) == ("OriginConnectError", "")
        assert origins.reached.counts["origin_circuit_open"] == 1
    finally:
        await origins.aclose()


async def test_answers_are_no_failures_of_connections(origin: ScriptedOrigin) -> None:
    """Neither 500s nor broken responses open it: the origin is reachable."""
    origin.on("/", answer(500, b"no"))
    origin.on("/reset", [RESET])
    origins = Origins(limits=OriginLimits(failures=1, pause=60.0))
    try:
        for _ in range(3):
            assert await fetched(origins, origin.origin()) == b"no"
            with pytest.raises(OriginFailure):
                await fetched(origins, origin.origin(), "/reset")
        assert origins.load == (0, 0, 0)
    finally:
        await origins.aclose()


async def test_an_address_that_is_refused_opens_nothing() -> None:
    from keyfront.edge.origin.egress import Egress

    origins = Origins(limits=OriginLimits(failures=1, pause=60.0), egress=Egress())
    try:
        for _ in range(3):
            with pytest.raises(OriginFailure) as failed:
                await fetched(origins, Origin("o", "169.254.169.254"))
            assert failed.value.reason == "origin_address_refused"
    finally:
        await origins.aclose()


async def test_a_server_name_that_a_viewer_chose_opens_nothing(tmp_path: Path) -> None:
    """A forwarded Host is also used for SNI. An origin that aborts handshakes for unknown names is still available to
    every viewer that requests a name it knows."""
    authority = Authority(tmp_path)
    server = authority.server("localhost", "www.example.com")

    def known(_: Any, name: str | None, __: Any) -> int | None:
        known_names = ("localhost", "www.example.com")
        return None if name in known_names else int(ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)

    server.sni_callback = known
    origins = Origins(ca_file=authority.ca_file, limits=OriginLimits(failures=2, pause=60.0))
    try:
        async with ScriptedOrigin(tls=server) as origin:
            origin.on("/", answer(200, b"inside", close=True))
            named = origin.origin(domain_name="localhost", connection_attempts=1)
            for round_ in range(4):
                with pytest.raises(OriginFailure) as failed:
                    host = b"no-%d.example.com" % round_
                    await origins.fetch(named, OriginRequest("https", "GET", "/", [(b"host", host)]))
                assert (failed.value.kind, failed.value.reason) == ("OriginConnectError", "")
            for host in (b"www.example.com", b"localhost"):
                reply = await origins.fetch(named, OriginRequest("https", "GET", "/", [(b"host", host)]))
                assert reply.whole == b"inside"
            assert origins.reached.counts == {}
    finally:
        await origins.aclose()


async def test_a_shortage_of_this_machine_opens_nothing(origin: ScriptedOrigin) -> None:
    origin.on("/", answer(200, b"done", close=True))
    origins = Origins(limits=OriginLimits(failures=1, pause=60.0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert await fetched(origins, origin.origin()) == b"done"
        with socket.socket() as free:
            lowest = free.fileno()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            with pytest.raises(OriginFailure) as failed:
                await fetched(origins, origin.origin(connection_attempts=1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "EMFILE" in failed.value.detail
        assert await fetched(origins, origin.origin()) == b"done"
        assert origins.reached.counts == {}
    finally:
        await origins.aclose()


async def test_unresolvable_names_do_not_block_others(
    origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.on("/", answer(200, b"done"))
    real = socket.getaddrinfo
    over = threading.Event()

    def resolve(host: str, *given: Any, **named: Any) -> Any:
        if host.endswith(".invalid"):
            over.wait(WITHIN)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return real(host, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    origins = Origins()
    try:
        stuck = [
            asyncio.create_task(fetched(origins, Origin(f"o{n}", f"o{n}.invalid", connection_timeout=WITHIN)))
            for n in range(40)
        ]
        await asyncio.sleep(0)
        assert await fetched(origins, origin.origin(domain_name="localhost")) == b"done"
        assert not any(each.done() for each in stuck)
    finally:
        over.set()
        await asyncio.gather(*stuck, return_exceptions=True)
        await origins.aclose()


async def test_a_group_fails_over_at_once_while_the_first_is_down(origin: ScriptedOrigin) -> None:
    origin.on("/", answer(200, b"second", UNCACHED))
    first = Origin("first", "127.0.0.1", http_port=closed_port(), protocol_policy="http-only")
    snapshot = site(
        first,
        Behavior("*", "group"),
        more_origins=(origin.origin(),),
        origin_groups=(OriginGroup("group", ("first", "scripted"), (502,)),),
    )
    settings = settings_of(origins={"failures": 2, "pause": 60.0})
    async with EdgeHarness(snapshot, settings=settings) as harness:
        for _ in range(4):
            assert (await harness.get("/")).body == b"second"
        assert harness.edge.reached.counts["origin_circuit_open"] >= 3


async def test_stale_content_is_served_while_the_origin_is_down() -> None:
    clock = Clock()
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"kept", {"Cache-Control": "max-age=10, stale-if-error=1000"}))
        settings = settings_of(origins={"failures": 1, "pause": 60.0})
        async with EdgeHarness(
            open_site(origin.origin(connection_attempts=1)), settings=settings, clock=clock
        ) as harness:
            assert (await harness.get("/a")).body == b"kept"
            await origin.stop()
            await until(
                lambda: not any(pool.idle for pool in harness.edge.fetcher.origins.pools.by_key.values())
            )
            assert (await harness.get("/b")).status == 502
            clock.forward(30)
            assert (await harness.get("/c")).status == 502
            assert harness.edge.reached.counts["origin_circuit_open"] == 1
            seen = await harness.get("/a")
            assert (seen.status, seen.body) == (200, b"kept")
            record = next(each for each in harness.records if each["path"] == "/c")
            assert record["reason"] == "origin_circuit_open"


# -- uploads --------------------------------------------------------------------------------------------------


async def posted(viewer: Viewer, body: bytes, pieces: int, *, chunked: bool = False) -> None:
    """Send a body in that many pieces."""
    step = -(-len(body) // pieces)
    for first in range(0, len(body), step):
        piece = body[first : first + step]
        await viewer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        await asyncio.sleep(0.01)
    if chunked:
        await viewer.send(b"0\r\n\r\n")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_small_upload_holds_no_connection(origin: ScriptedOrigin, chunked: bool) -> None:
    origin.on("/up", answer(200, b"taken"))
    framing = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 3000\r\n\r\n"
    async with EdgeHarness(open_site(origin.origin())) as harness, await harness.viewer() as viewer:
        await viewer.send(b"POST /up HTTP/1.1\r\n" + HOST + framing)
        await viewer.send(b"5dc\r\n" + b"x" * 1500 + b"\r\n" if chunked else b"x" * 1500)
        await until(lambda: harness.edge.upload_memory.used == 1500)
        assert origin.connections == 0
        await posted(viewer, b"y" * 1500, 3, chunked=chunked)
        assert (await viewer.answer()).body == b"taken"
        assert origin.requests[0].body == b"x" * 1500 + b"y" * 1500
        assert origin.requests[0].header("content-length" if not chunked else "transfer-encoding") is not None
        assert harness.edge.upload_memory.used == 0
        assert origin.faults == []


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_large_upload_is_streamed(origin: ScriptedOrigin, chunked: bool) -> None:
    origin.on("/up", answer(200, b"taken"))
    body = bytes(range(256)) * 1200
    framing = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n" % len(body)
    async with EdgeHarness(open_site(origin.origin())) as harness, await harness.viewer() as viewer:
        await viewer.send(b"POST /up HTTP/1.1\r\n" + HOST + framing)
        half = body[: len(body) // 2]
        await viewer.send(b"%x\r\n%b\r\n" % (len(half), half) if chunked else half)
        await origin.connected(1)
        await posted(viewer, body[len(half) :], 5, chunked=chunked)
        assert (await viewer.answer()).body == b"taken"
        assert origin.requests[0].body == body
        assert harness.edge.upload_memory.used == 0
        assert origin.faults == []


async def test_where_memory_is_used_up_uploads_go_as_they_come(origin: ScriptedOrigin) -> None:
    origin.on("/up", answer(200, b"taken"))
    settings = settings_of(uploads={"buffer": 2000, "memory": 3000})
    head = b"POST /up HTTP/1.1\r\n" + HOST + b"Content-Length: 2000\r\n\r\n"
    async with (
        EdgeHarness(open_site(origin.origin()), settings=settings) as harness,
        contextlib.AsyncExitStack() as stack,
    ):
        first = await stack.enter_async_context(await harness.viewer())
        second = await stack.enter_async_context(await harness.viewer())
        await first.send(head + b"a" * 1900)
        await until(lambda: harness.edge.upload_memory.used == 1900)
        assert origin.connections == 0
        await second.send(head + b"b" * 1500)
        await origin.connected(1)
        assert harness.edge.reached.counts == {"upload_memory": 1}
        await second.send(b"b" * 500)
        assert (await second.answer()).body == b"taken"
        await first.send(b"a" * 100)
        assert (await first.answer()).body == b"taken"
        assert [request.body for request in origin.requests] == [b"b" * 2000, b"a" * 2000]
        assert harness.edge.upload_memory.used == 0


async def test_no_buffer(origin: ScriptedOrigin) -> None:
    origin.on("/up", answer(200, b"taken"))
    settings = settings_of(uploads={"buffer": 0})
    async with (
        EdgeHarness(open_site(origin.origin()), settings=settings) as harness,
        await harness.viewer() as viewer,
    ):
        await viewer.send(b"POST /up HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\nab")
        await origin.connected(1)
        await viewer.send(b"cd")
        assert (await viewer.answer()).body == b"taken"


async def test_a_viewer_that_expects_100_continue_gets_it(origin: ScriptedOrigin) -> None:
    origin.on("/up", answer(200, b"taken"))
    async with EdgeHarness(open_site(origin.origin())) as harness, await harness.viewer() as viewer:
        await viewer.send(
            b"POST /up HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
        assert await viewer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert origin.connections == 0
        await viewer.send(b"hello")
        assert (await viewer.answer()).body == b"taken"
        assert origin.requests[0].body == b"hello"


async def test_a_refusal_replaces_100_continue(origin: ScriptedOrigin) -> None:
    async with EdgeHarness(site(origin.origin())) as harness, await harness.viewer() as viewer:
        await viewer.send(
            b"POST /up HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
        assert (await viewer.answer()).status == 403


async def test_who_leaves_in_the_middle_frees_the_memory(origin: ScriptedOrigin) -> None:
    async with EdgeHarness(open_site(origin.origin())) as harness, await harness.viewer() as viewer:
        await viewer.send(b"POST /up HTTP/1.1\r\n" + HOST + b"Content-Length: 3000\r\n\r\n" + b"x" * 1000)
        await until(lambda: harness.edge.upload_memory.used == 1000)
        viewer.writer.transport.abort()
        await until(lambda: harness.edge.upload_memory.used == 0)
        record = await harness.recorded(1)
        assert record["detail"] == "ClientHungUpRequest"
        assert origin.connections == 0


async def test_slow_uploads_leave_the_origin_to_others(origin: ScriptedOrigin) -> None:
    """Twenty stalled uploads, in front of an origin that takes two connections."""
    origin.on("/up", answer(200, b"taken"))
    origin.on("/a", answer(200, b"hello", UNCACHED))
    settings = settings_of(origins={"connections": 2, "queue": 4})
    async with (
        EdgeHarness(open_site(origin.origin()), settings=settings, limits=Limits()) as harness,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(20):
            viewer = await stack.enter_async_context(await harness.viewer())
            await viewer.send(b"POST /up HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\nx")
        await until(lambda: harness.edge.upload_memory.used == 20)
        for _ in range(5):
            assert (await harness.get("/a")).body == b"hello"
        assert harness.edge.fetcher.origins.load == (0, 0, 0)


async def test_an_early_answer_to_a_large_upload_is_passed_on(origin: ScriptedOrigin) -> None:
    origin.on("/up", [LEAVE_BODY, *answer(413, b"too much", close=True)])
    async with EdgeHarness(open_site(origin.origin())) as harness, await harness.viewer() as viewer:
        await viewer.send(
            b"POST /up HTTP/1.1\r\n" + HOST + b"Content-Length: 10000000\r\n\r\n" + b"x" * 100_000
        )
        assert (await viewer.answer()).status == 413
        await until(lambda: harness.edge.fetcher.origins.load == (0, 0, 0))
