"""CDN-Cache-Control and Cache-Status, and the structured fields beneath them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from http_sf import DisplayString
from hypothesis import given
from hypothesis import strategies as st

from keyfront.edge.rules.freshness import ReceivedResponse, admit
from keyfront.edge.semantics.cache_control import CacheControl
from keyfront.edge.semantics.structured_fields import Token, item, parse_dictionary
from keyfront.model.snapshot import Behavior
from tests.rows import rows

MALFORMED = [
    b"Max-Age=60", b"max-age=60,", b"max-age=60,,no-store", b"max-age 60", b"max-age=", b"=60", b"max-age==60",
    b'a="unclosed', b'a="bad \\x escape"', b"a=?2", b"a=1.2345", b"a=1.", b"a=1234567890123456", b"a=(1 2", b"a=(1,2)",
    b"a=:not base64!:", b"a=\xff", b'a="\xc3\xa9"', b"max-age=60;", b"max-age=60; =1", b"a=--1", b"a=@1.5", b"\ta=1",
    b"1a=2",
]  # fmt: skip


class TestStructuredFields:
    @rows(
        ("lines", "members"),
        [
            ([b""], {}),
            ([b"max-age=60"], {"max-age": 60}),
            ([b"max-age=60, must-revalidate"], {"max-age": 60, "must-revalidate": True}),
            ([b"max-age=60 \t,\t no-store"], {"max-age": 60, "no-store": True}),
            ([b"max-age=60", b"no-store"], {"max-age": 60, "no-store": True}),
            ([b"a=1, b=2, a=3"], {"b": 2, "a": 3}),
            ([b"a=?0, b=?1"], {"a": False, "b": True}),
            ([b"a=-12.5"], {"a": -12.5}),
            ([b'a="x, \\"y\\" \\\\"'], {"a": 'x, "y" \\'}),
            ([b"a=tok/en:*"], {"a": Token("tok/en:*")}),
            ([b"a=:aGVsbG8=:, b=@1659578233"], {"a": b"hello", "b": datetime.fromtimestamp(1659578233, UTC)}),
            ([b"a=(1 2;p  x);q=1, b"], {"a": [(1, {}), (2, {"p": True}), (Token("x"), {})], "b": True}),
            ([b"a=()"], {"a": []}),
            ([b"a;x=1;y, b=2; z"], {"a": True, "b": 2}),
            ([b"  a=1  "], {"a": 1}),
            ([b'a=%"f%c3%bc"'], {"a": DisplayString("fü")}),
            *[([data], None) for data in MALFORMED],
        ],
    )
    def test_dictionaries(self, lines: list[bytes], members: dict[str, Any] | None) -> None:
        assert parse_dictionary(lines) == members

    @given(st.binary(max_size=60))
    def test_any_bytes_are_parsed_or_refused(self, data: bytes) -> None:
        parse_dictionary([data])

    @rows(
        ("name", "parameters", "text"),
        [
            ("KFR50-P1", {"hit": True}, b"KFR50-P1; hit"),
            ("my edge", {"fwd": "uri-miss", "ttl": -3}, b'"my edge"; fwd=uri-miss; ttl=-3'),
            ('a"b\\c', {"stored": False}, b'"a\\"b\\\\c"'),
            ("kéy", {}, b'"k?y"'),
            ("", {"detail": "a:b"}, b'""; detail=a:b'),
        ],
    )
    def test_items(self, name: str, parameters: dict[str, bool | int | str], text: bytes) -> None:
        assert item(name, parameters) == text


FOR_CDNS = b"cdn-cache-control"
FOR_ALL = b"cache-control"
TTL = Behavior("*", "o", default_ttl=500)


def lifetime(*headers: tuple[bytes, bytes], behavior: Behavior = TTL) -> float | None:
    meta = admit(behavior, None, "GET", ReceivedResponse(200, list(headers), [], 1000.0, 1000.0))
    return None if meta is None else meta.fresh_until - 1000.0


@rows(
    ("value", "first"),
    [
        (b"max-age=1, max-age=2", ("max_age", 1)),
        (b"s-maxage=1, s-maxage=2", ("s_maxage", 1)),
        (b"stale-while-revalidate=1, stale-while-revalidate=2", ("stale_while_revalidate", 1)),
        (b"stale-if-error=1, stale-if-error=2", ("stale_if_error", 1)),
        (b"max-age=x, max-age=2", ("max_age", 0)),
    ],
)
def test_of_a_directive_that_is_repeated_the_first_counts(value: bytes, first: tuple[str, int]) -> None:
    """RFC 9111 §4.2.1."""
    name, seconds = first
    assert getattr(CacheControl(value), name) == seconds


class TestCdnCacheControl:
    @rows(
        ("headers", "seconds"),
        [
            ([(FOR_CDNS, b"max-age=60"), (FOR_ALL, b"no-store")], 60),
            ([(FOR_CDNS, b"no-store"), (FOR_ALL, b"max-age=60")], None),
            ([(FOR_CDNS, b"private"), (FOR_ALL, b"public, max-age=60")], None),
            ([(FOR_CDNS, b"max-age=60, s-maxage=7")], 7),
            # Of the wrong type (RFC 9213 §2.1): a Date is not a number, a Display String is not a field name.
            ([(FOR_CDNS, b"max-age=@60, s-maxage=7")], 7),
            ([(FOR_CDNS, b'max-age=60, x-note=%"f%c3%bc"'), (FOR_ALL, b"no-store")], 60),
            # No other field counts beside it, not even where it sets nothing itself.
            ([(FOR_CDNS, b"must-revalidate"), (FOR_ALL, b"max-age=60")], 500),
            ([(FOR_CDNS, b"public"), (b"expires", b"Thu, 01 Jan 1970 00:00:00 GMT")], 500),
            ([(FOR_CDNS, b"max-age=60"), (b"expires", b"0")], 60),
            ([(FOR_CDNS, b"max-age=60"), (FOR_CDNS, b"no-store")], None),
            # Wrong values are ignored one by one ...
            ([(FOR_CDNS, b'max-age="60"'), (FOR_ALL, b"max-age=9")], 500),
            ([(FOR_CDNS, b"max-age=6.5, s-maxage=7")], 7),
            ([(FOR_CDNS, b"max-age=-1"), (FOR_ALL, b"max-age=9")], 500),
            ([(FOR_CDNS, b"max-age, no-store=?0"), (FOR_ALL, b"max-age=9")], 500),
            ([(FOR_CDNS, b"no-store=1, max-age=60")], 60),
            # ... a malformed or empty field counts as absent.
            ([(FOR_CDNS, b"Max-Age=60"), (FOR_ALL, b"max-age=9")], 9),
            ([(FOR_CDNS, b"max-age=60,"), (FOR_ALL, b"no-store")], None),
            ([(FOR_CDNS, b""), (FOR_ALL, b"max-age=9")], 9),
        ],
    )
    def test_counts_in_the_place_of_cache_control_and_expires(
        self, headers: list[tuple[bytes, bytes]], seconds: float | None
    ) -> None:
        assert lifetime(*headers) == seconds

    def test_under_the_same_ttls(self) -> None:
        behavior = Behavior("*", "o", min_ttl=10, default_ttl=20, max_ttl=30)
        for said, seconds in (
            (b"max-age=5", 10),
            (b"max-age=25", 25),
            (b"max-age=99", 30),
            (b"no-store", 10),
        ):
            assert lifetime((FOR_CDNS, said), behavior=behavior) == seconds

    def test_stale_windows_and_fields(self) -> None:
        said = b'max-age=1, stale-while-revalidate=5, stale-if-error=7, no-cache="set-cookie, x"'
        control = CacheControl.of([(FOR_CDNS, said), (FOR_ALL, b"stale-if-error=99")])
        assert (control.stale_while_revalidate, control.stale_if_error) == (5, 7)
        assert control.no_cache_fields == {b"set-cookie", b"x"}
        assert not control.no_cache

    @rows("data", MALFORMED)
    def test_what_is_malformed_changes_nothing(self, data: bytes) -> None:
        assert lifetime((FOR_CDNS, data), (FOR_ALL, b"max-age=42")) == 42
