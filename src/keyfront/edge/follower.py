"""The follower of the feed: applies each snapshot to the edge, and reports which snapshot is in effect and what was
counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from keyfront.edge.cache.purge_log import PurgeLog
from keyfront.edge.cache.removals import Removal
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.measures import measure
from keyfront.errors import SnapshotRefused
from keyfront.fleet.file_feed import FileFeed

logger = logging.getLogger("keyfront.edge")

POLL: Final = 0.05
"""Seconds between two polls of the feed; a poll that finds nothing new is one `stat`."""
REPORT: Final = 1.0
"""Seconds between two reports when nothing has changed, and between two polls of certificates and credentials."""


class FollowerSettings(NamedTuple):
    """What an edge follows, and how it reports.

    `data` is the data folder; `feed` is the folder of the feed if it is elsewhere. `name` is unique among the edges of
    a feed. `region` is the edge's region, empty if it has none.
    """

    name: str
    data: Path
    feed: Path | None = None
    region: str = ""


class Follower:
    """What a worker does besides serving requests: it follows a feed and reports to it, applies the purges of other
    workers even when it has no requests, and polls the operator's credentials for origins.

    :param connections: returns how many connections are open, for the reports.
    """

    def __init__(self, edge: Edge, settings: FollowerSettings, connections: Callable[[], int]) -> None:
        self._edge = edge
        self._feed = FileFeed(settings.feed or settings.data, settings.region)
        self._changes = PurgeLog(settings.data / "changes", edge.segment.name)
        edge.purger.on_unsafe_change = self._changes.append
        edge.health.confirmed_at = self._confirmed_at
        self._name = settings.name
        self._connections = connections
        self._refused = ""
        self._refused_at = 0.0
        self._run = os.urandom(12).hex()
        self.reports = True
        """Whether the last report was written successfully."""
        self.progress: Callable[[], None] = lambda: None
        """Called repeatedly while a snapshot is applied, which takes seconds for a large snapshot."""

    def poll(self) -> bool:
        """Apply what was published since the last poll, if it is acceptable. Returns whether there is something to
        report."""
        edge = self._edge
        edge.memory.poll_removals()
        for key, query in self._changes.poll():
            edge.purger.purge_path(Removal(key, query))
            logger.debug("purge applied")
        try:
            snapshot = self._feed.poll(edge.routing.snapshot if edge.routing.number else None)
        except SnapshotRefused as why:
            self._refused, self._refused_at = str(why), time.time()
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

    def _confirmed_at(self) -> float:
        """When the snapshot in use was last known to be the latest (epoch seconds)."""
        at = self._feed.confirmed_at()
        return min(at, self._refused_at) if self._refused else at

    def report(self) -> None:
        """Write the report: the snapshot that the edge follows, or why it rejected one, and its counters."""
        edge = self._edge
        measure(edge, self._connections(), self._confirmed_at())
        edge.log.counts.table.measured(time.monotonic())
        ledger = edge.log.ledger
        credentials = [] if ledger is None else ledger.report()
        counted = msgspec.structs.replace(edge.log.counts.sums(), run=self._run, credentials=credentials)
        try:
            self._feed.report(
                self._name, edge.routing.number, refused=self._refused, at=time.time(), counters=counted
            )
            self.reports = True
        except OSError as error:
            if self.reports:  # once, not every second
                logger.warning("%s cannot report: %s", self._name, error)
            self.reports = False

    async def follow(self, stop: asyncio.Event, also: Callable[[], object] | None = None) -> None:
        """Poll and report until `stop` is set. `also` is called about once a second."""
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
                if also is not None:
                    also()
            if self.poll() or due:
                self.report()
                reported = clock()

    def leave(self) -> None:
        """Write the final counters and remove the report: this edge has ended."""
        self.report()
        self._edge.log.counts.table.measured(0.0)
        with contextlib.suppress(OSError):  # the report expires within seconds
            self._feed.remove_report(self._name)
        self._changes.close()
