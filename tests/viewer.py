"""An edge on a real port and viewers that speak to it byte by byte.

async with EdgeHarness(snapshot) as harness:
    seen = await harness.get("/a", host="d.test")
    async with await harness.viewer() as viewer:
        await viewer.send(b"GET / HTTP/1.1\\r\\nHost: d.test\\r\\n\\r\\n")
        seen = await viewer.answer()
"""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple

from keyfront.edge.cache.shared_segment import Segment
from keyfront.edge.http.http2_connection import Http2Connection
from keyfront.edge.http.http2_session import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from keyfront.edge.http.listener import Listener
from keyfront.edge.http.timeouts import Limits
from keyfront.edge.http.trusted_proxies import TrustedProxies
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.logs.spool import Spool
from keyfront.edge.net.certificates import Certificates
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.fast_path import Caller
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.types.record import Record
from keyfront.model.snapshot import Snapshot


class Seen:
    """A response as a viewer sees it. Header names are lowercase here; `raw_head` keeps the original spelling."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes, raw_head: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.raw_head = raw_head

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def x_cache(self) -> str:
        return (self.header("x-cache") or "").removesuffix(" from cloudfront")

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:200]!r}>"


class Viewer:
    """One viewer's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, method: str = "GET") -> Seen:
        """The next response, with its body read to the end as RFC 9112 §6.3 frames it."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        headers = []
        for line in lines:
            name, colon, value = line.partition(":")
            assert colon and name == name.strip(), line
            headers.append((name.lower(), value.strip()))
        fields = dict(headers)
        body = b""
        if method == "HEAD" or status in (204, 304) or status < 200:
            pass
        elif fields.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
        elif "content-length" in fields:
            body = await self.reader.readexactly(int(fields["content-length"]))
        else:
            body = await self.reader.read()
        return Seen(status, headers, body, head)

    async def ask(
        self,
        target: str,
        host: str,
        headers: Iterable[tuple[str, str]] = (),
        *,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Seen:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{n}: {v}" for n, v in headers)]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
        while (seen := await self.answer(method)).status < 200:
            pass  # an interim response
        return seen

    async def at_end(self) -> bytes:
        """Everything up to the edge's close."""
        return await self.reader.read()

    async def __aenter__(self) -> Viewer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()


