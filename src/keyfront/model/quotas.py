"""The quotas of one distribution and of one policy."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """The quotas of one distribution; the defaults are CloudFront's (cloudfront-semantics §3.3)."""

    aliases: int = 100
    origins: int = 100
    origin_groups: int = 10
    cache_behaviors: int = 75
    key_groups_per_behavior: int = 4
    origin_custom_headers: int = 10
    forwarded_names: int = 10


class PolicyLimits(msgspec.Struct, frozen=True):
    """The quotas of one policy; the defaults are CloudFront's (cloudfront-semantics §3.3). Lengths are in characters.

    :param names: of headers, of cookies, and of query parameters.
    :param name_length: of all these names together.
    :param custom_headers: of a response headers policy, like all others below.
    :param cors_items: in each of its CORS lists.
    """

    names: int = 10
    name_length: int = 1024
    custom_headers: int = 10
    remove_headers: int = 10
    cors_items: int = 100
    header_name: int = 256
    header_value: int = 1783
    content_security_policy: int = 1783
