"""Slow and greedy viewers at an edge on a real port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keyfront.edge.http.timeouts import Limits
from keyfront.edge.limits.viewers import ViewerLimits
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.worker import within_open_files
from keyfront.edge.worker_settings import WorkerSettings
from keyfront.model.snapshot import Behavior, ErrorResponse, Origin, Snapshot
from tests.origin import Authority, ReceivedRequest, ScriptedOrigin, Wire, answer
from tests.sites import site
from tests.viewer import EdgeHarness, Viewer

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
HOST = b"Host: d.test\r\n"
BRIEF = Limits(head=0.4, idle=0.4, body=0.4, write=0.4, rate=1000)
PATIENT = Limits(head=60, idle=60, body=60, write=60)
WITHIN = 20.0


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as scripted:
        scripted.on("/a", answer(200, b"hello", {"Cache-Control": "max-age=600"}))
        scripted.on("/upload", answer(200, b"taken"))
        yield scripted


def open_site(origin: ScriptedOrigin, **members: object) -> Snapshot:
    return site(origin.origin(), Behavior("*", "scripted", allowed_methods=ALL), **members)


def edge_for(origin: ScriptedOrigin, limits: Limits = PATIENT, **viewers: int) -> EdgeHarness:
    settings = EdgeSettings(memory=1 << 22, max_object=1 << 20, viewers=ViewerLimits(**viewers))
    return EdgeHarness(open_site(origin), settings=settings, limits=limits)


async def gone(viewer: Viewer) -> bytes:
    """Everything until the edge ends the connection, by close or reset."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        return await asyncio.wait_for(viewer.at_end(), WITHIN)
    return b""


async def dripped(viewer: Viewer, data: bytes, pause: float = 0.02) -> None:
    """Send `data` repeatedly, until the connection fails."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while not viewer.writer.is_closing():
            viewer.writer.write(data)
            await viewer.writer.drain()
            await asyncio.sleep(pause)


async def let_go(edge: EdgeHarness, began: bytes, drip: bytes, limit: str) -> None:
    async with await edge.viewer() as viewer:
        await viewer.send(began)
        dripping = asyncio.create_task(dripped(viewer, drip))
        try:
            await gone(viewer)
        finally:
            dripping.cancel()
    assert edge.edge.reached.counts[limit] == 1
    await until(lambda: edge.edge.viewers.connections.total == 0)


# -- heads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("began", "drip"),
    [
        (b"", b"\r\n"),
        (b"", b"\n"),
        (b"", b"\r"),
        (b"\r\n", b"G"),
        (b"GET /a HTTP/1.1\r\n", b"X"),
        (b"GET /a HTTP/1.1\r\n" + HOST, b"X: y\r\n"),
        (b"G", b"E"),
        (b"GET /", b"a"),
        (b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n", b"\r\n"),
        (b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n", b"\r\nGET /a HTTP/1.1\r\nX:"),
    ],
)
async def test_a_slow_head_is_disconnected(origin: ScriptedOrigin, began: bytes, drip: bytes) -> None:
    async with edge_for(origin, BRIEF) as edge, await edge.viewer() as viewer:
        await viewer.send(began)
        dripping = asyncio.create_task(dripped(viewer, drip))
        try:
            await gone(viewer)
        finally:
            dripping.cancel()


@pytest.mark.parametrize("drip", [b"\r\n", b"\r", b"\n"])
async def test_blank_lines_count_as_a_slow_head(origin: ScriptedOrigin, drip: bytes) -> None:
    async with edge_for(origin, BRIEF) as edge:
        await let_go(edge, b"", drip, "slow_head")


async def test_blank_lines_without_end_are_too_large(origin: ScriptedOrigin) -> None:
    async with edge_for(origin) as edge, await edge.viewer() as viewer:
        await viewer.send(b"\r\n" * 15_000)
        assert (await viewer.answer()).status == 413


@pytest.mark.parametrize("blank", [b"\r\n", b"\r\n\r\n", b"\n"])
async def test_some_blank_lines_before_a_request_are_taken(origin: ScriptedOrigin, blank: bytes) -> None:
    """RFC 9112 §2.2: the connection continues as if they had not been sent."""
    async with edge_for(origin) as edge, await edge.viewer() as viewer:
        for _ in range(3):
            await viewer.send(blank)
            await viewer.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await viewer.answer()).body == b"hello"
            await viewer.send(blank + b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await viewer.answer()).body == b"hello"


async def test_a_request_after_a_blank_line_is_not_cut_later(origin: ScriptedOrigin) -> None:
    """The blank line's timer stops once the request has arrived."""
    limits = Limits(head=0.4, idle=30)
    async with edge_for(origin, limits) as edge, await edge.viewer() as viewer:
        await viewer.send(b"\r\n")
        for _ in range(6):
            await viewer.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await viewer.answer()).body == b"hello"
            await asyncio.sleep(0.2)


