"""What an invalidation ends and what it leaves."""

from __future__ import annotations

from collections.abc import Iterable

from keyfront.edge.rules.cache_key import distribution_of, key_suffix, path_and_query
from keyfront.edge.rules.invalidation import TAGS, Invalidations, cache_tags
from keyfront.edge.rules.routing import Routing
from keyfront.edge.types.messages import Request
from keyfront.model.snapshot import Behavior, Distribution, Invalidation, Origin, Select, Snapshot
from tests.rows import rows

ALL, NONE = Select("all"), Select()
WHITE = Select("whitelist", ("a", "c"))


def ended(paths: str | Iterable[str], url: str, select: Select = NONE, *, root: str = "/") -> bool:
    """Whether an invalidation of `paths` ends the response to a request for `url`."""
    behavior = Behavior("*", "o", key_query=select)
    path, _, query = url.partition("?")
    key = "ETEST" + path + key_suffix(behavior, Request("GET", url, "d.test", []), query)
    listed = (paths,) if isinstance(paths, str) else tuple(paths)
    found = Invalidations((Invalidation(7, listed),), lambda _: select, root)
    assert not found.is_invalidated(key, 7)
    return found.is_invalidated(key, 6)


CASES: list[tuple[str, str, Select, bool]] = [
    # pattern, requested URL, the part of the query string in the key, ended?
    ("/a", "/a", NONE, True),
    ("/a", "/A", NONE, False),
    ("/a", "/a/", NONE, False),
    ("/a/", "/a", NONE, False),
    ("/a", "/ab", NONE, False),
    ("/a*", "/ab", NONE, True),
    ("/a*", "/a", NONE, True),
    ("/a/*", "/a/", NONE, True),
    ("/a/*", "/a/b/c", NONE, True),
    ("/a/*", "/a", NONE, False),
    ("/a/*", "/b/a/x", NONE, False),
    ("/*", "/", NONE, True),
    ("/*", "/x/y?z", ALL, True),
    # Query strings that are not in the key do not count at all.
    ("/a", "/a?x=1", NONE, True),
    ("/a?x=2", "/a?x=1", NONE, True),
    ("/a?x=*", "/a?y=1", NONE, True),
    ("/a?x=*", "/b", NONE, False),
    # In the key, they count as written.
    ("/a", "/a?x=1", ALL, False),
    ("/a?x=1", "/a?x=1", ALL, True),
    ("/a?x=1", "/a?x=2", ALL, False),
    ("/a?x=1", "/a", ALL, False),
    ("/a?x=1", "/a?X=1", ALL, False),
    ("/a*", "/a?x=1", ALL, True),
    ("/a?x=*", "/a?x=1&y=2", ALL, True),
    ("/a?x=*", "/a?y=1", ALL, False),
    ("/a?*", "/a", ALL, False),
    ("/a?x=%41*", "/a?x=AB", ALL, True),
    ("/a?a=1&b=2", "/a?a=1&b=3", WHITE, True),
    ("/a?a=1&b=2", "/a?a=2&b=2", WHITE, False),
    ("/a?b=2", "/a?b=3", WHITE, True),
    ("/a?b=2&a=*", "/a?a=1", WHITE, True),
    ("/a?b=2&a=*", "/a/x?a=1", WHITE, False),
    # Independent of the spelling.
    ("/%61", "/a", NONE, True),
    ("/a", "/%61", NONE, True),
    ("/caf%C3%A9", "/caf%c3%a9", NONE, True),
    ("/caf%C3%A9", "/caf\xc3\xa9", NONE, True),
    ("/caf%C3*", "/caf%C3%A9", NONE, True),
    ("/a%2Fb", "/a/b", NONE, True),
    ("/a", "//a", NONE, True),
    ("/a", "/x/../a", NONE, True),
    ("/a", "/x/%2e%2E/a", NONE, True),
    ("//a", "//a", NONE, True),
    ("//a", "/a", NONE, False),
    ("/a/../b", "/a/../b", NONE, True),
    ("/x/*", "/x/../a", NONE, True),
    ("/a*", "/x/../a", NONE, True),
    ("/a%2A", "/a*", NONE, True),
    ("/a%2A", "/ab", NONE, False),
    ("/a%3Fb", "/a%3Fb", NONE, True),
    # Parts of a key after the query string are skipped.
    ("/a?x=1", "/a?x=1", Select("allExcept", ("y",)), True),
]


