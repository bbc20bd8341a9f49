"""The interface through which a listener has its requests answered."""

from __future__ import annotations

from typing import Protocol

from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.types.messages import Reply, Request


class Handler(Protocol):
    """Answers requests: an `Edge` those of viewers, a `ShieldServer` those of other edges.

    A shell calls `lookup` for each request. If the result contains a fresh stored response that can be sent unchanged
    (`Exchange.hit`), the shell writes it immediately, without a coroutine; otherwise it awaits `serve` for the reply.
    When the reply has been sent, or the client has left, it calls `log_access`.
    """

    def lookup(self, request: Request) -> Exchange: ...

    async def serve(self, exchange: Exchange) -> Reply: ...

    def log_access(
        self, exchange: Exchange, status: int, sent: int, result: str, detail: str, reason: str = ""
    ) -> None: ...
