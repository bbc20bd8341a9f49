"""The policies that CloudFront manages, as rows."""

from __future__ import annotations

import functools
from typing import Any

from keyfront.control.store.rows import Row
from keyfront.model import managed
from keyfront.model.kinds import CACHE_POLICY, ORIGIN_REQUEST_POLICY, RESPONSE_HEADERS_POLICY, Kind
from keyfront.model.policies import (
    complete_cache_policy,
    complete_origin_request_policy,
    complete_response_headers_policy,
)

MANAGED_ETAG = "E23ZP02F085DFQ"
"""The ETag of every managed policy, the same as at CloudFront."""


@functools.cache
def managed_rows(kind: str) -> dict[str, Row]:
    """The managed policies of the kind by id, in order of id; empty for a kind that has none. They are not stored.
    Their times are 1970-01-01, as at CloudFront."""
    tables: dict[str, tuple[Kind, Any, Any]] = {
        kind.name: (kind, table, complete)
        for kind, table, complete in (
            (CACHE_POLICY, managed.CACHE_POLICIES, complete_cache_policy),
            (ORIGIN_REQUEST_POLICY, managed.ORIGIN_REQUEST_POLICIES, complete_origin_request_policy),
            (RESPONSE_HEADERS_POLICY, managed.RESPONSE_HEADERS_POLICIES, complete_response_headers_policy),
        )
    }
    if kind not in tables:
        return {}
    _, table, complete = tables[kind]
    return {
        id_: Row(kind, id_, MANAGED_ETAG, 0.0, 0.0, complete(config), {}, 0)
        for id_, config in sorted(table.items())
    }


def managed_names(kind: str) -> frozenset[str]:
    """The names of the managed policies, which no other policy of the kind can have."""
    return frozenset(row.config["Name"] for row in managed_rows(kind).values())
