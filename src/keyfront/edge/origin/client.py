"""The edge's HTTP client for origins: requests and their attempts.

Possible failures and how they are reported (kind: cloudfront-semantics §6.2; status: what the viewer gets, §5.14):

| event                                                               | kind                       | status |
| ------------------------------------------------------------------- | -------------------------- | ------ |
| the name does not resolve, or not in time                           | OriginDnsError             | 502    |
| refused, unreachable, reset while connecting                        | OriginConnectError         | 502    |
| no address is one that origins may have (`egress`)                  | OriginConnectError         | 502    |
| too many recent connections failed (`limits.origins.Breaker`)       | that of the last one       |        |
| too many requests are in flight, and this one waits too long        | LimitExceeded              | 503    |
| TLS fails: certificate, name, protocol version                      | OriginConnectError         | 502    |
| not connected (TCP and TLS) within the connection timeout           | OriginConnectError         | 504    |
| the origin accepts no request bytes for the read timeout            | OriginWriteError           | 504    |
| the connection fails while the request is sent                      | OriginWriteError           | 502    |
| nothing received for the read timeout, before or after the head     | OriginReadError            | 504    |
| closed or reset before the head is complete, or in the body         | OriginCommError            | 502    |
| the response completion timeout has passed, all attempts counted    | OriginCommError            | 504    |
| a signature is required, and there are no credentials for it        | OriginWriteError           | 502    |
| the path names no key, or could lead into another bucket            | OriginWriteError           | 400    |
| more than 20,480 bytes of headers                                   | OriginHeaderTooBigError    | 502    |
| not HTTP/1, or framing that can be read in two ways                 | OriginInvalidResponseError | 502    |
| 304 Not Modified for an unconditional request                       | OriginInvalidResponseError | 502    |

504 means "not in time" and 502 means "wrong", as in RFC 9110 §15.6.3 and §15.6.5, and as the Developer Guide
distinguishes timeouts from refused and closed connections.

Attempts (§5.14). For every method, the edge tries to connect up to `connection_attempts` times. GET and HEAD use the
same attempts if nothing usable arrived in time or the connection failed before the head was complete; other methods are
not sent twice. There is one exception: if an idle connection turns out to be closed before any byte of the response,
this says only that the origin had closed it in the meantime. An idempotent request without a body is then sent once
more, on a new connection, and this does not count as an attempt. A request that cannot be repeated gets only a
connection used within the last second, or a new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import time
from typing import Final

from keyfront.edge.limits.origins import OriginLimits
from keyfront.edge.limits.reports import Reached
from keyfront.edge.net.tunnel import OriginUpstream
from keyfront.edge.origin.access import OriginAccess
from keyfront.edge.origin.connect import PermanentOriginFailure
from keyfront.edge.origin.connection import Connection, Timeouts
from keyfront.edge.origin.connector import Connector
from keyfront.edge.origin.egress import Egress
from keyfront.edge.origin.host_state import HostStates, RequestSlot
from keyfront.edge.origin.pool import Pool, Pools, TlsContexts
from keyfront.edge.origin.request import OriginRequest, request_head
from keyfront.edge.origin.response_reader import NEVER, Framing, ResponseReader
from keyfront.edge.origin.warnings_log import OriginWarnings
from keyfront.edge.semantics.websocket import accept_value
from keyfront.edge.types.messages import Headers, OriginReply
from keyfront.errors import OriginFailure, clear_traceback
from keyfront.model.snapshot import Origin

logger = logging.getLogger("keyfront.edge")

RECENT: Final = 1.0
"""Seconds for which an idle connection is trusted with a request that cannot be repeated."""

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
# Fields that make 304 Not Modified a valid response (RFC 9110 §15.4.5).
_MAY_BE_UNMODIFIED: Final = frozenset({b"if-modified-since", b"if-none-match"})
_RETRIED: Final = frozenset({"GET", "HEAD"})
_BROKEN: Final = frozenset({"OriginReadError", "OriginCommError", "OriginWriteError"})


class Origins:
    """One worker's client for all origins. It belongs to the event loop that first uses it.

    `ca_file` is a PEM file of certificate authorities to trust in addition to the system's (which OpenSSL locates, or
    SSL_CERT_FILE names). `max_idle_per_origin` and `max_idle` limit the idle connections that stay open (see `Pools`).
    `access` signs requests to origins that require it; without it, those requests fail. `clock` returns epoch seconds.
    `egress` decides which addresses may be connected to; without it, all may be. It does not apply to addresses that
    the operator has configured, such as an S3 endpoint. `limits` apply to each origin, and `reached` counts how often
    each limit was reached.

    :raises SettingsError: if `ca_file` cannot be read or holds no certificate.
    """

    def __init__(  # noqa: PLR0913 - the settings of a client, by keyword, each with a default
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
        self._access = access or OriginAccess()
        self._clock = clock
        self._egress = egress
        self.reached = reached or Reached()
        self._states = HostStates(limits, self.reached, clock, max_idle)
        warnings = OriginWarnings(clock)
        self.pools = Pools(TlsContexts(ca_file), self._states, warnings, max_idle_per_origin, max_idle)
        self._connector = Connector(self.pools, self._states, warnings, egress, clock)

    @property
    def load(self) -> tuple[int, int, int]:
        """See `HostStates.load`."""
        return self._states.load

    async def fetch(self, origin: Origin, request: OriginRequest) -> OriginReply:
        """Send a request and wait for the head of the response.

        The reply's headers are the origin's, with lower-case names, in order, including hop-by-hop headers; trailers
        are dropped. An exception from `request.body` is raised here unchanged, or by the reply's body if the head has
        already arrived.

        :raises OriginFailure: see the table above and `OriginAccess.prepare`.
        """
        slot = RequestSlot()
        try:
            return await self._fetch(slot, origin, request)
        except BaseException:
            slot.release()
            raise

    async def _fetch(self, slot: RequestSlot, origin: Origin, request: OriginRequest) -> OriginReply:
        if self.pools.closed:
            raise RuntimeError("fetch() after aclose()")
        configured = origin
        scheme, method, target, headers = request.scheme, request.method, request.target, request.headers
        has_body = request.body is not None
        if origin.signing != "never" or origin.kind == "s3":
            origin, scheme, target, headers = self._access.prepare(
                origin, scheme, method, target, headers, has_body=has_body, now=self._clock()
            )
        head = request_head(method, target, headers, has_body=has_body, length=request.length)
        completion = _completion(origin)
        pool = self._pool(origin, configured, scheme, headers)
        await self._states.take_slot(slot, pool.state, pool.name, completion)
        repeatable = not has_body and method in _IDEMPOTENT
        retried = not has_body and method in _RETRIED
        timeouts = Timeouts(origin.read_timeout, origin.keepalive_timeout, completion)
        attempts = _Attempts(self._connector, pool, origin, completion)
        may_be_stale = True
        while True:
            if self.pools.closed:
                raise OriginFailure("OriginCommError", 502, "the edge is closing")
            connection = pool.take(NEVER if repeatable else RECENT) if may_be_stale else None
            reused = connection is not None
            if connection is None:
                connection = await attempts.connect()
                if connection is None:
                    continue
            response = connection.send(head, request, timeouts)
            try:
                await response.head()
            except OriginFailure as failure:
                hung_up_before = reused and repeatable and not response.begun and failure.status == 502
                if hung_up_before or (retried and failure.kind in _BROKEN and attempts.take()):
                    logger.debug("origin request retried", extra={"origin": pool.name, "kind": failure.kind})
                    clear_traceback(failure)
                    may_be_stale = False
                    continue
                raise
            except BaseException:
                connection.break_off(OriginFailure("OriginCommError", 502, "given up by the edge"), response)
                raise
            if response.status == 304 and not any(name in _MAY_BE_UNMODIFIED for name, _ in headers):
                unasked = OriginFailure(
                    "OriginInvalidResponseError", 502, "304 Not Modified to a request without conditions"
                )
                pool.on_bad_response(unasked)
                raise unasked
            slot.hold(connection, response)
            return _reply(response, attempts.connect_time)

    async def open_websocket(
        self, origin: Origin, scheme: str, target: str, headers: Headers, key: bytes
    ) -> OriginReply:
        """Send a WebSocket's opening handshake on a connection of its own, once, and wait for the head of the response.

        The parameters are those of `OriginRequest`. The reply has `upstream` if the origin accepted with a 101 whose
        Sec-WebSocket-Accept matches `key`; any other response is an ordinary one. The connection is not reused.

        :param key: the viewer's Sec-WebSocket-Key, whether or not it is among the headers.
        :raises OriginFailure: as for `fetch`; also OriginInvalidResponseError 502 for a 101 that does not match this
            handshake, and OriginReadError 504 if the head of the response is not complete within the origin's read
            timeout.
        """
        slot = RequestSlot()  # held until the response arrives: an open WebSocket takes no slot
        try:
            return await self._open_websocket(
                slot, origin, OriginRequest(scheme, "GET", target, headers), key
            )
        except BaseException:
            slot.release()
            raise

    async def _open_websocket(
        self, slot: RequestSlot, origin: Origin, request: OriginRequest, key: bytes
    ) -> OriginReply:
        if self.pools.closed:
            raise RuntimeError("open_websocket() after aclose()")
        configured = origin
        scheme, target, headers = request.scheme, request.target, request.headers
        if origin.signing != "never":
            origin, scheme, target, headers = self._access.prepare(
                origin, scheme, "GET", target, headers, has_body=False, now=self._clock()
            )
        head = request_head("GET", target, headers, websocket=True)
        pool = self._pool(origin, configured, scheme, headers)
        completion = _completion(origin)
        await self._states.take_slot(slot, pool.state, pool.name, completion)
        attempts = _Attempts(self._connector, pool, origin, completion)
        connection = None
        while connection is None:
            connection = await attempts.connect()
        response = connection.send(head, request, Timeouts(origin.read_timeout, 0.0, completion))
        response.accept = accept_value(key)
        response.last = (
            True  # the origin was asked to switch protocols: nothing else is sent on this connection
        )
        try:
            async with asyncio.timeout(origin.read_timeout):
                await response.head()
        except BaseException as error:
            connection.break_off(OriginFailure("OriginCommError", 502, "given up by the edge"), response)
            if isinstance(error, TimeoutError):
                detail = f"no answer to the handshake within {origin.read_timeout:g} s"
                raise OriginFailure("OriginReadError", 504, detail) from error
            raise
        reply = _reply(response, attempts.connect_time)
        if response.switched:
            slot.release()
            reply.upstream = OriginUpstream(connection)
        else:
            slot.hold(connection, response)
        return reply

    def _pool(self, origin: Origin, configured: Origin, scheme: str, headers: Headers) -> Pool:
        """The pool for an origin. `egress` applies only to the origin that a distribution names, not to the endpoint
        that `OriginAccess.prepare` may have substituted."""
        judged = self._egress is not None and origin is configured
        return self.pools.get(origin, scheme, headers, judged=judged)

    async def aclose(self) -> None:
        """Close every connection, including those in use, and wait until they are gone."""
        self._connector.close()
        await self.pools.aclose()


class _Attempts:
    """One request's remaining attempts, and the seconds that it has spent on connecting."""

    __slots__ = ("_completion", "_connector", "_failed", "_left", "_loop", "_origin", "_pool", "connect_time")

    def __init__(self, connector: Connector, pool: Pool, origin: Origin, completion: float) -> None:
        self._connector = connector
        self._pool = pool
        self._origin = origin
        self._completion = completion
        self._loop = asyncio.get_running_loop()
        self._left = max(1, origin.connection_attempts)
        self._failed: OriginFailure | None = None
        self.connect_time = 0.0

    def take(self) -> bool:
        """Record a failed attempt. Returns whether another one may be made."""
        self._left -= 1
        return self._left > 0 and self._loop.time() < self._completion

    async def connect(self) -> Connection | None:
        """A new connection, or None if this attempt failed and another may be made.

        :raises OriginFailure: see `Connector.connect`.
        """
        begin = self._loop.time()
        try:
            connection = await self._connector.connect(
                self._pool, self._origin.connection_timeout, self._completion
            )
            if not connection.usable:
                raise OriginFailure(
                    "OriginConnectError", 502, "closed by the origin before the request was sent"
                )
        except PermanentOriginFailure as failure:
            if self._failed is None or failure.reason != "origin_circuit_open":
                raise
            # This request's own attempts have opened the breaker, so their failure is the request's.
            clear_traceback(failure)
            raise self._failed from None
        except OriginFailure as failure:
            if not self.take():
                raise
            clear_traceback(failure)
            self._failed = failure
            return None
        finally:
            self.connect_time += self._loop.time() - begin
        return connection


def _completion(origin: Origin) -> float:
    """The loop's time by which the whole response must have arrived."""
    if origin.response_completion_timeout is None:
        return NEVER
    return asyncio.get_running_loop().time() + origin.response_completion_timeout


def _reply(response: ResponseReader, connect_time: float) -> OriginReply:
    return OriginReply(
        response.status,
        response.reason.decode("latin-1"),
        response.headers,
        response,
        length=0 if response.framing is Framing.NONE else response.length,
        sized=response.framing is not Framing.CLOSE,
        connect_time=connect_time,
        whole=response.whole(),
    )
