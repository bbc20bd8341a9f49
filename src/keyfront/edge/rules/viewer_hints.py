"""CloudFront's own request headers about the viewer: country, device, address."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from keyfront.edge.rules.selection import listed_names
from keyfront.edge.semantics.fields import LONGEST_CACHED
from keyfront.edge.types.messages import Request
from keyfront.model.snapshot import Behavior

Country = Callable[[str], str]
"""The ISO code of the country of an address, or "" if unknown."""


DEVICE_HEADERS: Final = frozenset(
    {
        b"cloudfront-is-android-viewer",
        b"cloudfront-is-desktop-viewer",
        b"cloudfront-is-ios-viewer",
        b"cloudfront-is-mobile-viewer",
        b"cloudfront-is-smarttv-viewer",
        b"cloudfront-is-tablet-viewer",
    }
)


def hint_value(name: bytes, request: Request, country: Country) -> bytes | None:
    """The value of a CloudFront-* header (§5.15), or None if the edge does not know it."""
    if name in DEVICE_HEADERS:
        return b"true" if name in devices(request.header(b"user-agent") or b"") else b"false"
    if name == b"cloudfront-viewer-country":
        return country(request.client_ip).encode("latin-1") or None
    if name == b"cloudfront-forwarded-proto":
        return request.scheme.encode("latin-1")
    if name == b"cloudfront-viewer-address":
        return f"{request.client_ip}:{request.client_port}".encode("latin-1")
    if name == b"cloudfront-viewer-http-version":
        version = request.version
        return (version if "." in version else version + ".0").encode("latin-1")
    if name == b"cloudfront-viewer-header-count":
        return b"%d" % len(request.headers)
    if name == b"cloudfront-viewer-header-order":
        return b":".join([n for n, _ in request.headers])[:7680]
    return None


def devices(user_agent: bytes) -> frozenset[bytes]:
    """The CloudFront-Is-*-Viewer headers that are true for this User-Agent: a guess from common substrings in its
    first 1,024 bytes."""
    return _devices(user_agent[:LONGEST_CACHED])


@lru_cache(maxsize=128)
def _devices(user_agent: bytes) -> frozenset[bytes]:
    agent = user_agent.lower()
    kinds = set()
    android = b"android" in agent
    if android:
        kinds.add(b"cloudfront-is-android-viewer")
    if b"iphone" in agent or b"ipad" in agent or b"ipod" in agent:
        kinds.add(b"cloudfront-is-ios-viewer")
    television = any(mark in agent for mark in _TELEVISION)
    tablet = b"ipad" in agent or b"tablet" in agent or b"kindle" in agent or b"silk/" in agent
    tablet = tablet or (android and b"mobile" not in agent)
    if television:
        kinds.add(b"cloudfront-is-smarttv-viewer")
    elif tablet:
        kinds.add(b"cloudfront-is-tablet-viewer")
    elif b"mobi" in agent or b"iphone" in agent or b"ipod" in agent:
        kinds.add(b"cloudfront-is-mobile-viewer")
    else:
        kinds.add(b"cloudfront-is-desktop-viewer")
    return frozenset(kinds)


_TELEVISION: Final = (
    b"smart-tv",
    b"smarttv",
    b"googletv",
    b"appletv",
    b"apple tv",
    b"hbbtv",
    b"netcast",
    b"web0s",
    b"webos.tv",
    b"bravia",
    b"roku",
    b"aftb",
    b"aftm",
    b"afts",
    b"aftt",
    b"crkey",
)


def no_country(address: str) -> str:
    return ""


def device_headers(behavior: Behavior) -> tuple[bytes, ...]:
    """The CloudFront-Is-*-Viewer headers that this behavior sends to the origin, sorted by name."""
    return tuple(sorted(DEVICE_HEADERS & listed_names(behavior.key_headers, behavior.forward_headers)))