class Clock:
    """A clock in epoch seconds that advances only when a test says so."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


class Http2Viewer:
    """A viewer that speaks HTTP/2 on a connection, and encodes its requests as browsers do: the path of each is a
    literal that the table never gets."""

    def __init__(self, viewer: Viewer) -> None:
        self._reader, self._writer = viewer.reader, viewer.writer
        self._encoder, self._decoder = Encoder(), Decoder()
        self._stream = -1
        self.indexes_path = False
        """Whether paths go into the compression table, unlike those of browsers."""
        window = struct.pack(">HI", 4, 1 << 30), struct.pack(">I", 1 << 30)
        self._writer.write(PREFACE + frame(SETTINGS, 0, 0, window[0]) + frame(WINDOW_UPDATE, 0, 0, window[1]))

    def request(self, target: str, host: str, headers: Iterable[str], method: str = "GET") -> bytes:
        """The frame of a request on a new stream; `headers` are lines of HTTP/1.1."""
        self._stream += 2
        fields = ((":method", method), (":scheme", "https"))
        encoded = [HeaderTuple(*field) for field in fields]
        kind = HeaderTuple if self.indexes_path else NeverIndexedHeaderTuple
        encoded += [kind(":path", target.encode("latin-1")), HeaderTuple(":authority", host)]
        for line in headers:
            name, _, value = line.partition(":")
            encoded.append(HeaderTuple(name.lower(), value.strip(" ").encode("latin-1")))
        return frame(HEADERS, END_HEADERS | END_STREAM, self._stream, self._encoder.encode(encoded))

    async def ask(self, target: str, host: str, headers: Iterable[str], method: str = "GET") -> Seen:
        self._writer.write(self.request(target, host, headers, method))
        (seen,) = await self.answers([self._stream])
        return seen

    async def together(self, host: str, requests: Iterable[tuple[str, tuple[str, ...]]]) -> list[Seen]:
        """The responses to requests, targets and header lines, that are sent in one piece."""
        first = self._stream + 2
        self._writer.write(b"".join([self.request(target, host, headers) for target, headers in requests]))
        return await self.answers(list(range(first, self._stream + 2, 2)))

    async def answers(self, streams: list[int]) -> list[Seen]:
        """The responses on these streams, which may arrive in any order."""
        heads: dict[int, list[tuple[str, str]]] = {}
        bodies = dict.fromkeys(streams, b"")
        waiting = set(streams)
        while waiting:
            head = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            assert kind not in (RST_STREAM, GOAWAY), payload
            if kind == HEADERS:
                decoded = self._decoder.decode(payload, raw=True)
                heads[stream] = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in decoded]
            elif kind == DATA:
                bodies[stream] += payload
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                waiting.discard(stream)
        return [Seen(int(heads[s][0][1]), heads[s][1:], bodies[s], b"") for s in streams]


class EdgeHarness:
    """The internals of one edge worker on an ephemeral port, with access to its access records."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        settings: EdgeSettings | None = None,
        limits: Limits | None = None,
        trusted: tuple[str, ...] = (),
        scheme: str = "http",
        log: Path | None = None,
        tls: ssl.SSLContext | Certificates | None = None,
        clock: Callable[[], float] = time.time,
        segment: Segment | None = None,
        spool: Spool | None = None,
        http2: bool = False,
    ) -> None:
        """:param tls: a context, or all certificates. :param http2: viewers speak HTTP/2, without TLS."""
        covers = tls.cover if isinstance(tls, Certificates) else None
        self.tls = tls.context if isinstance(tls, Certificates) else tls
        self.http2 = http2
        scheme = "https" if tls is not None else scheme
        self.log = AccessLog(log, spool=spool)
        settings = settings or EdgeSettings(memory=1 << 22, max_object=1 << 20)
        self.edge = Edge(settings, self.log, clock, segment)
        self.edge.use(snapshot)
        self.listener = Listener(
            self.edge, scheme=scheme, peers=TrustedProxies(trusted), limits=limits, covers=covers
        )
        self.port = 0
        self.records: list[dict[str, Any]] = []
        self._server: asyncio.Server | None = None
        self._news = asyncio.Condition()
        self._done = self.edge.log.add
        self.edge.log.add = self._record  # type: ignore[method-assign]
        self._done_quickly = self.edge.log.hit
        self.edge.log.hit = self._quick_record  # type: ignore[method-assign,assignment]

    def _record(self, record: Record) -> None:
        self._done(record)
        self._note(msgspec.json.encode(record))

    def _quick_record(self, line: str) -> None:
        self._done_quickly(line)
        self._note(line)

    def _note(self, line: str | bytes) -> None:
        self.records.append(json.loads(line))
        self._wake = asyncio.ensure_future(self._notify())

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def recorded(self, count: int) -> dict[str, Any]:
        """Wait for that many access records, and return the last one."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.records) >= count)
        return self.records[count - 1]

    async def __aenter__(self) -> EdgeHarness:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.listener.connections):
            connection.abort()
        await self.listener.drain()
        await self.edge.aclose()
        self.log.close()

    def _connection(self) -> asyncio.Protocol:
        if self.http2:
            self.listener()  # starts the checks
            shared = self.listener.shared
            trusted = shared.proxies.trusts("127.0.0.1")
            return Http2Connection(shared, Caller("127.0.0.1", 1, None), trusted=trusted)
        return self.listener() if self.tls is None else self.listener.secured(self.tls)

    async def viewer(self, **tls: Any) -> Viewer:
        """A new connection; `ssl` and `server_hostname` have the same meaning as in asyncio."""
        return Viewer(*await asyncio.open_connection("127.0.0.1", self.port, **tls))

    async def get(
        self,
        target: str,
        host: str = "d.test",
        headers: Iterable[tuple[str, str]] = (),
        *,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Seen:
        """One request on its own connection."""
        async with await self.viewer() as viewer:
            return await viewer.ask(target, host, headers, method=method, body=body)
