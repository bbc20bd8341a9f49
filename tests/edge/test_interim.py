"""Interim responses (1xx): passed on to the right viewers, as far as a viewer may see them, and bounded."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import msgspec
import pytest

from keyfront.edge.http.asgi import EARLY_HINT, EdgeApp
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.origin.response_reader import MAX_INTERIM
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior, ResponseHeadersPolicy
from tests.origin import RESET, ScriptedOrigin, answer
from tests.sites import site
from tests.viewer import EdgeHarness, Seen, Viewer

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
FINAL = answer(200, b"page", {"Cache-Control": "max-age=60"})


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        yield origin
    assert not origin.faults


@pytest.fixture
async def harness(origin: ScriptedOrigin) -> AsyncIterator[EdgeHarness]:
    async with EdgeHarness(site(origin.origin(), Behavior("*", "scripted", allowed_methods=ALL))) as harness:
        yield harness


async def all_of(viewer: Viewer, method: str = "GET") -> list[Seen]:
    """The interim responses and the final one."""
    seen = [await viewer.answer(method)]
    while seen[-1].status < 200:
        seen.append(await viewer.answer(method))
    return seen


async def ask(
    harness: EdgeHarness, method: str = "GET", version: str = "1.1", target: str = "/p"
) -> list[Seen]:
    async with await harness.viewer() as viewer:
        await viewer.send(f"{method} {target} HTTP/{version}\r\nHost: d.test\r\n\r\n".encode())
        return await all_of(viewer, method)


TABLE: dict[str, tuple[list[bytes], list[int]]] = {
    "none": ([], []),
    "103": ([HINTS], [103]),
    "several 103": ([HINTS, HINTS, HINTS], [103, 103, 103]),
    "102": ([b"HTTP/1.1 102 Processing\r\n\r\n"], [102]),
    "104, which has no name": ([b"HTTP/1.1 104 \r\nX: y\r\n\r\n"], [104]),
    "199": ([b"HTTP/1.1 199 X\r\n\r\n"], [199]),
    "100 alone": ([b"HTTP/1.1 100 Continue\r\n\r\n"], []),
    "100 and 103": ([b"HTTP/1.1 100 Continue\r\n\r\n", HINTS], [103]),
    "103 with bare LF": ([b"HTTP/1.1 103 Early Hints\nLink: </a.css>; rel=preload\n\n"], [103]),
    "103 with a blank before the colon": ([b"HTTP/1.1 103 Early Hints\r\nLink : </a.css>\r\n\r\n"], [103]),
    "as many as are passed on, and more": ([HINTS] * (MAX_INTERIM + 4), [103] * MAX_INTERIM),
}


@pytest.mark.parametrize("apart", [False, True], ids=["in one packet", "apart"])
@pytest.mark.parametrize("name", TABLE)
async def test_the_first_viewer_gets_them(
    harness: EdgeHarness, origin: ScriptedOrigin, name: str, apart: bool
) -> None:
    heads, passed = TABLE[name]
    origin.on("/p", [*heads, *FINAL] if apart else [b"".join([*heads, FINAL[0]])])  # type: ignore[list-item]
    seen = await ask(harness)
    assert [one.status for one in seen] == [*passed, 200]
    assert seen[-1].body == b"page"
    for one in seen[:-1]:
        if one.status == 103:
            assert (one.header("link") or "").startswith("</a.css>")
        assert one.header("server") is one.header("content-length") is one.header("x-cache") is None
        assert (one.header("via") or "").endswith("(CloudFront)")
    again = await ask(harness)
    assert ([one.status for one in again], again[0].x_cache) == ([200], "Hit")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
async def test_every_method(harness: EdgeHarness, origin: ScriptedOrigin, method: str) -> None:
    origin.on("/p", [HINTS, *answer(200, b"" if method == "HEAD" else b"page")])
    assert [one.status for one in await ask(harness, method)] == [103, 200]


async def test_they_arrive_before_the_final_answer(harness: EdgeHarness, origin: ScriptedOrigin) -> None:
    go = asyncio.Event()
    origin.on("/p", [HINTS, go, *FINAL])
    async with await harness.viewer() as viewer:
        await viewer.send(b"GET /p HTTP/1.1\r\nHost: d.test\r\n\r\n")
        assert (await viewer.answer()).status == 103
        go.set()
        assert (await viewer.answer()).status == 200


async def test_an_http_1_0_viewer_gets_none(harness: EdgeHarness, origin: ScriptedOrigin) -> None:
    origin.on("/p", [HINTS, *FINAL])
    assert [one.status for one in await ask(harness, version="1.0")] == [200]


async def test_a_viewer_that_joins_gets_none(harness: EdgeHarness, origin: ScriptedOrigin) -> None:
    """Only the final head determines whether the viewer may share the response."""
    go = asyncio.Event()
    origin.on("/p", [go, HINTS, *FINAL])
    first = asyncio.create_task(ask(harness))
    await origin.received(1)
    second = asyncio.create_task(ask(harness))
    while not any(len(flight._readers) > 1 for flight in harness.edge.fills):
        await asyncio.sleep(0.005)
    go.set()
    assert [one.status for one in await first] == [103, 200]
    assert [one.status for one in await second] == [200]
    assert len(origin.requests) == 1


async def test_in_a_pipeline_they_stay_with_their_request(
    harness: EdgeHarness, origin: ScriptedOrigin
) -> None:
    for path in ("/1", "/2", "/3"):
        early = b"HTTP/1.1 103 Early Hints\r\nLink: <%b>\r\n\r\n" % path.encode()
        origin.on(path, [early, *answer(200, path.encode())])
    async with await harness.viewer() as viewer:
        await viewer.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: d.test\r\n\r\n" % n for n in (1, 2, 3)))
        for path in ("/1", "/2", "/3"):
            hint, final = await all_of(viewer)
            assert (hint.header("link"), final.body) == (f"<{path}>", path.encode())


async def test_what_viewers_do_not_see_is_held_back(origin: ScriptedOrigin) -> None:
    fields = (
        b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\nTrailer: x\r\n"
        b"Set-Cookie: a=secret\r\nX-Cache: Hit\r\nX-Amz-Cf-Id: x\r\nVia: 1.1 inner\r\nX-Removed: 1\r\n"
        b"Link: </a>\r\nX-Kept: 1\r\n"
    )
    origin.on("/p", [b"HTTP/1.1 103 Early Hints\r\n" + fields + b"\r\n", *FINAL])
    behavior = Behavior("*", "scripted", response_headers_policy_id="P")
    policy = ResponseHeadersPolicy("P", remove=("x-removed",))
    snapshot = msgspec.structs.replace(site(origin.origin(), behavior), response_headers_policies=(policy,))
    async with EdgeHarness(snapshot) as harness:
        hint, _ = await ask(harness)
    assert {name for name, _ in hint.headers} == {"link", "x-kept", "via"}


async def test_a_failure_after_them_is_a_502(harness: EdgeHarness, origin: ScriptedOrigin) -> None:
    origin.on("/p", [HINTS, RESET])
    seen = await ask(harness)
    assert seen[-1].status == 502
    assert {one.status for one in seen[:-1]} == {103}


async def test_their_bytes_are_bounded(harness: EdgeHarness, origin: ScriptedOrigin) -> None:
    origin.on("/p", [b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 5000 + b"\r\n\r\n"] * 5 + FINAL)
    seen = await ask(harness)
    assert seen[-1].status == 502
    assert len(seen) <= 5
    assert harness.records[-1]["reason"] == "OriginHeaderTooBigError"


async def test_a_viewer_that_leaves_in_between(harness: EdgeHarness, origin: ScriptedOrigin) -> None:
    go = asyncio.Event()
    origin.on("/p", [HINTS, go, HINTS, *FINAL])
    async with await harness.viewer() as viewer:
        await viewer.send(b"GET /p HTTP/1.1\r\nHost: d.test\r\n\r\n")
        assert (await viewer.answer()).status == 103
        sock = viewer.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        viewer.writer.transport.abort()  # not half-closed, but gone
    await harness.recorded(1)
    go.set()
    assert (await ask(harness))[-1].body == b"page"


async def over_asgi(edge: Edge, extensions: dict[str, Any]) -> list[MutableMapping[str, Any]]:
    sent: list[MutableMapping[str, Any]] = []
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "2",
        "method": "GET",
        "scheme": "http",
        "raw_path": b"/p",
        "query_string": b"",
        "headers": [(b"host", b"d.test")],
        "client": ("127.0.0.1", 1),
        "extensions": extensions,
    }
    await EdgeApp(edge)(scope, receive, send)
    return sent


@pytest.mark.parametrize("able", [True, False])
async def test_over_asgi_where_the_server_can(origin: ScriptedOrigin, able: bool) -> None:
    origin.on("/p", [HINTS, b"HTTP/1.1 102 Processing\r\n\r\n", HINTS, *FINAL])
    edge = Edge(EdgeSettings(memory=1 << 20), AccessLog(None))
    edge.use(site(origin.origin()))
    sent = await over_asgi(edge, {EARLY_HINT: {}} if able else {})
    await edge.aclose()
    hint = {"type": EARLY_HINT, "links": [b"</a.css>; rel=preload"]}
    assert sent[:-2] == ([hint, hint] if able else [])
    assert (sent[-2]["status"], sent[-1]["body"]) == (200, b"page")
