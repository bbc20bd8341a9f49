"""Fills: requests to the origin whose response goes into the cache and to every reader that waits for it.

A fill has two sides. `Fill` (`cache/fill.py`) is what readers see: the head once it has arrived, then the body as it
arrives. This module has the feeding side: one task per fill, independent of the viewer that started it. `_KeyFill`
fetches the response for a cache key, either whole or, for a large body, the first slices that a viewer requests.
`_SliceFill` fetches slices that are missing from a stored response.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from time import monotonic_ns
from typing import Final

from keyfront.edge.cache.fill import Fill, FillsInProgress
from keyfront.edge.cache.memory import SETTLE
from keyfront.edge.cache.slice_reader import SliceFills
from keyfront.edge.cache.spool import Spool
from keyfront.edge.cache.tiers import Tiers
from keyfront.edge.rules import encoding, freshness, slicing
from keyfront.edge.rules.encoding import accepted_encoding
from keyfront.edge.rules.invalidation import cache_tags
from keyfront.edge.rules.routing import Plan
from keyfront.edge.rules.slicing import ChangedError, Span, UnusableError
from keyfront.edge.rules.viewer_response import viewer_headers
from keyfront.edge.serving.configuration import ActiveConfiguration
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.serving.origin_fetch import OriginFetcher, error_min_ttl
from keyfront.edge.serving.purge import Purger
from keyfront.edge.transform.compressors import Compressors
from keyfront.edge.types.messages import Headers, OriginReply
from keyfront.edge.types.shield import ShieldAnswer
from keyfront.edge.types.stored import Meta, Slices, Stored
from keyfront.edge.types.ttl_map import TtlMap
from keyfront.errors import OriginFailure, clear_traceback
from keyfront.signing.tables import Budget

UNSLICED: Final = 60.0
"""Seconds for which range requests for a response that cannot be stored in slices are passed to the origin
unchanged."""
UNSHARED: Final = 10.0
"""Seconds for which requests for a key do not wait for each other, after a response that could not be shared."""


class Filler:
    """Starts fills and holds the state that they share. `fills` are the fills in progress that requests may join,
    `slice_fills` all fills of sliced bodies.

    :param slice_size: bytes of a slice of a body that is too large to be stored whole.
    """

    def __init__(  # noqa: PLR0913 - the parts of the edge that fills work with, each by its own name
        self,
        active: ActiveConfiguration,
        tiers: Tiers,
        fills: FillsInProgress,
        purger: Purger,
        fetcher: OriginFetcher,
        clock: Callable[[], float],
        slice_size: int,
        tables: Budget,
    ) -> None:
        self.active = active
        self.tiers = tiers
        self.fills = fills
        self.purger = purger
        self.fetcher = fetcher
        self.clock = clock
        self.slice_size = slice_size
        self.slice_fills = SliceFills()
        self.compressors = Compressors()
        self._unshared: TtlMap[bool] = TtlMap(budget=tables)
        self._unsliced: TtlMap[bool] = TtlMap(budget=tables)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, key: str | None, exchange: Exchange, plan: Plan, stored: Stored | None) -> Fill:
        """Start a fill for the exchange's key.

        :param key: the key under which requests may join the fill; None if it is for this viewer only.
        :param stored: the stored response that must be revalidated, if any.
        """
        fill = Fill()
        if key is not None:
            self.fills.add(key, fill)
        self._run(fill, _KeyFill(self, fill, exchange, plan, stored))
        return fill

    def start_slices(self, exchange: Exchange, plan: Plan, stored: Stored, span: Span) -> Fill:
        """Start a fill for slices that are missing from a stored response."""
        fill = Fill()
        fill.begin(span.first, span.last + 1)
        sliced = stored.slices
        assert sliced is not None  # noqa: S101 - the callers have looked
        self.slice_fills.add(sliced, fill)
        self._run(fill, _SliceFill(self, fill, exchange, plan, stored.meta, sliced, span))
        return fill

    def _run(self, fill: Fill, task: _KeyFill | _SliceFill) -> None:
        fill.launch(task.run())
        if fill.task is not None:
            self._tasks.add(fill.task)
            fill.task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Cancel all fills."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.compressors.close()

    # -- what is remembered about keys -------------------------------------------------------------------------------

    def is_unshared(self, key: str, now: float) -> bool:
        """Whether the last response for this key could not be shared, so that requests must not wait for each other."""
        return self._unshared.get(key, now) is not None

    def is_unsliced(self, key: str, now: float) -> bool:
        """Whether the origin's responses to range requests for this key cannot be stored."""
        return self._unsliced.get(key, now) is not None

    def mark_unsliced(self, key: str) -> None:
        self._unsliced.put(key, True, self.clock() + UNSLICED)

    # -- steps shared by both kinds of fills -------------------------------------------------------------------------

    def announce(
        self, fill: Fill, key: str, meta: Meta, *, keep: int = 0, shared: bool, length: int | None
    ) -> None:
        """Announce the head, which has arrived. If the response cannot be shared, requests for the key do not wait for
        each other for a while.

        :param keep: bytes of the body that stay in memory for readers that join later.
        :param length: bytes of the body, None if unknown.
        """
        if shared:
            self._unshared.drop(key)
        else:
            self.fills.remove(key, fill)
            self._unshared.put(key, True, self.clock() + UNSHARED)
        fill.announce(meta, keep=keep, shared=shared, length=length)

    def store_in_slices(self, fill: Fill, sliced: Slices, meta: Meta) -> None:
        """Store the fill's body in slices as it arrives."""
        fill.store(Spool(self.tiers, sliced, meta, fill.start))
        self.slice_fills.add(sliced, fill)

    async def end(self, fill: Fill, sliced: Slices | None) -> None:
        """No more data will arrive. The fill continues to supply readers with what has not been written to disk yet."""
        if fill.spool is not None:
            fill.spool.abandon()
            await fill.spool.settled()
        if sliced is not None:
            self.slice_fills.remove(sliced, fill)