# -- uploads --------------------------------------------------------------------------------------------------


LONG = b"POST /upload HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n"
CHUNKED = b"POST /upload HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("began", "drip"),
    [
        (LONG, b"x"),
        (LONG + b"x" * 5000, b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"ffff\r\n", b"x"),
        (CHUNKED + b"1;a=", b"b"),  # a chunk extension is not part of the body
        (CHUNKED + b"0\r\n", b"X: y\r\n"),  # nor is a trailer
    ],
)
async def test_a_slow_upload_is_disconnected(origin: ScriptedOrigin, began: bytes, drip: bytes) -> None:
    async with edge_for(origin, BRIEF) as edge:
        await let_go(edge, began, drip, "slow_upload")
        record = await edge.recorded(1)
        assert (record["status"], record["reason"]) == (0, "slow_upload")


async def test_a_stopped_upload_is_disconnected(origin: ScriptedOrigin) -> None:
    async with edge_for(origin, BRIEF) as edge, await edge.viewer() as viewer:
        await viewer.send(LONG + b"x" * 70_000)
        await gone(viewer)
        assert (await edge.recorded(1))["reason"] == "stuck_upload"


async def test_an_upload_in_time_is_taken(origin: ScriptedOrigin) -> None:
    """20,000 bytes a second, where 1,000 are required in each window of 1.5 seconds."""
    limits = Limits(body=1.5, rate=1_000)
    async with edge_for(origin, limits) as edge, await edge.viewer() as viewer:
        await viewer.send(b"POST /upload HTTP/1.1\r\n" + HOST + b"Content-Length: 40000\r\n\r\n")
        for _ in range(20):
            await viewer.send(b"x" * 2000)
            await asyncio.sleep(0.1)
        assert (await viewer.answer()).body == b"taken"


async def test_time_that_the_origin_takes_is_not_the_viewer_s(origin: ScriptedOrigin) -> None:
    """The edge does not read from the viewer while the origin does not read; that is not a slow upload."""
    from tests.origin import LEAVE_BODY, READ_BODY

    gate = asyncio.Event()
    origin.on("/slow", [LEAVE_BODY, gate, READ_BODY, *answer(200, b"taken at last")])
    size = 30_000_000
    async with edge_for(origin, Limits(body=2.0)) as edge, await edge.viewer() as viewer:
        asyncio.get_running_loop().call_later(4.0, gate.set)
        sending = asyncio.create_task(
            viewer.send(
                b"POST /slow HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size
            )
        )
        assert (await asyncio.wait_for(viewer.answer(), WITHIN)).body == b"taken at last"
        await sending


def test_who_has_reset_an_upload_needs_no_goodbye() -> None:
    """The edge does not notice a reset by a viewer that it is not reading from: only closing its half reveals it. This
    runs on asyncio's own loop, which raises then."""

    async def story() -> None:
        async with EdgeHarness(site(Origin("o", "127.0.0.1"))) as edge:
            sock = socket.create_connection(("127.0.0.1", edge.port))
            await until(lambda: len(edge.listener.connections) == 1)
            connection = next(iter(edge.listener.connections))
            connection.pause_reading("body")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            connection._linger()
            await until(lambda: edge.edge.viewers.connections.total == 0)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(story())


