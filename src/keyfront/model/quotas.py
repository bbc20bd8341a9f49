"""The quotas of one distribution and of one policy."""

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


class PolicyLimits(msgspec.Struct, frozen=True):
    """How much one policy may hold, by default as much as at CloudFront (cloudfront-semantics §3.3). `names` are
    headers, cookies and query parameters, each, `name_length` the length of all of them together; the others are
    those of a response headers policy, `cors_items` of each of its CORS lists. Lengths are characters."""

    names: int = 10
    name_length: int = 1024
    custom_headers: int = 10
    remove_headers: int = 10
    cors_items: int = 100
    header_name: int = 256
    header_value: int = 1783
    content_security_policy: int = 1783
