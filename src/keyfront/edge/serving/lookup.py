"""The cache lookup: a request is answered from a stored response, from a fill in progress, or from the origin."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from copy import copy

from keyfront.edge.cache import slice_reader
from keyfront.edge.cache.fill import Fill
from keyfront.edge.cache.slice_reader import PrefetchedBody, Reader
from keyfront.edge.cache.tiers import Tiers
from keyfront.edge.rules import freshness, respond, vary
from keyfront.edge.rules.cache_key import key_suffix
from keyfront.edge.rules.freshness import Verdict
from keyfront.edge.rules.routing import Plan
from keyfront.edge.rules.slicing import ChangedError, UnusableError
from keyfront.edge.serving.exchange import SHIELD_HIT, Exchange
from keyfront.edge.serving.fills import Filler
from keyfront.edge.serving.origin_fetch import OriginFetcher
from keyfront.edge.serving.pass_through import PassThrough
from keyfront.edge.types.messages import Headers, LostError, Piece, Reply, Request
from keyfront.edge.types.stored import Meta, Stored
from keyfront.errors import clear_traceback

ATTEMPTS = 3
"""Maximum lookups per request when the origin turns out to have another version of what is stored in slices."""


class CacheLookup:
    """Finds the reply to a request whose route is known.

    :param via_id: identifies this edge in Via.
    :param country: returns the country code of an address, empty if unknown.
    """

    def __init__(
        self,
        tiers: Tiers,
        filler: Filler,
        fetcher: OriginFetcher,
        pass_through: PassThrough,
        via_id: bytes,
        country: Callable[[str], str],
    ) -> None:
        self._tiers = tiers
        self._filler = filler
        self._fills = filler.fills
        self._fetcher = fetcher
        self._failures = fetcher.failures
        self._pass_through = pass_through
        self._via_id = via_id
        self._country = country

    def key(self, plan: Plan, request: Request) -> str | None:
        """The cache key of this particular request; None if it bypasses the cache."""
        key = plan.key
        if key is None or not plan.route.selects:
            return key
        return key + key_suffix(plan.route.behavior, request, plan.query, self._country)

    async def respond_from_cache_or_origin(self, exchange: Exchange, plan: Plan) -> Reply:
        """The reply from the cache, from a fill, or directly from the origin.

        :raises OriginFailure: if the origin failed and no stored response can be used instead.
        """
        for _ in range(ATTEMPTS):
            if exchange.key is None:
                exchange.trace.forwarded = "method" if plan.route.cacheable else "bypass"
                break
            try:
                reply = await self._through_cache(exchange, plan, exchange.key)
            except ChangedError as changed:
                clear_traceback(changed)
                continue  # the outdated slices have been dropped
            except UnusableError as unusable:
                clear_traceback(unusable)
                break
            if reply is None:
                break
            fill = exchange.trace.fill
            if fill is not None and fill.from_shield and not exchange.trace.joined and reply.x_cache == "Hit":
                reply.detail = SHIELD_HIT
            return reply
        return await self._pass_through.respond(exchange, plan)

    async def _through_cache(self, exchange: Exchange, plan: Plan, key: str) -> Reply | None:
        """The reply from a stored response or from a fill; None if the request must bypass the cache.

        :raises ChangedError: if the stored response turned out to be outdated: look it up again.
        :raises UnusableError: if the origin's response to a range request is only valid for this viewer.
        """
        request, now, filler = exchange.request, exchange.now, self._filler
        stored = self._tiers.find(key, lambda: self._fetcher.headers(exchange, plan), now)
        if stored is not None:
            verdict = freshness.judge(stored.meta, now)
            if verdict is Verdict.STALE and key not in self._fills and self._failures.get(key, now) is None:
                filler.start(key, exchange, plan, stored)
            if verdict is Verdict.STALE or verdict is Verdict.HIT:
                exchange.trace.fresh_until = stored.meta.fresh_until
                exchange.trace.snapshot = stored.meta.snapshot
                return await self._from_stored(exchange, plan, stored, "Hit")
        failure = self._failures.get(key, now)
        if failure is not None:
            raise failure
        if stored is not None:
            exchange.trace.forwarded = "stale"
        else:
            exchange.trace.forwarded = (
                "vary-miss" if self._tiers.memory.get_any_variant(key) is not None else "uri-miss"
            )
            # If nothing is stored, the origin gets a HEAD request as HEAD, and a range request unchanged if the
            # response cannot be sliced.
            if request.method == "HEAD":
                return None
            if request.header(b"range") is not None and filler.is_unsliced(key, now):
                return None
        return await self._from_origin(exchange, plan, key, stored)

    async def _from_origin(self, exchange: Exchange, plan: Plan, key: str, stored: Stored | None) -> Reply:
        """The reply from a fill: one in progress for the same key if it can be shared, otherwise a new one.

        :param stored: the stored response that must be revalidated, if any.
        """
        alone = self._must_fill_alone(exchange, plan, key)
        joined = None if alone else self._fills.get(key)
        if joined is not None and not joined.accepts_readers():
            joined = None  # part of its body is already gone
        fill = joined or self._filler.start(None if alone else key, exchange, plan, stored)
        token = fill.join()
        exchange.trace.fill, exchange.trace.joined = fill, joined is not None
        try:
            meta = await asyncio.shield(fill.outcome)
            if exchange.trace.joined and not self._may_share(fill, meta, exchange, plan):
                fill.leave(token)
                fill = self._filler.start(None, exchange, plan, stored)
                token = fill.join()
                exchange.trace.fill, exchange.trace.joined = fill, False
                meta = await asyncio.shield(fill.outcome)
            if fill.will_store or fill.stored is not None:
                exchange.trace.fresh_until = meta.fresh_until
            exchange.trace.snapshot = fill.snapshot if fill.stored is None else fill.stored.meta.snapshot
            return await self._from_announced(exchange, plan, fill, token, meta)
        except BaseException:
            fill.leave(token)
            raise

    def _must_fill_alone(self, exchange: Exchange, plan: Plan, key: str) -> bool:
        """Whether this request must neither join a fill nor let others join its own."""
        return (
            plan.route.behavior.forward_cookies.mode != "none"
            or self._filler.is_unshared(key, exchange.now)
            # The request has passed through this edge before, so the fill that it would join may be waiting for this
            # request.
            or self._via_id in (exchange.request.header(b"via") or b"")
        )

    def _may_share(self, fill: Fill, meta: Meta, exchange: Exchange, plan: Plan) -> bool:
        """Whether this request may also use the response of the fill that it has joined."""
        if not fill.shared:
            return False
        return not meta.vary or vary.vary_matches(meta, self._fetcher.headers(exchange, plan))

    async def _from_announced(
        self, exchange: Exchange, plan: Plan, fill: Fill, token: object, meta: Meta
    ) -> Reply:
        """The reply from a fill whose head has arrived."""
        result = "Hit" if exchange.trace.joined and fill.stored is None else fill.result
        headers = [] if exchange.trace.joined else fill.first_headers
        if fill.full_body and not exchange.trace.joined:
            # The origin was asked for a range and sent the whole body, so the edge does the same (§5.10).
            exchange = exchange.without_range()
        if fill.stored is not None:
            reply = await self._from_stored(exchange, plan, fill.stored, result, headers)
            fill.leave(token)
            return reply
        meta = _with_headers(meta, headers)
        whole = fill.whole
        if whole is not None:
            fill.leave(token)
            return respond.answer(exchange.request, meta, whole, exchange.now, result)
        return self._from_fill(exchange, fill, token, meta, result)

    def _from_fill(self, exchange: Exchange, fill: Fill, token: object, meta: Meta, result: str) -> Reply:
        """The reply whose body is that of the fill as it arrives, or parts of it."""
        request, now = exchange.request, exchange.now
        if meta.status != 200 or respond.is_unconditional(request):
            word = result if meta.status < 400 else "Error"
            reply = Reply(meta.status, respond.with_age(meta, now, result), x_cache=word)
            reply.length = fill.length
            body: AsyncIterator[Piece] = fill.read(token)
        elif fill.length is None:
            # Without a known length there are no ranges (§5.10).
            unmodified = respond.unmodified(request, meta, now, result)
            if unmodified is not None:
                fill.leave(token)
                return unmodified
            reply = Reply(meta.status, respond.with_age(meta, now, result), x_cache=result)
            reply.length = None
            body = fill.read(token)
        else:
            reply, parts = respond.layout(request, meta, fill.length, now, result, os.urandom(16).hex())
            if parts is None:
                fill.leave(token)
                return reply
            body = PrefetchedBody(slice_reader.sequence(fill.read(token), parts), lambda: fill.leave(token))
        if request.method == "HEAD":
            fill.leave(token)
        else:
            reply.body = body
        return reply

    async def _from_stored(
        self, exchange: Exchange, plan: Plan, stored: Stored, result: str, headers: Headers | None = None
    ) -> Reply:
        """The reply from a stored response; missing slices are fetched. The first pieces of the body are read here, so
        that immediate failures occur before the viewer gets the head of a reply.

        :param headers: replace the stored headers for this viewer.
        :raises ChangedError: if slices are missing and can no longer be fetched.
        """
        request, now = exchange.request, exchange.now
        meta = _with_headers(stored.meta, headers)
        if stored.slices is None:
            return respond.answer(request, meta, stored.body, now, result)
        sliced = stored.slices
        assert sliced.total is not None  # noqa: S101 - what is stored has come to its end
        reply, parts = respond.layout(request, meta, sliced.total, now, result, os.urandom(16).hex())
        if not parts or request.method == "HEAD":
            return reply
        reader = Reader(
            self._tiers,
            self._filler.slice_fills,
            sliced,
            lambda span: self._filler.start_slices(exchange, plan, stored, span),
        )
        first = next(part[0] for part in parts if not isinstance(part, bytes))
        if result == "Hit" and not reader.has(first):
            reply.x_cache = reply.detail = "Miss"
        if not reader.complete(parts):
            self._tiers.drop(stored.key)
            raise ChangedError
        try:
            reply.body = await PrefetchedBody.begin(
                reader.body(parts), 1 if isinstance(parts[0], tuple) else 2
            )
        except (LostError, ChangedError) as error:
            self._tiers.drop(stored.key)
            clear_traceback(error)  # the failed fill still references it
            raise ChangedError from None
        return reply


def _with_headers(meta: Meta, headers: Headers | None) -> Meta:
    """The same metadata with other headers, if any are given."""
    if not headers:
        return meta
    other = copy(meta)
    other.headers = tuple([h for h in headers if h[0] != b"age"])
    return other
