"""The origin client against a scripted origin: what it sends, what it accepts, what it refuses and how."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyfront.edge.origin.client import Origins
from keyfront.edge.origin.connect import DnsCache, alternating, first_connected
from keyfront.edge.origin.connection import Connection
from keyfront.edge.origin.request import OriginRequest, request_head
from keyfront.edge.origin.response_reader import HIGH_WATER, NEVER, ResponseReader
from keyfront.edge.types.messages import Header, OriginReply
from keyfront.errors import OriginFailure, SettingsError
from keyfront.model.snapshot import Origin
from tests.origin import (
    CLOSE,
    LEAVE_BODY,
    READ_BODY,
    RESET,
    Authority,
    ReceivedRequest,
    Script,
    ScriptedOrigin,
    Wire,
    answer,
    body_of,
    closed_port,
    deaf_port,
    trickle,
)
from tests.rows import fresh, rows

HOST: list[Header] = [(b"host", b"origin.example")]
SHORT = 0.15  # seconds: a timeout that a test waits for
OK = b"HTTP/1.1 200 OK\r\n"


EVENT_LOOPS = ("uvloop", "asyncio")


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[Origins]:
    origins = Origins()
    yield origins
    await origins.aclose()


@contextlib.asynccontextmanager
async def flawless_origin() -> AsyncIterator[ScriptedOrigin]:
    """An origin that receives nothing but well-formed requests."""
    async with ScriptedOrigin() as scripted:
        yield scripted
        assert scripted.faults == []


@pytest.fixture
async def origins() -> AsyncIterator[Origins]:
    async with client() as origins:
        yield origins


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with flawless_origin() as origin:
        yield origin


async def get(origins: Origins, origin: Origin, target: str = "/", method: str = "GET") -> OriginReply:
    return await origins.fetch(origin, OriginRequest("http", method, target, HOST))


async def read(reply: OriginReply) -> bytes:
    return b"".join([chunk async for chunk in reply.body])


# What is sent.


@pytest.mark.uvloop
@rows(
    "target",
    [
        "/",
        "/a%2Fb//c/../d/./e",
        "/a'b%27(c)?q='x'&y=%27&z=a+b%20c&flag&flag=&&",
        "/?",
        "/caf\xc3\xa9/\xff?\xe9",
        "/" + "x" * 8000,
        "*",
    ],
)
@fresh(origins=client, origin=flawless_origin)
async def test_the_target_is_sent_as_it_is(origins: Origins, origin: ScriptedOrigin, target: str) -> None:
    await get(origins, origin.origin(), target)
    assert origin.requests[0].target == target


@pytest.mark.uvloop
async def test_headers_are_sent_in_order_with_our_framing_alone(
    origins: Origins, origin: ScriptedOrigin
) -> None:
    headers: list[Header] = [
        (b"host", b"o"),
        (b"x-b", b"2"),
        (b"x-a", b"\xe9"),
        (b"x-b", b""),
        (b"connection", b"close, x-a"),
        (b"content-length", b"7"),
        (b"transfer-encoding", b"chunked"),
        (b"expect", b"100-continue"),
        (b"upgrade", b"h2c"),
    ]
    await origins.fetch(origin.origin(), OriginRequest("http", "GET", "/", headers))
    assert origin.requests[0].headers == [
        ("host", "o"),
        ("x-b", "2"),
        ("x-a", "\xe9"),
        ("x-b", ""),
        ("connection", "Keep-Alive"),
    ]


@rows(
    ("method", "chunks", "length", "framing", "received"),
    [
        ("GET", None, None, (None, None), b""),
        ("DELETE", None, None, (None, None), b""),
        ("POST", None, None, ("0", None), b""),
        ("PUT", None, 0, ("0", None), b""),
        ("PUT", [b"never read"], 0, ("0", None), b""),
        ("POST", [b"ab", b"", b"c"], 3, ("3", None), b"abc"),
        ("PATCH", [b"ab", b"", b"c" * 20], None, (None, "chunked"), b"ab" + b"c" * 20),
        ("POST", [], None, (None, "chunked"), b""),
        ("DELETE", [b"x"], 1, ("1", None), b"x"),
    ],
)
@fresh(origins=client, origin=flawless_origin)
async def test_request_bodies(
    origins: Origins,
    origin: ScriptedOrigin,
    method: str,
    chunks: list[bytes] | None,
    length: int | None,
    framing: tuple[str | None, str | None],
    received: bytes,
) -> None:
    origin.on("/", answer(200, b"ok"))
    for _ in range(2):
        body = None if chunks is None else body_of(chunks)
        reply = await origins.fetch(origin.origin(), OriginRequest("http", method, "/", HOST, body, length))
        assert reply.whole == b"ok"
    for asked in origin.requests:
        assert (asked.header("content-length"), asked.header("transfer-encoding")) == framing
        assert asked.body == received
        # After a body the connection is not reused, and the request says so (decision 0026).
        assert asked.header("connection") == (
            "Keep-Alive" if framing in ((None, None), ("0", None)) else "close"
        )
    assert origin.connections == (1 if framing in ((None, None), ("0", None)) else 2)


@rows(
    ("method", "target", "header"),
    [
        ("GET", "/a b", (b"x", b"y")),
        ("GET", "/a\r\nx: y", (b"x", b"y")),
        ("GET", "/a\x00", (b"x", b"y")),
        ("GET", "/a\x7f", (b"x", b"y")),
        ("GE T", "/", (b"x", b"y")),
        ("", "/", (b"x", b"y")),
        ("GET", "/", (b"x", b"y\r\nz: 1")),
        ("GET", "/", (b"x", b"y\nz: 1")),
        ("GET", "/", (b"x", b"y\rz: 1")),
        ("GET", "/", (b"x", b"y\x00")),
        ("GET", "/", (b"x\r\ny", b"z")),
    ],
)
def test_a_request_that_would_break_its_lines_is_never_sent(method: str, target: str, header: Header) -> None:
    with pytest.raises(OriginFailure) as caught:
        request_head(method, target, [header])
    assert (caught.value.kind, caught.value.status) == ("OriginWriteError", 502)


# What is accepted. For each: the bytes, whether the origin closes after them, the status, the body, `length`,
# `sized`, and whether the connection serves a second request.

GOOD: dict[str, tuple[bytes, bool, int, bytes, int | None, bool, bool]] = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", False, 200, b"hello", 5, True, True),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", False, 200, b"", 0, True, True),
    "length with blanks": (OK + b"Content-Length:  5 \t\r\n\r\nhello", False, 200, b"hello", 5, True, True),
    "chunked": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        False, 200, b"hello", None, True, True,
    ),
    "chunked, extensions and trailers dropped": (
        OK + b"Transfer-Encoding: Chunked\r\n\r\n5;a=b;c\r\nhello\r\n0;x\r\nX-Trailer: 1\r\n\r\n",
        False, 200, b"hello", None, True, True,
    ),
    "until close": (OK + b"\r\nhello", True, 200, b"hello", None, False, False),
    "until close, empty": (OK + b"\r\n", True, 200, b"", None, False, False),
    "says close": (
        OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
        False, 200, b"hello", 5, True, False,
    ),
    "says close among others": (
        OK + b"Connection: keep-alive, Close\r\nContent-Length: 5\r\n\r\nhello",
        False, 200, b"hello", 5, True, False,
    ),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", True, 200, b"hello", 5, True, False),
    "HTTP/1.0 does not close although it should": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, 200, b"hello", 5, True, False,
    ),
    "HTTP/1.0 keep-alive": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
        False, 200, b"hello", 5, True, True,
    ),
    "HTTP/1.0 until close": (b"HTTP/1.0 200 OK\r\n\r\nhello", True, 200, b"hello", None, False, False),
    "HTTP/1.0 chunked closes": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        False, 200, b"", None, True, False,
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", False, 204, b"", 0, True, False),
    "204 with a body": (
        b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello",
        False, 204, b"", 0, True, False,
    ),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", False, 200, b"hello", 5, True, True),
    "100": (
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx",
        False, 200, b"x", 1, True, False,
    ),
    "103s": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + OK + b"Content-Length: 1\r\n\r\nx",
        False, 200, b"x", 1, True, True,
    ),
    "a 200 that speaks of an upgrade": (
        OK + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\nx",
        False, 200, b"x", 1, True, True,
    ),
    "more than its length": (OK + b"Content-Length: 2\r\n\r\nhello", False, 200, b"he", 2, True, False),
    "a second response": (
        OK + b"Content-Length: 2\r\n\r\nhe" + OK + b"Content-Length: 6\r\n\r\nstolen",
        False, 200, b"he", 2, True, False,
    ),
    "chunked and a second response": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + OK + b"Content-Length: 6\r\n\r\nstolen",
        False, 200, b"", None, True, False,
    ),
    "404": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", False, 404, b"no", 2, True, True),
    "599": (b"HTTP/1.1 599 X\r\nContent-Length: 2\r\n\r\nno", False, 599, b"no", 2, True, True),
    "headers up to the limit": (
        OK + b"X: " + b"y" * (20480 - 5 - 19) + b"\r\nContent-Length: 0\r\n\r\n",
        False, 200, b"", 0, True, True,
    ),
}  # fmt: skip


# When sent byte by byte, bytes that follow a response arrive after the connection was released and meet the next
# request.
FOLLOWED = {"204 with a body", "more than its length", "a second response", "chunked and a second response"}


@pytest.mark.uvloop
@rows(
    ("name", "bytewise"),
    [(name, False) for name in GOOD] + [(name, True) for name in GOOD if name not in FOLLOWED],
)
@fresh(origins=client, origin=flawless_origin)
async def test_good_responses(origins: Origins, origin: ScriptedOrigin, name: str, bytewise: bool) -> None:
    data, closes, status, body, length, sized, reused = GOOD[name]
    script = trickle(data) if bytewise else [data]
    origin.on("/", [*script, CLOSE] if closes else script)
    for _ in range(2):
        reply = await get(origins, origin.origin())
        assert reply.status == status
        assert (reply.length, reply.sized) == (length, sized)
        if reply.whole is not None:
            assert reply.whole == body
        assert await read(reply) == body
        assert await read(reply) == b""  # and no more
        await reply.aclose()
    assert origin.connections == (1 if reused else 2)


@pytest.mark.uvloop
@rows(
    "data",
    [
        OK + b"Content-Length: 5\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        OK + b"\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 99999999999\r\n\r\n",
    ],
)
@fresh(origins=client, origin=flawless_origin)
async def test_head_has_no_body(origins: Origins, origin: ScriptedOrigin, data: bytes) -> None:
    origin.on("/", [data])
    for _ in range(2):
        reply = await get(origins, origin.origin(), method="HEAD")
        assert (reply.whole, reply.length, reply.sized) == (b"", 0, True)
    # A body may still follow, announced or not: such a connection is not reused.
    assert origin.connections == 2


async def test_a_body_after_head_ends_the_connection(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", [OK + b"Content-Length: 5\r\n\r\nhello"], answer(200))
    for _ in range(2):
        reply = await get(origins, origin.origin(), method="HEAD")
        assert reply.whole == b""
    assert origin.connections == 2


@pytest.mark.uvloop
async def test_headers_come_as_the_origin_sent_them(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on(
        "/", [OK + b"Set-Cookie: a=1 \t\r\nX-Empty:\r\nset-COOKIE: b=\xe9\r\nContent-Length: 0\r\n\r\n"]
    )
    reply = await get(origins, origin.origin())
    assert reply.headers == [
        (b"set-cookie", b"a=1"),
        (b"x-empty", b""),
        (b"set-cookie", b"b=\xe9"),
        (b"content-length", b"0"),
    ]
    assert reply.reason == "OK"


async def test_nothing_of_a_second_response_leaks_into_the_first(
    origins: Origins, origin: ScriptedOrigin
) -> None:
    second = b"HTTP/1.1 404 Stolen\r\nX: y\r\nContent-Length: 6\r\n\r\nstolen"
    origin.on("/", [b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\nhe" + second])
    reply = await get(origins, origin.origin())
    assert (reply.status, reply.reason, reply.whole) == (201, "Made", b"he")
    assert reply.headers == [(b"content-length", b"2")]


# What is refused: `fetch` raises before the head is complete.

BAD: dict[str, tuple[Script, str, int]] = {
    "garbage": ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03"], "OriginInvalidResponseError", 502),
    "another protocol": ([b"220 mail.example ESMTP\r\n"], "OriginInvalidResponseError", 502),
    "HTTP/2": ([b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"], "OriginInvalidResponseError", 502),
    "HTTP/0.9": ([b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n"], "OriginInvalidResponseError", 502),
    "status 000": ([b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n"], "OriginInvalidResponseError", 502),
    "status 600": ([b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n"], "OriginInvalidResponseError", 502),
    "status 2000": ([b"HTTP/1.1 2000 X\r\nContent-Length: 0\r\n\r\n"], "OriginInvalidResponseError", 502),
    "no colon": ([OK + b"Content-Length\r\n\r\n"], "OriginInvalidResponseError", 502),
    "NUL": ([OK + b"A: b\0c\r\nContent-Length: 0\r\n\r\n"], "OriginInvalidResponseError", 502),
    "bare CR": ([OK + b"A: b\rc\r\nContent-Length: 0\r\n\r\n"], "OriginInvalidResponseError", 502),
    "length and chunked": (
        [OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
        "OriginInvalidResponseError", 502,
    ),
    "chunked and length": (
        [OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"],
        "OriginInvalidResponseError", 502,
    ),
    "two lengths": (
        [OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"], "OriginInvalidResponseError", 502,
    ),
    "a list of lengths": ([OK + b"Content-Length: 5, 6\r\n\r\nhello"], "OriginInvalidResponseError", 502),
    "length -1": ([OK + b"Content-Length: -1\r\n\r\n"], "OriginInvalidResponseError", 502),
    "length +5": ([OK + b"Content-Length: +5\r\n\r\nhello"], "OriginInvalidResponseError", 502),
    "length 0x5": ([OK + b"Content-Length: 0x5\r\n\r\nhello"], "OriginInvalidResponseError", 502),
    "length empty": ([OK + b"Content-Length: \r\n\r\nhello"], "OriginInvalidResponseError", 502),
    "length huge": (
        [OK + b"Content-Length: 99999999999999999999\r\n\r\n"],
        "OriginInvalidResponseError", 502,
    ),
    "gzip, chunked": (
        [OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"], "OriginInvalidResponseError", 502,
    ),
    "chunked, identity": (
        [OK + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"], "OriginInvalidResponseError", 502,
    ),
    "chunked twice": (
        [OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
        "OriginInvalidResponseError", 502,
    ),
    "xchunked": ([OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"], "OriginInvalidResponseError", 502),
    "bad chunk with the head": (
        [OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], "OriginInvalidResponseError", 502,
    ),
    "101": (
        [b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"],
        "OriginInvalidResponseError", 502,
    ),
    "101 alone": ([b"HTTP/1.1 101 Switching Protocols\r\n\r\n"], "OriginInvalidResponseError", 502),
    "103 with a body": (
        [b"HTTP/1.1 103 Hints\r\nContent-Length: 3\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"],
        "OriginInvalidResponseError", 502,
    ),
    "199 with chunks": (
        [b"HTTP/1.1 199 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], "OriginInvalidResponseError", 502,
    ),
    "two 100": (
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + OK + b"Content-Length: 0\r\n\r\n"],
        "OriginInvalidResponseError", 502,
    ),
    "headers over the limit": (
        [OK + b"X: " + b"y" * (20481 - 5 - 19) + b"\r\nContent-Length: 0\r\n\r\n"],
        "OriginHeaderTooBigError", 502,
    ),
    "many headers over the limit": ([OK + b"X: y\r\n" * 4000], "OriginHeaderTooBigError", 502),
    "one endless header": (
        [OK + b"X: ", b"y" * 10000, b"y" * 10000, b"y" * 10000],
        "OriginHeaderTooBigError", 502,
    ),
    "an endless reason": ([b"HTTP/1.1 200 " + b"y" * 30000], "OriginHeaderTooBigError", 502),
    "endless 103": ([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000], "OriginHeaderTooBigError", 502),
    "closed at once": ([CLOSE], "OriginCommError", 502),
    "reset at once": ([RESET], "OriginCommError", 502),
    "closed within the head": ([OK + b"Content-", CLOSE], "OriginCommError", 502),
    "closed after 100": ([b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE], "OriginCommError", 502),
    "silent": ([], "OriginReadError", 504),
    "silent within the head": ([OK + b"Content-"], "OriginReadError", 504),
    "silent after 103": ([b"HTTP/1.1 103 Early Hints\r\n\r\n"], "OriginReadError", 504),
}  # fmt: skip


@pytest.mark.uvloop
@rows("name", BAD)
@fresh(origins=client, origin=flawless_origin)
async def test_bad_heads(origins: Origins, origin: ScriptedOrigin, name: str) -> None:
    script, kind, status = BAD[name]
    origin.on("/", script)
    with pytest.raises(OriginFailure) as caught:
        await get(origins, origin.origin(read_timeout=SHORT, connection_attempts=1))
    assert (caught.value.kind, caught.value.status) == (kind, status)
    assert len(origin.requests) == 1
    await origin.disconnected(1)  # the connection is closed


# What is refused later: the head was good, and the body's iterator raises on what followed.

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"

BAD_BODIES: dict[str, tuple[Script, str, int]] = {
    "closed before its length": ([OK + b"Content-Length: 9\r\n\r\nhello", CLOSE], "OriginCommError", 502),
    "silent before its length": ([OK + b"Content-Length: 9\r\n\r\nhello"], "OriginReadError", 504),
    "closed within chunked": ([CHUNKED, CLOSE], "OriginCommError", 502),
    "closed within a chunk": ([CHUNKED + b"5\r\nhe", CLOSE], "OriginCommError", 502),
    "silent within chunked": ([CHUNKED], "OriginReadError", 504),
    "not a chunk": ([CHUNKED + b"xyz\r\n"], "OriginInvalidResponseError", 502),
    "chunk too long": ([CHUNKED + b"2\r\nhello\r\n"], "OriginInvalidResponseError", 502),
    "chunk huge": ([CHUNKED + b"f" * 17 + b"\r\n"], "OriginInvalidResponseError", 502),
    "chunk -1": ([CHUNKED + b"-1\r\n"], "OriginInvalidResponseError", 502),
    "chunk with bare LF": ([CHUNKED + b"0\n\n"], "OriginInvalidResponseError", 502),
    "endless extension": ([CHUNKED, b"5;", b"x" * 30000, b"x" * 30000], "OriginInvalidResponseError", 502),
    "endless trailers": ([CHUNKED, b"0\r\n", b"X: y\r\n" * 9000], "OriginInvalidResponseError", 502),
}  # fmt: skip


@pytest.mark.uvloop
@rows("name", BAD_BODIES)
@fresh(origins=client, origin=flawless_origin)
async def test_bad_bodies(origins: Origins, origin: ScriptedOrigin, name: str) -> None:
    script, kind, status = BAD_BODIES[name]
    origin.on("/", script)
    reply = await get(origins, origin.origin(read_timeout=SHORT))
    assert (reply.status, reply.whole) == (200, None)
    received = b""
    with pytest.raises(OriginFailure) as caught:
        async for chunk in reply.body:
            received += chunk
    assert (caught.value.kind, caught.value.status) == (kind, status)
    assert received.startswith(b"hello")  # what arrived before is not withheld
    await reply.aclose()
    assert len(origin.requests) == 1  # once a head has been passed on, nothing is retried
    await origin.disconnected(1)


async def test_a_reset_within_an_unframed_body_is_no_end(origins: Origins, origin: ScriptedOrigin) -> None:
    seen = asyncio.Event()
    origin.on("/", [OK + b"\r\nhello", seen, RESET])
    reply = await get(origins, origin.origin())
    assert await anext(reply.body) == b"hello"
    seen.set()
    with pytest.raises(OriginFailure) as caught:
        await anext(reply.body)
    assert caught.value.kind == "OriginCommError"


# Connections: reused, released, never trusted too far.


async def test_a_connection_is_reused(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", answer(200, b"x"))
    replies = [await get(origins, origin.origin()) for _ in range(5)]
    assert origin.connections == 1
    assert replies[0].connect_time >= 0.0
    assert [reply.connect_time for reply in replies[1:]] == [0.0] * 4


async def test_requests_at_once_have_connections_of_their_own(
    origins: Origins, origin: ScriptedOrigin
) -> None:
    go = asyncio.Event()
    origin.on("/", [go, *answer(200, b"x")])
    first = asyncio.gather(*[get(origins, origin.origin()) for _ in range(5)])
    await origin.received(5)
    go.set()
    await first
    await asyncio.gather(*[get(origins, origin.origin()) for _ in range(5)])
    assert origin.connections == 5


@pytest.mark.uvloop
async def test_idle_connections_of_an_origin_are_bounded(origin: ScriptedOrigin) -> None:
    origins = Origins(max_idle_per_origin=2)
    go = asyncio.Event()
    origin.on("/", [go, *answer(200, b"x")])
    asked = asyncio.gather(*[get(origins, origin.origin()) for _ in range(5)])
    await origin.received(5)
    go.set()
    await asked
    await origin.disconnected(3)
    await asyncio.gather(*[get(origins, origin.origin()) for _ in range(2)])
    assert origin.connections == 5
    await origins.aclose()
    await origin.disconnected(5)


@pytest.mark.uvloop
async def test_idle_connections_of_all_origins_are_bounded() -> None:
    origins = Origins(max_idle=1)
    async with ScriptedOrigin() as one, ScriptedOrigin() as two:
        for origin in (one, two):
            origin.on("/", answer(200, b"x"))
            await get(origins, origin.origin())
        await asyncio.wait(
            [asyncio.ensure_future(one.disconnected(1)), asyncio.ensure_future(two.disconnected(1))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert one.closed + two.closed == 1
        await origins.aclose()


async def test_an_idle_connection_is_closed_in_time(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", answer(200, b"x"))
    await get(origins, origin.origin(keepalive_timeout=SHORT))
    await origin.disconnected(1)
    await get(origins, origin.origin())
    assert origin.connections == 2


@pytest.mark.uvloop
async def test_the_origin_may_promise_less(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", answer(200, b"x", {"Keep-Alive": "timeout=1, max=100"}))
    await get(origins, origin.origin(keepalive_timeout=60))
    async with asyncio.timeout(1.5):
        await origin.disconnected(1)


async def test_an_idle_connection_closed_by_the_origin_is_forgotten(
    origins: Origins, origin: ScriptedOrigin
) -> None:
    bye = asyncio.Event()
    origin.on("/", [*answer(200, b"x"), bye, CLOSE], answer(200, b"y"))
    await get(origins, origin.origin())
    bye.set()
    await origin.disconnected(1)
    assert (await get(origins, origin.origin())).whole == b"y"
    assert [request.connection for request in origin.requests] == [0, 1]


async def test_bytes_on_an_idle_connection_close_it(origins: Origins, origin: ScriptedOrigin) -> None:
    more = asyncio.Event()
    poison = OK + b"Content-Length: 6\r\n\r\npoison"
    origin.on("/", [*answer(200, b"x"), more, poison], answer(200, b"y"))
    assert (await get(origins, origin.origin())).whole == b"x"
    more.set()
    await origin.disconnected(1)
    assert (await get(origins, origin.origin())).whole == b"y"
    assert origin.connections == 2


@pytest.mark.uvloop
async def test_different_origins_share_no_connection(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", answer(200, b"x"))
    await get(origins, origin.origin(domain_name="127.0.0.1"))
    await get(origins, origin.origin(domain_name="localhost"))
    assert origin.connections == 2


async def test_a_reply_closed_early_closes_its_connection(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", [OK + b"Content-Length: 9999999\r\n\r\nhello"], answer(200, b"y"))
    reply = await get(origins, origin.origin())
    await reply.aclose()
    await reply.aclose()
    await origin.disconnected(1)
    with pytest.raises(OriginFailure):
        await anext(reply.body)


async def test_a_reply_closed_near_its_end_is_drained(origins: Origins, origin: ScriptedOrigin) -> None:
    rest = asyncio.Event()
    done = asyncio.Event()

    async def tell(_: ReceivedRequest, __: Wire) -> None:
        done.set()

    origin.on("/", [OK + b"Content-Length: 10\r\n\r\nhello", rest, b"world", tell], answer(200, b"y"))
    reply = await get(origins, origin.origin())
    await reply.aclose()
    rest.set()
    await done.wait()
    for _ in range(50):  # until the rest has been received
        if origins.pools.idle:
            break
        await asyncio.sleep(0.01)
    assert (await get(origins, origin.origin())).whole == b"y"
    assert origin.connections == 1


async def test_draining_takes_no_longer_than_a_moment(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", [OK + b"Content-Length: 10\r\n\r\nhello"])
    reply = await get(origins, origin.origin(read_timeout=SHORT))
    await reply.aclose()
    await origin.disconnected(1)


async def test_a_caller_that_leaves_ends_the_connection(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", [])
    asking = asyncio.ensure_future(get(origins, origin.origin()))
    await origin.received(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await origin.disconnected(1)


async def test_a_caller_cancelled_late_does_not_break_the_next_callers_response(
    origins: Origins, origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is cancelled when its response is complete and the connection already serves another caller."""
    origin.on("/first", answer(200, b"first"))
    origin.on("/second", answer(200, b"second"))
    free = asyncio.Event()
    finish = Connection._finish

    async def second() -> bytes:
        await free.wait()
        return await read(await get(origins, origin.origin(), "/second"))

    def finish_and_leave(connection: Connection, incoming: ResponseReader) -> None:
        finish(connection, incoming)
        if not free.is_set():
            free.set()
            leaving.cancel()

    monkeypatch.setattr(Connection, "_finish", finish_and_leave)
    waiting = asyncio.create_task(second())
    await asyncio.sleep(0)
    leaving = asyncio.create_task(get(origins, origin.origin(), "/first"))
    assert await waiting == b"second"
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert origin.connections == 1


