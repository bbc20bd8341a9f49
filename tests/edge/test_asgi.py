"""The edge as an ASGI application, under a real server: the same answers as from the native shell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvicorn

from keyfront.edge.accesslog import AccessLog
from keyfront.edge.asgi import EdgeApp
from keyfront.edge.edge import Edge, EdgeSettings
from keyfront.model.snapshot import Behavior, Snapshot
from tests.origin import ScriptedOrigin, answer
from tests.viewer import Viewer, site

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


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        yield origin


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
    assert [asked.target for asked in origin.requests] == ["/a%20b/%2F"]


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
