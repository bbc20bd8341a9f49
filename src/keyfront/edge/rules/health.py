"""Whether a load balancer should send viewers to this worker. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

STOPPING: Final = "stopping"
NO_SNAPSHOT: Final = "no_snapshot"
SNAPSHOT_TOO_OLD: Final = "snapshot_too_old"


class HealthState(NamedTuple):
    """What a worker knows of itself.

    `stopping` is whether this Keyfront is about to stop. `snapshot` is the number of the snapshot in use; 0: none.
    `confirmed_at` is when that snapshot was last known to be the latest (epoch seconds).
    """

    stopping: bool
    snapshot: int
    confirmed_at: float


def unhealthy(state: HealthState, max_age: float, now: float) -> str:
    """Why viewers should go elsewhere; empty if they should not.

    :param max_age: seconds for which a snapshot may go without confirmation; 0: any time.
    :param now: epoch seconds.
    """
    if state.stopping:
        return STOPPING
    if state.snapshot == 0:
        return NO_SNAPSHOT
    if max_age and now - state.confirmed_at > max_age:
        return SNAPSHOT_TOO_OLD
    return ""
