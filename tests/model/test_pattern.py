"""Path patterns and path normalization, cloudfront-semantics §5.1."""

from __future__ import annotations

import fnmatch
import re
import time

from hypothesis import given
from hypothesis import strategies as st

from keyfront.model.pattern import compile_pattern, normalise_path
from tests.rows import rows

MATCHES = [
    # pattern, paths that match, paths that do not
    ("*", ["/", "/a/b", "*", ""], []),
    ("/*", ["/", "/a/b"], ["*", ""]),
    ("**", ["/a", "*"], []),
    ("*.jpg", ["/a.jpg", "/x/y.jpg", "/.jpg"], ["/a.JPG", "/a.jpg/", "/a.jpgx", ".jpg"]),
    ("/*.jpg", ["/a.jpg", "/.jpg"], ["a.jpg"]),
    ("*product.jpg", ["/product.jpg", "/a/big-product.jpg"], ["/products.jpg"]),
    ("/images/*", ["/images/", "/images/a/b"], ["/images", "/Images/a", "/imagesx/a"]),
    ("images/*", ["/images/a"], ["images/a"]),
    ("images*", ["/images", "/images/a", "/imagesx"], ["/image"]),
    ("/a/*/c", ["/a/b/c", "/a/b/x/c", "/a//c"], ["/a/c", "/a/b/cd", "/a/b"]),
    ("/a*b*c", ["/abc", "/axbxc", "/abbc", "/abcbc"], ["/ac", "/acb", "/ab"]),
    ("/ab*ba", ["/abba", "/abxba"], ["/aba", "/ab", "/ba"]),
    ("/a*a", ["/aa", "/aba"], ["/a"]),
    ("/a*ab*b", ["/aabb", "/aababb"], ["/ab", "/aab"]),
    ("/x/*/y/*/z", ["/x/1/y/2/z"], ["/x/1/y/z", "/x/y/2/z"]),
    ("/a?c", ["/abc", "/a/c", "/a?c"], ["/ac", "/abbc"]),
    ("?", ["/a", "/?"], ["/", "/ab"]),
    ("/a?*", ["/ab", "/abc"], ["/a"]),
    ("*?", ["/a", "/ab"], ["/"]),
    ("/ab*b?", ["/abbc", "/abxbc"], ["/abc", "/ab"]),
    ("/*?b*c?", ["/abc1", "/xxbxxcc"], ["/bc1", "/abc"]),
    ("/a.b+c$d~e", ["/a.b+c$d~e"], ["/aXb+c$d~e", "/a.bbc$d~e"]),
    ("/a.?", ["/a.b"], ["/aXb"]),
    ("/a", ["/a"], ["/A", "/a/", "/ab", ""]),
    ("/docs/*.pdf", ["/docs/x.pdf", "/docs/a/b.pdf", "/docs/.pdf"], ["/docs.pdf", "/docs/x.pdf2"]),
    ("/n\n*", ["/n\nx\ny"], ["/nx"]),
    ("*\xe9*", ["/caf\xe9"], ["/cafe"]),
]


@rows(("pattern", "yes", "no"), MATCHES, ids=[case[0].encode("unicode_escape").decode() for case in MATCHES])
def test_pattern(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = compile_pattern(pattern)
    assert [path for path in yes if not matches(path)] == []
    assert [path for path in no if matches(path)] == []


@given(st.text("ab*?/", max_size=10), st.text("ab/", max_size=12))
def test_a_pattern_means_what_a_glob_means(pattern: str, path: str) -> None:
    glob = pattern if pattern.startswith("/") or not pattern.strip("*") else "/" + pattern
    if not pattern:
        glob = "*"
    path = "/" + path
    # fnmatch also knows [seq]; the alphabet has no brackets.
    assert compile_pattern(pattern)(path) == bool(re.match(fnmatch.translate(glob), path))


@rows(
    "pattern",
    [
        "*a" * 120 + "b",
        "*" + "a" * 120 + "?" + "a" * 120 + "b*",
        "?*" * 120 + "b",
        "*" + "a" * 250 + "b*",
        "*a?" * 80 + "b",
    ],
)
def test_no_path_makes_a_pattern_slow(pattern: str) -> None:
    matches = compile_pattern(pattern)
    path = "/" + "a" * 8190
    started = time.perf_counter()
    assert not matches(path)
    assert time.perf_counter() - started < 0.2


NORMALISED = [
    ("/", "/"),
    ("/a/b", "/a/b"),
    ("", ""),
    ("*", "*"),
    ("/a/b/", "/a/b/"),
    ("//", "/"),
    ("/a//b", "/a/b"),
    ("///a///b//", "/a/b/"),
    ("/.", "/"),
    ("/./", "/"),
    ("/..", "/"),
    ("/../", "/"),
    ("/../../a", "/a"),
    ("/a/.", "/a/"),
    ("/a/./b", "/a/b"),
    ("/a/..", "/"),
    ("/a/b/..", "/a/"),
    ("/a/b/../", "/a/"),
    ("/a/b/../c", "/a/c"),
    ("/a/b/c/./../../g", "/a/g"),
    ("/a//../b", "/b"),
    ("/a/.../b", "/a/.../b"),
    ("/a/.b", "/a/.b"),
    ("/a/..b", "/a/..b"),
    ("/.well-known/x", "/.well-known/x"),
    ("/a/b..", "/a/b.."),
    ("/%41", "/A"),
    ("/%7Ea%2db%5F", "/~a-b_"),
    ("/%7ea", "/~a"),
    ("/%2e%2e/a", "/a"),
    ("/a/%2E%2e/b", "/b"),
    ("/a/.%2e/b", "/b"),
    ("/private%2Fx", "/private%2Fx"),
    ("/a%20b", "/a%20b"),
    ("/a%c3%a9", "/a%c3%a9"),
    ("/%252e%252e/a", "/%252e%252e/a"),
    ("/%", "/%"),
    ("/%4", "/%4"),
    ("/%4g%zz", "/%4g%zz"),
    ("/%%41", "/%A"),
    ("/%2541", "/%2541"),
    ("/a\xe9/../b", "/b"),
]


@rows(("raw", "normal"), NORMALISED)
def test_normalise(raw: str, normal: str) -> None:
    assert normalise_path(raw) == normal


@given(st.text("ab./%2eE4", max_size=16))
def test_normalising_leaves_no_way_round_a_pattern(text: str) -> None:
    normal = normalise_path("/" + text)
    assert normal.startswith("/")
    assert "//" not in normal
    assert not {".", ".."} & set(normal.split("/"))
    if "%" not in text:
        assert normalise_path(normal) == normal


def test_a_plain_path_is_returned_as_it_is() -> None:
    path = "/images/2026/a-long_name~of.an/object.jpg"
    assert normalise_path(path) is path
