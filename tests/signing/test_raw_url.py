"""URLs as sent on the wire: what is written, what is refused, and that real clients leave it unchanged."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util.url import _encode_target, parse_url

from keyfront.errors import SigningError
from keyfront.signing.raw_url import as_is, as_sent, refuse_signed, split_url
from tests.rows import rows
from tests.signing.harness import many_urls
from tests.vectors.corpus import WIRE_URLS


@rows(
    ("url", "sent"),
    [
        ("https://d", "https://d/"),
        ("https://d?", "https://d/"),
        ("https://d/?", "https://d/"),
        ("https://d?x=1", "https://d/?x=1"),
        ("HTTP://D.Test:80/A", "http://d.test/A"),
        ("https://d:443/", "https://d/"),
        ("http://d:443/", "http://d:443/"),
        ("https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443/"),
        ("https://d/a b", "https://d/a%20b"),
        ("https://d/a+b", "https://d/a+b"),
        ("https://d/a%20b", "https://d/a%20b"),
        ("https://d/a%2Fb%2fc", "https://d/a%2Fb%2Fc"),
        ("https://d/é漢😀", "https://d/%C3%A9%E6%BC%A2%F0%9F%98%80"),
        ("https://d/it's?it's", "https://d/it's?it%27s"),
        ('https://d/"<>`{}|\\^[]', "https://d/%22%3C%3E%60%7B%7D%7C%5C%5E%5B%5D"),
        ('https://d/?"<>`{}|\\^[]', "https://d/?%22%3C%3E%60%7B%7D%7C%5C%5E%5B%5D"),
        ("https://d/%7e%41%2d", "https://d/~A-"),
        ("https://d/100%", "https://d/100%25"),
        ("https://d/%zz%4", "https://d/%25zz%254"),
        ("https://d/%2541", "https://d/%2541"),
        ("https://d//a///b/", "https://d//a///b/"),
        ("https://d/!$&'()*+,;=:@", "https://d/!$&'()*+,;=:@"),
        ("https://d/a?b=c?d/e", "https://d/a?b=c?d/e"),
        ("https://d/a?&&b&", "https://d/a?&&b&"),
        ("https://d/a...b/..c/.d", "https://d/a...b/..c/.d"),
    ],
)
def test_as_sent(url: str, sent: str) -> None:
    assert str(as_sent(url)) == sent
    assert str(as_sent(sent)) == sent


@rows(
    "url",
    ["", "d/a", "/a", "ftp://d/a", "https:///a", "https://", "javascript:alert(1)", "https://u:p@d/", "https://é.test/",
     "https://a b/", "https://d_e!/", "https://d:x/", "https://d:/", "https://d/a\nb", "https://d/\x7f", " https://d/",
     "https://d/ ", "https://d/./a", "https://d/a/..", "https://d/%2e%2E/a", "https://d/\ud800", "https://[::1/"],
)  # fmt: skip
def test_refuses_what_cannot_be_sent(url: str) -> None:
    with pytest.raises(SigningError):
        as_sent(url)


@given(st.text(max_size=40))
def test_changes_nothing_twice(text: str) -> None:
    try:
        sent = as_sent(f"https://d.test/{text}")
    except SigningError:
        return
    assert str(as_sent(str(sent))) == str(sent)
    assert str(sent).isascii()


def test_the_fragment_stays_behind_the_parameters() -> None:
    url = as_sent("https://d/a.pdf?x=1#page=3?")
    assert str(url) == "https://d/a.pdf?x=1"
    assert url.with_parameters("y=2") == "https://d/a.pdf?x=1&y=2#page=3?"
    assert as_sent("https://d/a#b").with_parameters("y=2") == "https://d/a?y=2#b"


@rows("url", WIRE_URLS.values())
def test_as_is_touches_nothing(url: str) -> None:
    assert str(as_is(url)) == url


@rows("url", ["https://d/a b", "https://d/é", "d/a", "https://d/\t", "https:///x"])
def test_as_is_refuses_what_no_request_line_holds(url: str) -> None:
    with pytest.raises(SigningError):
        as_is(url)


@rows("name", ["Expires", "Policy", "Signature", "Key-Pair-Id", "Hash-Algorithm"])
def test_refuses_names_that_signing_needs(name: str) -> None:
    for url in (f"https://d/?{name}=1", f"https://d/?a&{name}", f"https://d/?{name}"):
        with pytest.raises(SigningError, match=name):
            refuse_signed(split_url(url))
    refuse_signed(split_url(f"https://d/?a={name}&{name.lower()}=1&x{name}=1"))


def test_httpx_and_urllib3_send_it_unchanged() -> None:
    for url in many_urls():
        target = split_url(url).target
        assert httpx.URL(url).raw_path.decode() == target
        assert _encode_target(parse_url(url).request_uri) == target
