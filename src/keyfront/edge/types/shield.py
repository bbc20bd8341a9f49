"""The messages between an edge and its Origin Shield."""

from __future__ import annotations

from typing import Final

import msgspec

SHIELD: Final = "shield"
"""The scheme of a listener whose clients are other edges, not viewers; also their `scheme` in the access log."""


class ShieldQuery(msgspec.Struct, frozen=True, array_like=True):
    """A child edge's query. `time` is epoch seconds. `digest` is the digest of the distribution as the child knows it;
    `behavior` and `origin` are indexes into the distribution's behaviors and the behavior's origins. `host` is the Host
    for the origin, `scheme` the viewer's scheme. `variant` stands for what the cache key contains beyond path and
    query; `cached` is false if the request bypasses all caches. Without a distribution, the query only checks that a
    shield is present."""

    time: int
    nonce: bytes
    distribution: str = ""
    digest: bytes = b""
    behavior: int = 0
    origin: int = 0
    host: str = ""
    scheme: str = "http"
    variant: str = ""
    cached: bool = False


class ShieldAnswer(msgspec.Struct, frozen=True, array_like=True):
    """A shield's description of its response. `snapshot` is the number of the snapshot under which the origin was
    contacted. `fresh` is the number of seconds for which the response stays fresh, None if it is not stored. `hit` says
    that it came from the shield's cache. `failure` is a failure of the origin: kind, status, detail, and the seconds
    for which the shield will not contact the origin again. `refused` says why the shield did not serve the request."""

    snapshot: int = 0
    fresh: float | None = None
    hit: bool = False
    failure: tuple[str, int, str, float] | None = None
    refused: str = ""
