"""The rotations of key groups as the control plane knows them.

Keyfront serves them below `PATH`, next to CloudFront's API and signed in the same way (docs/reference/control-api.md).
Times are epoch seconds, durations seconds; 0.0 for a time that is not known or has not come.
"""

from __future__ import annotations

import msgspec

PATH = "/keyfront/2026-11-22/rotations"


class RotationKey(msgspec.Struct, frozen=True, rename="pascal"):
    """A key of a rotated group. `stage` is one of custody's stages (CREATED … RETIRED), which it has had since `since`;
    a DRAINING key is trusted until `until` at least. `leaving`: edges are being told not to trust it."""

    key_pair_id: str
    name: str
    uri: str
    stage: str
    since: float = 0.0
    until: float = 0.0
    compromised: bool = False
    leaving: bool = False


class RotationTerms(msgspec.Struct, frozen=True, rename="pascal"):
    """How a group is rotated; see `custody/key_record.py: RotationPolicy`. `every` is a duration in seconds, a cron
    expression, or empty."""

    place: str
    algorithm: str
    every: float | str
    overlap: float
    max_lifetime: float
    max_staleness: float
    settle: float
    grace: float
    paused: bool


class RotationState(msgspec.Struct, frozen=True, rename="pascal"):
    """A rotated key group, and its keys from the oldest to the newest."""

    group: str
    key_group_id: str
    terms: RotationTerms
    keys: tuple[RotationKey, ...] = ()


class KeyEnd(msgspec.Struct, frozen=True, rename="pascal"):
    """When the time of a key is over: the next rotation of a key that signs, the end of a key that drains, or a year
    after its creation for a key that nothing rotates."""

    key_pair_id: str
    ends: float


class Rotations(msgspec.Struct, frozen=True, rename="pascal"):
    """All rotations. `readable` is false if the records cannot be read: then nothing is known."""

    items: tuple[RotationState, ...] = ()
    ends: tuple[KeyEnd, ...] = ()
    readable: bool = True

    def of_group(self, key_group_id: str) -> RotationState | None:
        return next((each for each in self.items if each.key_group_id == key_group_id), None)

    def of_key(self, key_pair_id: str) -> tuple[RotationState, RotationKey] | None:
        """The rotation that a key is part of, and the key in it."""
        for state in self.items:
            for key in state.keys:
                if key.key_pair_id == key_pair_id:
                    return state, key
        return None

    def end_of(self, key_pair_id: str) -> float:
        """When the key's time is over; 0.0 if that is not known."""
        return next((each.ends for each in self.ends if each.key_pair_id == key_pair_id), 0.0)


class PlannedStep(msgspec.Struct, frozen=True, rename="pascal"):
    """A step, and the earliest time at which it can be taken."""

    at: float
    action: str
    key: str
    reason: str


class RotationPlan(msgspec.Struct, frozen=True, rename="pascal"):
    """A rotation, the steps to come, and what follows them: `then`, from `then_at` on. With `attention`, an operator
    must act."""

    state: RotationState
    steps: tuple[PlannedStep, ...] = ()
    then: str = ""
    then_at: float = 0.0
    attention: bool = False
