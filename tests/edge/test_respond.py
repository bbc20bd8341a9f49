"""Responses to viewers: tables of cases, each with its section."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from keyfront.edge.rules import respond
from keyfront.edge.rules.error_pages import (
    REFUSALS,
    denied_reply,
    error_page,
    internal_error,
    limited,
    origin_failed,
    redirect_reply,
    refused,
)
from keyfront.edge.rules.freshness import ReceivedResponse, admit
from keyfront.edge.rules.redaction import loggable_query
from keyfront.edge.rules.respond import answer, is_unconditional, layout, unmodified
from keyfront.edge.semantics.http_dates import format_date
from keyfront.edge.semantics.ranges import parse_ranges
from keyfront.edge.types.messages import Headers, Reply, Request
from keyfront.edge.types.stored import Meta
from keyfront.errors import Denial, Denied, OriginFailure
from keyfront.model.snapshot import Behavior
from tests.rows import rows

NOW = 1_800_000_000.0
BODY = bytes(range(100))
ETAG = b'"v1"'
MODIFIED = NOW - 1000
REQUEST_ID = "x" * 52 + "_w=="


def date(offset: float) -> bytes:
    return format_date(NOW + offset)


def stored(
    status: int = 200, *, etag: bytes | None = ETAG, modified: float | None = MODIFIED, **extra: bytes
) -> Meta:
    headers: Headers = [
        (b"content-type", b"text/plain"),
        (b"cache-control", b"max-age=60"),
        (b"server", b"nginx"),
    ]
    headers += [(n.replace("_", "-").encode(), v) for n, v in extra.items()]
    if etag is not None:
        headers.append((b"etag", etag))
    if modified is not None:
        headers.append((b"last-modified", format_date(modified)))
    meta = admit(Behavior("*", "o"), None, "GET", ReceivedResponse(status, headers, [], NOW, NOW))
    assert meta is not None
    return meta


def request(*headers: tuple[bytes, bytes], method: str = "GET", **members: Any) -> Request:
    members.setdefault("host", "cdn.example")
    return Request(method, members.pop("target", "/a"), members.pop("host"), list(headers), **members)


def header(reply: Reply, name: bytes) -> bytes | None:
    found = [v for n, v in reply.headers if n == name]
    assert len(found) <= 1
    return found[0] if found else None


# -- the whole response --------------------------------------------------------------------------------------


def test_a_plain_request_gets_all_of_it() -> None:
    reply = answer(request(), stored(), BODY, NOW + 5)
    assert (reply.status, reply.body, reply.length, reply.x_cache) == (200, BODY, 100, "Hit")
    assert header(reply, b"age") == b"5"
    assert header(reply, b"date") == date(0)
    assert header(reply, b"server") == b"nginx"
    assert header(reply, b"content-length") is None  # framing is the listener's task


def test_age_is_sent_with_responses_from_a_cache() -> None:
    assert header(answer(request(), stored(), BODY, NOW, "Miss"), b"age") is None
    assert header(answer(request(), stored(), BODY, NOW, "RefreshHit"), b"age") == b"0"
    assert header(answer(request(), stored(age=b"7"), BODY, NOW, "Miss"), b"age") == b"7"


def test_every_answer_has_one_date() -> None:
    page = respond.dated(refused("no_distribution", None, request(), REQUEST_ID), NOW)
    assert header(page, b"date") == date(0)
    assert header(respond.dated(answer(request(), stored(date=date(-9)), BODY, NOW), NOW), b"date") == date(
        -9
    )


@rows(
    ("name", "expected"),
    [
        (b"range", False),
        (b"if-range", False),
        (b"if-match", False),
        (b"if-none-match", False),
        (b"if-modified-since", False),
        (b"if-unmodified-since", False),
        (b"accept", True),
        (b"cache-control", True),
    ],
)
def test_plain(name: bytes, expected: bool) -> None:
    assert is_unconditional(request((b"host", b"x"), (name, b"v"))) is expected


@rows("status", [404, 403, 503, 301])
def test_conditions_and_ranges_count_only_for_successes(status: int) -> None:
    """RFC 9110 §13.2.1."""
    viewer_request = request((b"if-none-match", b"*"), (b"range", b"bytes=0-1"), (b"if-match", b'"no"'))
    meta = stored(status)
    reply = answer(viewer_request, meta, BODY, NOW)
    assert (reply.status, reply.body) == (status, BODY)
    assert unmodified(viewer_request, meta, NOW) is None
    assert reply.x_cache == ("Error" if status >= 400 else "Hit")


# -- preconditions (RFC 9110 §13) ----------------------------------------------------------------------------

BEFORE, AT, AFTER = format_date(MODIFIED - 1), format_date(MODIFIED), format_date(MODIFIED + 1)


@rows(
    ("headers", "status"),
    [
        # If-Match: strong comparison
        ([(b"if-match", b'"v1"')], 200),
        ([(b"if-match", b"*")], 200),
        ([(b"if-match", b'"v0", "v1"')], 200),
        ([(b"if-match", b'"v0"'), (b"if-match", b'"v1"')], 200),
        ([(b"if-match", b'"v0"')], 412),
        ([(b"if-match", b'W/"v1"')], 412),
        ([(b"if-match", b"v1")], 412),
        ([(b"if-match", b"")], 412),
        # If-Unmodified-Since
        ([(b"if-unmodified-since", AT)], 200),
        ([(b"if-unmodified-since", AFTER)], 200),
        ([(b"if-unmodified-since", BEFORE)], 412),
        ([(b"if-unmodified-since", b"long ago")], 200),
        ([(b"if-unmodified-since", BEFORE), (b"if-unmodified-since", BEFORE)], 200),
        ([(b"if-match", b'"v1"'), (b"if-unmodified-since", BEFORE)], 200),  # If-Match alone counts
        # If-None-Match: weak comparison
        ([(b"if-none-match", b'"v1"')], 304),
        ([(b"if-none-match", b'W/"v1"')], 304),
        ([(b"if-none-match", b"*")], 304),
        ([(b"if-none-match", b' "v0" ,W/"v1"')], 304),
        ([(b"if-none-match", b'"v0"'), (b"if-none-match", b'"v1"')], 304),
        ([(b"if-none-match", b'"v0"')], 200),
        ([(b"if-none-match", b"v1")], 200),
        ([(b"if-none-match", b'"v1')], 200),
        ([(b"if-none-match", b'"a,b", "v1"')], 304),
        # If-Modified-Since
        ([(b"if-modified-since", AT)], 304),
        ([(b"if-modified-since", AFTER)], 304),
        ([(b"if-modified-since", date(1_000_000))], 304),
        ([(b"if-modified-since", BEFORE)], 200),
        ([(b"if-modified-since", b"0")], 200),
        ([(b"if-modified-since", AT), (b"if-modified-since", AT)], 200),
        ([(b"if-none-match", b'"v0"'), (b"if-modified-since", AFTER)], 200),  # If-None-Match alone counts
        ([(b"if-none-match", b'"v1"'), (b"if-modified-since", BEFORE)], 304),
        # in order
        ([(b"if-match", b'"v0"'), (b"if-none-match", b'"v1"')], 412),
        ([(b"if-match", b'"v1"'), (b"if-none-match", b'"v1"')], 304),
        ([(b"if-unmodified-since", BEFORE), (b"if-none-match", b'"v1"')], 412),
        ([(b"if-none-match", b'"v1"'), (b"range", b"bytes=0-1")], 304),
        ([(b"if-none-match", b'"v0"'), (b"range", b"bytes=0-1")], 206),
        ([(b"if-match", b'"v1"'), (b"range", b"bytes=0-1")], 206),
        ([(b"if-match", b'"v0"'), (b"range", b"bytes=0-1")], 412),
        ([(b"if-match", b'"v1"'), (b"range", b"bytes=200-")], 416),
    ],
)
def test_preconditions(headers: Headers, status: int) -> None:
    assert answer(request(*headers), stored(), BODY, NOW).status == status


@rows(
    ("method", "name", "value", "status"),
    [
        ("HEAD", b"if-none-match", b'"v1"', 304),
        ("HEAD", b"if-modified-since", AT, 304),
        ("OPTIONS", b"if-none-match", b'"v1"', 412),
        ("OPTIONS", b"if-modified-since", AT, 200),
        ("HEAD", b"if-match", b'"v0"', 412),
        ("HEAD", b"range", b"bytes=0-1", 200),
        ("OPTIONS", b"range", b"bytes=0-1", 200),
    ],
)
def test_preconditions_by_method(method: str, name: bytes, value: bytes, status: int) -> None:
    assert answer(request((name, value), method=method), stored(), BODY, NOW).status == status


@rows(
    ("meta", "headers", "status"),
    [
        (stored(etag=None), [(b"if-none-match", b'"v1"')], 200),
        (stored(etag=None), [(b"if-none-match", b"*")], 304),
        (stored(etag=None), [(b"if-match", b'"v1"')], 412),
        (stored(etag=None), [(b"if-match", b"*")], 200),
        (stored(etag=b'W/"v1"'), [(b"if-none-match", b'"v1"')], 304),
        (stored(etag=b'W/"v1"'), [(b"if-match", b'W/"v1"')], 412),
        (stored(modified=None), [(b"if-unmodified-since", BEFORE)], 200),
        (stored(modified=None), [(b"if-modified-since", date(-1))], 200),
        (stored(modified=None), [(b"if-modified-since", date(0))], 304),  # by Date, RFC 9111 §4.3.2
    ],
)
def test_preconditions_where_a_validator_is_missing(meta: Meta, headers: Headers, status: int) -> None:
    assert answer(request(*headers), meta, BODY, NOW).status == status


def test_a_304_has_the_headers_that_may_change_and_none_of_the_body() -> None:
    """RFC 9110 §15.4.5."""
    meta = stored(vary=b"Cookie", content_encoding=b"gzip", access_control_allow_origin=b"*")
    reply = answer(request((b"if-none-match", b'"v1"')), meta, BODY, NOW + 3)
    assert reply.body == b""
    assert reply.length is None  # or the listener would send a Content-Length of 0
    assert [n for n, _ in reply.headers] == [
        b"date", b"cache-control", b"server", b"access-control-allow-origin", b"etag", b"last-modified", b"vary",
        b"age",
    ]  # fmt: skip
    assert reply.x_cache == "Hit"


def test_a_412_and_a_416_can_be_read_by_a_page() -> None:
    meta = stored(access_control_allow_origin=b"*")
    failed = answer(request((b"if-match", b'"v0"')), meta, BODY, NOW)
    assert (failed.body, failed.length, failed.reason, failed.x_cache) == (
        b"",
        0,
        "precondition_failed",
        "Error",
    )
    beyond = answer(request((b"range", b"bytes=100-")), meta, BODY, NOW)
    assert (beyond.status, beyond.body, beyond.reason) == (416, b"", "range_not_satisfiable")
    assert header(beyond, b"content-range") == b"bytes */100"
    for reply in (failed, beyond):
        assert header(reply, b"access-control-allow-origin") == b"*"
        assert header(reply, b"content-type") is None
        assert header(reply, b"cache-control") is None


# -- If-Range (RFC 9110 §13.1.5) -----------------------------------------------------------------------------


@rows(
    ("meta", "value", "status"),
    [
        (stored(), b'"v1"', 206),
        (stored(), b' "v1" ', 206),
        (stored(), b'"v0"', 200),
        (stored(), b'W/"v1"', 200),
        (stored(etag=b'W/"v1"'), b'W/"v1"', 200),
        (stored(etag=b'W/"v1"'), b'"v1"', 200),
        (stored(etag=None), b'"v1"', 200),
        (stored(), b'"v1", "v0"', 200),
        (stored(), AT, 206),
        (stored(), BEFORE, 200),
        (stored(), AFTER, 200),  # exactly that date, or not at all
        (stored(modified=None), AT, 200),
        (stored(modified=NOW), date(0), 200),  # it may have changed again in that second
        (stored(modified=NOW - 1), date(-1), 206),
        (stored(), b"", 200),
        (stored(), b"v1", 200),
    ],
)
def test_if_range(meta: Meta, value: bytes, status: int) -> None:
    reply = answer(request((b"range", b"bytes=0-9"), (b"if-range", value)), meta, BODY, NOW)
    assert reply.status == status
    assert reply.body == (BODY[:10] if status == 206 else BODY)


def test_if_range_without_a_range_or_twice() -> None:
    assert answer(request((b"if-range", b'"v0"')), stored(), BODY, NOW).status == 200
    twice = request((b"range", b"bytes=0-9"), (b"if-range", b'"v1"'), (b"if-range", b'"v1"'))
    assert answer(twice, stored(), BODY, NOW).status == 200


def test_an_unsatisfiable_range_of_another_version_gets_the_new_one() -> None:
    viewer_request = request((b"range", b"bytes=500-"), (b"if-range", b'"v0"'))
    assert answer(viewer_request, stored(), BODY, NOW).status == 200


# -- ranges (§5.10, RFC 9110 §14) ----------------------------------------------------------------------------


@rows(
    ("value", "ranges"),
    [
        (b"bytes=0-0", [(0, 0)]),
        (b"bytes=0-99", [(0, 99)]),
        (b"bytes=10-19", [(10, 19)]),
        (b"bytes=90-200", [(90, 99)]),
        (b"bytes=99-", [(99, 99)]),
        (b"bytes=0-", [(0, 99)]),
        (b"bytes=-1", [(99, 99)]),
        (b"bytes=-100", [(0, 99)]),
        (b"bytes=-1000", [(0, 99)]),
        (b"bytes=-99999999999999999999999999", [(0, 99)]),
        (b"bytes=00000000000000000000000000010-11", [(10, 11)]),
        (b"bytes=5-99999999999999999999999999", [(5, 99)]),
        (b"BYTES=0-0", [(0, 0)]),
        (b"bytes= 0-0 , 2-3 ", [(0, 0), (2, 3)]),
        (b"bytes=,0-0,,2-3,", [(0, 0), (2, 3)]),
        (b"bytes=0-0,1-1", [(0, 0), (1, 1)]),  # adjacent is not overlapping
        (b"bytes=0-0,-1", [(0, 0), (99, 99)]),
        (b"bytes=0-0,500-", [(0, 0)]),  # the satisfiable part
        # nothing is satisfiable
        (b"bytes=100-", []),
        (b"bytes=100-200", []),
        (b"bytes=99999999999999999999999-", []),
        (b"bytes=-0", []),
        (b"bytes=100-,200-300", []),
        # served whole: out of order, overlapping
        (b"bytes=5-9,0-4", None),
        (b"bytes=0-4,4-9", None),
        (b"bytes=0-0,0-0", None),
        (b"bytes=-10,-20", None),
        (b"bytes=0-,0-", None),
        # served whole: invalid
        (b"bytes=5-4", None),
        (b"bytes=500-400", None),
        (b"bytes=0-4,9-5", None),
        (b"bytes=-", None),
        (b"bytes=", None),
        (b"bytes=,", None),
        (b"bytes", None),
        (b"bytes 0-1", None),
        (b"bytes=a-b", None),
        (b"bytes=0-1-2", None),
        (b"bytes=--1", None),
        (b"bytes=+1-2", None),
        (b"bytes=1.0-2", None),
        (b"bytes=0x1-2", None),
        (b"bytes=\xb2-3", None),
        (b"bytes=0-1;2-3", None),
        (b"bytes=0 - 1", None),
        (b"seconds=0-1", None),
        (b"", None),
        (b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(0, 202, 2)), None),  # too many
    ],
)
def test_ranges_of_a_hundred_bytes(value: bytes, ranges: list[tuple[int, int]] | None) -> None:
    assert parse_ranges(value, 100) == ranges


@rows(("value", "ranges"), [(b"bytes=0-", []), (b"bytes=0-5", []), (b"bytes=-5", None), (b"bytes=-0", [])])
def test_ranges_of_nothing(value: bytes, ranges: list[tuple[int, int]] | None) -> None:
    assert parse_ranges(value, 0) == ranges


NUMBERS = st.none() | st.integers(0, 14)
SPECS = st.lists(
    st.tuples(NUMBERS, NUMBERS).filter(lambda spec: spec != (None, None)), min_size=1, max_size=4
)


@given(SPECS, st.integers(1, 12))
@example([(None, 0)], 5)
def test_ranges_select_the_bytes_that_they_name(
    specs: list[tuple[int | None, int | None]], size: int
) -> None:
    """Against an oracle that checks the positions one by one."""
    value = b"bytes=" + b",".join(
        (b"" if a is None else b"%d" % a) + b"-" + (b"" if b is None else b"%d" % b) for a, b in specs
    )
    named: list[list[int]] = []
    valid = True
    for a, b in specs:
        if a is None:
            named.append([p for p in range(size) if b is not None and p >= size - b])
        else:
            valid = valid and (b is None or b >= a)
            named.append([p for p in range(size) if p >= a and (b is None or p <= b)])
    named = [positions for positions in named if positions]
    flat = [p for positions in named for p in positions]
    found = parse_ranges(value, size)
    if not valid or flat != sorted(set(flat)):
        assert found is None
    else:
        assert found is not None
        assert [list(range(first, last + 1)) for first, last in found] == named


@given(st.binary(max_size=40), st.integers(0, 50))
def test_any_range_can_be_read(value: bytes, size: int) -> None:
    for ranges in (parse_ranges(value, size), parse_ranges(b"bytes=" + value, size)):
        for first, last in ranges or []:
            assert 0 <= first <= last < size


def test_one_range() -> None:
    reply = answer(request((b"range", b"bytes=10-19")), stored(), BODY, NOW + 5)
    assert (reply.status, reply.body, reply.length, reply.x_cache) == (206, BODY[10:20], 10, "Hit")
    assert header(reply, b"content-range") == b"bytes 10-19/100"
    assert header(reply, b"content-type") == b"text/plain"
    assert header(reply, b"etag") == ETAG
    assert header(reply, b"age") == b"5"
    assert header(reply, b"date") == date(0)


def test_a_part_has_no_digest_of_the_whole() -> None:
    meta = stored(content_md5=b"x", content_digest=b"y", repr_digest=b"z", content_range=b"bytes 0-1/2")
    part = answer(request((b"range", b"bytes=10-19")), meta, BODY, NOW)
    assert header(part, b"content-range") == b"bytes 10-19/100"
    assert (header(part, b"content-md5"), header(part, b"content-digest"), header(part, b"repr-digest")) == (
        None,
        None,
        b"z",
    )
    assert header(answer(request(), meta, BODY, NOW), b"content-md5") == b"x"


def parts(reply: Reply) -> list[tuple[str, bytes]]:
    """The parts of a multipart/byteranges body, as an independent parser reads them."""
    content_type = header(reply, b"content-type")
    assert content_type is not None
    assert content_type.startswith(b"multipart/byteranges; boundary=")
    assert isinstance(reply.body, bytes)
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type + b"\r\n\r\n" + reply.body)
    assert not message.defects
    found = []
    for part in message.iter_parts():
        assert part.get_content_type() == "text/plain"
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        found.append((str(part["Content-Range"]), payload))
    return found


def test_several_ranges() -> None:
    letters = b"abcdefghijklmnopqrstuvwxyz"
    reply = answer(request((b"range", b"bytes=0-1, 5-9 ,-2")), stored(), letters, NOW)
    assert reply.status == 206
    assert header(reply, b"content-range") is None
    assert parts(reply) == [("bytes 0-1/26", b"ab"), ("bytes 5-9/26", b"fghij"), ("bytes 24-25/26", b"yz")]
    assert isinstance(reply.body, bytes)
    assert reply.length == len(reply.body)


def test_parts_have_no_type_if_the_origin_gave_none() -> None:
    meta = stored()
    meta.headers = tuple(each for each in meta.headers if each[0] != b"content-type")
    reply = answer(request((b"range", b"bytes=0-1, 5-9")), meta, BODY, NOW, boundary="mine")
    assert isinstance(reply.body, bytes)
    assert reply.body.startswith(b"\r\n--mine\r\nContent-Range: bytes 0-1/100\r\n\r\n")


def test_the_boundary_is_the_same_each_time_and_in_no_part() -> None:
    viewer_request = request((b"range", b"bytes=0-40,50-"))
    plain_body = b"a" * 200
    first, again = (answer(viewer_request, stored(), plain_body, NOW + n) for n in (0, 9))
    assert first.body == again.body
    boundary = (header(first, b"content-type") or b"").partition(b"boundary=")[2]
    assert len(boundary) == 32, "128 bits"
    hostile = plain_body[:60] + b"\r\n--" + boundary + b"--\r\n" + plain_body[60:]
    hostile = hostile[: len(plain_body)]
    reply = answer(viewer_request, stored(), hostile, NOW)
    other = (header(reply, b"content-type") or b"").partition(b"boundary=")[2]
    assert other != boundary
    assert other not in hostile
    given_one = answer(viewer_request, stored(), plain_body, NOW, boundary="mine")
    assert header(given_one, b"content-type") == b"multipart/byteranges; boundary=mine"


@rows(
    ("headers", "size"),
    [
        ([], 100),
        ([], 0),
        ([(b"range", b"bytes=10-19")], 100),
        ([(b"range", b"bytes=0-1, 5-9 ,-2")], 100),
        ([(b"range", b"bytes=100-")], 100),
        ([(b"if-none-match", ETAG)], 100),
        ([(b"if-match", b'"v0"')], 100),
    ],
)
def test_a_body_on_disk_is_laid_out_as_one_in_memory_is_sent(
    headers: list[tuple[bytes, bytes]], size: int
) -> None:
    viewer_request, meta, body = request(*headers), stored(), BODY[:size]
    expected = answer(viewer_request, meta, body, NOW, boundary="mine")
    reply, laid_out = layout(viewer_request, meta, size, NOW, "Hit", "mine")
    assert (reply.status, reply.length, reply.headers) == (expected.status, expected.length, expected.headers)
    if laid_out is None:
        assert expected.status in (304, 412, 416)
        assert reply.body == expected.body
    else:
        pieces = [each if isinstance(each, bytes) else body[each[0] : each[1] + 1] for each in laid_out]
        assert b"".join(pieces) == expected.body


def test_a_range_twice_is_no_range() -> None:
    reply = answer(request((b"range", b"bytes=0-1"), (b"range", b"bytes=0-1")), stored(), BODY, NOW)
    assert reply.status == 200


@rows("status", [203, 204])
def test_ranges_are_for_a_200(status: int) -> None:
    assert answer(request((b"range", b"bytes=0-1")), stored(status), b"", NOW).status == status


# -- denials (§4.1) ------------------------------------------------------------------------------------------


@rows("denial", list(Denial))
def test_denials_are_cloudfronts_to_the_byte(denial: Denial) -> None:
    sizes = {
        "MissingKey": 146,
        "InvalidKey": 106,
        "MalformedSignature": 131,
        "MalformedPolicy": 116,
        "AccessDenied": 110,
    }
    reply = denied_reply(denial)
    assert (reply.status, reply.length, reply.x_cache, reply.detail) == (
        403,
        sizes[denial.code],
        "Error",
        "Error",
    )
    assert reply.headers == [(b"server", b"CloudFront"), (b"content-type", b"text/xml")]
    assert reply.reason == denial.reason
    assert isinstance(reply.body, bytes)
    assert denial.reason.encode() not in reply.body  # the reason is not in the body


def test_a_denial_in_full() -> None:
    denied = Denied(Denial.EXPIRED, "three seconds ago", "K1")
    assert refused("denied", denied, request(), REQUEST_ID).body == (
        b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code>'
        b"<Message>Access denied</Message></Error>"
    )


# -- pages (§4.4) --------------------------------------------------------------------------------------------


def test_the_page_has_cloudfronts_size() -> None:
    """An older capture of it, 556 bytes, lacks the two sentences of advice and has an empty line in their place."""
    page = error_page(403, "Bad request.", REQUEST_ID)
    advice = page.index(b"We can't connect"), page.rindex(b'<BR clear="all">')
    assert len(page[: advice[0]] + b"\n" + page[advice[1] :]) == 556
    assert page.endswith(b"</BODY></HTML>")
    assert page.count(b"\n") == 19
    assert b"Request ID: " + REQUEST_ID.encode() + b"\n</PRE>" in page


@rows("name", sorted(REFUSALS))
def test_refusals(name: str) -> None:
    reply = refused(name, None, request(), REQUEST_ID)
    refusal = REFUSALS[name]
    assert (reply.status, reply.detail, reply.reason, reply.x_cache) == (
        refusal.status,
        refusal.detail,
        name,
        "Error",
    )
    own = [(b"sec-websocket-version", b"13")] if name == "websocket_version" else []
    assert reply.headers == [(b"server", b"CloudFront"), (b"content-type", b"text/html"), *own]
    assert reply.body == error_page(refusal.status, refusal.text, REQUEST_ID)


@rows(
    ("name", "status", "text", "detail"),
    [
        ("geo_blocked", 403, b"is configured to block access from your country.\n", "ClientGeoBlocked"),
        (
            "method_not_allowed",
            403,
            b"The distribution supports only cachable requests.\n",
            "InvalidRequestMethod",
        ),
        ("misdirected", 421, b">\nBad request.\n", "Error"),
        ("no_distribution", 403, b">\nBad request.\n", "Error"),
        ("not_an_edge", 403, b">\nBad request.\n", "Error"),
        ("https_only", 403, b">\nBad request.\n", "Error"),
        ("too_large", 413, b"<H1>413 ERROR</H1>", "InvalidRequest"),
        ("bad_request", 400, b"<H1>400 ERROR</H1>", "InvalidRequest"),
        ("expectation_failed", 417, b"<H1>417 ERROR</H1>", "InvalidRequestHeader"),
        ("too_many_headers", 431, b"<H1>431 ERROR</H1>", "InvalidRequestHeader"),
        ("body_with_get", 403, b">\nBad request.\n", "InvalidRequest"),
        ("chain_too_long", 403, b">\nBad request.\n", "InvalidRequest"),
        ("disabled", 403, b">\nBad request.\n", "Error"),
        ("ambiguous_path", 400, b"<H1>400 ERROR</H1>", "InvalidRequest"),
        ("websocket_key", 400, b"<H1>400 ERROR</H1>", "InvalidRequestHeader"),
        ("websocket_version", 400, b"<H1>400 ERROR</H1>", "InvalidRequestHeader"),
        ("websocket_limit", 503, b"<H1>503 ERROR</H1>", "CapacityExceeded"),
        ("websocket_over_asgi", 501, b"<H1>501 ERROR</H1>", "InvalidRequest"),
    ],
)
def test_some_refusal_messages(name: str, status: int, text: bytes, detail: str) -> None:
    reply = refused(name, None, request(), REQUEST_ID)
    assert (reply.status, reply.detail) == (status, detail)
    assert isinstance(reply.body, bytes)
    assert text in reply.body


@rows(
    ("kind", "status", "text"),
    [
        ("OriginDnsError", 502, b"wasn't able to resolve the origin domain name."),
        ("OriginConnectError", 502, b"either the attempt failed or the origin closed the connection."),
        ("OriginConnectError", 504, b"either the attempt failed or the origin closed the connection."),
        ("OriginReadError", 504, b"either the attempt failed or the origin closed the connection."),
        ("OriginHeaderTooBigError", 502, b"CloudFront wasn't able to connect to the origin."),
        ("SomethingNew", 502, b"CloudFront wasn't able to connect to the origin."),
    ],
)
def test_origin_failures(kind: str, status: int, text: bytes) -> None:
    reply = origin_failed(OriginFailure(kind, status, "secret.internal refused"), REQUEST_ID)
    assert (reply.status, reply.detail, reply.reason, reply.x_cache) == (status, kind, kind, "Error")
    assert isinstance(reply.body, bytes)
    assert text in reply.body
    assert b"secret.internal" not in reply.body


def test_an_internal_error_discloses_nothing_to_the_viewer() -> None:
    reply = internal_error(KeyError("/etc/secret"), REQUEST_ID)
    assert (reply.status, reply.reason) == (500, "internal_error:KeyError")
    assert isinstance(reply.body, bytes)
    assert b"secret" not in reply.body


# -- to https (§5.2) -----------------------------------------------------------------------------------------


@rows(
    ("method", "version", "status"),
    [
        ("GET", "1.1", 301),
        ("HEAD", "1.1", 301),
        ("GET", "1.0", 301),
        ("POST", "1.1", 307),
        ("PUT", "1.1", 307),
        ("DELETE", "2", 307),
        ("OPTIONS", "1.1", 307),
        ("PATCH", "1.1", 307),
        ("POST", "1.0", 403),
    ],
)
def test_redirect_by_method(method: str, version: str, status: int) -> None:
    reply = refused("redirect_to_https", None, request(method=method, version=version), REQUEST_ID)
    assert reply.status == status
    assert reply.x_cache == ("Error" if status == 403 else "Redirect")


def test_redirect_body() -> None:
    body = (
        b"<html>\r\n<head><title>301 Moved Permanently</title></head>\r\n<body>\r\n"
        b"<center><h1>301 Moved Permanently</h1></center>\r\n<hr><center>CloudFront</center>\r\n"
        b"</body>\r\n</html>\r\n"
    )
    reply = redirect_reply(request())
    assert (reply.body, reply.length) == (body, 167)
    assert header(reply, b"content-type") == b"text/html"
    assert header(reply, b"server") == b"CloudFront"
    temporary = redirect_reply(request(method="POST")).body
    assert temporary == body.replace(b"301 Moved Permanently", b"307 Temporary Redirect")


@rows(
    ("host", "target", "location"),
    [
        ("cdn.example", "/a/b", b"https://cdn.example/a/b"),
        ("cdn.example:80", "/", b"https://cdn.example/"),
        ("cdn.example:8080", "/", b"https://cdn.example:8080/"),
        (
            "cdn.example",
            "/%2e%2E/a%20b?x=1&Signature=a~_&y",
            b"https://cdn.example/%2e%2E/a%20b?x=1&Signature=a~_&y",
        ),
        ("cdn.example", "//evil.example/", b"https://cdn.example//evil.example/"),
        ("cdn.example", "/\xe9", b"https://cdn.example/\xe9"),
        ("cdn.example", "/\r\nSet-Cookie: a", b"https://cdn.example/%0D%0ASet-Cookie:%20a"),
    ],
)
def test_redirect_location(host: str, target: str, location: bytes) -> None:
    assert header(redirect_reply(request(host=host, target=target)), b"location") == location


# -- for the log ---------------------------------------------------------------------------------------------


@rows(
    ("query", "logged"),
    [
        ("", ""),
        ("a=1&b", "a=1&b"),
        ("a=1&Expires=5&Signature=s&Key-Pair-Id=K&b=2", "a=1&b=2"),
        ("Policy=p&Hash-Algorithm=SHA256&x", "x"),
        ("signature=s&%53ignature=t&a", "a"),
        ("Signatures=1", "Signatures=1"),
    ],
)
def test_a_logged_query_is_no_credential(query: str, logged: str) -> None:
    assert loggable_query(query) == logged


def test_a_limit_has_a_result_type_of_its_own() -> None:
    reply = limited("requests_per_address", REQUEST_ID)
    assert (reply.status, reply.detail, reply.reason) == (503, "LimitExceeded", "requests_per_address")
    assert reply.x_cache == "LimitExceeded"


@rows(
    ("host", "port", "expected"),
    [
        ("a.test", None, b"https://a.test/a"),
        ("a.test:80", None, b"https://a.test/a"),
        ("a.test:8080", 443, b"https://a.test/a"),
        ("a.test:8080", 8443, b"https://a.test:8443/a"),
        ("a.test:8080", 44, b"https://a.test:44/a"),
        ("a.test", 8443, b"https://a.test/a"),
    ],
)
def test_where_a_redirect_to_https_leads(host: str, port: int | None, expected: bytes) -> None:
    reply = redirect_reply(Request("GET", "/a", host, []), REQUEST_ID, port)
    assert reply.status == 301
    assert dict(reply.headers)[b"location"] == expected
