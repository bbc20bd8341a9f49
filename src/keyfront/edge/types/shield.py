"""The messages between an edge and its Origin Shield."""

from __future__ import annotations

from typing import Final

import msgspec

SHIELD: Final = "shield"
"""The scheme of a listener whose clients are other edges, not viewers; also their `scheme` in the access log."""


class ShieldQuery(msgspec.Struct, frozen=True, array_like=True):
    """What a child edge says of its request. `time` is epoch seconds. `digest` is that of the distribution as the child
    knows it; `behavior` and `origin` are numbers in the distribution and in the behavior's origins. `host` is the Host
    for the origin, `scheme` the viewer's. `variant` stands for what the cache key holds beyond path and query; `cached`
    is false if the request passes all caches by. Without a distribution it only asks whether a shield is there."""

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
    """What a shield says of its answer. `snapshot` is the number of the snapshot under which the origin was asked;
    `fresh` the seconds for which the answer stays fresh, None if it is not stored; `hit` says that it came from the
    shield's cache. `failure` is a failure of the origin: kind, status, detail, and the seconds for which the shield
    will not ask again. `refused` says why the shield did not serve the request."""

    snapshot: int = 0
    fresh: float | None = None
    hit: bool = False
    failure: tuple[str, int, str, float] | None = None
    refused: str = ""
