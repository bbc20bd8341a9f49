"""What the connections of one listening socket share, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol

from keyfront.edge.http.http2_known import KnownRequests
from keyfront.edge.http.request_body import Body
from keyfront.edge.http.response_head import HitBlocks, Identity
from keyfront.edge.http.response_writer import hit_tail
from keyfront.edge.http.timeouts import Limits
from keyfront.edge.http.trusted_proxies import TrustedProxies
from keyfront.edge.limits.viewers import Viewers
from keyfront.edge.rules.slicing import ChangedError, UnusableError
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.fast_path import FastPath
from keyfront.edge.serving.handler import Handler
from keyfront.edge.types.messages import LostError, Reply
from keyfront.edge.types.shield import SHIELD
from keyfront.errors import OriginFailure, clear_traceback

logger = logging.getLogger("keyfront.edge")

HUNG_UP: Final = "ClientHungUpRequest"
"""The detail of a response whose viewer has left."""
BODY_GONE: Final = "body_gone"
"""The log's reason when the rest of a stored body was evicted, or now belongs to another version."""


Covers = Callable[[ssl.SSLContext, str], bool]


class Shared:
    """State that the connections of one listening socket share.

    `idle` is how many seconds a connection may currently be idle. `draining` says that the worker is about to stop.

    :param handler: answers the requests.
    :param proxies: the proxies that may name another address as the viewer.
    """

    covers: Covers
    """Whether the certificate of a connection with this context covers a host: see `Certificates.cover`."""

    def __init__(
        self, edge: Edge, handler: Handler, scheme: str, proxies: TrustedProxies, limits: Limits
    ) -> None:
        self.edge = edge
        self.handler = handler
        self.scheme = scheme
        self.proxies = proxies
        self.limits = limits
        # Other edges are few and known, so their connections are not counted.
        self.viewers: Viewers | None = None if scheme == SHIELD else edge.viewers
        self.idle = limits.idle
        self.draining = False
        self.empty: asyncio.Future[None] | None = None
        """Resolved when the last connection ends."""
        self.connections: set[Any] = set()
        """Each a `Connection` or an `Http2Connection`."""
        self.identity = Identity(edge.via, edge.settings.pop)
        self.hit_tail = hit_tail(self.identity)
        self.hit_blocks = HitBlocks(self.identity)
        self.fast_path = FastPath(edge)
        self.fast_path.tail_bytes = len(self.hit_tail)
        self.known_requests = KnownRequests(self.fast_path, edge.tables)
        self.covers: Covers = lambda _, __: True

    def serves_over_http2(self, context: ssl.SSLContext | None, host: str) -> bool:
        """Whether a viewer may request a host over an HTTP/2 connection, which may have been opened for another one.

        :param host: in lower case, without a port.
        """
        site = self.edge.routing.site(host)
        if site is not None and not site.distribution.http2:
            return False
        return context is None or self.covers(context, host)

    def gone(self, connection: object) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if self.empty is not None and not self.connections and not self.empty.done():
            self.empty.set_result(None)


class Responding(Protocol):
    """A connection that responds. `limit` is the limit for which it was aborted, empty if it was not."""

    limit: str

    def report(self, limit: str) -> None:
        """Count and log that the viewer has reached a limit."""


class Response:
    """The frame of a response that takes more than a memory lookup, as a context: it counts the request against the
    viewer's limit, ends the body, and writes the access record. A viewer that leaves ends it without an exception.

    `reply` must be set as soon as there is one. `detail` is the record's x-edge-detailed-result-type, by default that
    of the reply.

    :param body: the request's.
    :param break_off: ends the response in its middle, after a failure, so that the viewer can tell.
    """

    __slots__ = (
        "_body",
        "_break_off",
        "_connection",
        "_counted_as",
        "_exchange",
        "_shared",
        "detail",
        "reply",
    )

    def __init__(
        self,
        shared: Shared,
        connection: Responding,
        exchange: Exchange,
        body: Body | None,
        break_off: Callable[[Reply | None], None],
    ) -> None:
        self._shared = shared
        self._connection = connection
        self._exchange = exchange
        self._body = body
        self._break_off = break_off
        self._counted_as: str | None = None
        self.reply: Reply | None = None
        self.detail = ""

    async def __aenter__(self) -> Response:
        return self

    def refusal(self) -> Reply | None:
        """Count the request. The reply to it if its viewer has too many in progress, else None."""
        shared, exchange = self._shared, self._exchange
        if shared.viewers is None or exchange.health_check:
            return None
        counted_as = shared.proxies.counted_as(exchange.request.client_ip)
        limit = shared.viewers.requests.enter(counted_as)
        if not limit:
            self._counted_as = counted_as
            return None
        self._connection.report(limit)
        return shared.edge.limited(exchange, limit)

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        reply = self.reply
        if isinstance(error, (ConnectionResetError, ConnectionAbortedError)):
            clear_traceback(error)
            self.detail = HUNG_UP
        elif isinstance(error, Exception):
            self.detail = broken_off(self._exchange, reply, error)
            self._break_off(reply)
        elif error is not None:
            self.detail = HUNG_UP
        elif not self.detail:
            self.detail = HUNG_UP if reply is None else reply.detail
        try:
            if self._counted_as is not None and self._shared.viewers is not None:
                self._shared.viewers.requests.leave(self._counted_as)
            if reply is not None:
                close = getattr(reply.body, "aclose", None)
                if close is not None:
                    await close()
                if reply.upstream is not None:
                    reply.upstream.end()
        finally:
            self._log(reply)
        return isinstance(error, Exception)

    def _log(self, reply: Reply | None) -> None:
        exchange = self._exchange
        if self._body is not None:
            exchange.received = self._body.total
        self._shared.handler.log_access(
            exchange,
            reply.status if reply is not None and exchange.head_bytes else 0,
            exchange.sent,
            reply.x_cache if reply is not None else "Error",
            self.detail,
            self._connection.limit or (reply.reason if reply is not None else ""),
        )


def abort_by_reset(transport: asyncio.Transport) -> None:
    """Let the transport's `abort` send RST instead of FIN: the viewer cannot mistake it for an orderly end, and the
    kernel does not hold pending data for a viewer that does not read."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def broken_off(exchange: Exchange, reply: Reply | None, error: Exception) -> str:
    """The access record's detail for a response that ends before it is complete; the exchange and the reply get the
    reason. A fault of the edge's own is logged."""
    detail = "Error"
    if isinstance(error, OriginFailure):
        detail = error.kind
        exchange.explanation = error.detail
    elif isinstance(error, (LostError, ChangedError, UnusableError)):
        if reply is not None:
            reply.reason = BODY_GONE
    else:
        logger.error("request %s failed in the middle of its response", exchange.request_id, exc_info=error)
    clear_traceback(error)
    return detail
