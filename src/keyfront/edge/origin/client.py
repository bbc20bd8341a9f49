"""The edge's side toward origins: names, connections, attempts.

What may go wrong, and what is told (kind: cloudfront-semantics §6.2; status: what the viewer gets, §5.14):

| event                                                               | kind                       | status |
| ------------------------------------------------------------------- | -------------------------- | ------ |
| the name does not resolve, or not in time                           | OriginDnsError             | 502    |
| refused, unreachable, reset while connecting                        | OriginConnectError         | 502    |
| every address is one that origins may not be at (`egress`)          | OriginConnectError         | 502    |
| too many connections failed just before (`limits.origins.Breaker`)  | as the last of them        |        |
| too many requests are with it, and more wait for too long           | LimitExceeded              | 503    |
| no TLS: certificate, name, protocol version                         | OriginConnectError         | 502    |
| not connected (TCP and TLS) within the connection timeout           | OriginConnectError         | 504    |
| the origin takes no request bytes for the read timeout              | OriginWriteError           | 504    |
| the connection breaks while the request is sent                     | OriginWriteError           | 502    |
| nothing received for the read timeout: no head, or within the body  | OriginReadError            | 504    |
| closed or reset before the head is whole, or within the body        | OriginCommError            | 502    |
| the response completion timeout has passed, all attempts counted    | OriginCommError            | 504    |
| a signature is wanted and there are no credentials for it            | OriginWriteError           | 502    |
| the path names no key, or could lead into another bucket            | OriginWriteError           | 400    |
| more than 20,480 bytes of headers                                   | OriginHeaderTooBigError    | 502    |
| not HTTP/1, or framing that can be read in two ways                 | OriginInvalidResponseError | 502    |
| 304 Not Modified to a request without conditions                    | OriginInvalidResponseError | 502    |

504 stands for "not in time" and 502 for "wrong", as RFC 9110 §15.6.3 and §15.6.5 have it and as the Developer
Guide tells timeouts from refused and closed connections.

Attempts (§5.14). Connecting is tried `connection_attempts` times for every method. GET and HEAD spend the
same attempts when nothing usable came back in time or the connection broke before the head was whole; other
methods are not sent twice. One exception: a kept connection that turns out closed before any byte of the
response says only that the origin had hung up meanwhile, so an idempotent request without a body goes out
once more, on a new connection, at no attempt's cost. A request that cannot be repeated is given only a
connection used within the last second, or a new one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from time import time
from typing import Final

from keyfront.edge.limits.origins import Breaker, OriginLimits, Turns
from keyfront.edge.limits.reports import Reached
from keyfront.edge.net.tls import TlsTransport
from keyfront.edge.net.tunnel import OriginUpstream
from keyfront.edge.origin.access import OriginAccess
from keyfront.edge.origin.connect import Address, DnsCache, PermanentOriginFailure, first_connected, is_own
from keyfront.edge.origin.egress import Egress
from keyfront.edge.origin.http1 import NEVER, Connection, Framing, Interim, ResponseReader, request_head
from keyfront.edge.semantics.websocket import accept_value
from keyfront.edge.types.messages import Headers, OriginReply
from keyfront.edge.types.ttl_map import TtlMap
from keyfront.errors import OriginFailure, SettingsError, clear_traceback
from keyfront.model.snapshot import Origin

WARNED: Final = 60.0
"""Seconds for which the log does not say again that an origin's addresses, or its answers, are refused."""
RECENT: Final = 1.0
"""Seconds for which a free connection is trusted with a request that cannot be repeated."""

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
# Fields that 304 Not Modified may answer (RFC 9110 §15.4.5).
_MAY_BE_UNMODIFIED: Final = frozenset({b"if-modified-since", b"if-none-match"})
_RETRIED: Final = frozenset({"GET", "HEAD"})
_BROKEN: Final = frozenset({"OriginReadError", "OriginCommError", "OriginWriteError"})
# OpenSSL's verdicts that the certificate is for another host or another address.
_OTHER_NAME: Final = frozenset({62, 64})
# Connecting fails so for want of something on this machine: files, memory, free ports.
_OWN_SHORTAGE: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}
)
# What can be asked for by SNI: a viewer chose it, within the aliases of a distribution.
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_VERSIONS: Final = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}

