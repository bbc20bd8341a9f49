"""The headers of a stored or fetched response that are sent to the viewer."""

from __future__ import annotations

from typing import Final

from keyfront.edge.rules.origin_request import reaches_origin
from keyfront.edge.semantics.fields import HOP_BY_HOP, connection_options
from keyfront.edge.types.messages import Headers
from keyfront.model.snapshot import Behavior

_NOT_FOR_VIEWERS: Final = HOP_BY_HOP | {
    b"content-length",  # the connection does the framing
    b"via",
    b"x-amz-cf-id",
    b"x-amz-cf-pop",
    b"x-cache",
}


def viewer_headers(behavior: Behavior, headers: Headers) -> Headers:
    """An origin's response headers as a viewer may see them (§5.9): when passed through, and as stored.

    This removes connection-specific fields and those that Connection names, framing (the connection adds it), fields
    that the edge sets itself, and Set-Cookie unless the behavior forwards cookies. Vary retains the names that can
    differ. `Server: CloudFront` is added where the origin names no server.
    """
    hidden = connection_options(headers)
    cookies = behavior.forward_cookies.mode != "none"
    kept: Headers = []
    named = False
    vary: list[bytes] = []
    for header in headers:
        name = header[0]
        if name in _NOT_FOR_VIEWERS or name in hidden:
            continue
        if name == b"vary":
            vary.append(header[1])
            continue
        if name == b"set-cookie" and not cookies:
            continue
        if name == b"server":
            named = True
        kept.append(header)
    if vary:
        names = vary_names(behavior, b",".join(vary))
        if names:
            kept.append((b"vary", b", ".join(names)))
    if not named:
        kept.append((b"server", b"CloudFront"))
    return kept


def interim_headers(behavior: Behavior, headers: Headers) -> Headers:
    """The headers of an origin's interim response (1xx) as a viewer may see them: as in `viewer_headers`, with nothing
    added."""
    named = any(name == b"server" for name, _ in headers)
    return [header for header in viewer_headers(behavior, headers) if named or header[0] != b"server"]


def vary_names(behavior: Behavior, value: bytes) -> list[bytes]:
    """The members of a Vary value that matter at this edge, spelled as the origin spells them (§5.9).

    `*` counts only with MinTTL 0, and then alone.
    """
    members = [member for raw in value.split(b",") if (member := raw.strip(b" \t"))]
    if b"*" in members:
        if behavior.min_ttl == 0:
            return [b"*"]
        members = [m for m in members if m != b"*"]
    return [m for m in members if reaches_origin(behavior, m.lower())]
