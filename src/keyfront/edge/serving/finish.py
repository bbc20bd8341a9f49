"""The final headers of a reply: the response headers policy, Cache-Status, X-Keyfront-Reason, and Date."""

from __future__ import annotations

from random import random
from time import perf_counter

from keyfront.edge.rules import respond
from keyfront.edge.rules.response_headers import ResponseHeaders, timed
from keyfront.edge.rules.routing import Route
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.reason_header import ReasonHeader
from keyfront.edge.types.messages import Reply


class ReplyFinisher:
    """Completes the headers of replies.

    :param pop: the name of the edge location, for Server-Timing and Cache-Status.
    :param reason_header: tells listed viewers why a request failed.
    """

    def __init__(self, pop: str, reason_header: ReasonHeader, *, sends_cache_status: bool) -> None:
        self._pop = pop
        self._reason_header = reason_header
        self._sends_cache_status = sends_cache_status

    def finish(self, exchange: Exchange, reply: Reply, route: Route | None) -> Reply:
        """The reply with all headers except those that frame it or name this edge.

        :param route: the route whose response headers policy applies, if any.
        """
        if route is not None and route.response_headers is not None and reply.status != 101:
            self._apply_policy(exchange, reply, route.response_headers)
        if self._sends_cache_status and exchange.refusal is None:
            reply.headers.append((b"cache-status", self._cache_status(exchange, reply)))
        return self.finish_error(exchange, reply)

    def finish_error(self, exchange: Exchange, reply: Reply) -> Reply:
        """The reply to a request that no behavior applies to: its headers depend on no policy."""
        self._reason_header.add(exchange.request, reply)
        return respond.dated(reply, exchange.now)

    def _apply_policy(self, exchange: Exchange, reply: Reply, policy: ResponseHeaders) -> None:
        """Apply the behavior's response headers policy, with Server-Timing if the policy enables it."""
        reply.headers = policy.applied(exchange.request, reply.status, reply.headers)
        if policy.timing and policy.sends_server_timing(exchange.request, 100 * random()):
            result = reply.x_cache
            if result == "Error":
                result = "Miss" if exchange.trace.forwarded else "Hit" if exchange.refusal is None else ""
            reply.headers = timed(
                reply.headers,
                result,
                pop=self._pop,
                request_id=exchange.request_id,
                taken=perf_counter() - exchange.timings.began,
                upstream=exchange.timings.upstream if result != "Hit" else None,
            )

    def _cache_status(self, exchange: Exchange, reply: Reply) -> bytes:
        trace = exchange.trace
        fill = trace.fill
        return respond.cache_status(
            self._pop,
            trace.forwarded,
            trace.origin_status if fill is None else fill.status,
            None if trace.fresh_until is None else trace.fresh_until - exchange.now,
            stored=fill is not None and fill.will_store,
            collapsed=trace.joined,
            detail=reply.reason,
        )
