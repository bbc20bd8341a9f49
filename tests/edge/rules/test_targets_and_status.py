"""What an unsafe request invalidates, what is known of a response that is not stored, and Cache-Status."""

from __future__ import annotations

from typing import Any

from keyfront.edge.rules.freshness import changed_targets, uncached_meta
from keyfront.edge.rules.respond import cache_status
from keyfront.edge.types.messages import Headers
from tests.rows import rows


@rows(
    ("headers", "targets"),
    [
        ([], ["/a"]),
        ([(b"location", b"/b?x=1")], ["/a", "/b?x=1"]),
        ([(b"location", b"http://d.test:80")], ["/a", "/"]),
        ([(b"location", b"https://d.test/b")], ["/a"]),
        ([(b"location", b"http://other.test/b")], ["/a"]),
        ([(b"location", b"http://[/"), (b"content-location", b"/c")], ["/a", "/c"]),
        ([(b"content-location", b"/c"), (b"location", b"/a")], ["/a", "/c"]),
        ([(b"location", b"/b"), (b"location", b"/c")], ["/a", "/b"]),
    ],
)
def test_what_an_unsafe_request_changes(headers: Headers, targets: list[str]) -> None:
    assert changed_targets("http", "d.test", "/a", headers) == targets


def test_what_is_not_stored_has_no_age() -> None:
    rest = [(b"a", b"1"), (b"date", b"x")]
    assert uncached_meta(200, [(b"age", b"5"), *rest], rest, 9.0).headers == tuple(rest)


@rows(
    ("forwarded", "status", "ttl", "more", "expected"),
    [
        ("", 0, 5.9, {}, b"edge; hit; ttl=5"),
        ("", 200, -0.5, {"stored": True, "collapsed": True}, b"edge; hit; ttl=-1"),
        ("uri-miss", 200, None, {"stored": True}, b"edge; fwd=uri-miss; fwd-status=200; stored"),
        ("stale", 0, None, {"collapsed": True}, b"edge; fwd=stale; collapsed"),
        ("miss", 0, None, {"detail": "OriginDnsError"}, b"edge; fwd=miss; detail=OriginDnsError"),
    ],
)
def test_cache_status(
    forwarded: str, status: int, ttl: float | None, more: dict[str, Any], expected: bytes
) -> None:
    assert cache_status("edge", forwarded, status, ttl, **more) == expected
