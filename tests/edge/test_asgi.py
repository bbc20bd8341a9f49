"""The edge as an ASGI application, under a real server: the same responses as from the native HTTP/1 listener."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest
import uvicorn

from keyfront.edge.http.asgi import EdgeApp
from keyfront.edge.limits.viewers import ViewerLimits, Viewers
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior, Snapshot
from tests.origin import ScriptedOrigin, answer
from tests.sites import site
from tests.viewer import EdgeHarness, Viewer

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")


@contextlib.asynccontextmanager
async def served(snapshot: Snapshot) -> AsyncIterator[tuple[int, Edge]]:
    edge = Edge(EdgeSettings(memory=1 << 22, max_object=1 << 20), AccessLog(None))
    edge.use(snapshot)
    config = uvicorn.Config(
        EdgeApp(edge),
        host="127.0.0.1",
        port=0,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        log_level="critical",
        lifespan="on",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], edge
    finally:
        server.should_exit = True
        await task


async def viewer(port: int) -> Viewer:
    return Viewer(*await asyncio.open_connection("127.0.0.1", port))


async def test_miss_hit_head_and_raw_target(origin: ScriptedOrigin) -> None:
    origin.on("/a%20b/%2F", answer(200, b"hello", {"ETag": '"1"'}))
    async with served(site(origin.origin())) as (port, _), await viewer(port) as someone:
        miss = await someone.ask("/a%20b/%2F?x=%20", "d.test")
        hit = await someone.ask("/a%20b/%2F?x=%20", "d.test")
        head = await someone.ask("/a%20b/%2F", "d.test", method="HEAD")
        unchanged = await someone.ask("/a%20b/%2F", "d.test", [("If-None-Match", '"1"')])
    assert (miss.x_cache, hit.x_cache, head.x_cache) == ("Miss", "Hit", "Hit")
    assert miss.body == hit.body == b"hello"
    assert hit.header("age") == "0"
    assert (head.header("content-length"), head.body) == ("5", b"")
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert [request.target for request in origin.requests] == ["/a%20b/%2F"]


async def test_a_body_streams_through(origin: ScriptedOrigin) -> None:
    origin.on("/in", answer(201, chunks=[b"made"]))
    behavior = Behavior("*", "scripted", allowed_methods=ALL)
    async with served(site(origin.origin(), behavior)) as (port, _), await viewer(port) as someone:
        seen = await someone.ask("/in", "d.test", method="POST", body=b"x" * 300_000)
    assert (seen.status, seen.body) == (201, b"made")
    assert len(origin.requests[0].body) == 300_000


@pytest.mark.parametrize(
    ("host", "target", "status"),
    [("nowhere.test", "/a", 403), ("d.test/x", "/a", 400), ("d.test", "/" + "a" * 9000, 413)],
)
async def test_refusals(origin: ScriptedOrigin, host: str, target: str, status: int) -> None:
    async with served(site(origin.origin())) as (port, edge), await viewer(port) as someone:
        assert (await someone.ask(target, host)).status == status
        edge.log.flush()
        assert [name[1] for name in edge.log.counts.requests] == [status]
    assert not origin.requests


async def over_http_2(edge: Edge, method: str, headers: list[tuple[bytes, bytes]], *chunks: bytes) -> int:
    """The status of a request as an HTTP/2 server passes it on: its body in messages, with or without a length."""
    messages = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    started: list[int] = []

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.append(message["status"])

    scope = {
        "type": "http",
        "http_version": "2",
        "method": method,
        "scheme": "http",
        "raw_path": b"/in",
        "query_string": b"",
        "headers": [(b"host", b"d.test"), *headers],
        "client": ("127.0.0.1", 1),
    }
    await EdgeApp(edge)(scope, receive, send)
    return started[0]


@pytest.fixture
async def edge(origin: ScriptedOrigin) -> AsyncIterator[Edge]:
    origin.on("/in", answer(200, b"ok"))
    edge = Edge(EdgeSettings(memory=1 << 22, max_object=1 << 20), AccessLog(None))
    edge.use(site(origin.origin(), Behavior("*", "scripted", allowed_methods=ALL)))
    yield edge
    await edge.aclose()
    assert not origin.faults


@pytest.mark.parametrize("headers", [[(b"content-length", b"3")], []], ids=["a length", "no length"])
@pytest.mark.parametrize("method", ALL)
async def test_a_body_over_http_2(
    edge: Edge, origin: ScriptedOrigin, method: str, headers: list[tuple[bytes, bytes]]
) -> None:
    """HTTP/2 frames a body without Content-Length too. On GET and HEAD it is refused; otherwise none of it is
    lost."""
    status = await over_http_2(edge, method, headers, b"ab", b"c")
    if method in ("GET", "HEAD"):
        assert status == 403
        assert not origin.requests
    else:
        assert status == 200
        assert (origin.requests[0].method, origin.requests[0].body) == (method, b"abc")


@pytest.mark.parametrize("method", ALL)
async def test_no_body_over_http_2(edge: Edge, origin: ScriptedOrigin, method: str) -> None:
    assert await over_http_2(edge, method, []) == 200
    assert origin.requests[0].header("transfer-encoding") is None


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"+3")],
        [(b"content-length", b"3_0")],
        [(b"content-length", b" 3")],
        [(b"content-length", b"")],
        [(b"content-length", b"3, 3")],
        [(b"content-length", "٣".encode())],
        [(b"content-length", b"9" * 4000)],
        [(b"content-length", b"3"), (b"content-length", b"3")],
        [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [(b"x", b"a\r\ncontent-length: 3")],
        [(b"x", b"a\x0bb")],
        [(b"x y", b"1")],
        [(b"x:", b"1")],
        [(b"x\xe9", b"1")],
        [(b"", b"1")],
        [(b"X", b"1")],
    ],
)
async def test_what_an_origin_could_frame_otherwise_is_refused(
    edge: Edge, origin: ScriptedOrigin, headers: list[tuple[bytes, bytes]]
) -> None:
    assert await over_http_2(edge, "POST", headers, b"abc") == 400
    assert not origin.requests


@pytest.mark.parametrize(
    "fields",
    [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
    ids=["a length", "chunks"],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_body_on_get_or_head_is_refused_under_a_real_server(
    origin: ScriptedOrigin, method: bytes, fields: bytes
) -> None:
    async with served(site(origin.origin())) as (port, _), await viewer(port) as someone:
        await someone.send(method + b" /in HTTP/1.1\r\nHost: d.test\r\n" + fields)
        assert (await someone.answer(method.decode())).status == 403
    assert not origin.requests


async def test_requests_under_way_are_limited(origin: ScriptedOrigin) -> None:
    gate = asyncio.Event()
    origin.on("/wait", [gate, *answer(200, b"done")])
    async with served(site(origin.origin())) as (port, edge):
        edge.viewers = Viewers(ViewerLimits(requests_per_address=1))
        async with await viewer(port) as first, await viewer(port) as second:
            await first.send(b"GET /wait HTTP/1.1\r\nHost: d.test\r\n\r\n")
            await origin.received(1)
            seen = await second.ask("/other", "d.test")
            assert (seen.status, seen.x_cache) == (503, "LimitExceeded")
            gate.set()
            assert (await first.answer()).body == b"done"
            assert (await second.ask("/wait", "d.test")).body == b"done"
        assert edge.viewers.requests.total == 0
        assert edge.reached.counts == {"requests_per_address": 1}


async def test_a_slow_upload_is_abandoned(origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never idle, and would hold its resources indefinitely without a limit."""
    monkeypatch.setattr("keyfront.edge.http.asgi.SILENCE", 1.0)
    monkeypatch.setattr("keyfront.edge.http.asgi.RATE", 10_000)
    snapshot = site(origin.origin(), Behavior("*", "scripted", allowed_methods=ALL))
    async with served(snapshot) as (port, edge), await viewer(port) as slow:
        await slow.send(b"POST /up HTTP/1.1\r\nHost: d.test\r\nContent-Length: 60000\r\n\r\n")

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    await slow.send(b"x")
                    await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        try:
            assert (await asyncio.wait_for(slow.answer(), 20)).status == 400
        finally:
            dripping.cancel()
        assert origin.connections == 0
        assert edge.upload_memory.used == edge.viewers.requests.total == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_stream_without_end_or_data_is_abandoned(
    origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """HTTP/2: headers without END_STREAM, and then no data."""
    monkeypatch.setattr("keyfront.edge.http.asgi.SILENCE", 0.3)
    edge = Edge(EdgeSettings(memory=1 << 22, max_object=1 << 20), AccessLog(None))
    edge.use(site(origin.origin(), Behavior("*", "scripted", allowed_methods=ALL)))
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "2",
        "method": method,
        "scheme": "https",
        "raw_path": b"/up",
        "query_string": b"",
        "headers": [(b"host", b"d.test")],
        "client": ("192.0.2.1", 1),
        "extensions": {},
    }
    await asyncio.wait_for(EdgeApp(edge)(scope, receive, send), 20)
    assert sent[0]["status"] == 400
    assert origin.connections == 0
    await edge.aclose()