async def test_closing_ends_what_is_open(origin: ScriptedOrigin) -> None:
    origins = Origins()
    origin.on("/slow", [])
    origin.on("/", answer(200, b"x"))
    await get(origins, origin.origin())
    asking = asyncio.ensure_future(get(origins, origin.origin(connection_attempts=1), "/slow"))
    await origin.received(2)
    await origins.aclose()
    with pytest.raises(OriginFailure):
        await asking
    await origin.disconnected(1)
    with pytest.raises(RuntimeError):
        await get(origins, origin.origin())


# Attempts.

FAILS: dict[str, Script] = {
    "silent": [],
    "closed": [CLOSE],
    "reset": [RESET],
    "cut off": [OK + b"Content-Le", CLOSE],
    "broken with the head": [OK + b"Content-Length: 5\r\n\r\n", CLOSE],
}


@pytest.mark.uvloop
@rows(
    ("method", "fault", "attempts", "asked", "status"),
    [
        ("GET", "silent", 3, 2, 200),
        ("GET", "closed", 3, 2, 200),
        ("GET", "reset", 2, 2, 200),
        ("GET", "cut off", 3, 2, 200),
        ("HEAD", "closed", 3, 2, 200),
        ("GET", "silent", 1, 1, 504),
        ("GET", "closed", 1, 1, 502),
        ("OPTIONS", "silent", 3, 1, 504),
        ("OPTIONS", "closed", 3, 1, 502),
        ("DELETE", "closed", 3, 1, 502),
        ("POST", "silent", 3, 1, 504),
        ("POST", "closed", 3, 1, 502),
    ],
)
@fresh(origins=client, origin=flawless_origin)
async def test_attempts(
    origins: Origins, origin: ScriptedOrigin, method: str, fault: str, attempts: int, asked: int, status: int
) -> None:
    origin.on("/", FAILS[fault], answer(200))
    settings = origin.origin(read_timeout=SHORT, connection_attempts=attempts)
    try:
        got = (await get(origins, settings, method=method)).status
    except OriginFailure as failure:
        got = failure.status
    assert (got, len(origin.requests)) == (status, asked)


