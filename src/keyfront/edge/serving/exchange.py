"""A request with all that the edge learns and decides about it until the access record."""

from __future__ import annotations

from copy import copy
from typing import Final

from keyfront.edge.cache.fill import Fill
from keyfront.edge.origin.http1 import Interim
from keyfront.edge.rules.decide import Refusal
from keyfront.edge.rules.routing import Plan
from keyfront.edge.types.messages import Headers, Request
from keyfront.edge.types.stored import Stored
from keyfront.signing.verify import Grant

SHIELD_HIT: Final = "OriginShieldHit"
"""The detailed result type of what came from an Origin Shield's cache (§6.2)."""


class Exchange:
    """A request on its way through the edge, and what is known of it so far. What is not set yet is the class's."""

    verify_s = 0.0
    first_byte = 0.0
    sent = 0
    received = 0
    """Bytes that a WebSocket's viewer has sent after its handshake."""
    plan: Plan | None = None
    grant: Grant | None = None
    refusal: Refusal | None = None
    key: str | None = None
    hit: Stored | None = None
    # For Cache-Status (`respond.cache_status`).
    forwarded = ""
    answered = 0
    flight: Fill | None = None
    joined = False
    fresh_until: float | None = None
    upstream: tuple[float, float] | None = None
    """Seconds until the origin was connected to, and from then to its answer; for Server-Timing."""
    snapshot = 0
    """The number of the snapshot that was obeyed when the origin was asked for what is answered."""
    shield_headers: Headers | None = None
    """The complete headers for the origin, on an Origin Shield; None: they follow from the request and its behavior."""
    interim: Interim | None = None
    """Sends an interim answer (1xx) to the viewer. A shell sets it for as long as the viewer waits for the answer."""
    explanation = ""
    """What the access record adds to the reason, of an origin that failed or a WebSocket that was not opened: a
    sentence for the operator, never a secret."""

    def __init__(self, request: Request, now: float, began: float, request_id: str) -> None:
        self.request = request
        self.now = now
        self.began = began
        self.request_id = request_id

    def logged_scheme(self, status: int) -> str:
        """CloudFront's `cs-protocol`: http or https, and ws or wss for a WebSocket that was opened (§6.1)."""
        scheme = self.request.scheme
        return scheme if status != 101 else "wss" if scheme == "https" else "ws"

    def without_range(self) -> Exchange:
        """The same exchange of a request for everything."""
        exchange = copy(self)
        exchange.request = copy(self.request)
        exchange.request.headers = [h for h in self.request.headers if h[0] not in (b"range", b"if-range")]
        return exchange
