"""Requests to the origin: origin groups, Origin Shield, and negative caching of failures.

An origin that has failed for a key is not contacted again for that key for ErrorCachingMinTTL (§5.6): requests for the
key fail the same way, in all workers of the machine. A failure that a viewer may have caused, by a HEAD or a Range that
is not in the cache key, is not cached; otherwise one viewer could lock out all others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from keyfront.edge.cache.shared_arena import Arena, Failure
from keyfront.edge.limits.origins import OriginLimits
from keyfront.edge.limits.reports import Reached
from keyfront.edge.logs.counters import Counts
from keyfront.edge.origin.access import OriginAccess
from keyfront.edge.origin.client import Origins
from keyfront.edge.origin.egress import Egress
from keyfront.edge.origin.request import Interim, OriginRequest
from keyfront.edge.origin.shield_client import RelayedFailure, ReplayableBody, Shields
from keyfront.edge.rules import freshness
from keyfront.edge.rules.invalidation import cache_tags
from keyfront.edge.rules.origin_request import origin_headers, origin_scheme
from keyfront.edge.rules.routing import Plan, Site
from keyfront.edge.rules.viewer_response import interim_headers
from keyfront.edge.semantics.fields import CONDITIONAL
from keyfront.edge.serving.configuration import ActiveConfiguration
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.types.messages import Headers, OriginReply
from keyfront.edge.types.ttl_map import TtlMap
from keyfront.errors import OriginFailure, clear_traceback
from keyfront.model.snapshot import Origin
from keyfront.signing.tables import Budget

FAILED_OVER: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods whose requests go to an origin group's second origin if the first one fails (§5.14)."""

UNREACHABLE: Final = frozenset({"OriginConnectError", "OriginDnsError"})
"""Failures that no request can cause."""
UNSENT: Final = "OriginWriteError"
"""A failure that the request itself may have caused."""


def error_min_ttl(site: Site, status: int) -> int:
    """ErrorCachingMinTTL for this status, in seconds."""
    rule = site.error_responses.get(status)
    return freshness.ERROR_MIN_TTL if rule is None else rule.min_ttl


class NegativeCache:
    """Failures of origins by cache key, each cached for some seconds and shared with the other workers of the
    machine."""

    def __init__(self, active: ActiveConfiguration, tables: Budget, arena: Arena | None) -> None:
        self._active = active
        self._arena = arena
        self._failures: TtlMap[tuple[str, int, str, str]] = TtlMap(budget=tables)

    def __len__(self) -> int:
        """The number of failures that this worker has encountered or received and not dropped yet."""
        return len(self._failures)

    def get(self, key: str, now: float) -> OriginFailure | None:
        """A new exception that describes how the origin failed for this key, or None if the origin may be contacted."""
        found = self._failures.get(key, now)
        if found is None and self._arena is not None:
            shared = self._arena.failure(key, now, self._active.routing.number)
            if shared is not None:
                found = (shared.kind, shared.status, shared.detail, shared.reason)
                self._failures.put(key, found, shared.until)
        return None if found is None else OriginFailure(*found)

    def put(self, key: str, failure: OriginFailure, until: float) -> None:
        """Cache a failure until `until` (epoch seconds)."""
        found = (failure.kind, failure.status, failure.detail, failure.reason)
        self._failures.put(key, found, until)
        if self._arena is not None:
            self._arena.put_failure(key, Failure(*found, until, self._active.routing.number))

    def seconds_left(self, key: str, now: float) -> float:
        """Seconds until the origin may be contacted for this key again; 0 if it may be now."""
        return self._failures.left(key, now)

    def clear(self) -> None:
        """Drop this worker's failures. Those of other workers are valid under their own snapshot only."""
        self._failures.clear()


class Fetched(NamedTuple):
    """An origin's response, the headers of the request, and which origin it was."""

    answer: OriginReply
    sent: Headers
    origin: Origin


