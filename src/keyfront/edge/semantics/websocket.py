"""The WebSocket rules that a proxy needs (RFC 6455, RFC 9110 §7.8). Pure: no socket, no clock.

The edge is not a WebSocket endpoint. It checks that a request is an opening handshake and that the origin accepted
exactly this handshake; after that it relays bytes (`tunnel`). It parses frame headers for one reason only: to know
whether the stream is at a frame boundary, so that a Close frame that ends a WebSocket is not written into the middle of
another frame.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Final

from keyfront.edge.types.messages import Header, Headers

WEBSOCKET: Final = "websocket"
"""The value of `Request.upgrade` for an opening handshake."""
KEY: Final = b"sec-websocket-key"
VERSION: Final = b"sec-websocket-version"
ACCEPT: Final = b"sec-websocket-accept"
GOING_AWAY: Final = 1001
"""The close code of an endpoint that is going away, such as a server that is shutting down (RFC 6455 §7.4.1)."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LONGEST_NOTE: Final = 80
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


# -- the opening handshake -----------------------------------------------------------------------------------


def upgrade_of(method: str, version: str, headers: Headers, *, named: bool, has_body: bool) -> str:
    """What a request with an Upgrade header asks for.

    `WEBSOCKET` for an opening handshake: a GET over HTTP/1.1 with Upgrade, Connection, Sec-WebSocket-Key and
    Sec-WebSocket-Version, whether or not the values of the latter two are correct (`handshake_fault`). Any other
    upgrade is ignored and the request answered normally (RFC 9110 §7.8); the result is then a text for the log that
    says what was ignored and why. "" without an Upgrade header.

    :param named: whether Connection names Upgrade.
    """
    protocols = _tokens(value for name, value in headers if name == b"upgrade")
    if not protocols:
        return ""
    if b"websocket" not in protocols:
        why = ""
    elif not named:
        why = " (Connection does not name Upgrade)"
    elif method != "GET":
        why = f" ({method} is not GET)"
    elif version != "1.1":
        why = f" (HTTP/{version})"
    elif has_body:
        why = " (with a body)"
    else:
        names = {name for name, _ in headers}
        if KEY in names and VERSION in names:
            return WEBSOCKET
        why = " (without Sec-WebSocket-Key)" if KEY not in names else " (without Sec-WebSocket-Version)"
    asked = b", ".join(protocols)[:_LONGEST_NOTE].decode("latin-1")
    return _UNPRINTABLE.sub("?", f"passed over: upgrade to {asked}{why}")


def handshake_fault(headers: Headers) -> str:
    """The name of the fault in an opening handshake (RFC 6455 §4.2.1), "" if there is none.

    `websocket_key`: not exactly one Sec-WebSocket-Key that is the base64 encoding of 16 bytes. `websocket_version`: not
    exactly one Sec-WebSocket-Version, or a version other than 13.
    """
    keys = [value for name, value in headers if name == KEY]
    if len(keys) != 1 or not _is_key(keys[0].strip(b" \t")):
        return "websocket_key"
    versions = [value.strip(b" \t") for name, value in headers if name == VERSION]
    return "" if versions == [b"13"] else "websocket_version"


def handshake_key(headers: Headers) -> bytes:
    """The Sec-WebSocket-Key of a valid handshake."""
    return next(value.strip(b" \t") for name, value in headers if name == KEY)


def forwarded(headers: Headers) -> bool:
    """Whether the headers for the origin contain both fields that every server requires."""
    names = {name for name, _ in headers}
    return KEY in names and VERSION in names


def accept_value(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def acceptance_fault(headers: Iterable[Header], accept: bytes) -> str:
    """What is wrong with the headers of a 101 that should accept a handshake, as a text for the log; "" if nothing is.

    :param accept: the `accept_value` for the viewer's key.
    """
    upgrades: list[bytes] = []
    options: list[bytes] = []
    accepts: list[bytes] = []
    for name, value in headers:
        if name == b"upgrade":
            upgrades.append(value)
        elif name == b"connection":
            options.append(value)
        elif name == ACCEPT:
            accepts.append(value.strip(b" \t"))
        elif name in (b"content-length", b"transfer-encoding"):
            return f"101 with {name.decode()}"
    if _tokens(upgrades) != [b"websocket"]:
        return "101 for another protocol than websocket"
    if b"upgrade" not in _tokens(options):
        return "101 without Connection: Upgrade"
    if accepts != [accept]:
        return "101 whose Sec-WebSocket-Accept does not answer the viewer's Sec-WebSocket-Key"
    return ""


def _is_key(value: bytes) -> bool:
    try:
        return len(value) == 24 and len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def _tokens(values: Iterable[bytes]) -> list[bytes]:
    """The members of a list field in lower case; empty members are dropped."""
    return [token for value in values for part in value.split(b",") if (token := part.strip(b" \t").lower())]


# -- frames --------------------------------------------------------------------------------------------------


class Frames:
    """Tracks frame boundaries in one direction of a WebSocket; feed it the bytes as they pass (RFC 6455 §5.2).

    Payloads are skipped, not read, so the cost is per frame. A flood of tiny frames is not worth tracking: after a
    chunk with more than `FEW` frames plus one per `SMALL` bytes, tracking stops for good.
    """

    SMALL = 8
    FEW = 64

    __slots__ = ("_head", "_lost", "_skip", "closed")

    def __init__(self) -> None:
        self._head = b""
        self._skip = 0
        self._lost = False
        self.closed = False
        """Whether a Close frame has begun to pass: no frame may follow it."""

    @property
    def between(self) -> bool:
        """Whether the edge may send a frame of its own at this point."""
        return not (self._head or self._skip or self._lost or self.closed)

    def feed(self, data: bytes) -> None:
        if self._lost:
            return
        size = len(data)
        position = self._skip
        if position >= size:  # inside a large frame
            self._skip = position - size
            return
        if position:
            self._skip = 0
        elif self._head:
            data = self._head + data
            size = len(data)
            self._head = b""
        left = self.FEW + size // self.SMALL
        while position < size:
            left -= 1
            if left < 0:
                self._lost = True
                return
            if size - position < 2:
                self._head = data[position:]
                return
            marks = data[position + 1]
            short = marks & 0x7F
            extended = 2 if short == 126 else 8 if short == 127 else 0
            begin = position + 2 + extended + (4 if marks & 0x80 else 0)
            if begin > size:
                self._head = data[position:]
                return
            if data[position] & 0x0F == 8:
                self.closed = True
            length = (
                int.from_bytes(data[position + 2 : position + 2 + extended], "big") if extended else short
            )
            position = begin + length
        self._skip = position - size


def close_frame(code: int, reason: bytes, mask: bytes = b"") -> bytes:
    """A Close frame (RFC 6455 §5.5.1).

    :param reason: at most 123 bytes of UTF-8.
    :param mask: four random bytes if a client sends it (§5.3), empty if a server does.
    """
    payload = code.to_bytes(2, "big") + reason
    if mask:
        payload = mask + bytes([byte ^ mask[place % 4] for place, byte in enumerate(payload)])
        return bytes((0x88, 0x80 | (len(payload) - 4))) + payload
    return bytes((0x88, len(payload))) + payload
