"""Untrusted input costs no more than in proportion to its size: lines, numbers, tables, records. Over real sockets
where bytes matter."""

from __future__ import annotations

import asyncio
import json
import os
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fuzz.cost import opcodes, seconds
from hypothesis import given
from hypothesis import strategies as st

from keyfront import sign_url
from keyfront.edge.cache import slice_reader
from keyfront.edge.cache.disk import DiskTier
from keyfront.edge.cache.disk_format import PREFIX, name_of, sealed
from keyfront.edge.cache.entry import Head, encode_head, row_of
from keyfront.edge.cache.memory import MemoryTier
from keyfront.edge.cache.slice_reader import Reader, SliceFills
from keyfront.edge.cache.tiers import Tiers
from keyfront.edge.http.request_target import host_text
from keyfront.edge.http.trusted_proxies import MAX_HOPS, TrustedProxies
from keyfront.edge.limits.viewers import ViewerLimits
from keyfront.edge.logs import access_log
from keyfront.edge.logs.access_log import CUT, MOST_REFUSED, MOST_REFUSED_IN_ALL, AccessLog, Refusals
from keyfront.edge.rules import freshness
from keyfront.edge.rules.decide import decide
from keyfront.edge.rules.invalidation import Invalidations
from keyfront.edge.semantics import http_dates
from keyfront.edge.semantics.header_limits import MAX_LINES, MAX_LINES_OF_ONE, MAX_VARY
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.fast_path import FastPath
from keyfront.edge.serving.settings import EdgeSettings, table_bytes
from keyfront.edge.types.messages import Headers, Request
from keyfront.edge.types.record import Record
from keyfront.edge.types.stored import Meta, Slices, Stored
from keyfront.edge.types.ttl_map import TtlMap
from keyfront.errors import OriginFailure
from keyfront.model.snapshot import Behavior, Invalidation, KeyGroup, PublicKey, Select
from keyfront.signing.keys import generate_private_key
from keyfront.signing.sign import LocalSigner
from keyfront.signing.tables import Budget, TwoGenerationCache
from tests.origin import CLOSE, ReceivedRequest, ScriptedOrigin, Wire, answer
from tests.rows import rows
from tests.sites import site
from tests.viewer import Clock, EdgeHarness

MIB = 1 << 20


@pytest.fixture
async def origin() -> AsyncIterator[ScriptedOrigin]:
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"hello"))
        yield origin


@pytest.fixture
async def harness(origin: ScriptedOrigin) -> AsyncIterator[EdgeHarness]:
    async with EdgeHarness(site(origin.origin(), Behavior("*", "scripted", allowed_methods=ALL))) as harness:
        yield harness


ALL = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")

# -- lines -------------------------------------------------------------------------------------------------------------

FLOODS: dict[str, list[tuple[str, str]]] = {
    "connection": [("Connection", "x")] * 1250,
    "x-forwarded-for": [("X-Forwarded-For", "1.1.1.1")] * (MAX_LINES_OF_ONE + 1),
    "accept-encoding": [("Accept-Encoding", "br")] * (MAX_LINES_OF_ONE + 1),
    "range": [("Range", "bytes=0-0")] * (MAX_LINES_OF_ONE + 1),
    "cookies": [("Cookie", "a=1")] * (MAX_LINES + 1),
    "different names": [(f"X{n}", "") for n in range(MAX_LINES + 1)],
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_of_header_lines_is_refused_and_asks_the_origin_nothing(
    origin: ScriptedOrigin, harness: EdgeHarness, flood: str
) -> None:
    seen = await harness.get("/a", headers=FLOODS[flood])
    assert seen.status == 431
    assert seen.header("connection") == "close"
    assert (await harness.recorded(1))["reason"] == "too_many_headers"
    assert not origin.requests
    assert (await harness.get("/a")).status == 200


@pytest.mark.parametrize(
    "lines",
    [
        [(f"X{n}", "1") for n in range(MAX_LINES - 2)],
        [("Cookie", f"c{n}=1") for n in range(MAX_LINES - 2)],
        [("Via", "1.1 a")] * MAX_LINES_OF_ONE,
    ],
)
async def test_as_many_lines_as_anybody_sends_are_answered(
    harness: EdgeHarness, lines: list[tuple[str, str]]
) -> None:
    assert (await harness.get("/a", headers=lines)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("X-A", "1")] * (MAX_LINES_OF_ONE + 1),
        [(f"X-{n}", "1") for n in range(MAX_LINES + 1)],
        [("Set-Cookie", f"a{n}=1") for n in range(MAX_LINES + 1)],
        [("Connection", "x")] * 1000,
        [("Cache-Control", "a")] * 1000,
    ],
)
async def test_a_flood_from_an_origin_is_a_header_that_is_too_big(
    origin: ScriptedOrigin, harness: EdgeHarness, headers: list[tuple[str, str]]
) -> None:
    origin.on("/flood", answer(200, b"x", headers))
    seen = await harness.get("/flood")
    assert seen.status == 502
    assert (await harness.recorded(1))["reason"] == "OriginHeaderTooBigError"


