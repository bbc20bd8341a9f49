"""What several pages read about keys: their use, their rotation, and how the pages speak about it."""

from __future__ import annotations

import asyncio

import msgspec

from keyfront.cloudfront import key_usage, rotations
from keyfront.cloudfront.key_usage import KeyUse, KeyUses
from keyfront.cloudfront.rotations import RotationKey, Rotations, RotationState
from keyfront.console.visit import Visit

GROUPS = 200
"""Key groups that a page reads to name them; an account has few."""


class KeyFacts(msgspec.Struct, frozen=True):
    """The use and the rotation of keys; None for what the user may not read, with the reason in `refusals`."""

    uses: KeyUses | None
    rotations: Rotations | None
    refusals: tuple[str, ...]

    def use(self, key_id: str) -> KeyUse | None:
        return self.uses.of(key_id) if self.uses is not None else None

    def rotation_of(self, group_id: str) -> RotationState | None:
        return self.rotations.of_group(group_id) if self.rotations is not None else None

    def rotated(self, key_id: str) -> RotationKey | None:
        found = self.rotations.of_key(key_id) if self.rotations is not None else None
        return found[1] if found is not None else None

    def end(self, key_id: str) -> float:
        return self.rotations.end_of(key_id) if self.rotations is not None else 0.0


async def key_facts(visit: Visit) -> KeyFacts:
    """Read both at once."""
    uses, found = await asyncio.gather(
        visit.read(visit.api.own("GET", key_usage.PATH, KeyUses)),
        visit.read(visit.api.own("GET", rotations.PATH, Rotations)),
    )
    refusals = tuple(each.refusal for each in (uses, found) if each.refusal)
    return KeyFacts(uses.value, found.value, refusals)


class Impact(msgspec.Struct, frozen=True):
    """What stops working when edges no longer trust a key.

    :param live_until: when the last of its signatures that edges have accepted expires (epoch seconds); 0.0: it is
        over, or none was seen.
    :param known: whether edges' reports could be read; if not, nothing is known about live links.
    """

    key_id: str
    name: str
    known: bool
    requests_last_day: int = 0
    share: float = 0.0
    last_seen: float = 0.0
    live_until: float = 0.0

    @property
    def breaks(self) -> bool:
        """Whether links that viewers have would stop working, as far as is known."""
        return not self.known or bool(self.live_until or self.requests_last_day)


def impact(facts: KeyFacts, key_id: str, name: str, now: float, distribution: str = "") -> Impact:
    """What breaks when edges stop trusting a key, in one distribution or everywhere.

    :param now: epoch seconds.
    """
    use = facts.use(key_id)
    if use is None or (distribution and distribution not in use.distributions):
        return Impact(key_id, name, facts.uses is not None)
    last = use.distributions[distribution].last_seen if distribution else use.last_seen
    return Impact(
        key_id,
        name,
        True,
        use.requests_last_day,
        use.share,
        last,
        use.signatures_end if use.signatures_end > now else 0.0,
    )
