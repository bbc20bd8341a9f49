"""One request on its way through the edge, and all that is known of it until its access record is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from keyfront.edge.cache.fill import Fill
    from keyfront.edge.origin.request import Interim
    from keyfront.edge.rules.decide import Refusal
    from keyfront.edge.rules.routing import Plan
    from keyfront.edge.types.messages import Headers, Request
    from keyfront.edge.types.stored import Stored
    from keyfront.signing.verify import Grant

SHIELD_HIT: Final = "OriginShieldHit"
"""The detailed result type of what came from an Origin Shield's cache (§6.2)."""


class Timings(msgspec.Struct, eq=False):
    """When things happened, in seconds of `time.perf_counter`, and how long they took, in seconds.

    `began` is when the request was complete, `verify` how long routing and the signature took, `first_byte` when the
    reply's head was written (0: it was not). `upstream` is how long it took to connect to the origin and then to get
    its answer, None if it was not asked.
    """

    began: float
    verify: float = 0.0
    first_byte: float = 0.0
    upstream: tuple[float, float] | None = None


class CacheTrace(msgspec.Struct, eq=False):
    """What the cache had to do with the reply: for Cache-Status (`respond.cache_status`) and for edges that ask this
    one as their Origin Shield.

    `forwarded` says why the origin was asked, in the words of RFC 9211 §2.2, and is empty if it was not. `fill` is the
    fill that the reply comes from, `joined` whether it had been started for another request. `origin_status` is the
    origin's status if the request passed the cache by. The stored response is fresh until `fresh_until` (epoch seconds,
    None if nothing is stored). `snapshot` is the number of the snapshot under which the origin was asked for it.
    """

    forwarded: str = ""
    fill: Fill | None = None
    joined: bool = False
    origin_status: int = 0
    fresh_until: float | None = None
    snapshot: int = 0


class Exchange(msgspec.Struct, eq=False):
    """A request, what was decided about it, and what became of it.

    `now` (epoch seconds) is the time by which everything about it is judged. Either `plan` is set, with the `grant`
    that its credentials give on a restricted behavior, or `refusal` is. A request with a plan may still be refused
    later.
    `key` is the complete cache key, None if the request passes the cache by; `hit` is the fresh stored response that
    can go out as it is. `sent` is how many bytes of the reply's body the viewer was sent, `received` how many bytes a
    WebSocket's viewer has sent after its handshake.
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
    """What the access record adds to the reason, of an origin that failed or a WebSocket that was not opened: a
    sentence for the operator, never a secret."""
    shield_headers: Headers | None = None
    """The complete headers for the origin, on an Origin Shield; None: they follow from the request and its behavior."""

    def logged_scheme(self, status: int) -> str:
        """CloudFront's `cs-protocol`: http or https, and ws or wss for a WebSocket that was opened (§6.1)."""
        scheme = self.request.scheme
        return scheme if status != 101 else "wss" if scheme == "https" else "ws"

    def without_range(self) -> Exchange:
        """The same exchange with a request for the whole."""
        headers = [h for h in self.request.headers if h[0] not in (b"range", b"if-range")]
        return msgspec.structs.replace(self, request=msgspec.structs.replace(self.request, headers=headers))