class _KeyFill:
    """One fill of a cache key. `run` lists its steps: request the response from the origin; then either the stored
    response was not modified, or it is served in place of a failed origin, or the new response is admitted to the cache
    and its body is pumped to all readers."""

    __slots__ = (
        "_answer",
        "_began",
        "_exchange",
        "_fill",
        "_filler",
        "_key",
        "_meta",
        "_method",
        "_origin",
        "_part",
        "_plan",
        "_requested_ns",
        "_sent",
        "_shield",
        "_sliced",
        "_snapshot",
        "_span",
        "_stored",
    )

    def __init__(
        self, filler: Filler, fill: Fill, exchange: Exchange, plan: Plan, stored: Stored | None
    ) -> None:
        self._filler = filler
        self._fill = fill
        self._exchange = exchange
        self._plan = plan
        self._stored = stored
        key = exchange.key
        assert key is not None  # noqa: S101 - only what has a key is filled
        self._key = key
        self._method = "GET" if exchange.request.method == "HEAD" else exchange.request.method
        self._span: Span | None = None  # the range requested from the origin
        self._part: Span | None = None  # the range that the origin has sent
        self._answer: OriginReply | None = None
        self._shield: ShieldAnswer | None = None  # the Origin Shield's metadata for its response
        self._meta: Meta | None = None  # metadata of what is stored; None if nothing is
        self._sliced: Slices | None = None

    async def run(self) -> None:
        fill = self._fill
        try:
            answer = await self._request()
            stored = self._stored
            if answer is None:
                return  # the stored response is served
            if stored is not None and answer.status == 304:
                self._not_modified(stored, answer)
                return
            if stored is not None and freshness.serve_stale_on_error(
                stored.meta, self._filler.clock(), answer.status
            ):
                self._serve_stale(stored, answer.status)
                return
            self._admit(answer)
            await self._pump()
        except BaseException as failure:
            expected = isinstance(failure, (OriginFailure, ConnectionAbortedError, UnusableError))
            if expected:
                clear_traceback(failure)
            self._fail(failure)
            if not expected:
                raise
        finally:
            self._filler.fills.remove(self._key, fill)
            if self._answer is not None:
                await self._answer.aclose()
            await self._filler.end(fill, self._sliced)

    # -- request -----------------------------------------------------------------------------------------------------

    async def _request(self) -> OriginReply | None:
        """The origin's response, or None if the origin has failed and the stored response is served instead.

        :raises OriginFailure: if the origin has failed and no stored response can be served.
        """
        filler, exchange, stored = self._filler, self._exchange, self._stored
        routing = filler.active.routing
        self._began, self._requested_ns = filler.clock(), monotonic_ns()
        self._snapshot = self._fill.snapshot = routing.number
        if stored is not None and routing.is_invalidated(self._key, stored.meta.snapshot, stored.meta.tags):
            # Invalidated while this request waited: the stored response is neither revalidated nor served stale.
            stored = self._stored = None
        conditions = freshness.revalidation_headers(stored.meta) if stored is not None else []
        if stored is None or (stored.slices is not None and stored.slices.ranged):
            self._span = slicing.first_range(exchange.request, filler.slice_size)
        span = self._span
        ranged = [(b"range", b"bytes=%d-%d" % (span.first, span.last))] if span is not None else []
        try:
            answer = await self._fetch(conditions + ranged)
            if (
                stored is not None
                and answer.status == 304
                and not freshness.confirms(stored.meta, answer.headers)
            ):
                await answer.aclose()
                answer = await self._fetch(ranged)
        except OriginFailure as failure:
            if stored is None or not freshness.serve_stale_on_error(stored.meta, filler.clock(), None):
                raise
            clear_traceback(failure)
            self._serve_stale(stored, failure.status)
            return None
        self._fill.status = answer.status
        shield = self._shield = answer.shield_answer
        if shield is not None:
            # The shield's response is as old as the shield's own request to the origin.
            self._snapshot = self._fill.snapshot = min(self._snapshot, shield.snapshot)
            self._fill.from_shield = shield.hit
        return answer

    async def _fetch(self, extra: Headers) -> OriginReply:
        self._answer, self._sent, self._origin = await self._filler.fetcher.fetch(
            self._exchange, self._plan, self._method, fill=True, extra=extra
        )
        return self._answer

    # -- serve what is stored ----------------------------------------------------------------------------------------

    def _not_modified(self, stored: Stored, answer: OriginReply) -> None:
        """The origin has confirmed the stored response (304)."""
        behavior, site, now = self._plan.route.behavior, self._plan.route.site, self._filler.clock()
        meta = freshness.revalidated(behavior, stored.meta, answer.headers, now, self._began, self._sent)
        meta = freshness.capped_to(meta, now, self._shield.fresh if self._shield is not None else None)
        meta.snapshot = self._snapshot
        meta.tags = cache_tags(site.cache_tag_header, answer.headers) or stored.meta.tags
        self._fill.will_store = True
        shared = freshness.can_coalesce(behavior, meta, now)
        self._finish_with_stored(stored.renewed(meta), self._requested_ns, "RefreshHit", shared=shared)

    def _serve_stale(self, stored: Stored, status: int) -> None:
        """The origin has failed and the stored response is served instead. The origin is contacted again after
        ErrorCachingMinTTL (§5.5)."""
        seconds = error_min_ttl(self._plan.route.site, status)
        meta = freshness.stale_for(stored.meta, self._filler.clock(), seconds)
        # Its age has not changed: if it was removed meanwhile, it serves the waiting requests and is not stored.
        self._finish_with_stored(stored.renewed(meta), stored.requested_ns, "Hit", shared=True)

    def _finish_with_stored(self, stored: Stored, requested_ns: int, result: str, *, shared: bool) -> None:
        filler, fill = self._filler, self._fill
        filler.purger.store_unless_purged(stored, requested_ns, self._began)
        fill.stored = stored
        fill.result = result
        filler.announce(fill, self._key, stored.meta, shared=shared, length=stored.length)
        fill.finish()

    # -- admit -------------------------------------------------------------------------------------------------------

    def _admit(self, answer: OriginReply) -> None:
        """Decide whether and how the response is stored, and announce its head to the readers.

        :raises UnusableError: if it responds to a range request in a way that cannot be stored.
        """
        filler, fill, route = self._filler, self._fill, self._plan.route
        site, behavior, now = route.site, route.behavior, filler.clock()
        answer, partial = self._take_part(answer)
        coding = b""
        if not partial and encoding.compressible(behavior, answer.status, answer.headers, answer.length):
            coding = encoding.coding_for(accepted_encoding(behavior, self._exchange.request))
            answer, coding = filler.compressors.encoded(answer, coding)
            self._answer = answer
        headers = encoding.represented(viewer_headers(behavior, answer.headers), coding)
        error = site.error_responses.get(answer.status)
        meta = freshness.admit(
            behavior,
            error.min_ttl if error is not None else None,
            self._method,
            freshness.ReceivedResponse(
                answer.status, answer.headers, self._sent, self._began, now, answer.reason, coding
            ),
            self._origin,
        )
        total = self._part.total if self._part is not None else answer.length
        if total is not None and total > slicing.FARTHEST:
            meta = None
        if partial and (meta is None or slicing.strong_validator(meta) is None):
            raise self._unusable()
        if answer.status >= 400:
            fill.result = "Error"
        elif fill.from_shield:
            fill.result = "Hit"
        if meta is None:
            meta = freshness.uncached_meta(
                answer.status, headers, answer.headers, now, reason=answer.reason, coding=coding
            )
            filler.announce(fill, self._key, meta, shared=False, length=answer.length)
            return
        if self._shield is not None:
            meta = freshness.capped_to(meta, now, self._shield.fresh)
        meta.snapshot = self._snapshot
        meta.tags = cache_tags(site.cache_tag_header, answer.headers)
        if any(name == b"set-cookie" for name, _ in answer.headers):
            # no-cache="Set-Cookie": the viewer that fills the cache gets the cookie, no other viewer does (§5.7).
            fill.first_headers = headers
        fill.will_store = True
        self._meta = meta
        shared = freshness.can_coalesce(behavior, meta, now)
        whole = filler.tiers.memory.max_object
        if total is not None and (partial or total > whole):
            self._begin_slices(meta, total, shared=shared)
        else:
            filler.announce(fill, self._key, meta, keep=whole, shared=shared, length=answer.length)

    def _take_part(self, answer: OriginReply) -> tuple[OriginReply, bool]:
        """The response in the form of one for the whole body, and whether it contains only part of that body.

        :raises UnusableError: if it is neither the requested range nor the whole body.
        """
        span = self._span
        if span is None:
            return answer, False
        self._fill.full_body = answer.status == 200
        if answer.status == 416:
            raise UnusableError
        if answer.status != 206:
            return answer, False
        part = self._part = slicing.content_range(answer)
        if part is None or part.first != span.first or part.last > span.last:
            raise self._unusable()
        answer = self._answer = slicing.as_whole(answer, part)
        return answer, part.last - part.first + 1 < part.total

    def _unusable(self) -> UnusableError:
        self._filler.mark_unsliced(self._key)
        return UnusableError()

    def _begin_slices(self, meta: Meta, total: int, *, shared: bool) -> None:
        """Store a body of `total` bytes in slices, starting with what the origin sends now."""
        filler, fill, part = self._filler, self._fill, self._part
        meta.length = total
        sliced = self._sliced = self._slices(meta, total, self._stored)
        fill.begin(part.first if part is not None else 0, part.last + 1 if part is not None else total)
        filler.store_in_slices(fill, sliced, meta)
        stored = fill.stored = Stored(self._key, meta, b"", sliced)
        # Other workers may find it immediately if they can fetch missing slices from the origin, otherwise once it is
        # complete.
        refetches = sliced.validator is not None and sliced.ranged
        self._store(stored, share=refetches)
        if not refetches:
            # Not `self._store`: that would create a reference cycle with the fill.
            store = filler.purger.store_unless_purged
            fill.before_end = partial(store, stored, self._requested_ns, self._began)
        filler.announce(fill, self._key, meta, shared=shared, length=total)

    def _slices(self, meta: Meta, total: int | None, stored: Stored | None) -> Slices:
        """How the body is sliced: in the same way as a stored one that is identical byte for byte."""
        filler, key, size = self._filler, self._key, self._filler.slice_size
        validator = slicing.strong_validator(meta) if total is not None else None
        generation = ""
        if validator is not None:
            for known in (stored, filler.tiers.find(key, lambda: self._sent, filler.clock())):
                old = known.slices if known is not None else None
                if (
                    known is not None
                    and old is not None
                    and (old.validator, old.total, old.size) == (validator, total, size)
                    and not filler.active.is_invalidated(key, known.meta.snapshot, known.meta.tags)
                ):
                    generation = old.generation
        refuses = any(n == b"accept-ranges" and v.strip().lower() == b"none" for n, v in meta.headers)
        ranged = not self._fill.full_body and not refuses
        return Slices(key, total, size, generation or os.urandom(8).hex(), validator, ranged)

    def _store(self, stored: Stored, *, share: bool = True) -> None:
        self._filler.purger.store_unless_purged(stored, self._requested_ns, self._began, share=share)

    # -- pump --------------------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Feed the body to the readers and store it."""
        fill, meta, answer = self._fill, self._meta, self._answer
        assert answer is not None  # noqa: S101 - it was admitted
        whole = self._filler.tiers.memory.max_object
        async for chunk in answer.body:
            if meta is not None and self._sliced is None and fill.position + len(chunk) > whole:
                # Of unknown length, and longer than the limit for storing it whole.
                self._sliced = self._slices(meta, None, None)
                self._filler.store_in_slices(fill, self._sliced, meta)
            await fill.feed(chunk)
        if fill.spool is not None:
            fill.spool.finish()
            await fill.spool.settled(SETTLE)
        sliced = self._sliced
        if sliced is not None and sliced.total is None and meta is not None:
            sliced.total = meta.length = fill.position
            self._store(Stored(self._key, meta, b"", sliced))
        fill.finish()
        body = fill.whole
        if meta is not None and body is not None:
            meta.length = len(body)
            self._store(Stored(self._key, meta, body))

    def _fail(self, failure: BaseException) -> None:
        self._fill.fail(failure)
        sliced = self._sliced
        if sliced is not None and sliced.validator is None and self._fill.stored is not None:
            self._filler.tiers.drop(self._key)  # its missing part could never be fetched


