"""The message types that pass through an edge: requests, replies and origin replies. No rules, no sockets.

Header lists are as in ASGI: pairs of bytes, with lower-case names, in the order received, including repeats. Text from
a viewer's request line is decoded as latin-1, so every byte sent is exactly one character. Times are epoch seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from keyfront.edge.types.files import FileRange

if TYPE_CHECKING:
    from keyfront.edge.types.shield import ShieldAnswer

Header = tuple[bytes, bytes]
Headers = list[Header]


Piece = bytes | FileRange
Body = bytes | AsyncIterator[Piece]


class LostError(Exception):
    """The rest of a body cannot be read: it is no longer in memory or stored."""


class Upstream(Protocol):
    """The origin's side of a WebSocket between its 101 and the tunnel (`net.tunnel.OriginUpstream`)."""

    on_end: Callable[[], None]
    """Called when the connection is given up."""

    def hand_over(self, protocol: Any) -> tuple[Any, bytes, bool] | None:
        """Hand the connection over to an `asyncio.Protocol`. Returns its `asyncio.Transport`, the bytes that followed
        the 101, and whether it can be written to now; None if the origin has closed it. Rules import this module and do
        not depend on an event loop, hence `Any`."""

    def end(self) -> None:
        """Close the connection if it is still open."""


class Request(msgspec.Struct, frozen=True, eq=False):
    """A viewer's request, its head complete.

    `target` is the raw origin-form target as sent; `host` the Host header's value as sent, including a port if it has
    one. `body` is None if the request has none, otherwise an async iterator over its chunks; `length` is the body's
    Content-Length in bytes, or None if chunked or absent. `client_ip` is the viewer's address (behind a trusted proxy:
    the one that the proxy reports), `scheme` the viewer's scheme. `wire_bytes` is the size of its head in bytes. `tls`
    is the protocol and the cipher of the connection, in OpenSSL's names, or None without TLS. `upgrade` is
    `websocket.WEBSOCKET` for an opening handshake, a text for the log for an upgrade that is ignored, otherwise empty
    (`websocket.upgrade_of`). `connection` is the number of the viewer's connection in this process.
    """

    method: str
    target: str
    host: str
    headers: Headers
    scheme: str = "http"
    client_ip: str = "127.0.0.1"
    client_port: int = 0
    version: str = "1.1"
    cookie: str = ""
    body: AsyncIterator[bytes] | None = None
    length: int | None = None
    wire_bytes: int = 0
    tls: tuple[str, str] | None = None
    upgrade: str = ""
    connection: int = 0

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header with that lower-case name, or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Reply:
    """A response that is ready for a shell to write. `headers` lacks only framing and the edge's own identity headers.

    `body` is bytes, or an async iterator of pieces with `length` as its size in bytes, if known. `x_cache` is the word
    before " from cloudfront", `detail` is CloudFront's x-edge-detailed-result-type, and `reason` is the name of a
    denial or refusal for the log. `upstream` is the origin's side of a WebSocket, with status 101 only: the code that
    gets the reply must open a tunnel to it or end it.
    """

    __slots__ = ("body", "detail", "headers", "length", "reason", "status", "upstream", "x_cache")

    def __init__(
        self,
        status: int,
        headers: Headers,
        body: Body = b"",
        *,
        length: int | None = None,
        x_cache: str = "Error",
        detail: str = "",
        reason: str = "",
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.length = length if length is not None or not isinstance(body, bytes) else len(body)
        self.x_cache = x_cache
        self.detail = detail or x_cache
        self.reason = reason
        self.upstream: Upstream | None = None


class OriginReply:
    """An origin's final response, its head complete.

    `body` yields chunks as they arrive, with back-pressure, and raises OriginFailure if the origin breaks off the
    response. `aclose()` closes the connection, or returns it to its pool if the body was read.

    `length` is the Content-Length if the body is framed by it. `sized` is False for a body that is delimited by the end
    of the connection, and may therefore be truncated without notice (CloudFront stores it all the same, §5.9). `whole`
    is the entire body if it arrived with the head, as small ones do: then use it, ignore `body`, and skip `aclose()`.
    It is None while the body is still arriving. `shield_answer` is the Origin Shield's metadata if the response came
    from one. `upstream` is the connection of a WebSocket that the origin has accepted with a 101.
    """

    __slots__ = (
        "body",
        "connect_time",
        "headers",
        "length",
        "reason",
        "shield_answer",
        "sized",
        "status",
        "upstream",
        "whole",
    )

    def __init__(  # noqa: PLR0913 - the fields of a value
        self,
        status: int,
        reason: str,
        headers: Headers,
        body: AsyncIterator[bytes],
        *,
        length: int | None = None,
        sized: bool = True,
        connect_time: float = 0.0,
        whole: bytes | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body
        self.length = length
        self.sized = sized
        self.connect_time = connect_time
        self.whole = whole
        self.shield_answer: ShieldAnswer | None = None
        self.upstream: Upstream | None = None

    async def aclose(self) -> None:
        close = getattr(self.body, "aclose", None)
        if close is not None:
            await close()
