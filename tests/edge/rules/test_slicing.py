"""What an edge requests of a large object, and what the response proves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from keyfront.edge.rules import slicing
from keyfront.edge.rules.slicing import Answer, Span, UnusableError
from keyfront.edge.types.messages import OriginReply, Request
from keyfront.edge.types.stored import Meta, Slices
from tests.rows import rows

MODIFIED = "Sun, 01 Feb 2026 00:00:00 GMT"

WANTED = [
    (b"bytes=0-0", (0, 0)),
    (b"bytes=0-15", (0, 1)),
    (b"bytes=15-20", (1, 2)),
    (b"bytes=25-", (2, 2 + slicing.FIRST_RUN - 1)),
    (b"BYTES=25-26", (2, 2)),
    (b"bytes = 25-26", (2, 2)),
    (b"bytes=25-26,100-", (2, 2)),
    (b"bytes=-500", (0, 0)),
    (b"bytes=0-999999999999999999999999", (0, 31)),
    (b"bytes=-", None),
    (b"bytes=5-2", None),
    (b"bytes=a-b", None),
    (b"lines=0-1", None),
    (b"", None),
]


@rows(("value", "expected"), WANTED)
def test_what_a_cold_range_asks_for(value: bytes, expected: tuple[int, int] | None) -> None:
    size = 10
    span = slicing.first_range(Request("GET", "/", "h", [(b"range", value)]), size)
    if expected is None:
        assert span is None
    else:
        assert span is not None
        assert span.first % size == 0
        assert (span.last + 1) % size == 0
        assert (span.first // size, span.last // size) == expected


def test_what_has_no_range_or_several_lines_of_it_asks_for_everything() -> None:
    line = (b"range", b"bytes=0-1")
    assert slicing.first_range(Request("GET", "/", "h", []), 10) is None
    assert slicing.first_range(Request("HEAD", "/", "h", [line]), 10) is None
    assert slicing.first_range(Request("GET", "/", "h", [line, line]), 10) is None
    with pytest.raises(UnusableError):
        slicing.first_range(Request("GET", "/", "h", [(b"range", b"bytes=9999999999999999999-")]), 10)


async def nothing() -> AsyncIterator[bytes]:
    chunks: tuple[bytes, ...] = ()
    for chunk in chunks:
        yield chunk


def reply(status: int, *headers: tuple[bytes, bytes], length: int | None = None) -> OriginReply:
    return OriginReply(status, "", list(headers), nothing(), length=length)


def content_range(value: bytes) -> tuple[bytes, bytes]:
    return (b"content-range", value)


NO_RANGES = [
    reply(200, content_range(b"bytes 0-9/100")),
    reply(206),
    reply(206, content_range(b"bytes 0-9/*")),
    reply(206, content_range(b"bytes */100")),
    reply(206, content_range(b"bytes 9-0/100")),
    reply(206, content_range(b"bytes 0-100/100")),
    reply(206, content_range(b"items 0-9/100")),
    reply(206, content_range(b"bytes 0-9/100"), content_range(b"bytes 10-19/100")),
    reply(206, content_range(b"bytes 0-9/100"), length=9),
    reply(206, (b"content-type", b"multipart/byteranges; boundary=x")),
]


@rows("answer", NO_RANGES)
def test_what_is_no_single_range(answer: OriginReply) -> None:
    assert slicing.content_range(answer) is None


STORED = Slices("k", 1000, 100, "g", b'"1"', True)
DATED = Slices("k", 1000, 100, "g", MODIFIED.encode(), True)
REQUESTED = Span(200, 399)
GOOD_RANGE = content_range(b"bytes 200-399/1000")
TAG, OTHER, WEAK = (b"etag", b'"1"'), (b"etag", b'"2"'), (b"etag", b'W/"1"')
SINCE = (b"last-modified", MODIFIED.encode())
LATER = (b"last-modified", b"Sun, 01 Mar 2026 00:00:00 GMT")

JUDGED: list[tuple[str, Slices, OriginReply, bool, Answer]] = [
    ("the same", STORED, reply(206, GOOD_RANGE, TAG), True, Answer.GOOD),
    ("the same, asked without If-Range", STORED, reply(206, GOOD_RANGE, TAG), False, Answer.GOOD),
    ("fewer bytes", STORED, reply(206, content_range(b"bytes 200-250/1000"), TAG), True, Answer.GOOD),
    ("a promise", STORED, reply(206, GOOD_RANGE), True, Answer.GOOD),
    ("no promise", STORED, reply(206, GOOD_RANGE), False, Answer.CHANGED),
    ("another tag", STORED, reply(206, GOOD_RANGE, OTHER), True, Answer.CHANGED),
    ("a weak tag", STORED, reply(206, GOOD_RANGE, WEAK), True, Answer.CHANGED),
    ("two tags", STORED, reply(206, GOOD_RANGE, TAG, OTHER), True, Answer.CHANGED),
    ("another length", STORED, reply(206, content_range(b"bytes 200-399/1001"), TAG), True, Answer.CHANGED),
    (
        "another date counts for nothing beside a tag",
        STORED,
        reply(206, GOOD_RANGE, TAG, LATER),
        True,
        Answer.GOOD,
    ),
    ("the same date", DATED, reply(206, GOOD_RANGE, SINCE), False, Answer.GOOD),
    ("another date", DATED, reply(206, GOOD_RANGE, LATER), True, Answer.CHANGED),
    ("everything", STORED, reply(200, TAG), True, Answer.CHANGED),
    ("gone", STORED, reply(404), True, Answer.CHANGED),
    ("gone for good", STORED, reply(410), True, Answer.CHANGED),
    ("a condition that failed", STORED, reply(412), True, Answer.CHANGED),
    ("shorter", STORED, reply(416, content_range(b"bytes */100")), True, Answer.CHANGED),
    ("not modified, which nobody asked", STORED, reply(304, TAG), True, Answer.UNUSABLE),
    ("another range", STORED, reply(206, content_range(b"bytes 100-399/1000"), TAG), True, Answer.UNUSABLE),
    ("too many bytes", STORED, reply(206, content_range(b"bytes 200-400/1000"), TAG), True, Answer.UNUSABLE),
    ("a range of what", STORED, reply(206, TAG), True, Answer.UNUSABLE),
    ("out of order", STORED, reply(503), True, Answer.UNUSABLE),
    ("not allowed", STORED, reply(403), True, Answer.UNUSABLE),
    ("elsewhere", STORED, reply(302), True, Answer.UNUSABLE),
]


@rows(("stored", "answer", "if_range", "expected"), [j[1:] for j in JUDGED], ids=[j[0] for j in JUDGED])
def test_what_an_answer_to_a_missing_slice_proves(
    stored: Slices, answer: OriginReply, if_range: bool, expected: Answer
) -> None:
    assert slicing.check_answer(stored, REQUESTED, answer, if_range=if_range) is expected


@rows(
    ("etag", "modified", "date", "coding", "expected"),
    [
        (b'"1"', None, 0.0, b"", b'"1"'),
        (b'"1"', None, 0.0, b"identity", b'"1"'),
        (b'"1"', None, 0.0, b"gzip", None),
        (b'W/"1"', None, 0.0, b"", None),
        (b'W/"1"', MODIFIED.encode(), 1_900_000_000.0, b"", None),
        (None, MODIFIED.encode(), 1_900_000_000.0, b"", MODIFIED.encode()),
        (None, MODIFIED.encode(), 1_769_904_000.0, b"", None),
        (None, MODIFIED.encode(), 1_769_904_001.0, b"", MODIFIED.encode()),
        (None, None, 0.0, b"", None),
    ],
)
def test_what_counts_as_a_strong_validator(
    etag: bytes | None, modified: bytes | None, date: float, coding: bytes, expected: bytes | None
) -> None:
    meta = Meta(
        200, (), stored_at=0, fresh_until=0, date=date, etag=etag, last_modified=modified, coding=coding
    )
    assert slicing.strong_validator(meta) == expected


def test_a_run_ends_where_something_is_there_already() -> None:
    def ask(position: int, last: int, count: int, taken: set[int]) -> tuple[int, int]:
        span = slicing.span_to_request(STORED, position, last, count, taken.__contains__)
        return span.first, span.last

    assert ask(250, 999, 4, set()) == (200, 599)
    assert ask(250, 999, 99, set()) == (200, 999)
    assert ask(250, 260, 99, set()) == (200, 299)
    assert ask(250, 300, 99, set()) == (200, 399)
    assert ask(250, 999, 99, {5}) == (200, 499)
    assert ask(250, 999, 99, {3}) == (200, 299)
    assert ask(250, 999, 99, {1, 2}) == (200, 999)  # another request's slices, but this one is wanted
    assert ask(250, 999, 1, {1, 2}) == (200, 299)
    assert ask(950, 999, 99, set()) == (900, 999)


@rows(
    ("value", "length", "expected"),
    [
        (b"bytes 0-99/1000", None, Span(0, 99, 1000)),
        (b" bytes 900-999/1000 ", 100, Span(900, 999, 1000)),
        (b"bytes 0-99/1000", 99, None),
        (b"bytes 0-1000/1000", None, None),
        (b"bytes 5-4/1000", None, None),
        (b"bytes 0-99/%d" % slicing.FARTHEST, None, Span(0, 99, slicing.FARTHEST)),
        (b"bytes 0-99/%d" % (slicing.FARTHEST + 1), None, None),
        (b"bytes 0-99/*", None, None),
    ],
)
def test_the_range_of_a_206(value: bytes, length: int | None, expected: Span | None) -> None:
    headers = [(b"content-range", value)]
    assert slicing.content_range(OriginReply(206, "", headers, nothing(), length=length)) == expected
    assert slicing.content_range(OriginReply(200, "", headers, nothing(), length=length)) is None
    assert slicing.content_range(OriginReply(206, "", headers * 2, nothing(), length=length)) is None


def test_a_206_with_everything_becomes_a_200() -> None:
    """RFC 9110 §15.3.7."""
    headers = [(b"content-range", b"bytes 0-99/100"), (b"content-length", b"100"), (b"etag", b'"v1"')]
    answer = OriginReply(206, "Partial Content", headers, nothing(), length=100)
    whole = slicing.as_whole(answer, Span(0, 99, 100))
    assert (whole.status, whole.reason, whole.length, whole.body) == (200, "OK", 100, answer.body)
    assert whole.headers == [(b"etag", b'"v1"'), (b"content-length", b"100")]
