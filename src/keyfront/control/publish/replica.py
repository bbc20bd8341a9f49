"""One control plane among those that share a store: how what is committed, here or elsewhere, comes to its edges, and
how the others learn what its edges obey.

Every snapshot has a number and the time at which it was decided; both are in the store, and all that the snapshot
holds can be compiled from the store's rows. So control planes need not speak to each other. Each one

- settles what others have committed, at the beginning of each of its own writes and several times a second besides
  (`follow`), by compiling and publishing it for its own edges;
- notes in the store, where it is shared, which of its edges are live and what they obey.

Whoever finds the store behind what its edges have (it came back from a backup), or other than that, decides a new
snapshot above both, since edges refuse to go back.
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

TELL = 1.0
"""Seconds after which the store is told again of edges of which there is no news."""


class Replica:
    """`lock` is held by whoever decides a snapshot or publishes one; take it before a transaction, never within one.

    :param name: of this control plane among those that share the store; a new one at each start, so that nobody takes
        the one's edges for the other's. Empty if the store is not shared: then nothing is noted in it.
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
        self._telling = threading.Lock()
        self._told: Mapping[str, int] = {}
        self._told_at = -TELL
        self._told_highest = 0

    # ---- at the start

    def start(self, now: float) -> None:
        """Bring the feed to what the store holds: a crash may have come between a commit and its publication.

        If edges may have seen a higher number (the store came from a backup), or something else under the same
        number (another Keyfront compiled it, or what was published is lost), the store's state goes out under a
        number above that: edges refuse to go back, and two snapshots of one number.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not answer.
        :raises SettingsError: if the store is new and what is published is not: then the store was lost, and to
            publish its emptiness would take everything from the edges.
        """
        with self.lock:
            # Of what it holds itself, more than its own region's part is not known any more.
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
                        "published: bring the lost store back, copy it into this one (`keyfront store copy`), or "
                        "remove the published snapshot to begin anew"
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
        """All that the store holds as the new snapshot `number`, as if everything had changed with it."""
        renumber(transaction, published, number, now, self._rng)
        return self._compiler.snapshot(transaction, number, transaction.snapshot_time())

    # ---- within a write; `lock` is held

    def settle(self, transaction: Transaction) -> None:
        """Take over what others committed since, so that what this call changes can be told from it.

        :raises ApiError: ServiceUnavailable if the store has gone back; `follow` will put that right.
        """
        identity = (transaction.snapshot_number(), transaction.snapshot_time())
        current = self._compiler.current
        if identity == (current.number, current.created):
            return
        if identity[0] <= current.number:
            raise ApiError(
                "ServiceUnavailable",
                f"The store is at snapshot {identity[0]}, and edges are at {current.number}: it came back from a "
                "backup. Try again in a moment. Nothing was changed.",
                503,
            )
        self._compiler.current = self._unpublished = self._compiler.snapshot(transaction, *identity)

    def next(self, transaction: Transaction, now: float) -> Snapshot | None:
        """Decide the next snapshot, if edges would do anything differently under it; None if not."""
        current = self._compiler.current
        snapshot = self._compiler.snapshot(transaction, current.number + 1, int(now * 1000) / 1000)
        if not differ(snapshot, current):
            return None
        transaction.set_snapshot_number(snapshot.number, now)
        if snapshot.tied:
            self._regions = self._feed.names | {edge.region for edge in transaction.edges()}
        return snapshot

    def committed(self, snapshot: Snapshot) -> None:
        """`snapshot` is durable: it is the one to publish."""
        self._compiler.current = self._unpublished = snapshot
        self._warn({*warnings(snapshot, self._regions), *exposed_pages(snapshot)})

    def _warn(self, said: set[str]) -> None:
        """Log what was not said before."""
        for line in sorted(said - self._warned):
            log.warning("%s", line)
        self._warned = said

    def publish(self) -> None:
        """Publish what is committed and is not published yet. If that fails it stays so, and the log says why once."""
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
            # Another control plane on this feed committed after us and has published both.
        self._unpublished = None

    # ---- besides

    def follow(self, now: float) -> bool:
        """Publish what others committed, and what could not be published when it was committed; see how far the edges
        are, and tell the others. Cheap; call it several times a second where the store is shared.

        :param now: epoch seconds.
        :returns: True if edges can have all that was committed.
        :raises ApiError: ServiceUnavailable if the store does not answer.
        """
        with self._store.read() as transaction:
            identity = (transaction.snapshot_number(), transaction.snapshot_time())
            self._progress.highest = max(self._progress.highest, transaction.highest_deployed())
            self._progress.deployed(transaction)
        self._tell()
        if self._unpublished is not None or self._feed.behind or identity != self._identity():
            with self.lock:
                self._follow(now)
                self.publish()
        return self._unpublished is None

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
            "the store has gone back from snapshot %s to %s; it is published anew",
            max(self._compiler.current.number, self._feed.number()),
            identity[0],
        )
        with self._store.write() as transaction:
            current, found = self._compiler.current, transaction.snapshot_number()
            if found > current.number:  # another control plane was quicker
                snapshot = self._compiler.snapshot(transaction, found, transaction.snapshot_time())
            else:
                number = max(self._feed.number(), current.number) + 1
                known = [current, *self._feed.elsewhere()]
                snapshot = self._above(transaction, known, number, now)
        self.committed(snapshot)

    def _overtaken(self) -> bool:
        """Has a region that could not be reached at first seen a higher number than the store's?"""
        return self._feed.behind and self._feed.number() > self._compiler.current.number

    def _tell(self) -> None:
        """Note in the store what this control plane's edges obey: at once if there is news, else once a second."""
        if not self._name or not self._telling.acquire(blocking=False):
            return  # or somebody else is at it
        try:
            self._tell_now()
        finally:
            self._telling.release()

    def _tell_now(self) -> None:
        reports = self._feed.reports()
        live = {report.name: report.number for report in reports}
        highest = self._progress.highest
        clock = time.monotonic()
        if live == self._told and highest == self._told_highest and clock - self._told_at < TELL:
            return
        with self._store.write_relaxed() as transaction:
            transaction.set_edges(self._name, live, {report.name: report.region for report in reports})
            transaction.raise_highest_deployed(highest)
        self._told, self._told_highest, self._told_at = live, highest, clock

    def leave(self) -> None:
        """This control plane ends, and with it its edges: nobody is to wait for them."""
        if self._name:
            with self._store.write_relaxed() as transaction:
                transaction.set_edges(self._name, {})


def renumber(
    transaction: Transaction, published: Iterable[Snapshot], number: int, now: float, rng: random.Random
) -> None:
    """Decide snapshot `number`: all that the store holds, as if everything had changed with it. `published` is what
    edges have been given, which may be more than the store knows."""
    transaction.set_snapshot_number(number, now)
    transaction.set_snapshot_of_all(number)
    # Edges may not know the invalidations of the store, and the store may not know those that were published.
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
