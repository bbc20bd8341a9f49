"""Slices of large objects: which ranges to request from the origin, and whether answers fit together."""

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
"""How many slices are asked for at once: few at first, for who seeks does not stay; each time twice as many for who
reads on."""


FARTHEST: Final = 1 << 50
"""No body reaches this byte: an origin is not asked for it in slices, and what is said to be longer is not stored."""


class ChangedError(Exception):
    """The origin has another version now, or none: what is stored in slices is worth nothing any more."""


class UnusableError(Exception):
    """The origin's answer to a range cannot be stored in slices: each viewer asks for himself."""


class Span(NamedTuple):
    """Bytes `first` to `last` of a body; `total` is its length, where that is known."""

    first: int
    last: int
    total: int = 0


# Possessive, so that no value is read more than once.
_RANGE: Final = re.compile(rb"\s*+bytes\s*+=[\s,]*+([0-9]{0,40}+)-([0-9]{0,40}+)[\s,0-9-]*+", re.IGNORECASE)


_CONTENT_RANGE: Final = re.compile(rb"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


def wanted(request: Request, size: int) -> Span | None:
    """The slices of `size` bytes that the first of a request's ranges begins with, None if it has no range.

    A range that counts from the end (`-500`) asks for the first slice, to learn where the end is.

    :raises UnusableError: if it begins where no body reaches.
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
    """What a 206 holds; None if it is no 206, or it does not say, or what it says cannot be."""
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
    """A 206 as the 200 in whose place it came (RFC 9110 §15.3.7). Its body is as it is."""
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
    """What two answers must have in common to be of one version, byte for byte (RFC 9110 §8.8.1, §8.8.2.2): a strong
    entity tag, or without any a Last-Modified at least a second before the answer was made."""
    if meta.coding not in (b"", b"identity"):
        return None
    if meta.etag is not None:
        return None if meta.etag.startswith(b"W/") else meta.etag
    if meta.last_modified is None:
        return None
    modified = parse_date(meta.last_modified, meta.date)
    return meta.last_modified if modified is not None and meta.date - modified >= 1 else None


class Answer(Enum):
    """What an origin's answer to a request for missing slices is."""

    GOOD = "good"
    CHANGED = "changed"
    """There is another version, or none, or the origin does no ranges any more."""
    UNUSABLE = "unusable"
    """It says nothing about what is stored: an error, as a rule."""


def judge(slices: Slices, asked: Span, answer: OriginReply, *, if_range: bool) -> Answer:
    """May this answer's body be stored among these slices?

    :param asked: the bytes that were asked for, from the beginning of a slice on. The answer may hold fewer, but not
    others.
    :param if_range: the request carried If-Range. Then an answer that tells no validator is a promise, too.
    """
    if answer.status in (200, 404, 410, 412, 416):
        return Answer.CHANGED
    if answer.status != 206:
        return Answer.UNUSABLE
    span = content_range(answer)
    if span is None or span.first != asked.first or span.last > asked.last:
        return Answer.UNUSABLE
    if span.total != slices.total:
        return Answer.CHANGED
    validator = slices.validator
    name = b"etag" if validator is not None and validator.startswith(b'"') else b"last-modified"
    told = [value for header, value in answer.headers if header == name]
    if told:
        return Answer.GOOD if told == [validator] else Answer.CHANGED
    return Answer.GOOD if if_range and validator is not None else Answer.CHANGED


def to_ask(slices: Slices, position: int, last: int, count: int, taken: Callable[[int], bool]) -> Span:
    """The run of at most `count` slices to ask for, from the one that holds `position` on, for a viewer who wants to
    read up to `last`; it ends before the next slice that is `taken`."""
    size = slices.size
    first = position // size
    end = first + 1
    while end <= last // size and end - first < count and not taken(end):
        end += 1
    total = slices.total if slices.total is not None else end * size
    return Span(first * size, min(end * size, total) - 1, total)
