"""Slices of large objects: the ranges to request from the origin, and whether its answers fit together."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from keyfront.edge.semantics.http_dates import parse_date
from keyfront.edge.types.messages import Headers, OriginReply, Request
from keyfront.edge.types.stored import Meta, Slices

FIRST_RUN: Final = 2


LONGEST_RUN: Final = 32
"""Maximum number of slices requested at once. The number starts low (`FIRST_RUN`), because a viewer that seeks does
not stay, and doubles each time for a viewer that reads on."""


FARTHEST: Final = 1 << 50
"""No body reaches this byte: an origin gets no request for it in slices, and a body said to be longer is not stored."""


class ChangedError(Exception):
    """The origin now has another version, or none: the stored slices are worthless."""


class UnusableError(Exception):
    """The origin's answer to a range request cannot be stored in slices: each viewer's request goes to the origin
    separately."""


class Span(NamedTuple):
    """Bytes `first` to `last`, inclusive, of a body; `total` is its length, if known (otherwise 0)."""

    first: int
    last: int
    total: int = 0


# Possessive, so that no value is read more than once.
_RANGE: Final = re.compile(rb"\s*+bytes\s*+=[\s,]*+([0-9]{0,40}+)-([0-9]{0,40}+)[\s,0-9-]*+", re.IGNORECASE)


_CONTENT_RANGE: Final = re.compile(rb"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


def first_range(request: Request, size: int) -> Span | None:
    """The slices of `size` bytes at the start of a request's first range, or None if the request has no range.

    For a range that counts from the end (`-500`), this is the first slice, which reveals where the end is.

    :raises UnusableError: if the range begins where no body reaches.
    """
    lines = [value for name, value in request.headers if name == b"range"]
    if request.method != "GET" or len(lines) != 1:
        return None
    found = _RANGE.fullmatch(lines[0])
    if found is None:
        return None
    low, high = found.groups()
    if not low:
        return Span(0, size - 1) if high else None
    if int(low) >= FARTHEST:
        raise UnusableError("a range that no body reaches")
    if high and int(high) < int(low):
        return None
    index = int(low) // size
    count = min(int(high) // size - index + 1, LONGEST_RUN) if high else FIRST_RUN
    return Span(index * size, (index + count) * size - 1)


def content_range(answer: OriginReply) -> Span | None:
    """The range in a 206; None if the answer is not a 206, does not give its range, or gives an impossible one."""
    lines = [value for name, value in answer.headers if name == b"content-range"]
    found = _CONTENT_RANGE.fullmatch(lines[0].strip()) if answer.status == 206 and len(lines) == 1 else None
    if found is None:
        return None
    span = Span(*map(int, found.groups()))
    if span.total > FARTHEST:
        return None
    if not span.first <= span.last < span.total or answer.length not in (None, span.last - span.first + 1):
        return None
    return span


def as_whole(answer: OriginReply, part: Span) -> OriginReply:
    """A 206 rewritten as the 200 that it replaces (RFC 9110 §15.3.7). Its body is unchanged."""
    headers: Headers = [h for h in answer.headers if h[0] not in (b"content-range", b"content-length")]
    headers.append((b"content-length", b"%d" % part.total))
    return OriginReply(
        200,
        "OK",
        headers,
        answer.body,
        length=part.last - part.first + 1,
        sized=answer.sized,
        connect_time=answer.connect_time,
        whole=answer.whole,
    )


def strong_validator(meta: Meta) -> bytes | None:
    """The validator that two answers must share to be byte for byte of the same version (RFC 9110 §8.8.1, §8.8.2.2): a
    strong entity tag or, if there is no entity tag, a Last-Modified at least one second before the answer's Date. None
    if there is no such validator."""
    if meta.coding not in (b"", b"identity"):
        return None
    if meta.etag is not None:
        return None if meta.etag.startswith(b"W/") else meta.etag
    if meta.last_modified is None:
        return None
    modified = parse_date(meta.last_modified, meta.date)
    return meta.last_modified if modified is not None and meta.date - modified >= 1 else None


class Answer(Enum):
    """The outcome of a request to the origin for missing slices."""

    GOOD = "good"
    CHANGED = "changed"
    """The origin has another version, or none, or no longer supports ranges."""
    UNUSABLE = "unusable"
    """The answer says nothing about what is stored: usually an error."""


def check_answer(slices: Slices, requested: Span, answer: OriginReply, *, if_range: bool) -> Answer:
    """Whether this answer's body may be stored among these slices.

    :param requested: the requested bytes, starting at a slice boundary. The answer may hold fewer, but no others.
    :param if_range: whether the request carried If-Range. If so, an answer without a validator also counts as a match.
    """
    if answer.status in (200, 404, 410, 412, 416):
        return Answer.CHANGED
    if answer.status != 206:
        return Answer.UNUSABLE
    span = content_range(answer)
    if span is None or span.first != requested.first or span.last > requested.last:
        return Answer.UNUSABLE
    if span.total != slices.total:
        return Answer.CHANGED
    validator = slices.validator
    name = b"etag" if validator is not None and validator.startswith(b'"') else b"last-modified"
    validators = [value for header, value in answer.headers if header == name]
    if validators:
        return Answer.GOOD if validators == [validator] else Answer.CHANGED
    return Answer.GOOD if if_range and validator is not None else Answer.CHANGED


def span_to_request(
    slices: Slices, position: int, last: int, count: int, taken: Callable[[int], bool]
) -> Span:
    """The run of at most `count` slices to request, starting with the one that holds `position`, for a viewer that
    wants to read up to `last`. It ends before the next slice that is `taken`."""
    size = slices.size
    first = position // size
    end = first + 1
    while end <= last // size and end - first < count and not taken(end):
        end += 1
    total = slices.total if slices.total is not None else end * size
    return Span(first * size, min(end * size, total) - 1, total)
