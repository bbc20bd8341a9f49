"""WebSocket opening handshakes with the origin (`net/tunnel.py` carries what follows)."""

from __future__ import annotations

from time import perf_counter

from keyfront.edge.net.tunnel import Places
from keyfront.edge.origin.request import OriginRequest
from keyfront.edge.rules.origin_request import origin_scheme
from keyfront.edge.rules.routing import Plan
from keyfront.edge.rules.viewer_response import viewer_headers
from keyfront.edge.semantics.websocket import forwarded, handshake_key
from keyfront.edge.serving.configuration import ActiveConfiguration
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.origin_fetch import UNREACHABLE, Fetched, OriginFetcher
from keyfront.edge.serving.pass_through import PassThrough
from keyfront.edge.types.messages import Headers, Reply
from keyfront.errors import OriginFailure, clear_traceback
from keyfront.model.snapshot import Origin


class WebSocketOpener:
    """Relays opening handshakes to origins. A handshake has no cache key: it neither finds, fills nor joins
    anything."""

    def __init__(
        self,
        active: ActiveConfiguration,
        fetcher: OriginFetcher,
        pass_through: PassThrough,
        places: Places,
    ) -> None:
        self._active = active
        self._fetcher = fetcher
        self._pass_through = pass_through
        self._places = places

    async def respond(self, exchange: Exchange, plan: Plan) -> Reply:
        """The origin's response to an opening handshake. A 101 has `upstream`; when that ends, its place is released.

        :raises OriginFailure: if the origin failed, or switched to a protocol other than the one that the handshake
            requests.
        """
        exchange.trace.forwarded, exchange.trace.snapshot = "bypass", self._active.routing.number
        give_back = self._places.take()
        opened = False
        try:
            answer, sent, origin = await self._handshake(exchange, plan)
            upstream = answer.upstream
            if upstream is None:
                reply = await self._pass_through.relay(exchange, plan, answer)
                _explain_refusal(exchange, plan, reply, sent, origin)
                return reply
            upstream.on_end = give_back
            exchange.trace.origin_status = 101
            reply = Reply(101, viewer_headers(plan.route.behavior, answer.headers), x_cache="Miss")
            reply.upstream = upstream
            self._places.opened += 1
            opened = True
            return reply
        finally:
            if not opened:
                give_back()

    async def _handshake(self, exchange: Exchange, plan: Plan) -> Fetched:
        """Request the switch to WebSocket from the origin, bypassing any Origin Shield. The second origin of a group is
        contacted only if no connection to the first one can be made: a handshake that was sent is not sent again."""
        request = exchange.request
        origins = plan.route.origins
        for number, origin in enumerate(origins):
            headers = self._fetcher.headers(exchange, plan, number)
            scheme = origin_scheme(origin, request.scheme)
            target = origin.path + plan.target
            requested_at = perf_counter()
            try:
                if origin.kind == "s3":
                    answer = await self._fetcher.origins.fetch(
                        origin, OriginRequest(scheme, "GET", target, headers)
                    )
                else:
                    key = handshake_key(request.headers)
                    answer = await self._fetcher.origins.open_websocket(origin, scheme, target, headers, key)
            except OriginFailure as failure:
                if number == len(origins) - 1 or failure.kind not in UNREACHABLE:
                    raise
                clear_traceback(failure)
                continue
            exchange.timings.upstream = (
                answer.connect_time,
                perf_counter() - requested_at - answer.connect_time,
            )
            return Fetched(answer, headers, origin)
        raise AssertionError("a route has at least one origin")


def _explain_refusal(exchange: Exchange, plan: Plan, reply: Reply, sent: Headers, origin: Origin) -> None:
    """Record why the origin answered a handshake with a status other than 101, for the access record."""
    if origin.kind == "s3":
        reply.reason = "websocket_to_s3"
        exchange.explanation = "an S3 origin does not support WebSocket: it was sent an ordinary GET"
    elif not forwarded(sent):
        reply.reason = "websocket_headers_not_forwarded"
        exchange.explanation = (
            f"the behavior {plan.route.behavior.path_pattern} does not forward Sec-WebSocket-Key and "
            "Sec-WebSocket-Version: give it the AllViewer origin request policy, or one that lists them"
        )
    else:
        reply.reason = "websocket_declined"
        exchange.explanation = f"the origin answered {reply.status} to the handshake"
