"""TLS between a TCP transport and HTTP/1.1, for viewers and origins. OpenSSL works entirely in memory; this module
moves the bytes.

The event loops have a TLS transport of their own. Decision 0011 explains what it lacks for a shell that gives
guarantees to slow viewers: to know what is still unsent, to close each direction separately, to report why a handshake
failed, not to encrypt a large body all at once for a viewer that may take an hour to read it, and not to lose the end
of an origin's response.

A `TlsTransport` is the protocol of its TCP transport and the transport of the shell. It behaves like a TCP transport,
half-closing included (TLS 1.3 allows it, RFC 8446 §6.1).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol, cast

READ = 256 * 1024
AHEAD = 128 * 1024
"""Bytes that may be encrypted but unsent; anything beyond that is not encrypted yet."""
RECORD = 16 * 1024
"""Maximum bytes in one TLS record (RFC 8446 §5.1)."""


class Gate(Protocol):
    """Decides whether a viewer's connection is accepted, before the handshake costs anything."""

    def admit(self, transport: asyncio.BaseTransport) -> bool: ...

    def leave(self) -> None:
        """An admitted connection has ended."""

    def late(self) -> None:
        """The handshake has timed out."""


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """One TLS connection. The shell's `connection_made` is called once the handshake succeeds. `handshake` then has a
    result, or an exception if the handshake failed.

    :param shell: the protocol that uses this transport: a viewer's connection, or a connection to an origin.
    :param patience: handshake timeout in seconds; None if the caller enforces its own.
    :param server_name: the name that the peer's certificate must have. Without it, this side is the server.
    :param gate: decides whether the connection is accepted; without it, every connection is.
    """

    __slots__ = (
        "_backlog",
        "_context",
        "_ending",
        "_established",
        "_gate",
        "_incoming",
        "_loop",
        "_outgoing",
        "_over",
        "_patience",
        "_pushing",
        "_reading",
        "_server_name",
        "_shell",
        "_shell_paused",
        "_size",
        "_tcp",
        "_tcp_paused",
        "_timer",
        "_tls",
        "handshake",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        shell: asyncio.Protocol,
        patience: float | None,
        server_name: str | None = None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__()
        self._context = context
        self._shell = shell
        self._patience = patience
        self._server_name = server_name
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self.handshake: asyncio.Future[None] = self._loop.create_future()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tcp: asyncio.Transport
        self._tls: ssl.SSLObject
        self._timer: asyncio.TimerHandle | None = None
        self._established = False
        self._reading = True
        self._over = False  # the peer has sent close_notify or violated the protocol: nothing more is read
        self._ending = ""  # "eof" or "close", once the backlog is sent
        self._backlog: deque[memoryview] = deque()
        self._size = 0  # bytes in the backlog
        self._pushing = False
        self._tcp_paused = False
        self._shell_paused = False

    # -- the TCP transport's protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast(asyncio.Transport, transport)
        if self._gate is not None and not self._gate.admit(self._tcp):
            self._gate = None
            self._over = True
            self._tcp.abort()
            return
        if self._patience is not None:
            self._timer = self._loop.call_later(self._patience, self._too_late)
        name = self._server_name
        try:
            self._tls = self._context.wrap_bio(
                self._incoming, self._outgoing, server_side=name is None, server_hostname=name
            )
        except (ValueError, ssl.SSLError) as error:  # not a valid server name
            self._give_up(error)
            return
        if name is not None:
            self._shake_hands()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._ending = self._ending or "close"
        self._backlog.clear()
        self._size = 0
        if self._timer is not None:
            self._timer.cancel()
        if self._gate is not None:
            self._gate.leave()
            self._gate = None
        if self._established:
            self._established = False
            self._shell.connection_lost(exc)
        elif not self.handshake.done():
            self._give_up(exc or ConnectionResetError("closed before the TLS handshake was over"))
        del self._shell  # break the reference cycle: each object would keep the other alive

    def data_received(self, data: bytes) -> None:
        if self._over:
            return  # it would only accumulate
        self._incoming.write(data)
        if not self._established and not self._shake_hands():
            return
        self._pump()

    def eof_received(self) -> bool:
        """The peer has closed its side of the TCP connection. If it sent no close_notify, a viewer's request is still
        safe, because it states its own length. But an origin's response may be delimited by the end of the connection,
        and may have been truncated."""
        if not self._established or (self._server_name is not None and not self._over):
            return False
        if self._over:
            return not self._ending
        self._over = True
        return bool(self._shell.eof_received())

    def pause_writing(self) -> None:
        self._tcp_paused = True
        self._pause_or_resume_writing()

    def resume_writing(self) -> None:
        self._tcp_paused = False
        self._push()

    # -- TLS -----------------------------------------------------------------------------------------------------------

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._flush()  # sends the alert with the reason
            self._give_up(error)
            return False
        self._established = True
        if not self.handshake.done():  # the waiting task may have been canceled
            self.handshake.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flush()
        self._shell.connection_made(self)
        return True

    def _too_late(self) -> None:
        if self._gate is not None:
            self._gate.late()
        self._tcp.abort()

    def _give_up(self, error: Exception) -> None:
        self._over = True
        if not self.handshake.done():
            self.handshake.set_exception(error)
            self.handshake.exception()  # mark as retrieved: for viewers, nothing awaits it
        self._tcp.close()

    def _pump(self) -> None:
        """Decrypt the received data and pass it on for as long as the shell is reading."""
        if not self._reading or self._over:
            return
        pieces: list[bytes] = []
        ended = broken = False
        tls, incoming = self._tls, self._incoming
        try:
            while incoming.pending or tls.pending():
                piece = tls.read(READ)
                if not piece:
                    ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError:
            broken = True
        if self._outgoing.pending:  # a reply required by the protocol, or the alert that reports an error
            self._flush()
        if pieces and self._ending != "close":
            self._shell.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if broken:
            self._over = True
            self._tcp.close()
        elif ended and not self._over:
            self._over = True
            if not self._shell.eof_received():
                self.close()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._tcp.write(data)

    def _push(self) -> None:
        """Encrypt and send data from the backlog for as long as the peer accepts it."""
        self._pushing = False
        backlog, tls, tcp = self._backlog, self._tls, self._tcp
        while backlog and not self._tcp_paused and tcp.get_write_buffer_size() < AHEAD:
            try:
                written = tls.write(backlog[0][:RECORD])
            except ssl.SSLError:
                tcp.abort()
                return
            self._flush()
            self._size -= written
            if written == len(backlog[0]):
                backlog.popleft()
            else:
                backlog[0] = backlog[0][written:]
        if backlog:
            if not self._tcp_paused and not self._pushing:
                self._pushing = True
                self._loop.call_soon(self._push)
        elif self._ending:
            self._end()
        self._pause_or_resume_writing()

    def _pause_or_resume_writing(self) -> None:
        """Tell the shell to pause or resume writing."""
        full = self._tcp_paused or bool(self._backlog)
        if full != self._shell_paused and self._established:
            self._shell_paused = full
            if full:
                self._shell.pause_writing()
            else:
                self._shell.resume_writing()

    def _end(self) -> None:
        """Send close_notify (RFC 8446 §6.1), and close our half or the whole connection."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the peer's close_notify is not awaited
        self._flush()
        if self._ending == "close":
            self._tcp.close()
        else:
            self._tcp.write_eof()

    # -- the shell's transport -----------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ending or not data:
            return
        if len(data) <= RECORD and not self._backlog and not self._tcp_paused:
            # The usual case: one record, sent at once.
            try:
                self._tls.write(data)
            except ssl.SSLError:
                self._tcp.abort()
                return
            self._tcp.write(self._outgoing.read())
            return
        self._backlog.append(memoryview(data))
        self._size += len(data)
        if not self._tcp_paused and not self._pushing:
            self._push()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        for data in list_of_data:
            self.write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._ending:
            self._ending = "eof"
            if not self._backlog:
                self._end()

    def close(self) -> None:
        if self._ending == "close":
            return
        peer_ended = self._ending == "eof" and not self._backlog
        self._ending = "close"
        if peer_ended:
            self._tcp.close()
        elif not self._backlog:
            self._end()

    def abort(self) -> None:
        self._ending = "close"
        self._backlog.clear()
        self._tcp.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._shell = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._shell

    def is_closing(self) -> bool:
        return self._ending == "close" or self._tcp.is_closing()

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            if not self._tcp.is_closing():
                self._tcp.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if not self._tcp.is_closing():
                self._tcp.resume_reading()
            self._loop.call_soon(self._pump)

    def get_write_buffer_size(self) -> int:
        return self._size + self._tcp.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._tcp.get_extra_info(name, default)