_PoolKey = tuple[str, int, str, tuple[str, ...], bool]
"""Host, port, server name, TLS versions, and whether its addresses are judged by `egress`."""

logger = logging.getLogger("keyfront.edge")


class Origins:
    """All connections of one worker toward origins. It belongs to the event loop that first uses it.

    `ca_file` is a PEM file of certificate authorities to trust beside the system's (which OpenSSL finds, or
    SSL_CERT_FILE names). `max_idle_per_origin` and `max_idle` bound the connections kept open without a request:
    toward one origin the least recently used makes way; when there are `max_idle` in all, no other is kept. `access`
    signs what an origin wants signed, without it such an origin cannot be asked; `clock` gives epoch seconds. `egress`
    says which addresses may be connected to; without it all may. What the operator has named himself, such as an S3
    endpoint, is not judged by it. `limits` are those of each origin,
    and `reached` is told when one of them was reached.

    :raises SettingsError: if `ca_file` cannot be read or holds no certificate.
    """

    def __init__(
        self,
        *,
        ca_file: str | None = None,
        max_idle_per_origin: int = 64,
        max_idle: int = 1024,
        access: OriginAccess | None = None,
        clock: Callable[[], float] = time,
        egress: Egress | None = None,
        limits: OriginLimits = OriginLimits(),
        reached: Reached | None = None,
    ) -> None:
        if ca_file is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(f"no certificate authorities in {ca_file}: {error}") from error
        self._access = access or OriginAccess()
        self._clock = clock
        self._ca_file = ca_file
        self._max_idle_per_origin = max_idle_per_origin
        self._max_idle = max_idle
        self._idle = 0
        self._closed = False
        self._pools: dict[_PoolKey, _Pool] = {}
        self._egress = egress
        self._limits = limits
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self.reached = reached or Reached()
        self._warned: TtlMap[bool] = TtlMap(256)
        self._names = DnsCache()
        self._contexts: dict[ssl.TLSVersion, ssl.SSLContext] = {}
        self._open: set[Connection] = set()
        self._emptied: asyncio.Future[None] | None = None

    async def fetch(
        self,
        origin: Origin,
        scheme: str,
        method: str,
        target: str,
        headers: Headers,
        body: AsyncIterator[bytes] | None = None,
        length: int | None = None,
        *,
        interim: Interim | None = None,
    ) -> OriginReply:
        """Ask `origin` for `target` over `scheme` ("http" or "https") and wait for the head of its answer.

        `target` is sent as it is, latin-1 for bytes. `headers` are final, Host included; only framing and
        `Connection` are added. The reply's headers are the origin's, names lower-case, in order, hop-by-hop
        ones included; trailers are dropped. `body` is read while the answer is awaited, `length` is its
        size in bytes (None: chunked); it may be left unread if the answer comes early. What it raises is
        raised here as it is, or by the reply's body if the head has already come. `interim` gets interim answers
        (1xx but 100), at most `origin_http1.MAX_INTERIM` for each attempt.

        :raises OriginFailure: by the table above; and see `OriginAccess.prepare`.
        """
        turn = _Turn()
        try:
            return await self._fetch(turn, origin, scheme, method, target, headers, body, length, interim)
        except BaseException:
            turn.end()
            raise

    async def _fetch(
        self,
        turn: _Turn,
        origin: Origin,
        scheme: str,
        method: str,
        target: str,
        headers: Headers,
        body: AsyncIterator[bytes] | None,
        length: int | None,
        interim: Interim | None,
    ) -> OriginReply:
        if self._closed:
            raise RuntimeError("fetch() after aclose()")
        loop = asyncio.get_running_loop()
        if length == 0:
            body = None
        named = origin
        if origin.signing != "never" or origin.kind == "s3":
            origin, scheme, target, headers = self._access.prepare(
                origin, scheme, method, target, headers, has_body=body is not None, now=self._clock()
            )
        head = request_head(method, target, headers, has_body=body is not None, length=length)
        completion = NEVER
        if origin.response_completion_timeout is not None:
            completion = loop.time() + origin.response_completion_timeout
        pool = self._pool(origin, scheme, headers, judged=self._egress is not None and origin is named)
        await self._begin(turn, pool, completion)
        repeatable = body is None and method in _IDEMPOTENT
        retried = body is None and method in _RETRIED
        attempts = max(1, origin.connection_attempts)
        failed: OriginFailure | None = None
        may_be_stale = True
        connect_time = 0.0
        while True:
            if self._closed:
                raise OriginFailure("OriginCommError", 502, "the edge is closing")
            connection = pool.take(NEVER if repeatable else RECENT) if may_be_stale else None
            kept = connection is not None
            if connection is None:
                begin = loop.time()
                try:
                    connection = await self._connect(pool, origin.connection_timeout, completion)
                    if not connection.usable:
                        raise OriginFailure(
                            "OriginConnectError", 502, "closed by the origin before it was asked"
                        )
                except PermanentOriginFailure as lasting:
                    if failed is None or lasting.reason != "origin_circuit_open":
                        raise
                    # Its own attempts have opened the breaker: their failure is the request's.
                    clear_traceback(lasting)
                    raise failed from None
                except OriginFailure as failure:
                    attempts -= 1
                    if attempts > 0 and loop.time() < completion:
                        clear_traceback(failure)
                        failed = failure
                        continue
                    raise
                finally:
                    connect_time += loop.time() - begin
            incoming = connection.ask(
                head,
                head_only=method == "HEAD",
                body=body,
                length=length,
                read_timeout=origin.read_timeout,
                keepalive_timeout=origin.keepalive_timeout,
                completion=completion,
                interim=interim,
            )
            try:
                await incoming.head()
            except OriginFailure as failure:
                if kept and repeatable and not incoming.begun and failure.status == 502:
                    clear_traceback(failure)
                    may_be_stale = False
                    continue
                attempts -= 1
                if retried and attempts > 0 and failure.kind in _BROKEN and loop.time() < completion:
                    clear_traceback(failure)
                    may_be_stale = False
                    continue
                raise
            except BaseException:
                connection.break_off(OriginFailure("OriginCommError", 502, "given up by the edge"), incoming)
                raise
            if incoming.status == 304 and not any(name in _MAY_BE_UNMODIFIED for name, _ in headers):
                unasked = OriginFailure(
                    "OriginInvalidResponseError", 502, "304 Not Modified to a request without conditions"
                )
                pool.refused(unasked)
                raise unasked
            turn.lasts(connection, incoming)
            return OriginReply(
                incoming.status,
                incoming.reason.decode("latin-1"),
                incoming.headers,
                incoming,
                length=0 if incoming.framing is Framing.NONE else incoming.length,
                sized=incoming.framing is not Framing.CLOSE,
                connect_time=connect_time,
                whole=incoming.whole(),
            )

    async def open_websocket(
        self, origin: Origin, scheme: str, target: str, headers: Headers, key: bytes
    ) -> OriginReply:
        """Send a WebSocket's opening handshake on a connection of its own, once, and wait for the head of the answer.

        The parameters are those of `fetch`. The reply has `upstream` if the origin accepted with a 101 whose
        Sec-WebSocket-Accept answers `key`; any other answer is an ordinary one. The connection is not used again.

        :param key: the viewer's Sec-WebSocket-Key, whether or not it is among the headers.
        :raises OriginFailure: as `fetch`; OriginInvalidResponseError 502 also for a 101 that is not for this handshake,
            OriginReadError 504 if the head of the answer is not whole within the origin's read timeout.
        """
        turn = _Turn()  # until the answer is here: an open WebSocket keeps no request from this origin
        try:
            return await self._open_websocket(turn, origin, scheme, target, headers, key)
        except BaseException:
            turn.end()
            raise

    async def _open_websocket(
        self, turn: _Turn, origin: Origin, scheme: str, target: str, headers: Headers, key: bytes
    ) -> OriginReply:
        if self._closed:
            raise RuntimeError("open_websocket() after aclose()")
        loop = asyncio.get_running_loop()
        named = origin
        if origin.signing != "never":
            origin, scheme, target, headers = self._access.prepare(
                origin, scheme, "GET", target, headers, has_body=False, now=self._clock()
            )
        head = request_head("GET", target, headers, websocket=True)
        pool = self._pool(origin, scheme, headers, judged=self._egress is not None and origin is named)
        completion = NEVER
        if origin.response_completion_timeout is not None:
            completion = loop.time() + origin.response_completion_timeout
        await self._begin(turn, pool, completion)
        begin = loop.time()
        attempts = max(1, origin.connection_attempts)
        while True:
            try:
                connection = await self._connect(pool, origin.connection_timeout, completion)
                if not connection.usable:
                    raise OriginFailure("OriginConnectError", 502, "closed by the origin before it was asked")
                break
            except PermanentOriginFailure:
                raise
            except OriginFailure as failure:
                attempts -= 1
                if attempts <= 0 or loop.time() >= completion:
                    raise
                clear_traceback(failure)
        connect_time = loop.time() - begin
        incoming = connection.ask(
            head,
            head_only=False,
            body=None,
            length=None,
            read_timeout=origin.read_timeout,
            keepalive_timeout=0.0,
            completion=completion,
        )
        incoming.accept = accept_value(key)
        incoming.last = True  # it was asked to switch: nothing else is asked there
        try:
            async with asyncio.timeout(origin.read_timeout):
                await incoming.head()
        except BaseException as error:
            connection.break_off(OriginFailure("OriginCommError", 502, "given up by the edge"), incoming)
            if isinstance(error, TimeoutError):
                detail = f"no answer to the handshake within {origin.read_timeout:g} s"
                raise OriginFailure("OriginReadError", 504, detail) from error
            raise
        reply = OriginReply(
            incoming.status,
            incoming.reason.decode("latin-1"),
            incoming.headers,
            incoming,
            length=0 if incoming.framing is Framing.NONE else incoming.length,
            sized=incoming.framing is not Framing.CLOSE,
            connect_time=connect_time,
            whole=incoming.whole(),
        )
        if incoming.switched:
            turn.end()
            reply.upstream = OriginUpstream(connection)
        else:
            turn.lasts(connection, incoming)
        return reply

    async def aclose(self) -> None:
        """Close every connection, also those in use, and wait until they are gone."""
        self._closed = True
        self._names.close()
        for connection in list(self._open):
            connection.break_off(OriginFailure("OriginCommError", 502, "the edge is closing"))
        if self._open:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=1.0)

    # Where to.

    def _pool(self, origin: Origin, scheme: str, headers: Headers, *, judged: bool) -> _Pool:
        """The pool for an origin. `judged` is part of its identity: a connection that was not judged by `egress` is
        never given to a request that must be."""
        host = origin.domain_name
        key: _PoolKey
        if scheme == "http":
            key = (host, origin.http_port, "", (), judged)
            pool = self._pools.get(key)
            if pool is None:
                pool = self._add_pool(_Pool(self, key, None))
        else:
            key = (host, origin.https_port, _server_name(headers, host), origin.ssl_protocols, judged)
            pool = self._pools.get(key)
            if pool is None:
                pool = self._add_pool(_Pool(self, key, self._context(origin.ssl_protocols)))
        return pool

    def _add_pool(self, pool: _Pool) -> _Pool:
        if len(self._pools) >= self._max_idle:
            self._pools = {key: kept for key, kept in self._pools.items() if kept.idle}
        self._pools[pool.key] = pool
        return pool

    def _context(self, protocols: tuple[str, ...]) -> ssl.SSLContext:
        """Certificates and names are always checked. The lowest protocol listed is the lowest allowed; there
        is no upper bound. SSLv3 does not exist any more; TLSv1 and TLSv1.1 do as far as OpenSSL plays along.
        """
        known = [_VERSIONS[name] for name in protocols if name in _VERSIONS]
        if not known:
            raise PermanentOriginFailure(
                "OriginConnectError", 502, f"none of {', '.join(protocols)} is spoken any more"
            )
        lowest = min(known)
        context = self._contexts.get(lowest)
        if context is None:
            context = ssl.create_default_context()
            if self._ca_file is not None:
                context.load_verify_locations(self._ca_file)
            context.set_alpn_protocols(["http/1.1"])
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # of TLSv1: the operator's explicit choice
                context.minimum_version = lowest
            self._contexts[lowest] = context
        return context

    # How many at a time.

    def lane(self, host: str, port: int) -> _Lane:
        """What is known of the origin there."""
        lane = self._lanes.get((host, port))
        if lane is None:
            if len(self._lanes) >= self._max_idle:
                self._lanes = {key: known for key, known in self._lanes.items() if not known.idle}
            lane = self._lanes[host, port] = _Lane(self._limits)
        return lane

    @property
    def load(self) -> tuple[int, int, int]:
        """Requests that are with origins now, requests that wait for their turn, and origins that are left alone."""
        lanes = self._lanes.values()
        return (
            sum(lane.turns.active for lane in lanes),
            sum(len(lane.turns.waiting) for lane in lanes),
            sum(not lane.breaker.closed for lane in lanes),
        )

    async def _begin(self, turn: _Turn, pool: _Pool, completion: float) -> None:
        """Take a turn with the pool's origin, after those who came before.

        :raises OriginFailure: LimitExceeded 503, if too many wait or it takes too long.
        """
        lane = pool.lane
        if lane.turns.take():
            turn.lane = lane
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        limit = self._limits
        why = f"{limit.connections} requests are with {pool.host}:{pool.port}"
        if not lane.turns.wait(waiter):
            raise self._busy(f"{why} and {limit.queue} wait")
        try:
            async with asyncio.timeout_at(min(loop.time() + limit.queue_timeout, completion)):
                await waiter
        except TimeoutError as error:
            lane.left(waiter, turn)
            raise self._busy(f"{why}; waited for {limit.queue_timeout:g} s") from error
        except BaseException:
            lane.left(waiter, turn)
            raise
        turn.lane = lane

    def _busy(self, why: str) -> OriginFailure:
        self.reached.add("origin_busy", why, self._clock())
        return OriginFailure("LimitExceeded", 503, why, "origin_busy")

    # Connecting.

    async def _connect(self, pool: _Pool, seconds: float, completion: float) -> Connection:
        """A new connection, TLS included, in at most `seconds` and not after `completion`; or the failure at once if
        the origin is down."""
        lane, clock = pool.lane, asyncio.get_running_loop().time
        breaker = lane.breaker
        if not breaker.permits(clock()):
            self.reached.counts["origin_circuit_open"] += 1
            kind, status, detail = lane.failure
            raise PermanentOriginFailure(
                kind, status, f"not tried again yet, after: {detail}", "origin_circuit_open"
            )
        attempt = _Attempt()
        try:
            connection = await self._try(attempt, pool, seconds, completion)
        except OriginFailure as failure:
            if failure.reason or failure.kind == "OriginCommError" or attempt.says_nothing(pool, failure):
                breaker.given_up()  # it says nothing of the origin
            else:
                lane.failure = (failure.kind, failure.status, failure.detail)
                if breaker.failed(clock()):
                    detail = f"{pool.host}:{pool.port} is left alone for {self._limits.pause:g} s: {failure.detail}"
                    self.reached.add("origin_circuit_opened", detail, self._clock())
            raise
        except BaseException:
            breaker.given_up()
            raise
        breaker.succeeded()
        return connection

    async def _try(self, attempt: _Attempt, pool: _Pool, seconds: float, completion: float) -> Connection:
        until = asyncio.get_running_loop().time() + seconds
        late = OriginFailure("OriginConnectError", 504, f"not connected within {seconds:g} s")
        if completion < until:
            until = completion
            late = OriginFailure("OriginCommError", 504, "the response completion timeout passed")
        try:
            async with asyncio.timeout_at(until):
                addresses = await self._names.resolve(pool.host, pool.port)
        except TimeoutError as error:
            raise OriginFailure("OriginDnsError", 502, f"{pool.host}: no answer in time") from error
        if pool.judged:
            addresses = self._permitted(pool, addresses)
        try:
            async with asyncio.timeout_at(until):
                return await self._open_one(attempt, pool, addresses)
        except TimeoutError as error:
            self._names.forget(pool.host)  # the next attempt asks where the origin is now
            raise late from error
        except ssl.SSLCertVerificationError as error:
            # By another server name it may be another certificate, so this is no word on the origin.
            raise PermanentOriginFailure(
                "OriginConnectError",
                502,
                f"certificate refused: {error.verify_message}",
                "origin_certificate_refused",
            ) from error
        except ssl.SSLError as error:
            raise OriginFailure("OriginConnectError", 502, f"no TLS: {error.reason or error}") from error
        except OSError as error:
            self._names.forget(pool.host)
            name = errno.errorcode.get(error.errno or 0, "")
            said = os.strerror(error.errno) if error.errno else str(error)
            raise OriginFailure("OriginConnectError", 502, f"{name} {said}".strip()) from error

    def _permitted(self, pool: _Pool, addresses: list[Address]) -> list[Address]:
        """Those of the addresses that an origin may be at.

        :raises OriginFailure: OriginConnectError 502, if there is none.
        """
        egress = self._egress
        assert egress is not None  # noqa: S101 - only then a pool is judged
        permitted: list[Address] = []
        why = ""
        for address in addresses:
            refused = egress.refuses(address[1][0], address[1][1], is_own)
            if refused is None:
                permitted.append(address)
            else:
                why = why or refused
        if permitted:
            return permitted
        self.reached.counts["origin_address_refused"] += 1
        self._warn(
            pool,
            "",
            f"no connection to the origin {pool.host}:{pool.port}: {why}; "
            "see --allow-origins and docs/guide/origins.md",
        )
        raise PermanentOriginFailure(
            "OriginConnectError", 502, f"{pool.host}: {why}", "origin_address_refused"
        )

    async def _open_one(self, attempt: _Attempt, pool: _Pool, addresses: list[Address]) -> Connection:
        """Connect by the first of the pool's server names that the origin's certificate bears."""
        for server_name in pool.server_names:
            try:
                connection = await self._handshake(attempt, pool, addresses, server_name)
            except ssl.SSLCertVerificationError as error:
                if error.verify_code not in _OTHER_NAME or server_name == pool.server_names[-1]:
                    raise
                continue
            pool.server_names = (server_name,)
            return connection
        raise ValueError("a pool has at least one server name")

    async def _handshake(
        self, attempt: _Attempt, pool: _Pool, addresses: list[Address], server_name: str
    ) -> Connection:
        loop = asyncio.get_running_loop()
        sock = await first_connected(addresses)
        attempt.accepted = True
        connection = Connection(pool, loop)
        self._open.add(connection)
        transport: asyncio.Transport | None = None
        try:
            if pool.context is None:
                await loop.create_connection(lambda: connection, sock=sock)
            else:
                secured = TlsTransport(pool.context, connection, None, server_name)
                transport, _ = await loop.create_connection(lambda: secured, sock=sock)
                await secured.handshake
        except BaseException:
            if transport is not None:
                transport.abort()
            else:
                sock.close()
            self._lost(connection)
            raise
        if self._closed:
            connection.abort()
        return connection

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _warn_of(self, pool: _Pool, failure: BaseException) -> None:
        """Log what is wrong with an origin's answers."""
        if isinstance(failure, OriginFailure):
            self._warn(
                pool,
                failure.kind,
                f"an answer of the origin {pool.host}:{pool.port} was refused ({failure.kind}): {failure.detail}",
            )

    def _warn(self, pool: _Pool, kind: str, text: str) -> None:
        """Log a warning, once in WARNED seconds for each origin and kind."""
        name = f"{pool.host}:{pool.port} {kind}"
        now = self._clock()
        if self._warned.get(name, now) is None:
            self._warned.put(name, True, now + WARNED)
            logger.warning("%s", text)

    # Keeping.

    def _may_keep(self) -> bool:
        return not self._closed and self._idle < self._max_idle


