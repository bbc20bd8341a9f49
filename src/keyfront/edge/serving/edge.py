"""The edge of one worker without its sockets: a request comes in, a reply goes out, one access record is written.

A shell (`http/connection.py`, `http/asgi.py`) calls `lookup`. If that finds a fresh stored response that can be sent
unchanged, the shell writes it immediately, without a coroutine. Otherwise the shell awaits `serve`, which reads top to
bottom: refuse, or respond from cache or origin; replace an error with the site's page; finish the headers. At the end
the shell calls `log_access`.

`Edge` only connects its parts. They call each other in one direction: `CustomErrors` -> `CacheLookup` -> `Filler`,
`PassThrough` -> `OriginFetcher`, `Purger` -> `ActiveConfiguration`.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, time

from keyfront.edge.cache.disk import DiskTier
from keyfront.edge.cache.fill import FillsInProgress
from keyfront.edge.cache.memory import MemoryTier
from keyfront.edge.cache.removals import Removals
from keyfront.edge.cache.shared_arena import Arena
from keyfront.edge.cache.shared_segment import Segment
from keyfront.edge.cache.tiers import Tiers
from keyfront.edge.geoip import CountryTable
from keyfront.edge.limits.reports import Reached
from keyfront.edge.limits.uploads import Memory
from keyfront.edge.limits.viewers import Viewers
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.logs.ledger import CredentialLedger
from keyfront.edge.net.tunnel import Places
from keyfront.edge.rules import error_pages, respond
from keyfront.edge.rules.decide import Refusal, decide
from keyfront.edge.rules.origin_request import chained_too_long
from keyfront.edge.rules.routing import Plan, Route, Routing, Site
from keyfront.edge.semantics.websocket import WEBSOCKET, handshake_fault
from keyfront.edge.serving import acme_challenge
from keyfront.edge.serving.access_record import AccessRecorder
from keyfront.edge.serving.acme_challenge import AcmeChallenges
from keyfront.edge.serving.configuration import ActiveConfiguration
from keyfront.edge.serving.custom_errors import CustomErrors
from keyfront.edge.serving.exchange import Exchange, Timings
from keyfront.edge.serving.fills import Filler
from keyfront.edge.serving.finish import ReplyFinisher
from keyfront.edge.serving.health_check import HealthCheck
from keyfront.edge.serving.lookup import CacheLookup
from keyfront.edge.serving.origin_fetch import NegativeCache, OriginFetcher
from keyfront.edge.serving.pass_through import PassThrough
from keyfront.edge.serving.purge import Purger
from keyfront.edge.serving.reason_header import ReasonHeader
from keyfront.edge.serving.settings import EdgeSettings, table_bytes
from keyfront.edge.serving.websocket import WebSocketOpener
from keyfront.edge.types.messages import Reply, Request
from keyfront.errors import OriginFailure, clear_traceback
from keyfront.model.snapshot import Snapshot
from keyfront.signing.tables import Budget

_UNPAGED = frozenset({"disabled", "chain_too_long"})
"""Refusals without a custom error page: the site must not answer, or must not be requested again."""


class Edge:
    """One worker's edge.

    :param clock: returns epoch seconds; it decides what is fresh, stale or expired.
    :param segment: the memory shared with the other workers of the machine, or None.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        log: AccessLog,
        clock: Callable[[], float] = time,
        segment: Segment | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.segment = Segment.private() if segment is None else segment
        self.tables = Budget(table_bytes(settings.memory))
        self.reached = Reached()
        self.viewers = Viewers(settings.viewers)
        self.upload_memory = Memory(settings.uploads.memory)
        self.websockets = Places(settings.websockets)
        self.country = CountryTable(settings.country_db).country
        via_id = os.urandom(16).hex()
        self.via = f"1.1 {via_id}.cloudfront.net (CloudFront)"
        self.active = active = ActiveConfiguration(self.tables)
        self.fills = fills = FillsInProgress()
        self.tiers = tiers = _tiers(settings, self.segment, active, fills, clock)
        self.memory = tiers.memory
        self.purger = purger = Purger(active, tiers, fills, clock)
        failures = NegativeCache(active, self.tables, tiers.arena)
        self.fetcher = fetcher = OriginFetcher(
            settings, active, failures, self.reached, clock, self.via, self.country
        )
        self.filler = Filler(active, tiers, fills, purger, fetcher, clock, settings.slice, self.tables)
        pass_through = PassThrough(
            active, purger, fetcher, settings.uploads, self.upload_memory, self.reached, clock
        )
        self.cache_lookup = CacheLookup(
            tiers, self.filler, fetcher, pass_through, via_id.encode(), self.country
        )
        self._websocket_opener = WebSocketOpener(active, fetcher, pass_through, self.websockets)
        self._custom_errors = CustomErrors(self.cache_lookup)
        self._recorder = AccessRecorder(log, self.country)
        self.log = log
        if settings.ledger:
            log.ledger = CredentialLedger(clock, self.country)
        fetcher.counts = log.counts
        self.log_access = self._recorder.log_access
        self._finisher = ReplyFinisher(
            settings.pop, ReasonHeader(settings.explain_to), sends_cache_status=settings.cache_status
        )
        self._sends_cache_status = settings.cache_status
        self.health = HealthCheck(settings.health, lambda: active.routing.number)
        self._challenges = AcmeChallenges(settings.acme_webroot)
        self._request_ids: list[str] = []

    @property
    def routing(self) -> Routing:
        """The active snapshot, compiled."""
        return self.active.routing

    def use(self, snapshot: Snapshot, progress: Callable[[], None] = lambda: None) -> None:
        """Follow another snapshot, including its invalidations, from the next request on. `progress` is called
        repeatedly meanwhile."""
        self.purger.use(snapshot, progress)
        self.fetcher.failures.clear()  # the snapshot may have fixed them
        self.health.warn(self.routing)

    async def aclose(self) -> None:
        """Cancel what is in progress, and write what is waiting to be written."""
        await self.filler.aclose()
        await self.fetcher.aclose()
        if self.tiers.disk is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.tiers.disk.close)

    def request_id(self) -> str:
        """A new X-Amz-Cf-Id: 56 characters of base64url, like CloudFront's (§4.2)."""
        if not self._request_ids:
            text = base64.urlsafe_b64encode(os.urandom(39 * 64)).decode()
            self._request_ids = [text[i : i + 52] + "_w==" for i in range(0, 52 * 64, 52)]
        return self._request_ids.pop()

    # -- lookup: decide the request, and find a fresh response in memory ---------------------------------------------

    def lookup(self, request: Request) -> Exchange:
        """Decide a request, and look in this worker's memory for a response that can be sent unchanged."""
        now = self.clock()
        began = perf_counter()
        if self.health.matches(request):
            return Exchange(request, self.request_id(), now, Timings(began), health_check=True)
        challenge = self._challenges.answer(request)
        if challenge is not None:
            return Exchange(request, self.request_id(), now, Timings(began), challenge=challenge)
        decision = decide(self.active.routing, request, now, self.country)
        exchange = Exchange(request, self.request_id(), now, Timings(began, perf_counter() - began))
        if isinstance(decision, Refusal):
            exchange.refusal = decision
            return exchange
        plan, grant = decision
        if grant is not None:
            exchange.grant = grant
            self.log.counts.accepted(grant.key_pair_id, grant.expires, now)
        exchange.plan = plan
        if request.upgrade == WEBSOCKET:
            return exchange  # a handshake has no cache key: it neither finds, fills nor joins anything
        key = exchange.key = plan.key if not plan.route.selects else self.cache_lookup.key(plan, request)
        if key is not None:
            stored = self.memory.get_any_variant(key)
            if (
                stored is not None
                and now < stored.fast_path_until
                and not self._sends_cache_status
                and respond.is_unconditional(request)
                and (
                    plan.route.response_headers is None
                    or (plan.route.response_headers.deterministic and request.method != "OPTIONS")
                )
            ):
                exchange.hit = stored
        return exchange

    def unreadable(self, request: Request) -> Exchange:
        """The exchange for a request that the shell could not parse; it is only logged."""
        return Exchange(request, self.request_id(), self.clock(), Timings(perf_counter()))

    def refused(self, exchange: Exchange, name: str) -> Reply:
        """The reply to a request that the shell refuses, by a name in `error_pages.REFUSALS`."""
        reply = error_pages.refused(name, None, exchange.request, exchange.request_id)
        return self._finisher.finish_error(exchange, reply)

    def limited(self, exchange: Exchange, limit: str) -> Reply:
        """The reply to a viewer that has reached a limit."""
        return self._finisher.finish_error(exchange, error_pages.limited(limit, exchange.request_id))

    # -- serve: the slow path ----------------------------------------------------------------------------------------

    async def serve(self, exchange: Exchange) -> Reply:
        """The reply to a request that `lookup` has decided."""
        if exchange.health_check:
            return self.health.reply(exchange.now)
        if exchange.challenge is not None:
            return respond.dated(acme_challenge.reply(exchange.challenge), exchange.now)
        plan = exchange.plan
        if plan is not None:
            self._refuse_late(exchange, plan)
        refusal = exchange.refusal
        route: Route | None
        site: Site | None
        if refusal is not None:
            reply = error_pages.refused(
                refusal.name, refusal.denied, exchange.request, exchange.request_id, self.settings.https_port
            )
            # A geographic refusal does not depend on the behavior, which may not be known yet (`decide`).
            route = None if refusal.name == "geo_blocked" else refusal.route
            # Requests that the edge could not parse (400) get no custom page either.
            site = None if refusal.name in _UNPAGED or reply.status == 400 else refusal.site
        else:
            assert plan is not None  # noqa: S101 - decided: a refusal or a plan
            route = plan.route
            reply, site = await self._respond(exchange, plan)
        if site is not None and site.error_responses and reply.status >= 400:
            reply = await self._custom_errors.replace(site, exchange, reply)
        return self._finisher.finish(exchange, reply, route)

    def _refuse_late(self, exchange: Exchange, plan: Plan) -> None:
        """Refuse requests that pass the signature check but that the edge does not serve."""
        request = exchange.request
        name = ""
        if chained_too_long(request):
            name = "chain_too_long"
        elif request.upgrade == WEBSOCKET:
            name = handshake_fault(request.headers) or ("websocket_limit" if self.websockets.full else "")
        if name:
            exchange.refusal = Refusal(name, plan.route.site, plan.route)

    async def _respond(self, exchange: Exchange, plan: Plan) -> tuple[Reply, Site | None]:
        """The reply from cache or origin, or the error page in its place; and the site whose custom error page may
        replace it."""
        try:
            if exchange.request.upgrade == WEBSOCKET:
                return await self._websocket_opener.respond(exchange, plan), plan.route.site
            return await self.cache_lookup.respond_from_cache_or_origin(exchange, plan), plan.route.site
        except OriginFailure as failure:
            clear_traceback(failure)
            exchange.explanation = failure.detail
            if failure.status == 503:
                return error_pages.limited(failure.reason or failure.kind, exchange.request_id), None
            return error_pages.origin_failed(failure, exchange.request_id), plan.route.site


def _tiers(
    settings: EdgeSettings,
    segment: Segment,
    active: ActiveConfiguration,
    fills: FillsInProgress,
    clock: Callable[[], float],
) -> Tiers:
    """The cache tiers, configured not to return anything that an invalidation has ended."""
    removals = Removals(segment)
    memory = MemoryTier(settings.memory, settings.max_object, removals, fills.on_removals)
    arena = Arena(segment, removals, active.is_invalidated) if segment.log else None
    disk = None
    if settings.cache_disk > 0:
        disk = DiskTier(
            Path(settings.cache_dir),
            settings.cache_disk,
            active.is_invalidated_on_disk,
            clock=clock,
            largest=settings.max_object,
        )
    return Tiers(memory, disk, arena)