# -- answers --------------------------------------------------------------------------------------------------


def narrow(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


async def reads(sock: socket.socket, size: int, pause: float) -> int:
    """Read that many bytes at a time until the edge closes the connection. Returns the number of bytes received."""
    loop = asyncio.get_running_loop()
    came = 0
    with contextlib.suppress(ConnectionResetError):
        while data := await loop.sock_recv(sock, size):
            came += len(data)
            await asyncio.sleep(pause)
    return came


BIG = 40_000_000


async def flood(_: ReceivedRequest, wire: Wire) -> None:
    for _step in range(BIG // 65536):
        await wire.send(b"x" * 65536)


@pytest.mark.parametrize(
    ("size", "pause", "tls"),
    [(1, 0.05, False), (0, 0.0, False), (0, 0.0, True)],
    ids=["drip", "never", "never-https"],
)
async def test_a_viewer_that_does_not_read_is_disconnected(
    origin: ScriptedOrigin, tmp_path: Path, size: int, pause: float, tls: bool
) -> None:
    origin.on("/big", [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG, flood])
    authority = Authority(tmp_path)
    snapshot = open_site(origin)
    limits = Limits(write=0.6, rate=5_000)
    async with EdgeHarness(snapshot, limits=limits, tls=authority.server("d.test") if tls else None) as edge:
        sock = narrow(edge.port)
        if tls:
            reader, writer = await asyncio.open_connection(
                sock=sock,
                ssl=ssl.create_default_context(cafile=authority.ca_file),
                server_hostname="d.test",
                limit=1024,
            )
            writer.write(b"GET /big HTTP/1.1\r\n" + HOST + b"\r\n")
            record = await asyncio.wait_for(edge.recorded(1), WITHIN)
            writer.transport.abort()
            del reader
        else:
            await asyncio.get_running_loop().sock_sendall(sock, b"GET /big HTTP/1.1\r\n" + HOST + b"\r\n")
            reading = asyncio.create_task(reads(sock, size, pause)) if size else None
            record = await asyncio.wait_for(edge.recorded(1), WITHIN)
            if reading is not None:
                reading.cancel()
            else:
                # It learns of the end without reading, and the kernel keeps nothing for it.
                with pytest.raises(OSError, match="reset"):
                    while not (error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                        await asyncio.sleep(0.01)
                    raise OSError(error, os.strerror(error))
            sock.close()
        assert record["reason"] in ("slow_reader", "stuck_reader")
        await asyncio.wait_for(origin.disconnected(1), WITHIN)


async def test_a_slow_reader_that_always_progresses_is_disconnected_too(origin: ScriptedOrigin) -> None:
    """It is never idle for as long as `write`, and still too slow: only the floor can detect it."""
    origin.on("/big", [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG, flood])
    limits = Limits(write=2.0, rate=200_000)
    async with EdgeHarness(open_site(origin), limits=limits) as edge:
        sock = narrow(edge.port)
        await asyncio.get_running_loop().sock_sendall(sock, b"GET /big HTTP/1.1\r\n" + HOST + b"\r\n")
        reading = asyncio.create_task(reads(sock, 2048, 0.05))  # about 40 KB a second
        record = await asyncio.wait_for(edge.recorded(1), WITHIN)
        assert record["reason"] == "slow_reader"
        assert edge.edge.reached.counts == {"slow_reader": 1}
        reading.cancel()
        sock.close()


async def test_a_slow_reader_above_the_floor_gets_everything(origin: ScriptedOrigin) -> None:
    size = 250_000
    origin.on("/some", answer(200, b"x" * size, {"Cache-Control": "no-store"}))
    async with EdgeHarness(open_site(origin), limits=Limits(write=1.5, rate=1_000)) as edge:
        sock = narrow(edge.port)
        request = b"GET /some HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(sock, request)
        assert await asyncio.wait_for(reads(sock, 8192, 0.04), WITHIN) > size
        sock.close()


# -- how many -------------------------------------------------------------------------------------------------


async def test_a_viewer_is_idle_only_after_its_answer(origin: ScriptedOrigin) -> None:
    """Long polling, or a large response to a slow phone: it may take longer than a connection may be idle."""

    async def late(_: ReceivedRequest, wire: Wire) -> None:
        await asyncio.sleep(3.0)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    origin.on("/poll", [late])
    async with edge_for(origin, Limits(idle=2.0)) as edge, await edge.viewer() as viewer:
        for _ in range(2):
            await viewer.send(b"GET /poll HTTP/1.1\r\n" + HOST + b"Cache-Control: no-cache\r\n\r\n")
            assert (await asyncio.wait_for(viewer.answer(), WITHIN)).body == b"late"
            await asyncio.sleep(0.8)  # a pause, during which the edge has checked for idle connections
        await viewer.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await asyncio.wait_for(viewer.answer(), WITHIN)).body == b"hello"
        assert await gone(viewer) == b""  # and then it is idle


async def refused_at_once(edge: EdgeHarness) -> bool:
    """Whether one more connection is closed without a response."""
    viewer = await edge.viewer()
    async with viewer:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await viewer.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
        return await gone(viewer) == b""


@pytest.mark.parametrize(
    ("viewers", "limit"),
    [({"connections_per_address": 3}, "connections_per_address"), ({"connections": 3}, "connections")],
)
async def test_connections(origin: ScriptedOrigin, viewers: dict[str, Any], limit: str) -> None:
    async with edge_for(origin, **viewers) as edge, contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(await edge.viewer()) for _ in range(3)]
        for viewer in held:
            assert (await viewer.ask("/a", "d.test")).body == b"hello"
        assert await refused_at_once(edge)
        assert edge.edge.reached.counts[limit] == 1
        assert edge.edge.viewers.connections.total == 3
        held[0].writer.close()
        await held[0].writer.wait_closed()
        await until(lambda: edge.edge.viewers.connections.total == 2)
        assert (await edge.get("/a")).body == b"hello"


async def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < ends, "it did not become true in time"
        await asyncio.sleep(0.01)


async def test_handshakes_are_connections_and_come_to_an_end(origin: ScriptedOrigin, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    settings = EdgeSettings(memory=1 << 22, viewers=ViewerLimits(connections_per_address=3))
    async with EdgeHarness(
        open_site(origin), settings=settings, limits=Limits(head=3.0), tls=authority.server("d.test")
    ) as edge:
        slow = [await asyncio.open_connection("127.0.0.1", edge.port) for _ in range(3)]
        await until(lambda: edge.edge.viewers.connections.total == 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), WITHIN) == b""
        writer.close()
        assert edge.edge.reached.counts["connections_per_address"] == 1
        await until(lambda: edge.edge.viewers.connections.total == 0)
        assert edge.edge.reached.counts["slow_handshake"] == 3
        for _, writer in slow:
            writer.close()
        async with await edge.viewer(
            ssl=ssl.create_default_context(cafile=authority.ca_file), server_hostname="d.test"
        ) as viewer:
            assert (await viewer.ask("/a", "d.test")).body == b"hello"
            assert edge.edge.viewers.connections.total == 1
        await until(lambda: edge.edge.viewers.connections.total == 0)


async def test_a_trusted_proxy_brings_many_viewers(origin: ScriptedOrigin) -> None:
    settings = EdgeSettings(
        memory=1 << 22,
        viewers=ViewerLimits(connections=8, connections_per_address=2, requests_per_address=1),
    )
    gate = asyncio.Event()
    for number in range(5):
        origin.on(f"/wait{number}", [gate, *answer(200, b"done", {"Cache-Control": "no-store"})])
    async with (
        EdgeHarness(open_site(origin), settings=settings, limits=PATIENT, trusted=("127.0.0.1",)) as edge,
        contextlib.AsyncExitStack() as stack,
    ):
        held = [await stack.enter_async_context(await edge.viewer()) for _ in range(5)]
        for number, viewer in enumerate(held[:3]):
            await viewer.send(
                b"GET /wait%d HTTP/1.1\r\n" % number + HOST + b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % number
            )
        await origin.received(3)
        seen = await held[3].ask("/wait3", "d.test", [("X-Forwarded-For", "192.0.2.1")])
        assert (seen.status, seen.x_cache) == (503, "LimitExceeded")
        gate.set()
        assert [(await viewer.answer()).status for viewer in held[:3]] == [200, 200, 200]
        seen = await held[4].ask("/wait4", "d.test", [("X-Forwarded-For", "192.0.2.1")])
        assert seen.status == 200


@pytest.mark.parametrize("chain", [b"", b"X-Forwarded-For: 127.0.0.1\r\n", b"X-Forwarded-For: unknown\r\n"])
async def test_a_trusted_proxy_that_names_no_viewer_is_not_one(origin: ScriptedOrigin, chain: bytes) -> None:
    """A TCP load balancer, or its health checks: many viewers, none of them identifiable."""
    gate = asyncio.Event()
    for number in range(3):
        origin.on(f"/wait{number}", [gate, *answer(200, b"done", {"Cache-Control": "no-store"})])
    settings = EdgeSettings(memory=1 << 22, viewers=ViewerLimits(requests=2, requests_per_address=1))
    async with (
        EdgeHarness(open_site(origin), settings=settings, limits=PATIENT, trusted=("127.0.0.1",)) as edge,
        contextlib.AsyncExitStack() as stack,
    ):
        held = [await stack.enter_async_context(await edge.viewer()) for _ in range(3)]
        for number, viewer in enumerate(held[:2]):
            await viewer.send(b"GET /wait%d HTTP/1.1\r\n" % number + HOST + chain + b"\r\n")
        await origin.received(2)
        assert (await held[2].ask("/wait2", "d.test")).status == 503  # in total
        gate.set()
        assert [(await viewer.answer()).status for viewer in held[:2]] == [200, 200]
        assert edge.edge.viewers.requests.total == 0


@pytest.mark.parametrize(
    ("viewers", "limit"),
    [({"requests": 2}, "requests"), ({"requests_per_address": 2}, "requests_per_address")],
)
async def test_requests(origin: ScriptedOrigin, viewers: dict[str, Any], limit: str) -> None:
    gate = asyncio.Event()
    for number in range(5):
        origin.on(f"/wait{number}", [gate, *answer(200, b"done", {"Cache-Control": "no-store"})])
    async with edge_for(origin, **viewers) as edge:
        assert (await edge.get("/a")).body == b"hello"
        waiting = [asyncio.create_task(edge.get(f"/wait{number}")) for number in range(2)]
        await origin.received(3)
        seen = await edge.get("/wait2")
        assert (seen.status, seen.x_cache) == (503, "LimitExceeded")
        assert b"too many requests" in seen.body
        record = edge.records[-1]
        assert (record["result"], record["detail"], record["reason"]) == (
            "LimitExceeded",
            "LimitExceeded",
            limit,
        )
        assert (await edge.get("/a")).x_cache == "Hit"  # memory is not what is scarce
        gate.set()
        assert [seen.status for seen in await asyncio.gather(*waiting)] == [200, 200]
        assert (await edge.get("/wait3")).status == 200
        assert edge.edge.viewers.requests.total == 0
        assert edge.edge.reached.counts == {limit: 1}


async def test_no_custom_page_stands_in_for_a_limit(origin: ScriptedOrigin) -> None:
    """cloudfront-semantics §5.6."""
    gate = asyncio.Event()
    origin.on("/wait", [gate, *answer(200, b"done")])
    origin.on("/503.html", answer(200, b"a page of the site's"))
    settings = EdgeSettings(memory=1 << 22, viewers=ViewerLimits(requests=1))
    snapshot = open_site(origin, error_responses=(ErrorResponse(503, 10, "/503.html", 503),))
    async with EdgeHarness(snapshot, settings=settings) as edge:
        waiting = asyncio.create_task(edge.get("/wait"))
        await origin.received(1)
        assert b"too many requests" in (await edge.get("/other")).body
        gate.set()
        await waiting


async def test_who_leaves_is_not_counted_any_more(origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    for number in range(3):
        origin.on(f"/wait{number}", [gate, *answer(200, b"done")])
    async with edge_for(origin) as edge:
        for number in range(3):
            async with await edge.viewer() as viewer:
                await viewer.send(b"GET /wait%d HTTP/1.1\r\n" % number + HOST + b"\r\n")
                await origin.received(number + 1)
                linger = struct.pack("ii", 1, 0)
                sock = viewer.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await until(lambda: edge.edge.viewers.connections.total == 0)
        await until(lambda: edge.edge.viewers.requests.total == 0)
        assert edge.edge.viewers.requests.addresses == 0
        gate.set()


async def test_where_connections_run_out_idle_ones_make_room(
    origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyfront.edge.http.timeouts.PRESSED_IDLE", 1.0)
    async with edge_for(origin, Limits(idle=300, head=4), connections=10) as edge:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(8):
                viewer = await stack.enter_async_context(await edge.viewer())
                assert (await viewer.ask("/a", "d.test")).body == b"hello"
            await asyncio.sleep(1.5)
            assert edge.edge.viewers.connections.total == 8
            viewer = await stack.enter_async_context(await edge.viewer())
            assert (await viewer.ask("/a", "d.test")).body == b"hello"
            await until(lambda: edge.edge.viewers.connections.total < 9)


async def test_slow_viewers_do_not_keep_others_out(origin: ScriptedOrigin) -> None:
    """Heads, blank lines, uploads and responses that all trickle at once, while another viewer is served."""
    origin.on("/big", [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG, flood])
    limits = Limits(head=1.0, body=1.0, write=1.0, rate=1_000)
    async with edge_for(origin, limits) as edge, contextlib.AsyncExitStack() as stack:
        drips: list[Awaitable[None]] = []
        for _ in range(10):
            for began, drip in ((b"", b"\r\n"), (b"GET /", b"a"), (LONG, b"x"), (CHUNKED, b"1\r\nx\r\n")):
                viewer = await stack.enter_async_context(await edge.viewer())
                await viewer.send(began)
                drips.append(asyncio.create_task(dripped(viewer, drip)))
        for _ in range(20):
            assert (await edge.get("/a")).body == b"hello"
        await until(lambda: edge.edge.viewers.connections.total == 0)
        await asyncio.gather(*drips)
        counts = edge.edge.reached.counts
        assert (counts["slow_head"], counts["slow_upload"]) == (20, 20)
        assert edge.edge.viewers.requests.total == 0


# -- open files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "asked", "taken"),
    [(1024, 10_000, 768), (1024, 500, 500), (1 << 20, 10_000, 10_000), (1024, 0, 768), (-1, 10_000, 10_000)],
)
def test_no_more_connections_than_files(files: int, asked: int, taken: int, caplog: Any) -> None:
    settings = WorkerSettings("", "edge-1", "127.0.0.1", 0)
    viewers = ViewerLimits(connections=asked)
    settings = msgspec.structs.replace(settings, edge=msgspec.structs.replace(settings.edge, viewers=viewers))
    assert within_open_files(settings, files).edge.viewers.connections == taken
    assert ("ulimit" in caplog.text) is (0 < taken < asked)
