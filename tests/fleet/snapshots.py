"""Small snapshots to publish."""

from __future__ import annotations

from keyfront.model.snapshot import Behavior, Distribution, KeyGroup, Origin, PublicKey, Snapshot


def snapshot(number: int, *, created: float = 0.0, size: int = 1) -> Snapshot:
    """Snapshot `number` of `size` distributions, one key and one group."""
    return Snapshot(
        number=number,
        created=created,
        public_keys=(PublicKey("K1", "pem"),),
        key_groups=(KeyGroup("g", "ours", ("K1",)),),
        distributions=tuple(
            Distribution(
                id=f"E{n}",
                arn=f"arn:aws:cloudfront::000000000000:distribution/E{n}",
                domain_name=f"d{n}.cloudfront.localhost",
                origins=(Origin("app", "origin.example.com"),),
                behaviors=(Behavior("*", "app", restricted=True, trusted_key_groups=("g",)),),
            )
            for n in range(size)
        ),
    )
