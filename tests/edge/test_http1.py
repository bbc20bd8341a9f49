"""The native HTTP/1 listener over real sockets: order, framing, limits, slow and stuck peers, drain."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from keyfront.edge.http.connection import MAX_QUEUE
from keyfront.edge.http.request_body import BODY_WINDOW
from keyfront.edge.http.request_target import MAX_HEAD
from keyfront.edge.http.timeouts import Limits
from keyfront.edge.http.trusted_proxies import TrustedProxies
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior, ErrorResponse, Geo, Select, Snapshot
from tests.origin import CLOSE, LEAVE_BODY, RESET, Authority, ReceivedRequest, ScriptedOrigin, Wire, answer
from tests.rows import rows
from tests.sites import site
from tests.viewer import EdgeHarness, Viewer

ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
HOST = b"Host: d.test\r\n"
BRIEF = Limits(head=0.2, idle=0.3, body=0.2, write=0.3, drain=0.5)


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        yield origin
    assert not origin.faults


def open_site(origin: ScriptedOrigin, **members: object) -> Snapshot:
    return site(origin.origin(), Behavior("*", "scripted", allowed_methods=ALL), **members)


@pytest.fixture
async def harness(origin: ScriptedOrigin) -> AsyncIterator[EdgeHarness]:
    async with EdgeHarness(open_site(origin), limits=Limits()) as harness:
        yield harness


def _narrow(port: int) -> socket.socket:
    """A connection that takes very little at a time."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


