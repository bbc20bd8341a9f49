"""Listeners: how the connections of a listening socket begin, are checked, and end when the worker stops."""

from __future__ import annotations

import asyncio
import ssl

from keyfront.edge.http.connection import Connection
from keyfront.edge.http.shared import Covers, Shared
from keyfront.edge.http.timeouts import PRESSED_IDLE, Limits
from keyfront.edge.http.trusted_proxies import TrustedProxies
from keyfront.edge.net.tls import TlsTransport
from keyfront.edge.net.tunnel import LINGER
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.handler import Handler


class Listener:
    """All connections of a worker on one listening socket. asyncio calls it as a protocol factory for each new
    connection.

    :param handler: answers the requests; the edge itself by default.
    :param peers: the trusted proxies; none by default.
    :param covers: whether the certificate of a TLS connection covers a host; by default, it covers every host.
    """

    def __init__(
        self,
        edge: Edge,
        *,
        handler: Handler | None = None,
        scheme: str = "http",
        peers: TrustedProxies | None = None,
        limits: Limits | None = None,
        covers: Covers | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.shared = Shared(
            edge, edge if handler is None else handler, scheme, peers or TrustedProxies(), self.limits
        )
        if covers is not None:
            self.shared.covers = covers
        self.connections = self.shared.connections
        self._sweeper: asyncio.TimerHandle | None = None
        limit = self.limits
        shortest = min(limit.head, limit.idle, limit.body, limit.write, limit.websocket_idle)
        self._period = max(0.02, min(1.0, shortest / 4))

    def __call__(self) -> Connection:
        if self._sweeper is None:
            self._sweep()
        return Connection(self.shared)

    def secured(self, context: ssl.SSLContext) -> TlsTransport:
        """A new connection over TLS. It is counted from its first packet, before the handshake."""
        connection = self()
        return TlsTransport(context, connection, self.limits.head, gate=connection)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        shared = self.shared
        pressed = shared.viewers is not None and shared.viewers.connections.pressed
        shared.idle = min(self.limits.idle, PRESSED_IDLE) if pressed else self.limits.idle
        for connection in list(self.connections):
            connection.check(now)
        self._sweeper = loop.call_later(self._period, self._sweep)

    async def drain(self) -> None:
        """Let every request in progress finish, and accept no new ones. After `limits.drain` seconds, the remaining
        connections are aborted. A WebSocket first gets Close frames, and is aborted if it does not answer them within
        another `LINGER` seconds."""
        shared = self.shared
        shared.draining = True
        if self.connections:
            shared.empty = asyncio.get_running_loop().create_future()
            for connection in list(self.connections):
                connection.drain()
            await asyncio.wait([shared.empty], timeout=self.limits.drain)
            tunnels = [each for each in self.connections if each.tunnel is not None]
            for connection in list(self.connections):
                if connection.tunnel is None:
                    connection.abort()
                else:
                    connection.tunnel.end("websocket_shutdown")
            if tunnels:
                await asyncio.wait([shared.empty], timeout=LINGER)
            for connection in list(self.connections):
                connection.abort()
            await asyncio.wait([shared.empty], timeout=LINGER)  # their access records have yet to be written
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