class LostTransport:
    """The server's side of one HTTP/2 request whose connection is lost: `receive` and `send` never return or raise
    `error`, as servers differ."""

    def __init__(self, *, stuck_in: str, error: Exception | None = None) -> None:
        self.stuck_in = stuck_in
        self.error = error
        self.reached = asyncio.Event()

    async def _stop(self) -> None:
        self.reached.set()
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()

    async def receive(self) -> MutableMapping[str, Any]:
        if self.stuck_in == "receive":
            await self._stop()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if self.stuck_in == message["type"]:
            await self._stop()

    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "http_version": "2",
            "method": "GET",
            "scheme": "https",
            "raw_path": b"/film",
            "query_string": b"",
            "headers": [(b"host", b"d.test")],
            "client": ("192.0.2.1", 1),
        }


@pytest.mark.parametrize(
    ("stuck_in", "status", "detail"),
    [
        ("receive", 0, "ClientHungUpRequest"),
        ("origin", 0, "ClientHungUpRequest"),
        ("http.response.start", 200, "ClientCommError"),
        ("http.response.body", 200, "ClientCommError"),
    ],
)
async def test_a_request_that_the_server_cancels_leaves_its_record(
    origin: ScriptedOrigin, stuck_in: str, status: int, detail: str
) -> None:
    origin.on("/film", [] if stuck_in == "origin" else answer(200, b"x" * 10, {"Cache-Control": "no-store"}))
    async with EdgeHarness(site(origin.origin())) as harness:
        transport = LostTransport(stuck_in=stuck_in)
        app = EdgeApp(harness.edge)
        serving = asyncio.create_task(app(transport.scope(), transport.receive, transport.send))
        await (origin.received(1) if stuck_in == "origin" else transport.reached.wait())
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert [(r["status"], r["detail"], r["path"]) for r in harness.records] == [(status, detail, "/film")]
        assert harness.edge.viewers.requests.total == 0


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (RuntimeError("ASGI transport error: Transport not initialized or closed"), "ClientCommError"),
        (BrokenPipeError(), "ClientHungUpRequest"),
    ],
    ids=["Granian", "a connection error"],
)
async def test_a_response_that_cannot_be_sent_leaves_its_record(
    origin: ScriptedOrigin, error: Exception, detail: str
) -> None:
    origin.on("/film", answer(200, b"x" * 10))
    async with EdgeHarness(site(origin.origin())) as harness:
        transport = LostTransport(stuck_in="http.response.start", error=error)
        with contextlib.suppress(RuntimeError):
            await EdgeApp(harness.edge)(transport.scope(), transport.receive, transport.send)
        assert [(r["status"], r["detail"]) for r in harness.records] == [(200, detail)]


async def test_a_stalled_upload_is_abandoned(origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyfront.edge.http.asgi.SILENCE", 0.3)
    snapshot = site(origin.origin(), Behavior("*", "scripted", allowed_methods=ALL))
    async with served(snapshot) as (port, edge), await viewer(port) as slow:
        await slow.send(b"POST /up HTTP/1.1\r\nHost: d.test\r\nContent-Length: 100\r\n\r\nx")
        assert (await slow.answer()).status == 400
        assert origin.connections == 0
        assert edge.upload_memory.used == edge.viewers.requests.total == 0
