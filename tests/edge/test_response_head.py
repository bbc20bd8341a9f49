"""Malformed heads of origin responses: what RFC 9112 lets a recipient read is read, the rest is refused, and then the
access record and the log name the line, never a secret."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyfront.edge.origin.lenient_head import BadHeadError, HeadReader
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.model.snapshot import Behavior, ErrorResponse
from tests.origin import CLOSE, ScriptedOrigin, answer, trickle
from tests.rows import fresh, rows
from tests.sites import site
from tests.viewer import EdgeHarness

OK = b"HTTP/1.1 200 OK\r\n"
END = b"Content-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"next"))
        yield origin
    assert not origin.faults


def edge(origin: ScriptedOrigin) -> EdgeHarness:
    return EdgeHarness(site(origin.origin(), Behavior("*", "scripted")))


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with scripted() as origin:
        yield origin


@pytest.fixture
async def harness(origin: ScriptedOrigin) -> AsyncIterator[EdgeHarness]:
    async with edge(origin) as harness:
        yield harness


# The bytes of a response with the body "ok", and the value of its X-A.
READ: dict[str, tuple[bytes, str | None]] = {
    "a blank before the colon": (OK + b"X-A : 1\r\n" + END, "1"),
    "blanks before the colon": (OK + b"X-A \t : 1\r\n" + END, "1"),
    "a blank before the colon of Content-Length": (OK + b"X-A: 1\r\nContent-Length : 2\r\n\r\nok", "1"),
    "a blank before the colon of Transfer-Encoding": (
        OK + b"Transfer-Encoding : chunked\r\nX-A: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "1",
    ),
    "bare LF throughout": (b"HTTP/1.1 200 OK\nX-A: 1\nContent-Length: 2\n\nok", "1"),
    "bare LF in the status line, then CRLF": (b"HTTP/1.1 200 OK\nX-A: 1\r\n" + END, "1"),
    "bare LF and chunks": (
        b"HTTP/1.1 200 OK\nX-A: 1\nTransfer-Encoding: chunked\n\n2\r\nok\r\n0\r\n\r\n",
        "1",
    ),
    "bare LF in HTTP/1.0": (b"HTTP/1.0 200 OK\nX-A: 1\n\nok", "1"),
    "bare LF and no reason": (b"HTTP/1.1 200\nX-A: 1\nContent-Length: 2\n\nok", "1"),
    "a folded line": (OK + b"X-A: 1\r\n 2\r\n" + END, "1 2"),
    "folded twice, with tabs": (OK + b"X-A: 1\r\n\t2 \r\n  3\r\n" + END, "1 2 3"),
    "a fold of nothing": (OK + b"X-A: 1\r\n \r\n" + END, "1"),
    "a fold that looks like a field": (OK + b"X-A: 1\r\n Content-Length: 9\r\n" + END, "1 Content-Length: 9"),
    "a folded Content-Length": (OK + b"X-A: 1\r\nContent-Length:\r\n 2\r\n\r\nok", "1"),
    "Content-Length twice": (OK + b"X-A: 1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "1"),
    "Content-Length as a list": (OK + b"X-A: 1\r\nContent-Length: 2, 2\r\n\r\nok", "1"),
    "Content-Length as a list and again": (
        OK + b"Content-Length: 2,2\r\nX-A: 1\r\ncontent-length : 2\r\n\r\nok",
        "1",
    ),
    "obs-text": (OK + b"X-A : caf\xe9\r\n" + END, "caf\xe9"),
    "an empty value": (OK + b"X-A :\r\n" + END, ""),
    "all of it": (
        b"HTTP/1.1 200 OK\nX-A : 1\n 2\nContent-Length : 2, 2\nContent-Length: 2\n\nok",
        "1 2",
    ),
    "after interim answers": (
        b"\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 \r\n\r\n"
        + OK
        + b"X-A : 1\r\n"
        + END,
        "1",
    ),
    "after an interim answer of the same kind": (
        b"HTTP/1.1 103 Early Hints\nLink : </a>\n\n" + OK + b"X-A : 1\r\n" + END,
        "1",
    ),
}


@rows("bytewise", [False, True], ids=["at once", "byte by byte"])
@rows("name", READ)
@fresh(origin=scripted, harness=edge)
async def test_what_the_rfc_lets_a_recipient_read(
    harness: EdgeHarness, origin: ScriptedOrigin, name: str, bytewise: bool
) -> None:
    data, value = READ[name]
    steps = trickle(data) if bytewise else [data]
    origin.on("/x", [*steps, CLOSE] if "1.0" in name else steps)
    async with await harness.viewer() as viewer:
        await viewer.send(b"GET /x HTTP/1.1\r\nHost: d.test\r\n\r\n")
        seen = await viewer.answer()
        while seen.status < 200:
            seen = await viewer.answer()
    assert (seen.status, seen.body, seen.header("x-a")) == (200, b"ok", value)
    # Two parsers may read such a head differently: the connection is not reused.
    assert (await harness.get("/a")).body == b"next"
    assert origin.requests[-1].connection == 1
    assert (await harness.get("/x")).x_cache == "Hit"


# The bytes of a bad response, what the explanation says, and what it must not contain.
SECRET = b"c2VjcmV0LXZhbHVl"
REFUSED: dict[str, tuple[bytes, str]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01" + SECRET, 'line 1 of the head begins with "\\x16\\x03\\x01'),
    "content without a head": (b"<html>" + SECRET, 'line 1 of the head begins with "<html>'),
    "HTTP/2": (b"HTTP/2.0 200 OK\r\n" + END, "HTTP/2.0"),
    "HTTP/7.7": (b"HTTP/7.7 200 OK\r\n" + END, 'head that begins with "HTTP/7.7 200 OK"'),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n" + END, 'line 1 of the head, "HTTP/1.1 20 OK"'),
    "a status beyond": (b"HTTP/1.1 600 X\r\n" + END, 'line 1 of the head, "HTTP/1.1 600 X"'),
    "a NUL in a value": (OK + b"X-A: " + SECRET + b"\0\r\n" + END, 'line 2 of the head, "X-A" (17 bytes)'),
    "a NUL in a cookie": (
        OK + b"X: y\r\nSet-Cookie: s=" + SECRET + b"\0\r\n" + END,
        'line 3 of the head, "Set-Cookie" (19 bytes)',
    ),
    "a bare CR": (OK + b"X-A: " + SECRET + b"\rInjected: yes\r\n" + END, "its value holds a bare CR"),
    "a control character": (OK + b"X-A: 1\x0b\r\n" + END, "the control character 0x0b"),
    "a bare LF among CRLF": (
        OK + b"Location: /" + SECRET + b"\nInjected: yes\r\n" + END,
        'line 2 of the head, "Location" (17 bytes): ends with a bare LF',
    ),
    "a bare LF that ends the head": (OK + b"X-A: 1\n\nHTTP/1.1 200 OK\r\n" + END, "ends with a bare LF"),
    "no colon": (OK + b"Content-Length\r\n" + END, 'line 2 of the head, "Content-Length": no field'),
    "no colon, a secret": (OK + SECRET + b"\r\n" + END, "line 2 of the head, 16 bytes: no field"),
    "a name with a blank": (
        OK + b"X A: " + SECRET + b"\r\n" + END,
        'line 2 of the head, "X" and 21 bytes in all',
    ),
    "a cookie that forgot its colon": (
        OK + b"Set-Cookie s=" + SECRET + b"; expires=10:00\r\n" + END,
        'line 2 of the head, "Set-Cookie" and 44 bytes in all: its field name is not a token',
    ),
    "a name of nothing": (OK + b": " + SECRET + b"\r\n" + END, "its field name is not a token"),
    "a fold before any field": (
        OK + b" X: " + SECRET + b"\r\n" + END,
        "line 2 of the head begins with a blank",
    ),
    "a bad folded cookie": (
        OK + b"Set-Cookie: a=1\r\n " + SECRET + b"\0\r\n" + END,
        'line 3 of the head, "Set-Cookie"',
    ),
    "two lengths": (
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        'field "Content-Length: 3": not one length',
    ),
    "a list of two lengths": (OK + b"Content-Length: 2, 3\r\n\r\nok", 'field "Content-Length: 2, 3"'),
    "lengths of other spelling": (OK + b"Content-Length: 2, 02\r\n\r\nok", 'field "Content-Length: 2, 02"'),
    "a list with a gap": (OK + b"Content-Length: 2,,2\r\n\r\nok", 'field "Content-Length: 2,,2"'),
    "a length of +2": (OK + b"Content-Length: +2\r\n\r\nok", 'field "Content-Length: +2"'),
    "a length of 0x2": (OK + b"Content-Length: 0x2\r\n\r\nok", 'field "Content-Length: 0x2"'),
    "a length of nothing": (OK + b"Content-Length:\r\n\r\nok", 'field "Content-Length: "'),
    "a length of a book": (
        OK + b"Content-Length: " + b"9" * 900 + b"\r\n\r\nok",
        'field "Content-Length: 999',
    ),
    "two framings": (OK + b"Transfer-Encoding: chunked\r\n" + END, "two framings"),
    "two framings, one spelled oddly": (
        OK + b"Transfer-Encoding : chunked\r\nContent-Length : 2\r\n\r\nok",
        "two framings",
    ),
    "chunked twice": (
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        'field "Transfer-Encoding": more than one',
    ),
    "another coding": (
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        'field "Transfer-Encoding: gzip, chunked": a transfer coding other than chunked',
    ),
    "an interim answer with a body": (
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\n" + OK + END,
        'field "Content-Length": status 103 has no body',
    ),
    "too many bytes": (OK + b"X-A: " + SECRET * 1400 + b"\r\n" + END, "more than 20480 bytes of headers"),
    "a line of any bytes": (OK + bytes(range(14, 256)) + b"\r\n" + END, "line 2 of the head"),
}


@rows("name", REFUSED)
@fresh(origin=scripted, harness=edge)
async def test_whatever_is_refused_is_named(
    harness: EdgeHarness, origin: ScriptedOrigin, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, fault = REFUSED[name]
    caplog.clear()
    origin.on("/x", [data, CLOSE])
    seen = await harness.get("/x")
    assert seen.status == 502
    record = await harness.recorded(1)
    assert fault in record["explanation"]
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert fault in line and f"127.0.0.1:{origin.port}" in line
    for text in (record["explanation"], line):
        assert SECRET.decode() not in text
        assert text.isascii() and text.isprintable() and len(text) < 400
    assert (await harness.get("/a")).body == b"next"


async def test_it_is_logged_once_a_minute(
    harness: EdgeHarness, origin: ScriptedOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        origin.on(f"/{number}", [OK + b"X A: 1\r\n" + END])
        assert (await harness.get(f"/{number}")).status == 502
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    assert all("its field name is not a token" in r["explanation"] for r in harness.records)


async def test_a_bad_chunk_is_named_too(harness: EdgeHarness, origin: ScriptedOrigin) -> None:
    origin.on("/x", [OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"xyz\r\n"])
    async with await harness.viewer() as viewer:
        await viewer.send(b"GET /x HTTP/1.1\r\nHost: d.test\r\n\r\n")
        await viewer.at_end()
    assert "in the chunked body" in (await harness.recorded(1))["explanation"]


# -- unsolicited 304s ------------------------------------------------------------------------------------------

NOT_MODIFIED = [b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n']


@rows(
    ("method", "headers"),
    [
        ("GET", []),
        ("HEAD", []),
        ("OPTIONS", []),
        ("GET", [("Range", "bytes=0-1")]),
        ("GET", [("Range", "bytes=0-1"), ("If-Range", '"1"')]),
        # The viewer's own condition, which is not forwarded on a cache fill.
        ("GET", [("If-None-Match", '"1"')]),
        ("GET", [("If-None-Match", '"1"'), ("Connection", "if-none-match")]),
        ("HEAD", [("If-Match", '"1"')]),
    ],
)
@fresh(origin=scripted, harness=edge)
async def test_304_to_a_request_without_conditions(
    harness: EdgeHarness, origin: ScriptedOrigin, method: str, headers: list[tuple[str, str]]
) -> None:
    origin.on("/x", NOT_MODIFIED)
    seen = await harness.get("/x", method=method, headers=headers)
    if method == "OPTIONS":
        assert seen.status == 403  # a method that is not allowed here
        return
    assert seen.status == 502
    record = await harness.recorded(1)
    assert record["reason"] == "OriginInvalidResponseError"
    assert record["explanation"] == "304 Not Modified to a request without conditions"
    assert not any(name in ("if-none-match", "if-modified-since") for name, _ in origin.requests[0].headers)


async def test_304_to_a_custom_error_page_leaves_the_error(origin: ScriptedOrigin) -> None:
    origin.on("/x", answer(404, b"gone"))
    origin.on("/page", NOT_MODIFIED)
    pages = (ErrorResponse(404, page_path="/page", response_code=200),)
    async with EdgeHarness(
        site(origin.origin(), Behavior("*", "scripted"), error_responses=pages)
    ) as harness:
        for headers in ([], [("If-None-Match", '"1"')]):
            seen = await harness.get("/x", headers=headers)
            assert (seen.status, seen.body) == (404, b"gone")


async def test_304_to_a_slice_is_no_slice(origin: ScriptedOrigin) -> None:
    """The first slice is stored; a 304 in place of the second must not end up in the body."""
    body = bytes(range(256)) * 16
    first = answer(206, body[:1024], {"ETag": '"1"', "Content-Range": f"bytes 0-1023/{len(body)}"})
    origin.on("/x", first, NOT_MODIFIED)
    settings = EdgeSettings(memory=1 << 22, max_object=1024, slice=1024)
    async with EdgeHarness(site(origin.origin()), settings=settings) as harness:
        seen = await harness.get("/x", headers=[("Range", "bytes=0-99")])
        assert (seen.status, seen.body) == (206, body[:100])
        again = await harness.get("/x", headers=[("Range", "bytes=2000-2099")])
        assert again.status == 502


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_304_to_methods_that_pass(origin: ScriptedOrigin, method: str) -> None:
    origin.on("/x", NOT_MODIFIED)
    methods = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
    async with EdgeHarness(
        site(origin.origin(), Behavior("*", "scripted", allowed_methods=methods))
    ) as harness:
        assert (await harness.get("/x", method=method)).status == 502


async def test_a_viewers_own_condition_may_be_answered(origin: ScriptedOrigin) -> None:
    origin.on("/x", NOT_MODIFIED)
    behavior = Behavior("*", "scripted", min_ttl=0, default_ttl=0, max_ttl=0)
    async with EdgeHarness(site(origin.origin(), behavior)) as harness:
        assert (await harness.get("/x", headers=[("If-None-Match", '"1"')])).status == 304
        assert (await harness.get("/x", method="HEAD", headers=[("If-None-Match", '"1"')])).status == 304
        assert (await harness.get("/x")).status == 502


# -- the reader in isolation -----------------------------------------------------------------------------------

PARTS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"X",
        b"Content-Length",
        b"2",
        b",",
        b"\0",
        b"\xe9",
    ]
)


@given(
    st.one_of(
        st.lists(PARTS, max_size=30).map(b"".join),
        st.lists(PARTS, max_size=25).map(lambda parts: b"HTTP/1.1 200 OK\n" + b"".join(parts) + b"\n\n"),
        st.binary(max_size=80),
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_read_or_refused_in_any_pieces(data: bytes, chance: random.Random) -> None:
    said: list[str] = []

    def read(pieces: list[bytes]) -> tuple[bytes, bytes] | str | None:
        reader = HeadReader("why")
        for number, piece in enumerate(pieces):
            try:
                if reader.feed(piece):
                    return reader.head, reader.rest + b"".join(pieces[number + 1 :])
            except BadHeadError as bad:
                said.append(str(bad))
                return "bad"
        return None

    whole = read([data])
    cuts = sorted(chance.sample(range(len(data) + 1), min(len(data), 4)))
    assert read([data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]) == whole
    assert read([data[at : at + 1] for at in range(len(data))]) == whole
    assert all(text.isascii() and text.isprintable() for text in said)
    if isinstance(whole, tuple):
        head = whole[0]
        assert head.endswith(b"\r\n\r\n")
        assert head.count(b"\n") == head.count(b"\r\n") == head.count(b"\r")
        assert head.lower().count(b"\r\ncontent-length:") <= 1
        again = HeadReader("why")
        assert again.feed(head)
        assert again.head == head  # a repaired head needs no further repair
