"""Purges: invalidations in a snapshot, unsafe methods, and reports from other edges and workers.

A response that was requested from the origin before a purge is not stored after it. Fills in progress are not aborted,
because the viewers that wait for them made their requests before the purge. But no further request joins these fills,
and their responses are not stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from keyfront.edge.cache.fill import FillsInProgress
from keyfront.edge.cache.removals import Removal
from keyfront.edge.cache.tiers import Tiers
from keyfront.edge.rules import freshness
from keyfront.edge.rules.cache_key import query_part
from keyfront.edge.rules.decide import internal_plan
from keyfront.edge.rules.routing import Plan
from keyfront.edge.serving.configuration import ActiveConfiguration
from keyfront.edge.serving.exchange import Exchange
from keyfront.edge.types.messages import OriginReply, Request
from keyfront.edge.types.stored import Stored
from keyfront.model.snapshot import Snapshot

logger = logging.getLogger("keyfront.edge")

SWEPT_AT_ONCE: Final = 200
"""Stored responses that the sweep after an invalidation examines before it yields to the event loop: about a
millisecond of work."""


class Purger:
    """Removes responses from all tiers, and stores those that were not purged while they were fetched."""

    def __init__(
        self,
        active: ActiveConfiguration,
        tiers: Tiers,
        fills: FillsInProgress,
        clock: Callable[[], float],
    ) -> None:
        self._active = active
        self._tiers = tiers
        self._fills = fills
        self._clock = clock
        self._removals = tiers.memory.removals
        self.on_unsafe_change: Callable[[str, str], None] | None = None
        """Called with a path's key and the query part of the key when an unsafe request has changed that resource. It
        notifies edges that use the same data folder but share no memory with this one (`cache/purge_log.py`)."""

    def use(self, snapshot: Snapshot, progress: Callable[[], None]) -> None:
        """Activate a snapshot and end what it invalidates."""
        active, memory = self._active, self._tiers.memory
        before = active.routing.number
        active.replace(snapshot, progress)
        if before and active.routing.invalidated_since(before):
            logger.info("invalidations applied", extra={"snapshot": active.routing.number})
            self._fills.remove_where(lambda key: active.may_be_invalidated(key, before))
            sweeping = memory.sweeping
            memory.start_sweep(active.routing.is_invalidated)
            if not sweeping:
                self._sweep()

    def _sweep(self) -> None:
        """Free the memory of invalidated responses, a piece at a time. Lookups already no longer return any of them."""
        if not self._tiers.memory.sweep_some(SWEPT_AT_ONCE):
            asyncio.get_running_loop().call_soon(self._sweep)

    def store_unless_purged(
        self, stored: Stored, requested_ns: int, began: float, *, share: bool = True
    ) -> None:
        """Store a response in every tier, unless it was purged after it was requested from the origin.

        :param requested_ns: when it was requested, in nanoseconds of the machine's monotonic clock.
        :param began: the same time in epoch seconds.
        :param share: if false, store it in this worker's memory only.
        """
        meta = stored.meta
        if self._removals.is_removed(stored.key, requested_ns) or self._active.is_invalidated(
            stored.key, meta.snapshot, meta.tags
        ):
            return
        stored.requested_ns = requested_ns
        self._tiers.put(stored, began, share=share)

    def invalidate_unsafe(self, exchange: Exchange, plan: Plan, answer: OriginReply) -> None:
        """Purge what a successful unsafe request has changed: the request's own URL, and the URLs of the same origin
        that the response names in Location and Content-Location (RFC 9111 §4.4)."""
        request, site = exchange.request, plan.route.site
        path = request.target.partition("?")[0]
        own = path + "?" + plan.query if plan.query else path
        for target in freshness.changed_targets(request.scheme, request.host, own, answer.headers):
            get = Request("GET", target, request.host, [], scheme=request.scheme)
            changed = internal_plan(site, target, get)
            if changed.key is not None:
                part = query_part(changed.route.behavior, changed.query)
                if self._tiers.disk is not None:
                    self._tiers.disk.mark_changed(changed.key, self._clock())
                self.purge_path(Removal(changed.key, part))
                if self.on_unsafe_change is not None:
                    self.on_unsafe_change(changed.key, part)

    def purge_path(self, removal: Removal) -> None:
        """Purge a path that has changed at its origin, in all workers of the machine."""
        self._tiers.memory.remove(removal)
        self._fills.remove_path(removal.key)
        self._removals.publish(removal)
