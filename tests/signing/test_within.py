"""A pattern within another: every URL that the inner pattern grants is granted by the outer one, too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfront.errors import PolicyError
from keyfront.signing.bounds import Bounds
from keyfront.signing.resource import ResourcePattern
from tests.rows import rows

FILMS = "https://cdn.test/films/*"

CASES: list[tuple[str, str | None, bool]] = [
    (FILMS, "https://cdn.test/films/1.mp4", True),
    (FILMS, "https://cdn.test/films/1.mp4?a=b&c=?", True),
    (FILMS, "https://cdn.test/films/*", True),
    (FILMS, "https://cdn.test/films/a*b?c=*", True),
    (FILMS, "https://cdn.test/films/", True),
    (FILMS, "HTTPS://CDN.test/films/1", True),
    (FILMS, "https://cdn.test:443/films/1", True),
    (FILMS, "https://cdn.test:80/films/1", False),
    (FILMS, "https://cdn.test/films", False),
    (FILMS, "https://cdn.test/film?/1", False),
    (FILMS, "https://cdn.test/film*", False),
    (FILMS, "https://cdn.test/*", False),
    (FILMS, "https://cdn.tes?/films/1", False),
    (FILMS, "https://cdn.test?/films/1", False),
    (FILMS, "https://*/films/1", False),
    (FILMS, "http://cdn.test/films/1", False),
    (FILMS, "http*://cdn.test/films/1", False),
    (FILMS, "*://cdn.test/films/1", False),
    (FILMS, "*", False),
    (FILMS, "", False),
    (FILMS, None, False),
    (FILMS, "https://cdn.test/films/../secret", False),
    (FILMS, "https://cdn.test/films/%2e%2E/secret", False),
    (FILMS, "https://cdn.test/films/%252e%252e/secret", False),
    (FILMS, "https://cdn.test/films/..%2fsecret", False),
    (FILMS, "https://cdn.test/films/..\\secret", False),
    (FILMS, "https://cdn.test/films/..;x/secret", False),
    (FILMS, "https://cdn.test/films/1?x=/../y", True),
    (FILMS, "https://cdn.test/films/a..b/c", True),
    ("*", None, True),
    ("*", "http://anything/at?all", True),
    ("http*://*.test/*", "https://a.b.test/x", True),
    ("http*://*.test/*", "http*://*.test/*", True),
    ("http*://*.test/*", "https://test/x", False),
    ("https://cdn.test/*.mp4", "https://cdn.test/a/b.mp4", True),
    ("https://cdn.test/*.mp4", "https://cdn.test/a/*.mp4", True),
    ("https://cdn.test/*.mp4", "https://cdn.test/b.mp4?x=1", False),
    ("https://cdn.test/*.mp4", "https://cdn.test/b.mp4*", False),
    ("https://cdn.test/*.mp4", "https://cdn.test/b?.mp4", False),
    ("https://cdn.test/a", "https://cdn.test/a", True),
    ("https://cdn.test/a", "https://cdn.test/a?", False),
    ("https://cdn.test/a*c*", "https://cdn.test/abcd", True),
    ("https://cdn.test/a*c*", "https://cdn.test/ab?c", False),
]


@rows(("bounds", "resource", "within"), CASES)
def test_within(bounds: str, resource: str | None, within: bool) -> None:
    assert Bounds(bounds).hold(resource) is within


@rows(
    "text",
    [
        "",
        "https://",
        "https://cdn.test",
        "cdn.test/*",
        "ftp://cdn.test/*",
        "https://cdn.test/a?b",
        "https:///a",
    ]
    + ["https://cdn.test/a b", "https://cdn.test/\\", "https://cdn.test/é", "**", "https://cdn.test/#a"],
)
def test_no_bounds(text: str) -> None:
    with pytest.raises(PolicyError, match="bounds nothing"):
        Bounds(text)


_piece = st.lists(st.sampled_from(["a", "b", "/", "*", ".", "=", "?", "\\?", ":"]), max_size=7).map("".join)
_plain = st.lists(st.sampled_from(["a", "b", "/", "*", ".", "="]), max_size=5).map("".join)
_host = st.sampled_from(["a", "a.b", "*", "a.*", "*.b", "a:80", "a:443", "a*"])
_scheme = st.sampled_from(["http", "https", "http*", "*", "http?"])
_word = st.lists(st.sampled_from(["a", "b", "/", ".", "=", "?"]), max_size=6).map("".join)


@given(
    bounds=st.builds("{}://{}/{}".format, st.sampled_from(["http", "https", "http*"]), _host, _plain),
    resource=st.builds("{}://{}{}".format, _scheme, _host, _piece) | st.just("*"),
    scheme=st.sampled_from(["http", "https"]),
    host=st.sampled_from(["a", "a.b", "b", "ab", "a.b.b"]),
    path=_word.map(lambda text: "/" + text.replace("?", "")),
    query=_word,
)
def test_what_is_within_grants_nothing_beyond(
    bounds: str, resource: str, scheme: str, host: str, path: str, query: str
) -> None:
    held = Bounds(bounds).hold(resource)
    if held and ResourcePattern(resource).matches(scheme, host, path, query):
        assert ResourcePattern(bounds).matches(scheme, host, path, query)
