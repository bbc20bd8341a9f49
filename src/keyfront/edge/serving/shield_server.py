"""The server side of Origin Shield: an edge that other edges contact in place of their origins
(`origin/shield_client.py` is the client side).

A child edge has routed its viewer's request and checked its signature; none of that is repeated here. It connects to a
separate listener, which no viewer can reach, and seals each request with a shared secret. A request with a valid seal
takes an edge's ordinary path through cache, fills, slices and origin, with three differences: the headers for the
origin are the child's, to which only the origin's custom headers and this edge's Via are added; the body is stored
uncompressed, since the child compresses it; and this edge contacts the origin itself, never another shield, so requests
cannot loop.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final

import msgspec

from keyfront.edge.origin.shield_protocol import FIELD, SKEW, Secrets, carried, sealed_answer, sealed_query
from keyfront.edge.rules import error_pages, respond
from keyfront.edge.rules.cache_key import base_key, query_part, shield_key
from keyfront.edge.rules.decide import Refusal
from keyfront.edge.rules.routing import Plan, Route
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.exchange import Exchange, Timings
from keyfront.edge.types.messages import Headers, Reply, Request
from keyfront.edge.types.shield import SHIELD, ShieldAnswer, ShieldQuery
from keyfront.errors import OriginFailure, clear_traceback
from keyfront.model.snapshot import Origin

_MISDIRECTED: Final = 421


class ShieldExchange(Exchange, kw_only=True, eq=False):
    """An exchange with a child edge. `query` is the child's query; `rejection` says why this edge cannot serve it,
    empty if it can. A query without a distribution only probes whether the shield is up: then `plan` is None."""

    query: ShieldQuery
    rejection: str = ""

    def logged_scheme(self, status: int) -> str:
        return SHIELD


class _Rejected(Exception):
    """The message says why a child's query cannot be served; the child logs it and contacts the origin itself."""


class ShieldServer:
    """Handles the requests of a listener of the scheme `SHIELD` (see `Handler`)."""

    def __init__(self, edge: Edge, secrets: Secrets) -> None:
        self._edge = edge
        self._secrets = secrets
        # A shield is not an additional distribution (§3.3), so its Via must not count as one: see `chained_too_long`.
        self._via = edge.via.replace("(CloudFront)", "(Origin Shield)").encode()

    def lookup(self, request: Request) -> Exchange:
        edge = self._edge
        now, timings, request_id = edge.clock(), Timings(perf_counter()), edge.request_id()
        query = self._query(request)
        if query is None:
            return Exchange(request, request_id, now, timings, refusal=Refusal("not_an_edge"))
        exchange = ShieldExchange(request, request_id, now, timings, query=query)
        if query.distribution:
            try:
                self._route(exchange)
            except _Rejected as rejected:
                exchange.rejection = str(rejected)
        return exchange

    def _query(self, request: Request) -> ShieldQuery | None:
        """The query that the child has sealed into its request; None without a valid seal."""
        values = [value for name, value in request.headers if name == FIELD]
        if len(values) != 1:
            return None
        context = sealed_query(request.method, request.target, request.headers)
        payload = self._secrets.opened(context, values[0])
        if payload is None:
            return None
        try:
            return msgspec.msgpack.decode(payload, type=ShieldQuery)
        except msgspec.MsgspecError:
            return None  # sent by a later version

    def _route(self, exchange: ShieldExchange) -> None:
        """Set the viewer's request on the exchange, with the plan and the cache key that it has at the child.

        :raises _Rejected: if this edge does not know the child's distribution, or knows another version of it.
        """
        query, request = exchange.query, exchange.request
        route = self._child_route(exchange)
        path, _, query_string = request.target.partition("?")
        key = None
        if query.cached:
            key = base_key(query.distribution, path, request.method)
        headers = [header for header in carried(request.headers) if header[0] != b"host"]
        exchange.request = Request(
            request.method,
            request.target,
            request.host,
            headers,
            query.scheme,
            request.client_ip,
            request.client_port,
            body=request.body,
            length=request.length,
            wire_bytes=request.wire_bytes,
        )
        exchange.shield_headers = self._for_origin(query, headers, route.origins[0])
        exchange.plan = Plan(route, key, request.target, query_string, None)
        if key is not None:
            part = query_part(route.behavior, query_string)
            exchange.key = shield_key(key, part, query.variant, query.origin)

    def _child_route(self, exchange: ShieldExchange) -> Route:
        """The route that the child has chosen, limited to what the shield serves: one origin, no signatures, no
        compression, no response headers policy.

        :raises _Rejected: see `_route`.
        """
        edge, query = self._edge, exchange.query
        number = edge.routing.number
        off = int(exchange.now) - query.time
        if abs(off) > SKEW:
            raise _Rejected(f"its clock is {abs(off)} s {'ahead' if off > 0 else 'behind'}")
        site = edge.routing.sites.get(query.distribution)
        if site is None:
            raise _Rejected(f"its snapshot {number} has no distribution {query.distribution}")
        if site.digest != query.digest:
            raise _Rejected(f"its snapshot {number} has another version of distribution {query.distribution}")
        rule = site.rule(query.behavior)
        if rule is None or not 0 <= query.origin < len(rule.origins):
            raise _Rejected("it does not know this behavior or origin")
        route = Route(site, rule)
        route.behavior = msgspec.structs.replace(rule.behavior, compress=False)
        route.origins = (rule.origins[query.origin],)
        route.failover = frozenset()
        route.keyring = None
        route.response_headers = None
        return route

    def _for_origin(self, query: ShieldQuery, headers: Headers, origin: Origin) -> Headers:
        """The complete headers for the origin."""
        vias = [value for name, value in headers if name == b"via"]
        made = [(b"host", query.host.encode("latin-1"))]
        made += [header for header in headers if header[0] != b"via"]
        made.append((b"via", b", ".join([*vias, self._via])))
        made += [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in origin.custom_headers
        ]
        return made

    async def serve(self, exchange: Exchange) -> Reply:
        """The reply for the child, sealed."""
        if not isinstance(exchange, ShieldExchange):
            return await self._edge.serve(exchange)  # rejected: no valid seal
        edge, plan = self._edge, exchange.plan
        answer = ShieldAnswer(refused=exchange.rejection)
        if exchange.rejection:
            reply = Reply(_MISDIRECTED, [], x_cache="Error", reason=exchange.rejection)
        elif plan is None:
            reply = Reply(204, [], x_cache="Error")
        else:
            try:
                reply = await edge.cache_lookup.respond_from_cache_or_origin(exchange, plan)
                answer = ShieldAnswer(
                    exchange.trace.snapshot,
                    None if exchange.trace.fresh_until is None else exchange.trace.fresh_until - edge.clock(),
                    reply.x_cache == "Hit",
                )
            except OriginFailure as failure:
                clear_traceback(failure)
                left = 0.0
                if exchange.key is not None:
                    left = edge.fetcher.failures.seconds_left(exchange.key, edge.clock())
                reply = error_pages.origin_failed(failure, exchange.request_id)
                reply.body, reply.length = b"", 0
                answer = ShieldAnswer(failure=(failure.kind, failure.status, failure.detail, left))
        seal = self._secrets.sealed(sealed_answer(exchange.query.nonce, reply.status), answer)
        reply.headers.append((FIELD, seal))
        return respond.dated(reply, exchange.now)

    def log_access(
        self, exchange: Exchange, status: int, sent: int, result: str, detail: str, reason: str = ""
    ) -> None:
        self._edge.log_access(exchange, status, sent, result, detail, reason)
