"""What is forwarded in either direction, and what makes the key: tables of cases, each with its section."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from keyfront.edge.rules.cache_key import key_suffix
from keyfront.edge.rules.origin_request import (
    chained_too_long,
    differs_under_one_key,
    origin_headers,
    origin_host,
    origin_scheme,
    reaches_origin,
)
from keyfront.edge.rules.override_headers import overrides_request
from keyfront.edge.rules.selection import select_cookies, select_query
from keyfront.edge.rules.viewer_hints import devices
from keyfront.edge.rules.viewer_response import interim_headers, viewer_headers
from keyfront.edge.semantics import fields
from keyfront.edge.types.messages import Headers, Request
from keyfront.model.snapshot import Behavior, Origin, Select
from tests.rows import rows

NONE = Select()
ALL = Select("all")
ORIGIN = Origin("o", "origin.example")
LEGACY = Behavior("*", "o", legacy=True, accept_gzip=True)
POLICY = Behavior("*", "o")


def behavior(legacy: bool = False, **members: Any) -> Behavior:
    return Behavior("*", "o", legacy=legacy, **members)


def only(*names: str) -> Select:
    return Select("whitelist", names)


def but(*names: str) -> Select:
    return Select("allExcept", names)


def keyed_on(*names: str, legacy: bool = False) -> Behavior:
    """Listed headers, in the key and therefore also forwarded."""
    return behavior(legacy, key_headers=only(*names), forward_headers=only(*names))


def request(headers: Headers | None = None, method: str = "GET", **members: Any) -> Request:
    members.setdefault("cookie", "; ".join(v.decode() for n, v in headers or [] if n == b"cookie"))
    host = members.pop("host", "cdn.example")
    return Request(method, "/a", host, [(b"host", host.encode()), *(headers or [])], **members)


def sent(
    viewer_request: Request,
    of: Behavior,
    origin: Origin = ORIGIN,
    restricted: bool | None = None,
    guarded: bool | None = None,
) -> dict[bytes, list[bytes]]:
    """The headers sent to the origin, by name."""
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in origin_headers(
        of,
        origin,
        viewer_request,
        request_id="ID",
        via="1.1 me.cloudfront.net (CloudFront)",
        country=lambda address: {"192.0.2.7": "NZ"}.get(address, ""),
        restricted=restricted,
        guarded=guarded,
    ):
        by_name.setdefault(name, []).append(value)
    return by_name


async def a_body() -> AsyncIterator[bytes]:
    yield b"x"


# -- query strings (§5.7) ------------------------------------------------------------------------------------


@rows(
    ("select", "query", "expected"),
    [
        (NONE, "a=1&b=2", ""),
        (ALL, "", ""),
        (ALL, "b=2&a=1&&x", "b=2&a=1&&x"),
        (only("a"), "b=2&a=1", "a=1"),
        (only("a", "b"), "b=2&a=1&b=3", "b=2&a=1&b=3"),  # order and repeats as sent
        (only("a"), "A=1&a=2", "a=2"),  # case matters
        (only("a"), "a", "a"),
        (only("a"), "a=", "a="),
        (only("a"), "aa=1&a.b=2", ""),
        (only("a"), "x=1;a=2", ""),  # & is the only delimiter
        (only("x"), "x=1;a=2", "x=1;a=2"),
        (only("a"), "%61=1", ""),  # names are compared without decoding
        (only("a"), "a=1=2?3", "a=1=2?3"),
        (only("a"), "&&a=1&&", "a=1"),
        (but("a"), "b=2&a=1&c", "b=2&c"),
        (but("a"), "%61=1", "%61=1"),  # and the same in the key
        (but("a"), "a=1", ""),
        (but("a"), "", ""),
    ],
)
def test_parameters_are_selected_raw_and_in_order(select: Select, query: str, expected: str) -> None:
    assert select_query(select, query) == expected


@given(st.text(st.characters(max_codepoint=255)))
def test_what_two_opposite_selections_leave_out_is_nothing(query: str) -> None:
    selected = select_query(only("a", ""), query).split("&") + select_query(but("a", ""), query).split("&")
    assert sorted(p for p in selected if p) == sorted(p for p in query.split("&") if p)


# -- cookies (§5.7) ------------------------------------------------------------------------------------------


@rows(
    ("select", "cookie", "expected"),
    [
        (NONE, "a=1", ""),
        (ALL, "", ""),
        (ALL, "b=2; a=1", "a=1; b=2"),  # sorted by name
        (ALL, "b=2;a=1;  c=3 ;", "a=1; b=2; c=3"),
        (ALL, "a=2; b=0; a=1", "a=2; a=1; b=0"),  # repeats keep their order
        (ALL, "ab=1; a=2", "a=2; ab=1"),
        (ALL, "lonely; =nameless", "=nameless; lonely"),
        (only("a"), "A=0; a=1; aa=2", "a=1"),
        (only("a*"), "A=0; a=1; aa=2; ba=3", "a=1; aa=2"),
        (only("s?d"), "sad=1; sd=2; said=3; sod=4", "sad=1; sod=4"),
        (only("*"), "b=1; a", "a; b=1"),
        (only("*id*x"), "sidx=1; id=2; id-x=3", "id-x=3; sidx=1"),
        (only("a.c"), "abc=1; a.c=2", "a.c=2"),
        (but("a"), "a=1; b=2", "b=2"),
        (but("a*"), "a=1; ab=2; c=3", "c=3"),
        (ALL, "CloudFront-Policy=p; a=1; CloudFront-Signature=s; CloudFront-Key-Pair-Id=k", "a=1"),
        (only("CloudFront-*"), "CloudFront-Expires=1; CloudFront-Hash-Algorithm=2; CloudFront-Own=3",
         "CloudFront-Own=3"),
        (ALL, "cloudfront-policy=p", "cloudfront-policy=p"),  # cookie names are case-sensitive
    ],
)  # fmt: skip
def test_cookies_are_selected_by_name_and_sorted(select: Select, cookie: str, expected: str) -> None:
    assert select_cookies(select, cookie) == expected


def test_signing_cookies_are_forwarded_if_configured() -> None:
    assert select_cookies(ALL, "CloudFront-Policy=p; a=1", signing=True) == "CloudFront-Policy=p; a=1"


def test_a_wildcard_name_costs_no_more_than_the_cookie_is_long() -> None:
    began = time.perf_counter()
    assert select_cookies(only("*a*a*a*a*a*a*a*b"), "a" * 20_000 + "=1") == ""
    assert time.perf_counter() - began < 1


# -- toward the origin (§5.8) --------------------------------------------------------------------------------


def test_a_plain_request_carries_only_what_the_edge_adds() -> None:
    headers = origin_headers(POLICY, ORIGIN, request(client_ip="192.0.2.7"), request_id="ID", via="1.1 v")
    assert headers == [
        (b"host", b"origin.example"),
        (b"user-agent", b"Amazon CloudFront"),
        (b"x-forwarded-for", b"192.0.2.7"),
        (b"via", b"1.1 v"),
        (b"x-amz-cf-id", b"ID"),
    ]


ALWAYS_REMOVED = [
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade", "http2-settings", "expect", "content-length",
]  # fmt: skip
LEGACY_REMOVED = [
    "accept", "accept-charset", "accept-language", "referer", "x-edge-anything", "x-forwarded-proto",
    "x-http-method-override", "x-real-ip",
]  # fmt: skip
LEGACY_KEPT = [
    "cache-control", "date", "from", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since",
    "if-range", "max-forwards", "origin", "pragma", "range", "request-range", "warning", "x-own",
    "access-control-request-method",
]  # fmt: skip


@rows("name", ALWAYS_REMOVED)
@rows(
    "of",
    [LEGACY, POLICY, behavior(forward_headers=ALL), behavior(forward_headers=but("x")), behavior(True,
    forward_headers=ALL)], ids=["legacy", "policy", "all", "allExcept", "legacy-all"],
)  # fmt: skip
def test_connection_headers_are_never_forwarded(name: str, of: Behavior) -> None:
    assert name.encode() not in sent(request([(name.encode(), b"evil")]), of)


@rows("name", LEGACY_REMOVED)
def test_legacy_settings_remove(name: str) -> None:
    assert name.encode() not in sent(request([(name.encode(), b"v")]), LEGACY)


@rows("name", LEGACY_KEPT)
def test_legacy_settings_keep(name: str) -> None:
    assert sent(request([(name.encode(), b"v")]), LEGACY)[name.encode()] == [b"v"]


@rows("name", ["accept", "accept-language", "referer", "x-own", "x-http-method-override", "origin"])
@rows("legacy", [True, False])
def test_what_is_listed_passes(name: str, legacy: bool) -> None:
    assert sent(request([(name.encode(), b"v")]), keyed_on(name, legacy=legacy))[name.encode()] == [b"v"]


@rows("name", ["accept", "x-own", "origin", "cache-control", "pragma", "from"])
def test_with_a_cache_policy_nothing_else_passes(name: str) -> None:
    assert name.encode() not in sent(request([(name.encode(), b"v")]), POLICY)
    assert name.encode() not in sent(request([(name.encode(), b"v")]), keyed_on("x-other"))


@rows("name", ["accept", "referer", "x-own", "authorization", "x-forwarded-host"])
def test_all_viewer_headers_pass_if_all_are_selected(name: str) -> None:
    assert sent(request([(name.encode(), b"v")]), behavior(forward_headers=ALL))[name.encode()] == [b"v"]
    assert sent(request([(name.encode(), b"v")]), behavior(forward_headers=but("host")))[name.encode()] == [
        b"v"
    ]
    assert name.encode() not in sent(request([(name.encode(), b"v")]), behavior(forward_headers=but(name)))


@rows(
    ("method", "of", "passes"),
    [
        ("GET", LEGACY, False),
        ("HEAD", LEGACY, False),
        ("OPTIONS", LEGACY, True),
        ("OPTIONS", behavior(True, cached_methods=("GET", "HEAD", "OPTIONS")), False),
        ("POST", LEGACY, True),
        ("PUT", LEGACY, True),
        ("PATCH", POLICY, True),
        ("DELETE", POLICY, True),
        ("GET", POLICY, False),
        ("GET", keyed_on("authorization"), True),
        ("GET", keyed_on("authorization", legacy=True), True),
        ("GET", behavior(forward_headers=ALL), True),
    ],
)
def test_authorization_by_method(method: str, of: Behavior, passes: bool) -> None:
    assert (b"authorization" in sent(request([(b"authorization", b"Basic x")], method), of)) is passes


@rows("name", ["content-type", "content-encoding", "content-language", "content-md5", "content-range"])
def test_what_describes_a_body_goes_with_it(name: str) -> None:
    headers = [(name.encode(), b"v")]
    assert sent(request(headers, "PUT", body=a_body()), POLICY)[name.encode()] == [b"v"]
    assert name.encode() not in sent(request(headers), POLICY)


@rows("name", sorted(fields.CONDITIONAL))
def test_conditions_and_ranges_pass_with_a_cache_policy_too(name: bytes) -> None:
    assert sent(request([(name, b"v")]), POLICY)[name] == [b"v"]


@rows(
    ("origin", "viewer_scheme", "of", "expected"),
    [
        (ORIGIN, "http", POLICY, "origin.example"),
        (Origin("o", "origin.example", http_port=8080), "http", POLICY, "origin.example:8080"),
        (Origin("o", "origin.example", http_port=8080), "https", POLICY, "origin.example:8080"),
        (Origin("o", "x", protocol_policy="https-only"), "http", POLICY, "x"),
        (Origin("o", "x", protocol_policy="https-only", https_port=8443), "http", POLICY, "x:8443"),
        (Origin("o", "x", protocol_policy="match-viewer", https_port=8443), "https", POLICY, "x:8443"),
        (Origin("o", "x", protocol_policy="match-viewer", https_port=8443), "http", POLICY, "x"),
        (Origin("o", "::1", http_port=81), "http", POLICY, "[::1]:81"),
        (ORIGIN, "http", keyed_on("host"), "CDN.example:8080"),
        (ORIGIN, "http", keyed_on("host", legacy=True), "CDN.example:8080"),
        (ORIGIN, "http", behavior(forward_headers=ALL), "CDN.example:8080"),
        (ORIGIN, "http", behavior(True, key_headers=ALL, forward_headers=ALL), "CDN.example:8080"),
        (ORIGIN, "http", behavior(forward_headers=but("host")), "origin.example"),
        (ORIGIN, "http", LEGACY, "origin.example"),
    ],
)
def test_host_is_the_origins_unless_the_viewers_is_forwarded(
    origin: Origin, viewer_scheme: str, of: Behavior, expected: str
) -> None:
    viewer_request = request(host="CDN.example:8080", scheme=viewer_scheme)
    assert sent(viewer_request, of, origin)[b"host"] == [expected.encode()]
    assert origin_headers(of, origin, viewer_request, request_id="", via="")[0][0] == b"host"


def test_host_is_the_one_that_the_request_was_routed_by() -> None:
    """An absolute-form target beats the Host field (RFC 9112 §3.2.2)."""
    viewer_request = Request("GET", "/", "routed.example", [(b"host", b"other.example")])
    assert sent(viewer_request, keyed_on("host"))[b"host"] == [b"routed.example"]
    honest = Request("GET", "/", "routed.example", [(b"host", b"routed.example")])
    bare = Request("GET", "/", "routed.example", [])
    assert len({key_suffix(keyed_on("host"), each, "") for each in (viewer_request, honest, bare)}) == 1
    other = Request("GET", "/", "other.example", [])
    assert key_suffix(keyed_on("host"), bare, "") != key_suffix(keyed_on("host"), other, "")


def test_origin_scheme() -> None:
    assert origin_scheme(ORIGIN, "https") == "http"
    assert origin_scheme(Origin("o", "x", protocol_policy="match-viewer"), "https") == "https"
    assert origin_host(Origin("o", "x", protocol_policy="https-only"), "http") == "x"


@rows(
    ("of", "expected"),
    [
        (POLICY, b"Amazon CloudFront"),
        (LEGACY, b"Amazon CloudFront"),
        (keyed_on("user-agent"), b"curl"),
        (behavior(forward_headers=ALL), b"curl"),
        (behavior(forward_headers=but("user-agent")), b"Amazon CloudFront"),
    ],
)
def test_user_agent(of: Behavior, expected: bytes) -> None:
    assert sent(request([(b"user-agent", b"curl")]), of)[b"user-agent"] == [expected]


@rows(
    ("lines", "expected"),
    [
        ([], b"192.0.2.7"),
        ([b"10.0.0.1"], b"10.0.0.1,192.0.2.7"),
        ([b"10.0.0.1, 10.0.0.2 "], b"10.0.0.1, 10.0.0.2,192.0.2.7"),
        ([b"10.0.0.1", b"10.0.0.2"], b"10.0.0.1,10.0.0.2,192.0.2.7"),  # one line, the edge's value last
        ([b""], b"192.0.2.7"),
    ],
)
@rows("of", [POLICY, LEGACY, keyed_on("x-forwarded-for")])
def test_x_forwarded_for_ends_with_the_viewers_address(
    lines: list[bytes], expected: bytes, of: Behavior
) -> None:
    viewer_request = request([(b"x-forwarded-for", line) for line in lines], client_ip="192.0.2.7")
    assert sent(viewer_request, of)[b"x-forwarded-for"] == [expected]


def test_via_is_appended_in_one_line() -> None:
    viewer_request = request([(b"via", b"1.0 a"), (b"via", b"1.1 b ")])
    assert sent(viewer_request, POLICY)[b"via"] == [b"1.0 a, 1.1 b, 1.1 me.cloudfront.net (CloudFront)"]


def test_custom_headers_overwrite_the_viewers() -> None:
    origin = Origin(
        "o", "x", custom_headers=(("X-Secret", "s3"), ("X-Forwarded-For", "fixed"), ("User-Agent", "me"))
    )
    of = behavior(forward_headers=ALL)
    headers = sent(request([(b"x-secret", b"guess"), (b"x_secret", b"guess"), (b"x-own", b"1")]), of, origin)
    assert headers[b"x-secret"] == [b"s3"]
    assert headers[b"x-forwarded-for"] == [b"fixed"]
    assert headers[b"user-agent"] == [b"me"]
    assert headers[b"x-own"] == [b"1"]
    assert b"x_secret" not in headers


@rows(
    ("header", "of"),
    [
        (b"x_forwarded_for", LEGACY),
        (b"x_real_ip", LEGACY),
        (b"X_REAL_IP".lower(), behavior(forward_headers=ALL)),
        (b"x_forwarded-proto", LEGACY),
        (b"cloudfront_viewer_country", LEGACY),
        (b"x_edge_x", LEGACY),
        (b"content_length", LEGACY),
        (b"transfer_encoding", behavior(forward_headers=ALL)),
        (b"accept_language", LEGACY),
        (b"x_listed", keyed_on("x-listed", legacy=True)),
        (b"x_forwarded_host", LEGACY),
        (b"if_none_match", LEGACY),
        (b"host_", LEGACY),
    ],
)
def test_an_underscore_does_not_smuggle_a_name_past_the_edge(header: bytes, of: Behavior) -> None:
    """Origins behind CGI or WSGI cannot tell `_` from `-`."""
    if header == b"host_":
        assert sent(request([(header, b"v")]), of)[header] == [b"v"]
        return
    assert header not in sent(request([(header, b"evil")]), of)


def test_an_underscore_that_shadows_nothing_passes() -> None:
    assert sent(request([(b"x_own_thing", b"v")]), LEGACY)[b"x_own_thing"] == [b"v"]
    assert sent(request([(b"x_listed", b"v")]), keyed_on("x_listed"))[b"x_listed"] == [b"v"]


@rows("name", [b"x-forwarded-proto", b"x-real-ip"])
def test_what_only_the_edge_knows_passes_only_by_name(name: bytes) -> None:
    for of in (LEGACY, behavior(forward_headers=ALL), behavior(forward_headers=but("x"))):
        assert name not in sent(request([(name, b"evil")]), of)
    assert sent(request([(name, b"v")]), keyed_on(name.decode()))[name] == [b"v"]


@rows("name", [b"x-forwarded-host", b"x-original-url", b"x-rewrite-url", b"x-host", b"forwarded"])
def test_unkeyed_headers_that_rewrite_the_request_do_not_reach_what_is_stored(name: bytes) -> None:
    """Cache poisoning: with legacy settings these would be forwarded, but are not in the key."""
    assert name not in sent(request([(name, b"evil.example")]), LEGACY)
    listed = keyed_on(name.decode(), legacy=True)
    assert sent(request([(name, b"v")]), listed)[name] == [b"v"]
    assert key_suffix(listed, request([(name, b"v")]), "") != key_suffix(listed, request(), "")
    # A response that will not be stored cannot poison the cache.
    assert sent(request([(name, b"v")], "POST"), LEGACY)[name] == [b"v"]
    assert sent(request([(name, b"v")]), behavior(True, max_ttl=0, default_ttl=0))[name] == [b"v"]


def test_where_a_path_of_the_site_is_private_no_header_rewrites_the_request_unless_it_is_listed() -> None:
    name = b"x-original-url"
    uncached = behavior(True, max_ttl=0, default_ttl=0)
    for of in (uncached, behavior(forward_headers=ALL)):
        assert sent(request([(name, b"/b")]), of, guarded=False)[name] == [b"/b"]
        assert name not in sent(request([(name, b"/b")]), of, guarded=True)
        assert name not in sent(request([(name, b"/b")]), of, restricted=True)
    assert sent(request([(name, b"/b")]), keyed_on(name.decode()), guarded=True)[name] == [b"/b"]


def test_the_edges_signature_takes_the_place_of_the_viewers_authorization() -> None:
    viewer_request, of = request([(b"authorization", b"Basic x")]), keyed_on("authorization")
    assert b"authorization" not in sent(viewer_request, of, Origin("o", "origin.example", signing="always"))
    assert b"authorization" in sent(viewer_request, of, Origin("o", "origin.example", signing="no-override"))


@rows(
    ("name", "overrides"),
    [
        (b"x-original-url", True),
        (b"x-rewrite-url" + b"-url" * 20, True),
        (b"x-forwarded-host", True),
        (b"mcp-protocol-version", False),
        (b"content-url", False),
        (b"x-own", False),
    ],
)
def test_which_names_give_an_origin_another_request(name: bytes, overrides: bool) -> None:
    assert overrides_request(name) is overrides


@rows("of", [LEGACY, keyed_on("x-a", legacy=True), behavior(key_headers=only("x-a"), forward_headers=ALL)])
def test_a_nominated_header_is_neither_sent_nor_keyed(of: Behavior) -> None:
    """RFC 9110 §7.6.1; and what is not forwarded must not be in the key, or the key can be poisoned."""
    viewer_request = request(
        [(b"connection", b"keep-alive, X-A , x-forwarded-for"), (b"x-a", b"1"), (b"x-forwarded-for", b"9")]
    )
    headers = sent(viewer_request, of)
    assert b"x-a" not in headers
    assert headers[b"x-forwarded-for"] == [b"127.0.0.1"]
    assert key_suffix(of, viewer_request, "") == key_suffix(of, request(), "")


@rows("option", [b"cookie", b"accept-encoding"])
def test_nominated_cookies_and_encodings_too(option: bytes) -> None:
    of = behavior(key_cookies=ALL, forward_cookies=ALL, accept_gzip=True)
    viewer_request = request([(b"connection", option), (b"cookie", b"a=1"), (b"accept-encoding", b"gzip")])
    assert option not in sent(viewer_request, of)
    assert len(key_suffix(of, viewer_request, "").split("\n")) == 2


@rows("option", [b"host", b"close", b"via", b"x-amz-cf-id"])
def test_what_the_edge_writes_cannot_be_nominated_away(option: bytes) -> None:
    headers = sent(request([(b"connection", option)]), POLICY)
    assert headers[b"host"] == [b"origin.example"]
    assert headers[b"via"]
    assert headers[b"x-amz-cf-id"] == [b"ID"]


@rows("of", [LEGACY, behavior(forward_headers=ALL), behavior(forward_headers=but("x"))])
def test_the_edges_own_names_cannot_be_spoofed(of: Behavior) -> None:
    names = [b"cloudfront-viewer-country", b"cloudfront-forwarded-proto", b"x-edge-location", b"x-amz-cf-id"]
    headers = sent(request([(n, b"spoofed") for n in names]), of)
    assert not [v for values in headers.values() for v in values if b"spoofed" in v]


def test_repeats_keep_their_order() -> None:
    viewer_request = request([(b"x-own", b"1"), (b"x-own", b"2")])
    assert sent(viewer_request, LEGACY)[b"x-own"] == [b"1", b"2"]


# -- cookies toward the origin -------------------------------------------------------------------------------

SIGNED = b"b=2; CloudFront-Policy=p; a=1"


@rows(
    ("of", "restricted", "expected"),
    [
        (POLICY, False, None),
        (LEGACY, False, None),
        (behavior(forward_cookies=ALL), False, [b"a=1; b=2"]),
        (behavior(forward_cookies=only("b")), False, [b"b=2"]),
        (behavior(forward_cookies=only("c")), False, None),
        (behavior(forward_cookies=ALL, max_ttl=0), True, [b"a=1; b=2"]),
        (behavior(forward_cookies=ALL, restricted=True, max_ttl=0), None, [b"a=1; b=2"]),
        # Nothing is stored, no signature was required: ordinary cookies.
        (behavior(forward_cookies=ALL, max_ttl=0), False, [b"CloudFront-Policy=p; a=1; b=2"]),
    ],
)
def test_cookies_toward_the_origin(
    of: Behavior, restricted: bool | None, expected: list[bytes] | None
) -> None:
    assert sent(request([(b"cookie", SIGNED)]), of, restricted=restricted).get(b"cookie") == expected


# -- Accept-Encoding (§5.11) ---------------------------------------------------------------------------------

BOTH = behavior(accept_gzip=True, accept_brotli=True)


@rows(
    ("of", "value", "forwarded", "keyed"),
    [
        (BOTH, b"gzip, deflate, br", b"br,gzip", True),
        (BOTH, b"br;q=0.1, gzip;q=1.0", b"br,gzip", True),
        (BOTH, b"GZIP", b"gzip", True),
        (BOTH, b"gzip;q=0, br", b"br", True),
        (BOTH, b"gzip ; q = 0.000", b"identity", False),
        (BOTH, b"gzip;q=0.001", b"gzip", True),
        (BOTH, b"br;q=0", b"identity", False),
        (BOTH, b"deflate", b"identity", False),
        (BOTH, b"*", b"identity", False),
        (BOTH, b"identity", b"identity", False),
        (BOTH, b"gzipped, xgzip", b"identity", False),
        (BOTH, b"", None, False),
        (BOTH, b" , ", None, False),
        (BOTH, None, None, False),
        (behavior(accept_gzip=True), b"gzip, br", b"gzip", True),
        (behavior(accept_gzip=True), b"br", b"identity", False),
        (behavior(accept_brotli=True), b"gzip, br", b"br", True),
        (LEGACY, b"gzip, br", b"gzip", True),
        (LEGACY, b"br", None, False),
        (POLICY, b"gzip", None, False),
        (keyed_on("accept-encoding"), b"zstd,  gzip", b"zstd,  gzip", True),
        (behavior(forward_headers=ALL), b"zstd", b"zstd", False),
        (behavior(forward_headers=ALL, accept_gzip=True), b"zstd, gzip", b"gzip", True),
    ],
)
def test_accept_encoding_is_normalised(
    of: Behavior, value: bytes | None, forwarded: bytes | None, keyed: bool
) -> None:
    viewer_request = request([(b"accept-encoding", value)] if value is not None else [])
    assert sent(viewer_request, of).get(b"accept-encoding") == (
        [forwarded] if forwarded is not None else None
    )
    nothing = key_suffix(of, request([]), "")  # the host, where all headers are forwarded
    assert (key_suffix(of, viewer_request, "") != nothing) is keyed


def test_several_accept_encoding_lines_are_one() -> None:
    viewer_request = request([(b"accept-encoding", b"gzip"), (b"accept-encoding", b"br")])
    assert sent(viewer_request, BOTH)[b"accept-encoding"] == [b"br,gzip"]
    assert key_suffix(BOTH, viewer_request, "") == "\ne7:br,gzip"


def test_a_long_accept_encoding_counts_like_a_short_one() -> None:
    for value in (b"gzip, br", b"gzip, " + b"x-unknown, " * 1000 + b"br"):
        assert key_suffix(BOTH, request([(b"accept-encoding", value)]), "") == "\ne7:br,gzip"


# -- CloudFront-* headers (§5.15) ----------------------------------------------------------------------------


@rows(
    ("name", "expected"),
    [
        ("cloudfront-viewer-country", b"NZ"),
        ("cloudfront-forwarded-proto", b"https"),
        ("cloudfront-viewer-address", b"192.0.2.7:4711"),
        ("cloudfront-viewer-http-version", b"1.1"),
        ("cloudfront-viewer-header-count", b"3"),
        ("cloudfront-viewer-header-order", b"host:user-agent:cloudfront-viewer-country"),
        ("cloudfront-is-mobile-viewer", b"true"),
        ("cloudfront-is-desktop-viewer", b"false"),
        ("cloudfront-viewer-ja3-fingerprint", None),  # the edge omits what it does not know
    ],
)
@rows("kind", ["key", "policy", "all-and", "except-and"])
def test_cloudfront_headers_are_made_if_listed(name: str, expected: bytes | None, kind: str) -> None:
    of = {
        "key": keyed_on(name),
        "policy": behavior(forward_headers=only(name)),
        "all-and": behavior(forward_headers=Select("all", (name,))),
        "except-and": behavior(key_headers=only(name), forward_headers=but("host")),
    }[kind]
    viewer_request = request(
        [(b"user-agent", b"Mozilla/5.0 (iPhone; CPU) Mobile/15E148"), (b"cloudfront-viewer-country", b"XX")],
        scheme="https",
        client_ip="192.0.2.7",
        client_port=4711,
    )
    assert sent(viewer_request, of).get(name.encode()) == ([expected] if expected is not None else None)


def test_the_version_that_a_viewer_speaks_has_two_parts() -> None:
    name = "cloudfront-viewer-http-version"
    for version, expected in (("1.0", b"1.0"), ("2", b"2.0")):
        assert sent(request(version=version), keyed_on(name))[name.encode()] == [expected]


def test_an_unknown_country_is_not_forwarded() -> None:
    of = keyed_on("cloudfront-viewer-country")
    assert b"cloudfront-viewer-country" not in sent(request(client_ip="127.0.0.1"), of)


def test_the_country_is_in_the_key() -> None:
    of = keyed_on("cloudfront-viewer-country")
    countries = {"192.0.2.1": "NZ", "192.0.2.2": "AU"}
    here, there = (key_suffix(of, request(client_ip=ip), "", countries.__getitem__) for ip in countries)
    assert here != there


@rows(
    ("agent", "kinds"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0 Safari/537.36", "desktop"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Mobile/15E148 Safari/604.1", "ios mobile"),
        ("Mozilla/5.0 (iPad; CPU OS 16_0 like Mac OS X) Mobile/15E148 Safari/604.1", "ios tablet"),
        ("Mozilla/5.0 (Linux; Android 14; Pixel 8) Chrome/130.0 Mobile Safari/537.36", "android mobile"),
        ("Mozilla/5.0 (Linux; Android 13; SM-X900) Chrome/130.0 Safari/537.36", "android tablet"),
        ("Mozilla/5.0 (SMART-TV; Linux; Tizen 7.0) AppleWebKit/537.36 TV Safari/537.36", "smarttv"),
        ("Mozilla/5.0 (Android 14; Mobile; rv:130.0) Gecko/130.0 Firefox/130.0", "android mobile"),
        ("Mozilla/5.0 (X11; U; Linux armv7l; en-us) Kindle/3.0", "tablet"),
        ("Mozilla/5.0 (X11; Linux x86_64) Chrome/130.0 Silk/130.2 Safari/537.36", "tablet"),
        ("Mozilla/5.0 (Windows NT 10.0; Tablet PC 2.0; rv:11.0) like Gecko", "tablet"),
        ("iTunes-iPod/1.0", "ios mobile"),
        ("Opera/9.80 (S60; SymbOS; Opera Mobi/499)", "mobile"),
        ("", "desktop"),
    ],
)
def test_devices_are_guessed_from_the_user_agent(agent: str, kinds: str) -> None:
    assert devices(agent.encode()) == {f"cloudfront-is-{kind}-viewer".encode() for kind in kinds.split()}


# -- the cache key (§5.7) ------------------------------------------------------------------------------------


def test_nothing_selected_adds_nothing() -> None:
    viewer_request = request([(b"cookie", b"a=1"), (b"accept-encoding", b"gzip"), (b"x-a", b"1")])
    assert key_suffix(POLICY, viewer_request, "q=1") == ""


@rows(
    ("of", "query", "headers", "expected"),
    [
        (behavior(key_query=ALL), "b&a=1", [], "\nq5:b&a=1"),
        (behavior(key_query=only("a")), "b&a=1", [], "\nq3:a=1"),
        (behavior(key_query=only("a")), "b", [], ""),
        (behavior(key_cookies=ALL), "q", [(b"cookie", b"b=2; a=1; CloudFront-Policy=x")], "\nc8:a=1; b=2"),
        (BOTH, "", [(b"accept-encoding", b"br")], "\ne2:br"),
        (
            keyed_on("x-b", "x-a"),
            "",
            [(b"x-b", b"1 "), (b"x-c", b"9"), (b"x-a", b"")],
            "\nh3:x-a0:\nh3:x-b1:1",
        ),
        (keyed_on("x-a"), "", [], ""),
        (
            behavior(key_headers=but("x-b")),
            "",
            [(b"x-b", b"1"), (b"x-a", b"2")],
            "\nh4:host11:cdn.example\nh3:x-a1:2",
        ),
        # Host is in the key once, whether it is listed or forwarded with all headers.
        (behavior(forward_headers=ALL), "", [], "\no4:host11:cdn.example"),
        (behavior(forward_headers=but("host")), "", [], ""),
        (
            behavior(key_headers=only("host"), forward_headers=ALL),
            "",
            [(b"x-original-url", b"/b")],
            "\nh4:host11:cdn.example\no14:x-original-url2:/b",
        ),
    ],
)
def test_key_suffix(of: Behavior, query: str, headers: Headers, expected: str) -> None:
    assert key_suffix(of, request(headers), query) == expected


def test_signing_cookies_never_make_variants() -> None:
    of = behavior(key_cookies=ALL, forward_cookies=ALL)
    signed = request([(b"cookie", b"a=1; CloudFront-Signature=s; CloudFront-Key-Pair-Id=k")])
    assert key_suffix(of, signed, "") == key_suffix(of, request([(b"cookie", b"a=1")]), "")


def test_an_absent_header_is_not_an_empty_one_and_repeats_count() -> None:
    of = keyed_on("x-a")
    seen = {
        key_suffix(of, request(headers), "")
        for headers in (
            [],
            [(b"x-a", b"")],
            [(b"x-a", b"1,2")],
            [(b"x-a", b"1"), (b"x-a", b"2")],
            [(b"x-a", b"2"), (b"x-a", b"1")],
        )
    }
    assert len(seen) == 5


RAW = st.text(st.sampled_from("aq1:=&;\n hec%"), max_size=12)
KEYED = behavior(
    key_query=ALL, key_cookies=ALL, key_headers=only("a", "b"), accept_gzip=True, forward_query=ALL,
    forward_cookies=ALL, forward_headers=only("a", "b"),
)  # fmt: skip


@st.composite
def selections(draw: st.DrawFn) -> tuple[str, str, Headers]:
    headers = [
        (name, draw(RAW).encode()) for name in draw(st.lists(st.sampled_from([b"a", b"b"]), max_size=3))
    ]
    if draw(st.booleans()):
        headers.append((b"accept-encoding", b"gzip"))
    return draw(RAW), draw(RAW), headers


@given(selections(), selections())
def test_two_different_selections_never_share_a_key(
    one: tuple[str, str, Headers], other: tuple[str, str, Headers]
) -> None:
    """Even with bytes that no parser accepts: the suffix can be parsed back."""

    def meaning(selection: tuple[str, str, Headers]) -> object:
        query, cookie, headers = selection
        return (
            query,
            select_cookies(ALL, cookie),
            sorted(
                [(n, v.strip(b" \t")) for n, v in headers if n != b"accept-encoding"],
                key=lambda pair: pair[0],
            ),
            any(n == b"accept-encoding" for n, _ in headers),
        )

    def suffix(selection: tuple[str, str, Headers]) -> str:
        query, cookie, headers = selection
        return key_suffix(KEYED, Request("GET", "/", "h", headers, cookie=cookie), query)

    assert (suffix(one) == suffix(other)) is (meaning(one) == meaning(other))


# -- everything that a viewer can send -----------------------------------------------------------------------

NAMES = st.sampled_from(
    [b"host", b"x-a", b"x_a", b"connection", b"via", b"cookie", b"x-forwarded-for", b"te", b"accept",
    b"upgrade"] + [b"transfer-encoding", b"content-length", b"cloudfront-viewer-country", b"accept-encoding",
    b"x-secret", b"expect"]
)  # fmt: skip


@given(
    st.lists(st.tuples(NAMES, st.sampled_from([b"", b"a", b"x-a, close", b"x-secret", b"chunked", b"1,2"])),
    max_size=6), st.sampled_from([LEGACY, POLICY, BOTH, behavior(forward_headers=ALL, forward_cookies=ALL),
    keyed_on("x-a", "host")]), st.sampled_from(["GET", "POST", "OPTIONS"]),
)  # fmt: skip
def test_whatever_a_viewer_sends_the_origin_gets_one_clear_request(
    headers: Headers, of: Behavior, method: str
) -> None:
    origin = Origin("o", "x", custom_headers=(("X-Secret", "s3"),))
    out = origin_headers(of, origin, Request(method, "/", "h", headers), request_id="ID", via="v")
    names = [n for n, _ in out]
    for single in (b"host", b"via", b"x-forwarded-for", b"x-amz-cf-id", b"x-secret"):
        assert names.count(single) == 1
    assert dict(out)[b"x-secret"] == b"s3"
    assert not fields.HOP_BY_HOP.intersection(names)
    assert not {b"content-length", b"expect", b"cloudfront-viewer-country"}.intersection(names)


# -- what Vary may name (§5.9) -------------------------------------------------------------------------------


@rows(
    ("of", "name", "reaches"),
    [
        (POLICY, b"accept-encoding", True),
        (POLICY, b"cookie", True),
        (POLICY, b"origin", False),
        (POLICY, b"accept-language", False),
        (POLICY, b"user-agent", False),
        (POLICY, b"host", False),
        (POLICY, b"authorization", False),
        (POLICY, b"cloudfront-viewer-country", False),
        (POLICY, b"connection", False),
        (POLICY, b"range", False),
        (LEGACY, b"origin", True),
        (LEGACY, b"accept-language", False),
        (LEGACY, b"x-forwarded-host", False),
        (LEGACY, b"x-own", True),
        (keyed_on("accept-language"), b"accept-language", True),
        (keyed_on("user-agent"), b"user-agent", True),
        (keyed_on("cloudfront-is-mobile-viewer"), b"user-agent", True),
        (keyed_on("cloudfront-viewer-country"), b"cloudfront-viewer-country", True),
        (behavior(forward_headers=ALL), b"x-anything", True),
        (behavior(forward_headers=but("host")), b"host", False),
    ],
)
def test_reaches_origin(of: Behavior, name: bytes, reaches: bool) -> None:
    assert reaches_origin(of, name) is reaches


@given(NAMES, st.sampled_from([LEGACY, POLICY, keyed_on("x-a"), behavior(forward_headers=ALL)]))
def test_what_is_sent_on_reaches_the_origin(name: bytes, of: Behavior) -> None:
    """`reaches_origin` agrees with what is really sent; otherwise a variant could be served to the wrong viewer."""
    one, two = (
        dict(origin_headers(of, ORIGIN, request([(name, v)]), request_id="", via="")) for v in (b"1", b"2")
    )
    assert one.get(name) == two.get(name) or reaches_origin(of, name)


SIGHT = [
    LEGACY, POLICY, BOTH, keyed_on("x-a"), keyed_on("x-a", "host", "user-agent", "via", "x-forwarded-for", legacy=True),
    behavior(forward_headers=ALL, forward_cookies=ALL, accept_gzip=True), keyed_on("accept-encoding", "accept"),
    behavior(forward_cookies=ALL, key_cookies=ALL), behavior(forward_cookies=ALL, key_cookies=only("a")),
    keyed_on("cloudfront-viewer-country", "cloudfront-is-mobile-viewer"),
]  # fmt: skip
SOME = st.lists(
    st.tuples(
        st.sampled_from(
            [b"x-a", b"x_a", b"accept", b"user-agent", b"via", b"x-forwarded-for", b"accept-encoding"]
        )
        | st.sampled_from([b"connection", b"cookie", b"origin"]),
        st.sampled_from(
            [b"", b"1", b"x-a", b"gzip", b"br, gzip", b"cookie", b"a=1", b"b=1; a=2", b"iPhone Mobile"]
        ),
    ),
    max_size=4,
)


@given(SOME, SOME, st.sampled_from(SIGHT), st.sampled_from([b"host", b"a.example"]))
def test_one_key_is_one_request_except_for_what_is_documented_to_differ(
    one: Headers, other: Headers, of: Behavior, host: bytes
) -> None:
    """Proof that no field can silently poison the cache: what the origin sees is in the key, or Vary may name it, or
    the behavior forwards it without keying on it and `differs_under_one_key` reports that."""
    viewer_requests = [request(one, host="a.example"), request(other, host=host.decode())]
    if key_suffix(of, viewer_requests[0], "") != key_suffix(of, viewer_requests[1], ""):
        return
    first, second = (sent(each, of) for each in viewer_requests)
    for name in {*first, *second} - fields.CONDITIONAL:
        differ = first.get(name) != second.get(name)
        if name == b"accept-encoding" and {str(first.get(name)), str(second.get(name))} <= {
            "None",
            "[b'identity']",
        }:
            continue
        assert not differ or differs_under_one_key(of, name), name


# -- loops ---------------------------------------------------------------------------------------------------


@rows(
    ("via", "too_long"),
    [
        ([], False),
        ([b"1.1 a.cloudfront.net (CloudFront)"], False),
        ([b"1.1 a.cloudfront.net (CloudFront)", b"1.1 proxy"], False),
        ([b"1.1 a.cloudfront.net (CloudFront), 1.1 b.cloudfront.net (CloudFront)"], True),
        ([b"1.1 a.cloudfront.net (CloudFront)", b"1.1 b.cloudfront.net (CloudFront)"], True),
    ],
)
def test_a_chain_of_distributions_ends(via: list[bytes], too_long: bool) -> None:
    assert chained_too_long(request([(b"via", v) for v in via])) is too_long


# -- toward the viewer (§5.9) --------------------------------------------------------------------------------


def test_viewer_headers_hold_back_what_is_not_the_viewers() -> None:
    headers = [
        (b"server", b"nginx"),
        (b"connection", b"x-private, close"),
        (b"x-private", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"transfer-encoding", b"chunked"),
        (b"trailer", b"x"),
        (b"upgrade", b"h2c"),
        (b"proxy-authenticate", b"Basic"),
        (b"content-length", b"3"),
        (b"via", b"1.1 other"),
        (b"x-cache", b"Hit from elsewhere"),
        (b"x-amz-cf-id", b"x"),
        (b"x-amz-cf-pop", b"x"),
        (b"set-cookie", b"a=1"),
        (b"content-type", b"text/plain"),
        (b"age", b"5"),
        (b"x-own", b"1"),
        (b"x-own", b"2"),
    ]
    assert viewer_headers(POLICY, headers) == [
        (b"server", b"nginx"),
        (b"content-type", b"text/plain"),
        (b"age", b"5"),
        (b"x-own", b"1"),
        (b"x-own", b"2"),
    ]


def test_an_interim_response_gets_no_headers_of_the_edges() -> None:
    hints = [(b"link", b"</a.css>; rel=preload"), (b"connection", b"close")]
    assert interim_headers(POLICY, hints) == hints[:1]
    assert interim_headers(POLICY, [(b"server", b"nginx")]) == [(b"server", b"nginx")]


def test_set_cookie_passes_where_cookies_are_forwarded() -> None:
    headers = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    assert viewer_headers(behavior(forward_cookies=only("x")), headers)[:2] == headers
    assert viewer_headers(POLICY, headers) == [(b"server", b"CloudFront")]


@rows(
    ("of", "lines", "expected"),
    [
        (POLICY, [b"Accept-Encoding"], b"Accept-Encoding"),
        (POLICY, [b"Accept-Encoding, Origin,Cookie"], b"Accept-Encoding, Cookie"),
        (POLICY, [b"Origin"], None),
        (POLICY, [b"User-Agent"], None),
        (keyed_on("cloudfront-is-mobile-viewer"), [b"User-Agent"], b"User-Agent"),
        (keyed_on("origin"), [b"Origin", b"Accept-Language"], b"Origin"),
        (POLICY, [b"*"], b"*"),
        (POLICY, [b"Cookie, *"], b"*"),
        (behavior(min_ttl=1), [b"*"], None),
        (behavior(min_ttl=1), [b"*, Cookie"], b"Cookie"),
        (POLICY, [b""], None),
    ],
)
def test_vary_keeps_what_can_differ(of: Behavior, lines: list[bytes], expected: bytes | None) -> None:
    headers = viewer_headers(of, [(b"vary", line) for line in lines])
    assert dict(headers).get(b"vary") == expected


def test_viewer_headers_may_be_applied_again() -> None:
    once = viewer_headers(
        keyed_on("origin"), [(b"vary", b"Origin, Cookie"), (b"x", b"1"), (b"connection", b"y")]
    )
    assert viewer_headers(keyed_on("origin"), once) != []
    assert sorted(viewer_headers(keyed_on("origin"), once)) == sorted(once)
