"""The edge's client toward origins: requests and their attempts.

What may fail, and how it is reported (kind: cloudfront-semantics §6.2; status: what the viewer gets, §5.14):

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
# Fields that 304 Not Modified may answer (RFC 9110 §15.4.5).
_MAY_BE_UNMODIFIED: Final = frozenset({b"if-modified-since", b"if-none-match"})
_RETRIED: Final = frozenset({"GET", "HEAD"})
_BROKEN: Final = frozenset({"OriginReadError", "OriginCommError", "OriginWriteError"})


class Origins:
    """The client of one worker toward all origins. It belongs to the event loop that first uses it.

    `ca_file` is a PEM file of certificate authorities to trust beside the system's (which OpenSSL finds, or
    SSL_CERT_FILE names). `max_idle_per_origin` and `max_idle` bound the connections kept open without a request (see
    `Pools`). `access` signs requests to origins that want it; without it they fail. `clock` gives epoch seconds.
    `egress` says which addresses may be connected to; without it all may. It does not judge what the operator has
    configured himself, such as an S3 endpoint. `limits` are those of each origin, and `reached` counts how often one
    of them was reached.

    :raises SettingsError: if `ca_file` cannot be read or holds no certificate.
    """

    def __init__(  # wide: the settings of a client, all by keyword
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

        The reply's headers are the origin's, names lower-case, in order, hop-by-hop ones included; trailers are
        dropped. What `request.body` raises is raised here as it is, or by the reply's body if the head has already
        come.

        :raises OriginFailure: by the table above; and see `OriginAccess.prepare`.
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
        Sec-WebSocket-Accept answers `key`; any other response is an ordinary one. The connection is not used again.

        :param key: the viewer's Sec-WebSocket-Key, whether or not it is among the headers.
        :raises OriginFailure: as `fetch`; OriginInvalidResponseError 502 also for a 101 that is not for this handshake,
            OriginReadError 504 if the head of the response is not whole within the origin's read timeout.
        """
        slot = RequestSlot()  # until the response is here: an open WebSocket takes no slot
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
        response.last = True  # the origin was asked to switch: nothing else is sent there
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
        """The pool for an origin. `egress` judges only what a distribution names, not the endpoint that
        `OriginAccess.prepare` may have put in its place."""
        judged = self._egress is not None and origin is configured
        return self.pools.get(origin, scheme, headers, judged=judged)

    async def aclose(self) -> None:
        """Close every connection, also those in use, and wait until they are gone."""
        self._connector.close()
        await self.pools.aclose()


class _Attempts:
    """What is left of one request's attempts, and the seconds it has spent on connecting."""

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
        """One attempt has failed. Returns whether another may be made."""
        self._left -= 1
        return self._left > 0 and self._loop.time() < self._completion

    async def connect(self) -> Connection | None:
        """A new connection; None if this attempt failed and another may be made.

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
            # This request's own attempts have opened the breaker: their failure is the request's.
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
    """The loop's time by which the whole response must be here."""
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
