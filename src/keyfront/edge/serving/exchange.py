"""A request with all that the edge learns and decides about it until the access record."""

from __future__ import annotations

from copy import copy

from keyfront.edge.cache.fill import Fill
from keyfront.edge.origin.http1 import Interim
from keyfront.edge.rules.decide import Refusal
from keyfront.edge.rules.routing import Plan
from keyfront.edge.types.messages import Headers, Request
from keyfront.edge.types.shield import ShieldAnswer, ShieldQuery
from keyfront.edge.types.stored import Stored
from keyfront.signing.verify import Grant


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
    # What another edge asks, is told, and asks the origin with (`parent`).
    asked: ShieldQuery | None = None
    told = ShieldAnswer()
    given: Headers | None = None
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

    def without_range(self) -> Exchange:
        """The same visit of a request for everything."""
        visit = copy(self)
        visit.request = copy(self.request)
        visit.request.headers = [h for h in self.request.headers if h[0] not in (b"range", b"if-range")]
        return visit
