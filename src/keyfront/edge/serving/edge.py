"""One edge worker without its sockets: a request comes in, a reply goes out, one access record is left.

A shell (`http1`, `asgi`) calls `exchange`; if that found a fresh stored response that can go out as it is (`hit`), the
shell writes it at once, without a coroutine. Otherwise the shell awaits `serve`. At the end it calls `done`.
`serve` is read top to bottom: refuse, or find, or fill, or pass through; then the custom error page.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from random import random
from time import monotonic_ns, perf_counter, time
from typing import Any

from keyfront.edge.cache import slice_reader
from keyfront.edge.cache.disk import DiskTier
from keyfront.edge.cache.fill import Fill
from keyfront.edge.cache.memory import SETTLE, MemoryTier
from keyfront.edge.cache.removals import Removal, Removals
from keyfront.edge.cache.shared_arena import Arena, Failure
from keyfront.edge.cache.shared_segment import Segment
from keyfront.edge.cache.slice_reader import PrefetchedBody, Reader, SliceFills
from keyfront.edge.cache.spool import Spool
from keyfront.edge.cache.tiers import Tiers
from keyfront.edge.geoip import CountryTable
from keyfront.edge.limits.origins import OriginLimits
from keyfront.edge.limits.reports import Reached
from keyfront.edge.limits.uploads import Gathered, Memory
from keyfront.edge.limits.viewers import Viewers
from keyfront.edge.logs.access_log import LONGEST_AGENT, LONGEST_REFERER, AccessLog, shortened
from keyfront.edge.net.tunnel import Places
from keyfront.edge.origin.access import OriginAccess
from keyfront.edge.origin.client import Origins
from keyfront.edge.origin.egress import Egress
from keyfront.edge.origin.http1 import Interim
from keyfront.edge.origin.shield_client import RelayedFailure, ReplayableBody, Shields
from keyfront.edge.rules import encoding, error_pages, freshness, redaction, respond, slicing, vary
from keyfront.edge.rules.cache_key import key_suffix, path_of, query_part
from keyfront.edge.rules.decide import Refusal, decide, internal_plan
from keyfront.edge.rules.encoding import accepted_encoding
from keyfront.edge.rules.freshness import Verdict
from keyfront.edge.rules.invalidation import cache_tags
from keyfront.edge.rules.origin_request import chained_too_long, origin_headers, origin_scheme
from keyfront.edge.rules.redaction import loggable
from keyfront.edge.rules.response_headers import ResponseHeaders, timed
from keyfront.edge.rules.routing import Plan, Route, Routing, Site
from keyfront.edge.rules.slicing import ChangedError, Span, UnusableError
from keyfront.edge.rules.viewer_response import interim_headers, viewer_headers
from keyfront.edge.semantics.fields import CONDITIONAL
from keyfront.edge.semantics.websocket import WEBSOCKET, forwarded, handshake_fault, handshake_key
from keyfront.edge.serving.custom_errors import OF_THIS_REQUEST, close_body
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.fills import UNSHARED, UNSLICED
from keyfront.edge.serving.lookup import SHELTERED, closing, with_headers
from keyfront.edge.serving.origin_fetch import FAILED_OVER, UNREACHABLE, UNSENT, error_min_ttl
from keyfront.edge.serving.purge import SWEPT
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.transform import compressors
from keyfront.edge.types.messages import Headers, LostError, OriginReply, Piece, Reply, Request
from keyfront.edge.types.record import Record
from keyfront.edge.types.stored import Meta, Slices, Stored
from keyfront.edge.types.ttl_map import TtlMap
from keyfront.errors import OriginFailure, clear_traceback
from keyfront.model.snapshot import EMPTY, Origin, Snapshot
from keyfront.signing.tables import Budget

# Refusals whose site is to answer nothing, or must not be asked again: no page of its own. Nor has a 400 of the edge's.
_UNPAGED = frozenset({"disabled", "chain_too_long"})
LONGEST_EXPLANATION = 500
"""Characters of an explanation that an access record holds: some of it may be an origin's own words."""


LEAST_TABLES, MOST_TABLES = 8 << 20, 256 << 20


