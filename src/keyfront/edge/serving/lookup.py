"""The lookup: a stored response, a fill in progress, or a request to the origin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from copy import copy

from keyfront.edge.types.messages import Headers, OriginReply
from keyfront.edge.types.stored import Meta

# The detailed result type of what came from an Origin Shield's cache (§6.2).
SHELTERED = "OriginShieldHit"


def with_headers(meta: Meta, headers: Headers | None) -> Meta:
    """The same with other headers, if there are any."""
    if not headers:
        return meta
    other = copy(meta)
    other.headers = tuple([h for h in headers if h[0] != b"age"])
    return other


async def closing(answer: OriginReply) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.body:
            yield chunk
    finally:
        await answer.aclose()
