"""What is stored, and how long it is fresh: tables of cases, each with its section."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from keyfront.edge.rules import freshness
from keyfront.edge.rules.freshness import (
    ReceivedResponse,
    Verdict,
    admit,
    age,
    can_coalesce,
    capped_to,
    confirms,
    invalidates,
    judge,
    revalidated,
    revalidation_headers,
    serve_stale_on_error,
    stale_for,
)
from keyfront.edge.rules.vary import vary_matches
from keyfront.edge.semantics.cache_control import DELTA_MAX, FOREVER, CacheControl, delta_seconds, directives
from keyfront.edge.semantics.http_dates import format_date, parse_date
from keyfront.edge.types.messages import Headers
from keyfront.edge.types.stored import Meta
from keyfront.model.snapshot import Behavior, Origin, Select
from tests.rows import rows

NOW = 1_800_000_000.0
ALL = Select("all")


def behavior(low: int = 0, usual: int = 86400, high: int = 31536000, **members: Any) -> Behavior:
    return Behavior("*", "o", min_ttl=low, default_ttl=usual, max_ttl=high, **members)


ZERO = behavior()
MIN60 = behavior(60)


def date(offset: float) -> bytes:
    return format_date(NOW + offset)


def lines(cache_control: str | None = None, *more: tuple[bytes, bytes]) -> Headers:
    return ([(b"cache-control", cache_control.encode())] if cache_control is not None else []) + list(more)


def take(
    headers: Headers,
    of: Behavior = ZERO,
    status: int = 200,
    *,
    method: str = "GET",
    forwarded: Headers | None = None,
    error_min_ttl: int | None = None,
    request_time: float = NOW,
    origin: Origin | None = None,
) -> Meta | None:
    return admit(
        of,
        error_min_ttl,
        method,
        ReceivedResponse(status, headers, forwarded or [], request_time, NOW),
        origin,
    )


def taken(*args: Any, **members: Any) -> Meta:
    meta = take(*args, **members)
    assert meta is not None
    return meta


def ttl(*args: Any, **members: Any) -> float | None:
    """Seconds for which it is fresh; None if it is not stored."""
    meta = take(*args, **members)
    return None if meta is None else meta.fresh_until - NOW


# -- Cache-Control (RFC 9111 §5.2, §1.2.2) -------------------------------------------------------------------


@rows(
    ("value", "expected"),
    [
        (b"", []),
        (b"max-age=5", [(b"max-age", b"5")]),
        (b" Max-Age = 5 ,NO-STORE", [(b"max-age", b"5"), (b"no-store", None)]),
        (b'max-age="5"', [(b"max-age", b"5")]),
        (b",, ,no-cache,,", [(b"no-cache", None)]),
        (b'x="no-store, \\" max-age=1", public', [(b"x", b'no-store, " max-age=1'), (b"public", None)]),
        (b'no-cache="Set-Cookie", private', [(b"no-cache", b"Set-Cookie"), (b"private", None)]),
        (b'no-cache="Set-Cookie, private', [(b"no-cache", b'"Set-Cookie'), (b"private", None)]),
        (b"max-age=", [(b"max-age", b"")]),
        (b"max-age=1;x, public", [(b"max-age", b"1;x"), (b"public", None)]),
        (b"public max-age=5", [(b"public", None)]),
    ],
)
def test_directives(value: bytes, expected: list[tuple[bytes, bytes | None]]) -> None:
    assert directives(value) == expected


@rows(
    ("argument", "seconds"),
    [
        (None, None),
        (b"", None),
        (b"0", 0),
        (b"0000000000000000005", 5),
        (b"5", 5),
        (b"-5", None),
        (b"+5", None),
        (b"5.0", None),
        (b"5s", None),
        (b"0x5", None),
        (b"2147483648", DELTA_MAX),
        (b"9999999999", DELTA_MAX),
        (b"9" * 10_000, DELTA_MAX),
        ("٣".encode(), None),
    ],
)
def test_delta_seconds(argument: bytes | None, seconds: int | None) -> None:
    assert delta_seconds(argument) == seconds


@rows(
    ("value", "name", "expected"),
    [
        (b"max-age=5, max-age=9", "max_age", 5),  # the first counts
        (b"max-age=x", "max_age", 0),  # unreadable: already stale
        (b"max-age", "max_age", 0),
        (b"max-age=-1", "max_age", 0),
        (b"s-maxage=1.5", "s_maxage", 0),
        (b"s-maxage=7", "s_maxage", 7),
        (b"", "max_age", None),
        (b"stale-if-error=x", "stale_if_error", None),
        (b"stale-if-error=0", "stale_if_error", 0),
        (b"stale-while-revalidate=30", "stale_while_revalidate", 30),
        (b"no-cache", "no_cache", True),
        (b"no-cache=Set-Cookie", "no_cache", False),
        (b'no-cache=""', "no_cache", True),
        (b'no-cache="Set-Cookie"', "no_cache_fields", {b"set-cookie"}),
        (b'no-cache="A, b ,"', "no_cache_fields", {b"a", b"b"}),
        (b'no-cache="a", no-cache', "no_cache", True),
        (b'no-cache="a", no-cache="b"', "no_cache_fields", {b"a", b"b"}),
        (b'no-cache="a', "no_cache", True),  # an open quote: no guess at the meaning
        (b'private="x-user"', "private", False),
        (b"private", "private", True),
        (b"proxy-revalidate", "must_revalidate", True),
        (b"must-revalidate", "must_revalidate", True),
        (b"PUBLIC", "public", True),
        (b"no-store, must-understand", "forbids", False),
        (b"no-store", "forbids", True),
        (b"immutable, foo=bar", "forbids", False),
    ],
)
def test_cache_control(value: bytes, name: str, expected: object) -> None:
    assert getattr(CacheControl(value), name) == expected


def test_several_lines_are_one() -> None:
    control = CacheControl.of(
        [(b"cache-control", b"max-age=5"), (b"x", b"no-store"), (b"cache-control", b"private")]
    )
    assert (control.max_age, control.private, control.no_store) == (5, True, False)


@given(st.binary(max_size=80))
def test_any_cache_control_can_be_read(value: bytes) -> None:
    CacheControl(value)


@rows("value", [b'="' * 20_000, b'a="\\' * 10_000, b"=" * 40_000, b'x="' + b"\\" * 40_001, b" ," * 20_000])
def test_a_hostile_cache_control_costs_little(value: bytes) -> None:
    began = datetime.now(UTC)
    CacheControl(value)
    assert (datetime.now(UTC) - began).total_seconds() < 1


# -- dates (RFC 9110 §5.6.7) ---------------------------------------------------------------------------------


@rows(
    ("value", "epoch"),
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        (b"Sun Nov  6 08:49:37 1994", 784111777),
        (b" Sun, 06 Nov 1994 08:49:37 GMT ", 784111777),
        (b"Sun, 6 Nov 1994 08:49:37 GMT", 784111777),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),  # a leap second
        (b"Fri, 15-Jan-27 08:00:00 GMT", None),
        (b"Friday, 15-Jan-27 08:00:00 GMT", 1800000000),
        (b"Sunday, 06-Nov-78 08:49:37 GMT", 279190177),  # 2078 would be more than 50 years ahead
        (b"Sunday, 06-Nov-76 08:49:37 GMT", 3371878177),
        (b"Sun, 06 Nov 1994 08:49:37 +0000", None),
        (b"Sun, 06 Nov 1994 08:49:37 UTC", None),
        (b"Sun, 06 nov 1994 08:49:37 GMT", None),
        (b"Sun, 31 Feb 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 24:00:00 GMT", None),
        (b"Sun, 06 Nov 0000 08:49:37 GMT", None),
        (b"1994-11-06T08:49:37Z", None),
        (b"784111777", None),
        (b"0", None),
        (b"-1", None),
        (b"", None),
        (b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", None),
    ],
)
def test_http_dates(value: bytes, epoch: int | None) -> None:
    assert parse_date(value, NOW) == epoch


@given(st.integers(0, 250_000_000_000))
def test_dates_are_read_as_they_are_written(epoch: int) -> None:
    assert parse_date(format_date(epoch), NOW) == epoch


# -- the TTL table (§5.4) ------------------------------------------------------------------------------------

LOW_MAX = behavior(0, 50, 100)
MIN_MAX = behavior(60, 70, 100)
MIN_OVER_DEFAULT = behavior(60, 60, 100)


@rows(
    ("headers", "of", "expected"),
    [
        # max-age
        (lines("max-age=30"), LOW_MAX, 30),
        (lines("max-age=300"), LOW_MAX, 100),
        (lines("max-age=0"), LOW_MAX, 0),
        (lines("max-age=30"), MIN_MAX, 60),
        (lines("max-age=80"), MIN_MAX, 80),
        (lines("max-age=300"), MIN_MAX, 100),
        (lines("max-age=0"), MIN_MAX, 60),
        (lines("max-age=x"), LOW_MAX, 0),
        (lines("max-age=x"), MIN_MAX, 60),
        (lines("max-age=99999999999999"), behavior(0, 0, 3_153_600_000), DELTA_MAX),
        # s-maxage beats max-age
        (lines("max-age=30, s-maxage=40"), LOW_MAX, 40),
        (lines("s-maxage=400, max-age=30"), LOW_MAX, 100),
        (lines("s-maxage=0, max-age=30"), LOW_MAX, 0),
        (lines("max-age=90, s-maxage=10"), MIN_MAX, 60),
        (lines("s-maxage=80"), MIN_MAX, 80),
        # Expires
        (lines(None, (b"expires", date(30))), LOW_MAX, 30),
        (lines(None, (b"expires", date(300))), LOW_MAX, 100),
        (lines(None, (b"expires", date(-30))), LOW_MAX, 0),
        (lines(None, (b"expires", date(30))), MIN_MAX, 60),
        (lines(None, (b"expires", date(80))), MIN_MAX, 80),
        (lines(None, (b"expires", date(300))), MIN_MAX, 100),
        (lines(None, (b"expires", b"0")), LOW_MAX, 0),
        (lines(None, (b"expires", b"0")), MIN_MAX, 60),
        (lines(None, (b"expires", b"tomorrow")), LOW_MAX, 0),
        (lines(None, (b"expires", b"0"), (b"expires", date(30))), LOW_MAX, 0),  # the first counts
        (lines(None, (b"expires", date(30)), (b"date", date(0))), LOW_MAX, 30),
        (
            lines(None, (b"expires", date(3630)), (b"date", date(3600))),
            LOW_MAX,
            30,
        ),  # the origin's clock is ahead
        (lines(None, (b"expires", date(30)), (b"date", b"nonsense")), LOW_MAX, 30),
        # max-age beats Expires
        (lines("max-age=30", (b"expires", date(80))), LOW_MAX, 30),
        (lines("max-age=30", (b"expires", b"0")), LOW_MAX, 30),
        (lines("public", (b"expires", date(30))), LOW_MAX, 30),
        # nothing
        ([], LOW_MAX, 50),
        ([], MIN_MAX, 70),
        ([], MIN_OVER_DEFAULT, 60),
        ([], behavior(0, 0, 100), 0),
        (lines("public, immutable"), LOW_MAX, 50),
        (lines(None, (b"last-modified", date(-1_000_000))), LOW_MAX, 50),  # DefaultTTL, no heuristics
        (lines(None, (b"pragma", b"no-cache")), LOW_MAX, 50),
        # no-store, no-cache, private
        (lines("no-store"), LOW_MAX, None),
        (lines("no-cache"), LOW_MAX, None),
        (lines("private"), LOW_MAX, None),
        (lines("private, max-age=30"), LOW_MAX, None),
        (lines("no-store, s-maxage=30"), LOW_MAX, None),
        (lines("no-store"), MIN_MAX, 60),
        (lines("no-cache"), MIN_MAX, 60),
        (lines("private"), MIN_MAX, 60),
        (lines("private, max-age=80"), MIN_MAX, 60),
        (lines("no-store, no-cache, private", (b"expires", date(80))), MIN_MAX, 60),
        (lines('private="x-user"'), LOW_MAX, 50),
        (lines('no-cache="set-cookie", max-age=30'), LOW_MAX, 30),
        (lines("no-store, must-understand, max-age=30"), LOW_MAX, 30),
        (lines('no-cache="x'), LOW_MAX, None),
        # caching disabled
        (lines("max-age=30"), behavior(0, 0, 0), None),
        (lines("max-age=30"), behavior(legacy=True, key_headers=ALL, forward_headers=ALL), None),
        ([], behavior(0, 0, 0), None),
    ],
)
def test_ttl(headers: Headers, of: Behavior, expected: float | None) -> None:
    assert ttl(headers, of) == expected


@rows(
    ("headers", "of", "expected"),
    [
        (lines("max-age=30", (b"age", b"10")), LOW_MAX, 20),
        (lines("max-age=30", (b"age", b"40")), LOW_MAX, 0),
        (lines("max-age=30", (b"age", b"10")), MIN_MAX, 60),
        (lines("max-age=30", (b"age", b"-10")), LOW_MAX, 30),
        (lines("max-age=30", (b"age", b"ten")), LOW_MAX, 30),
        (lines("max-age=30", (b"age", b"10, 20")), LOW_MAX, 20),  # the first counts (RFC 9111 §5.1)
        (lines("max-age=30", (b"age", b"10"), (b"age", b"20")), LOW_MAX, 20),
        (lines("max-age=30", (b"age", b"99999999999999999999")), LOW_MAX, 0),
        (lines("max-age=30", (b"date", date(-10))), LOW_MAX, 20),  # apparent age
        (lines("max-age=30", (b"date", date(-10)), (b"age", b"5")), LOW_MAX, 20),
        (lines("max-age=30", (b"date", date(-5)), (b"age", b"10")), LOW_MAX, 20),
        # A clock that is ahead does not make anything younger.
        (lines("max-age=30", (b"date", date(10))), LOW_MAX, 30),
        (lines(None, (b"expires", date(30)), (b"date", date(-10))), LOW_MAX, 30),
        (lines(None, (b"expires", date(30)), (b"age", b"10")), LOW_MAX, 20),
        ([(b"age", b"10")], LOW_MAX, 50),  # DefaultTTL is the time in this cache
        (lines("max-age=1000", (b"age", b"500")), LOW_MAX, 100),
    ],
)
def test_time_already_spent_is_not_spent_again(headers: Headers, of: Behavior, expected: float) -> None:
    """RFC 9111 §4.2.3."""
    assert ttl(headers, of) == expected


def test_the_time_on_the_way_counts() -> None:
    meta = taken(lines("max-age=30", (b"age", b"5")), request_time=NOW - 2)
    assert meta.fresh_until - NOW == 23
    assert (age(meta, NOW), age(meta, NOW + 3.9)) == (7, 10)


def test_a_clock_that_steps_back_makes_no_negative_age() -> None:
    meta = taken(lines("max-age=30"), request_time=NOW + 5)
    assert meta.initial_age == 0
    assert age(meta, NOW - 100) == 0


def test_half_seconds_do_not_age_an_answer() -> None:
    """Date has whole seconds; a Date of the current second gives no age."""
    meta = admit(
        ZERO,
        None,
        "GET",
        ReceivedResponse(200, lines("max-age=1", (b"date", date(0))), [], NOW + 0.9, NOW + 0.9),
    )
    assert meta is not None
    assert meta.fresh_until == NOW + 1.9


# -- which answers (§5.6, §5.9, §5.3) ------------------------------------------------------------------------


@rows("status", [200, 203, 204, 300, 301, 302, 303, 307, 308])
def test_successes_and_redirects_have_the_ttl_table(status: int) -> None:
    assert ttl([], LOW_MAX, status) == 50
    assert ttl(lines("max-age=30"), LOW_MAX, status) == 30
    assert ttl(lines("no-store"), LOW_MAX, status) is None


@rows("status", [100, 101, 201, 202, 205, 206, 207, 226, 304, 305, 401, 402, 406, 407, 408, 409, 411])
def test_other_statuses_are_not_stored(status: int) -> None:
    assert ttl(lines("max-age=30, public"), MIN_MAX, status) is None


@rows("status", [413, 416, 417, 418, 421, 422, 425, 426, 428, 429, 431, 451, 505, 507, 511, 599])
def test_other_errors_are_not_stored(status: int) -> None:
    assert ttl(lines("max-age=30, public"), MIN_MAX, status, error_min_ttl=60) is None


DEFAULT_ERRORS = [404, 410, 414, 500, 501, 502, 503, 504]
ASKED_ERRORS = [400, 403, 405, 412, 415]


@rows("status", DEFAULT_ERRORS)
@rows(
    ("headers", "error_min_ttl", "of", "expected"),
    [
        ([], None, ZERO, 10),
        ([], 30, ZERO, 30),
        ([], 0, ZERO, None),
        ([], None, MIN60, 10),  # MinTTL and DefaultTTL are for successes
        (lines("max-age=5"), None, ZERO, 10),
        (lines("max-age=20"), None, ZERO, 20),
        (lines("max-age=20"), 30, ZERO, 30),
        (lines("max-age=20"), 0, ZERO, 20),
        (lines("max-age=20, s-maxage=40"), None, ZERO, 40),
        (lines("max-age=200"), None, LOW_MAX, 100),
        (lines("max-age=50"), 300, LOW_MAX, 300),
        (lines(None, (b"expires", date(20))), None, ZERO, 20),
        (lines(None, (b"expires", b"0")), None, ZERO, 10),
        (lines("max-age=30", (b"age", b"5")), 0, ZERO, 25),
        ([], None, behavior(0, 0, 0), None),
    ],
)
def test_errors_stored_by_default(
    status: int, headers: Headers, error_min_ttl: int | None, of: Behavior, expected: float | None
) -> None:
    assert ttl(headers, of, status, error_min_ttl=error_min_ttl) == expected


@rows("status", ASKED_ERRORS)
@rows(
    ("headers", "error_min_ttl", "expected"),
    [
        ([], None, None),
        ([], 60, None),
        (lines(None, (b"expires", date(20))), 60, None),
        (lines("public"), None, None),
        (lines("max-age=20"), None, 20),
        (lines("max-age=5"), None, 10),
        (lines("s-maxage=20"), 30, 30),
        (lines("max-age=20, private"), None, None),
        (lines("max-age=20, no-store"), 60, None),
    ],
)
def test_errors_stored_only_if_the_origin_allows_it(
    status: int, headers: Headers, error_min_ttl: int | None, expected: float | None
) -> None:
    assert ttl(headers, ZERO, status, error_min_ttl=error_min_ttl) == expected


@rows("forbidding", ["no-store", "no-cache", "private", "no-cache, max-age=60"])
def test_only_some_errors_may_forbid_to_be_stored(forbidding: str) -> None:
    for status in (404, 410, 414, 501):
        assert ttl(lines(forbidding), ZERO, status) is None
    for status in (500, 502, 503, 504):
        assert ttl(lines(forbidding), ZERO, status) == 10


@rows(
    ("method", "of", "stored"),
    [
        ("GET", ZERO, True),
        ("HEAD", ZERO, False),
        ("OPTIONS", ZERO, False),
        ("OPTIONS", behavior(cached_methods=("GET", "HEAD", "OPTIONS")), True),
        ("POST", ZERO, False),
        ("PUT", behavior(cached_methods=("GET", "HEAD", "PUT")), False),
        ("DELETE", ZERO, False),
    ],
)
def test_methods(method: str, of: Behavior, stored: bool) -> None:
    assert (take(lines("max-age=30"), of, method=method) is not None) is stored


# -- Authorization (RFC 9111 §3.5) ---------------------------------------------------------------------------

AUTHORIZED = [(b"authorization", b"Basic x")]


@rows(
    ("cache_control", "of", "stored"),
    [
        ("max-age=30", ZERO, False),
        ("max-age=30", MIN60, False),
        ("max-age=30, public", ZERO, True),
        ("s-maxage=30", ZERO, True),
        ("max-age=30, must-revalidate", ZERO, True),
        ("max-age=30, proxy-revalidate", ZERO, True),
        ("max-age=30", behavior(key_headers=Select("whitelist", ("authorization",))), True),
        ("max-age=30", behavior(key_headers=Select("whitelist", ("x",)), forward_headers=ALL), False),
        ("private, public", ZERO, False),
    ],
)
def test_what_was_sent_for_one_viewers_credentials(cache_control: str, of: Behavior, stored: bool) -> None:
    assert (take(lines(cache_control), of, forwarded=AUTHORIZED) is not None) is stored


def test_the_edges_own_credentials_do_not_refuse_viewers() -> None:
    own = Origin("o", "x", custom_headers=(("Authorization", "Basic x"),))
    assert take(lines("max-age=30"), forwarded=AUTHORIZED, origin=own) is not None
    assert take(lines("max-age=30"), forwarded=AUTHORIZED, origin=Origin("o", "x")) is None


# -- what is stored ------------------------------------------------------------------------------------------


def test_only_end_to_end_headers_are_stored() -> None:
    meta = taken(
        [
            (b"content-type", b"text/plain"),
            (b"connection", b"x-hop"),
            (b"x-hop", b"1"),
            (b"transfer-encoding", b"chunked"),
            (b"trailer", b"x"),
            (b"via", b"1.1 x"),
            (b"age", b"4"),
            (b"x-cache", b"Hit"),
            (b"content-length", b"12"),
            (b"date", date(-4)),
            (b"set-cookie", b"a=1"),
            (b"server", b"nginx"),
            (b"cache-control", b"max-age=30"),
        ]
    )
    assert meta.headers == (
        (b"date", date(-4)),
        (b"content-type", b"text/plain"),
        (b"server", b"nginx"),
        (b"cache-control", b"max-age=30"),
    )
    assert meta.length == 12
    assert meta.date == NOW - 4


@rows("given_date", [None, b"yesterday"])
def test_a_date_is_added_if_there_is_none(given_date: bytes | None) -> None:
    """RFC 9110 §6.6.1."""
    meta = taken([(b"date", given_date)] if given_date is not None else [])
    assert [h for h in meta.headers if h[0] == b"date"] == [(b"date", date(0))]


@rows(
    ("of", "cache_control", "stored"),
    [
        (ZERO, "max-age=30", False),
        (behavior(forward_cookies=ALL), "max-age=30", True),
        (behavior(forward_cookies=Select("whitelist", ("x",))), "max-age=30", True),
        (behavior(forward_cookies=ALL), 'max-age=30, no-cache="Set-Cookie"', False),
        (behavior(forward_cookies=ALL), 'max-age=30, no-cache="X-A, set-cookie"', False),
        (behavior(forward_cookies=ALL), 'max-age=30, private="Set-Cookie"', False),
        (behavior(forward_cookies=ALL), 'max-age=30, no-cache="X-A"', True),
    ],
)
def test_set_cookie(of: Behavior, cache_control: str, stored: bool) -> None:
    """§5.7."""
    meta = taken(lines(cache_control, (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-a", b"1")), of)
    assert [v for n, v in meta.headers if n == b"set-cookie"] == ([b"a=1", b"b=2"] if stored else [])


@rows("value", [b"", b"-1", b"1x", b"9" * 30])
def test_an_unreadable_length_is_no_length(value: bytes) -> None:
    assert taken([(b"content-length", value)]).length is None


@rows(
    ("value", "kept"),
    [
        (b'"x"', True),
        (b'W/"x"', True),
        (b'""', True),
        (b'"\xe9"', True),
        (b"x", False),
        (b'"x', False),
        (b'w/"x"', False),
        (b'"a"b"', False),
        (b'"a b"', False),
    ],
)
def test_a_malformed_entity_tag_validates_nothing(value: bytes, kept: bool) -> None:
    meta = taken([(b"etag", value)])
    assert (meta.etag == value) is kept
    assert (b"etag", value) in meta.headers


# -- no-cache ------------------------------------------------------------------------------------------------


def test_no_cache_with_a_validator_is_stored_but_validated_at_each_use() -> None:
    meta = taken(lines("no-cache", (b"etag", b'"x"')))
    assert meta.revalidate_always
    assert judge(meta, NOW) is Verdict.REVALIDATE
    assert not serve_stale_on_error(meta, NOW, None)


@rows(
    ("cache_control", "of"),
    [
        ("no-cache", behavior(forward_cookies=ALL)),
        ("no-cache, private", ZERO),
        ("no-cache, no-store", ZERO),
        ("no-cache, no-store, must-understand", behavior(forward_cookies=ALL)),
    ],
)
def test_no_cache_without_a_validator_is_not_stored(cache_control: str, of: Behavior) -> None:
    assert take(lines(cache_control, (b"etag", b'"x"')), of) is None


# -- Vary (§5.9, RFC 9111 §4.1) ------------------------------------------------------------------------------

ON_ORIGIN = behavior(
    forward_headers=Select("whitelist", ("origin", "x-a", "x-b", "accept-encoding")), forward_cookies=ALL
)


@rows(
    ("vary", "stored_for", "asked", "matches"),
    [
        (None, [], [(b"x-a", b"1")], True),
        (b"X-A", [(b"x-a", b"1")], [(b"x-a", b"1")], True),
        (b"X-A", [(b"x-a", b"1")], [(b"x-a", b"2")], False),
        (b"X-A", [(b"x-a", b"1")], [], False),
        (b"X-A", [], [], True),
        (b"X-A", [], [(b"x-a", b"")], False),
        (b"X-A", [(b"x-a", b"")], [], False),
        (b"X-A", [(b"x-a", b"1,2")], [(b"x-a", b"1"), (b"x-a", b" 2 ")], True),
        (b"X-A", [(b"x-a", b"1"), (b"x-a", b"2")], [(b"x-a", b"2"), (b"x-a", b"1")], False),
        (b"X-A", [(b"x-a", b"1")], [(b"x-a", b"1"), (b"x-b", b"9")], True),
        (b"X-A, X-B", [(b"x-a", b"1"), (b"x-b", b"2")], [(b"x-b", b"2"), (b"x-a", b"1")], True),
        (b"X-A, X-B", [(b"x-a", b"1"), (b"x-b", b"2")], [(b"x-a", b"1"), (b"x-b", b"3")], False),
        (b"Accept-Encoding", [(b"accept-encoding", b"gzip")], [(b"accept-encoding", b"br,gzip")], False),
        (b"Cookie", [(b"cookie", b"a=1")], [(b"cookie", b"a=2")], False),
        (
            b"Accept-Language",
            [(b"accept-language", b"en")],
            [(b"accept-language", b"mi")],
            True,
        ),  # not forwarded
    ],
)
def test_variants(vary: bytes | None, stored_for: Headers, asked: Headers, matches: bool) -> None:
    meta = taken([(b"vary", vary)] if vary is not None else [], ON_ORIGIN, forwarded=stored_for)
    assert vary_matches(meta, asked) is matches


@rows(
    ("value", "of", "names"),
    [
        (b"Origin", ZERO, ()),
        (b"Origin, accept-encoding", ON_ORIGIN, (b"accept-encoding", b"origin")),
        (b"X-A, x-a, X-B", ON_ORIGIN, (b"x-a", b"x-b")),
        (b"User-Agent", ZERO, ()),
        (b"User-Agent", behavior(forward_headers=ALL), (b"user-agent",)),
        (
            b"User-Agent",
            behavior(forward_headers=Select("whitelist", ("cloudfront-is-mobile-viewer",))),
            (b"cloudfront-is-mobile-viewer",),
        ),
        # what the key contains need not be compared again
        (b"Accept-Encoding", behavior(accept_gzip=True), ()),
        (b"Accept-Encoding", ZERO, ()),
        (b"Cookie", behavior(key_cookies=ALL, forward_cookies=ALL), ()),
        (b"Cookie", ZERO, ()),
        (b"Cookie", behavior(key_cookies=Select("whitelist", ("a",)), forward_cookies=ALL), (b"cookie",)),
        (b"Origin", behavior(key_headers=Select("whitelist", ("origin",)), forward_headers=ALL), ()),
        (b"not a token, X-A", ON_ORIGIN, (b"x-a",)),
        (b"*", MIN60, ()),
        (b"*, Cookie", behavior(60, forward_cookies=ALL), (b"cookie",)),
    ],
)
def test_what_an_answer_varies_on(value: bytes, of: Behavior, names: tuple[bytes, ...]) -> None:
    assert taken([(b"vary", value)], of).vary == names


@rows("value", [b"*", b"Accept-Encoding, *", b" * "])
def test_vary_star_matches_no_other_request(value: bytes) -> None:
    assert take(lines("max-age=30", (b"vary", value))) is None


def test_devices_are_variants_of_user_agent() -> None:
    mobile = b"cloudfront-is-mobile-viewer"
    of = behavior(forward_headers=Select("whitelist", (mobile.decode(),)))
    meta = taken(
        [(b"vary", b"User-Agent")], of, forwarded=[(b"user-agent", b"Amazon CloudFront"), (mobile, b"true")]
    )
    assert not vary_matches(meta, [(b"user-agent", b"Amazon CloudFront"), (mobile, b"false")])
    assert vary_matches(meta, [(mobile, b"true"), (b"user-agent", b"Amazon CloudFront")])


# -- stale (§5.5, RFC 5861) ----------------------------------------------------------------------------------


@rows(
    ("cache_control", "of", "status", "swr", "sie"),
    [
        ("max-age=10", ZERO, 200, 0, FOREVER),
        ("max-age=10, stale-while-revalidate=20", ZERO, 200, 30, FOREVER),
        ("max-age=10, stale-while-revalidate=2000", LOW_MAX, 200, 110, FOREVER),
        ("max-age=10, stale-if-error=20", ZERO, 200, 0, 30),
        ("max-age=10, stale-if-error=2000", LOW_MAX, 200, 0, 110),
        ("max-age=10, stale-if-error=0", ZERO, 200, 0, 10),
        ("max-age=10, stale-while-revalidate=20, stale-if-error=40", ZERO, 200, 30, 50),
        ("max-age=10, stale-while-revalidate=x", ZERO, 200, 0, FOREVER),
        ("max-age=10, must-revalidate, stale-while-revalidate=20", ZERO, 200, 0, 0),
        ("max-age=10, proxy-revalidate, stale-if-error=20", ZERO, 200, 0, 0),
        ("s-maxage=10, stale-while-revalidate=20", ZERO, 200, 30, FOREVER),
        ("no-store", MIN60, 200, 0, FOREVER),
        ("no-cache, stale-if-error=0", MIN60, 200, 0, 60),
        ("max-age=10, stale-while-revalidate=20", MIN60, 200, 80, FOREVER),
        ("max-age=10", ZERO, 301, 0, FOREVER),
        ("max-age=10", ZERO, 400, 0, 0),
        ("max-age=10", ZERO, 404, 0, 0),
        ("max-age=10, stale-if-error=20", ZERO, 404, 0, 30),
        ("max-age=10", ZERO, 503, 0, 0),
    ],
)
def test_stale_windows(cache_control: str, of: Behavior, status: int, swr: float, sie: float) -> None:
    meta = taken(lines(cache_control), of, status)
    assert max(0.0, meta.swr_until - NOW) == swr
    assert (meta.sie_until == FOREVER) is (sie == FOREVER)
    assert sie == FOREVER or max(0.0, meta.sie_until - NOW) == sie
    if "revalidate," in cache_control.replace("while-revalidate", ""):
        assert (meta.swr_until, meta.sie_until) == (0.0, 0.0)


@rows(
    ("cache_control", "validator", "after", "expected"),
    [
        ("max-age=10", b'"x"', 0, Verdict.HIT),
        ("max-age=10", b'"x"', 9.99, Verdict.HIT),
        ("max-age=10", b'"x"', 10, Verdict.REVALIDATE),
        ("max-age=10", None, 10, Verdict.MISS),
        ("max-age=0", b'"x"', 0, Verdict.REVALIDATE),
        ("max-age=0", None, 0, Verdict.MISS),
        ("max-age=10, stale-while-revalidate=5", None, 14.9, Verdict.STALE),
        ("max-age=10, stale-while-revalidate=5", b'"x"', 15, Verdict.REVALIDATE),
        ("max-age=10, stale-if-error=50", b'"x"', 15, Verdict.REVALIDATE),
        ("no-cache", b'"x"', 0, Verdict.REVALIDATE),
    ],
)
def test_judge(cache_control: str, validator: bytes | None, after: float, expected: Verdict) -> None:
    meta = taken(lines(cache_control, *([(b"etag", validator)] if validator else [])))
    assert judge(meta, NOW + after) is expected


@rows(
    ("cache_control", "after", "status", "serves"),
    [
        ("max-age=10", 1e9, None, True),
        ("max-age=10", 1e9, 500, True),
        ("max-age=10", 1e9, 599, True),
        ("max-age=10", 20, 404, False),
        ("max-age=10", 20, 403, False),
        ("max-age=10", 20, 200, False),
        ("max-age=10, stale-if-error=5", 14, 503, True),
        ("max-age=10, stale-if-error=5", 15, 503, False),
        ("max-age=10, stale-if-error=0", 11, None, False),
        ("max-age=10, must-revalidate", 11, None, False),
        ("max-age=0", 0, None, True),
    ],
)
def test_standing_in_for_a_failing_origin(
    cache_control: str, after: float, status: int | None, serves: bool
) -> None:
    assert serve_stale_on_error(taken(lines(cache_control)), NOW + after, status) is serves


def test_a_failing_origin_is_retried_after_a_while() -> None:
    meta = taken(lines("max-age=10, stale-if-error=25", (b"etag", b'"x"')))
    held = stale_for(meta, NOW + 20, 10)
    assert judge(held, NOW + 29) is Verdict.HIT
    assert judge(held, NOW + 30) is Verdict.REVALIDATE
    assert age(held, NOW + 29) == 29
    assert meta.fresh_until == NOW + 10  # the original is unchanged
    assert stale_for(meta, NOW + 30, 10).fresh_until == NOW + 35  # never later than the origin allowed


# -- validation (RFC 9111 §4.3) ------------------------------------------------------------------------------


@rows(
    ("headers", "of", "status", "expected"),
    [
        ([(b"etag", b'"x"')], ZERO, 200, [(b"if-none-match", b'"x"')]),
        ([(b"etag", b'W/"x"')], ZERO, 200, [(b"if-none-match", b'W/"x"')]),
        ([(b"last-modified", date(-50))], ZERO, 200, [(b"if-modified-since", date(-50))]),
        (
            [(b"last-modified", date(-50)), (b"etag", b'"x"')],
            ZERO,
            200,
            [(b"if-none-match", b'"x"'), (b"if-modified-since", date(-50))],
        ),
        ([(b"last-modified", b"once")], ZERO, 200, []),
        ([(b"etag", b"x")], ZERO, 200, []),
        ([], ZERO, 200, []),
        ([(b"etag", b'"x"')], behavior(forward_cookies=ALL), 200, []),  # §5.7
        # Origins evaluate conditions only where they would otherwise answer with a success (RFC 9110 §13.2.1).
        ([(b"etag", b'"x"')], ZERO, 404, []),
        ([(b"etag", b'"x"')], ZERO, 301, []),
    ],
)
def test_the_request_that_the_origin_gets(
    headers: Headers, of: Behavior, status: int, expected: Headers
) -> None:
    assert revalidation_headers(taken(headers, of, status)) == expected


@rows(
    ("stored", "of_304", "expected"),
    [
        ([(b"etag", b'"x"')], [(b"etag", b'"x"')], True),
        ([(b"etag", b'"x"')], [(b"etag", b'W/"x"')], True),
        ([(b"etag", b'"x"')], [(b"etag", b'"y"')], False),
        ([(b"etag", b'"x"')], [], True),
        ([(b"last-modified", date(-9))], [(b"last-modified", date(-9))], True),
        ([(b"last-modified", date(-9))], [(b"last-modified", date(-5))], False),
        ([(b"last-modified", date(-9))], [], True),
        ([(b"last-modified", date(-9))], [(b"etag", b'"new"')], True),
    ],
)
def test_a_304_must_be_about_what_is_stored(stored: Headers, of_304: Headers, expected: bool) -> None:
    assert confirms(taken(stored), of_304) is expected


LATER = NOW + 100


def renew(meta: Meta, headers: Headers, of: Behavior = ZERO, forwarded: Headers | None = None) -> Meta:
    return revalidated(of, meta, headers, LATER, LATER - 1, forwarded)


def test_a_304_renews_headers_and_times() -> None:
    meta = taken(
        lines(
            "max-age=10",
            (b"etag", b'"x"'),
            (b"content-type", b"text/plain"),
            (b"content-encoding", b"gzip"),
            (b"content-length", b"7"),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
            (b"x-b", b"kept"),
            (b"server", b"nginx"),
            (b"date", date(0)),
        ),
        request_time=NOW - 3,
    )
    fresh = renew(
        meta,
        lines(
            "max-age=50",
            (b"x-a", b"3"),
            (b"content-length", b"0"),
            (b"content-type", b"text/html"),
            (b"content-encoding", b"identity"),
            (b"date", date(100)),
            (b"connection", b"x-hop"),
            (b"x-hop", b"1"),
            (b"transfer-encoding", b"chunked"),
            (b"set-cookie", b"a=1"),
        ),
    )
    assert sorted(fresh.headers) == sorted(
        [
            (b"date", date(100)),
            (b"etag", b'"x"'),
            (b"content-type", b"text/plain"),
            (b"content-encoding", b"gzip"),
            (b"x-b", b"kept"),
            (b"server", b"nginx"),
            (b"cache-control", b"max-age=50"),
            (b"x-a", b"3"),
        ]
    )
    assert (fresh.status, fresh.length, fresh.etag, fresh.date) == (200, 7, b'"x"', LATER)
    assert fresh.fresh_until == LATER + 49
    assert age(fresh, LATER) == 1


@rows(
    ("stored", "of_304", "of", "expected"),
    [
        (lines("max-age=10"), [], ZERO, 10),
        (lines("max-age=10"), lines("max-age=20"), ZERO, 20),
        (lines("max-age=10"), [(b"age", b"4")], ZERO, 6),
        ([], [], LOW_MAX, 50),
        ([], lines("max-age=20"), LOW_MAX, 20),
        (lines(None, (b"expires", date(10))), [], ZERO, 0),  # the old date is still in the past
        (lines(None, (b"expires", date(10))), [(b"expires", date(160))], ZERO, 60),
        # The origin's own cache answers with an old response.
        (lines("max-age=10"), [(b"date", date(0))], ZERO, 0),
    ],
)
def test_a_304_counts_time_anew(stored: Headers, of_304: Headers, of: Behavior, expected: float) -> None:
    meta = taken([*stored, (b"etag", b'"x"')], of)
    fresh = revalidated(of, meta, of_304, LATER, LATER)
    assert fresh.fresh_until - LATER == expected


@rows("cache_control", ["no-store", "private"])
def test_a_304_that_forbids_storing_leaves_it_stale_at_once(cache_control: str) -> None:
    fresh = renew(taken(lines("max-age=10", (b"etag", b'"x"'))), lines(cache_control))
    assert judge(fresh, LATER) is Verdict.REVALIDATE
    assert not serve_stale_on_error(fresh, LATER, None)
    assert (b"cache-control", cache_control.encode()) in fresh.headers
    assert age(fresh, LATER + 2) == 3


def test_a_304_keeps_no_cache_no_cache() -> None:
    fresh = renew(taken(lines("no-cache", (b"etag", b'"x"'))), [])
    assert fresh.revalidate_always
    assert judge(fresh, LATER) is Verdict.REVALIDATE


ON_X = behavior(forward_headers=Select("whitelist", ("x-a", "x-b")))


def test_a_304_changes_what_it_varies_on_only_with_the_request_at_hand() -> None:
    meta = taken([(b"vary", b"X-A"), (b"etag", b'"x"')], ON_X, forwarded=[(b"x-a", b"1")])
    same = renew(meta, [(b"vary", b"X-B")], ON_X)
    assert (same.vary, same.vary_values) == ((b"x-a",), (b"1",))
    assert (b"vary", b"X-A") in same.headers
    asked = [(b"x-a", b"1"), (b"x-b", b"2")]
    other = renew(meta, [(b"vary", b"X-B")], ON_X, asked)
    assert (other.vary, other.vary_values) == ((b"x-b",), (b"2",))
    assert (b"vary", b"X-B") in other.headers
    none = renew(meta, [], ON_X, asked)
    assert (none.vary, none.vary_values) == ((b"x-a",), (b"1",))


def test_a_304_that_varies_on_everything_leaves_it_to_be_validated() -> None:
    meta = taken(lines("max-age=10", (b"vary", b"X-A"), (b"etag", b'"x"')), ON_X, forwarded=[(b"x-a", b"1")])
    fresh = renew(meta, [(b"vary", b"*")], ON_X, [(b"x-a", b"1")])
    assert judge(fresh, LATER) is Verdict.REVALIDATE
    assert (fresh.vary, fresh.vary_values) == (meta.vary, meta.vary_values)


def test_a_renewed_response_obeys_what_a_stored_one_obeys() -> None:
    """Also one that must no longer be stored: no age, no private field, one date."""
    fresh = renew(
        taken(lines("max-age=10", (b"etag", b'"x"'))),
        lines('no-store, private="X-User"', (b"x-user", b"kim"), (b"age", b"3"), (b"date", date(98))),
    )
    assert dict(fresh.headers) == {
        b"date": date(98),
        b"etag": b'"x"',
        b"server": b"CloudFront",
        b"cache-control": b'no-store, private="X-User"',
    }
    assert age(fresh, LATER) == 4


def test_a_304_can_be_validated_again() -> None:
    fresh = renew(taken(lines("max-age=10", (b"etag", b'"x"'))), [(b"etag", b'"x"')])
    assert revalidation_headers(fresh) == [(b"if-none-match", b'"x"')]


# -- collapsing (§5.10) and invalidation (RFC 9111 §4.4) -----------------------------------------------------


@rows(
    ("cache_control", "of", "expected"),
    [
        ("max-age=10", ZERO, True),
        ("max-age=0", ZERO, False),
        ("s-maxage=0", ZERO, False),
        ("max-age=0", MIN60, True),
        ("no-store", MIN60, True),
        ("max-age=10", behavior(forward_cookies=ALL), False),
    ],
)
def test_collapsing(cache_control: str, of: Behavior, expected: bool) -> None:
    assert can_coalesce(of, taken(lines(cache_control), of), NOW) is expected


@rows(
    ("method", "status", "expected"),
    [
        ("GET", 200, False),
        ("HEAD", 200, False),
        ("OPTIONS", 200, False),
        ("POST", 200, True),
        ("PUT", 204, True),
        ("PATCH", 303, True),
        ("DELETE", 404, False),
        ("DELETE", 500, False),
        ("POST", 100, False),
        ("UNHEARD-OF", 200, True),
    ],
)
def test_unsafe_methods_invalidate(method: str, status: int, expected: bool) -> None:
    assert invalidates(method, status) is expected


# -- arbitrary origin responses --------------------------------------------------------------------------------

TEXTS = st.sampled_from(
    [b"", b"0", b"-1", b"10", b"max-age=5", b"no-cache", b"private", b"no-store", b's-maxage="7"', b"*", b"Cookie, X-A"]
    + [b'"x"', b"W/", date(5), date(-5), b"\xff\x00", b"stale-if-error=3", b"Connection", b"must-revalidate"]
)  # fmt: skip
FIELDS = st.sampled_from(
    [b"cache-control", b"expires", b"date", b"age", b"etag", b"last-modified", b"vary", b"connection", b"set-cookie"]
)  # fmt: skip
ANY_HEADERS = st.lists(st.tuples(FIELDS, TEXTS), max_size=8)


@given(
    ANY_HEADERS,
    st.sampled_from([ZERO, MIN60, LOW_MAX, ON_ORIGIN, behavior(forward_cookies=ALL)]),
    st.sampled_from([200, 204, 301, 404, 403, 503, 206, 418]),
    ANY_HEADERS,
)
def test_times_are_in_order_and_bounds_hold(
    headers: Headers, of: Behavior, status: int, of_304: Headers
) -> None:
    meta = take(headers, of, status)
    if meta is None:
        return
    longest = max(of.max_ttl, freshness.ERROR_MIN_TTL)
    metas = [meta, revalidated(of, meta, of_304, LATER, LATER)] if meta.conditional else [meta]
    for each, at in zip(metas, (NOW, LATER), strict=False):
        assert each.fresh_until <= at + longest
        assert each.revalidate_always or each is not meta or each.fresh_until >= at
        assert each.swr_until <= at + longest + of.max_ttl
        assert each.initial_age >= 0
        assert [n for n, _ in each.headers].count(b"date") == 1
        assert not {b"age", b"connection", b"content-length"}.intersection(n for n, _ in each.headers)
        assert len(each.vary) == len(each.vary_values)


@rows(
    ("cache_control", "seconds", "fresh", "swr"),
    [
        ("max-age=100, stale-while-revalidate=20", None, 100, 120),
        ("max-age=100, stale-while-revalidate=20", 100, 100, 120),
        ("max-age=100, stale-while-revalidate=20", 200, 100, 120),
        ("max-age=100, stale-while-revalidate=20", 30, 30, 50),
        ("max-age=100, stale-while-revalidate=20", -5, -5, 15),
    ],
)
def test_fresh_no_longer_than_the_shield_says(
    cache_control: str, seconds: float | None, fresh: float, swr: float
) -> None:
    meta = taken(lines(cache_control), ZERO, 200)
    capped = capped_to(meta, NOW, seconds)
    assert (capped.fresh_until - NOW, capped.swr_until - NOW) == (fresh, swr)
    assert meta.fresh_until - NOW == 100  # others may hold the same object
