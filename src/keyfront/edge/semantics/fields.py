"""Hop-by-hop and conditional header fields."""

from __future__ import annotations

from typing import Final

from keyfront.edge.types.messages import Headers

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields that apply to a single connection: the edge forwards them in neither direction."""


CONDITIONAL: Final = frozenset(
    {b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"range"}
)
"""Fields by which a request may get less than the whole response."""


LONGEST_CACHED: Final = 1024
"""Bytes of a viewer's field value up to which the derived result is cached."""


# Values of nearly all Connection fields; they name no field.
PERSISTENCE_OPTIONS: Final = frozenset({b"keep-alive", b"Keep-Alive", b"close"})


NO_OPTIONS: Final[frozenset[bytes]] = frozenset()


def connection_options(headers: Headers) -> frozenset[bytes]:
    """The lower-case options of Connection: names of fields that are meant for the next hop only (RFC 9110 §7.6.1)."""
    options: list[bytes] = []
    for name, value in headers:
        if name == b"connection" and value not in PERSISTENCE_OPTIONS:
            options += [option.strip(b" \t").lower() for option in value.split(b",")]
    return frozenset(options) - {b"close", b"keep-alive", b"host", b""} if options else NO_OPTIONS


FRAMING: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields that frame a message or describe the connection. Each hop sets its own: the edge neither forwards nor
authenticates a peer's."""
