"""Origin Shield, from above: an edge that other edges ask in the place of origins (`shield` is their side).

A child has routed its request and let its viewer in; nothing of that is done again. It asks on a socket of its own, to
which no viewer comes, and what it says is sealed. From the seal on the request goes an edge's ordinary way through
cache, flights, slices and origin, with three differences: the headers for the origin are the child's, only the origin's
secrets and this edge's Via being added; the body is kept as the origin sent it, since the child compresses; and the
origin is asked by this edge itself, so there is no way round in a circle.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final

import msgspec

from keyfront.edge.origin.shield_protocol import FIELD, SKEW, Secrets, asking, carried, telling
from keyfront.edge.rules import error_pages, respond
from keyfront.edge.rules.cache_key import query_part
from keyfront.edge.rules.decide import Refusal
from keyfront.edge.rules.routing import Plan, Route
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.types.messages import Headers, Reply, Request
from keyfront.edge.types.shield import ShieldAnswer, ShieldQuery
from keyfront.errors import OriginFailure, clear_traceback
from keyfront.model.snapshot import Origin

_MISDIRECTED: Final = 421


class ShieldServer:
    """The parent's side of an edge, for requests that a listener of the scheme `SHIELD` has heard."""

    def __init__(self, edge: Edge, secrets: Secrets) -> None:
        self._edge = edge
        self._secrets = secrets
        # Not a distribution that is passed (§3.3): what counts those looks for CloudFront's mark.
        self._via = edge.via.replace("(CloudFront)", "(Origin Shield)").encode()

    def visit(self, request: Request) -> Exchange:
        edge = self._edge
        visit = Exchange(request, edge.clock(), perf_counter(), edge.request_id())
        asked = self._asked(request)
        if asked is None:
            visit.refusal = Refusal("not_an_edge")
            return visit
        visit.asked = asked
        if asked.distribution:
            visit.told = ShieldAnswer(refused=self._prepare(visit, asked))
        return visit

    def _asked(self, request: Request) -> ShieldQuery | None:
        """What the child says of its request, None if it is nobody with the secret."""
        values = [value for name, value in request.headers if name == FIELD]
        if len(values) != 1:
            return None
        context = asking(request.method, request.target, request.headers)
        payload = self._secrets.opened(context, values[0])
        if payload is None:
            return None
        try:
            return msgspec.msgpack.decode(payload, type=ShieldQuery)
        except msgspec.MsgspecError:
            return None  # of a later version

    def _prepare(self, visit: Exchange, asked: ShieldQuery) -> str:
        """Find out what is asked for, and make the visit that of it. Returns why not, if it cannot be."""
        edge, request = self._edge, visit.request
        number = edge.routing.number
        off = int(visit.now) - asked.time
        if abs(off) > SKEW:
            return f"its clock is {abs(off)} s {'ahead' if off > 0 else 'behind'}"
        site = edge.routing.sites.get(asked.distribution)
        if site is None:
            return f"in its snapshot {number} there is no distribution {asked.distribution}"
        if site.digest != asked.digest:
            return f"in its snapshot {number} distribution {asked.distribution} is another"
        rule = site.rule(asked.behavior)
        if rule is None or not 0 <= asked.origin < len(rule.origins):
            return "it knows no such behavior"
        route = Route(site, rule)
        route.behavior = msgspec.structs.replace(rule.behavior, compress=False)
        route.origins = (rule.origins[asked.origin],)
        route.failover = frozenset()
        route.keyring = None
        route.response_headers = None
        path, _, query = request.target.partition("?")
        key = None
        if asked.cached:
            key = asked.distribution + path
            if request.method == "OPTIONS":
                key = "OPTIONS " + key
        headers = [header for header in carried(request.headers) if header[0] != b"host"]
        visit.request = Request(
            request.method,
            request.target,
            request.host,
            headers,
            asked.scheme,
            request.client_ip,
            request.client_port,
            body=request.body,
            length=request.length,
            wire_bytes=request.wire_bytes,
        )
        visit.given = self._for_origin(asked, headers, route.origins[0])
        visit.plan = Plan(route, key, request.target, query, None)
        if key is not None:
            # No other key ends like this: see `forward.key_suffix`.
            variant = f"\nx{asked.variant}" if asked.variant else ""
            visit.key = f"{key}{query_part(route.behavior, query)}{variant}\no{asked.origin}"
        return ""

    def _for_origin(self, asked: ShieldQuery, headers: Headers, origin: Origin) -> Headers:
        passed = [value for name, value in headers if name == b"via"]
        given = [(b"host", asked.host.encode("latin-1"))]
        given += [header for header in headers if header[0] != b"via"]
        given.append((b"via", b", ".join([*passed, self._via])))
        given += [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in origin.custom_headers
        ]
        return given

    async def serve(self, visit: Exchange, asked: ShieldQuery) -> Reply:
        """The answer for a child."""
        edge, plan = self._edge, visit.plan
        told = visit.told
        if plan is None:
            # Told why nothing was done; or it was only asked whether anybody is there.
            reply = Reply(_MISDIRECTED if told.refused else 204, [], x_cache="Error", reason=told.refused)
        else:
            try:
                reply = await edge.obtain(visit, plan)
                told = ShieldAnswer(
                    visit.snapshot,
                    None if visit.fresh_until is None else visit.fresh_until - edge.clock(),
                    reply.x_cache == "Hit",
                )
            except OriginFailure as failure:
                clear_traceback(failure)
                left = edge.failures.left(visit.key, edge.clock()) if visit.key is not None else 0.0
                reply = error_pages.origin_failed(failure, visit.request_id)
                reply.body, reply.length = b"", 0
                told = ShieldAnswer(failure=(failure.kind, failure.status, failure.detail, left))
        seal = self._secrets.sealed(telling(asked.nonce, reply.status), told)
        reply.headers.append((FIELD, seal))
        return respond.dated(reply, visit.now)
