"""The grammar of cache keys: every key that is built can be parsed, no two keys are alike, and only one file knows
the format."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import keyfront.edge
from keyfront.edge.rules import cache_key
from keyfront.edge.rules.cache_key import (
    base_key,
    change_marker,
    distribution_of,
    failure_key,
    is_under,
    path_and_query,
    path_of,
    root_of,
    selection_beyond_root,
    shield_key,
    slice_key,
    sliced_key,
    variant_key,
)
from keyfront.edge.types.stored import Slices
from tests.rows import rows

LATIN = st.text(st.characters(max_codepoint=255), max_size=12)
PATHS = st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=12).map("/{}".format)
METHODS = st.sampled_from(["GET", "HEAD", "OPTIONS"])


def query_part(query: str) -> str:
    return f"\nq{len(query)}:{query}" if query else ""


def cookie_part(cookie: str) -> str:
    return f"\nc{len(cookie)}:{cookie}" if cookie else ""


@given(PATHS, METHODS, LATIN, LATIN)
def test_what_was_built_can_be_taken_apart(path: str, method: str, query: str, cookie: str) -> None:
    base = base_key("ETEST", path, method)
    root = base + query_part(query)
    key = root + cookie_part(cookie)
    assert distribution_of(key) == "ETEST"
    assert path_and_query(key) == (path, query)
    assert path_of(key) == base
    assert root_of(key) == root
    assert selection_beyond_root(key) == cookie_part(cookie)


def test_only_options_has_answers_of_its_own() -> None:
    assert base_key("E", "/a", "GET") == base_key("E", "/a", "HEAD") != base_key("E", "/a", "OPTIONS")


@given(st.lists(st.tuples(PATHS, LATIN, LATIN, st.integers(0, 12)), min_size=2, max_size=2, unique=True))
def test_different_responses_have_different_keys(several: list[tuple[str, str, str, int]]) -> None:
    made = []
    for path, query, cookie, number in several:
        base = base_key("E", path, "GET")
        key = base + query_part(query) + cookie_part(cookie)
        slices = Slices(key, None, 1, "abc", None, ranged=False)
        made.append(
            {
                key,
                sliced_key(key),
                slice_key(slices, number),
                failure_key(key),
                change_marker(base),
                variant_key(key, "abc", (cookie.encode("latin-1"),)),
                shield_key(base, query_part(query), "", number),
                shield_key(base, query_part(query), "0123abcd", number),
            }
        )
    assert [len(keys) for keys in made] == [8, 8]
    if several[0][:3] != several[1][:3]:
        same = made[0] & made[1]
        shared = {change_marker(base_key("E", path, "GET")) for path, *_ in several}
        shared |= {key for key in same if "\no" in key}  # at a shield, cookies are within the variant
        assert same <= shared


@rows(
    ("key", "root", "expected"),
    [
        ("E/a\nc1:x", "E/a", True),
        ("E/a\nq1:x", "E/a", False),
        ("E/a\nq1:x\nc1:x", "E/a\nq1:x", True),
        ("E/a\nq2:xy", "E/a\nq1:x", False),
        ("E/ab\nc1:x", "E/a", False),
    ],
)
def test_is_under(key: str, root: str, expected: bool) -> None:
    assert is_under(key, root) is expected


def test_variants_differ_by_where_one_value_ends() -> None:
    assert variant_key("E/a", "g", (b"a", b"b")) != variant_key("E/a", "g", (b"ab", b""))
    assert variant_key("E/a", "g", (b"a\n1:b",)) != variant_key("E/a", "g", (b"a", b"b"))


TAKES_APART = {
    "partition",
    "rpartition",
    "split",
    "rsplit",
    "find",
    "index",
    "count",
    "startswith",
    "endswith",
}


def knows_the_grammar(node: ast.AST) -> bool:
    """Whether this expression writes a part of a cache key, or searches for the line break between two parts."""
    match node:
        case ast.JoinedStr(values=values):
            return any(isinstance(each, ast.Constant) and _opens_a_part(each.value) for each in values)
        case ast.Constant(value=str() as text):
            return text == "OPTIONS " or (_opens_a_part(text) and text != "\n")
        case ast.Call(func=ast.Attribute(attr=name), args=[ast.Constant(value="\n"), *_]):
            return name in TAKES_APART
        case ast.Compare(left=ast.Constant(value="\n"), ops=[ast.In() | ast.NotIn()]):
            return True
    return False


def _opens_a_part(text: object) -> bool:
    """A line break, and at most the kind and the length that follow it: prose is longer."""
    return isinstance(text, str) and text.startswith("\n") and (len(text) < 4 or text == "\nchanged")


def test_no_other_module_knows_the_grammar() -> None:
    knowing = set()
    for path in Path(keyfront.edge.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if knows_the_grammar(node):
                knowing.add(path)
    assert knowing == {Path(cache_key.__file__)}