class OriginFetcher:
    """Sends requests to origins, or to the Origin Shields in front of them.

    :param via: the name of this edge in Via, as a complete value of that header.
    :param country: returns the country code of an address, empty if unknown.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        active: ActiveConfiguration,
        failures: NegativeCache,
        reached: Reached,
        clock: Callable[[], float],
        via: str,
        country: Callable[[str], str],
    ) -> None:
        self.counts = Counts()
        """Where responses and failures of origins are counted."""
        self._active = active
        self._clock = clock
        self._via = via
        self._country = country
        self.failures = failures
        credentials = Path(settings.origin_credentials) if settings.origin_credentials else None
        self.access = OriginAccess(credentials, os.environ)
        self.origins = Origins(
            ca_file=settings.ca_file,
            access=self.access,
            clock=clock,
            egress=Egress(settings.egress),
            limits=settings.origins,
            reached=reached,
        )
        self.shields: Shields | None = None
        if settings.shields:
            # The operator has configured the shields' addresses, so the limits and the egress rules for origins do not
            # apply.
            unlimited = OriginLimits(connections=0, failures=0)
            shield_origins = Origins(ca_file=settings.ca_file, clock=clock, limits=unlimited)
            self.shields = Shields(settings.shields, settings.shield_secret, shield_origins, clock)

    async def aclose(self) -> None:
        if self.shields is not None:
            await self.shields.aclose()
        await self.origins.aclose()

    async def fetch(
        self,
        exchange: Exchange,
        plan: Plan,
        method: str,
        *,
        fill: bool = False,
        extra: Headers | None = None,
    ) -> Fetched:
        """The origin's response. For an origin group, it is the second origin's if the first one fails or responds with
        a status that the group fails over for (§5.14).

        :param fill: whether the response fills the cache. The request is then made as the cache needs it: without the
            viewer's own conditions and ranges.
        :param extra: headers that replace those.
        :raises OriginFailure: if no origin responded. It is cached where that is correct.
        """
        request = exchange.request
        origins, distribution = plan.route.origins, plan.route.site.distribution.id
        # A body is read from the viewer only once, so it can be sent to one origin only.
        if method not in FAILED_OVER or (request.body is not None and not fill):
            origins = origins[:1]
        for number, origin in enumerate(origins):
            last = number == len(origins) - 1
            headers = self.headers(exchange, plan, number)
            if fill:
                headers = [h for h in headers if h[0] not in CONDITIONAL] + (extra or [])
            body, length = (None, None) if fill else (request.body, request.length)
            to_origin = OriginRequest(
                origin_scheme(origin, request.scheme),
                method,
                origin.path + plan.target,
                headers,
                body,
                length,
                interim=self._interim(exchange, plan),
            )
            requested_at = perf_counter()
            try:
                answer = None
                if self.shields is not None and exchange.shield_headers is None and self.shields.has(origin):
                    to_origin.body = replayable = ReplayableBody(body) if body is not None else None
                    answer = await self._fetch_from_shield(exchange, plan, number, to_origin, replayable)
                if answer is None:
                    answer = await self.origins.fetch(origin, to_origin)
            except OriginFailure as failure:
                self.counts.origin_failed(distribution, origin.id, failure.reason or failure.kind)
                if last:
                    caused_by_key = fill and not any(name == b"range" for name, _ in extra or ())
                    self._remember(exchange.key, plan.route.site, failure, caused_by_key=caused_by_key)
                    raise
                clear_traceback(failure)
                continue
            seconds = perf_counter() - requested_at
            exchange.timings.upstream = (answer.connect_time, seconds - answer.connect_time)
            self.counts.origin_answered(distribution, origin.id, seconds)
            if last or answer.status not in plan.route.failover:
                return Fetched(answer, headers, origin)
            await answer.aclose()
        raise AssertionError("a route has at least one origin")

    async def _fetch_from_shield(
        self,
        exchange: Exchange,
        plan: Plan,
        number: int,
        request: OriginRequest,
        body: ReplayableBody | None,
    ) -> OriginReply | None:
        """The Origin Shield's response, or None if the origin itself must be contacted: the shield is down, or its
        response predates an invalidation that it does not know yet."""
        key = exchange.key
        assert self.shields is not None  # noqa: S101 - the caller has asked
        answer = await self.shields.fetch(plan, number, key, exchange.request, request, body)
        if answer is None or answer.shield_answer is None or key is None:
            return answer
        tags = cache_tags(plan.route.site.cache_tag_header, answer.headers)
        if self._active.is_invalidated(key, answer.shield_answer.snapshot, tags):
            await answer.aclose()
            return None
        return answer

    def _remember(self, key: str | None, site: Site, failure: OriginFailure, *, caused_by_key: bool) -> None:
        """Cache a failure if every request for the key would encounter it: nothing listens at the origin, or the
        request contained nothing that is not in the key (`caused_by_key`). A failure that passes on its own, such as an
        overload, is not cached."""
        if key is None or failure.status == 503 or failure.reason == "origin_circuit_open":
            return
        if failure.kind in UNREACHABLE or (caused_by_key and failure.kind != UNSENT):
            seconds: float = error_min_ttl(site, failure.status)
            if isinstance(failure, RelayedFailure) and failure.seconds:
                seconds = min(seconds, failure.seconds)
            self.failures.put(key, failure, self._clock() + seconds)

    def headers(self, exchange: Exchange, plan: Plan, number: int = 0) -> Headers:
        """The headers for the plan's origin with that number."""
        if exchange.shield_headers is not None:
            return exchange.shield_headers
        return origin_headers(
            plan.route.behavior,
            plan.route.origins[number],
            exchange.request,
            request_id=exchange.request_id,
            via=self._via,
            country=self._country,
            restricted=plan.route.keyring is not None,
            guarded=plan.route.site.has_restricted_behavior,
        )

    def _interim(self, exchange: Exchange, plan: Plan) -> Interim | None:
        """The callback that passes the origin's interim responses (1xx) on to this viewer while it waits; None if it
        accepts none. Viewers that have joined its fill get none: whether they may share the response is known only from
        its final head."""
        if exchange.interim is None or exchange.shield_headers is not None:
            return None
        policy = plan.route.response_headers

        def pass_on(status: int, headers: Headers) -> None:
            if exchange.interim is not None:
                visible = interim_headers(plan.route.behavior, headers)
                exchange.interim(status, visible if policy is None else policy.without_dropped(visible))

        return pass_on
