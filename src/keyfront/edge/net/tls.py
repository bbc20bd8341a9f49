"""TLS between a TCP transport and HTTP/1.1, toward viewers and toward origins: OpenSSL does all of it in memory, this
moves the bytes.

The event loops bring a TLS transport of their own. Decision 0011 says what a shell that promises something to slow
viewers misses there: to know what is still unsent, to say goodbye one way at a time, to say why a handshake failed, not
to encrypt a large body at once for a viewer who may take an hour for it, and not to lose the end of an origin's answer.

To its TCP transport a `Secured` is the protocol, to the shell it is the transport. It behaves as a TCP transport does,
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
"""Bytes that may lie encrypted and unsent; what comes after them is not encrypted yet."""
RECORD = 16 * 1024
"""The most that one TLS record holds (RFC 8446 §5.1)."""


class Gate(Protocol):
    """Who decides whether a viewer's connection is taken, before the handshake costs anything."""

    def admit(self, transport: asyncio.BaseTransport) -> bool: ...

    def leave(self) -> None:
        """A connection that was admitted is gone."""

    def late(self) -> None:
        """The handshake took too long."""


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """One connection. The shell's `connection_made` is called when the handshake is over, if it ends well; `handshake`
    has the same news, or what went wrong.

    :param shell: whose transport this will be: a viewer's connection, or one to an origin.
    :param patience: seconds that the handshake may take; None for whoever minds the time himself.
    :param server_name: who the other side must prove to be. Without it, this is the server.
    :param gate: asked whether the connection is taken; without it, every one is.
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
        self._over = False  # the viewer has said goodbye, or broke the protocol: nothing more is read
        self._ending = ""  # "eof" or "close", once the backlog is out
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
        except (ValueError, ssl.SSLError) as error:  # no name that can be asked for
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
        del self._shell  # each has the other as long as there is something to say, and so both would stay

    def data_received(self, data: bytes) -> None:
        if self._over:
            return  # it would only pile up
        self._incoming.write(data)
        if not self._established and not self._shake_hands():
            return
        self._pump()

    def eof_received(self) -> bool:
        """The other side's TCP is closed its way. If TLS was not, a viewer's request is no worse for it, since it says
        how long it is; but an origin's answer may be one that ends with the connection, and have been cut."""
        if not self._established or (self._server_name is not None and not self._over):
            return False
        if self._over:
            return not self._ending
        self._over = True
        return bool(self._shell.eof_received())

    def pause_writing(self) -> None:
        self._tcp_paused = True
        self._tell()

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
            self._flush()  # the alert that says why
            self._give_up(error)
            return False
        self._established = True
        if not self.handshake.done():  # who waited may have been cancelled
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
            self.handshake.exception()  # nobody need ask: toward viewers nobody does
        self._tcp.close()

    def _pump(self) -> None:
        """Decrypt what has arrived and hand it on, as far as the shell is reading."""
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
        if self._outgoing.pending:  # an answer to the protocol itself, or the alert that says what is wrong
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
        """Encrypt and send from the backlog as long as the viewer takes it."""
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
        self._tell()

    def _tell(self) -> None:
        """Let the shell know whether it should go on writing."""
        full = self._tcp_paused or bool(self._backlog)
        if full != self._shell_paused and self._established:
            self._shell_paused = full
            if full:
                self._shell.pause_writing()
            else:
                self._shell.resume_writing()

    def _end(self) -> None:
        """Our goodbye (RFC 8446 §6.1), and the end of our half or of the whole connection."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the viewer's own goodbye is not waited for
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
            # Nearly always: one record, sent at once.
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
        said = self._ending == "eof" and not self._backlog
        self._ending = "close"
        if said:
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
