"""Requests to the origin: failover, Origin Shield, and failures that are remembered."""

from __future__ import annotations

from keyfront.edge.rules import freshness
from keyfront.edge.rules.routing import Site

FAILED_OVER = frozenset({"GET", "HEAD", "OPTIONS"})


# Failures that no request can bring about, and one that may be the request's own.
UNREACHABLE = frozenset({"OriginConnectError", "OriginDnsError"})


UNSENT = "OriginWriteError"


def error_min_ttl(site: Site, status: int) -> int:
    """ErrorCachingMinTTL for this status, seconds."""
    rule = site.error_responses.get(status)
    return freshness.ERROR_MIN_TTL if rule is None else rule.min_ttl