class TestAnswers:
    async def test_a_miss_then_hits_with_age_and_the_edge_named(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(200, b"hello", {"Content-Type": "text/plain", "ETag": '"1"'}))
        async with await harness.viewer() as viewer:
            miss = await viewer.ask("/a", "d.test")
            hit = await viewer.ask("/a", "d.test")
        assert (miss.status, miss.body, miss.x_cache) == (200, b"hello", "Miss")
        assert (hit.status, hit.body, hit.x_cache) == (200, b"hello", "Hit")
        assert hit.header("age") == "0"
        assert miss.header("age") is None
        assert len(origin.requests) == 1
        for seen in (miss, hit):
            assert re.fullmatch(
                r"1\.1 [0-9a-f]{32}\.cloudfront\.net \(CloudFront\)", seen.header("via") or ""
            )
            assert re.fullmatch(r"[A-Za-z0-9_-]{54}==", seen.header("x-amz-cf-id") or "")
            assert seen.header("x-amz-cf-pop") == "KFR50-P1"
            assert seen.header("etag") == '"1"'
            assert seen.header("content-type") == "text/plain"
            assert seen.header("date") is not None
            assert seen.header("connection") == "keep-alive"
            assert b"\r\nETag: " in seen.raw_head
            assert b"\r\nContent-Type: " in seen.raw_head
        assert miss.header("x-amz-cf-id") != hit.header("x-amz-cf-id")

    async def test_head_of_a_stored_object_has_its_length_and_no_body(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(200, b"hello"))
        async with await harness.viewer() as viewer:
            await viewer.ask("/a", "d.test")
            head = await viewer.ask("/a", "d.test", method="HEAD")
            again = await viewer.ask("/a", "d.test")
        assert (head.status, head.x_cache, head.header("content-length")) == (200, "Hit", "5")
        assert again.body == b"hello"
        assert len(origin.requests) == 1

    async def test_a_head_miss_is_forwarded_as_head(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"])
        head = await harness.get("/a", method="HEAD")
        assert (head.status, head.header("content-length"), head.body) == (200, "5", b"")
        assert origin.requests[0].method == "HEAD"

    async def test_pipelined_requests_are_answered_in_order_hits_and_misses_mixed(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        gate = asyncio.Event()
        origin.on("/slow", [gate, *answer(200, b"slow")])
        origin.on("/quick", answer(200, b"quick"))
        await harness.get("/quick")
        async with await harness.viewer() as viewer:
            await viewer.send(
                b"".join(
                    b"GET /%b HTTP/1.1\r\n%b\r\n" % (p, HOST) for p in (b"quick", b"slow", b"quick", b"quick")
                )
            )
            first = await viewer.answer()
            gate.set()
            rest = [await viewer.answer() for _ in range(3)]
        assert [seen.body for seen in (first, *rest)] == [b"quick", b"slow", b"quick", b"quick"]
        assert [seen.x_cache for seen in (first, *rest)] == ["Hit", "Miss", "Hit", "Hit"]

    async def test_many_pipelined_requests_behind_a_slow_one_all_arrive(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        gate = asyncio.Event()
        origin.on("/slow", [gate, *answer(200, b"slow")])
        origin.on("/quick", answer(200, b"quick"))
        await harness.get("/quick")
        many = MAX_QUEUE * 4
        async with await harness.viewer() as viewer:
            await viewer.send(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
            for _ in range(many):
                await viewer.send(b"GET /quick HTTP/1.1\r\n" + HOST + b"\r\n")
            gate.set()
            assert (await viewer.answer()).body == b"slow"
            for _ in range(many):
                assert (await viewer.answer()).body == b"quick"

    async def test_a_request_byte_by_byte(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(200, b"hello"))
        async with await harness.viewer() as viewer:
            for byte in b"GET /a?x=1 HTTP/1.1\r\nHost: d.test\r\nX-Y: z\r\n\r\n":
                await viewer.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await viewer.answer()).body == b"hello"

    async def test_http_1_0(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(200, chunks=[b"one", b"two"]))
        for _ in range(2):  # a miss, a hit
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET /a HTTP/1.0\r\n" + HOST + b"\r\n")
                seen = await viewer.answer()
                assert seen.body == b"onetwo"
                assert seen.header("connection") == "close"
                assert await viewer.at_end() == b""
        async with await harness.viewer() as viewer:
            await viewer.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST + b"\r\n")
            assert (await viewer.answer()).header("connection") == "keep-alive"
            await viewer.send(b"GET /a HTTP/1.0\r\n" + HOST + b"\r\n")
            assert (await viewer.answer()).body == b"onetwo"

    async def test_an_unsized_stream_is_chunked_and_a_broken_one_is_cut(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        rest = asyncio.Event()
        origin.on(
            "/ok", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", rest, b"0\r\n\r\n"]
        )
        origin.on("/bad", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", rest, RESET])
        origin.on("/short", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none", rest, CLOSE])
        asyncio.get_running_loop().call_later(0.05, rest.set)
        assert (await harness.get("/ok")).body == b"one"
        rest.clear()
        asyncio.get_running_loop().call_later(0.05, rest.set)
        for path in ("/bad", "/short"):
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), HOST))
                with pytest.raises(asyncio.IncompleteReadError):
                    await viewer.answer()
            # The aborted response is not in the cache.
            assert harness.edge.memory.find("ETEST" + path, list) is None

    async def test_a_broken_answer_does_not_take_the_one_before_it_along(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        breaks = asyncio.Event()
        origin.on("/a", answer(200, b"a" * 60_000))
        origin.on("/bad", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none", breaks, RESET])
        await harness.get("/a")
        async with Viewer(*await asyncio.open_connection(sock=_narrow(harness.port))) as viewer:
            viewer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            viewer.writer.write(b"GET /a HTTP/1.1\r\n%b\r\nGET /bad HTTP/1.1\r\n%b\r\n" % (HOST, HOST))
            # More than is read while a response is pending: closing with this unread would reset the connection.
            size = 16 * BODY_WINDOW
            viewer.writer.write(
                b"PUT /in HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (HOST, size) + b"x" * size
            )
            await origin.received(2)
            connection = next(c for c in harness.listener.connections if c._task is not None)
            while not connection._paused_for:
                await asyncio.sleep(0)
            breaks.set()
            assert (await harness.recorded(3))["detail"] == "OriginCommError"
            viewer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert (await viewer.answer()).body == b"a" * 60_000
            with pytest.raises(asyncio.IncompleteReadError) as broken:
                await viewer.answer()
            assert broken.value.partial == b"one"

    async def test_where_the_end_of_the_connection_is_the_end_of_the_answer_a_broken_one_is_reset(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        rest = asyncio.Event()
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
        origin.on("/bad", [chunked, rest, RESET])
        async with await harness.viewer() as viewer:
            await viewer.send(b"GET /bad HTTP/1.0\r\n" + HOST + b"\r\n")
            await viewer.reader.readuntil(b"one")
            rest.set()
            with pytest.raises(ConnectionResetError):
                await viewer.at_end()

    async def test_connection_close_from_the_viewer_ends_the_connection(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(200, b"hello"))
        for _ in range(2):
            async with await harness.viewer() as viewer:
                seen = await viewer.ask("/a", "d.test", [("Connection", "close")])
                assert seen.body == b"hello"
                assert seen.header("connection") == "close"
                assert await viewer.at_end() == b""

    async def test_a_half_closed_viewer_still_gets_its_answers(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *answer(200, b"hello")])
        async with await harness.viewer() as viewer:
            await viewer.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
            viewer.writer.write_eof()
            await origin.received(1)
            gate.set()
            assert (await viewer.answer()).body == b"hello"
            assert await viewer.at_end() == b""

    async def test_a_protocol_upgrade_is_not_taken_up(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(200, b"hello"))
        async with await harness.viewer() as viewer:
            upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
            await viewer.send(
                b"GET /a HTTP/1.1\r\n" + HOST + upgrade + b"\r\n" + b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
            )
            assert (await viewer.answer()).body == b"hello"
            assert (await viewer.answer()).body == b"hello"
        assert origin.requests[0].header("upgrade") is None

    async def test_an_absolute_target_names_the_host(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(200, b"hello"))
        async with await harness.viewer() as viewer:
            await viewer.send(b"GET http://d.test/a?b HTTP/1.1\r\nHost: other.test\r\n\r\n")
            assert (await viewer.answer()).body == b"hello"
        assert origin.requests[0].target == "/a"


class TestBodies:
    async def test_a_sized_body_reaches_the_origin(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/in", answer(201, b"made"))
        seen = await harness.get("/in", method="POST", body=b"x" * 100_000)
        assert (seen.status, seen.body) == (201, b"made")
        assert origin.requests[0].body == b"x" * 100_000
        assert origin.requests[0].header("content-length") == "100000"

    async def test_a_chunked_body_reaches_the_origin_without_its_trailers(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/in", answer(200, b"ok"))
        async with await harness.viewer() as viewer:
            await viewer.send(
                b"PUT /in HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
            )
            await viewer.send(b"3;x=y\r\ntwo\r\n0\r\nX-Late: trailer\r\n\r\n")
            assert (await viewer.answer()).status == 200
            assert (await viewer.ask("/in", "d.test", method="DELETE")).status == 200
        assert origin.requests[0].body == b"onetwo"
        assert origin.requests[0].header("x-late") is None

    async def test_expect_100_continue(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        origin.on("/in", answer(200, b"ok"))
        async with await harness.viewer() as viewer:
            await viewer.send(
                b"PUT /in HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
            )
            assert (await viewer.answer()).status == 100
            await viewer.send(b"abc")
            assert (await viewer.answer()).status == 200
        assert origin.requests[0].body == b"abc"
        assert origin.requests[0].header("expect") is None

    async def test_a_refused_request_with_expect_is_refused_before_its_body(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        async with await harness.viewer() as viewer:
            await viewer.send(
                b"PUT /in HTTP/1.1\r\nHost: nowhere.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
            )
            assert (await viewer.answer()).status == 403

    async def test_another_expectation_fails(self, harness: EdgeHarness) -> None:
        async with await harness.viewer() as viewer:
            await viewer.send(
                b"PUT /in HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nExpect: fine weather\r\n\r\n"
            )
            assert (await viewer.answer()).status == 417

    async def test_a_slow_origin_stops_the_viewers_upload(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        release = asyncio.Event()
        origin.on("/in", [LEAVE_BODY, release, *answer(200, b"enough", close=True)])
        async with await harness.viewer() as viewer:
            await viewer.send(b"PUT /in HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n")
            viewer.writer.transport.set_write_buffer_limits(high=0)
            sent = 0
            try:
                while sent < 200_000_000:
                    viewer.writer.write(b"x" * 65536)
                    await asyncio.wait_for(viewer.writer.drain(), 0.3)
                    sent += 65536
            except TimeoutError:
                pass
            assert sent < 100_000_000
            release.set()

    async def test_a_viewer_that_leaves_in_its_body_breaks_off_the_origins_request(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/in", answer(200, b"ok"))
        async with await harness.viewer() as viewer:
            await viewer.send(b"PUT /in HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\nabc")
            await origin.connected(1)
        await origin.disconnected(1)
        record = await harness.recorded(1)
        assert record["detail"] == "ClientHungUpRequest"
        assert record["status"] == 0

    async def test_an_early_answer_ends_the_connection_after_it_was_read(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/in", [LEAVE_BODY, *answer(403, b"no")])
        async with await harness.viewer() as viewer:
            await viewer.send(
                b"PUT /in HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n" + b"x" * 1000
            )
            seen = await viewer.answer()
            assert (seen.status, seen.header("connection")) == (403, "close")
            assert await viewer.at_end() == b""

    async def test_an_unread_body_does_not_block_the_next_request(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        release = asyncio.Event()
        origin.on("/slow", [release, *answer(200, b"slow")])
        origin.on("/a", answer(200, b"hello"))
        async with await harness.viewer() as viewer:
            await viewer.send(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
            unread = b"x" * (BODY_WINDOW + 1000)
            # Read in full while the previous response is pending, then refused unread.
            head = b"PUT /in HTTP/1.1\r\nHost: nowhere.test\r\nContent-Length: %d\r\n\r\n" % len(unread)
            await viewer.send(head + unread[:BODY_WINDOW])
            await origin.received(1)
            viewer.writer.write(unread[BODY_WINDOW:])
            (connection,) = harness.listener.connections
            while not connection._paused_for:
                await asyncio.sleep(0)
            release.set()
            assert (await viewer.answer()).body == b"slow"
            assert (await viewer.answer()).status == 403
            assert (await viewer.ask("/a", "d.test")).body == b"hello"

    async def test_get_with_a_body_is_refused(self, harness: EdgeHarness) -> None:
        assert (await harness.get("/a", body=b"x")).status == 403


BAD = [
    ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: d.test\r\n\r\n"),
    ("raw bytes above ASCII", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: d.test\r\n\r\n"),
    ("no host", b"GET /a HTTP/1.1\r\n\r\n"),
    ("an empty host", b"GET /a HTTP/1.1\r\nHost:\r\n\r\n"),
    ("two hosts", b"GET /a HTTP/1.1\r\nHost: d.test\r\nHost: d.test\r\n\r\n"),
    ("a host that is none", b"GET /a HTTP/1.1\r\nHost: d.test/../x\r\n\r\n"),
    ("a host with a user", b"GET /a HTTP/1.1\r\nHost: me@d.test\r\n\r\n"),
    ("a fragment", b"GET /a#b HTTP/1.1\r\nHost: d.test\r\n\r\n"),
    (
        "two framings",
        b"POST /a HTTP/1.1\r\nHost: d.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (
        "two lengths",
        b"POST /a HTTP/1.1\r\nHost: d.test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    ),
    ("a length list", b"POST /a HTTP/1.1\r\nHost: d.test\r\nContent-Length: 3, 3\r\n\r\nabc"),
    ("a signed length", b"POST /a HTTP/1.1\r\nHost: d.test\r\nContent-Length: +3\r\n\r\nabc"),
    ("chunked not last", b"POST /a HTTP/1.1\r\nHost: d.test\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
    ("space before a colon", b"GET /a HTTP/1.1\r\nHost : d.test\r\n\r\n"),
    ("a folded header", b"GET /a HTTP/1.1\r\nHost: d.test\r\nA: b\r\n c\r\n\r\n"),
    ("a bare line feed", b"GET /a HTTP/1.1\nHost: d.test\n\n"),
    ("a bare carriage return", b"GET /a HTTP/1.1\r\nHost: d.test\r\nA: b\rc\r\n\r\n"),
    ("a NUL in a value", b"GET /a HTTP/1.1\r\nHost: d.test\r\nA: \x00\r\n\r\n"),
    ("HTTP/2.0", b"GET /a HTTP/2.0\r\nHost: d.test\r\n\r\n"),
    ("HTTP/0.9", b"GET /a\r\n\r\n"),
    ("an unknown method", b"FOO /a HTTP/1.1\r\nHost: d.test\r\n\r\n"),
    ("TLS on the plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("an authority target", b"GET d.test:80 HTTP/1.1\r\nHost: d.test\r\n\r\n"),
]


class TestBadRequests:
    @pytest.mark.parametrize("data", [data for _, data in BAD], ids=[name for name, _ in BAD])
    async def test_what_is_no_request_gets_400_and_the_end(
        self, harness: EdgeHarness, origin: ScriptedOrigin, data: bytes
    ) -> None:
        async with await harness.viewer() as viewer:
            await viewer.send(data)
            seen = await viewer.answer()
            assert seen.status == 400
            assert seen.header("connection") == "close"
            assert seen.x_cache == "Error"
            assert await viewer.at_end() == b""
        assert not origin.requests
        record = await harness.recorded(1)
        assert (record["status"], record["reason"]) == (400, "bad_request")

    async def test_a_bad_request_is_answered_after_the_good_ones_before_it(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *answer(200, b"hello")])
        async with await harness.viewer() as viewer:
            await viewer.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n" + b"nonsense\r\n\r\n")
            await origin.received(1)
            gate.set()
            assert (await viewer.answer()).body == b"hello"
            assert (await viewer.answer()).status == 400
            assert await viewer.at_end() == b""

    @pytest.mark.parametrize(
        "data",
        [
            b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
            b"GET /a HTTP/1.1\r\n" + HOST + b"X: " + b"y" * MAX_HEAD + b"\r\n\r\n",
            b"GET /a HTTP/1.1\r\n" + HOST + b"".join(b"X%d: y\r\n" % n for n in range(4000)),
            b"GET /" + b"a" * 100_000,
        ],
        ids=["target", "one header", "many headers, unfinished", "target, unfinished"],
    )
    async def test_what_is_too_large_gets_413_and_the_end(
        self, harness: EdgeHarness, origin: ScriptedOrigin, data: bytes
    ) -> None:
        async with await harness.viewer() as viewer:
            await viewer.send(data)
            seen = await viewer.answer()
            assert seen.status == 413
            assert await viewer.at_end() == b""
        assert not origin.requests

    async def test_a_target_of_the_greatest_length_is_served(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        target = "/" + "a" * 8191
        origin.on(target, answer(200, b"long"))
        assert (await harness.get(target)).body == b"long"


class TestSlowAndStuckPeers:
    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"GET /a HT",
            b"GET /a HTTP/1.1\r\nHost: d.test\r\n",
            b"PUT /in HTTP/1.1\r\nHost: d.test\r\nContent-Length: 5\r\n\r\nab",
        ],
        ids=["idle", "in the request line", "in the headers", "in the body"],
    )
    async def test_a_silent_viewer_is_disconnected(self, origin: ScriptedOrigin, said: bytes) -> None:
        origin.on("/in", answer(200))
        async with EdgeHarness(open_site(origin), limits=BRIEF) as harness, await harness.viewer() as viewer:
            await viewer.send(said)
            assert await asyncio.wait_for(viewer.at_end(), 3) == b""

    async def test_a_slow_head_over_tls_is_disconnected(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(open_site(origin), limits=BRIEF) as harness, await harness.viewer() as viewer:
            await viewer.send(b"GET /a HTTP/1.1\r\n")

            async def drip() -> None:
                while True:
                    viewer.writer.write(b"X: y\r\n")
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            try:
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError, BrokenPipeError)):
                    if await asyncio.wait_for(viewer.at_end(), 3) == b"":
                        raise ConnectionResetError
            finally:
                dripping.cancel()

    async def test_who_waits_for_a_slow_origin_is_kept(self, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *answer(200, b"at last")])
        asyncio.get_running_loop().call_later(0.8, gate.set)
        async with EdgeHarness(open_site(origin), limits=BRIEF) as harness:
            assert (await harness.get("/a")).body == b"at last"

    async def test_half_a_request_behind_a_slow_answer_does_not_cost_the_answer(
        self, origin: ScriptedOrigin
    ) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *answer(200, b"at last")])
        asyncio.get_running_loop().call_later(0.6, gate.set)
        async with EdgeHarness(open_site(origin), limits=BRIEF) as harness, await harness.viewer() as viewer:
            await viewer.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\nGET /a HT")
            assert (await viewer.answer()).body == b"at last"
            await viewer.send(b"TP/1.1\r\n" + HOST + b"\r\n")
            assert (await viewer.answer()).body == b"at last"

    async def test_who_does_not_read_is_let_go_and_stops_the_origin(self, origin: ScriptedOrigin) -> None:
        async def flood(_: ReceivedRequest, wire: Wire) -> None:
            for _step in range(4000):
                await wire.send(b"x" * 65536)

        origin.on("/big", [b"HTTP/1.1 200 OK\r\nContent-Length: 262144000\r\n\r\n", flood])
        async with EdgeHarness(open_site(origin), limits=BRIEF) as harness, await harness.viewer() as viewer:
            await viewer.send(b"GET /big HTTP/1.1\r\n" + HOST + b"\r\n")
            record = await asyncio.wait_for(harness.recorded(1), 10)
            assert record["detail"] == "ClientHungUpRequest"
            assert origin.wires[0].sent < 50_000_000
            await asyncio.wait_for(origin.disconnected(1), 5)

    async def test_who_breaks_off_leaves_a_record(self, harness: EdgeHarness, origin: ScriptedOrigin) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *answer(200, b"late")])
        async with await harness.viewer() as viewer:
            await viewer.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
            await origin.received(1)
            linger = struct.pack("ii", 1, 0)
            viewer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        record = await harness.recorded(1)
        assert (record["status"], record["detail"]) == (0, "ClientHungUpRequest")
        gate.set()


class TestSharedFills:
    async def test_who_began_the_fill_may_leave_and_the_others_are_served(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *answer(200, b"for all of us")])
        async with await harness.viewer() as first, await harness.viewer() as second:
            await first.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
            await origin.received(1)
            await second.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
            await asyncio.sleep(0.05)  # nothing signals when the second has joined
            linger = struct.pack("ii", 1, 0)
            first.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            first.writer.close()
            await harness.recorded(1)
            gate.set()
            assert (await second.answer()).body == b"for all of us"
        assert (await harness.get("/a")).x_cache == "Hit"
        assert len(origin.requests) == 1


class TestDrain:
    async def test_what_is_under_way_is_finished_and_idle_ones_are_closed(
        self, origin: ScriptedOrigin
    ) -> None:
        gate = asyncio.Event()
        origin.on("/a", [gate, *answer(200, b"finished")])
        async with (
            EdgeHarness(open_site(origin)) as harness,
            await harness.viewer() as idle,
            await harness.viewer() as busy,
        ):
            await busy.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
            await origin.received(1)
            draining = asyncio.create_task(harness.listener.drain())
            assert await idle.at_end() == b""
            gate.set()
            seen = await busy.answer()
            assert (seen.body, seen.header("connection")) == (b"finished", "close")
            await draining

    async def test_what_does_not_finish_is_cut(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", [asyncio.Event()])
        async with EdgeHarness(open_site(origin), limits=BRIEF) as harness, await harness.viewer() as busy:
            await busy.send(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
            await origin.received(1)
            await asyncio.wait_for(harness.listener.drain(), 5)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await busy.answer()


class TestGate:
    async def test_an_unknown_host_is_refused(self, harness: EdgeHarness) -> None:
        seen = await harness.get("/a", host="nowhere.test")
        assert (seen.status, seen.x_cache) == (403, "Error")
        assert b"Bad request." in seen.body
        assert seen.header("server") == "CloudFront"

    async def test_the_host_may_carry_a_port_and_capitals(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(200, b"hello"))
        for host in ("d.test:8080", "D.TEST", "d.test:80"):
            assert (await harness.get("/a", host=host)).status == 200

    async def test_a_method_that_is_not_allowed(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(site(origin.origin())) as harness:
            seen = await harness.get("/a", method="POST", body=b"x")
            assert seen.status == 403
            assert b"cachable" in seen.body
            assert (await harness.recorded(1))["detail"] == "InvalidRequestMethod"

    @pytest.mark.parametrize(
        ("policy", "method", "version", "status"),
        [
            ("redirect-to-https", "GET", "1.1", 301),
            ("redirect-to-https", "HEAD", "1.1", 301),
            ("redirect-to-https", "DELETE", "1.1", 307),
            ("redirect-to-https", "DELETE", "1.0", 403),
            ("https-only", "GET", "1.1", 403),
        ],
    )
    async def test_the_viewer_protocol_policy(
        self, origin: ScriptedOrigin, policy: str, method: str, version: str, status: int
    ) -> None:
        behavior = Behavior("*", "scripted", viewer_protocol_policy=policy, allowed_methods=ALL)  # type: ignore[arg-type]
        async with EdgeHarness(site(origin.origin(), behavior)) as harness, await harness.viewer() as viewer:
            await viewer.send(f"{method} /a?b=c HTTP/{version}\r\nHost: d.test\r\n\r\n".encode())
            seen = await viewer.answer(method)
            assert seen.status == status
            if status in (301, 307):
                assert seen.header("location") == "https://d.test/a?b=c"
                assert seen.x_cache == "Redirect"
        assert not origin.requests

    async def test_a_trusted_proxy_names_the_viewer(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(200, b"hello"))
        behavior = Behavior("*", "scripted", viewer_protocol_policy="https-only")
        snapshot = site(origin.origin(), behavior)
        proxied = [
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-For", "203.0.113.9, 198.51.100.7, 127.0.0.5"),
        ]
        async with EdgeHarness(snapshot, trusted=("127.0.0.0/8",)) as harness:
            assert (await harness.get("/a", headers=proxied)).status == 200
            assert (await harness.recorded(1))["client_ip"] == "198.51.100.7"
        assert origin.requests[0].header("x-forwarded-for") == "203.0.113.9,198.51.100.7"
        async with EdgeHarness(snapshot) as harness:
            assert (await harness.get("/a", headers=proxied)).status == 403
            assert (await harness.recorded(1))["client_ip"] == "127.0.0.1"

    async def test_geo_restriction(self, origin: ScriptedOrigin) -> None:
        origin.on("/a", answer(200, b"hello"))
        snapshot = site(origin.origin(), geo=Geo("blacklist", ("DE",)))
        async with EdgeHarness(snapshot, trusted=("127.0.0.1",)) as harness:
            german = [("X-Forwarded-For", "193.99.144.80")]
            for _ in range(2):
                seen = await harness.get("/a", headers=german)
                assert seen.status == 403
                assert b"block access from your country" in seen.body
                assert (await harness.get("/a")).status == 200
            assert (await harness.recorded(1))["detail"] == "ClientGeoBlocked"
            assert (await harness.recorded(1))["country"] == "DE"

    async def test_a_default_root_object(self, origin: ScriptedOrigin) -> None:
        origin.on("/index.html", answer(200, b"root"))
        async with EdgeHarness(site(origin.origin(), default_root_object="index.html")) as harness:
            assert (await harness.get("/")).body == b"root"

    async def test_another_snapshot_is_obeyed_from_the_next_request_on(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        origin.on("/a", answer(200, b"hello"))
        async with await harness.viewer() as viewer:
            assert (await viewer.ask("/a", "d.test")).status == 200
            harness.edge.use(open_site(origin, enabled=False))
            assert (await viewer.ask("/a", "d.test")).status == 403


class TestOrigins:
    async def test_an_edge_that_is_its_own_origin_ends_the_circle(self, origin: ScriptedOrigin) -> None:
        async with EdgeHarness(open_site(origin)) as harness:
            circle = open_site(origin).distributions[0].origins[0]
            itself = msgspec.structs.replace(circle, http_port=harness.port)
            forward_host = Behavior("*", "scripted", forward_headers=Select("whitelist", ("host",)))
            harness.edge.use(site(itself, forward_host))
            seen = await harness.get("/a")
            assert seen.status == 403
            assert len(harness.records) <= 4

    async def test_an_origin_that_cannot_be_reached(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        await origin.stop()
        seen = await harness.get("/a")
        assert (seen.status, seen.x_cache) == (502, "Error")
        assert (await harness.recorded(1))["detail"] == "OriginConnectError"

    async def test_path_and_custom_headers_of_the_origin(self, origin: ScriptedOrigin) -> None:
        origin.on("/v1/a", answer(200, b"hello"))
        secret = origin.origin(path="/v1", custom_headers=(("X-Origin-Secret", "s3cr3t"),))
        async with EdgeHarness(site(secret)) as harness:
            seen = await harness.get("/a", headers=[("X-Origin-Secret", "guess")])
            assert seen.body == b"hello"
        asked = origin.requests[0]
        assert asked.header("x-origin-secret") == "s3cr3t"
        assert asked.header("host") == f"127.0.0.1:{origin.port}"
        assert "s3cr3t" not in str(harness.records)

    async def test_an_https_origin_is_verified(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        async with ScriptedOrigin(tls=authority.server("127.0.0.1")) as secure:
            secure.on("/a", answer(200, b"hello"))
            snapshot = site(secure.origin(protocol_policy="https-only"))
            settings = EdgeSettings(ca_file=authority.ca_file)
            async with EdgeHarness(snapshot, settings=settings) as harness:
                assert (await harness.get("/a")).body == b"hello"
            async with EdgeHarness(snapshot) as harness:
                assert (await harness.get("/a")).status == 502
                assert (await harness.recorded(1))["detail"] == "OriginConnectError"

    async def test_a_stale_response_is_revalidated_and_served_again(
        self, harness: EdgeHarness, origin: ScriptedOrigin
    ) -> None:
        validated = {"ETag": '"1"', "Cache-Control": "max-age=0"}
        origin.on("/a", answer(200, b"hello", validated), answer(304, headers={"ETag": '"1"'}), answer(503))
        assert [(await harness.get("/a")).x_cache for _ in range(2)] == ["Miss", "RefreshHit"]
        assert origin.requests[1].header("if-none-match") == '"1"'
        stale = await harness.get("/a")
        assert (stale.status, stale.body) == (200, b"hello")

    async def test_a_custom_error_page_takes_the_place_of_an_error(self, origin: ScriptedOrigin) -> None:
        origin.on("/missing", answer(404, b"plain"))
        origin.on("/pages/404.html", answer(200, b"<h1>pretty</h1>", {"Content-Type": "text/html"}))
        rule = ErrorResponse(404, 0, "/pages/404.html", 200)
        async with EdgeHarness(site(origin.origin(), error_responses=(rule,))) as harness:
            for _ in range(2):
                seen = await harness.get("/missing")
                assert (seen.status, seen.body, seen.x_cache) == (200, b"<h1>pretty</h1>", "Error")
                assert seen.header("content-type") == "text/html"


class TestPeers:
    @rows(
        ("chain", "client", "left"),
        [
            (["198.51.100.7"], "198.51.100.7", None),
            (["1.2.3.4, 198.51.100.7"], "198.51.100.7", b"1.2.3.4"),
            (["1.2.3.4", "198.51.100.7,10.1.1.1"], "198.51.100.7", b"1.2.3.4"),
            (["10.9.9.9, 10.1.1.1"], "10.9.9.9", None),
            (["1.2.3.4, nonsense"], "10.0.0.1", b"1.2.3.4,nonsense"),
            (["2001:db8::1"], "2001:db8::1", None),
            ([], "10.0.0.1", None),
        ],
    )
    def test_the_viewer_is_the_right_most_untrusted_entry(
        self, chain: list[str], client: str, left: bytes | None
    ) -> None:
        peers = TrustedProxies(("10.0.0.0/8",))
        headers = [(b"x-forwarded-for", entry.encode()) for entry in chain]
        found, scheme, kept = peers.viewer("10.0.0.1", [*headers, (b"x-forwarded-proto", b"https")], "http")
        assert (found, scheme) == (client, "https")
        assert dict(kept).get(b"x-forwarded-for") == left

    def test_no_proxy_is_trusted_unless_named(self) -> None:
        assert not TrustedProxies().trusts("127.0.0.1")
        assert TrustedProxies(("::/0",)).trusts("2001:db8::1")
        assert TrustedProxies(("127.0.0.0/8",)).trusts("::ffff:127.0.0.1")
        assert not TrustedProxies(("127.0.0.0/8",)).trusts("not an address")


async def test_settings_name_the_edge_location(origin: ScriptedOrigin) -> None:
    origin.on("/a", answer(200, b"hello"))
    async with EdgeHarness(open_site(origin), settings=EdgeSettings(pop="BER50-C1")) as harness:
        assert (await harness.get("/a")).header("x-amz-cf-pop") == "BER50-C1"
