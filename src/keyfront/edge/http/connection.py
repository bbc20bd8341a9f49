"""The native HTTP/1.1 shell: bytes in, requests to the edge, bytes out. Decision 0001 says why it is our own.

Parsing is llhttp's (httptools), in its strict mode. What this file adds is order and limits: answers leave in the
order of their requests; a peer that is slow, stuck or too large is let go; a viewer that stops reading stops the
origin. A hit is answered inside the parser's callback; anything else runs in one task per connection, and what
arrives meanwhile waits in `_queue`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections import deque
from time import perf_counter
from typing import Any, cast

import httptools

from keyfront.edge.http.request_body import Body
from keyfront.edge.http.request_target import (
    MAX_DIGITS,
    MAX_HEAD,
    MAX_TARGET,
    NOTED,
    absolute_target,
    host_text,
    in_origin_form,
    parse_host,
)
from keyfront.edge.http.response_head import GONE, head_bytes, policed_head
from keyfront.edge.http.response_writer import JOINED
from keyfront.edge.http.timeouts import PRESSED_IDLE, Limits
from keyfront.edge.http.trusted_proxies import TrustedProxies, address_of
from keyfront.edge.limits.rates import Floor
from keyfront.edge.limits.viewers import Viewers
from keyfront.edge.net.sendfile import send_range
from keyfront.edge.net.tls import TlsTransport
from keyfront.edge.net.tunnel import LINGER, Tunnel
from keyfront.edge.net.unsent import acknowledged, on_its_way
from keyfront.edge.rules import error_pages, respond
from keyfront.edge.rules.response_headers import ResponseHeaders
from keyfront.edge.rules.slicing import ChangedError, UnusableError
from keyfront.edge.semantics.header_limits import MAX_LINES_OF_ONE, too_many_lines
from keyfront.edge.semantics.websocket import WEBSOCKET, upgrade_of
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.fast_path import CachedHeaderBlock, Caller, FastPath, aged
from keyfront.edge.serving.handler import Handler
from keyfront.edge.types.files import FileRange
from keyfront.edge.types.messages import Headers, LostError, Reply, Request, Upstream
from keyfront.edge.types.shield import SHIELD
from keyfront.edge.types.stored import Stored
from keyfront.errors import OriginFailure, clear_traceback

logger = logging.getLogger("keyfront.edge")

MAX_QUEUE = 32
MAX_QUEUE_BYTES = 64 * 1024
"""Requests, and bytes of their heads, that may wait on a connection before it is read on."""
EARLY = 64 * 1024
"""Bytes after a WebSocket handshake, before its answer, above which the viewer is not read any more."""


class Listener:
    """All connections of a worker on one listening socket, and what they share.

    :param handler: what answers the requests; by default the edge itself.
    """

    def __init__(
        self,
        edge: Edge,
        *,
        handler: Handler | None = None,
        scheme: str = "http",
        peers: TrustedProxies | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.edge = edge
        self.handler: Handler = edge if handler is None else handler
        self.scheme = scheme
        self.peers = peers or TrustedProxies()
        self.limits = limits or Limits()
        # Other edges are few, and known: nothing counts their connections.
        self.viewers: Viewers | None = None if scheme == SHIELD else edge.viewers
        self.idle = self.limits.idle
        self.connections: set[Connection] = set()
        self.draining = False
        self.empty: asyncio.Future[None] | None = None
        identity = f"\r\nVia: {edge.via}\r\nX-Amz-Cf-Pop: {edge.settings.pop}\r\nX-Amz-Cf-Id: "
        self.identity = identity.encode()
        self.quick = FastPath(edge)
        self.hit_tail = b"Connection: keep-alive\r\nX-Cache: Hit from cloudfront" + self.identity
        self._sweeper: asyncio.TimerHandle | None = None
        limit = self.limits
        shortest = min(limit.head, limit.idle, limit.body, limit.write, limit.websocket_idle)
        self._period = max(0.02, min(1.0, shortest / 4))

    def __call__(self) -> Connection:
        if self._sweeper is None:
            self._sweep()
        return Connection(self)

    def secured(self, context: ssl.SSLContext) -> TlsTransport:
        """A connection by TLS. It counts as one from its first packet, before the handshake."""
        shell = self()
        return TlsTransport(context, shell, self.limits.head, gate=shell)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        pressed = self.viewers is not None and self.viewers.connections.pressed
        self.idle = min(self.limits.idle, PRESSED_IDLE) if pressed else self.limits.idle
        for connection in list(self.connections):
            connection.check(now)
        self._sweeper = loop.call_later(self._period, self._sweep)

    async def drain(self) -> None:
        """Let every request under way finish, take no new ones, and cut what is left after `limits.drain` seconds: a
        WebSocket with Close frames, and the connections of those who do not answer them after `LINGER` seconds more."""
        self.draining = True
        if self.connections:
            self.empty = asyncio.get_running_loop().create_future()
            for connection in list(self.connections):
                connection.drain()
            await asyncio.wait([self.empty], timeout=self.limits.drain)
            tunnels = [each for each in self.connections if each.tunnel is not None]
            for connection in list(self.connections):
                if connection.tunnel is None:
                    connection.abort()
                else:
                    connection.tunnel.end("websocket_shutdown")
            if tunnels:
                await asyncio.wait([self.empty], timeout=LINGER)
            for connection in list(self.connections):
                connection.abort()
            await asyncio.wait([self.empty], timeout=LINGER)  # their records are still to be left
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def gone(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if self.empty is not None and not self.connections and not self.empty.done():
            self.empty.set_result(None)


class Connection(asyncio.Protocol):
    """One viewer's connection."""

    __slots__ = (
        "_begun",
        "_blank",
        "_body",
        "_caller",
        "_client_ip",
        "_clock",
        "_closing",
        "_early",
        "_edge",
        "_ending",
        "_entered",
        "_eof",
        "_handler",
        "_head_bytes",
        "_head_since",
        "_headers",
        "_heard",
        "_held",
        "_host",
        "_in_head",
        "_keep_alive",
        "_known",
        "_last_data",
        "_last_size",
        "_latest",
        "_let_go",
        "_lingering",
        "_listener",
        "_parser",
        "_peer_ip",
        "_peer_port",
        "_progress",
        "_queue",
        "_queued",
        "_quiet",
        "_reading_rate",
        "_refusal",
        "_request",
        "_room",
        "_sending",
        "_target",
        "_task",
        "_tls",
        "_transport",
        "_trusted",
        "_unparsed",
        "_upload_rate",
        "_writable",
        "tunnel",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._edge = listener.edge
        self._handler = listener.handler
        self._clock = asyncio.get_running_loop().time
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set in connection_made
        self._target = b""
        self._headers: Headers = []
        self._host: bytes | None = None
        self._request: Request | None = None
        self._body: Body | None = None
        self._keep_alive = True
        self._in_head = False
        self._head_bytes = 0
        self._head_since = 0.0
        self._queue: deque[tuple[Request, bool, Body | None]] = deque()
        self._queued = 0  # bytes of their heads
        self._task: asyncio.Task[None] | None = None
        self._tls: tuple[str, str] | None = None
        self._unparsed = 0
        self._early: bytearray | None = None  # what came after a handshake, as long as that is not answered
        self.tunnel: Tunnel | None = None  # a WebSocket has this connection's transport now
        self._writable = True
        self._room: asyncio.Future[None] | None = None
        self._sending = False  # the kernel sends a file
        self._held: set[str] = set()
        self._closing = False  # nothing is read or written any more
        self._ending = False  # no further request is taken
        self._refusal = ""  # how the connection ends once what came before is answered
        self._eof = False
        self._lingering = False
        self._blank = False  # blank lines came where a request line should
        self._entered: str | None = None  # what this connection is counted as
        self._let_go = ""  # the limit for which the connection was cut
        self._reading_rate = Floor()
        self._upload_rate = Floor()
        self._quiet = False  # between two requests, and nothing stands in the way of the next
        self._heard = False  # something, since the last check
        self._begun = 0  # requests, since this was set to 0
        self._latest: Request | None = None  # the last one that was not refused at once
        self._known = b""  # goes before a header section that means another thing when another peer sends it
        self._last_data = 0.0
        self._last_size = 0
        self._progress = 0.0

    # -- the transport's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        address, port = address_of(transport), peer[1] if peer else 0
        self._peer_ip = self._client_ip = address
        self._peer_port = port
        self._trusted = self._listener.peers.trusts(address)
        if not self.admit(transport):
            self.abort()
            return
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            self._tls = (secured.version() or "", secured.cipher()[0])
        self._caller = Caller(self._peer_ip, self._peer_port, self._tls)
        if self._trusted:
            self._known = self._peer_ip.encode() + b" "
        self._last_data = self._clock()
        self._listener.connections.add(self)
        if self._listener.draining:
            self._transport.close()
        else:
            self._quiet = True

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Count a connection, unless there are too many. Trusted proxies bring those of many viewers, so they are
        counted in all only."""
        viewers = self._listener.viewers
        if viewers is None or self._entered is not None:
            return True
        address = address_of(transport)
        self._peer_ip = address
        counted = self._listener.peers.counted_as(address)
        over = viewers.connections.enter(counted)
        if over:
            self._reached(over)
            return False
        self._entered = counted
        return True

    def leave(self) -> None:
        viewers, entered = self._listener.viewers, self._entered
        if viewers is not None and entered is not None:
            self._entered = None
            viewers.connections.leave(entered)

    def late(self) -> None:
        self._reached("slow_handshake")

    def _reached(self, limit: str) -> None:
        self._edge.reached.add(limit, self._peer_ip, self._clock())

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        self._closing = True
        self._quiet = False
        self._latest = None
        self._parser = None  # it holds this connection, and so both would stay
        self._listener.gone(self)
        self._queue.clear()
        if self._body is not None and not self._body.ended:
            self._body.fail()
        self._body = None  # likewise
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._quiet:
            self._heard = True
            end = data.find(b"\r")
            if data.startswith(b"GET /") and data[end - 9 : end] == b" HTTP/1.1":
                section = self._known + data[end:] if self._known else data[end:]
                quick = self._listener.quick
                found = quick.sections.get(section)
                raw = data[4 : end - 9]
                target = raw.decode("latin-1")
                if found is not None:
                    answer = quick.answer(found, target, self._caller)
                    if answer is not None:
                        self._send(*answer, found.request)
                        return
                    if len(raw) <= MAX_TARGET and in_origin_form(raw):
                        self._take(found, target)
                        return
                else:
                    self._begun = 0
                    self._latest = None
                    self._parse(data)
                    self._learn(section, target)
                    return
        self._parse(data)

    def _learn(self, section: bytes, target: str) -> None:
        """Keep a header section, if it was all of one request for this target that was not refused."""
        request = self._latest
        if (
            request is not None
            and self._begun == 1
            and request.target == target
            and request.body is None
            and request.version == "1.1"
            and not request.upgrade
            and self._request is None
            and not (self._in_head or self._ending or self._unparsed)
        ):
            self._listener.quick.learn(section, request, request.client_ip if self._trusted else "")

    def _take(self, section: CachedHeaderBlock, target: str) -> None:
        """A request of which nothing is left to be parsed."""
        self._last_data = self._clock()
        self._keep_alive = True
        self._body = None
        visit = self._handler.lookup(section.request_for(target, self._caller))
        stored = visit.hit
        if stored is not None:
            self._send(stored, *self._told(visit, stored))
            if not self._listener.quick.log_hit(visit, section, self._caller):
                self._handler.log_access(visit, 200, len(stored.body), "Hit", "Hit")
        else:
            self._quiet = False
            self._task = asyncio.get_running_loop().create_task(self._run(visit, True, None))

    def _parse(self, data: bytes) -> None:
        if self._closing:
            return
        self._last_data = self._clock()
        if self._early is not None:
            self._wait_with(data)
            return
        self._head_bytes += len(data)
        body, begun = self._body, self._begun
        if self._unparsed:
            data = bytes(self._feed_unparsed(memoryview(data)))
            self._head_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._go_on_parsing(memoryview(data)[upgrade.args[0] :]):
                return
        except httptools.HttpParserError:
            self._refuse("bad_request")
            return
        if self._in_head:
            if self._head_bytes > MAX_HEAD:
                self._refuse("too_large")
        elif (
            self._begun == begun
            and self._head_bytes  # else a request has ended in these bytes, whose head began before them
            and (self._body is None or self._body.ended)
            and not self._unparsed
        ):
            # Blank lines where a request line should be (RFC 9112 §2.2): they belong to the head that is to come.
            if self._head_bytes > MAX_HEAD:
                self._refuse("too_large")
            elif not self._blank:
                self._blank = True
                self._quiet = False
                self._head_since = self._last_data
        else:
            self._head_bytes = 0
            if body is not None and body is self._body and not body.ended:
                body.wire += len(data)
                if body.wire > 2 * MAX_HEAD + 16 * body.total:
                    self._refuse("too_large")  # chunk extensions or a trailer without end

    def _go_on_parsing(self, rest: memoryview) -> bool:
        """What follows the head of a WebSocket's handshake waits for its answer. Any other upgrade is answered as if it
        had not been asked for (RFC 9110 §7.8), and what follows its head is parsed anew. False if nothing was parsed,
        or that ended the connection."""
        while True:
            if self._early is not None:
                self._wait_with(rest)
                return False
            self._parser = httptools.HttpRequestParser(self)
            if self._unparsed:
                rest = self._feed_unparsed(rest)
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse("bad_request")
                return False
            else:
                return True

    def _wait_with(self, data: bytes | memoryview) -> None:
        """Keep what comes after a handshake that has no answer yet."""
        if self._early is not None:
            self._early += data
            if len(self._early) > EARLY:
                self.hold("early")

    def _feed_unparsed(self, data: memoryview) -> memoryview:
        """The parser takes every upgrade for a switch and leaves the request's body to us. What is not of it."""
        chunk = bytes(data[: self._unparsed])
        self._unparsed -= len(chunk)
        if self._body is not None and chunk:
            self._body.feed(chunk)
            if not self._unparsed:
                self._body.end()
        return data[len(chunk) :]

    def eof_received(self) -> bool:
        """A viewer may half-close and still wait for its answers."""
        self._eof = True
        self._quiet = False
        if self._body is not None and not self._body.ended:
            self._body.fail()
            if not self._refusal:
                return False
        return self._task is not None or bool(self._queue)

    def pause_writing(self) -> None:
        self._writable = self._quiet = False
        self._progress = self._clock()

    def resume_writing(self) -> None:
        self._writable = True
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._next()

    def hold(self, why: str) -> None:
        """Stop reading from the viewer until every reason to do so is gone."""
        if not self._held:
            self._transport.pause_reading()
        self._held.add(why)
        self._quiet = False

    def release(self, why: str) -> None:
        if why in self._held:
            self._held.discard(why)
            if not self._held and not self._closing:
                self._last_data = self._head_since = self._clock()  # the time until now was ours
                self._transport.resume_reading()
                self._settle()

    # -- the parser's side -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._begun += 1
        self._quiet = False
        self._in_head = True
        if not self._blank:
            self._head_since = self._last_data
        self._target = b""
        self._headers = []
        self._host = None
        self._body = None
        self._request = None

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # later ones are trailers: dropped
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = self._blank = False
        parser = self._parser
        headers = self._headers
        self._keep_alive = parser.should_keep_alive()
        raw_host: bytes | None = None
        cookies: list[bytes] = []
        length: int | None = None
        has_body = expects = bad = speaks_of_connection = speaks_of_upgrade = False
        size = len(self._target) + 26
        for name, value in headers:
            size += len(name) + len(value) + 4
            if name not in NOTED:
                continue
            if name == b"host":
                bad = bad or raw_host is not None
                raw_host = value
            elif name == b"cookie":
                cookies.append(value)
            elif name == b"connection":
                speaks_of_connection = True
            elif name == b"upgrade":
                speaks_of_upgrade = True
            elif name == b"content-length":
                # llhttp lets digits pass only, up to 64 bits; but as many zeros before them as anybody likes.
                length = int(value) if len(value) <= MAX_DIGITS else -1
                bad = bad or length < 0
                has_body = length > 0
            elif name == b"transfer-encoding":
                # Whatever is not plainly `chunked` others may frame otherwise (RFC 9112 §6.1, §6.3).
                bad = bad or has_body or value.strip(b" \t").lower() != b"chunked"
                has_body = True
            else:
                expects = True
        # Only HTTP/1.1 keeps a connection open unasked; to ask the parser for the version is dear.
        version = "1.1" if self._keep_alive and not speaks_of_connection else parser.get_http_version()
        target = self._target.decode("ascii")
        if size > MAX_HEAD or len(target) > MAX_TARGET:
            self._refuse("too_large")
            return
        if len(headers) > MAX_LINES_OF_ONE and too_many_lines(headers):
            self._refuse("too_many_headers")
            return
        if not target.startswith("/"):
            bad = bad or (raw_host is None and version == "1.1")  # it may not count, but it must be there
            raw_host, target = absolute_target(target, raw_host)
        host = parse_host.get(raw_host) or host_text(raw_host)
        upgrades = speaks_of_connection and parser.should_upgrade()
        if (
            bad
            or not host
            or "#" in target
            or (target == "*" and parser.get_method() != b"OPTIONS")
            or version not in ("1.1", "1.0")
            or (has_body and length is None and (upgrades or version == "1.0"))
        ):
            self._refuse("bad_request")
            return
        scheme, client = self._listener.scheme, self._peer_ip
        if self._trusted:
            client, scheme, headers = self._listener.peers.viewer(client, headers, scheme)
        if expects and any(n == b"expect" and v.strip(b" \t").lower() != b"100-continue" for n, v in headers):
            self._refuse("expectation_failed")
            return
        body = Body(self, awaited=expects and version == "1.1") if has_body else None
        method = parser.get_method().decode()
        if method == "CONNECT":
            self._keep_alive = False  # what follows would be for the other end
        elif upgrades and length is not None:
            self._unparsed = length
        upgrade = ""
        if speaks_of_upgrade:
            upgrade = upgrade_of(method, version, headers, named=upgrades, has_body=has_body)
            if upgrade == WEBSOCKET and not self._ending:
                self._early = bytearray()
        request = Request(
            method,
            target,
            host,
            headers,
            scheme,
            client,
            self._peer_port,
            version,
            b"; ".join(cookies).decode("latin-1") if cookies else "",
            body,
            length,
            size,
            self._tls,
            upgrade,
        )
        self._request = request
        if body is not None:
            self._body = body
            self._upload_rate.rest()
            self._accept(request, body)

    def on_body(self, chunk: bytes) -> None:
        if self._body is not None:
            self._body.feed(chunk)

    def on_message_complete(self) -> None:
        self._head_bytes = 0  # what came before is not of the next head
        if self._body is not None:
            if not self._unparsed:
                self._body.end()
        elif self._request is not None:
            self._accept(self._request, None)
        self._request = None
        self._settle()

    # -- requests in order -------------------------------------------------------------------------------------------

    def _accept(self, request: Request, body: Body | None) -> None:
        if self._ending:
            return
        self._ending = not self._keep_alive
        if self._task is not None or self._queue or not self._writable:
            self._queue.append((request, self._keep_alive, body))
            self._queued += request.wire_bytes
            if len(self._queue) >= MAX_QUEUE or self._queued >= MAX_QUEUE_BYTES:
                self.hold("queue")
            return
        self._start(request, self._keep_alive, body)

    def _start(self, request: Request, keep_alive: bool, body: Body | None) -> None:
        visit = self._handler.lookup(request)
        if visit.refusal is None:
            self._latest = request
        stored = visit.hit
        if stored is not None and keep_alive and request.version == "1.1" and not self._listener.draining:
            self._write_hit(visit, stored)
            return
        self._task = asyncio.get_running_loop().create_task(self._run(visit, keep_alive, body))

    def _next(self) -> None:
        """Start what waits, as far as it can be started now."""
        self._head_since = self._clock()  # a head may have begun behind an answer that took its time
        while self._queue and self._task is None and self._writable and not self._closing:
            waiting = self._queue.popleft()
            self._queued -= waiting[0].wire_bytes
            self._start(*waiting)
        if len(self._queue) < MAX_QUEUE and self._queued < MAX_QUEUE_BYTES:
            self.release("queue")
        if self._task is None and not self._queue:
            if self._refusal:
                self._write_refusal()
            elif self._eof or self._listener.draining:
                self._transport.close()
        self._settle()

    def _settle(self) -> None:
        """Find out whether the next request may be answered the quick way: the parser is between two messages, no
        answer is under way, and nothing has begun to end."""
        self._quiet = (
            self._task is None
            and self._writable
            and not self._queue
            and self._request is None
            and not (
                self._in_head
                or self._blank
                or self._ending
                or self._closing
                or self._eof
                or self._unparsed
                or self._held
            )
            and self._early is None
            and not self._listener.draining
        )

    def _write_hit(self, visit: Exchange, stored: Stored) -> None:
        whole = visit.request.method == "GET"
        self._send(stored, *self._told(visit, stored), whole=whole)
        self._handler.log_access(visit, 200, len(stored.body) if whole else 0, "Hit", "Hit")

    def _told(self, visit: Exchange, stored: Stored) -> tuple[bytes, bytes, ResponseHeaders | None, Request]:
        """What `_send` is to be told of a hit that was decided the long way."""
        plan = visit.plan
        policy = plan.route.response_headers if plan is not None else None
        return visit.request_id.encode(), aged(stored, visit.now), policy, visit.request

    def _send(
        self,
        stored: Stored,
        request_id: bytes,
        age: bytes,
        policy: ResponseHeaders | None,
        request: Request,
        *,
        whole: bool = True,
    ) -> None:
        """A stored response as it is, or as the response headers policy has it; or its head. `age` ends the head."""
        head, body = stored.head, stored.body if whole else b""
        if policy is not None:
            head = policed_head(stored, policy, request)
        elif not head:
            head = stored.head = head_bytes(stored.meta.status, stored.meta.headers, len(stored.body))
        if len(body) <= JOINED:
            self._transport.write(b"".join((head, self._listener.hit_tail, request_id, age, body)))
        else:
            self._transport.writelines((head, self._listener.hit_tail, request_id, age, body))

    async def _run(self, visit: Exchange, keep_alive: bool, body: Body | None) -> None:
        """One request that needs more than a look into memory, to its end."""
        reply: Reply | None = None
        detail = ""
        started = False
        viewers = self._listener.viewers
        counted: str | None = None
        try:
            if visit.request.version == "1.1":
                visit.interim = self._write_interim
            try:
                over = ""
                if viewers is not None:
                    address = self._listener.peers.counted_as(visit.request.client_ip)
                    over = viewers.requests.enter(address)
                    counted = None if over else address
                if over:
                    self._reached(over)
                    reply = respond.dated(error_pages.limited(over, visit.request_id), visit.now)
                else:
                    reply = await self._handler.serve(visit)
            except (ConnectionResetError, ConnectionAbortedError) as error:
                clear_traceback(error)
                if not self._refusal or self._closing:
                    detail = "ClientHungUpRequest"
                    return
                # Its body turned out to be none (`_refuse`): that is the answer.
                reply = error_pages.refused(self._refusal, None, visit.request, visit.request_id)
                reply = respond.dated(reply, visit.now)
                self._refusal = ""
            except Exception as error:  # the edge must not lose a connection's order to its own bug
                logger.exception("request %s failed", visit.request_id)
                reply = error_pages.internal_error(error, visit.request_id)
            finally:
                visit.interim = None
            if body is not None and not body.ended:
                keep_alive = False
            if self._listener.draining:
                keep_alive = False
            if reply.upstream is not None:
                if await self._switch(visit, reply, reply.upstream):
                    started = True
                    detail = reply.detail
                    return
                failure = OriginFailure("OriginCommError", 502, "closed by the origin behind its 101")
                visit.explanation = failure.detail
                reply = respond.dated(error_pages.origin_failed(failure, visit.request_id), visit.now)
            if visit.request.upgrade == WEBSOCKET:
                keep_alive = self._go_on_without_websocket() and keep_alive
            started = True
            keep_alive = await self._write(visit, reply, keep_alive)
            detail = reply.detail
        except (ConnectionResetError, ConnectionAbortedError) as error:
            clear_traceback(error)
            detail = "ClientHungUpRequest"
        except asyncio.CancelledError:
            detail = "ClientHungUpRequest"
            raise
        except Exception as error:
            # The answer broke off half way: the only honest end is to cut the connection. Where the viewer can see that
            # something is missing, what it was sent until then must still arrive: the answers before this one, for one.
            detail = "Error"
            if isinstance(error, OriginFailure):
                detail = error.kind
                visit.explanation = error.detail
            elif isinstance(error, (LostError, ChangedError, UnusableError)):
                if reply is not None:
                    reply.reason = GONE
            else:
                logger.exception("request %s failed in the middle of its answer", visit.request_id)
            clear_traceback(error)
            if visit.request.version == "1.0" and (reply is None or reply.length is None):
                self._reset()
            else:
                self._ending = True
                self._queue.clear()
                self._linger()
        finally:
            self._task = None
            if viewers is not None and counted is not None:
                viewers.requests.leave(counted)
            if reply is not None:
                close = getattr(reply.body, "aclose", None)
                if close is not None:
                    await close()
                if reply.upstream is not None:
                    reply.upstream.end()
            result = reply.x_cache if reply is not None else "Error"
            self._handler.log_access(
                visit,
                reply.status if reply is not None and (started or self.tunnel is not None) else 0,
                visit.sent,
                result,
                detail,
                self._let_go or (reply.reason if reply is not None else ""),
            )
            if self.tunnel is not None:
                self.connection_lost(None)
            elif not self._closing:
                if not keep_alive or detail == "ClientHungUpRequest":
                    self._finish(body)
                else:
                    if body is not None:
                        body.discard()
                    self._next()

    async def _write(self, visit: Exchange, reply: Reply, keep_alive: bool) -> bool:
        """Head and body of an answer. Returns whether the connection may go on."""
        request = visit.request
        status, body, length = reply.status, reply.body, reply.length
        bodiless = request.method == "HEAD" or status in (204, 304)
        chunked = False
        if length is None and not bodiless:
            if request.version == "1.0":
                keep_alive = False
            else:
                chunked = True
        connection = b"Connection: keep-alive\r\n" if keep_alive else b"Connection: close\r\n"
        if chunked:
            connection = b"Transfer-Encoding: chunked\r\n" + connection
        head = b"".join(
            (
                head_bytes(status, reply.headers, None if status == 204 else length),
                connection,
                f"X-Cache: {reply.x_cache} from cloudfront".encode(),
                self._listener.identity,
                visit.request_id.encode(),
                b"\r\n\r\n",
            )
        )
        visit.timings.first_byte = perf_counter()
        if isinstance(body, bytes):
            if bodiless:
                body = b""
            self._transport.write(head + body if len(body) < 65536 else head)
            if len(body) >= 65536:
                self._transport.write(body)
            if not self._writable:
                await self._drained()
            visit.sent = len(body)
            return keep_alive
        self._transport.write(head)
        if bodiless:
            return keep_alive
        async for chunk in body:
            if not chunk:
                continue
            if isinstance(chunk, FileRange):
                if chunked:
                    self._transport.write(b"%x\r\n" % len(chunk))
                await self._send_file(visit, chunk)
                if chunked:
                    self._transport.write(b"\r\n")
            else:
                self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                visit.sent += len(chunk)
            if not self._writable:
                await self._drained()
            if self._closing:
                raise ConnectionResetError
        if chunked:
            self._transport.write(b"0\r\n\r\n")
        elif length is not None and visit.sent != length:
            raise RuntimeError(f"the body has {visit.sent} bytes, {length} were promised")
        return keep_alive

    async def _switch(self, visit: Exchange, reply: Reply, upstream: Upstream) -> bool:
        """A WebSocket, from its 101 to its end. Returns False if the origin has left before the viewer had the 101.

        :raises ConnectionResetError: if the viewer has left before.
        """
        if not self._writable:
            await self._drained()
        limits = self._listener.limits
        head = b"".join(
            (
                head_bytes(101, reply.headers, None),
                b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
                f"X-Cache: {reply.x_cache} from cloudfront".encode(),
                self._listener.identity,
                visit.request_id.encode(),
                b"\r\n\r\n",
            )
        )
        self.release("early")
        tunnel = Tunnel(self._transport, limits.websocket_idle, limits.write)
        if not tunnel.open(upstream, head, bytes(self._early or b""), ended=self._eof):
            upstream.end()
            return False
        self._early = None
        visit.timings.first_byte = perf_counter()
        self.tunnel = tunnel
        try:
            await tunnel.finished
        finally:
            tunnel.abort()
            visit.sent, visit.received = tunnel.origin.received, tunnel.viewer.received
            reply.reason = tunnel.reason
        return True

    def _go_on_without_websocket(self) -> bool:
        """The handshake was not accepted. Returns whether the connection may go on as HTTP. Not if the viewer has sent
        anything since: it meant that for a WebSocket, or for somebody who takes it for one. Then none of it, and
        nothing that follows, is read as a request."""
        if self._early:
            return False
        self._early = None
        self._parser = httptools.HttpRequestParser(self)
        return True

    def _write_interim(self, status: int, headers: Headers) -> None:
        """An interim answer (1xx). Nothing of the final answer is out yet."""
        if not self._closing:
            via = (b"via", self._edge.via.encode())
            self._transport.write(head_bytes(status, [*headers, via], None) + b"\r\n")

    async def _drained(self) -> None:
        while not self._writable and not self._closing:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if self._closing:
            raise ConnectionResetError

    async def _send_file(self, visit: Exchange, piece: FileRange) -> None:
        """A piece of a file: by the kernel once all before it is out, or through this process where TLS needs it."""
        if self._tls is not None:
            for chunk in piece:
                self._transport.write(chunk)
                visit.sent += len(chunk)
                if not self._writable:
                    await self._drained()
            return

        def moved(sent: int) -> None:
            visit.sent += sent
            self._progress = self._clock()

        self._sending = True
        self._progress = self._clock()
        self._transport.set_write_buffer_limits(high=0)
        try:
            if not self._writable:
                await self._drained()
            await send_range(self._transport, piece, moved)
        finally:
            self._sending = False
            if not self._transport.is_closing():
                self._transport.set_write_buffer_limits()

    def go_on(self) -> None:
        """100 Continue. Nothing of the answer is out yet: it is made of the body that is waited for."""
        if not self._closing:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # -- ends --------------------------------------------------------------------------------------------------------

    def _refuse(self, name: str) -> None:
        """A request that cannot be understood or is too large ends the connection, after those before it."""
        if self._ending:
            return
        self._ending = True
        self._quiet = False
        self._in_head = False
        self._refusal = name
        if self._body is not None and not self._body.ended:
            self._body.fail()
        if self._task is None and not self._queue:
            self._write_refusal()

    def _write_refusal(self) -> None:
        request = Request(
            "-",
            self._target[:MAX_TARGET].decode("latin-1") or "-",
            (self._host or b"").decode("latin-1"),
            [],
            scheme=self._listener.scheme,
            client_ip=self._client_ip,
            client_port=self._peer_port,
            tls=self._tls,
        )
        visit = self._edge.unreadable(request)
        reply = respond.dated(error_pages.refused(self._refusal, None, request, visit.request_id), visit.now)
        body = reply.body if isinstance(reply.body, bytes) else b""
        self._transport.write(
            b"".join(
                (
                    head_bytes(reply.status, reply.headers, len(body)),
                    b"Connection: close\r\n",
                    f"X-Cache: {reply.x_cache} from cloudfront".encode(),
                    self._listener.identity,
                    visit.request_id.encode(),
                    b"\r\n\r\n",
                    body,
                )
            )
        )
        self._handler.log_access(visit, reply.status, len(body), reply.x_cache, reply.detail, self._refusal)
        self._linger()

    def _finish(self, body: Body | None) -> None:
        self._ending = True
        self._quiet = False
        self._queue.clear()
        unread = self._early is not None or (body is not None and not body.ended)
        if unread and not self._eof:
            self._linger()
        else:
            self._transport.close()

    def _linger(self) -> None:
        """Close our half, and let the viewer finish talking for a moment: closing at once with unread bytes would
        reset the connection before it has read its answer (RFC 9112 §9.6)."""
        self._held.clear()
        self._transport.resume_reading()
        self._closing = self._lingering = True
        self._quiet = False
        self._progress = self._clock()
        if self._eof or not self._transport.can_write_eof():
            self._transport.close()
        else:
            try:
                self._transport.write_eof()
            except OSError as error:  # the viewer has reset it, and the loop has not noticed yet
                clear_traceback(error)
                self._transport.abort()

    def drain(self) -> None:
        self._quiet = False
        if self._task is None and not self._queue and not self._in_head:
            self._transport.close()

    def abort(self) -> None:
        if self.tunnel is not None:
            self.tunnel.abort()
            return
        self._closing = True
        self._quiet = False
        self._transport.abort()

    def _cut(self, limit: str, *, reset: bool = False) -> None:
        """End the connection of a viewer who is too slow. With `reset` by RST: a viewer that does not read would never
        get to the end of a close in good order, and the kernel would keep all that waits for it."""
        if not self._closing or self._lingering:
            self._let_go = limit
            self._reached(limit)
        if reset:
            self._reset()
        else:
            self.abort()

    def _reset(self) -> None:
        """Break off so that the viewer cannot take it for an end in good order: RST instead of FIN."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def check(self, now: float) -> None:
        """Once in a while: let go of a peer that is idle, slow or stuck."""
        if self.tunnel is not None:
            self.tunnel.check(now)
            return
        limits = self._listener.limits
        waited_for = False
        if self._heard:
            self._heard = False
            self._last_data = now
        size = self._transport.get_write_buffer_size()
        if (size or self._task is not None) and (self._body is None or self._body.ended):
            self._last_data = now  # an answer is under way: the viewer is idle only after it
        if size or self._sending:
            size += on_its_way(self._transport)
            if size != self._last_size:
                self._progress = now
            elif now - self._progress > limits.write:
                self._cut("stuck_reader", reset=True)
                return
            taken = acknowledged(self._transport)
            if taken is not None:
                waited_for = True
                if self._reading_rate.slow(now, taken, limits.rate, limits.write, owed=size):
                    self._cut("slow_reader", reset=True)
        elif self._lingering:
            if now - self._progress > LINGER:
                self.abort()
        elif (self._in_head or self._blank) and self._task is None and not self._queue and not self._held:
            if now - self._head_since > limits.head:
                self._cut("slow_head")
        elif self._body is not None and not self._body.ended:
            if self._held or self._body.awaited:
                self._upload_rate.rest()
            elif now - self._last_data > limits.body:
                self._cut("stuck_upload")
            elif self._upload_rate.slow(now, self._body.total, limits.rate, limits.body):
                self._cut("slow_upload")
        elif self._task is None and now - self._last_data > self._listener.idle:
            self._transport.close()
        if not waited_for:
            self._reading_rate.rest()
        self._last_size = size
