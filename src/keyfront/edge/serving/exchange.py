"""One request on its way through the edge, and everything known about it until its access record is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from keyfront.edge.cache.fill import Fill
    from keyfront.edge.origin.request import Interim
    from keyfront.edge.rules.decide import Refusal
    from keyfront.edge.rules.routing import Plan
    from keyfront.edge.types.messages import Headers, Reply, Request
    from keyfront.edge.types.stored import Stored
    from keyfront.signing.verify import Grant

SHIELD_HIT: Final = "OriginShieldHit"
"""The detailed result type of a response from an Origin Shield's cache (§6.2)."""


class Timings(msgspec.Struct, eq=False):
    """When things happened, as values of `time.perf_counter`, and how long they took; all in seconds.

    `began` is when the request was complete, `verify` how long routing and signature check took, `first_byte` when the
    reply's head was written (0: it was not). `upstream` is the time to connect to the origin and then to get its
    response, None if the origin was not contacted.
    """

    began: float
    verify: float = 0.0
    first_byte: float = 0.0
    upstream: tuple[float, float] | None = None


class CacheTrace(msgspec.Struct, eq=False):
    """The cache's part in the reply: for Cache-Status (`respond.cache_status`) and for edges that use this one as their
    Origin Shield.

    `forwarded` is the reason for contacting the origin, in the terms of RFC 9211 §2.2; empty if it was not contacted.
    `fill` is the fill that the reply comes from, `joined` whether it was started for another request. `origin_status`
    is the origin's status if the request bypassed the cache. The stored response is fresh until `fresh_until` (epoch
    seconds, None if nothing is stored). `snapshot` is the number of the snapshot under which it was requested from the
    origin.
    """

    forwarded: str = ""
    fill: Fill | None = None
    joined: bool = False
    origin_status: int = 0
    fresh_until: float | None = None
    snapshot: int = 0


class Exchange(msgspec.Struct, eq=False):
    """A request, the decisions about it, and its outcome.

    `now` (epoch seconds) is the time by which everything about it is judged. Either `plan` is set, together with the
    `grant` that its credentials give on a restricted behavior, or `refusal` is. A request with a plan may still be
    refused later.

    `key` is the complete cache key, None if the request bypasses the cache. `hit` is the fresh stored response that can
    be sent unchanged. `sent` is the number of body bytes sent to the viewer; `received` is the number of
    body bytes that the viewer has sent, or of bytes after the handshake of its WebSocket.
    """

    request: Request
    request_id: str
    now: float
    timings: Timings
    plan: Plan | None = None
    grant: Grant | None = None
    refusal: Refusal | None = None
    key: str | None = None
    hit: Stored | None = None
    trace: CacheTrace = msgspec.field(default_factory=CacheTrace)
    sent: int = 0
    received: int = 0
    interim: Interim | None = None
    """Sends an interim answer (1xx) to the viewer. A shell sets it for as long as the viewer waits for the reply."""
    explanation: str = ""
    """Additional detail for the access record's reason, about an origin that failed or a WebSocket that was not opened:
    a sentence for the operator, never a secret."""
    shield_headers: Headers | None = None
    """The complete headers for the origin, on an Origin Shield. None: they are derived from the request and its
    behavior."""
    health_check: bool = False
    """Whether a load balancer asks about this worker: neither `plan` nor `refusal` is set, and there is no access
    record (`health_check.py`)."""
    reply: Reply | None = None
    """What was sent, unless it was `hit`; for the standard log."""
    head_bytes: int = 0
    """Bytes of the response's head, as sent."""
    challenge: bytes | None = None
    """The answer to an ACME challenge (`acme_challenge.py`); neither `plan` nor `refusal` is set then."""

    def logged_scheme(self, status: int) -> str:
        """CloudFront's `cs-protocol`: http or https, and ws or wss for a WebSocket that was opened (§6.1)."""
        scheme = self.request.scheme
        return scheme if status != 101 else "wss" if scheme == "https" else "ws"

    def without_range(self) -> Exchange:
        """The same exchange with a request for the whole body."""
        headers = [h for h in self.request.headers if h[0] not in (b"range", b"if-range")]
        return msgspec.structs.replace(self, request=msgspec.structs.replace(self.request, headers=headers))