async def test_two_hundred_cookies_of_an_origin_are_no_flood(origin: ScriptedOrigin) -> None:
    cookies = [("Set-Cookie", f"a{n}=1") for n in range(200)]
    origin.on("/cookies", answer(200, b"x", cookies))
    behavior = Behavior("*", "scripted", forward_cookies=Select("all"))
    async with EdgeHarness(site(origin.origin(), behavior)) as harness:
        seen = await harness.get("/cookies")
        assert [value for name, value in seen.headers if name == "set-cookie"] == [v for _, v in cookies]


def test_the_viewer_is_looked_for_behind_so_many_proxies() -> None:
    peers = TrustedProxies(("10.0.0.0/8",))
    chain = ["192.0.2.1"] + [f"10.0.0.{n}" for n in range(MAX_HOPS - 1)]
    client, _, left = peers.viewer("10.9.9.9", [(b"x-forwarded-for", ", ".join(chain).encode())], "http")
    assert (client, left) == ("192.0.2.1", [])
    chain = ["192.0.2.1", "10.1.1.1"] + [f"10.0.0.{n}" for n in range(MAX_HOPS - 1)]
    client, _, left = peers.viewer("10.9.9.9", [(b"x-forwarded-for", ", ".join(chain).encode())], "http")
    assert (client, left) == ("10.1.1.1", [(b"x-forwarded-for", b"192.0.2.1")])


# -- what varies -------------------------------------------------------------------------------------------------------


def admitted(headers: Headers, behavior: Behavior | None = None) -> Meta | None:
    return freshness.admit(
        behavior or Behavior("*", "o", forward_headers=Select("allExcept", ())),
        None,
        "GET",
        freshness.ReceivedResponse(200, headers, [(b"x0", b"1")], 999.0, 1000.0),
    )


def test_a_vary_of_too_many_names_is_like_a_star() -> None:
    def vary(count: int) -> Headers:
        names = b",".join([b"x%d" % n for n in range(count)])
        return [(b"cache-control", b"max-age=60"), (b"vary", names)]

    meta = admitted(vary(MAX_VARY))
    assert meta is not None
    assert len(meta.vary) == MAX_VARY
    assert admitted(vary(MAX_VARY + 1)) is None


def test_a_variant_is_found_by_one_look_at_the_headers() -> None:
    tier = MemoryTier(64 * MIB, MIB)
    names = tuple([b"x%d" % n for n in range(MAX_VARY)])
    for number in range(64):
        values = (b"%d" % number,) * MAX_VARY
        meta = Meta(200, (), stored_at=0, fresh_until=9e9, date=0, vary=names, vary_values=values)
        tier.put(Stored("k/a", meta, b"%d" % number))
    headers = [(name, b"63") for name in names] + [(b"other%d" % n, b"") for n in range(200)]
    found = tier.find("k/a", lambda: headers)
    assert found is not None
    assert found.body == b"63"
    assert opcodes(lambda: tier.find("k/a", lambda: headers)) < 12_000


# -- numbers that a peer chose -----------------------------------------------------------------------------------------

HUGE = 4611686018427387904
LENGTHS = (HUGE, 1 << 40, (1 << 63) - 1, (1 << 64) - 1, 1 << 50, (1 << 50) + 1)


class NoTiers(Tiers):
    """Empty tiers that count their lookups."""

    def __init__(self) -> None:
        super().__init__(MemoryTier(MIB, MIB), None)
        self.asked = 0

    def has(self, slices: Slices, index: int) -> bool:
        self.asked += 1
        return True


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("ranges", [1, 100])
async def test_how_many_slices_there_are_is_not_what_looking_for_them_costs(length: int, ranges: int) -> None:
    tiers = NoTiers()
    sliced = Slices("k", length, 4 * MIB, "g", None, True)
    reader = Reader(tiers, SliceFills(), sliced, lambda span: None)  # type: ignore[arg-type,return-value]
    part = length // ranges
    parts = [(n * part, (n + 1) * part - 1) for n in range(ranges)]
    assert reader.complete(parts)
    assert 0 < tiers.asked <= slice_reader.LOOKED_AT


async def test_every_slice_is_looked_for_where_there_are_few() -> None:
    seen: list[int] = []

    class Listing(NoTiers):
        def has(self, slices: Slices, index: int) -> bool:
            seen.append(index)
            return index != 200

    reader = Reader(Listing(), SliceFills(), Slices("k", 256 * 10, 10, "g", None, True), lambda span: None)  # type: ignore[arg-type,return-value]
    assert not reader.complete([(0, 2559)])
    assert seen == list(range(201))