@rows(("pattern", "url", "select", "expected"), CASES)
def test_what_a_path_ends(pattern: str, url: str, select: Select, expected: bool) -> None:
    assert ended(pattern, url, select) is expected


def test_the_default_root_object_goes_with_the_slash() -> None:
    assert ended("/", "/index.html", root="/index.html")
    assert ended("/", "/")
    assert ended("/?x=1", "/index.html?x=1", ALL, root="/index.html")
    assert not ended("/?x=1", "/index.html", ALL, root="/index.html")
    assert not ended("/index.html", "/", root="/index.html")
    assert not ended("/", "/a", root="/index.html")


def test_all_variants_of_a_path_go() -> None:
    behavior = Behavior(
        "*",
        "o",
        key_headers=Select("whitelist", ("accept",)),
        key_cookies=ALL,
        key_query=ALL,
        accept_gzip=True,
    )
    found = Invalidations((Invalidation(2, ("/a?q=1",)),), lambda _: ALL)
    for cookie in ("", "a=1; b=2"):
        for headers in ([], [(b"accept", b"x\ny")], [(b"accept-encoding", b"gzip")]):
            request = Request("GET", "/a?q=1", "d.test", headers, cookie=cookie)
            for key in ("ETEST/a", "OPTIONS ETEST/a"):
                full = key + key_suffix(behavior, request, "q=1")
                assert found.is_invalidated(full, 1)
                assert path_and_query(full) == ("/a", "q=1")
                assert distribution_of(full) == "ETEST"
                assert not found.is_invalidated(key + key_suffix(behavior, request, "q=2"), 1)
    # The value of a header or a cookie is not mistaken for a query string.
    sly = Request("GET", "/a", "d.test", [(b"accept", b"\nq3:q=1")], cookie="q3:q=1")
    assert not found.is_invalidated("ETEST/a" + key_suffix(behavior, sly, ""), 1)


def test_the_number_decides() -> None:
    found = Invalidations(
        (Invalidation(9, ("/a",)), Invalidation(3, ("/*",)), Invalidation(5, ("/a", "/b*"))), lambda _: NONE
    )
    assert found.newest == 9
    for path, last in (("/a", 9), ("/b", 5), ("/bc", 5), ("/c", 3)):
        assert found.is_invalidated("E" + path, last - 1), path
        assert not found.is_invalidated("E" + path, last), path


def test_each_distribution_has_its_own() -> None:
    origin = Origin("o", "127.0.0.1")
    snapshot = Snapshot(
        4,
        0.0,
        distributions=tuple(
            Distribution(
                id_,
                "",
                f"{id_.lower()}.test",
                origins=(origin,),
                behaviors=(Behavior("/q/*", "o", key_query=ALL), Behavior("*", "o")),
                default_root_object="index.html",
                invalidations=invalidations,
            )
            for id_, invalidations in (("EA", (Invalidation(3, ("/q/a", "/", "/b?x")),)), ("EB", ()))
        ),
    )
    routing = Routing(snapshot)
    assert routing.is_invalidated("EA/b", 2)
    assert routing.is_invalidated("EA/index.html", 2)
    assert not routing.is_invalidated("EB/b", 2)
    assert not routing.is_invalidated("EC/b", 2)
    assert routing.is_invalidated("EA/q/a", 2)
    assert not routing.is_invalidated("EA/q/a\nq1:x", 2)
    assert not routing.is_invalidated("EA/b", 3)
    assert routing.invalidated_since(2)
    assert not routing.invalidated_since(3)


# -- cache tags --------------------------------------------------------------------------------------------------


