"""Signed sites for the edge's tests, and the signers that may sign for them."""

from __future__ import annotations

import time

from keyfront import LocalSigner, sign_url
from keyfront.model.snapshot import Behavior, KeyGroup, PublicKey, Snapshot
from tests.origin import ScriptedOrigin
from tests.vectors.corpus import key
from tests.viewer import site

HOUR = 3600
ALICE = LocalSigner("KALICE1", key("rsa"))
BOB = LocalSigner("KBOB1", key("ec"))
MALLORY = LocalSigner("KALICE1", key("other"))  # the same id, another key


def keys(*signers: LocalSigner) -> tuple[PublicKey, ...]:
    return tuple(PublicKey(s.key_pair_id, s.public_key.pem) for s in signers)


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


def signed(path: str, signer: LocalSigner = ALICE, **terms: object) -> str:
    """The target of a signed URL for `path` at d.test."""
    terms.setdefault("expires", int(time.time()) + HOUR)
    return sign_url("http://d.test" + path, signer, **terms).removeprefix("http://d.test")  # type: ignore[arg-type]