def headed(length: int, *lines: bytes) -> bytes:
    return b"".join(
        [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % length, *[line + b"\r\n" for line in lines], b"\r\n"]
    )


VALIDATORS: dict[str, tuple[bytes, ...]] = {
    "without a validator": (),
    "with an entity tag": (b'ETag: "1"',),
    "without ranges": (b'ETag: "1"', b"Accept-Ranges: none"),
    "not to be stored": (b"Cache-Control: no-store",),
}


@pytest.mark.parametrize("kind", VALIDATORS)
@pytest.mark.parametrize("length", [HUGE, 1 << 40, (1 << 63) - 1])
async def test_an_origin_that_promises_more_than_there_is(
    origin: ScriptedOrigin, harness: EdgeHarness, kind: str, length: int
) -> None:
    origin.on("/liar", [headed(length, *VALIDATORS[kind]), b"ten bytes!", CLOSE])
    for _ in range(2):
        for fields in (b"", b"Range: bytes=0-9\r\n", b"Range: bytes=-5\r\n", b"Range: bytes=9999999-\r\n"):
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET /liar HTTP/1.1\r\nHost: d.test\r\n" + fields + b"\r\n")
                received = await viewer.at_end() if not fields else await viewer.reader.read(4096)
                assert received.startswith(b"HTTP/1.1 ")
                # Whatever length is announced, a part does not pass as the whole: the connection is closed.
                assert b"ten bytes!" not in received or int_of(received, b"Content-Length") != 10 or fields
        assert (await harness.get("/a")).status == 200  # the worker keeps running


def int_of(head: bytes, name: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(name.lower() + b":"):
            return int(line.partition(b":")[2])
    return -1


async def test_an_origin_that_announces_too_much_while_its_body_is_received(
    origin: ScriptedOrigin, harness: EdgeHarness
) -> None:
    go = asyncio.Event()
    origin.on("/liar", [headed(HUGE), b"x" * 100, go, CLOSE])
    async with await harness.viewer() as first, await harness.viewer() as second:
        for viewer in (first, second):
            await viewer.send(b"GET /liar HTTP/1.1\r\nHost: d.test\r\n\r\n")
            head = await viewer.reader.readuntil(b"\r\n\r\n")
            assert int_of(head, b"Content-Length") == HUGE
            assert await viewer.reader.readexactly(100) == b"x" * 100
        assert (await harness.get("/a")).status == 200
        go.set()
        assert await first.at_end() == b""
        assert await second.at_end() == b""


async def test_an_origin_that_sends_more_than_it_promised(
    origin: ScriptedOrigin, harness: EdgeHarness
) -> None:
    origin.on("/more", [headed(5), b"hello, world", CLOSE])
    for _ in range(2):
        assert (await harness.get("/more")).body == b"hello"


ANSWERED: dict[str, tuple[bytes, set[int]]] = {
    "Content-Length of zeros": (
        b"HTTP/1.1 200 OK\r\nContent-Length: %b5\r\n\r\nhello" % (b"0" * 5000),
        {502},
    ),
    "Content-Length beyond 64 bits": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
        {502},
    ),
    "Content-Length of 5,000 digits": (
        b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % (b"9" * 5000),
        {502},
    ),
    "a chunk beyond 64 bits": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n" % (b"f" * 17),
        {200, 502},
    ),
    "a chunk of all 64 bits": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\nx" % (b"f" * 16),
        {200, 502},
    ),
    "Age": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nAge: %b\r\n\r\nx" % (b"9" * 5000), {200}),
    "max-age": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nCache-Control: max-age=%b, stale-while-revalidate=%b, "
        b"stale-if-error=%b\r\n\r\nx" % ((b"9" * 4000,) * 3),
        {200},
    ),
    "s-maxage below nothing": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nCache-Control: s-maxage=-9223372036854775808\r\n\r\nx",
        {200},
    ),
    "Expires at the end of time": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nExpires: Fri, 31 Dec 9999 23:59:60 GMT\r\n"
        b"Date: Mon, 01 Jan 0001 00:00:00 GMT\r\nLast-Modified: Mon, 01 Jan 0001 00:00:00 GMT\r\n\r\nx",
        {200},
    ),
    "Expires in year nothing": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nExpires: Fri, 99 Dec 0000 99:99:99 GMT\r\n\r\nx",
        {200},
    ),
    "Keep-Alive": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nKeep-Alive: timeout=%b, max=%b\r\n\r\nx"
        % ((b"9" * 5000,) * 2),
        {200},
    ),
    "Retry-After": (
        b"HTTP/1.1 503 Busy\r\nContent-Length: 1\r\nRetry-After: %b\r\n\r\nx" % (b"9" * 5000),
        {503},
    ),
    "a status of 999": (b"HTTP/1.1 999 Odd\r\nContent-Length: 1\r\n\r\nx", {502}),
    "CDN-Cache-Control": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nCDN-Cache-Control: max-age=999999999999999\r\n\r\nx",
        {200},
    ),
    "Content-Range of a 206 that nobody asked for": (
        b"HTTP/1.1 206 Partial\r\nContent-Length: 1\r\nContent-Range: bytes 0-0/%b\r\n\r\nx" % (b"9" * 5000),
        {206, 502},
    ),
}