TAG_HEADERS: list[tuple[list[tuple[bytes, bytes]], tuple[str, ...]]] = [
    ([], ()),
    ([(b"cache-tag", b"a")], ("a",)),
    ([(b"cache-tag", b" a ,\tB:c,, d ")], ("a", "b:c", "d")),
    ([(b"cache-tag", b"a,b"), (b"x", b"n"), (b"cache-tag", b"c,A")], ("a", "b", "c")),
    ([(b"cache-tags", b"a")], ()),
    (
        [(b"cache-tag", b"a b, caf\xc3\xa9, ok*")],
        ("ok*",),
    ),  # neither spaces nor non-ASCII bytes belong to a tag
    ([(b"cache-tag", b"x" * 256 + b"," + b"y" * 257)], ("x" * 256,)),
    (
        [(b"cache-tag", b",".join(b"%d" % n for n in range(TAGS + 5)))],
        tuple(str(n) for n in range(TAGS)),
    ),
]


@rows(("headers", "expected"), TAG_HEADERS)
def test_the_tags_of_an_answer(headers: list[tuple[bytes, bytes]], expected: tuple[str, ...]) -> None:
    assert cache_tags(b"cache-tag", headers) == expected
    assert cache_tags(b"", headers) == ()


def test_a_tag_ends_what_carries_it_whatever_its_path() -> None:
    found = Invalidations((Invalidation(3, ("#a", "/x")), Invalidation(5, ("#b*",))), lambda _: NONE)
    assert (found.newest, found.newest_tag) == (5, 5)
    assert found.is_invalidated("E/1", 2, ("z", "a"))
    assert not found.is_invalidated("E/1", 3, ("z", "a"))
    assert not found.is_invalidated("E/1", 2, ("ab",))
    assert not found.is_invalidated("E/1", 2)
    assert found.is_invalidated("E/1", 4, ("b*",)), "an asterisk in a tag is not a wildcard"
    assert not found.is_invalidated("E/1", 4, ("bc",))
    assert found.is_invalidated("E/x", 2, ("q",))


@rows(
    "url",
    [
        "/private/1.mp4%3f.jpg", "/private/1.mp4%23.jpg", "/private/1.mp4%253f.jpg", "/private/1.mp4;x=1",
        "/private/1.mp4%3bx", "/private%2f1.mp4", "/private%5c1.mp4", "/private\\1.mp4", "/public/..%2fprivate/1.mp4",
        "/%2570rivate/1.mp4%3f", "/private/1.mp4%0a", "/private/1.mp4%20", "/private//1.mp4%3f",
    ],
)  # fmt: skip
def test_a_copy_under_a_path_that_an_origin_reads_otherwise_goes_too(url: str) -> None:
    for paths in ("/private/1.mp4", "/private/*", "/*"):
        assert ended(paths, url), paths
    for paths in ("/private/2.mp4", "/public/x*", "/private/1.mp"):
        assert not ended(paths, url), paths


def test_a_dot_or_plus_at_the_end_of_a_name_hides_no_copy() -> None:
    """Windows ignores dots and spaces there, and a `+` may be a space."""
    for url in ("/private/1.mp4.", "/private/1.mp4+", "/private./1.mp4", "/private+/1.mp4"):
        assert ended("/private/1.mp4", url), url
        assert not ended("/private/2.mp4", url), url


def test_a_letter_without_its_accent_is_another_name() -> None:
    assert not ended("/cafe.jpg", "/caf%C3%A9.jpg")


def test_among_many_prefixes_the_ones_that_begin_the_path_count() -> None:
    prefixes = [f"/m{number:02}*" for number in range(40)] + ["/m0*"]
    for url, expected in (("/m17/x", True), ("/m07", True), ("/m0", True), ("/a", False), ("/m4", False)):
        assert ended(prefixes, url) is expected, url


def test_a_copy_of_the_root_object_under_what_reads_as_the_root_goes_too() -> None:
    for url in ("/x%2f..", "/%2f", "/.%20", "/%3fx", "/;a", "//"):
        assert ended("/index.html", url, root="/index.html"), url
        assert ended("/", url, root="/index.html"), url
        assert not ended("/other.html", url, root="/index.html"), url


def test_what_can_be_read_in_too_many_ways_is_ended_by_any_invalidation() -> None:
    assert ended("/a", "/" + "%25" * 300)