def table_bytes(memory: int) -> int:
    """Bytes that a worker's tables may take beside its cache of `memory` bytes: half as many, from 8 to 256 MiB."""
    return min(MOST_TABLES, max(LEAST_TABLES, memory // 2))


class Edge:
    """`clock` gives epoch seconds: what is fresh, stale or expired, and for how long, is counted by it. `segment` is
    the memory that this edge shares with the other workers of the machine; without it, it shares nothing."""

    def __init__(
        self,
        settings: EdgeSettings,
        log: AccessLog,
        clock: Callable[[], float] = time,
        segment: Segment | None = None,
    ) -> None:
        self.settings = settings
        self.log = log
        self.reached = Reached()
        self.viewers = Viewers(settings.viewers)
        self.upload_memory = Memory(settings.uploads.memory)
        self.clock = clock
        self._tells = settings.cache_status
        self.tables = Budget(table_bytes(settings.memory))
        self.routing = Routing(EMPTY, None, self.tables)
        self.segment = segment = Segment.private() if segment is None else segment
        self.removals = Removals(segment)
        self.memory = MemoryTier(settings.memory, settings.max_object, self.removals, self._heard)
        self.arena = Arena(segment, self.removals, self._ended_before) if segment.log else None
        self.disk: DiskTier | None = None
        if settings.cache_disk > 0:
            self.disk = DiskTier(
                Path(settings.cache_dir),
                settings.cache_disk,
                self._ended,
                clock=clock,
                largest=settings.max_object,
            )
        self.tiers = Tiers(self.memory, self.disk, self.arena)
        self.flights: dict[str, Fill] = {}
        self.runs = SliceFills()
        self.websockets = Places(settings.websockets)
        self._tasks: set[asyncio.Task[None]] = set()
        self.failures: TtlMap[tuple[str, int, str, str]] = TtlMap(budget=self.tables)
        self.unshared: TtlMap[bool] = TtlMap(budget=self.tables)
        self.on_unsafe_change: Callable[[str, str], None] | None = None
        """Tells edges that use the same data folder but share no memory with this one (`changes`)."""
        self.unsliced: TtlMap[bool] = TtlMap(budget=self.tables)
        self.compressors = compressors.Compressors()
        credentials = Path(settings.origin_credentials) if settings.origin_credentials else None
        self.access = OriginAccess(credentials, os.environ)
        self.origins = Origins(
            ca_file=settings.ca_file,
            access=self.access,
            clock=clock,
            egress=Egress(settings.egress),
            limits=settings.origins,
            reached=self.reached,
        )
        self.shields: Shields | None = None
        if settings.shields:
            # Where the parents are is the operator's own setting, so no rule for origins applies to them.
            unlimited = OriginLimits(connections=0, failures=0)
            parents = Origins(ca_file=settings.ca_file, clock=clock, limits=unlimited)
            self.shields = Shields(settings.shields, settings.shield_secret, parents, clock)
        self.country = CountryTable(settings.country_db).country
        self._name = os.urandom(16).hex().encode()
        self.via = f"1.1 {self._name.decode()}.cloudfront.net (CloudFront)"
        self._ids: list[str] = []

    def use(self, snapshot: Snapshot, progress: Callable[[], None] = lambda: None) -> None:
        """Obey another snapshot, invalidations included, from the next request on. `progress` is called again and
        again meanwhile."""
        before = self.routing
        self.routing = Routing(snapshot, before, self.tables, progress)
        self.failures.clear()  # it may be what mends them
        if before.number and self.routing.invalidated_since(before.number):
            # A fill under way goes on for those who wait for it, but nobody joins it any more; `_keep` does the rest.
            for key in [key for key in self.flights if self._flight_ended(key, before.number)]:
                del self.flights[key]
            under_way = self.memory.sweeping
            self.memory.sweep(self.routing.ended)
            if not under_way:
                self._sweep()

    def _sweep(self) -> None:
        """Free what was invalidated, a millisecond's work at a time. None of it is found any more as it is."""
        if not self.memory.swept(SWEPT):
            asyncio.get_running_loop().call_soon(self._sweep)

    def _keep(self, stored: Stored, asked: int, began: float, *, share: bool = True) -> None:
        """Store a response, unless it was invalidated or removed since the origin was asked for it, which was at
        `asked` (monotonic nanoseconds) and `began` (epoch seconds). Every tier is filled here; of what it gives back
        later `routing.ended` is asked first. With `share` false it is for this worker's memory alone."""
        if self.removals.hides(stored.key, asked) or self._ended_before(
            stored.key, stored.meta.snapshot, stored.meta.tags
        ):
            return
        stored.asked = asked
        self.tiers.put(stored, began, share=share)

    def _ended(self, key: str, snapshot: int, tags: tuple[str, ...]) -> bool:
        """Has what lies on disk been ended by an invalidation? What was asked for under a snapshot that this edge does
        not know yet (or no more: its data was put back) is not judged, and so not used."""
        return snapshot > self.routing.number or self.routing.ended(key, snapshot, tags)

    def _flight_ended(self, key: str, snapshot: int) -> bool:
        """Does a fill that began under `snapshot` bring what an invalidation has ended, or may it: its tags come with
        the origin's answer?"""
        return self.routing.ended(key, snapshot) or self.routing.ended_by_tag(key, snapshot)

    def _ended_before(self, key: str, snapshot: int, tags: tuple[str, ...]) -> bool:
        """Has what another worker shares been ended by an invalidation? What was asked for under a later snapshot than
        this worker obeys has not: its worker knew all the invalidations that this one knows."""
        return self.routing.ended(key, snapshot, tags)

    def _failure(self, key: str, now: float) -> tuple[str, int, str, str] | None:
        """How the origin failed for this key, if it is not to be asked again yet, whichever worker has asked it."""
        failure = self.failures.get(key, now)
        if failure is None and self.arena is not None:
            shared = self.arena.failure(key, now, self.routing.number)
            if shared is not None:
                failure = (shared.kind, shared.status, shared.detail, shared.reason)
                self.failures.put(key, failure, shared.until)
        return failure

    def _start(self, flight: Fill, run: Coroutine[Any, Any, None]) -> None:
        flight.launch(run)
        if flight.task is not None:
            self._tasks.add(flight.task)
            flight.task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Give up what is under way, and write what waits to be written."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.compressors.close()
        if self.shields is not None:
            await self.shields.aclose()
        await self.origins.aclose()
        if self.disk is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.disk.close)

    def gauges(self) -> dict[str, int]:
        """How much is under way now, by the names of `metrics.GAUGES`."""
        asked, waiting, down = self.origins.load
        return {
            "requests_under_way": self.viewers.requests.total,
            "viewer_addresses": self.viewers.connections.addresses,
            "upload_bytes": self.upload_memory.used,
            "origin_requests": asked,
            "origin_waiting": waiting,
            "origins_down": down,
        }

    def request_id(self) -> str:
        """A new X-Amz-Cf-Id: 56 characters of base64url, as CloudFront's (§4.2)."""
        if not self._ids:
            text = base64.urlsafe_b64encode(os.urandom(39 * 64)).decode()
            self._ids = [text[i : i + 52] + "_w==" for i in range(0, 52 * 64, 52)]
        return self._ids.pop()

    # -- the quick way: decided, and found fresh ---------------------------------------------------------------------

    def lookup(self, request: Request) -> Exchange:
        now = self.clock()
        began = perf_counter()
        exchange = Exchange(request, now, began, self.request_id())
        decision = decide(self.routing, request, now, self.country)
        exchange.verify_s = perf_counter() - began
        if isinstance(decision, Refusal):
            exchange.refusal = decision
            return exchange
        plan, grant = decision
        if grant is not None:
            exchange.grant = grant
            self.log.counts.accepted(grant.key_pair_id, grant.expires, now)
        exchange.plan = plan
        if request.upgrade == WEBSOCKET:
            return exchange  # a handshake has no key: it neither finds, fills nor joins anything
        key = exchange.key = plan.key if not plan.route.selects else self._key(plan, request)
        if key is not None:
            stored = self.memory.look(key)
            if (
                stored is not None
                and now < stored.quick_until
                and not self._tells
                and respond.is_unconditional(request)
                and (
                    plan.route.response_headers is None
                    or (plan.route.response_headers.settled and request.method != "OPTIONS")
                )
            ):
                exchange.hit = stored
        return exchange

    def _key(self, plan: Plan, request: Request) -> str | None:
        """The cache key of this very request, or None if its answer is not to be looked for in the cache."""
        key = plan.key
        if key is None or not plan.route.selects:
            return key
        return key + key_suffix(plan.route.behavior, request, plan.query, self.country)

    def unreadable(self, request: Request) -> Exchange:
        """The exchange of a request that no shell could make sense of; only its record will be left."""
        return Exchange(request, self.clock(), perf_counter(), self.request_id())

    # -- the long way ------------------------------------------------------------------------------------------------

    async def serve(self, exchange: Exchange) -> Reply:
        plan = exchange.plan
        if plan is not None:
            name = self._refusal_late(exchange.request)
            if name:
                exchange.refusal = Refusal(name, plan.route.site, plan.route)
        refusal = exchange.refusal
        if refusal is not None:
            # Whether a country is let in does not depend on the behavior, which may not be known yet (`decide`).
            route = None if refusal.name == "geo_blocked" else refusal.route
            reply = error_pages.refused(
                refusal.name, refusal.denied, exchange.request, exchange.request_id, self.settings.https_port
            )
            site = refusal.site if refusal.name not in _UNPAGED and reply.status != 400 else None
        else:
            assert plan is not None  # noqa: S101 - decided: a refusal or a plan
            route = plan.route
            site = route.site
            try:
                reply = await self.respond_from_cache_or_origin(exchange, plan)
            except OriginFailure as failure:
                clear_traceback(failure)
                exchange.explanation = failure.detail
                if failure.status == 503:
                    reply = error_pages.limited(failure.reason or failure.kind, exchange.request_id)
                    site = None
                else:
                    reply = error_pages.origin_failed(failure, exchange.request_id)
        if site is not None and site.error_responses and reply.status >= 400:
            reply = await self._custom_error(site, exchange, reply)
        if route is not None and route.response_headers is not None and reply.status != 101:
            self._policed(exchange, reply, route.response_headers)
        if self._tells and refusal is None:
            reply.headers.append((b"cache-status", self._cache_status(exchange, reply)))
        return respond.dated(reply, exchange.now)

    def _refusal_late(self, request: Request) -> str:
        """The name of what speaks against a request that the gate lets pass, "" if nothing does."""
        if chained_too_long(request):
            return "chain_too_long"
        if request.upgrade == WEBSOCKET:
            return handshake_fault(request.headers) or ("websocket_limit" if self.websockets.full else "")
        return ""

    def _policed(self, exchange: Exchange, reply: Reply, rule: ResponseHeaders) -> None:
        """Give the reply the headers that the behavior's response headers policy makes of its own."""
        reply.headers = rule.applied(exchange.request, reply.status, reply.headers)
        if rule.timing and rule.tells_timing(exchange.request, 100 * random()):
            result = reply.x_cache
            if result == "Error":
                result = "Miss" if exchange.forwarded else "Hit" if exchange.refusal is None else ""
            reply.headers = timed(
                reply.headers,
                result,
                pop=self.settings.pop,
                request_id=exchange.request_id,
                taken=perf_counter() - exchange.began,
                upstream=exchange.upstream if result != "Hit" else None,
            )

    def _cache_status(self, exchange: Exchange, reply: Reply) -> bytes:
        flight = exchange.flight
        return respond.cache_status(
            self.settings.pop,
            exchange.forwarded,
            exchange.answered if flight is None else flight.status,
            None if exchange.fresh_until is None else exchange.fresh_until - exchange.now,
            stored=flight is not None and flight.keeps,
            collapsed=exchange.joined,
            detail=reply.reason,
        )

    async def respond_from_cache_or_origin(self, exchange: Exchange, plan: Plan) -> Reply:
        """From the cache, or through a flight, or straight from the origin.

        :raises OriginFailure: if the origin failed, and nothing stands in for its answer.
        """
        if exchange.request.upgrade == WEBSOCKET:
            return await self._open_websocket(exchange, plan)
        for _ in range(3):
            if exchange.key is None:
                exchange.forwarded = "method" if plan.route.cacheable else "bypass"
                break
            try:
                reply = await self._through_cache(exchange, plan, exchange.key)
            except ChangedError as changed:
                clear_traceback(changed)
                continue  # what was stored in slices has been dropped
            except UnusableError as unusable:
                clear_traceback(unusable)
                break
            if reply is None:
                break
            flight = exchange.flight
            if flight is not None and flight.sheltered and not exchange.joined and reply.x_cache == "Hit":
                reply.detail = SHELTERED
            return reply
        return await self._pass(exchange, plan)

    async def _through_cache(self, exchange: Exchange, plan: Plan, key: str) -> Reply | None:
        """The reply from what is stored or fills the cache now, or None if the cache is to be passed by.

        :raises ChangedError: if what was stored is worth nothing: try again.
        :raises UnusableError: if the origin's answer to a range is for this viewer alone.
        """
        request, now = exchange.request, exchange.now
        stored = self.tiers.find(key, lambda: self._origin_headers(exchange, plan), now)
        if stored is not None:
            verdict = freshness.judge(stored.meta, now)
            if verdict is Verdict.STALE and key not in self.flights and not self._failure(key, now):
                self._flight(key, exchange, plan, stored)
            if verdict is Verdict.STALE or verdict is Verdict.HIT:
                exchange.fresh_until = stored.meta.fresh_until
                exchange.snapshot = stored.meta.snapshot
                return await self._from_stored(exchange, plan, stored, "Hit")
        failure = self._failure(key, now)
        if failure is not None:
            raise OriginFailure(*failure)
        if stored is not None:
            exchange.forwarded = "stale"
        else:
            exchange.forwarded = "vary-miss" if self.memory.look(key) is not None else "uri-miss"
            # A head of what is not stored is asked for as such, and a part of what cannot be sliced.
            if request.method == "HEAD":
                return None
            if request.header(b"range") is not None and self.unsliced.get(key, now) is not None:
                return None

        # A request that has come by here already would wait for the very flight that waits for it.
        alone = (
            plan.route.behavior.forward_cookies.mode != "none"
            or self.unshared.get(key, now) is not None
            or self._name in (request.header(b"via") or b"")
        )
        under_way = None if alone else self.flights.get(key)
        if under_way is not None and not under_way.open_to_all():
            under_way = None  # a part of what has come is gone already
        flight = under_way or self._flight(None if alone else key, exchange, plan, stored)
        token = flight.join()
        exchange.flight, exchange.joined = flight, under_way is not None
        try:
            meta = await asyncio.shield(flight.outcome)
            if exchange.joined and not self._may_share(flight, meta, exchange, plan):
                flight.leave(token)
                flight = self._flight(None, exchange, plan, stored)
                token = flight.join()
                exchange.flight, exchange.joined = flight, False
                meta = await asyncio.shield(flight.outcome)
            if flight.keeps or flight.stored is not None:
                exchange.fresh_until = meta.fresh_until
            exchange.snapshot = flight.snapshot if flight.stored is None else flight.stored.meta.snapshot
            result = "Hit" if exchange.joined and flight.stored is None else flight.result
            headers = [] if exchange.joined else flight.first_headers
            asked = exchange
            if flight.everything and not exchange.joined:
                # The origin was asked for a range and sent everything, and so does the edge (§5.10).
                asked = exchange.without_range()
            if flight.stored is not None:
                reply = await self._from_stored(asked, plan, flight.stored, result, headers)
                flight.leave(token)
                return reply
            whole = flight.whole
            if whole is not None:
                flight.leave(token)
                return respond.answer(asked.request, with_headers(meta, headers), whole, now, result)
            return self._from_flight(asked, flight, token, with_headers(meta, headers), result)
        except BaseException:
            flight.leave(token)
            raise

    def _from_flight(self, exchange: Exchange, flight: Fill, token: object, meta: Meta, result: str) -> Reply:
        """The reply whose body is the flight's as it comes, or parts of it."""
        request, now = exchange.request, exchange.now
        if meta.status != 200 or respond.is_unconditional(request):
            word = result if meta.status < 400 else "Error"
            reply = Reply(meta.status, respond.with_age(meta, now, result), x_cache=word)
            reply.length = flight.length
            body: AsyncIterator[Piece] = flight.read(token)
        elif flight.length is None:
            # Without a length there are no ranges (§5.10).
            quick = respond.unmodified(request, meta, now, result)
            if quick is not None:
                flight.leave(token)
                return quick
            reply = Reply(meta.status, respond.with_age(meta, now, result), x_cache=result)
            reply.length = None
            body = flight.read(token)
        else:
            reply, parts = respond.layout(request, meta, flight.length, now, result, os.urandom(16).hex())
            if parts is None:
                flight.leave(token)
                return reply
            body = PrefetchedBody(
                slice_reader.sequence(flight.read(token), parts), lambda: flight.leave(token)
            )
        if request.method == "HEAD":
            flight.leave(token)
        else:
            reply.body = body
        return reply

    async def _from_stored(
        self, exchange: Exchange, plan: Plan, stored: Stored, result: str, headers: Headers | None = None
    ) -> Reply:
        """The reply from what is stored, what is missing of it being asked for; begun, so that what fails at once
        fails before the viewer gets the head of a reply.

        :param headers: what this viewer gets in the place of the stored ones.
        """
        request, now = exchange.request, exchange.now
        meta = with_headers(stored.meta, headers)
        if stored.slices is None:
            return respond.answer(request, meta, stored.body, now, result)
        sliced = stored.slices
        assert sliced.total is not None  # noqa: S101 - what is stored has come to its end
        reply, parts = respond.layout(request, meta, sliced.total, now, result, os.urandom(16).hex())
        if not parts or request.method == "HEAD":
            return reply
        reader = Reader(self.tiers, self.runs, sliced, lambda span: self._ask(exchange, plan, stored, span))
        first = next(part[0] for part in parts if not isinstance(part, bytes))
        if result == "Hit" and not reader.has(first):
            reply.x_cache = reply.detail = "Miss"
        if not reader.complete(parts):
            self.tiers.drop(stored.key)
            raise ChangedError
        try:
            reply.body = await PrefetchedBody.begin(
                reader.body(parts), 1 if isinstance(parts[0], tuple) else 2
            )
        except (LostError, ChangedError) as error:
            self.tiers.drop(stored.key)
            clear_traceback(error)  # the fill that it has ended keeps it
            raise ChangedError from None
        return reply

    def _may_share(self, flight: Fill, meta: Meta, exchange: Exchange, plan: Plan) -> bool:
        if not flight.shared:
            return False
        return not meta.vary or vary.vary_matches(meta, self._origin_headers(exchange, plan))

    async def _pass(self, exchange: Exchange, plan: Plan) -> Reply:
        request = exchange.request
        exchange.snapshot = self.routing.number
        gathered = await self._gathered(request)
        try:
            answer, _, _ = await self._fetch(exchange, plan, request.method)
        finally:
            if gathered is not None:
                gathered.release()
        return await self._passed(exchange, plan, answer)

    async def _passed(self, exchange: Exchange, plan: Plan, answer: OriginReply) -> Reply:
        """The reply that passes an origin's answer on to this viewer alone."""
        request, behavior = exchange.request, plan.route.behavior
        exchange.answered = answer.status
        if freshness.invalidates(request.method, answer.status):
            self._spoil(exchange, plan, answer)
        headers = viewer_headers(behavior, answer.headers)
        sheltered = answer.told is not None and answer.told.hit
        word = "Hit" if sheltered else "Miss"
        reply = Reply(answer.status, headers, x_cache=word if answer.status < 400 else "Error")
        if sheltered and answer.status < 400:
            reply.detail = SHELTERED
        reply.length = answer.length
        if request.method == "HEAD" or answer.status in (204, 304):
            # What a GET would get (RFC 9110 §9.3.2); the origin's framing of this answer is another matter.
            sizes = [value for name, value in answer.headers if name == b"content-length"]
            reply.length = int(sizes[0]) if sizes and answer.status not in (204, 304) else None
            if exchange.key is not None and encoding.compressible(
                behavior, answer.status, answer.headers, reply.length
            ):
                coding = encoding.coding_for(accepted_encoding(behavior, request))
                reply.headers = encoding.represented(headers, coding)
                reply.length = None if encoding.compressed(coding) else reply.length
            await answer.aclose()
        else:
            reply.body = closing(answer)
        return reply

    async def _gathered(self, request: Request) -> Gathered | None:
        """Read a small body whole before the origin is asked, so that a slow viewer holds no connection to it."""
        limits = self.settings.uploads
        if request.body is None or (request.length is not None and request.length > limits.buffer):
            return None
        gathered = Gathered(request.body, self.upload_memory)
        try:
            if not await gathered.gather(limits.buffer):
                self.reached.add("upload_memory", request.client_ip, self.clock())
        except BaseException:
            gathered.release()
            raise
        request.body = gathered
        return gathered

    def _spoil(self, exchange: Exchange, plan: Plan, answer: OriginReply) -> None:
        """Forget what an unsafe request has changed: what is stored for its URL, and for those that the answer names
        as changed if they are of the same origin (RFC 9111 §4.4)."""
        request, site = exchange.request, plan.route.site
        path = request.target.partition("?")[0]
        own = path + "?" + plan.query if plan.query else path
        for target in freshness.changed_targets(request.scheme, request.host, own, answer.headers):
            asked = Request("GET", target, request.host, [], scheme=request.scheme)
            changed = internal_plan(site, target, asked)
            if changed.key is not None:
                part = query_part(changed.route.behavior, changed.query)
                if self.disk is not None:
                    self.disk.spoil(changed.key, self.clock())
                self.purge_path(Removal(changed.key, part))
                if self.on_unsafe_change is not None:
                    self.on_unsafe_change(changed.key, part)

    def purge_path(self, removal: Removal) -> None:
        """Forget what all workers hold of a path that was changed at its origin, and what is on its way."""
        self.memory.remove(removal)
        self._unjoin(removal.key)
        self.removals.publish(removal)

    def _heard(self, news: list[Removal] | None) -> None:
        """Other workers have removed something: everything, if it is not known what."""
        if news is None:
            self.flights.clear()
        else:
            for removal in news:
                if not removal.exact:
                    self._unjoin(removal.key)

    def _unjoin(self, path: str) -> None:
        """What is on its way may be from before a change: it is not kept (`_keep`), and nobody joins it any more."""
        for each in [each for each in self.flights if path_of(each) == path]:
            del self.flights[each]

    # -- WebSocket ---------------------------------------------------------------------------------------------------

    async def _open_websocket(self, exchange: Exchange, plan: Plan) -> Reply:
        """What the origin answers to an opening handshake. A 101 has `upstream`, whose end gives the place back.

        :raises OriginFailure: if the origin failed, or switched in a way that it was not asked for.
        """
        exchange.forwarded, exchange.snapshot = "bypass", self.routing.number
        behavior = plan.route.behavior
        give_back = self.websockets.take()
        opened = False
        try:
            answer, sent, origin = await self._handshake(exchange, plan)
            upstream = answer.upstream
            if upstream is not None:
                upstream.on_end = give_back
                exchange.answered = 101
                reply = Reply(101, viewer_headers(behavior, answer.headers), x_cache="Miss")
                reply.upstream = upstream
                self.websockets.opened += 1
                opened = True
                return reply
            reply = await self._passed(exchange, plan, answer)
            if origin.kind == "s3":
                reply.reason = "websocket_to_s3"
                exchange.explanation = "an S3 origin speaks no WebSocket: it was asked with an ordinary GET"
            elif not forwarded(sent):
                reply.reason = "websocket_headers_not_forwarded"
                exchange.explanation = (
                    f"the behavior {behavior.path_pattern} does not forward Sec-WebSocket-Key and "
                    "Sec-WebSocket-Version: give it the AllViewer origin request policy, or one that lists them"
                )
            else:
                reply.reason = "websocket_declined"
                exchange.explanation = f"the origin answered {answer.status} to the handshake"
            return reply
        finally:
            if not opened:
                give_back()

    async def _handshake(self, exchange: Exchange, plan: Plan) -> tuple[OriginReply, Headers, Origin]:
        """Ask the origin to switch to WebSocket, past any Origin Shield. Of an origin group the second origin is asked
        only if the first cannot be connected to: a handshake that was sent is not sent again."""
        request = exchange.request
        origins = plan.route.origins
        for number, origin in enumerate(origins):
            headers = self._origin_headers(exchange, plan, number)
            scheme = origin_scheme(origin, request.scheme)
            target = origin.path + plan.target
            asked = perf_counter()
            try:
                if origin.kind == "s3":
                    answer = await self.origins.fetch(origin, scheme, "GET", target, headers)
                else:
                    key = handshake_key(request.headers)
                    answer = await self.origins.open_websocket(origin, scheme, target, headers, key)
            except OriginFailure as failure:
                if number == len(origins) - 1 or failure.kind not in UNREACHABLE:
                    raise
                clear_traceback(failure)
                continue
            exchange.upstream = (answer.connect_time, perf_counter() - asked - answer.connect_time)
            return answer, headers, origin
        raise AssertionError("a route has at least one origin")

    # -- fills -------------------------------------------------------------------------------------------------------

    def _flight(self, key: str | None, exchange: Exchange, plan: Plan, stored: Stored | None) -> Fill:
        """Start a fill. Without a key it is this viewer's own: nobody else is to be served from it."""
        flight = Fill()
        if key is not None and key not in self.flights:
            self.flights[key] = flight
        self._start(flight, self._fill(flight, exchange, plan, stored))
        return flight

    async def _fill(self, flight: Fill, exchange: Exchange, plan: Plan, stored: Stored | None) -> None:
        key = exchange.key
        assert key is not None  # noqa: S101 - only what has a key is filled
        site, behavior = plan.route.site, plan.route.behavior
        method = "GET" if exchange.request.method == "HEAD" else exchange.request.method
        answer: OriginReply | None = None
        sliced: Slices | None = None
        try:
            began, number, asked_at = self.clock(), self.routing.number, monotonic_ns()
            flight.snapshot = number
            if stored is not None and self.routing.ended(key, stored.meta.snapshot, stored.meta.tags):
                stored = None  # while this request waited: it is neither asked about nor stands in
            conditions = freshness.revalidation_headers(stored.meta) if stored is not None else []
            asked = None
            if stored is None or (stored.slices is not None and stored.slices.ranged):
                asked = slicing.wanted(exchange.request, self.settings.slice)
            ranged = [(b"range", b"bytes=%d-%d" % (asked.first, asked.last))] if asked is not None else []
            try:
                answer, sent, origin = await self._fetch(
                    exchange, plan, method, fill=True, extra=conditions + ranged
                )
                if (
                    answer.status == 304
                    and stored is not None
                    and not freshness.confirms(stored.meta, answer.headers)
                ):
                    await answer.aclose()
                    answer, sent, origin = await self._fetch(exchange, plan, method, fill=True, extra=ranged)
            except OriginFailure as failure:
                if stored is None or not freshness.serve_stale_on_error(stored.meta, self.clock(), None):
                    raise
                clear_traceback(failure)
                self._land_stale(flight, site, stored, began, failure.status)
                return
            now = self.clock()
            flight.status = answer.status
            told = answer.told
            if told is not None:
                # The parent's answer is as old as its question to the origin was.
                number = flight.snapshot = min(number, told.snapshot)
                flight.sheltered = told.hit
            if stored is not None and answer.status == 304:
                meta = freshness.revalidated(behavior, stored.meta, answer.headers, now, began, sent)
                meta = freshness.capped_to(meta, now, told.fresh if told is not None else None)
                meta.snapshot = number
                meta.tags = cache_tags(site.cache_tag_header, answer.headers) or stored.meta.tags
                shared = freshness.can_coalesce(behavior, meta, now)
                self._land(flight, stored.renewed(meta), asked_at, began, "RefreshHit", shared=shared)
                return
            if stored is not None and freshness.serve_stale_on_error(stored.meta, now, answer.status):
                self._land_stale(flight, site, stored, began, answer.status)
                return
            part: Span | None = None
            if asked is not None:
                flight.everything = answer.status == 200
                part = self._part(exchange, asked, answer)
                if part is not None:
                    answer = slicing.as_whole(answer, part)
            partial = part is not None and part.last - part.first + 1 < part.total
            coding = b""
            if not partial and encoding.compressible(behavior, answer.status, answer.headers, answer.length):
                coding = encoding.coding_for(accepted_encoding(behavior, exchange.request))
                answer, coding = self.compressors.encoded(answer, coding)
            headers = encoding.represented(viewer_headers(behavior, answer.headers), coding)
            error = site.error_responses.get(answer.status)
            meta_or_none = freshness.admit(
                behavior,
                error.min_ttl if error is not None else None,
                method,
                sent,
                answer.status,
                answer.headers,
                now,
                request_time=began,
                origin=origin,
                reason=answer.reason,
                coding=coding,
            )
            total = part.total if part is not None else answer.length
            if total is not None and total > slicing.FARTHEST:
                meta_or_none = None
            if partial and (meta_or_none is None or slicing.strong_validator(meta_or_none) is None):
                raise self._unusable(exchange)
            if answer.status >= 400:
                flight.result = "Error"
            elif flight.sheltered:
                flight.result = "Hit"
            if meta_or_none is not None and told is not None:
                meta_or_none = freshness.capped_to(meta_or_none, now, told.fresh)
            if meta_or_none is None:
                passing = freshness.uncached_meta(
                    answer.status, headers, answer.headers, now, reason=answer.reason, coding=coding
                )
                self._announce(flight, key, passing, shared=False, length=answer.length)
            else:
                meta_or_none.snapshot = number
                meta_or_none.tags = cache_tags(site.cache_tag_header, answer.headers)
                if any(name == b"set-cookie" for name, _ in answer.headers):
                    # no-cache="Set-Cookie": who fills the cache gets the cookie, who is served from it does not (§5.7).
                    flight.first_headers = headers
                shared = freshness.can_coalesce(behavior, meta_or_none, now)
                flight.keeps = True
                if total is not None and (partial or total > self.memory.max_object):
                    meta_or_none.length = total
                    sliced = self._slices(exchange, stored, meta_or_none, total, sent, flight)
                    flight.begin(
                        part.first if part is not None else 0, part.last + 1 if part is not None else total
                    )
                    self._slice(flight, sliced, meta_or_none)
                    flight.stored = kept = Stored(key, meta_or_none, b"", sliced)
                    # Where other workers cannot ask for what is missing, they get it when nothing is.
                    refetches = sliced.validator is not None and sliced.ranged
                    self._keep(kept, asked_at, began, share=refetches)
                    if not refetches:
                        flight.before_end = lambda: self._keep(kept, asked_at, began)
                    self._announce(flight, key, meta_or_none, shared=shared, length=total)
                else:
                    keep = self.memory.max_object
                    self._announce(flight, key, meta_or_none, keep=keep, shared=shared, length=answer.length)
            async for chunk in answer.body:
                if (
                    meta_or_none is not None
                    and sliced is None
                    and flight.position + len(chunk) > self.memory.max_object
                ):
                    # Longer than what is held whole, and its length not known before.
                    sliced = self._slices(exchange, None, meta_or_none, None, sent, flight)
                    self._slice(flight, sliced, meta_or_none)
                await flight.feed(chunk)
            if flight.spool is not None:
                flight.spool.finish()
                await flight.spool.settled(SETTLE)
            if sliced is not None and sliced.total is None and meta_or_none is not None:
                sliced.total = meta_or_none.length = flight.position
                self._keep(Stored(key, meta_or_none, b"", sliced), asked_at, began)
            flight.finish()
            body = flight.whole
            if meta_or_none is not None and body is not None:
                meta_or_none.length = len(body)
                self._keep(Stored(key, meta_or_none, body), asked_at, began)
        except BaseException as failure:
            expected = isinstance(failure, (OriginFailure, ConnectionAbortedError, UnusableError))
            if expected:
                clear_traceback(failure)
            flight.fail(failure)
            if sliced is not None and sliced.validator is None and flight.stored is not None:
                self.tiers.drop(key)  # it would never become whole
            if not expected:
                raise
        finally:
            self._forget_flight(key, flight)
            if answer is not None:
                await answer.aclose()
            await self._end(flight, sliced)

    # -- slices ------------------------------------------------------------------------------------------------------

    def _part(self, exchange: Exchange, asked: Span, answer: OriginReply) -> Span | None:
        """What of the body the answer to a range holds, None if it is an answer about the whole.

        :raises UnusableError: if it can be neither.
        """
        if answer.status == 416:
            raise UnusableError
        if answer.status != 206:
            return None
        part = slicing.content_range(answer)
        if part is None or part.first != asked.first or part.last > asked.last:
            raise self._unusable(exchange)
        return part

    def _unusable(self, exchange: Exchange) -> UnusableError:
        if exchange.key is not None:
            self.unsliced.put(exchange.key, True, self.clock() + UNSLICED)
        return UnusableError()

    def _slices(
        self,
        exchange: Exchange,
        stored: Stored | None,
        meta: Meta,
        total: int | None,
        sent: Headers,
        flight: Fill,
    ) -> Slices:
        """How a body is to be sliced: as the one that is stored, if it is the same byte for byte."""
        key, size = exchange.key or "", self.settings.slice
        validator = slicing.strong_validator(meta) if total is not None else None
        generation = ""
        if validator is not None:
            for known in (stored, self.tiers.find(key, lambda: sent, self.clock())):
                old = known.slices if known is not None else None
                if (
                    known is not None
                    and old is not None
                    and (old.validator, old.total, old.size) == (validator, total, size)
                    and not self.routing.ended(key, known.meta.snapshot, known.meta.tags)
                ):
                    generation = old.generation
        refuses = any(n == b"accept-ranges" and v.strip().lower() == b"none" for n, v in meta.headers)
        ranged = not flight.everything and not refuses
        return Slices(key, total, size, generation or os.urandom(8).hex(), validator, ranged)

    def _slice(self, flight: Fill, sliced: Slices, meta: Meta) -> None:
        """Store the flight's body in slices as it comes."""
        flight.store(Spool(self.tiers, sliced, meta, flight.start))
        self.runs.add(sliced, flight)

    async def _end(self, flight: Fill, sliced: Slices | None) -> None:
        """Nothing more comes. The flight still gives what the disk has not written yet."""
        if flight.spool is not None:
            flight.spool.abandon()
            await flight.spool.settled()
        if sliced is not None:
            self.runs.remove(sliced, flight)

    def _ask(self, exchange: Exchange, plan: Plan, stored: Stored, span: Span) -> Fill:
        """Start a fill of missing slices."""
        flight = Fill()
        flight.begin(span.first, span.last + 1)
        sliced = stored.slices
        assert sliced is not None  # noqa: S101 - the callers asked
        self.runs.add(sliced, flight)
        self._start(flight, self._run(flight, exchange, plan, stored.meta, sliced, span))
        return flight

    async def _run(
        self, flight: Fill, exchange: Exchange, plan: Plan, meta: Meta, sliced: Slices, span: Span
    ) -> None:
        answer: OriginReply | None = None
        try:
            failure = self._failure(sliced.key, self.clock())
            if failure is not None:
                raise OriginFailure(*failure)
            extra = [(b"range", b"bytes=%d-%d" % (span.first, span.last))]
            if meta.conditional and sliced.validator is not None:
                extra.append((b"if-range", sliced.validator))
            answer, _, _ = await self._fetch(exchange, plan, "GET", fill=True, extra=extra)
            verdict = slicing.judge(sliced, span, answer, if_range=len(extra) > 1)
            if verdict is slicing.Answer.CHANGED:
                self.tiers.drop(sliced.key)
                raise ChangedError
            if verdict is slicing.Answer.UNUSABLE:
                raise UnusableError
            spool = Spool(self.tiers, sliced, meta, span.first)
            flight.store(spool)
            flight.announce(meta, keep=0, shared=True, length=None)
            async for chunk in answer.body:
                await flight.feed(chunk)
            spool.finish()
            flight.finish()
        except BaseException as failed:
            expected = isinstance(
                failed, (OriginFailure, ConnectionAbortedError, ChangedError, UnusableError)
            )
            if expected:
                clear_traceback(failed)
            flight.fail(failed)
            if not expected:
                raise
        finally:
            if answer is not None:
                await answer.aclose()
            await self._end(flight, sliced)

    def _announce(
        self, flight: Fill, key: str, meta: Meta, *, keep: int = 0, shared: bool, length: int | None
    ) -> None:
        """The flight's head is in. Where it cannot be shared, nobody is to wait for the like of it for a while."""
        if shared:
            self.unshared.drop(key)
        else:
            self._forget_flight(key, flight)
            self.unshared.put(key, True, self.clock() + UNSHARED)
        flight.announce(meta, keep=keep, shared=shared, length=length)

    def _land(
        self, flight: Fill, stored: Stored, asked: int, began: float, result: str, *, shared: bool
    ) -> None:
        """The flight ends with what is stored already, renewed or not."""
        self._keep(stored, asked, began)
        flight.stored = stored
        flight.result = result
        flight.keeps = result == "RefreshHit"
        self._announce(flight, stored.key, stored.meta, shared=shared, length=stored.length)
        flight.finish()

    def _land_stale(self, flight: Fill, site: Site, stored: Stored, began: float, status: int) -> None:
        """The origin failed and what is stored may stand in; it is asked again after ErrorCachingMinTTL (§5.5)."""
        held = freshness.stale_for(stored.meta, self.clock(), error_min_ttl(site, status))
        # It is as old as it was: if it was removed meanwhile, it serves those who wait and is not kept.
        self._land(flight, stored.renewed(held), stored.asked, began, "Hit", shared=True)

    def _forget_flight(self, key: str, flight: Fill) -> None:
        if self.flights.get(key) is flight:
            del self.flights[key]

    async def _fetch(
        self, exchange: Exchange, plan: Plan, method: str, *, fill: bool = False, extra: Headers | None = None
    ) -> tuple[OriginReply, Headers, Origin]:
        """Ask the origin; of an origin group the second one too, if the first fails or answers so (§5.14). Returns
        the answer, the headers that were sent, and the origin that answered.

        What fills the cache is asked for as the cache needs it: the viewer's own conditions and ranges are left out
        and `extra` is put in their place.

        What a failure leaves behind: the key's requests fail likewise for ErrorCachingMinTTL, without asking (§5.6).
        Unless a viewer may have brought it about by asking for a head or a range, which are not in the key: nobody is
        to shut out the others so.
        """
        part = any(name == b"range" for name, _ in extra or ())
        request = exchange.request
        origins = plan.route.origins
        # A body is read from the viewer once, so it can be given to one origin only.
        if method not in FAILED_OVER or (request.body is not None and not fill):
            origins = origins[:1]
        for number, origin in enumerate(origins):
            last = number == len(origins) - 1
            headers = self._origin_headers(exchange, plan, number)
            if fill:
                headers = [h for h in headers if h[0] not in CONDITIONAL] + (extra or [])
            body, length = (None, None) if fill else (request.body, request.length)
            scheme = origin_scheme(origin, request.scheme)
            asked = perf_counter()
            try:
                answer = None
                if self.shields is not None and exchange.shield_headers is None and self.shields.has(origin):
                    kept = body = ReplayableBody(body) if body is not None else None
                    answer = await self.shields.ask(
                        plan, number, exchange.key, method, request, headers, kept, length
                    )
                    if answer is not None and self._outdated(plan.route.site, exchange.key, answer):
                        await answer.aclose()
                        answer = None
                if answer is None:
                    answer = await self.origins.fetch(
                        origin,
                        scheme,
                        method,
                        origin.path + plan.target,
                        headers,
                        body,
                        length,
                        interim=self._interim(exchange, plan),
                    )
            except OriginFailure as failure:
                if not last:
                    clear_traceback(failure)
                    continue
                momentary = failure.status == 503 or failure.reason == "origin_circuit_open"
                if (
                    exchange.key is not None
                    and not momentary
                    and (failure.kind in UNREACHABLE or (fill and not part and failure.kind != UNSENT))
                ):
                    seconds: float = error_min_ttl(plan.route.site, failure.status)
                    if isinstance(failure, RelayedFailure) and failure.seconds:
                        seconds = min(seconds, failure.seconds)
                    until = self.clock() + seconds
                    known = (failure.kind, failure.status, failure.detail, failure.reason)
                    self.failures.put(exchange.key, known, until)
                    if self.arena is not None:
                        self.arena.put_failure(exchange.key, Failure(*known, until, self.routing.number))
                raise
            exchange.upstream = (answer.connect_time, perf_counter() - asked - answer.connect_time)
            if last or answer.status not in plan.route.failover:
                return answer, headers, origin
            await answer.aclose()
        raise AssertionError("a route has at least one origin")

    def _interim(self, exchange: Exchange, plan: Plan) -> Interim | None:
        """What passes the origin's interim answers on to this viewer while it waits, or None if it takes none. Viewers
        who have joined its fill get none: whether they may have its answer is known only from the final head."""
        if exchange.interim is None or exchange.shield_headers is not None:
            return None
        policy = plan.route.response_headers

        def passed(status: int, headers: Headers) -> None:
            if exchange.interim is not None:
                seen = interim_headers(plan.route.behavior, headers)
                exchange.interim(status, seen if policy is None else policy.kept(seen))

        return passed

    def _outdated(self, site: Site, key: str | None, answer: OriginReply) -> bool:
        """Did the parent ask the origin for this before an invalidation that it may not know yet?"""
        told = answer.told
        if key is None or told is None:
            return False
        return self.routing.ended(key, told.snapshot, cache_tags(site.cache_tag_header, answer.headers))

    def _origin_headers(self, exchange: Exchange, plan: Plan, number: int = 0) -> Headers:
        if exchange.shield_headers is not None:
            return exchange.shield_headers
        return origin_headers(
            plan.route.behavior,
            plan.route.origins[number],
            exchange.request,
            request_id=exchange.request_id,
            via=self.via,
            country=self.country,
            restricted=plan.route.keyring is not None,
            guarded=plan.route.site.guarded,
        )

    # -- custom error responses --------------------------------------------------------------------------------------

    async def _custom_error(self, site: Site, exchange: Exchange, reply: Reply) -> Reply:
        """The site's page for this status, if it has one; else the reply as it is (§5.6). Where the page's origin
        answers with something else than the page, the viewer gets that, and where it cannot be asked, the reply."""
        rule = site.error_responses.get(reply.status)
        if rule is None or not rule.page_path:
            return reply
        asked = exchange.request
        request = Request(
            "GET",
            rule.page_path,
            asked.host,
            [(n, v) for n, v in asked.headers if n not in OF_THIS_REQUEST],
            scheme=asked.scheme,
            client_ip=asked.client_ip,
            client_port=asked.client_port,
            version=asked.version,
        )
        inner = Exchange(request, exchange.now, exchange.began, exchange.request_id)
        plan = inner.plan = internal_plan(site, rule.page_path, request)
        inner.key = self._key(plan, request)
        try:
            page = await self.respond_from_cache_or_origin(inner, plan)
        except OriginFailure as failure:
            clear_traceback(failure)
            return reply
        await close_body(reply)
        if page.status == 200:
            page.status = rule.response_code or reply.status
        page.x_cache, page.detail, page.reason = "Error", reply.detail, reply.reason
        if asked.method == "HEAD":
            await close_body(page)
            page.body = b""
        return page

    # -- the record --------------------------------------------------------------------------------------------------

    def log_access(
        self, exchange: Exchange, status: int, sent: int, result: str, detail: str, reason: str = ""
    ) -> None:
        """The answer is out (or the viewer left: `detail` says so). Leaves the access record."""
        request, plan, refusal, grant = exchange.request, exchange.plan, exchange.refusal, exchange.grant
        taken = perf_counter() - exchange.began
        path, _, query = request.target.partition("?")
        route = None
        site = None
        if plan is not None:
            route, query = plan.route, loggable(plan)
            site = route.site
        else:
            if refusal is not None:
                route, site = refusal.route, refusal.site
                reason = reason or refusal.name
            query = redaction.loggable_query(query)
        agent = referer = ""
        for name, value in request.headers:
            if name == b"user-agent":
                agent = shortened(value.decode("latin-1"), LONGEST_AGENT)
            elif name == b"referer":
                referer = shortened(value.decode("latin-1"), LONGEST_REFERER)
        record = Record(
            exchange.now,
            exchange.request_id,
            request.client_ip,
            request.client_port,
            request.method,
            exchange.logged_scheme(status),
            request.host,
            path,
            query,
            request.version,
            status,
            sent,
            int(taken * 1e6),
            result,
            detail,
            "" if site is None else site.distribution.id,
            "" if route is None else route.behavior.path_pattern,
            request.wire_bytes + exchange.received,
            int((exchange.first_byte - exchange.began) * 1e6) if exchange.first_byte else 0,
            agent,
            referer,
            self.country(request.client_ip) if site is not None and site.geo is not None else "",
        )
        if grant is not None:
            self._signed(record, "allowed", grant.key_pair_id, exchange, route)
            record.signed_by = grant.mode
            record.hash_algorithm = grant.hash_name
            record.remembered = grant.remembered
        elif refusal is not None:
            record.verdict = "refused"
            denied = refusal.denied
            if denied is not None:
                self._signed(record, "refused", denied.key_pair_id, exchange, route)
                reason = denied.denial.reason
                record.explanation = denied.detail
        record.reason = reason
        if exchange.explanation:
            record.explanation = exchange.explanation[:LONGEST_EXPLANATION]
        elif request.upgrade and request.upgrade != WEBSOCKET and not record.explanation:
            record.explanation = request.upgrade
        if request.tls is not None:
            record.ssl_protocol, record.ssl_cipher = request.tls
        self.log.add(record)

    def _signed(
        self, record: Record, verdict: str, key_id: str, exchange: Exchange, route: Route | None
    ) -> None:
        record.verdict = verdict
        record.key_pair_id = key_id
        record.verify_us = int(exchange.verify_s * 1e6)
        if route is not None and route.keyring is not None:
            record.key_group = route.keyring.groups.get(key_id, "")
