"""Redaction of URLs for the access log, which must never hold a signature."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from keyfront.edge.rules.routing import Plan

_SIGNING: Final = frozenset({"expires", "policy", "signature", "key-pair-id", "hash-algorithm"})


def loggable_query(query: str) -> str:
    """A raw query string without its signing parameters, in any spelling: a signed URL is a credential."""
    return "&".join(
        [p for p in query.split("&") if unquote(p.partition("=")[0]).strip().lower() not in _SIGNING]
    )


def loggable(plan: Plan) -> str:
    """The viewer's query as the access log may record it.

    Where no signature is required, the signing parameters are ordinary parameters (§1.1). But a link that is valid for
    more than this path is a credential wherever it was sent, so they are removed there too.
    """
    query = plan.query
    return loggable_query(query) if query and plan.route.keyring is None else query