class _SliceFill:
    """One fill for slices that are missing from a stored response."""

    __slots__ = ("_answer", "_exchange", "_fill", "_filler", "_meta", "_plan", "_sliced", "_span")

    def __init__(
        self,
        filler: Filler,
        fill: Fill,
        exchange: Exchange,
        plan: Plan,
        meta: Meta,
        sliced: Slices,
        span: Span,
    ) -> None:
        self._filler = filler
        self._fill = fill
        self._exchange = exchange
        self._plan = plan
        self._meta = meta
        self._sliced = sliced
        self._span = span
        self._answer: OriginReply | None = None

    async def run(self) -> None:
        fill = self._fill
        try:
            answer = await self._request()
            spool = Spool(self._filler.tiers, self._sliced, self._meta, self._span.first)
            fill.store(spool)
            fill.announce(self._meta, keep=0, shared=True, length=None)
            async for chunk in answer.body:
                await fill.feed(chunk)
            spool.finish()
            fill.finish()
        except BaseException as failure:
            expected = isinstance(
                failure, (OriginFailure, ConnectionAbortedError, ChangedError, UnusableError)
            )
            if expected:
                clear_traceback(failure)
            fill.fail(failure)
            if not expected:
                raise
        finally:
            if self._answer is not None:
                await self._answer.aclose()
            await self._filler.end(fill, self._sliced)

    async def _request(self) -> OriginReply:
        """The origin's response, if it is the requested range of exactly the stored version.

        :raises OriginFailure: if the origin fails, or failed for the key a short time ago.
        :raises ChangedError: if the origin now has another version.
        :raises UnusableError: if it responds with anything else.
        """
        filler, sliced, span = self._filler, self._sliced, self._span
        failure = filler.fetcher.failures.get(sliced.key, filler.clock())
        if failure is not None:
            raise failure
        extra = [(b"range", b"bytes=%d-%d" % (span.first, span.last))]
        if self._meta.conditional and sliced.validator is not None:
            extra.append((b"if-range", sliced.validator))
        fetched = await filler.fetcher.fetch(self._exchange, self._plan, "GET", fill=True, extra=extra)
        answer = self._answer = fetched.answer
        verdict = slicing.check_answer(sliced, span, answer, if_range=len(extra) > 1)
        if verdict is slicing.Answer.CHANGED:
            filler.tiers.drop(sliced.key)
            raise ChangedError
        if verdict is slicing.Answer.UNUSABLE:
            raise UnusableError
        return answer
