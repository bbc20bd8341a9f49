"""A connection to an origin: an HTTP/1.1 client that handles one request at a time.

1. A connection is reused only when nothing is in doubt: the request had no body, the response ended by its own framing
and announced no body that did not arrive, nothing followed it, and neither side sent `Connection: close`. Data on an
idle connection closes it. Decision 0026 gives the reasons.
2. Nothing waits without a limit. One timer per connection watches the earliest deadline. It is rescheduled lazily: a
deadline that only moves later costs an assignment, not a timer.

The read timeout is suspended while the consumer is slow (reading is paused because its buffer is full) or the viewer is
(its request body has not arrived yet); only the response completion timeout keeps running.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Protocol, cast

from keyfront.edge.origin.request import OriginRequest
from keyfront.edge.origin.response_reader import NEVER, Framing, ResponseReader
from keyfront.errors import OriginFailure

DRAIN: Final = 64 * 1024
"""An abandoned response is read to its end if at most this many bytes remain; otherwise the connection is aborted."""
DRAIN_TIME: Final = 1.0
"""Seconds within which the rest of an abandoned response must arrive."""


class Timeouts(NamedTuple):
    """Time limits of one exchange. `read` and `keepalive` are seconds; `completion` is the loop's time by which the
    response must be complete."""

    read: float
    keepalive: float
    completion: float


class ConnectionOwner(Protocol):
    """The owner of a connection. It is notified when the connection becomes idle, when it closes, and when a response
    was invalid."""

    def on_idle(self, connection: Connection) -> None: ...

    def on_closed(self, connection: Connection) -> None: ...

    def on_bad_response(self, failure: BaseException) -> None: ...


class Connection(asyncio.Protocol):
    """A connection to an origin. It serves one request at a time; the module docstring says when it is reused.

    `idle_since` is the loop's time at which it became idle.
    """

    def __init__(self, owner: ConnectionOwner, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._reader: ResponseReader | None = None
        self._sender: asyncio.Task[None] | None = None
        self._sent = True
        self._blocked: asyncio.Future[None] | None = None
        self._writable = True
        self._paused = False
        self._closed = False
        self._read_timeout = 0.0
        self._keepalive_timeout = 0.0
        self._deadline = NEVER
        self._completion = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER

    @property
    def usable(self) -> bool:
        """Idle, open, and nothing has arrived since the last response."""
        return not self._closed and self._reader is None

    @property
    def has_unread(self) -> bool:
        """Whether the kernel holds bytes from the origin that the loop has not read yet. On an idle connection, they do
        not answer any request."""
        transport = self._transport
        if transport is None:
            return False
        try:
            handle = transport.get_extra_info("socket").fileno()
            return any(fcntl.ioctl(handle, termios.FIONREAD, b"\0\0\0\0"))
        except (OSError, AttributeError):
            return False

    def send(self, head: bytes, request: OriginRequest, timeouts: Timeouts) -> ResponseReader:
        """Send a request with the given head. Returns the reader for its response, which gets interim responses first.

        A body is sent by a separate task while the response is awaited.
        """
        reader = ResponseReader(self, head_only=request.method == "HEAD")
        transport = self._transport
        if self._closed or transport is None:
            reader.fail(
                OriginFailure("OriginCommError", 502, "closed by the origin before the request was sent")
            )
            return reader
        body = request.body
        self._reader = reader
        self._read_timeout, self._keepalive_timeout, self._completion = timeouts
        reader.last = (
            body is not None
        )  # the origin may not read the body, and could then take it for a request
        reader.interim = request.interim
        transport.write(head)
        if body is None:
            self._watch(self.loop.time() + timeouts.read)
        else:
            self._sent = False
            self._watch(NEVER)
            self._sender = self.loop.create_task(self._send_body(reader, transport, body, request.length))
        return reader

    async def _send_body(
        self,
        reader: ResponseReader,
        transport: asyncio.Transport,
        body: AsyncIterator[bytes],
        length: int | None,
    ) -> None:
        """Send the body with back-pressure. If the body fails because the viewer left, so does the request."""
        write = transport.write
        left = length
        try:
            async for chunk in body:
                if not chunk:
                    continue
                if left is None:
                    write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                else:
                    left -= len(chunk)
                    if left < 0:
                        raise OriginFailure("OriginWriteError", 502, "the request body exceeds its length")
                    write(chunk)
                if not self._writable:
                    await self._drained()
                if left == 0:
                    break
            if left:
                raise OriginFailure("OriginWriteError", 502, "the request body is shorter than its length")
            if left is None:
                write(b"0\r\n\r\n")
            if not self._writable:
                await self._drained()
        except asyncio.CancelledError:
            if not self._closed:  # the connection is open, so only the body was canceled
                self.break_off(
                    OriginFailure("OriginWriteError", 502, "the request body was cancelled"), reader
                )
            raise
        except BaseException as error:
            # An exception from the viewer's side is raised to the task that awaits the response.
            self.break_off(error, reader)
            if not isinstance(error, Exception):
                raise
            return
        self._sent = True
        self._sender = None
        if self._reader is reader and not self._paused:
            self._watch(self.loop.time() + self._read_timeout)

    async def _drained(self) -> None:
        self._watch(self.loop.time() + self._read_timeout)
        self._blocked = self.loop.create_future()
        try:
            await self._blocked
        finally:
            self._blocked = None
        self._watch(NEVER)

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        reader = self._reader
        if reader is None:
            self.abort()  # bytes that answer no request: the next response could not be trusted
            return
        if self._deadline != NEVER:  # otherwise nothing is expected of the origin now
            self._deadline = self.loop.time() + self._read_timeout
        reader.feed(data)
        if reader.complete:
            self._finish(reader)
        elif reader.failure is not None:
            self._owner.on_bad_response(reader.failure)
            self.abort()
        reader.wake()

    def eof_received(self) -> bool | None:
        reader = self._reader
        if reader is not None:
            reader.end()
            if reader.complete:
                self._finish(reader)
                reader.wake()
        elif not self._closed:
            self.close()  # an idle connection
        return None  # the transport closes itself

    def connection_lost(self, error: Exception | None) -> None:
        reader = self._reader
        if reader is not None:
            why = "reset" if error is not None else "closed"
            if not self._sent and not reader.head_complete:
                failure = OriginFailure(
                    "OriginWriteError", 502, f"{why} by the origin while the request was sent"
                )
            elif not reader.head_complete:
                failure = OriginFailure(
                    "OriginCommError", 502, f"{why} by the origin before its answer was whole"
                )
            else:
                failure = OriginFailure("OriginCommError", 502, f"{why} by the origin within the body")
            self._reader = None
            reader.fail(failure)
        self._close_down()
        self._owner.on_closed(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        blocked = self._blocked
        if blocked is not None and not blocked.done():
            blocked.set_result(None)

    # Flow control: read only as fast as the consumer.

    def pause(self) -> None:
        if not self._paused and self._transport is not None and not self._closed:
            self._paused = True
            self._deadline = NEVER
            self._transport.pause_reading()

    def resume(self, reader: ResponseReader) -> None:
        if self._paused and reader is self._reader:
            self._read_on()
            if self._sent:
                self._watch(self.loop.time() + self._read_timeout)

    def _read_on(self) -> None:
        self._paused = False
        if self._transport is not None and not self._closed:
            self._transport.resume_reading()

    # A switch to another protocol.

    def hand_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes, bool] | None:
        """Hand this connection, which the origin has switched with a 101, over to `protocol`. Returns the transport
        with reading paused, the bytes that followed the 101, and whether it can be written to now; None if it is
        closed.

        From then on, the new protocol enforces time limits. When the connection ends, it calls `connection_lost` on
        this object.
        """
        reader, transport = self._reader, self._transport
        if self._closed or transport is None or reader is None or not reader.switched:
            return None
        self._reader = None
        self._deadline = self._completion = NEVER
        transport.set_protocol(protocol)
        return transport, reader.early, self._writable

    # The end of a request.

    def _finish(self, reader: ResponseReader) -> None:
        """The response is complete: become idle, or close if anything is in doubt."""
        self._reader = None
        if reader.out_of_sync or not self._sent or self._closed:
            self.abort()
            return
        if reader.last or not reader.persistent:
            self.close()
            return
        if self._paused:
            self._read_on()
        self._completion = NEVER
        now = self.loop.time()
        self.idle_since = now
        seconds = min(self._keepalive_timeout, reader.idle_seconds)
        if seconds <= 0.0:
            self.close()
            return
        self._watch(now + seconds)
        self._owner.on_idle(self)

    def abandon(self, reader: ResponseReader) -> None:
        """The rest of this response is no longer needed."""
        if reader is not self._reader:
            return
        if reader.framing is not Framing.LENGTH or reader.remaining > DRAIN or not self._sent:
            self.break_off(OriginFailure("OriginCommError", 502, "given up by the edge"))
            return
        if self._paused:
            self._read_on()
        self._completion = min(self._completion, self.loop.time() + DRAIN_TIME)
        self._watch(self.loop.time() + self._read_timeout)

    def break_off(self, reason: BaseException, only_if: ResponseReader | None = None) -> None:
        """End the connection and everything that waits for it. If `only_if` is given, do so only while the connection
        serves that response: a task that awaits a response may learn of its end, and be canceled, after the connection
        has moved on to another one."""
        reader = self._reader
        if only_if is not None and only_if is not reader:
            return
        self._reader = None
        self.abort()
        if reader is not None:
            reader.fail(reason)

    def close(self) -> None:
        """Close gracefully: pending data is still sent."""
        self._close_down()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close immediately."""
        self._close_down()
        if self._transport is not None:
            self._transport.abort()

    def _close_down(self) -> None:
        self._closed = True
        self._deadline = self._completion = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = NEVER
        sender = self._sender
        if sender is not None:
            self._sender = None
            if sender is not asyncio.current_task(self.loop):
                sender.cancel()

    # Deadlines.

    def _watch(self, deadline: float) -> None:
        """Set the next deadline, in the loop's time."""
        self._deadline = deadline
        due = deadline if deadline < self._completion else self._completion
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self.loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = NEVER
        now = self.loop.time()
        if self._completion <= now:
            self.break_off(OriginFailure("OriginCommError", 504, "the response completion timeout passed"))
        elif self._deadline <= now:
            if self._reader is None:
                self.close()
            elif not self._sent:
                self.break_off(
                    OriginFailure("OriginWriteError", 504, "the origin stopped reading the request")
                )
            else:
                self.break_off(OriginFailure("OriginReadError", 504, f"silent for {self._read_timeout:g} s"))
        else:
            self._watch(self._deadline)