class _Attempt:
    """One attempt to connect. `accepted` says that the origin took the TCP connection."""

    __slots__ = ("accepted",)

    def __init__(self) -> None:
        self.accepted = False

    def says_nothing(self, pool: _Pool, failure: OriginFailure) -> bool:
        """Whether the failure is no sign that the origin is down: this machine lacks something, or the origin does not
        want a server name that a viewer chose. Otherwise any viewer could open the breaker for all others."""
        cause = failure.__cause__
        if isinstance(cause, OSError) and cause.errno in _OWN_SHORTAGE:
            return True
        return self.accepted and pool.viewer_names


class _Lane:
    """One origin's turns and breaker: whatever leads to its host and port shares them. `failure` is the last failed
    connection's kind, status and detail."""

    __slots__ = ("_serving", "breaker", "failure", "turns")

    def __init__(self, limits: OriginLimits) -> None:
        self.turns: Turns[asyncio.Future[None]] = Turns(limits.connections, limits.queue)
        self.breaker = Breaker(limits.failures, limits.pause)
        self.failure = ("OriginConnectError", 502, "")
        self._serving: dict[Connection, _Turn] = {}

    @property
    def idle(self) -> bool:
        return self.turns.idle and self.breaker.closed

    def serving(self, connection: Connection, turn: _Turn) -> None:
        self._serving[connection] = turn

    def over(self, connection: Connection) -> None:
        """What the connection served is over."""
        turn = self._serving.pop(connection, None)
        if turn is not None:
            turn.end()

    def left(self, waiter: asyncio.Future[None], turn: _Turn) -> None:
        """Whoever waited does not wait any more; a turn that came at the last moment is still one to be given back."""
        if waiter.done() and not waiter.cancelled():
            turn.lane = self
        else:
            self.turns.give_up(waiter)

    def release(self) -> None:
        """A turn is over: the next one's."""
        while True:
            waiter = self.turns.release()
            if waiter is None:
                return
            if not waiter.done():
                waiter.set_result(None)
                return


