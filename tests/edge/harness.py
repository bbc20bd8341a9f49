"""A signed site in front of a scripted origin."""

from __future__ import annotations

from keyfront.model.snapshot import Behavior, KeyGroup, Snapshot
from tests.origin import ScriptedOrigin
from tests.sites import ALICE, BOB, keys, site


def signed_site(origin: ScriptedOrigin, *members: str, **more: object) -> Snapshot:
    """`/a/*` trusts group A, `/b/*` group B; the rest is public. Group A holds `members`."""
    behaviors = (
        Behavior("/a/*", "scripted", restricted=True, trusted_key_groups=("group-a",), **more),  # type: ignore[arg-type]
        Behavior("/b/*", "scripted", restricted=True, trusted_key_groups=("group-b",)),
        Behavior("*", "scripted"),
    )
    return site(
        origin.origin(),
        *behaviors,
        public_keys=keys(ALICE, BOB),
        key_groups=(KeyGroup("group-a", "a", members), KeyGroup("group-b", "b", (BOB.key_pair_id,))),
    )
