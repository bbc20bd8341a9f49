"""A viewer's connection over HTTP/2: limits, floods, and ends. Without TLS, which `test_http2.py` adds."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest

from keyfront.edge.http.http2_connection import Http2Connection
from keyfront.edge.http.http2_session import BUDGET, PING, frame
from keyfront.edge.http.listener import Listener
from keyfront.edge.http.timeouts import Limits
from keyfront.edge.limits.viewers import ViewerLimits
from keyfront.edge.serving.fast_path import Caller
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior
from tests.origin import ReceivedRequest, ScriptedOrigin, Wire, answer
from tests.sites import site
from tests.viewer import EdgeHarness

METHODS = ("GET", "HEAD", "POST")
PATIENCE = 8.0


class Peer:
    """An HTTP/2 client on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.events: list[h2.events.Event] = []

    async def start(self) -> None:
        self.state.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        self.writer.write(self.state.data_to_send())
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def ask(
        self, path: str, *fields: tuple[bytes, bytes], method: bytes = b"GET", ended: bool = True
    ) -> int:
        stream = self.state.get_next_available_stream_id()
        pseudo = [
            (b":method", method),
            (b":scheme", b"https"),
            (b":authority", b"d.test"),
            (b":path", path.encode()),
        ]
        self.state.send_headers(stream, [*pseudo, *fields], end_stream=ended)
        await self.flush()
        return stream

    async def until(self, wanted: Callable[[Any], bool], *, reads: bool = True) -> Any:
        """The first event that is wanted. `reads`: whether bodies free the windows again."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for event in self.events:
                    if wanted(event):
                        return event
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError(f"closed after {self.events}")
                for event in self.state.receive_data(data):
                    self.events.append(event)
                    if reads and isinstance(event, h2.events.DataReceived):
                        self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                await self.flush()

    async def answered(self, stream: int) -> tuple[int, bytes]:
        """The status and body of a response that is complete."""
        await self.until(lambda e: isinstance(e, h2.events.StreamEnded) and e.stream_id == stream)
        (status,) = (
            int(dict(e.headers)[b":status"])
            for e in self.events
            if isinstance(e, h2.events.ResponseReceived) and e.stream_id == stream
        )
        parts = [
            e.data for e in self.events if isinstance(e, h2.events.DataReceived) and e.stream_id == stream
        ]
        return status, b"".join(parts)

    async def closed(self) -> h2.events.ConnectionTerminated | None:
        """The end of the connection, and the GOAWAY before it, if there was one."""
        with contextlib.suppress(EOFError, ConnectionError):
            await self.until(lambda _: False)
        found = [e for e in self.events if isinstance(e, h2.events.ConnectionTerminated)]
        return found[-1] if found else None


class Site:
    def __init__(self, harness: EdgeHarness, listener: Listener, server: asyncio.Server) -> None:
        self.harness = harness
        self.listener = listener
        self.port = server.sockets[0].getsockname()[1]
        self.peers: list[Peer] = []

    async def connect(self) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self.peers.append(peer)
        await peer.start()
        return peer


@contextlib.asynccontextmanager
async def serving(
    origin: ScriptedOrigin, limits: Limits | None = None, viewers: ViewerLimits | None = None
) -> AsyncIterator[Site]:
    settings = EdgeSettings(memory=1 << 24, viewers=viewers or ViewerLimits())
    behavior = Behavior("*", "scripted", allowed_methods=METHODS)
    async with EdgeHarness(site(origin.origin(), behavior), settings=settings) as harness:
        listener = Listener(harness.edge, scheme="https", limits=limits)

        def factory() -> Http2Connection:
            listener()  # starts the checks
            return Http2Connection(listener.shared, Caller("127.0.0.1", 1, None), trusted=False)

        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        found = Site(harness, listener, server)
        try:
            yield found
        finally:
            for peer in found.peers:
                peer.writer.close()
            server.close()
            await listener.drain()


async def test_hits_misses_and_heads_on_one_connection(origin: ScriptedOrigin) -> None:
    origin.on("/a", answer(body=b"x" * 100_000, headers=[("Cache-Control", "max-age=60")]))
    async with serving(origin) as site_:
        peer = await site_.connect()
        whole = (200, b"x" * 100_000)
        both = [await peer.ask("/a") for _ in range(2)]
        assert [await peer.answered(stream) for stream in both] == [whole, whole]
        assert await peer.answered(await peer.ask("/a")) == whole
        assert await peer.answered(await peer.ask("/a", method=b"HEAD")) == (200, b"")
        assert len(origin.requests) == 1
        record = await site_.harness.recorded(4)
        assert (record["protocol_version"], record["scheme"]) == ("2.0", "https")


async def test_a_flood_ends_the_connection_and_no_other(origin: ScriptedOrigin) -> None:
    origin.on("/a", answer(body=b"ok"))
    async with serving(origin) as site_:
        flooding, other = await site_.connect(), await site_.connect()
        flooding.writer.write(frame(PING, 0, 0, bytes(8)) * (2 * BUDGET))
        end = await flooding.closed()
        assert end is not None
        assert end.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        assert site_.harness.edge.reached.counts["http2_flood"] == 1
        assert await other.answered(await other.ask("/a")) == (200, b"ok")


async def test_a_violation_says_why(origin: ScriptedOrigin) -> None:
    async with serving(origin) as site_:
        peer = await site_.connect()
        peer.writer.write(frame(PING, 0, 1, bytes(8)))
        end = await peer.closed()
        assert end is not None
        assert end.error_code == h2.errors.ErrorCodes.PROTOCOL_ERROR


async def test_a_viewer_that_opens_no_window_is_disconnected(origin: ScriptedOrigin) -> None:
    origin.on("/a", answer(body=b"x" * 1_000_000))
    async with serving(origin, Limits(write=0.3)) as site_:
        peer = await site_.connect()
        stream = await peer.ask("/a")
        with pytest.raises((EOFError, ConnectionError)):
            await peer.until(
                lambda e: isinstance(e, h2.events.StreamEnded) and e.stream_id == stream, reads=False
            )
        record = await site_.harness.recorded(1)
        assert (record["reason"], record["bytes"]) == ("stuck_reader", 65535)


@pytest.mark.parametrize("sent", [b"", b"PRI * HTTP/2.0\r\n", b"head"])
async def test_a_viewer_that_does_not_finish_a_head_is_disconnected(
    origin: ScriptedOrigin, sent: bytes
) -> None:
    async with serving(origin, Limits(head=0.3)) as site_:
        reader, writer = await asyncio.open_connection("127.0.0.1", site_.port)
        peer = Peer(reader, writer)
        if sent == b"head":
            await peer.start()
            sent = bytes([0, 0, 50, 1, 4, 0, 0, 0, 1]) + b"x"
        writer.write(sent)
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                await reader.read()  # to the end, without another word
        writer.close()
        assert site_.harness.edge.reached.counts["slow_head"] == 1


async def test_an_idle_connection_ends_even_if_it_pings(origin: ScriptedOrigin) -> None:
    origin.on("/a", answer(body=b"ok"))
    async with serving(origin, Limits(idle=0.5)) as site_:
        peer = await site_.connect()
        assert await peer.answered(await peer.ask("/a")) == (200, b"ok")

        async def ping() -> None:
            while True:
                peer.writer.write(frame(PING, 0, 0, bytes(8)))
                await asyncio.sleep(0.05)

        pinging = asyncio.create_task(ping())
        end = await peer.closed()
        pinging.cancel()
        assert end is not None
        assert end.error_code == h2.errors.ErrorCodes.NO_ERROR


async def test_an_upload_that_stops_is_reset_and_the_connection_stays(origin: ScriptedOrigin) -> None:
    origin.on("/a", answer(body=b"ok"))
    async with serving(origin, Limits(body=0.3)) as site_:
        peer = await site_.connect()
        stream = await peer.ask("/upload", (b"content-length", b"100"), method=b"POST", ended=False)
        reset = await peer.until(lambda e: isinstance(e, h2.events.StreamReset))
        assert reset.stream_id == stream
        assert site_.harness.edge.reached.counts["stuck_upload"] == 1
        assert await peer.answered(await peer.ask("/a")) == (200, b"ok")


async def test_a_body_reaches_the_origin_after_100_continue(origin: ScriptedOrigin) -> None:
    origin.on("/upload", answer(body=b"taken"))
    async with serving(origin) as site_:
        peer = await site_.connect()
        fields = ((b"expect", b"100-continue"), (b"content-length", b"5"))
        stream = await peer.ask("/upload", *fields, method=b"POST", ended=False)
        await peer.until(lambda e: isinstance(e, h2.events.InformationalResponseReceived))
        peer.state.send_data(stream, b"hello", end_stream=True)
        await peer.flush()
        assert await peer.answered(stream) == (200, b"taken")
        assert origin.requests[0].body == b"hello"


async def test_a_viewer_that_leaves_a_stream_ends_its_request(origin: ScriptedOrigin) -> None:
    left = asyncio.Event()

    async def slow(_: ReceivedRequest, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await wire.reader.read()
        left.set()

    origin.on("/slow", [slow])
    origin.on("/a", answer(body=b"ok"))
    async with serving(origin) as site_:
        peer = await site_.connect()
        stream = await peer.ask("/slow", (b"cache-control", b"no-store"))
        await peer.until(lambda e: isinstance(e, h2.events.DataReceived))
        peer.state.reset_stream(stream)
        await peer.flush()
        record = await site_.harness.recorded(1)
        assert record["detail"] == "ClientHungUpRequest"
        assert await peer.answered(await peer.ask("/a")) == (200, b"ok")


async def test_the_limit_of_requests_per_viewer_counts_streams(origin: ScriptedOrigin) -> None:
    held = asyncio.Event()

    async def waits(_: ReceivedRequest, wire: Wire) -> None:
        await held.wait()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    for number in range(3):
        origin.on(f"/{number}", [waits])
    async with serving(origin, viewers=ViewerLimits(requests_per_address=2)) as site_:
        peer = await site_.connect()
        streams = [await peer.ask(f"/{number}") for number in range(3)]
        status, _ = await peer.answered(streams[2])
        assert status == 503
        held.set()
        assert [(await peer.answered(stream))[0] for stream in streams[:2]] == [200, 200]


async def test_a_draining_worker_completes_what_it_has_begun(origin: ScriptedOrigin) -> None:
    begun, held = asyncio.Event(), asyncio.Event()

    async def waits(_: ReceivedRequest, wire: Wire) -> None:
        begun.set()
        await held.wait()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    origin.on("/slow", [waits])
    origin.on("/a", answer(body=b"late"))
    async with serving(origin) as site_:
        peer = await site_.connect()
        stream = await peer.ask("/slow")
        await begun.wait()
        draining = asyncio.create_task(site_.listener.drain())
        await peer.until(lambda e: isinstance(e, h2.events.ConnectionTerminated))
        held.set()
        # h2 takes any GOAWAY as the end; what was begun is complete all the same.
        record = await site_.harness.recorded(1)
        assert (record["path"], record["status"]) == ("/slow", 200)
        assert stream == 1
        await draining


async def test_an_empty_body_without_a_length_is_no_body(origin: ScriptedOrigin) -> None:
    """HTTP/2 frames it all the same, also for GET; a body would be refused there."""
    origin.on("/a", answer(body=b"ok"))
    origin.on("/b", answer(body=b"ok"))
    async with serving(origin) as site_:
        peer = await site_.connect()
        stream = await peer.ask("/a", ended=False)
        peer.state.end_stream(stream)
        await peer.flush()
        assert await peer.answered(stream) == (200, b"ok")
        stream = await peer.ask("/a", ended=False)
        peer.state.send_data(stream, b"x", end_stream=True)
        await peer.flush()
        assert (await peer.answered(stream))[0] == 403
        stream = await peer.ask("/b", method=b"POST", ended=False)
        for data in (b"hello, ", b"origin"):
            peer.state.send_data(stream, data)
            await peer.flush()
        peer.state.end_stream(stream)
        await peer.flush()
        assert await peer.answered(stream) == (200, b"ok")
        assert [request.body for request in origin.requests] == [b"", b"hello, origin"]
        gone = await peer.ask("/c", method=b"POST", ended=False)
        peer.state.reset_stream(gone)
        await peer.flush()
        record = await site_.harness.recorded(4)
        assert (record["path"], record["status"], record["detail"]) == ("/c", 0, "ClientHungUpRequest")


async def test_a_fault_of_the_edge_ends_the_connection(
    origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a fault")

    async with serving(origin) as site_:
        peer = await site_.connect()
        monkeypatch.setattr(site_.listener.shared.handler, "lookup", broken)
        await peer.ask("/a")
        end = await peer.closed()
        assert end is not None
        assert end.error_code == h2.errors.ErrorCodes.INTERNAL_ERROR
    assert "a request could not be handled" in caplog.text


async def test_a_connection_is_freed_as_soon_as_it_is_lost(origin: ScriptedOrigin) -> None:
    """Without the garbage collector, which a busy worker delays."""
    origin.on("/a", answer(body=b"ok"))
    async with serving(origin) as site_:
        gc.collect()
        gc.disable()
        try:
            peer = await site_.connect()
            assert await peer.answered(await peer.ask("/a")) == (200, b"ok")
            (found,) = site_.listener.shared.connections
            lost = weakref.ref(found)
            del found
            peer.writer.close()
            async with asyncio.timeout(PATIENCE):
                while site_.listener.shared.connections:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            assert lost() is None
        finally:
            gc.enable()
