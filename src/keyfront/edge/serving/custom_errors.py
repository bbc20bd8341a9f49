"""Custom error responses."""

from __future__ import annotations

from keyfront.edge.semantics.fields import CONDITIONAL
from keyfront.edge.types.messages import Reply

# What a request for another page than the one asked for must not say of itself.
OF_THIS_REQUEST = CONDITIONAL | {b"content-encoding", b"content-language", b"content-type", b"content-md5"}


async def close_body(reply: Reply) -> None:
    close = getattr(reply.body, "aclose", None)
    if close is not None:
        await close()
