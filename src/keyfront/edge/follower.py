"""Follows the feed: applies each snapshot to the edge and reports what the edge obeys and counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from keyfront.edge.cache.purge_log import PurgeLog
from keyfront.edge.cache.removals import Removal
from keyfront.edge.logs.counters import sums
from keyfront.edge.serving.edge import Edge
from keyfront.errors import SnapshotRefused
from keyfront.fleet.file_feed import FileFeed

logger = logging.getLogger("keyfront.edge")

POLL = 0.05
"""Seconds between two looks at the feed; a look without news is one `stat`."""


REPORT = 1.0
"""Seconds between two reports without news, and between two looks at certificates and credentials."""


class Follower:
    """What a worker does besides answering: it obeys a feed and reports to it under its name, hears from others what
    was removed though it has no request, and looks after its operator's credentials for origins."""

    def __init__(
        self,
        edge: Edge,
        feed: Path,
        data: Path,
        name: str,
        connections: Callable[[], int],
        region: str = "",
    ) -> None:
        self._edge = edge
        self._feed = FileFeed(feed, region)
        self._changes = PurgeLog(data / "changes", edge.segment.name)
        edge.purger.on_unsafe_change = self._changes.append
        self._name = name
        self._connections = connections
        self._refused = ""
        self._run = os.urandom(12).hex()
        self.reports = True
        """Could the last report be written?"""
        self.progress: Callable[[], None] = lambda: None
        """Called again and again while a snapshot is taken over, which takes seconds if it is large."""

    def look(self) -> bool:
        """Take over what was published since, if it can be accepted. True if there is something to report."""
        edge = self._edge
        edge.memory.poll_removals()
        for key, query in self._changes.poll():
            edge.purger.purge_path(Removal(key, query))
            logger.debug("purge applied")
        try:
            snapshot = self._feed.poll(edge.routing.snapshot if edge.routing.number else None)
        except SnapshotRefused as why:
            self._refused = str(why)
            logger.warning("%s refused a snapshot and keeps the old one: %s", self._name, why)
            return True
        self.progress()
        if snapshot is None:
            return False
        self._refused = ""
        began = time.perf_counter()
        edge.use(snapshot, self.progress)
        logger.info(
            "snapshot applied",
            extra={
                "snapshot": snapshot.number,
                "distributions": len(snapshot.distributions),
                "keys": len(snapshot.public_keys),
                "ms": round((time.perf_counter() - began) * 1000, 1),
            },
        )
        self.progress()
        return True

    def report(self) -> None:
        edge = self._edge
        disk, arena = edge.tiers.disk, edge.tiers.arena
        counted = sums(
            edge.log.counts,
            connections=self._connections(),
            cache=(edge.memory.bytes, len(edge.memory), edge.memory.evictions),
            lost=edge.log.lost,
            disk=(disk.used, disk.evictions) if disk is not None else (0, 0),
            shared=arena.counts if arena is not None else (0, 0, 0),
            run=self._run,
            limited=edge.reached.counts,
            gauges=edge.gauges(),
            websockets=(edge.websockets.taken, edge.websockets.handshakes, edge.websockets.opened),
        )
        try:
            self._feed.report(
                self._name, edge.routing.number, refused=self._refused, at=time.time(), counters=counted
            )
            self.reports = True
        except OSError as error:
            if self.reports:  # once, not every second
                logger.warning("%s cannot report: %s", self._name, error)
            self.reports = False

    async def follow(self, stop: asyncio.Event, besides: Callable[[], object] | None = None) -> None:
        """Look and report until `stop` is set. `besides` is called about once a second."""
        clock = asyncio.get_running_loop().time
        reported = clock()
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), POLL)
            except TimeoutError:
                pass
            due = clock() - reported >= REPORT
            if due:
                self._edge.fetcher.access.poll()
                self._edge.log.retry()
                if besides is not None:
                    besides()
            if self.look() or due:
                self.report()
                reported = clock()

    def leave(self) -> None:
        """Take the report away, with the last counts in it: this edge is no longer one."""
        self.report()
        with contextlib.suppress(OSError):  # it goes stale in some seconds
            self._feed.remove_report(self._name)
        self._changes.close()