@pytest.mark.parametrize("kind", ANSWERED)
async def test_a_number_in_an_answer(origin: ScriptedOrigin, harness: EdgeHarness, kind: str) -> None:
    data, statuses = ANSWERED[kind]
    origin.on("/number", [data, CLOSE])
    for fields in ("", "Range: bytes=0-0\r\n"):
        async with await harness.viewer() as viewer:
            await viewer.send(
                f"GET /number HTTP/1.1\r\nHost: d.test\r\nConnection: close\r\n{fields}\r\n".encode()
            )
            received = await viewer.at_end()
            assert int(received[9:12]) in statuses | {206 if fields else 200, 416}
    assert (await harness.get("/a")).status == 200
    assert not [each for each in harness.records if each.get("reason", "").startswith("internal_error")]


@pytest.mark.parametrize("total", [b"999999999999999999", b"9223372036854775807", b"9" * 5000])
async def test_an_origin_whose_parts_are_of_something_endless(
    origin: ScriptedOrigin, harness: EdgeHarness, total: bytes
) -> None:
    async def part(asked: ReceivedRequest, wire: Wire) -> None:
        first, last = (asked.header("range") or "bytes=0-9").removeprefix("bytes=").split("-")
        size = int(last) - int(first) + 1
        head = b"HTTP/1.1 206 Partial\r\nContent-Length: %d\r\n" % size
        head += b'ETag: "1"\r\nContent-Range: bytes %b-%b/%b\r\n\r\n' % (first.encode(), last.encode(), total)
        await wire.send(head + b"x" * min(size, 100))

    origin.on("/endless", [part, CLOSE])
    async with await harness.viewer() as viewer:
        await viewer.send(b"GET /endless HTTP/1.1\r\nHost: d.test\r\nRange: bytes=0-9\r\n\r\n")
        assert (await viewer.reader.read(4096)).startswith(b"HTTP/1.1 ")
    assert (await harness.get("/a")).status == 200


async def test_an_origin_whose_total_changes_between_its_slices(origin: ScriptedOrigin) -> None:
    totals = iter([100_000, 100_000, 1 << 49, 50_000, 100_000] * 10)
    body = bytes(range(256)) * 400

    async def part(asked: ReceivedRequest, wire: Wire) -> None:
        said = asked.header("range")
        total = next(totals)
        if said is None:
            await wire.send(headed(total, b'ETag: "1"') + body[:100])
            return
        first, last = (int(each) for each in said.removeprefix("bytes=").split("-"))
        data = body[first : last + 1]
        await wire.send(
            b'HTTP/1.1 206 Partial\r\nETag: "1"\r\nContent-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n\r\n'
            % (len(data), first, first + len(data) - 1, total)
            + data
        )

    origin.on("/changing", [part, CLOSE])
    settings = EdgeSettings(memory=MIB, max_object=16 * 1024, slice=16 * 1024)
    async with EdgeHarness(site(origin.origin()), settings=settings) as harness:
        for _ in range(6):
            async with await harness.viewer() as viewer:
                await viewer.send(b"GET /changing HTTP/1.1\r\nHost: d.test\r\nRange: bytes=0-70000\r\n\r\n")
                received = await viewer.reader.read(1 << 20)
                head, _, rest = received.partition(b"\r\n\r\n")
                if head.startswith(b"HTTP/1.1 206"):
                    assert body.startswith(rest)  # never a byte of another version
        origin.on("/a", answer(200, b"hello"))
        assert (await harness.get("/a")).status == 200


ASKED: dict[str, tuple[bytes, int]] = {
    "Content-Length of zeros": (b"Content-Length: %b\r\n" % (b"0" * 5000), 400),
    "Content-Length beyond 64 bits": (b"Content-Length: 18446744073709551616\r\n", 400),
    "Content-Length of 5,000 digits": (b"Content-Length: %b\r\n" % (b"9" * 5000), 400),
    "a range": (b"Range: bytes=%b-%b\r\n" % (b"1" * 5000, b"9" * 5000), 416),
    "a range from the end": (b"Range: bytes=-%b\r\n" % (b"9" * 5000), 206),
    "a range to the end": (b"Range: bytes=1-%b\r\n" % (b"9" * 5000), 206),
    "If-Modified-Since": (b"If-Modified-Since: Fri, 31 Dec 9999 23:59:60 GMT\r\n", 304),
    "If-Unmodified-Since": (b"If-Unmodified-Since: Mon, 01 Jan 0001 00:00:00 GMT\r\n", 412),
    "Max-Forwards": (b"Max-Forwards: %b\r\n" % (b"9" * 5000), 200),
    "a port": (b"X-Forwarded-Port: %b\r\n" % (b"9" * 5000), 200),
    "Accept-Encoding": (b"Accept-Encoding: gzip;q=0.%b\r\n" % (b"0" * 5000), 200),
}