@pytest.mark.uvloop
async def test_attempts_end(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", [CLOSE])
    with pytest.raises(OriginFailure):
        await get(origins, origin.origin(connection_attempts=3))
    assert len(origin.requests) == 3


@pytest.mark.uvloop
async def test_a_malformed_response_is_not_retried(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", [b"garbage\r\n\r\n"])
    with pytest.raises(OriginFailure):
        await get(origins, origin.origin(connection_attempts=3))
    assert len(origin.requests) == 1


@rows(
    ("method", "chunks", "status"),
    [
        ("GET", None, 200),
        ("HEAD", None, 200),
        ("OPTIONS", None, 200),
        ("DELETE", None, 200),
        ("PUT", None, 200),
        ("POST", None, 502),
        ("PATCH", None, 502),
        ("PUT", [b"x"], 502),
        ("GET", [b"x"], 502),
    ],
)
@fresh(origins=client, origin=flawless_origin)
async def test_a_stale_connection_costs_no_attempt(
    origins: Origins, origin: ScriptedOrigin, method: str, chunks: list[bytes] | None, status: int
) -> None:
    """The origin closes while the next request is on its way to it."""
    origin.on("/first", answer(200))
    origin.on("/", [CLOSE], answer(200))
    settings = origin.origin(connection_attempts=1)
    await get(origins, settings, "/first")
    body = None if chunks is None else body_of(chunks)
    try:
        reply = await origins.fetch(settings, OriginRequest("http", method, "/", HOST, body))
        got = reply.status
    except OriginFailure as failure:
        got = failure.status
    assert got == status
    assert origin.connections == (2 if status == 200 else 1)


async def test_a_second_stale_connection_is_not_tried(origins: Origins, origin: ScriptedOrigin) -> None:
    go = asyncio.Event()
    origin.on("/first", [go, *answer(200)])
    firsts = asyncio.gather(*[get(origins, origin.origin(), "/first") for _ in range(3)])
    await origin.received(3)
    go.set()
    await firsts
    origin.on("/", [CLOSE], answer(200))
    assert (await get(origins, origin.origin(connection_attempts=1))).status == 200
    assert origin.requests[-1].connection == 3  # a new one


async def test_what_cannot_be_repeated_gets_a_fresh_connection(
    origins: Origins, origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyfront.edge.origin.client.RECENT", 0.05)
    origin.on("/", answer(200))
    await get(origins, origin.origin())
    await asyncio.sleep(0.1)
    await get(origins, origin.origin(), method="POST")
    assert [request.connection for request in origin.requests] == [0, 1]
    await get(origins, origin.origin())
    await get(origins, origin.origin(), method="POST")
    assert [request.connection for request in origin.requests][2:] == [1, 1]


# Connecting.


@pytest.mark.parametrize("attempts", [1, 3])
async def test_refused(origins: Origins, attempts: int) -> None:
    origin = Origin(id="o", domain_name="127.0.0.1", http_port=closed_port(), connection_attempts=attempts)
    with pytest.raises(OriginFailure) as caught:
        await get(origins, origin)
    assert (caught.value.kind, caught.value.status) == ("OriginConnectError", 502)
    assert "ECONNREFUSED" in caught.value.detail


@pytest.fixture
def deaf() -> Iterator[int]:
    with deaf_port() as port:
        yield port


@pytest.mark.parametrize("attempts", [1, 2])
async def test_no_connection_in_time(origins: Origins, deaf: int, attempts: int) -> None:
    origin = Origin(
        id="o",
        domain_name="127.0.0.1",
        http_port=deaf,
        connection_attempts=attempts,
        connection_timeout=SHORT,
    )
    loop = asyncio.get_running_loop()
    begin = loop.time()
    with pytest.raises(OriginFailure) as caught:
        await get(origins, origin)
    assert (caught.value.kind, caught.value.status) == ("OriginConnectError", 504)
    assert SHORT * attempts * 0.9 < loop.time() - begin < SHORT * attempts + 0.5


@pytest.mark.uvloop
async def test_a_name_that_does_not_exist(origins: Origins) -> None:
    with pytest.raises(OriginFailure) as caught:
        await get(origins, Origin(id="o", domain_name="no-such-host.invalid"))
    assert (caught.value.kind, caught.value.status) == ("OriginDnsError", 502)


@pytest.mark.uvloop
async def test_a_name_that_cannot_exist(origins: Origins) -> None:
    with pytest.raises(OriginFailure) as caught:
        await get(origins, Origin(id="o", domain_name="a" * 300))
    assert (caught.value.kind, caught.value.status) == ("OriginDnsError", 502)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_caller_that_leaves_while_connecting(origins: Origins, deaf: int, scheme: str) -> None:
    forever = asyncio.Event()
    async with ScriptedOrigin(greeting=[forever]) as silent:
        for port in (deaf, silent.port):
            settings = Origin(id="o", domain_name="127.0.0.1", http_port=port, https_port=port)
            asking = asyncio.ensure_future(origins.fetch(settings, OriginRequest(scheme, "GET", "/", HOST)))
            if port == silent.port:
                await silent.connected(1)
            else:
                await asyncio.sleep(0.05)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        async with asyncio.timeout(5):
            while origins.pools.open:
                await asyncio.sleep(0.01)


class Resolver:
    """Answers name lookups. `answers` are consumed; None is a failure."""

    def __init__(self, *answers: list[str] | None) -> None:
        self.answers = list(answers)
        self.asked = 0

    def look_up(self, host: str, port: int) -> Any:
        self.asked += 1
        found = self.answers.pop(0)
        if found is None:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


@pytest.mark.uvloop
async def test_host_names_are_resolved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyfront.edge.origin.connect.NAME_TTL", 0.05)
    resolver = Resolver(None, ["192.0.2.1"], ["192.0.2.2", "192.0.2.3"], ["192.0.2.4"], [])
    monkeypatch.setattr("keyfront.edge.origin.connect._look_up", resolver.look_up)
    names = DnsCache()

    async def ask() -> list[str]:
        return [address[0] for _, address in await names.resolve("o.example", 80)]

    with pytest.raises(OriginFailure):
        await ask()
    assert [*await asyncio.gather(ask(), ask())] == [["192.0.2.1"]] * 2  # the failure is not cached
    assert await ask() == ["192.0.2.1"]
    assert resolver.asked == 2  # concurrent lookups shared one query, the next one its answer
    await asyncio.sleep(0.1)
    assert await ask() == ["192.0.2.2", "192.0.2.3"]
    names.forget("o.example")
    leaving = asyncio.ensure_future(ask())
    staying = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == ["192.0.2.4"]
    names.forget("o.example")
    with pytest.raises(OriginFailure):
        await ask()
    names.close()


async def test_the_next_address_is_tried(origin: ScriptedOrigin, deaf: int) -> None:
    good = (socket.AF_INET, ("127.0.0.1", origin.port))
    refused = (socket.AF_INET, ("127.0.0.1", closed_port()))
    stuck = (socket.AF_INET, ("127.0.0.1", deaf))
    for addresses in ([refused, good], [stuck, good], [good, refused], [refused, stuck, refused, good]):
        sock = await first_connected(addresses)
        assert sock.getpeername() == good[1]
        sock.close()
    with pytest.raises(ConnectionRefusedError):
        await first_connected([refused, refused])


def test_families_take_turns() -> None:
    four = [(socket.AF_INET, (str(n), 1)) for n in range(3)]
    six = [(socket.AF_INET6, (str(n), 1, 0, 0)) for n in range(2)]
    assert alternating([*six, *four]) == [six[0], four[0], six[1], four[1], four[2]]
    assert alternating([*four, *six]) == [four[0], six[0], four[1], six[1], four[2]]
    assert alternating([]) == []


async def test_an_ipv6_origin(origins: Origins) -> None:
    try:
        server = ScriptedOrigin(host="::1")
        await server.__aenter__()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    server.on("/", answer(200, b"six"))
    for name in ("::1", "[::1]"):
        assert (await get(origins, server.origin(domain_name=name))).whole == b"six"
    await server.stop()


# Time.


async def test_a_slow_answer_in_time_is_no_failure(origins: Origins, origin: ScriptedOrigin) -> None:
    async def slowly(_: ReceivedRequest, wire: Wire) -> None:
        for byte in OK + b"Content-Length: 1\r\n\r\nx":
            wire.writer.write(bytes([byte]))
            await asyncio.sleep(SHORT / 20)

    origin.on("/", [slowly])
    reply = await get(origins, origin.origin(read_timeout=SHORT))
    assert await read(reply) == b"x"


@pytest.mark.uvloop
@pytest.mark.parametrize(
    "script",
    [[], [CLOSE]],
    ids=["silent", "retried"],
)
async def test_the_response_completion_timeout_counts_attempts(
    origins: Origins, origin: ScriptedOrigin, script: Script
) -> None:
    origin.on("/", script, [])
    settings = origin.origin(response_completion_timeout=SHORT, read_timeout=30.0, connection_attempts=3)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    with pytest.raises(OriginFailure) as caught:
        await get(origins, settings)
    assert (caught.value.kind, caught.value.status) == ("OriginCommError", 504)
    assert loop.time() - begin < SHORT + 0.5


async def test_the_response_completion_timeout_ends_a_body(origins: Origins, origin: ScriptedOrigin) -> None:
    async def forever(_: ReceivedRequest, wire: Wire) -> None:
        while True:
            await wire.send(b"x" * 100)
            await asyncio.sleep(0.01)

    origin.on("/", [OK + b"\r\n", forever])
    reply = await get(origins, origin.origin(response_completion_timeout=SHORT))
    with pytest.raises(OriginFailure) as caught:
        await read(reply)
    assert (caught.value.kind, caught.value.status) == ("OriginCommError", 504)


async def test_the_response_completion_timeout_is_over_with_the_response(
    origins: Origins, origin: ScriptedOrigin
) -> None:
    origin.on("/", answer(200, b"x"))
    settings = origin.origin(response_completion_timeout=SHORT)
    await get(origins, settings)
    await asyncio.sleep(SHORT * 1.5)
    assert (await get(origins, settings)).whole == b"x"
    assert origin.connections == 1


# Back-pressure.

MIB = 1 << 20


def flood(size: int) -> Script:
    async def send(_: ReceivedRequest, wire: Wire) -> None:
        block = bytes(range(256)) * 256
        for _round in range(size // len(block)):
            await wire.send(block)

    return [OK + b"Content-Length: %d\r\n\r\n" % size, send]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_slow_consumer_stops_the_origin(tmp_path: Path, scheme: str) -> None:
    size = 32 * MIB
    authority = Authority(tmp_path)
    origins = Origins(ca_file=authority.ca_file)
    async with ScriptedOrigin(tls=authority.server("127.0.0.1") if scheme == "https" else None) as origin:
        origin.on("/", flood(size))
        settings = origin.origin()
        reply = await origins.fetch(settings, OriginRequest(scheme, "GET", "/", HOST))
        wire = origin.wires[0]
        await wire.blocked.wait()
        incoming = reply.body
        assert isinstance(incoming, ResponseReader)
        # Our buffers are bounded; the kernel's buffers are not ours.
        assert incoming._buffered <= HIGH_WATER + 256 * 1024
        assert wire.sent < size // 2
        # The consumer's time does not count against the origin's read timeout: its deadline is suspended. (A short
        # timeout that passes meanwhile would also pass whenever a busy machine stops this process for as long.)
        connection = incoming._connection
        assert isinstance(connection, Connection)
        assert connection._deadline == NEVER
        received = 0
        async for chunk in reply.body:
            received += len(chunk)
            assert incoming._buffered <= HIGH_WATER + 256 * 1024
        assert received == size
        reply = await origins.fetch(settings, OriginRequest(scheme, "GET", "/", HOST))
        await reply.aclose()
        assert origin.connections == 1
        await origins.aclose()


async def test_silence_after_a_pause_is_noticed(origins: Origins, origin: ScriptedOrigin) -> None:
    size = 8 * MIB
    script = flood(size)
    origin.on("/", [OK + b"Content-Length: %d\r\n\r\n" % (size + 1), *script[1:]])
    reply = await get(origins, origin.origin(read_timeout=1.0))
    await origin.wires[0].blocked.wait()
    received = 0
    with pytest.raises(OriginFailure) as caught:
        async for chunk in reply.body:
            received += len(chunk)
    assert (received, caught.value.kind) == (size, "OriginReadError")


async def test_a_slow_origin_stops_the_request_body(origins: Origins, origin: ScriptedOrigin) -> None:
    read_on = asyncio.Event()
    origin.on("/", [LEAVE_BODY, read_on, READ_BODY, *answer(200)])
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(32 * 16):
            sent += 65536
            yield b"x" * 65536

    asking = asyncio.ensure_future(
        origins.fetch(origin.origin(), OriginRequest("http", "POST", "/", HOST, body(), 32 * MIB))
    )
    await origin.received(1)
    before = -1
    while before != sent:  # until no more bytes move
        before = sent
        await asyncio.sleep(0.1)
    assert sent < 20 * MIB
    read_on.set()
    assert (await asking).status == 200
    assert len(origin.requests[0].body) == 32 * MIB


async def test_an_origin_that_stops_reading(origins: Origins, origin: ScriptedOrigin) -> None:
    forever = asyncio.Event()
    origin.on("/", [LEAVE_BODY, forever])

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    with pytest.raises(OriginFailure) as caught:
        await origins.fetch(
            origin.origin(read_timeout=SHORT), OriginRequest("http", "POST", "/", HOST, body())
        )
    assert (caught.value.kind, caught.value.status) == ("OriginWriteError", 504)


# Request bodies that fail.


async def test_a_viewer_that_leaves_ends_the_request(origins: Origins, origin: ScriptedOrigin) -> None:
    class ViewerLeft(Exception):
        pass

    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        await origin.connected(1)
        raise ViewerLeft

    with pytest.raises(ViewerLeft):
        await origins.fetch(origin.origin(), OriginRequest("http", "POST", "/", HOST, body()))
    await origin.disconnected(1)
    assert origin.requests == []  # never a complete request


async def test_a_body_that_is_cancelled_ends_the_request(origins: Origins, origin: ScriptedOrigin) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise asyncio.CancelledError

    with pytest.raises(OriginFailure) as caught:
        await origins.fetch(origin.origin(), OriginRequest("http", "POST", "/", HOST, body()))
    assert caught.value.kind == "OriginWriteError"
    await origin.disconnected(1)


@rows(("sent", "length"), [(b"abc", 5), (b"abcdef", 5)])
@fresh(origins=client, origin=flawless_origin)
async def test_a_body_of_another_length_is_not_passed_on(
    origins: Origins, origin: ScriptedOrigin, sent: bytes, length: int
) -> None:
    with pytest.raises(OriginFailure) as caught:
        await origins.fetch(
            origin.origin(), OriginRequest("http", "POST", "/", HOST, body_of([sent]), length)
        )
    assert caught.value.kind == "OriginWriteError"
    await origin.disconnected(1)
    assert origin.requests == []


async def test_a_slow_viewer_is_not_the_origins_fault(origins: Origins, origin: ScriptedOrigin) -> None:
    origin.on("/", answer(200))

    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(SHORT * 2)
        yield b"b"

    settings = origin.origin(read_timeout=SHORT)
    assert (await origins.fetch(settings, OriginRequest("http", "POST", "/", HOST, body()))).status == 200
    assert origin.requests[0].body == b"ab"


async def test_the_read_timeout_begins_when_the_body_is_sent(
    origins: Origins, origin: ScriptedOrigin
) -> None:
    origin.on("/", [])
    with pytest.raises(OriginFailure) as caught:
        await origins.fetch(
            origin.origin(read_timeout=SHORT), OriginRequest("http", "POST", "/", HOST, body_of([b"x"]))
        )
    assert (caught.value.kind, caught.value.status) == ("OriginReadError", 504)


async def test_an_early_answer_is_passed_on(origins: Origins, origin: ScriptedOrigin) -> None:
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        await never.wait()

    origin.on("/", [LEAVE_BODY, *answer(413, b"too much")], answer(200))
    reply = await origins.fetch(origin.origin(), OriginRequest("http", "POST", "/", HOST, body()))
    assert (reply.status, reply.whole) == (413, b"too much")
    await origin.disconnected(1)  # half a request was sent on it


async def test_an_origin_that_answers_at_length_need_not_read(
    origins: Origins, origin: ScriptedOrigin
) -> None:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    async def slowly(_: ReceivedRequest, wire: Wire) -> None:
        for _round in range(10):
            await wire.send(b"y")
            await asyncio.sleep(SHORT / 4)

    origin.on("/", [LEAVE_BODY, OK + b"Content-Length: 10\r\n\r\n", slowly])
    reply = await origins.fetch(
        origin.origin(read_timeout=SHORT), OriginRequest("http", "POST", "/", HOST, body())
    )
    assert await read(reply) == b"y" * 10
    await origin.disconnected(1)


async def test_an_answer_may_begin_before_the_body_ends(origins: Origins, origin: ScriptedOrigin) -> None:
    more = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        await more.wait()
        yield b"b"

    origin.on("/", [LEAVE_BODY, OK + b"Content-Length: 2\r\n\r\n1", READ_BODY, b"2"])
    settings = origin.origin(read_timeout=SHORT)
    for _ in range(2):
        more.clear()
        reply = await origins.fetch(settings, OriginRequest("http", "POST", "/", HOST, body()))
        assert reply.whole is None
        assert await anext(reply.body) == b"1"
        more.set()
        assert await read(reply) == b"2"
    assert [request.body for request in origin.requests] == [b"ab", b"ab"]
    assert origin.connections == 2


# TLS.


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.uvloop
@rows(
    ("names", "asked_as", "host", "options", "failure"),
    [
        (["localhost"], "localhost", b"localhost", {}, None),
        (["127.0.0.1"], "127.0.0.1", b"127.0.0.1", {}, None),
        (["localhost"], "localhost", b"www.example.com", {}, None),  # the origin's own name is enough
        (["www.example.com"], "localhost", b"www.example.com", {}, None),  # or the forwarded Host
        (["www.example.com"], "localhost", b"WWW.example.com:8443", {}, None),
        (["*.example.com"], "localhost", b"www.example.com", {}, None),
        (["127.0.0.1"], "127.0.0.1", b"www.example.com", {}, None),
        (["elsewhere.example"], "localhost", b"localhost", {}, "localhost"),
        (["elsewhere.example"], "localhost", b"www.example.com", {}, "localhost"),
        (["localhost"], "127.0.0.1", b"127.0.0.1", {}, "127.0.0.1"),
        (["127.0.0.2"], "127.0.0.1", b"127.0.0.1", {}, "127.0.0.1"),
        (["localhost"], "localhost", b"localhost", {"expired": True}, "expired"),
        (["localhost"], "localhost", b"localhost", {"unknown": True}, "unable to get local issuer"),
    ],
)
async def test_certificates(
    authority: Authority,
    names: list[str],
    asked_as: str,
    host: bytes,
    options: dict[str, bool],
    failure: str | None,
) -> None:
    origins = Origins(ca_file=None if options.get("unknown") else authority.ca_file)
    server = authority.server(*names, expired=options.get("expired", False))
    async with ScriptedOrigin(tls=server) as origin:
        origin.on("/", answer(200, b"secret"))
        settings = origin.origin(domain_name=asked_as)
        for _ in range(2):
            try:
                reply = await origins.fetch(settings, OriginRequest("https", "GET", "/", [(b"host", host)]))
            except OriginFailure as refused:
                assert failure is not None, refused  # noqa: PT017
                assert (refused.kind, refused.status) == ("OriginConnectError", 502)  # noqa: PT017
                assert failure in refused.detail  # noqa: PT017
            else:
                assert failure is None
                assert reply.whole == b"secret"
        assert len(origin.requests) == (0 if failure else 2)
        await origins.aclose()


@pytest.mark.uvloop
async def test_sni_names_the_host(authority: Authority) -> None:
    seen: list[str | None] = []
    server = authority.server("www.example.com", "localhost")
    server.sni_callback = lambda _, name, __: seen.append(name)
    origins = Origins(ca_file=authority.ca_file)
    async with ScriptedOrigin(tls=server) as origin:
        origin.on("/", answer(200))
        settings = origin.origin(domain_name="localhost")
        for host in (b"www.example.com", b"localhost", b"www.example.com:443", b"localhost"):
            await origins.fetch(settings, OriginRequest("https", "GET", "/", [(b"host", host)]))
        assert seen == ["www.example.com", "localhost"]
        assert origin.connections == 2  # one identity, one set of connections
        await origins.aclose()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_authorities_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match="no certificate authorities"):
        Origins(ca_file=str(path))


@pytest.mark.uvloop
@rows(
    "host",
    [
        b"",
        b".",
        b"a..b",
        b".localhost",
        b"a b",
        b"\xff",
        b"x" * 64,
        b"x." * 200,
        b"[::1]:443",
        b"a\x00b",
        b"-",
    ],
)
async def test_a_forwarded_host_that_is_no_name(authority: Authority, host: bytes) -> None:
    origins = Origins(ca_file=authority.ca_file)
    async with ScriptedOrigin(tls=authority.server("localhost")) as origin:
        origin.on("/", answer(200))
        settings = origin.origin(domain_name="localhost")
        try:
            reply = await origins.fetch(settings, OriginRequest("https", "GET", "/", [(b"host", host)]))
        except OriginFailure as failure:
            assert (failure.kind, b"\0" in host) == ("OriginWriteError", True)  # noqa: PT017
        else:
            assert reply.status == 200
        await origins.aclose()


@pytest.mark.uvloop
@rows(
    ("protocols", "highest", "works"),
    [
        (("TLSv1.2",), ssl.TLSVersion.TLSv1_2, True),
        (("TLSv1.2",), ssl.TLSVersion.TLSv1_3, True),
        (("TLSv1", "TLSv1.1", "TLSv1.2"), ssl.TLSVersion.TLSv1_2, True),
        (("SSLv3", "TLSv1"), ssl.TLSVersion.TLSv1_3, True),
        (("TLSv1.3",), ssl.TLSVersion.TLSv1_2, False),
        (("SSLv3",), ssl.TLSVersion.TLSv1_3, False),
    ],
)
async def test_tls_versions(
    authority: Authority, protocols: tuple[str, ...], highest: ssl.TLSVersion, works: bool
) -> None:
    origins = Origins(ca_file=authority.ca_file)
    async with ScriptedOrigin(tls=authority.server("localhost", highest=highest)) as origin:
        origin.on("/", answer(200))
        settings = origin.origin(domain_name="localhost", ssl_protocols=protocols)
        if works:
            assert (await origins.fetch(settings, OriginRequest("https", "GET", "/", HOST))).status == 200
        else:
            with pytest.raises(OriginFailure) as caught:
                await origins.fetch(settings, OriginRequest("https", "GET", "/", HOST))
            assert (caught.value.kind, caught.value.status) == ("OriginConnectError", 502)
        await origins.aclose()


@pytest.mark.uvloop
async def test_http_on_the_https_port(origins: Origins) -> None:
    async with ScriptedOrigin(greeting=[b"HTTP/1.1 400 Bad Request\r\n\r\n", CLOSE]) as origin:
        with pytest.raises(OriginFailure) as caught:
            await origins.fetch(origin.origin(), OriginRequest("https", "GET", "/", HOST))
        assert (caught.value.kind, caught.value.status) == ("OriginConnectError", 502)


async def test_tls_that_is_never_finished(origins: Origins) -> None:
    forever = asyncio.Event()
    async with ScriptedOrigin(greeting=[forever]) as origin:
        settings = origin.origin(connection_timeout=SHORT, connection_attempts=2)
        with pytest.raises(OriginFailure) as caught:
            await origins.fetch(settings, OriginRequest("https", "GET", "/", HOST))
        assert (caught.value.kind, caught.value.status) == ("OriginConnectError", 504)
        assert origin.connections == 2


@pytest.mark.parametrize("size", [0, 1, MIB, 8 * MIB])
async def test_bodies_over_tls(authority: Authority, size: int) -> None:
    body = random.Random(size).randbytes(size)
    origins = Origins(ca_file=authority.ca_file)
    async with ScriptedOrigin(tls=authority.server("localhost")) as origin:
        origin.on("/", [READ_BODY, *answer(200, body)])
        settings = origin.origin(domain_name="localhost")
        for _ in range(2):
            sent = body_of([body[at : at + 50_000] for at in range(0, size, 50_000)])
            reply = await origins.fetch(settings, OriginRequest("https", "POST", "/", HOST, sent))
            assert await read(reply) == body
        assert [request.body == body for request in origin.requests] == [True, True]
        assert origin.connections == 2  # after a body it is not reused
        await origins.aclose()


@contextlib.contextmanager
def hasty_server(context: ssl.SSLContext, data: bytes, *, goodbye: bool) -> Iterator[int]:
    """A server that answers each connection with `data` and closes immediately, with or without TLS's
    close_notify."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as viewer:
                viewer.recv(65536)
                viewer.sendall(data)
                if goodbye:
                    viewer.setblocking(False)
                    with contextlib.suppress(ssl.SSLWantReadError):
                        viewer.unwrap()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@pytest.mark.parametrize("size", [100_000, 600_000, 900_000, 3_000_000])
@pytest.mark.parametrize("pause", [0.0, 0.3])
async def test_a_late_reader_over_tls_gets_the_whole_body(
    authority: Authority, size: int, pause: float
) -> None:
    """The origin's close arrives before its last bytes are read."""
    body = random.Random(size).randbytes(size)
    data = OK + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size + body
    origins = Origins(ca_file=authority.ca_file)
    with hasty_server(authority.server("localhost"), data, goodbye=True) as port:
        settings = Origin("o", "localhost", https_port=port)
        reply = await origins.fetch(settings, OriginRequest("https", "GET", "/", HOST))
        got = b""
        async for chunk in reply.body:
            if not got:
                await asyncio.sleep(pause)
            got += chunk
        assert got == body
    await origins.aclose()


@pytest.mark.parametrize("goodbye", [True, False])
async def test_the_end_of_a_connection_ends_a_body_only_after_close_notify(
    authority: Authority, goodbye: bool
) -> None:
    """Anyone on the path can end a TCP connection, and would truncate a body that way."""
    origins = Origins(ca_file=authority.ca_file)
    with hasty_server(authority.server("localhost"), OK + b"\r\nas far as it goes", goodbye=goodbye) as port:
        reply = await origins.fetch(
            Origin("o", "localhost", https_port=port), OriginRequest("https", "GET", "/", HOST)
        )
        if goodbye:
            assert await read(reply) == b"as far as it goes"
        else:
            with pytest.raises(OriginFailure, match="within the body"):
                await read(reply)
    await origins.aclose()


# Everything concurrently.


async def test_no_reply_ever_carries_another_body(origins: Origins, origin: ScriptedOrigin) -> None:
    chance = random.Random(7)
    bodies = {f"/{number}": (f"/{number} " * chance.choice([1, 50, 20_000])).encode() for number in range(40)}
    for path, body in bodies.items():
        half = body[: len(body) // 2]
        framed = OK + b"Content-Length: %d\r\n\r\n" % len(body)
        faults: list[Script] = [
            answer(200, body),
            answer(200, body, close=True),
            answer(200, chunks=[half, body[len(half) :]]),
            answer(200, body, version="1.0"),
            [OK + b"\r\n" + body, CLOSE],
            [framed + body + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"],
            [framed + half, CLOSE],
            [framed + half, RESET],
            [framed + half],
            [CLOSE],
            [RESET],
            [b"garbage"],
            [],
        ]
        origin.on(path, *chance.choices(faults, k=30))
    settings = origin.origin(read_timeout=SHORT, connection_attempts=2, keepalive_timeout=0.05)
    told = {"whole": 0, "failed": 0, "left": 0}

    async def viewer() -> None:
        for path in chance.sample(list(bodies), 10):
            try:
                reply = await get(origins, settings, path)
                if chance.random() < 0.1:
                    await reply.aclose()
                    told["left"] += 1
                    continue
                assert await read(reply) == bodies[path]
                told["whole"] += 1
            except OriginFailure:
                told["failed"] += 1

    await asyncio.gather(*[viewer() for _ in range(24)])
    assert sum(told.values()) == 240
    assert min(told.values()) > 0
    while origins.pools.open:  # every connection closes without further action
        await asyncio.sleep(0.01)
    assert origins.pools.idle == 0
    assert not any(pool.idle for pool in origins.pools.by_key.values())


async def test_a_fetch_leaves_nothing_for_the_garbage_collector(
    origins: Origins, origin: ScriptedOrigin
) -> None:
    origin.on("/", answer(200, b"x"))
    await get(origins, origin.origin())
    gc.freeze()
    gc.disable()
    try:
        for _ in range(20):
            await get(origins, origin.origin())
        alive = [thing for thing in gc.get_objects() if isinstance(thing, ResponseReader)]
        assert len(alive) <= 1
    finally:
        gc.enable()


# Whatever bytes come, in whatever pieces.


class Nobody:
    def on_idle(self, connection: Connection) -> None:
        pass

    def on_closed(self, connection: Connection) -> None:
        pass

    def on_bad_response(self, failure: BaseException) -> None:
        pass


def verdict(pieces: list[bytes], *, head_only: bool = False) -> tuple[object, ...]:
    """A ResponseReader's result for the pieces followed by the end of the connection."""
    loop = asyncio.new_event_loop()
    try:
        incoming = ResponseReader(Connection(Nobody(), loop), head_only=head_only)
        for piece in pieces:
            incoming.feed(piece)
            if incoming.complete or incoming.failure is not None:
                break
        incoming.end()
        failure = incoming.failure
        assert failure is None or isinstance(failure, OriginFailure)
        body = b"".join(incoming._chunks)
        if failure is not None:
            return (failure.kind,)
        return incoming.status, tuple(incoming.headers), body, incoming.complete, incoming.persistent
    finally:
        loop.close()


PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 404 Not Found\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 304 \r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Keep-Alive: timeout=5\r\n",
        b"X: y\r\n",
        b"\r\n",
        b"\n",
        b"hello",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"0\r\nX: y\r\n\r\n",
        b"\0",
        b" ",
    ]
)


@given(
    st.one_of(
        st.lists(PIECES, max_size=12).map(b"".join),
        st.lists(PIECES, max_size=8).map(lambda parts: b"HTTP/1.1 200 OK\r\n" + b"".join(parts)),
        st.binary(max_size=200),
    ),
    st.booleans(),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_any_bytes_in_any_pieces_mean_the_same(data: bytes, head_only: bool, chance: random.Random) -> None:
    whole = verdict([data], head_only=head_only)
    cuts = sorted(chance.sample(range(len(data) + 1), min(len(data), 5)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert verdict(pieces, head_only=head_only) == whole
    assert verdict([data[at : at + 1] for at in range(len(data))], head_only=head_only) == whole
