"""A replica: one of the control planes that share a store. It publishes commits, its own and those of others, to its
edges, and reports to the others which snapshots its edges use.

Every snapshot has a number and a creation time; both are in the store, and the snapshot itself can be compiled from the
store's rows. So control planes need not communicate with each other. Each one

- picks up what others have committed, at the start of each of its own writes and several times a second (`follow`), by
  compiling and publishing it for its own edges;
- records in a shared store which of its edges are live and which snapshots they use.

If the store is behind the edges (it was restored from a backup) or differs from what they have, the control plane
creates a new snapshot with a number above both, because edges refuse to go back.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterable, Mapping

from keyfront.control.publish.compiler import Compiler
from keyfront.control.publish.progress import DeploymentProgress
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import ApiError, KeyfrontError, SettingsError
from keyfront.fleet.regions import Regions
from keyfront.model.exposure import exposed_pages
from keyfront.model.invalidation import carry
from keyfront.model.kinds import DISTRIBUTION, ETAG
from keyfront.model.residency import warnings
from keyfront.model.snapshot import EMPTY, Invalidation, Snapshot, differ

log = logging.getLogger("keyfront.control")

REPORT_AGAIN = 1.0
"""Seconds after which unchanged reports of edges are written to the store again."""


class Replica:
    """Publishes snapshots. Hold `lock` while making or publishing a snapshot; acquire it before a transaction, never
    inside one.

    :param name: this control plane's name in the store, new at each start so that its edges are not mistaken for those
        of an earlier run. Empty if the store is not shared: then nothing is reported.
    """

    def __init__(
        self,
        store: Store,
        feed: Regions,
        compiler: Compiler,
        progress: DeploymentProgress,
        rng: random.Random,
        name: str,
    ) -> None:
        self.lock = threading.Lock()
        self._store = store
        self._feed = feed
        self._compiler = compiler
        self._progress = progress
        self._rng = rng
        self._name = name
        self._unpublished: Snapshot | None = None
        self._failed = 0
        self._regions: set[str] = feed.names
        self._warned: set[str] = set()
        self._reporting = threading.Lock()
        self._reported: Mapping[str, int] = {}
        self._reported_at = -REPORT_AGAIN
        self._reported_highest = 0

    # ---- startup

    def start(self, now: float) -> None:
        """Publish the store's content: a crash may have occurred between a commit and its publication.

        If edges may have seen a higher number (the store was restored from a backup), or a different snapshot of the
        same number (another version of Keyfront compiled it, or the published file is lost), the store's state gets a
        new number above that: edges refuse lower numbers, and a second snapshot of the same number.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not respond.
        :raises SettingsError: if the store is new, but a snapshot with distributions is published. Then the store was
            lost, and publishing the empty one would remove everything from the edges.
        """
        with self.lock:
            # After a restart, only its own region's part of the last snapshot is known.
            self._compiler.current = self._feed.published() or EMPTY
            with self._store.write() as transaction:
                snapshot = self._begin(transaction, now)
            self._compiler.current = self._unpublished = snapshot
            self._warn(set(exposed_pages(snapshot)))
            self.publish()

    def _begin(self, transaction: Transaction, now: float) -> Snapshot:
        number = transaction.snapshot_number()
        published = [self._compiler.current, *self._feed.elsewhere()]
        if number == 0:
            for one in published:
                if one.distributions:
                    raise SettingsError(
                        f"the store is new, but snapshot {one.number} with {len(one.distributions)} distributions is "
                        "published: restore the lost store, copy it into this one (docs/guide/postgresql.md), or "
                        "remove the published snapshot to start over"
                    )
        self._progress.highest = transaction.highest_deployed()
        snapshot = self._compiler.snapshot(transaction, number, transaction.snapshot_time())
        ahead = self._feed.number()
        if number == 0 or ahead > number or self._feed.contradicts(snapshot):
            return self._above(transaction, published, max(ahead, number) + 1, now)
        return snapshot

    def _above(
        self, transaction: Transaction, published: Iterable[Snapshot], number: int, now: float
    ) -> Snapshot:
        """Everything in the store as the new snapshot `number`, as if all of it had changed with it."""
        renumber(transaction, published, number, now, self._rng)
        return self._compiler.snapshot(transaction, number, transaction.snapshot_time())

    # ---- within a write; `lock` is held

    def settle(self, transaction: Transaction) -> None:
        """Pick up what others have committed since, to distinguish it from what this call changes.

        :raises ApiError: ServiceUnavailable if the store has gone back to an earlier state; `follow` will repair that.
        """
        identity = (transaction.snapshot_number(), transaction.snapshot_time())
        current = self._compiler.current
        if identity == (current.number, current.created):
            return
        if identity[0] <= current.number:
            raise ApiError(
                "ServiceUnavailable",
                f"The store is at snapshot {identity[0]}, but edges are at {current.number}: it was restored from a "
                "backup. Try again in a moment. Nothing was changed.",
                503,
            )
        self._compiler.current = self._unpublished = self._compiler.snapshot(transaction, *identity)

    def next(self, transaction: Transaction, now: float) -> Snapshot | None:
        """Make the next snapshot; None if edges would behave the same with it."""
        current = self._compiler.current
        snapshot = self._compiler.snapshot(transaction, current.number + 1, int(now * 1000) / 1000)
        if not differ(snapshot, current):
            return None
        transaction.set_snapshot_number(snapshot.number, now)
        if snapshot.tied:
            self._regions = self._feed.names | {edge.region for edge in transaction.edges()}
        return snapshot

    def committed(self, snapshot: Snapshot) -> None:
        """`snapshot` is committed and will be published next."""
        self._compiler.current = self._unpublished = snapshot
        self._warn({*warnings(snapshot, self._regions), *exposed_pages(snapshot)})

    def _warn(self, lines: set[str]) -> None:
        """Log the warnings that were not logged last time."""
        for line in sorted(lines - self._warned):
            log.warning("%s", line)
        self._warned = lines

    def publish(self) -> None:
        """Publish the committed snapshot if it is not published yet. A failure is logged once, and retried by
        `follow`."""
        snapshot, feed = self._unpublished, self._feed
        if snapshot is None and feed.behind:
            snapshot = self._compiler.current
        if snapshot is None:
            return
        try:
            feed.publish(snapshot)
        except (OSError, KeyfrontError) as error:
            newer = feed.published()
            if newer is None or newer.number <= snapshot.number:
                if self._failed != snapshot.number:
                    log.error("snapshot %s is not published yet: %s", snapshot.number, error)
                self._failed = snapshot.number
                return
            # Another control plane on this feed committed later and has published both changes.
        self._unpublished = None

    # ---- periodically

    def follow(self, now: float) -> bool:
        """Publish what others committed and what could not be published earlier, and report the edges' progress to the
        store. Cheap; call it several times a second if the store is shared.

        :param now: epoch seconds.
        :returns: True if everything committed is published.
        :raises ApiError: ServiceUnavailable if the store does not respond.
        """
        with self._store.read() as transaction:
            identity = (transaction.snapshot_number(), transaction.snapshot_time())
            self._progress.highest = max(self._progress.highest, transaction.highest_deployed())
            self._progress.deployed(transaction)
        self._report()
        if self._unpublished is not None or self._feed.behind or identity != self._identity():
            with self.lock:
                self._follow(now)
                self.publish()
        if self._unpublished is not None:
            return False
        self._feed.confirm(now)
        return True

    def _identity(self) -> tuple[int, float]:
        return self._compiler.current.number, self._compiler.current.created

    def _follow(self, now: float) -> None:
        with self._store.read() as transaction:
            identity = (transaction.snapshot_number(), transaction.snapshot_time())
            if identity == self._identity() and not self._overtaken():
                return
            if identity[0] > self._compiler.current.number:
                self._compiler.current = self._unpublished = self._compiler.snapshot(transaction, *identity)
                return
        log.error(
            "the store has gone back from snapshot %s to %s; it is published under a new number",
            max(self._compiler.current.number, self._feed.number()),
            identity[0],
        )
        with self._store.write() as transaction:
            current, found = self._compiler.current, transaction.snapshot_number()
            if found > current.number:  # another control plane has repaired it already
                snapshot = self._compiler.snapshot(transaction, found, transaction.snapshot_time())
            else:
                number = max(self._feed.number(), current.number) + 1
                known = [current, *self._feed.elsewhere()]
                snapshot = self._above(transaction, known, number, now)
        self.committed(snapshot)

    def _overtaken(self) -> bool:
        """True if a region that could not be reached before turns out to have a higher number than the store."""
        return self._feed.behind and self._feed.number() > self._compiler.current.number

    def _report(self) -> None:
        """Record in the store which snapshots this control plane's edges use: changes at once, otherwise every
        REPORT_AGAIN seconds."""
        if not self._name or not self._reporting.acquire(blocking=False):
            return  # nothing to report, or another thread is reporting
        try:
            self._report_now()
        finally:
            self._reporting.release()

    def _report_now(self) -> None:
        reports = self._feed.reports()
        live = {report.name: report.number for report in reports}
        highest = self._progress.highest
        clock = time.monotonic()
        if (
            live == self._reported
            and highest == self._reported_highest
            and clock - self._reported_at < REPORT_AGAIN
        ):
            return
        with self._store.write_relaxed() as transaction:
            transaction.set_edges(self._name, live, {report.name: report.region for report in reports})
            transaction.raise_highest_deployed(highest)
        self._reported, self._reported_highest, self._reported_at = live, highest, clock

    def leave(self) -> None:
        """Remove this control plane's edges from the store, so that no control plane waits for them. Call this at
        shutdown."""
        if self._name:
            with self._store.write_relaxed() as transaction:
                transaction.set_edges(self._name, {})


def renumber(
    transaction: Transaction, published: Iterable[Snapshot], number: int, now: float, rng: random.Random
) -> None:
    """Make `number` the last snapshot, as if everything had changed with it.

    :param published: the snapshots that edges may have; they may contain invalidations that the store lacks.
    :param now: epoch seconds.
    """
    transaction.set_snapshot_number(number, now)
    transaction.set_snapshot_of_all(number)
    # Edges may lack invalidations of the store, and the store may lack some that were published.
    transaction.renumber_invalidations(number)
    carried: dict[str, list[Invalidation]] = {}
    for one in published:
        for value in one.distributions:
            carried.setdefault(value.id, []).extend(value.invalidations)
    for id_ in transaction.versions(DISTRIBUTION.name):
        known = (*transaction.carried(id_), *carried.get(id_, ()))
        if known:
            paths = [path for one in known for path in one.paths]
            transaction.set_carried(id_, carry((), paths, number), ETAG.new(rng))
