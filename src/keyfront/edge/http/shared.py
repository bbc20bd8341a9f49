"""What the connections of one listening socket share, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from keyfront.edge.http.http2_known import KnownRequests
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

BODY_GONE: Final = "body_gone"
"""The log's reason when the rest of a stored body was evicted, or now belongs to another version."""


class Shared:
    """State that the connections of one listening socket share.

    `idle` is how many seconds a connection may currently be idle. `draining` says that the worker is about to stop.

    :param handler: answers the requests.
    :param proxies: the proxies that may name another address as the viewer.
    """

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

    def gone(self, connection: object) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if self.empty is not None and not self.connections and not self.empty.done():
            self.empty.set_result(None)


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
