"""What an Origin Shield is asked and what it answers."""

from __future__ import annotations

from typing import Final

import msgspec

SHIELD: Final = "shield"
"""The scheme of a listener whose clients are other edges, not viewers; also their `scheme` in the access log."""


class ShieldQuery(msgspec.Struct, frozen=True, array_like=True):
    """What a child says of a request. `digest` is of the distribution as the child knows it, `behavior` and `origin`
    are numbers in it and in the behavior's origins; `host` is the origin's Host, `scheme` the viewer's. `variant` tells
    apart what the cache key tells apart beside path and query; `cached` is false for what passes all caches by.
    Without a distribution it asks only whether somebody is there."""

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
    """What a parent says of its answer. `snapshot` is the number of the one that was obeyed when the origin was asked;
    `fresh` for how many seconds more it is fresh, None if it is not stored; `hit` that nobody had to be asked.
    `failure` is one of the origin's (kind, status, detail, and for how many seconds nobody asks again). `refused` says
    why the parent did nothing."""

    snapshot: int = 0
    fresh: float | None = None
    hit: bool = False
    failure: tuple[str, int, str, float] | None = None
    refused: str = ""
