"""WebSocket tunnels through the edge, from the accepted handshake to the end: bytes in both directions, in order and in
bounded memory, until one side ends.

The two connections keep their transports and get a new protocol each (`_Side`). What one side receives is written to
the other at once. A side that does not read fills its write buffer; then the other side is not read until there is room
again. A tunnel therefore holds at most one read and one write buffer in each direction.

How a tunnel ends (decision 0027):

- A side closes its half: the edge closes its half toward the other side. When both sides have closed theirs, both
  connections are closed.
- A side fails: what it sent before that is still delivered, then the other side is closed.
- No data has moved for `idle` seconds, or for `patience` seconds after one half was closed: the edge ends it.
- A side has accepted no pending data for `patience` seconds: that side is aborted, the other one closed.
- The worker stops: the edge ends it.

Where the edge ends a tunnel, each side gets a Close frame (1001), provided that the stream to it is at a frame boundary
and has carried no Close frame yet, then the end of the stream. The edge keeps reading for `LINGER` seconds, because
closing a socket with unread bytes would reset it and lose the Close frame.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from keyfront.edge.net.unsent import on_its_way
from keyfront.edge.semantics.websocket import GOING_AWAY, Frames, close_frame
from keyfront.edge.types.messages import Upstream

LINGER: Final = 2.0
"""Seconds that a side gets to close its half after the edge has closed the other one."""


class Places:
    """The number of WebSockets that a worker may have open (`limit`), and counters of those it has had.

    A place is taken just before the origin is contacted and released at the end. `handshakes` counts the places taken,
    `opened` the WebSockets that resulted.
    """

    __slots__ = ("handshakes", "limit", "opened", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.handshakes = 0
        self.opened = 0

    @property
    def full(self) -> bool:
        return self.taken >= self.limit

    def take(self) -> Callable[[], None]:
        """Take a place. Returns a function that releases it; further calls have no effect."""
        self.taken += 1
        self.handshakes += 1
        held = [True]

        def give_back() -> None:
            if held:
                held.clear()
                self.taken -= 1

        return give_back


class Switched(Protocol):
    """A connection to an origin that has switched protocols (`origin.connection.Connection`)."""

    def hand_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes, bool] | None: ...

    def abort(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None: ...


class OriginUpstream:
    """The origin's side of a WebSocket between its 101 and the tunnel. It can be closed at any time."""

    __slots__ = ("_connection", "_handed_over", "on_end")

    def __init__(self, connection: Switched) -> None:
        self._connection: Switched | None = connection
        self._handed_over = False
        self.on_end: Callable[[], None] = lambda: None

    def hand_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes, bool] | None:
        """Give the connection to `protocol`. Returns its transport, the bytes that came after the 101, and whether it
        can be written to now; None if the origin has closed it meanwhile."""
        if self._connection is None:
            return None
        handed = self._connection.hand_over(protocol)
        self._handed_over = handed is not None
        return handed

    def end(self) -> None:
        """Close the connection if it is still open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            if self._handed_over:
                connection.connection_lost(None)
            self.on_end()


class _Side(asyncio.Protocol):
    """One of the two connections of a tunnel."""

    __slots__ = (
        "active",
        "ended",
        "frames",
        "lost",
        "name",
        "peer",
        "progress",
        "reading",
        "received",
        "shut",
        "transport",
        "tunnel",
        "unsent",
        "writable",
    )

    peer: _Side
    transport: asyncio.Transport

    def __init__(self, tunnel: Tunnel, name: str) -> None:
        self.tunnel = tunnel
        self.name = name
        self.frames = Frames()  # the frames that this side sends
        self.received = 0
        self.active = False  # it has sent something since the last check
        self.reading = False
        self.writable = True
        self.ended = False  # it has closed its half
        self.shut = False  # we have closed ours
        self.lost = False
        self.unsent = 0
        self.progress = 0.0

    def data_received(self, data: bytes) -> None:
        self.active = True
        if self.tunnel.ending:
            return
        self.received += len(data)
        self.frames.feed(data)
        peer = self.peer
        if not peer.shut and not peer.lost:
            peer.transport.write(data)
            if not peer.writable:
                self.hold()

    def eof_received(self) -> bool:
        """Returns whether this side can still be written to."""
        self.ended = self.active = True
        self.reading = False
        if self.tunnel.ending or self.shut:
            self.shut = True
            if not self.tunnel.ending:
                self.peer.close_half()
            return False
        self.peer.close_half()
        return True

    def pause_writing(self) -> None:
        self.writable = False
        self.peer.hold()

    def resume_writing(self) -> None:
        self.writable = True
        self.peer.read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.ended = self.shut = True
        self.reading = False
        self.tunnel.side_lost(self, exc)

    # -- used by the tunnel --

    def hold(self) -> None:
        if self.reading and not self.transport.is_closing():
            self.reading = False
            self.transport.pause_reading()

    def read_on(self) -> None:
        if not self.reading and not self.ended and not self.transport.is_closing():
            self.reading = True
            self.transport.resume_reading()

    def close_half(self) -> None:
        """Close our half once pending data is sent, or the whole connection if the other half is already closed."""
        if self.shut:
            return
        self.shut = True
        if self.ended or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write_eof()

    def may_have_close_frame(self) -> bool:
        return not self.shut and self.peer.frames.between and not self.transport.is_closing()


class Tunnel:
    """A WebSocket between a viewer and an origin. `finished` gets a result when both connections have closed. `reason`
    then says why the edge ended the tunnel or which side failed; it is "" if the two sides ended it themselves.

    :param idle: seconds without a byte from either side after which the tunnel ends.
    :param patience: seconds that a side may go without accepting any pending data.
    """

    def __init__(self, viewer: asyncio.Transport, idle: float, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = idle
        self._patience = patience
        self._last = self._loop.time()
        self._until = 0.0
        self.ending = False
        self.reason = ""
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self.viewer = _Side(self, "viewer")
        self.origin = _Side(self, "origin")
        self.viewer.peer, self.origin.peer = self.origin, self.viewer
        self.viewer.transport = viewer

    def open(self, upstream: Upstream, head: bytes, early: bytes, *, ended: bool) -> bool:
        """Take over both connections and start relaying. Returns False if the origin has closed its connection: then
        nothing was sent.

        :param head: the head of the viewer's 101 response.
        :param early: what the viewer sent before it received the 101; the origin gets it first.
        :param ended: whether the viewer has already closed its half.
        """
        viewer, origin = self.viewer, self.origin
        handed = upstream.hand_over(origin)
        if handed is None:
            return False
        origin.transport, behind, origin.writable = handed
        cast(Any, viewer.transport).set_protocol(viewer)
        viewer.reading = True
        viewer.transport.write(head)
        if behind:
            origin.data_received(behind)
        if early:
            viewer.data_received(early)
        if not origin.writable:
            viewer.hold()
        if ended:
            viewer.eof_received()
        if viewer.writable:
            origin.read_on()
        return True

    def end(self, reason: str) -> None:
        """End the tunnel from this side, as the module docstring describes."""
        if self.ending:
            return
        self.reason = self.reason or reason
        self.ending = True
        self._until = self._loop.time() + LINGER
        why = reason.removeprefix("websocket_").encode()
        for side in (self.viewer, self.origin):
            if side.lost:
                continue
            if side.may_have_close_frame():
                mask = os.urandom(4) if side is self.origin else b""
                side.transport.write(close_frame(GOING_AWAY, why, mask))
            side.close_half()
            side.read_on()

    def abort(self) -> None:
        for side in (self.viewer, self.origin):
            if not side.lost:
                side.transport.abort()

    def side_lost(self, side: _Side, exc: Exception | None) -> None:
        other = side.peer
        if exc is not None and not self.ending:
            self.reason = self.reason or f"websocket_{side.name}_lost"
        if other.lost:
            if not self.finished.done():
                self.finished.set_result(None)
            return
        if not self.ending:
            self.ending = True
            self._until = self._loop.time() + LINGER
        other.close_half()
        other.read_on()

    def check(self, now: float) -> None:
        """Periodic check: end the tunnel if it is idle, abort a side that is stuck. `now` is the loop's time in
        seconds."""
        for side in (self.viewer, self.origin):
            if side.active:
                side.active = False
                self._last = now
        busy = False
        for side in (self.viewer, self.origin):
            if side.lost:
                continue
            unsent = side.transport.get_write_buffer_size()
            if unsent:
                busy = True
                unsent += on_its_way(side.transport)
                if unsent != side.unsent:
                    side.progress = now
                elif now - side.progress > self._patience:
                    self.reason = self.reason or f"websocket_{side.name}_stuck"
                    side.transport.abort()
            side.unsent = unsent
        if self.ending:
            if not busy and now > self._until:
                self.abort()
            elif busy:
                self._until = now + LINGER
            return
        half = self.viewer.ended or self.origin.ended
        if not busy and now - self._last > (min(self._idle, self._patience) if half else self._idle):
            self.end("websocket_idle")
