"""Response headers policies (cloudfront-semantics §5.13): what they remove, add, and replace."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from keyfront.edge.rules.response_headers import ResponseHeaders, timed
from keyfront.edge.types.messages import Headers, Request
from keyfront.model.snapshot import Cors, ResponseHeader, ResponseHeadersPolicy
from tests.rows import rows

ANY = Cors(origins=("*",), headers=("*",), methods=("GET", "POST"))
ONE = Cors(origins=("https://app.example.org",), headers=("x-one", "x-two"), methods=("GET",))


def policy(**members: Any) -> ResponseHeadersPolicy:
    return ResponseHeadersPolicy("p", **members)


def asks(method: str = "GET", **headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(method, "/", "d.test", pairs)


def added(rule: ResponseHeadersPolicy, request: Request, headers: Headers, status: int = 200) -> Headers:
    """The policy's result for `headers`, which stay unchanged."""
    before = list(headers)
    found = ResponseHeaders(rule).applied(request, status, headers)
    assert headers == before
    return found


H = ResponseHeader

# ---- removed and added


@rows(
    ("members", "origin", "viewer"),
    [
        ({}, [(b"a", b"1")], [(b"a", b"1")]),
        ({"headers": (H("x-new", "v", False),)}, [(b"a", b"1")], [(b"a", b"1"), (b"x-new", b"v")]),
        # Without override the origin's header wins, even if it is empty or occurs twice.
        ({"headers": (H("a", "mine", False),)}, [(b"a", b"1")], [(b"a", b"1")]),
        ({"headers": (H("a", "mine", False),)}, [(b"a", b"")], [(b"a", b"")]),
        ({"headers": (H("a", "mine", False),)}, [(b"a", b"1"), (b"a", b"2")], [(b"a", b"1"), (b"a", b"2")]),
        ({"headers": (H("a", "x", True),)}, [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")], [(b"b", b"2"), (b"a", b"x")]),
        ({"headers": (H("a", "", True),)}, [(b"a", b"1")], [(b"a", b"")]),
        ({"remove": ("a", "c")}, [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")], [(b"b", b"2")]),
        # A removed header can be added back afterward, whatever it overrides.
        ({"remove": ("a",), "headers": (H("a", "mine", False),)}, [(b"a", b"1")], [(b"a", b"mine")]),
        # The edge's own replaces the origin's; every response without a Date gets one (`respond.dated`).
        ({"remove": ("server", "date")}, [(b"server", b"nginx"), (b"date", b"x")], [(b"server", b"CloudFront")]),
        ({"remove": ("server",)}, [], [(b"server", b"CloudFront")]),
        ({"remove": ("server",), "headers": (H("server", "x", False),)}, [(b"server", b"n")], [(b"server", b"x")]),
        # No policy may remove the position of a range's bytes.
        ({"remove": ("content-range",)}, [(b"content-range", b"bytes 0-1/9")], [(b"content-range", b"bytes 0-1/9")]),
    ],
)  # fmt: skip
def test_headers(members: dict[str, Any], origin: Headers, viewer: Headers) -> None:
    assert added(policy(**members), asks(), origin) == viewer


def test_a_multipart_answer_keeps_its_type() -> None:
    rule = policy(headers=(H("content-type", "text/x", True), H("x-a", "1", True)), remove=("content-type",))
    parts = (b"content-type", b"multipart/byteranges; boundary=b")
    assert added(rule, asks(), [parts], 206) == [parts, (b"x-a", b"1")]
    plain = [(b"content-type", b"text/plain"), (b"content-range", b"bytes 0-1/9")]
    assert added(rule, asks(), plain, 206) == [plain[1], (b"content-type", b"text/x"), (b"x-a", b"1")]


# ---- CORS


@rows(
    ("pattern", "yes", "no"),
    [
        ("*", ["http://a", "https://b.example:8443", "null", "anything at all"], []),
        (
            "https://app.example.org",
            ["https://app.example.org", "HTTPS://APP.example.org"],
            [
                "http://app.example.org", "https://app.example.org:8443", "https://app.example.org.evil.test",
                "https://xapp.example.org", "https://app-example.org", "https://app.example.org/", "null", "",
                "https://evil.test?https://app.example.org", "https://evil.test#https://app.example.org",
                "https://user@app.example.org",
            ],
        ),
        (
            "*.example.org",
            ["https://a.example.org", "http://a.b.example.org"],
            [
                "https://example.org", "https://.example.org", "https://aexample.org", "https://a.example.org:1",
                "https://evil.test/.example.org", "https://evil.test/a.example.org", "https://a.example.organic",
                "ftp://a.example.org",
            ],
        ),
        ("http://*.example.org", ["http://a.example.org"], ["https://a.example.org", "http://a.example.org:123"]),
        ("example.org", ["https://example.org", "http://example.org"], ["https://a.example.org", "x://example.org"]),
        ("http://example.org:*", ["http://example.org", "http://example.org:123"], ["http://example.org:", "https://example.org"]),
        ("http://example.org:1*3", ["http://example.org:1893", "http://example.org:13"], ["http://example.org:1894", "http://example.org"]),
        ("https://example.org:8443", ["https://example.org:8443"], ["https://example.org", "https://example.org:84431"]),
        ("http://[::1]:3000", ["http://[::1]:3000"], ["http://[::1]", "http://::1:3000"]),
        ("http://[::1]", ["http://[::1]"], ["http://[::1]:3000"]),
        ("capacitor://localhost", ["capacitor://localhost"], ["http://localhost"]),
        ("https://a.b.c", ["https://a.b.c"], ["https://aXb.c", "https://a.bXc"]),
    ],
)  # fmt: skip
def test_which_origins_are_allowed(pattern: str, yes: list[str], no: list[str]) -> None:
    rule = policy(cors=Cors(origins=("https://other.test", pattern), headers=("*",), methods=("GET",)))
    for origin in yes:
        allowed = dict(added(rule, asks(origin=origin), []))[b"access-control-allow-origin"]
        assert allowed == (b"*" if pattern == "*" else origin.encode()), origin
    for origin in no:
        assert added(rule, asks(origin=origin), []) == [(b"vary", b"Origin")], origin


SIMPLE = {b"access-control-allow-origin": b"*"}
PREFLIGHT = {
    b"access-control-allow-origin": b"*",
    b"access-control-allow-methods": b"GET, POST",
    b"access-control-allow-headers": b"*",
}


@rows(
    ("cors", "request_", "expected"),
    [
        (ANY, asks(), {b"vary": b"Origin"}),
        (ANY, asks("OPTIONS"), {b"vary": b"Origin"}),
        (ANY, asks(origin="https://a.test"), SIMPLE),
        (ANY, asks("HEAD", origin="https://a.test"), SIMPLE),
        (ANY, asks("OPTIONS", origin="https://a.test", access_control_request_method="PUT"), PREFLIGHT),
        (
            ONE,
            asks("OPTIONS", origin="https://app.example.org"),
            {
                b"access-control-allow-origin": b"https://app.example.org",
                b"access-control-allow-methods": b"GET",
                b"access-control-allow-headers": b"x-one, x-two",
                b"vary": b"Origin",
            },
        ),
        (ONE, asks("OPTIONS", origin="https://other.test"), {b"vary": b"Origin"}),
        (
            msgspec.structs.replace(ONE, credentials=True, expose=("etag", "x-id"), max_age=600),
            asks(origin="https://app.example.org"),
            {
                b"access-control-allow-origin": b"https://app.example.org",
                b"access-control-allow-credentials": b"true",
                b"access-control-expose-headers": b"etag, x-id",
                b"vary": b"Origin",
            },
        ),
        (
            msgspec.structs.replace(ANY, max_age=0),
            asks("OPTIONS", origin="x"),
            {**PREFLIGHT, b"access-control-max-age": b"0"},
        ),
        # A name with a * stands for the requested names that match it; browsers accept only a lone *.
        (
            msgspec.structs.replace(ANY, headers=("Authorization", "x-amz-*")),
            asks("OPTIONS", origin="x", access_control_request_headers="X-Amz-Date, x-other,x-amz-date, x-amz-\x7f"),
            {**PREFLIGHT, b"access-control-allow-headers": b"Authorization, X-Amz-Date, x-amz-date"},
        ),
        (
            msgspec.structs.replace(ANY, headers=("x-amz-*",)),
            asks("OPTIONS", origin="x", access_control_request_headers="x-other"),
            {name: value for name, value in PREFLIGHT.items() if name != b"access-control-allow-headers"},
        ),
    ],
)  # fmt: skip
def test_cors(cors: Cors, request_: Request, expected: dict[bytes, bytes]) -> None:
    assert dict(added(policy(cors=cors), request_, [])) == expected


def test_what_is_too_long_is_not_looked_at() -> None:
    rule = policy(cors=Cors(("https://*.a.test",), ("*-x", "y"), ("GET",)))
    assert added(rule, asks(origin="https://" + "a" * 300 + ".a.test"), []) == [(b"vary", b"Origin")]
    preflight = asks(
        "OPTIONS", origin="https://b.a.test", access_control_request_headers="a" * 300 + "-x, b-x"
    )
    assert dict(added(rule, preflight, []))[b"access-control-allow-headers"] == b"y, b-x"


@given(
    st.binary(max_size=40) | st.from_regex(rb"\A(https?|x)://[a-z.*_-]{0,9}\.a\.test(:[0-9*]{0,3})?\Z"),
    st.binary(max_size=40) | st.from_regex(rb"\A[xX]-[a-z*, -]{0,20}\Z"),
    st.sampled_from(["GET", "OPTIONS"]),
)
def test_viewer_input_is_reflected_only_in_valid_form(sent: bytes, names: bytes, method: str) -> None:
    rule = policy(cors=Cors(("https://*.a.test", "b.test:1*"), ("x-*", "y"), ("GET",), credentials=True))
    request = Request(method, "/", "d.test", [(b"origin", sent), (b"access-control-request-headers", names)])
    found = dict(added(rule, request, [(b"content-type", b"text/plain")]))
    allowed = found.get(b"access-control-allow-origin")
    assert allowed is None or (allowed == sent.strip(b" \t") and ORIGIN.fullmatch(allowed))
    assert (b"access-control-allow-credentials" in found) == (allowed is not None)
    assert NAMES.fullmatch(found.get(b"access-control-allow-headers", b"y"))


ORIGIN = re.compile(rb"https://[a-z0-9_.-]*[a-z0-9_-]\.a\.test|https?://b\.test:1[0-9]*", re.IGNORECASE)
NAMES = re.compile(rb"y(, x-[!#$%&'*+.^_`|~0-9a-z-]*)*", re.IGNORECASE)


def test_two_origins_are_none() -> None:
    request = Request(
        "GET", "/", "d.test", [(b"origin", b"https://app.example.org"), (b"origin", b"https://evil.test")]
    )
    assert added(policy(cors=ONE), request, []) == [(b"vary", b"Origin")]
    assert added(policy(cors=ANY), request, []) == []


FROM_ORIGIN = [
    (b"access-control-allow-origin", b"https://evil.test"),
    (b"access-control-allow-credentials", b"true"),
    (b"access-control-max-age", b"9"),
    (b"x-a", b"1"),
]


@rows("origin", ["https://app.example.org", "https://evil.test", ""])
def test_with_override_nothing_that_the_origin_says_of_the_matter_reaches_a_viewer(origin: str) -> None:
    rule = policy(cors=msgspec.structs.replace(ONE, override=True))
    found = dict(added(rule, asks(origin=origin) if origin else asks(), FROM_ORIGIN))
    expected = {b"x-a": b"1", b"vary": b"Origin"}
    if origin == "https://app.example.org":
        expected[b"access-control-allow-origin"] = origin.encode()
    assert found == expected


def test_without_override_the_origins_own_win_one_by_one() -> None:
    rule = policy(cors=msgspec.structs.replace(ONE, credentials=False, expose=("etag",)))
    found = added(rule, asks(origin="https://app.example.org"), FROM_ORIGIN)
    assert found == [*FROM_ORIGIN, (b"vary", b"Origin"), (b"access-control-expose-headers", b"etag")]


@rows(
    ("before", "after"),
    [
        ([], [b"Origin"]),
        ([b"Accept-Encoding"], [b"Accept-Encoding, Origin"]),
        ([b"Accept-Encoding", b"Cookie"], [b"Accept-Encoding, Cookie, Origin"]),
        ([b"accept-encoding,origin"], [b"accept-encoding,origin"]),
        ([b"*"], [b"*"]),
        ([b" , "], [b"Origin"]),
    ],
)
def test_vary(before: list[bytes], after: list[bytes]) -> None:
    found = added(policy(cors=ONE), asks(), [(b"vary", value) for value in before])
    assert [value for name, value in found if name == b"vary"] == after
    # A custom Vary and a removed one are applied before it.
    rule = policy(cors=ONE, headers=(H("vary", "Cookie", True),))
    assert added(rule, asks(), [(b"vary", b"x")]) == [(b"vary", b"Cookie, Origin")]
    assert added(policy(cors=ONE, remove=("vary",)), asks(), [(b"vary", b"x")]) == [(b"vary", b"Origin")]


def test_what_the_policy_removes_or_replaces_counts_as_not_sent() -> None:
    rule = ResponseHeaders(policy(remove=("x-a",), headers=(H("x-b", "1", True), H("x-c", "1", False))))
    origin = [(b"x-a", b"0"), (b"x-b", b"0"), (b"x-c", b"0")]
    assert rule.without_dropped(origin) == [(b"x-c", b"0")]


def test_headers_depend_on_the_viewers_origin_only_with_cors() -> None:
    viewers = (asks(), asks(origin="https://a.test"), asks(origin="https://b.test"))
    assert {ResponseHeaders(policy()).dependencies_in(each) for each in viewers} == {b""}
    found = [ResponseHeaders(policy(cors=ONE)).dependencies_in(each) for each in viewers]
    assert found == [b"", b"https://a.test", b"https://b.test"]


# ---- Server-Timing


@rows(
    ("rate", "pragma", "draw", "tells"),
    [
        (100.0, "", 99.999, True),
        (0.0, "", 0.0, False),
        (50.0, "", 49.9, True),
        (50.0, "", 50.0, False),
        (50.0, "", 50.1, False),
        (0.0, "server-timing", 0.0, True),
        (0.0, "no-cache, Server-Timing", 99.0, True),
        (0.0, "server-timings", 0.0, False),
    ],
)
def test_which_answers_tell_their_timing(rate: float, pragma: str, draw: float, *, tells: bool) -> None:
    rule = ResponseHeaders(policy(server_timing=rate))
    assert rule.timing
    assert rule.sends_server_timing(asks(pragma=pragma) if pragma else asks(), draw) is tells
    assert not ResponseHeaders(policy()).timing


RID = "nQBz4aJU2kP9iC3KHEq7vFxfMozu-VYBwGzkW9diOpeVc7xsrLKj-g=="
WHO = f'cdn-pop;desc="P1",cdn-rid;desc="{RID}"'


@rows(
    ("result", "upstream", "origin", "expected"),
    [
        ("Hit", None, b"db;dur=5", f'cdn-cache-hit,{WHO},cdn-hit-layer;desc="EDGE"'),
        (
            "Miss",
            (0.1141, 0.1774),
            b"db;dur=5",
            'db;dur=5,cdn-upstream-layer;desc="EDGE",cdn-upstream-connect;dur=114,cdn-upstream-fbl;dur=177,'
            f"cdn-cache-miss,{WHO}",
        ),
        (
            "RefreshHit",
            (0.0, -0.1),
            b"",
            'cdn-upstream-layer;desc="EDGE",cdn-upstream-connect;dur=0,cdn-upstream-fbl;dur=0,'
            f"cdn-cache-refresh,{WHO}",
        ),
        ("", None, b"", WHO),
    ],
)
def test_metrics(result: str, upstream: tuple[float, float] | None, origin: bytes, expected: str) -> None:
    before: Headers = [(b"a", b"1")] + ([(b"server-timing", origin)] if origin else [])
    found = timed(before, result, pop="P1", request_id=RID, taken=0.0123, upstream=upstream)
    assert found == [(b"a", b"1"), (b"server-timing", f"{expected},cdn-downstream-fbl;dur=12".encode())]
