"""Sites as snapshots, the signers that they trust, and signed URLs: values, without a socket."""

from __future__ import annotations

import time
from typing import Any

from keyfront import LocalSigner, sign_url
from keyfront.model.snapshot import Behavior, Distribution, Origin, PublicKey, Snapshot
from tests.vectors.corpus import key

HOUR = 3600
ALICE = LocalSigner("KALICE1", key("rsa"))
BOB = LocalSigner("KBOB1", key("ec"))
MALLORY = LocalSigner("KALICE1", key("other"))  # the same id, another key


def keys(*signers: LocalSigner) -> tuple[PublicKey, ...]:
    return tuple(PublicKey(s.key_pair_id, s.public_key.pem) for s in signers)


def site(origin: Origin, *behaviors: Behavior, **members: Any) -> Snapshot:
    """A snapshot of one distribution, `d.test`, whose last behavior is the default one."""
    keys = members.pop("public_keys", ())
    groups = members.pop("key_groups", ())
    distribution = Distribution(
        "ETEST",
        "arn:aws:cloudfront::000000000000:distribution/ETEST",
        "d.test",
        origins=(origin, *members.pop("more_origins", ())),
        behaviors=behaviors or (Behavior("*", origin.id),),
        **members,
    )
    return Snapshot(1, 0.0, keys, groups, (distribution,))


def signed(path: str, signer: LocalSigner = ALICE, **terms: object) -> str:
    """The target of a signed URL for `path` at d.test."""
    terms.setdefault("expires", int(time.time()) + HOUR)
    return sign_url("http://d.test" + path, signer, **terms).removeprefix("http://d.test")  # type: ignore[arg-type]
