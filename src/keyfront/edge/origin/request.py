"""Requests to an origin, and the bytes of their heads."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Final

from keyfront.edge.semantics.fields import FRAMING
from keyfront.edge.types.messages import Headers
from keyfront.errors import OriginFailure

Interim = Callable[[int, Headers], None]
"""A callback for an interim response: its status, and its headers as the origin sent them. It must not raise."""


class OriginRequest:
    """A request to an origin.

    `scheme` is "http" or "https". `target` is sent unchanged, with latin-1 standing for bytes. `headers` are final,
    including Host; only framing and Connection are added. `body` is read while the response is awaited, and may be left
    unread if the response arrives early. `length` is the body's size in bytes (None: chunked); 0 means no body.
    `interim` receives interim responses (1xx other than 100), at most `response_reader.MAX_INTERIM` per attempt.
    """

    __slots__ = ("body", "headers", "interim", "length", "method", "scheme", "target")

    def __init__(
        self,
        scheme: str,
        method: str,
        target: str,
        headers: Headers,
        body: AsyncIterator[bytes] | None = None,
        length: int | None = None,
        interim: Interim | None = None,
    ) -> None:
        self.scheme = scheme
        self.method = method
        self.target = target
        self.headers = headers
        self.body = None if length == 0 else body
        self.length = length
        self.interim = interim


_NOT_IN_TARGET: Final = re.compile(r"[^\x21-\x7e\x80-\xff]")
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_VALUES: Final = bytes([*range(9), 11, 12, *range(14, 32), 127])
"""Control characters that no field value may contain (RFC 9110 §5.5). Line ends are counted separately; tabs are
allowed."""
_field_names: set[bytes] = set()
"""Field names known to be tokens, so that the pattern is matched once per name."""


def request_head(
    method: str,
    target: str,
    headers: Headers,
    *,
    has_body: bool = False,
    length: int | None = None,
    websocket: bool = False,
) -> bytes:
    """The bytes of a request's head: `headers` unchanged, then framing and Connection (§5.8), plus Upgrade for a
    WebSocket's opening handshake.

    Framing fields among `headers` are left out. `length` is the body's size in bytes; without it, the body is sent
    chunked. A method that usually has a body states its absence (RFC 9110 §8.6). A request with a body is the last one
    on its connection and declares that: an origin that does not read the body would take it for the next request
    (decision 0026).

    :raises OriginFailure: OriginWriteError 502 if a name or value would break the head's lines, or if an origin could
        interpret the following lines differently; nothing is sent in that case.
    """
    if _NOT_IN_TARGET.search(target) or not (method in _METHODS or _TOKEN.fullmatch(method)):
        raise OriginFailure(
            "OriginWriteError", 502, "the method or the target cannot stand in a request line"
        )
    lines = []
    for header in headers:
        name = header[0]
        if name in FRAMING:
            continue
        if name not in _field_names:
            _check_field_name(name)
        lines.append(b"%b: %b\r\n" % header)
    if has_body:
        lines.append(
            b"transfer-encoding: chunked\r\n" if length is None else b"content-length: %d\r\n" % length
        )
    elif method in ("POST", "PUT", "PATCH"):
        lines.append(b"content-length: 0\r\n")
    if websocket:
        lines += [b"upgrade: websocket\r\n", b"connection: Upgrade\r\n\r\n"]
    else:
        lines.append(b"connection: close\r\n\r\n" if has_body else b"connection: Keep-Alive\r\n\r\n")
    fields = b"".join(lines)
    if (
        fields.count(b"\n") != len(lines) + 1
        or fields.count(b"\r") != len(lines) + 1
        or len(fields.translate(None, _NOT_IN_VALUES)) != len(fields)
    ):
        raise OriginFailure(
            "OriginWriteError", 502, "a header's value holds a line break or a control character"
        )
    return f"{method} {target} HTTP/1.1\r\n".encode("latin-1") + fields


def _check_field_name(name: bytes) -> None:
    """Check that a field name is a token.

    :raises OriginFailure: OriginWriteError 502 if the name is not a token (RFC 9110 §5.6.2).
    """
    if not _FIELD_NAME.fullmatch(name):
        shown = ascii(name[:60].decode("latin-1"))
        raise OriginFailure("OriginWriteError", 502, f"{shown} cannot be a header's name")
    if len(_field_names) < 1024 and len(name) <= 64:
        _field_names.add(name)
