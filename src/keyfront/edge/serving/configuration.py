"""The active configuration: one published snapshot, compiled, and replaced as a whole."""

from __future__ import annotations

from collections.abc import Callable

from keyfront.edge.rules.routing import Routing
from keyfront.model.snapshot import EMPTY, Snapshot
from keyfront.signing.tables import Budget


class ActiveConfiguration:
    """Holds the `Routing` that decides requests. All parts of an edge share one instance and read `routing` at each
    use, so that a new snapshot takes effect everywhere at once.

    It also decides which stored responses the snapshot's invalidations have ended. A response carries the number of the
    snapshot under which it was requested from the origin; an invalidation ends responses requested under earlier
    snapshots.
    """

    __slots__ = ("_tables", "routing")

    def __init__(self, tables: Budget) -> None:
        self._tables = tables
        self.routing = Routing(EMPTY, None, tables)

    def replace(self, snapshot: Snapshot, progress: Callable[[], None]) -> None:
        """Compile another snapshot and activate it. `progress` is called repeatedly meanwhile: compiling ten thousand
        distributions takes seconds."""
        self.routing = Routing(snapshot, self.routing, self._tables, progress)

    def is_invalidated(self, key: str, snapshot: int, tags: tuple[str, ...]) -> bool:
        """Whether an invalidation has ended the response for `key` with these cache tags.

        A response under a later snapshot than this worker follows comes from a worker that is ahead and knew every
        invalidation that this one knows, so it is not ended.
        """
        return self.routing.is_invalidated(key, snapshot, tags)

    def is_invalidated_on_disk(self, key: str, snapshot: int, tags: tuple[str, ...]) -> bool:
        """The same for a response found on disk. A response requested under a snapshot that this edge does not know, or
        no longer knows because its data was restored, cannot be judged and counts as ended."""
        return snapshot > self.routing.number or self.routing.is_invalidated(key, snapshot, tags)

    def may_be_invalidated(self, key: str, snapshot: int) -> bool:
        """Whether an invalidation has ended, or may have ended, a response that is still being fetched: its tags arrive
        with the origin's response."""
        return self.routing.is_invalidated(key, snapshot) or self.routing.is_invalidated_by_tag(key, snapshot)