@pytest.mark.parametrize("kind", ASKED)
async def test_a_number_in_a_request(origin: ScriptedOrigin, harness: EdgeHarness, kind: str) -> None:
    origin.on("/a", answer(200, b"hello", {"Last-Modified": "Mon, 02 Feb 2026 00:00:00 GMT"}))
    assert (await harness.get("/a")).status == 200
    fields, status = ASKED[kind]
    async with await harness.viewer() as viewer:
        await viewer.send(b"GET /a HTTP/1.1\r\nHost: d.test\r\n" + fields + b"\r\n")
        head = await viewer.reader.readuntil(b"\r\n\r\n")
        assert int(head[9:12]) == status


def test_a_port_of_five_thousand_digits_is_no_host() -> None:
    assert host_text(b"d.test:" + b"9" * 5000) == ""


@pytest.mark.parametrize("size", [b"f" * 16, b"f" * 17, b"0" * 5000 + b"1", b"7fffffffffffffff"])
async def test_a_chunk_of_a_request(harness: EdgeHarness, size: bytes) -> None:
    async with await harness.viewer() as viewer:
        await viewer.send(
            b"POST /a HTTP/1.1\r\nHost: d.test\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\nx"
        )
        viewer.writer.write_eof()
        received = await viewer.at_end()
        assert received == b"" or received.startswith(b"HTTP/1.1 ")
    assert (await harness.get("/a")).status == 200


# -- files on disk -----------------------------------------------------------------------------------------------------


def forged(tmp_path: Path, key: str, data: bytes, size: int) -> DiskTier:
    """A tier with a file of this content, whose size according to the file system is `size`."""
    tier = DiskTier(tmp_path, 1 << 40, lambda key, number, *tags: False, largest=MIB)
    path = tmp_path / name_of(key)
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        file.write(data)
        os.ftruncate(file.fileno(), size)
    return tier


def prefix(head: int, body: int) -> bytes:
    """A prefix that announces a head and a body of these sizes, with the tier's mark."""
    mark, layout, *_ = PREFIX.unpack(sealed(b"", 0, 0)[: PREFIX.size])
    return PREFIX.pack(mark, layout, head, body, 0, 0)


def response() -> Any:
    meta = Meta(200, (), stored_at=0, fresh_until=9e9, date=0)
    return row_of(meta)


