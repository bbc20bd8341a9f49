"""The feed that carries snapshots to edges and their reports back: the rules, and the interface of transports, which
only carry bytes.

The rules of `accept`, in order:

1. The bytes are a complete, unaltered snapshot of a known format (`model/snapshot.py`).
2. It is consistent: every behavior has an origin, every key group has its keys, a behavior that trusts keys requires a
   signature, and no invalidation belongs to a later snapshot.
3. It is for the edge's region, and nothing in it is tied to other regions (`model/residency.py`). The edge's operator
   configures its region.
4. Its number is not below that of the snapshot in use. Numbers only increase, so a lower one is an error, or a replay
   of something that was revoked.
5. If its number is the same, it must be the same snapshot, and nothing changes. A different one is refused.

An edge that refuses a snapshot keeps using the current one. At startup, that is the last one that it accepted, if any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from keyfront.errors import SnapshotRefused
from keyfront.model import residency
from keyfront.model.snapshot import Distribution, Snapshot, from_bytes

STALE = 5.0
"""Seconds without a report after which an edge no longer counts as live."""


class Report(msgspec.Struct, frozen=True):
    """A report of an edge.

    :param number: the snapshot in use; 0: none yet.
    :param at: epoch seconds.
    :param refused: why it refused a newer snapshot; empty if it did not.
    :param counters: what it has counted since it started, in the form of `fleet/edge_counters.py`.
    :param region: its region, as configured by its operator; empty: none.
    """

    name: str
    pid: int
    number: int
    at: float
    refused: str = ""
    counters: Mapping[str, Any] = {}
    region: str = ""


class Feed(Protocol):
    """A transport for snapshots. The control plane publishes and reads reports; edges poll and report."""

    def publish(self, snapshot: Snapshot) -> None:
        """Publish `snapshot`. It survives a crash when this returns.

        :raises SnapshotRefused: if its number is not above that of the published snapshot.
        """

    def poll(self, current: Snapshot | None) -> Snapshot | None:
        """The snapshot to use instead of `current`; None if there is no other. Cheap enough to call many times a
        second.

        :raises SnapshotRefused: once for each publication that `accept` refuses; `current` stays in use.
        """

    def report(
        self, name: str, number: int, *, at: float, refused: str = "", counters: object = None
    ) -> None:
        """Publish a report of the edge `name`; see `Report`. `counters` is a mapping, or a struct like one."""

    def reports(self, now: float | None = None) -> list[Report]:
        """The last reports of all edges that are live at `now` (epoch seconds), in order of name."""


def accept(current: Snapshot | None, data: bytes, region: str = "") -> Snapshot:
    """The snapshot in `data`; `current` itself if it is the same.

    :param region: the edge's region; empty: none.
    :raises SnapshotRefused: if it violates a rule above. The message says which.
    """
    snapshot = from_bytes(data)
    fault = next(filter(None, map(_fault, snapshot.distributions)), "")
    fault = fault or _key_fault(snapshot) or _invalidation_fault(snapshot)
    if fault:
        raise SnapshotRefused(f"snapshot {snapshot.number} is inconsistent: {fault}")
    if fault := residency.fault(snapshot, region):
        raise SnapshotRefused(f"snapshot {snapshot.number} is not for this edge: {fault}")
    if current is None:
        return snapshot
    if snapshot.number < current.number:
        raise SnapshotRefused(f"snapshot {snapshot.number} is older than {current.number}, which is in use")
    if snapshot.number == current.number:
        if snapshot != current:
            raise SnapshotRefused(f"a different snapshot {current.number} is already in use")
        return current
    return snapshot


def _fault(distribution: Distribution) -> str:
    origins = {origin.id for origin in distribution.origins}
    targets = origins | {group.id for group in distribution.origin_groups}
    where = f"distribution {distribution.id}"
    if not distribution.behaviors:
        return f"{where} has no behavior"
    for group in distribution.origin_groups:
        if not origins.issuperset(group.members):
            return f"{where} lacks a member of origin group {group.id}"
    for behavior in distribution.behaviors:
        if behavior.target_origin_id not in targets:
            return f"{where} lacks the origin of behavior {behavior.path_pattern}"
        if behavior.trusted_key_groups and not behavior.restricted:
            return f"behavior {behavior.path_pattern} of {where} trusts keys but requires no signature"
    return ""


def _key_fault(snapshot: Snapshot) -> str:
    keys = {key.id for key in snapshot.public_keys}
    for group in snapshot.key_groups:
        if not keys.issuperset(group.key_ids):
            return f"a key of key group {group.id} is missing"
    return ""


def _invalidation_fault(snapshot: Snapshot) -> str:
    """An invalidation of a later number would invalidate every response that is fetched under this snapshot."""
    for distribution in snapshot.distributions:
        if any(one.number > snapshot.number for one in distribution.invalidations):
            return f"distribution {distribution.id} carries an invalidation of a later snapshot"
    return ""