class _Turn:
    """A request's turn with an origin, from before it is sent until its answer is whole."""

    __slots__ = ("lane",)

    def __init__(self) -> None:
        self.lane: _Lane | None = None

    def lasts(self, connection: Connection, incoming: ResponseReader) -> None:
        """The head of the answer is here; the turn is over with the rest of it."""
        if incoming.complete or incoming.failure is not None or self.lane is None:
            self.end()
        else:
            self.lane.serving(connection, self)

    def end(self) -> None:
        lane, self.lane = self.lane, None
        if lane is not None:
            lane.release()


class _Pool:
    """The kept connections toward one host, port and TLS identity; the last one freed is used first.

    `server_names` are asked for by SNI and looked for in the certificate, in this order: a certificate may
    name the Host that is forwarded to the origin, or the origin's own domain (CloudFront Developer Guide,
    "Require HTTPS for communication between CloudFront and your custom origin"). The one that worked is
    remembered.
    """

    __slots__ = (
        "_owner", "context", "host", "idle", "judged", "key", "lane", "port", "server_names", "viewer_names",
    )  # fmt: skip

    def __init__(self, owner: Origins, key: _PoolKey, context: ssl.SSLContext | None) -> None:
        self._owner = owner
        self.key = key
        host, self.port, server_name, _, self.judged = key
        self.host = host = host.strip("[]")
        self.lane = owner.lane(host, self.port)
        self.context = context
        asked = server_name != host and _HOST_NAME.fullmatch(server_name) is not None
        self.server_names = (server_name, host) if asked else (host,)
        self.viewer_names = asked  # the forwarded Host, which a viewer may choose, is asked for by SNI
        self.idle: list[Connection] = []

    def take(self, rested: float) -> Connection | None:
        """A free connection that has been free for at most `rested` seconds."""
        idle = self.idle
        while idle:
            connection = idle[-1]
            if not connection.usable:
                idle.pop()
                self._owner._idle -= 1
                continue
            if rested != NEVER and connection.loop.time() - connection.idle_since > rested:
                return None  # the others have been free for longer
            idle.pop()
            self._owner._idle -= 1
            if connection.has_unread:
                connection.abort()  # what answers no request must not become the answer to the next one
                continue
            return connection
        return None

    def freed(self, connection: Connection) -> None:
        owner = self._owner
        self.lane.over(connection)
        if not owner._may_keep():
            connection.close()
            return
        self.idle.append(connection)
        owner._idle += 1
        if len(self.idle) > owner._max_idle_per_origin:
            owner._idle -= 1
            self.idle.pop(0).close()

    def refused(self, failure: BaseException) -> None:
        self._owner._warn_of(self, failure)

    def gone(self, connection: Connection) -> None:
        owner = self._owner
        self.lane.over(connection)
        owner._lost(connection)
        if connection in self.idle:
            self.idle.remove(connection)
            owner._idle -= 1


def _server_name(headers: Headers, host: str) -> str:
    """The host that a request forwards in Host, without its port, or the origin's own if there is none."""
    for name, value in headers:
        if name == b"host":
            return value.decode("latin-1").lower().partition(":")[0]
    return host


# Names and addresses.
