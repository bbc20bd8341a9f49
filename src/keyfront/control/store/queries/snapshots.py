"""The number of the last snapshot, how far it is deployed, and the live edges of all control planes."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from keyfront.control.store.queries.base import Now, Queries
from keyfront.control.store.rows import EdgeRow
from keyfront.control.store.schema import counter as _counter
from keyfront.control.store.schema import edge as _edge
from keyfront.fleet.feed import STALE

_FORGET_EDGES = 60
"""Seconds after which the row of an edge that no longer reports is removed."""


class SnapshotQueries(Queries):
    """Snapshot numbers, and what edges have reported about them."""

    # ---- counters

    def snapshot_number(self) -> int:
        """The number of the last committed snapshot, published or not."""
        return self._counter("snapshot")

    def snapshot_time(self) -> float:
        """When that snapshot was created: epoch seconds, to the millisecond."""
        return self._counter("decided") / 1000

    def set_snapshot_number(self, number: int, now: float) -> None:
        """Make `number` the last snapshot, created at `now` (epoch seconds)."""
        self._set_counter("snapshot", number)
        self._set_counter("decided", int(now * 1000))

    def highest_deployed(self) -> int:
        """The highest snapshot number that all live edges were seen to use at the same time."""
        return self._counter("reached")

    def raise_highest_deployed(self, number: int) -> None:
        """Raise `highest_deployed` to `number`; a lower number than before changes nothing."""
        self._connection.execute(
            sa.update(_counter)
            .where(_counter.c.name == "reached", _counter.c.value < number)
            .values(value=number)
        )

    # ---- the edges of all control planes

    def edges(self) -> list[EdgeRow]:
        """The live edges, as reported by the control planes that share the store."""
        found = self._connection.execute(
            sa.select(_edge.c.replica, _edge.c.name, _edge.c.number, _edge.c.region)
            .where(_edge.c.seen > Now() - STALE)
            .order_by(_edge.c.replica, _edge.c.name)
        )
        return [EdgeRow(*row) for row in found]

    def set_edges(
        self, replica: str, numbers: Mapping[str, int], regions: Mapping[str, str] | None = None
    ) -> None:
        """Replace the live edges of the control plane `replica`.

        :param numbers: name of the edge to the number of the snapshot that it uses.
        :param regions: name of the edge to its region, for those that have one.
        """
        self._connection.execute(sa.delete(_edge).where(_edge.c.replica == replica))
        for name, number in numbers.items():
            region = (regions or {}).get(name, "")
            self._connection.execute(
                sa.insert(_edge).values(replica=replica, name=name, number=number, seen=Now(), region=region)
            )
        self._connection.execute(sa.delete(_edge).where(_edge.c.seen < Now() - _FORGET_EDGES))

    def _counter(self, name: str) -> int:
        return self._scalar(sa.select(_counter.c.value).where(_counter.c.name == name))

    def _set_counter(self, name: str, value: int) -> None:
        self._connection.execute(sa.update(_counter).where(_counter.c.name == name).values(value=value))
