"""Vary (RFC 9111 §4.1): the rules that decide which stored variant answers which request."""

from __future__ import annotations

from typing import Final

from keyfront.edge.rules.origin_request import differs_under_one_key
from keyfront.edge.rules.viewer_hints import device_headers
from keyfront.edge.semantics.header_limits import MAX_VARY
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.stored import Meta
from keyfront.model.snapshot import Behavior

_ABSENT: Final = b"\0"
"""Stands for a field that was not sent. No field can have this value."""


def variant_of(
    behavior: Behavior, seen: Headers, forwarded: Headers
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The names that the answer varies on, limited to those that can differ, and their values in the request as sent.
    A response that varies on User-Agent varies on the device headers sent to the origin (§5.9)."""
    value = next((v for n, v in seen if n == b"vary"), None)
    if value is None:
        return (), ()
    names = sorted({member.strip().lower() for member in value.split(b",")})
    if names == [b"*"] or len(names) > MAX_VARY:
        return (b"*",), ()
    if b"user-agent" in names:
        names = sorted({*names, *device_headers(behavior)})
    differing = tuple([name for name in names if differs_under_one_key(behavior, name)])
    return differing, variant_values(differing, forwarded)


def variant_values(names: tuple[bytes, ...], headers: Headers) -> tuple[bytes, ...]:
    """The values of these fields, each normalized as RFC 9111 §4.1 allows: lines joined, whitespace around commas
    removed."""
    lines: dict[bytes, list[bytes]] = {name: [] for name in names}
    for name, value in headers:
        if name in lines:
            lines[name].append(value)
    return tuple([_normalised(lines[name]) for name in names])


def _normalised(lines: list[bytes]) -> bytes:
    if not lines:
        return _ABSENT
    return b",".join([member.strip(b" \t") for member in b",".join(lines).split(b",")])


def vary_matches(meta: Meta, forwarded: Headers) -> bool:
    """Whether the response was generated for a request that matches this one in everything that it varies on (RFC 9111
    §4.1)."""
    return not meta.vary or variant_values(meta.vary, forwarded) == meta.vary_values
