"""The quotas of one distribution."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """How much one distribution may hold, by default as much as at CloudFront (cloudfront-semantics §3.3)."""

    aliases: int = 100
    origins: int = 100
    origin_groups: int = 10
    cache_behaviors: int = 75
    key_groups_per_behavior: int = 4
    origin_custom_headers: int = 10
    forwarded_names: int = 10
