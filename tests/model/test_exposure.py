"""Custom error pages that require a signature, and that viewers nevertheless see without one."""

from __future__ import annotations

from keyfront.model.exposure import exposed_pages, guarding_pattern
from keyfront.model.snapshot import Behavior, Distribution, ErrorResponse, Origin, Snapshot
from tests.rows import rows


def snapshot(
    *pages: ErrorResponse, guarded: tuple[str, ...] = ("/private/*",), default: bool = False
) -> Snapshot:
    behaviors = [Behavior(pattern, "o", restricted=True) for pattern in guarded]
    behaviors.append(Behavior("*", "o", restricted=default))
    distribution = Distribution(
        "E1",
        "arn",
        "d.test",
        origins=(Origin("o", "o.test"),),
        behaviors=tuple(behaviors),
        error_responses=pages,
    )
    return Snapshot(1, 0.0, (), (), (distribution,))


@rows(
    ("path", "pattern"),
    [
        ("/private/login.html", "/private/*"),
        ("/private/%6cogin.html", "/private/*"),
        ("/x/../private/login.html", "/private/*"),
        ("/login.html", ""),
        ("/login.html?next=/private/", ""),
        ("/privately.html", ""),
    ],
)
def test_a_page_under_a_guarded_behavior_is_told(path: str, pattern: str) -> None:
    pages = exposed_pages(snapshot(ErrorResponse(403, 0, path, 200)))
    assert len(pages) == bool(pattern)
    for line in pages:
        assert line.startswith(
            f"distribution E1: the custom error page {path} for 403 is served without a signature"
        )
        assert f"behavior {pattern} requires one" in line


def test_the_default_behavior_guards_too_and_the_first_match_counts() -> None:
    page = ErrorResponse(404, 10, "/errors/404.html", 404)
    assert len(exposed_pages(snapshot(page, default=True))) == 1
    assert guarding_pattern("/a.jpg", [("*.jpg", False), ("/a*", True), ("*", True)]) == ""
    assert guarding_pattern("/a.png", [("*.jpg", False), ("/a*", True), ("*", True)]) == "/a*"


def test_a_rule_without_a_page_is_no_page() -> None:
    assert exposed_pages(snapshot(ErrorResponse(403, 60), default=True)) == []
