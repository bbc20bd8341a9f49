"""Range requests (RFC 9110 §14): parsing and validation."""

from __future__ import annotations

import re
from typing import Final

MAX_RANGES: Final = 100
"""A request with more ranges than this only creates work for the edge; the ranges are ignored (RFC 9110 §14.2)."""


Part = bytes | tuple[int, int]
"""A part of a response body: literal bytes, or the bytes `first` to `last` of the stored body."""


_SPEC: Final = re.compile(rb"([0-9]*)-([0-9]*)")


def parse_ranges(value: bytes, size: int) -> list[tuple[int, int]] | None:
    """The first and last byte of each satisfiable range of a body of `size` bytes.

    None: the whole body must be served, because the unit is unknown or the ranges are malformed, out of order,
    overlapping or too many (§5.10, RFC 9110 §14.2). Empty: no range is satisfiable, which means 416.
    """
    unit, equals, text = value.partition(b"=")
    if not equals or unit.strip().lower() != b"bytes":
        return None
    specs = [spec for raw in text.split(b",") if (spec := raw.strip(b" \t"))]
    if not specs or len(specs) > MAX_RANGES:
        return None
    ranges: list[tuple[int, int]] = []
    for spec in specs:
        found = _SPEC.fullmatch(spec)
        if found is None:
            return None
        low, high = found.groups()
        if not low and not high:
            return None
        if not low:
            length = min(_number(high), size)
            if length == 0 and _number(high) > 0:
                return None  # the whole of an empty body: Content-Range cannot express it
            first, last = size - length, size - 1
        else:
            first = _number(low)
            last = _number(high) if high else max(first, size - 1)
            if last < first:
                return None
            last = min(last, size - 1)
        if first >= size:
            continue
        if ranges and first <= ranges[-1][1]:
            return None
        ranges.append((first, last))
    return ranges


def _number(digits: bytes) -> int:
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) < 20 else 2**64