FORGED: dict[str, tuple[bytes, int]] = {
    "a head of 4 GiB": (prefix(0xFFFFFFFF, 0), PREFIX.size + 0xFFFFFFFF),
    "a body of 1 TiB": (prefix(10, 1 << 40), PREFIX.size + 10 + (1 << 40)),
    "a whole response of 1 TiB": (
        sealed(encode_head(Head("k", meta=response())), 1 << 40, 0),
        len(sealed(encode_head(Head("k", meta=response())), 1 << 40, 0)) + (1 << 40),
    ),
    "slices of nothing": (
        sealed(encode_head(Head("k", meta=response(), slices=(10, 0, "g", None, True))), 0, 0),
        len(sealed(encode_head(Head("k", meta=response(), slices=(10, 0, "g", None, True))), 0, 0)),
    ),
    "slices below nothing": (
        sealed(encode_head(Head("k", meta=response(), slices=(-1, 10, "g", None, True))), 0, 0),
        len(sealed(encode_head(Head("k", meta=response(), slices=(-1, 10, "g", None, True))), 0, 0)),
    ),
    "slices without end": (
        sealed(encode_head(Head("k", meta=response(), slices=(1 << 62, 10, "g", None, True))), 0, 0),
        len(sealed(encode_head(Head("k", meta=response(), slices=(1 << 62, 10, "g", None, True))), 0, 0)),
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_file_is_taken_away_and_costs_no_memory(tmp_path: Path, kind: str) -> None:
    data, size = FORGED[kind]
    tier = forged(tmp_path, "k", data, size)
    tracemalloc.start()
    try:
        assert tier.find("k", list) is None
        # Far below what the file announces, and above what other threads of the tests may need meanwhile.
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()
    assert not (tmp_path / name_of("k")).exists()


# -- tables ------------------------------------------------------------------------------------------------------------


def test_tables_that_share_a_budget_stay_within_it() -> None:
    budget = Budget(MIB)
    tables = [TwoGenerationCache[str](10**6, 1 << 30, None, budget) for _ in range(5)]
    recent: TtlMap[bool] = TtlMap(10**6, budget)
    for number in range(2000):
        tables[number % 5].put(f"{number} " + "x" * 2000, "")
        recent.put(f"{number} " + "x" * 20_000, True, 1e12)
        assert budget.bytes <= budget.limit
    assert len(recent)
    assert any(map(len, tables))


def test_the_largest_table_makes_way_for_the_others() -> None:
    budget = Budget(MIB)
    large, small = (
        TwoGenerationCache[str](10**6, 1 << 30, None, budget),
        TwoGenerationCache[str](100, 1 << 30, None, budget),
    )
    small.put("kept", "")
    for number in range(5000):
        large.put(f"{number} " + "x" * 2000, "")
    assert small.get("kept") == ""


def test_what_a_table_took_is_free_when_the_table_is_gone() -> None:
    budget = Budget(MIB)
    gone = TwoGenerationCache[str](10**6, 1 << 30, None, budget)
    for number in range(200):
        gone.put(f"{number} " + "x" * 4000, "")
    held = TwoGenerationCache[str](10**6, 1 << 30, None, budget)
    del gone
    for number in range(200):
        held.put(f"{number} " + "x" * 4000, "")
    assert len(held) == 200


def test_an_entry_larger_than_the_table_is_not_stored() -> None:
    table: TwoGenerationCache[bytes] = TwoGenerationCache(10, 1000, len)
    table.put("a", b"x" * 2000)
    assert len(table) == 0


@rows(("memory", "tables"), [(16 * MIB, 8 * MIB), (0, 8 * MIB), (256 * MIB, 128 * MIB), (1 << 40, 256 * MIB)])
def test_how_much_a_workers_tables_may_take(memory: int, tables: int) -> None:
    assert table_bytes(memory) == tables


KEY = LocalSigner("KTEST", generate_private_key("ECDSA-P256"))


async def test_a_worker_of_little_memory_stays_small_whatever_viewers_send(
    pytestconfig: pytest.Config,
) -> None:
    """Every table is filled with the worst keys that viewers and origins can send: the bound is the cache plus 30
    MiB."""
    memory = 16 * MIB
    async with ScriptedOrigin() as origin:
        open_ = Behavior("/open/*", "scripted", key_cookies=Select("all"), key_query=Select("all"))
        guarded = Behavior("*", "scripted", restricted=True, trusted_key_groups=("g",))
        snapshot = site(
            origin.origin(),
            open_,
            guarded,
            public_keys=(PublicKey("KTEST", KEY.public_key.pem),),
            key_groups=(KeyGroup("g", "g", ("KTEST",)),),
            aliases=("*.d.test",),
        )
        edge = Edge(EdgeSettings(memory=memory, max_object=MIB), AccessLog(None))
        edge.use(snapshot)
        quick = FastPath(edge)
        now = time.time()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            # Five hundred fill every table.
            for number in range(1500 if pytestconfig.getoption("--long") else 600):
                name = f"{number:06}"
                host = f"{name}{'h' * 240}.d.test"
                headers: Headers = [(b"host", host.encode())]
                headers += [(b"x%d" % n, name.encode()) for n in range(MAX_LINES // 2)]
                cookie = f"c={name}" + "c" * 3500
                for target in (f"/open/{name}" + '"' * 3800, f"/open/{name}?{name}" + "q" * 3800):
                    request = Request("GET", target, host, headers, "http", "192.0.2.1", cookie=cookie)
                    section = (
                        b"\r\n".join([b"%b: %b" % header for header in headers]) + cookie.encode()[:1500]
                    )
                    for _ in range(2):
                        visit = edge.lookup(request)
                        quick.learn(section, request)
                    host_text(host.encode() + b" " * 8000)
                    host_text(host.encode())
                    http_dates.parse_date(name.encode() * 2000, now)
                    key = visit.key or "none"
                    long = key + "k" * 10_000
                    edge.filler._unshared.put(long, True, now + 1e6)
                    edge.filler._unsliced.put(long, True, now + 1e6)
                    edge.fetcher.failures.put(
                        long, OriginFailure("OriginConnectError", 502, "refused"), now + 1e6
                    )
                if number % 5 == 0:
                    signed = sign_url(f"http://d.test/{name}" + "s" * 3000, KEY, expires=int(now) + 9999)
                    target = signed.removeprefix("http://d.test")
                    request = Request("GET", target, "d.test", [], "http", "192.0.2.1")
                    for _ in range(3):
                        assert isinstance(decide(edge.routing, request, now, edge.country), tuple)
                meta = Meta(
                    200, ((b"x" * 500, b"y" * 500),) * 10, stored_at=now, fresh_until=now + 1e6, date=now
                )
                edge.memory.put(Stored(f"ETEST/{name}" + "k" * 8000, meta, b""))
            taken = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert edge.tables.bytes <= edge.tables.limit
        assert edge.memory.bytes <= memory
        assert taken < memory + 30 * MIB
        await edge.aclose()


# -- the access log ----------------------------------------------------------------------------------------------------


def record(reason: str = "bad_request", address: str = "192.0.2.1", at: float = 1000.0) -> Record:
    return Record(
        at, "i", address, 1, "GET", "http", "d", "/", "", "1.1", 400, 0, 0, "Error", "", reason=reason
    )


def test_refusals_of_one_address_are_summed_up_beyond_a_number() -> None:
    refusals = Refusals()
    written = [each for _ in range(1000) for each in refusals.admit(record())]
    assert len(written) == MOST_REFUSED
    later = refusals.admit(record(at=1001.0))
    assert [each.repeats for each in later] == [1000 - MOST_REFUSED - 1, 0]
    assert refusals.sums() == []


def test_refusals_are_summed_up_by_reason() -> None:
    refusals = Refusals()
    for _ in range(200):
        refusals.admit(record("bad_request"))
        refusals.admit(record("too_large"))
    assert {each.reason for each in refusals.sums()} == {"bad_request", "too_large"}


def test_refusals_of_many_addresses_are_bounded_too() -> None:
    refusals = Refusals()
    written = [each for n in range(100_000) for each in refusals.admit(record(address=f"10.{n >> 16}.{n}.1"))]
    assert len(written) == MOST_REFUSED_IN_ALL
    sums = refusals.sums()
    assert len(sums) <= MOST_REFUSED_IN_ALL + 1
    assert sum(each.repeats + 1 for each in sums) == 100_000 - MOST_REFUSED_IN_ALL
    assert sums[-1].client_ip == ""


async def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the test takes, the second of its clock does not end."""
    monkeypatch.setattr(access_log, "SUM_AFTER", 600.0)


async def test_a_flood_of_refused_requests_leaves_few_records_and_all_of_the_counts(
    origin: ScriptedOrigin, tmp_path: Path, one_second: None
) -> None:
    clock = Clock()
    clock.now = 1_800_000_000.5
    path = tmp_path / "access.jsonl"
    async with EdgeHarness(site(origin.origin()), log=path, clock=clock) as harness:
        async with await harness.viewer() as viewer:
            for _ in range(10):
                await viewer.send(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n" * 30)
                for _ in range(30):
                    assert (await viewer.answer()).status == 403
        await harness.recorded(300)
        assert (await harness.get("/a")).status == 200
        await harness.recorded(301)
        log = harness.log
    written = await lines_of(path)
    refused = [each for each in written if each.get("reason") == "no_distribution"]
    assert len(refused) == MOST_REFUSED + 1
    assert refused[-1]["repeats"] == 300 - MOST_REFUSED - 1
    assert len([each for each in written if each["status"] == 200]) == 1
    assert (
        sum(n for (_, _, _, reason), n in log.counts.requests.items() if reason == "no_distribution") == 300
    )


async def test_requests_beyond_a_limit_leave_few_records_and_all_of_the_counts(
    origin: ScriptedOrigin, tmp_path: Path, one_second: None
) -> None:
    """A 503 costs a viewer less than its record costs the disk."""
    clock = Clock()
    clock.now = 1_800_000_000.5
    path = tmp_path / "access.jsonl"
    stuck = asyncio.Event()
    origin.on("/stuck", [stuck, *answer(200, b"late", {"Cache-Control": "no-store"})])
    settings = EdgeSettings(memory=1 << 22, max_object=1 << 20, viewers=ViewerLimits(requests_per_address=1))
    snapshot = site(origin.origin())
    async with EdgeHarness(snapshot, settings=settings, log=path, clock=clock) as harness:
        async with await harness.viewer() as holder, await harness.viewer() as viewer:
            await holder.send(b"GET /stuck HTTP/1.1\r\nHost: d.test\r\n\r\n")
            await origin.received(1)
            for _ in range(10):
                await viewer.send(b"GET /other HTTP/1.1\r\nHost: d.test\r\n\r\n" * 30)
                for _ in range(30):
                    assert (await viewer.answer()).status == 503
            stuck.set()
            assert (await holder.answer()).body == b"late"
        await harness.recorded(301)
        log = harness.log
    written = await lines_of(path)
    limited = [each for each in written if each.get("reason") == "requests_per_address"]
    assert len(limited) == MOST_REFUSED + 1
    assert limited[-1]["repeats"] == 300 - MOST_REFUSED - 1
    counted = {reason: n for (_, _, _, reason), n in log.counts.requests.items()}
    assert counted["requests_per_address"] == 300


@pytest.mark.parametrize("again", [1, 4])
async def test_long_fields_are_truncated_and_marked(
    origin: ScriptedOrigin, tmp_path: Path, again: int
) -> None:
    path = tmp_path / "access.jsonl"
    head = b"GET /a HTTP/1.1\r\nHost: d.test\r\nUser-Agent: %b\r\nReferer: %b\r\n\r\n"
    request = head % (b"\xff" * 9000, b'"' * 9000)
    async with EdgeHarness(site(origin.origin()), log=path) as harness:
        async with await harness.viewer() as viewer:
            for _ in range(again):  # the fast path answers the last of four
                await viewer.send(request)
                assert (await viewer.answer()).status == 200
        await harness.recorded(again)
    for line in path.read_bytes().splitlines():
        said = json.loads(line)
        assert said["user_agent"].endswith(CUT)
        assert said["referer"].endswith(CUT)
        assert len(line) < len(request)


@pytest.mark.parametrize("letter", [b'"', b"\\", b"\x7f", b"%", b"\xff"])
async def test_a_record_is_not_much_larger_than_its_request(
    origin: ScriptedOrigin, tmp_path: Path, letter: bytes
) -> None:
    path = tmp_path / "access.jsonl"
    request = b"GET /%b?%b HTTP/1.1\r\nHost: d.test\r\nUser-Agent: %b\r\n\r\n" % ((letter * 3000,) * 3)
    async with EdgeHarness(site(origin.origin()), log=path) as harness, await harness.viewer() as viewer:
        await viewer.send(request)
        await viewer.reader.readuntil(b"\r\n\r\n")
        await harness.recorded(1)
    assert len(path.read_bytes()) < 2 * len(request) + 1000


# -- many small pieces -------------------------------------------------------------------------------------------------


async def test_a_body_received_byte_by_byte_costs_its_bytes(
    origin: ScriptedOrigin, harness: EdgeHarness
) -> None:
    received: list[int] = []

    async def take(asked: ReceivedRequest, wire: Wire) -> None:
        received.append(len(asked.body))
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    origin.on("/post", [take])
    async with await harness.viewer() as viewer:
        await viewer.send(b"POST /post HTTP/1.1\r\nHost: d.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        await viewer.send(b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
        assert (await viewer.answer()).status == 200
    assert received == [20_000]


def answered_in_chunks(count: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * count + b"0\r\n\r\n"


async def test_an_answer_in_chunks_of_one_byte(origin: ScriptedOrigin, harness: EdgeHarness) -> None:
    origin.on("/drip", [answered_in_chunks(20_000)])
    for _ in range(2):
        assert (await harness.get("/drip")).body == b"x" * 20_000


def test_compressing_nothing_of_what_an_origin_sent() -> None:
    """No response is ever decompressed: a decompression bomb is passed on unchanged."""
    from keyfront.edge.rules import encoding

    bomb = zlib.compress(bytes(MIB))
    headers: Headers = [(b"content-encoding", b"deflate"), (b"content-type", b"text/html")]
    assert not encoding.compressible(Behavior("*", "o", compress=True), 200, headers, len(bomb))


def test_what_the_largest_head_costs_end_to_end() -> None:
    """All rules together, on the maximum number of lines: at most 10 ms, even on a slow machine."""
    from fuzz.cost import RULES

    headers = [(b"connection", b"x%d" % n) for n in range(MAX_LINES_OF_ONE)]
    headers += [(b"x%d" % n, b"y" * 60) for n in range(MAX_LINES - MAX_LINES_OF_ONE)]
    assert sum(seconds(lambda rule=rule: rule(headers), 0.0) for rule in RULES.values()) < 0.1  # type: ignore[misc]


# -- invalidations -----------------------------------------------------------------------------------------------------


def invalidations(*paths: str) -> Invalidations:
    return Invalidations(
        [Invalidation(n, (path,)) for n, path in enumerate(paths, 1)], lambda path: Select("none")
    )


@given(
    st.lists(st.text("ab", max_size=6).map(lambda text: f"/{text}*"), max_size=30),
    st.text("ab", max_size=8),
)
def test_the_last_of_all_prefixes_counts(paths: list[str], rest: str) -> None:
    key = f"E/{rest}"
    last = max((n for n, path in enumerate(paths, 1) if f"/{rest}".startswith(path[:-1])), default=0)
    asked = invalidations(*paths)
    assert all(asked.is_invalidated(key, number) == (number < last) for number in range(len(paths)))


def test_a_thousand_prefixes_cost_no_more_than_their_length() -> None:
    asked = invalidations(*[f"/{'a' * n}*" for n in range(2000)])
    key = "E/" + "a" * 8000
    assert asked.is_invalidated(key, 1999)
    assert opcodes(lambda: asked.is_invalidated(key, 1999)) < 500
