"""How snapshots reach edges, and how edges answer: the rules and the seam. Transports only carry the bytes.

The rules of `accept`, in the order in which they are asked:

1. The bytes are a whole snapshot of our format, unaltered (`model/snapshot.py`).
2. It makes sense: every behavior leads to an origin, every key group to keys that travel with it, who trusts
   keys asks for a signature, and no invalidation is of a later snapshot.
3. It is for the region of the edge, and nothing in it is tied to others (`model/residency.py`). The edge knows its
   region from its operator.
4. Its number is not below that of the snapshot in use. Numbers only grow, so an older one is a mistake or a replay
   of what was revoked since.
5. At the same number it is the same snapshot. Then nothing changes; another one of that number is refused.

Whoever is refused keeps what he has. An edge that starts has its last accepted snapshot in use, if there is
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from keyfront.errors import SnapshotRefused
from keyfront.model import residency
from keyfront.model.snapshot import Distribution, Snapshot, from_bytes

STALE = 5.0
"""Seconds after which an edge that has not reported no longer counts as live."""


class Report(msgspec.Struct, frozen=True):
    """An edge's heartbeat.

    `number` is the snapshot that it obeys (0: none yet), `refused` why it refused a newer one (empty: it
    did not), `at` when it said so in epoch seconds. `counters` are what it has counted since it started;
    their names and shapes are the edge's (`fleet/edge_counters.py`). `region` is where it is, as its operator says;
    empty: in none.
    """

    name: str
    pid: int
    number: int
    at: float
    refused: str = ""
    counters: Mapping[str, Any] = {}
    region: str = ""


class Feed(Protocol):
    """What a transport of snapshots offers. The control plane publishes and reads reports, edges do the
    rest."""

    def publish(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the one to obey. It is safe from a crash when this returns.

        :raises SnapshotRefused: if its number is not above that of the snapshot published before.
        """

    def poll(self, current: Snapshot | None) -> Snapshot | None:
        """The snapshot to use instead of `current`, if there is one. Cheap enough to be asked many times a
        second.

        :raises SnapshotRefused: once for each publication that `accept` refuses; `current` stays in use.
        """

    def report(
        self, name: str, number: int, *, at: float, refused: str = "", counters: object = None
    ) -> None:
        """Tell how the edge `name` is doing; see `Report`. `counters` is a mapping, or a struct like one."""

    def reports(self, now: float | None = None) -> list[Report]:
        """The last reports of all edges that are live at `now`, in order of name."""


def accept(current: Snapshot | None, data: bytes, region: str = "") -> Snapshot:
    """The snapshot that `data` holds; `current` itself if it is the same.

    :param region: the edge's; empty: it is in none.
    :raises SnapshotRefused: if a rule above is broken. The message says which.
    """
    snapshot = from_bytes(data)
    fault = next(filter(None, map(_fault, snapshot.distributions)), "")
    fault = fault or _key_fault(snapshot) or _invalidation_fault(snapshot)
    if fault:
        raise SnapshotRefused(f"snapshot {snapshot.number} makes no sense: {fault}")
    if fault := residency.fault(snapshot, region):
        raise SnapshotRefused(f"snapshot {snapshot.number} is not for this edge: {fault}")
    if current is None:
        return snapshot
    if snapshot.number < current.number:
        raise SnapshotRefused(f"snapshot {snapshot.number} is older than {current.number}, which is in use")
    if snapshot.number == current.number:
        if snapshot != current:
            raise SnapshotRefused(f"another snapshot of number {current.number} is in use already")
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
            return f"behavior {behavior.path_pattern} of {where} trusts keys and asks for no signature"
    return ""


def _key_fault(snapshot: Snapshot) -> str:
    keys = {key.id for key in snapshot.public_keys}
    for group in snapshot.key_groups:
        if not keys.issuperset(group.key_ids):
            return f"a key of key group {group.id} is missing"
    return ""


def _invalidation_fault(snapshot: Snapshot) -> str:
    """One of a later number would end at once whatever is fetched under this snapshot."""
    for distribution in snapshot.distributions:
        if any(one.number > snapshot.number for one in distribution.invalidations):
            return f"distribution {distribution.id} carries an invalidation of a later snapshot"
    return ""
