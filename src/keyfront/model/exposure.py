"""What a configuration shows to viewers without a signature, though a behavior guards it. Pure.

A custom error page is fetched by the edge for itself, and that fetch needs no signature: CloudFront's documentation
leaves it open, and so it has been since 2018 (cloudfront-semantics §5.6). A page whose own path is guarded is
therefore served to whoever causes the error. It is meant so for "please log in"; it is not for a film.
"""

from __future__ import annotations

from collections.abc import Iterable

from keyfront.model.pattern import compile_pattern, normalise_path
from keyfront.model.snapshot import Snapshot


def guarding_pattern(path: str, behaviors: Iterable[tuple[str, bool]]) -> str:
    """The path pattern of the behavior that a raw path belongs to, if that needs a signature; else empty.

    :param behaviors: path pattern and whether a signature is needed, in the distribution's order, the default last.
    """
    normal = normalise_path(path.partition("?")[0])
    for pattern, restricted in behaviors:
        if compile_pattern(pattern)(normal):
            return pattern if restricted else ""
    return ""


def page_warning(error_code: int, path: str, pattern: str) -> str:
    """What to tell an operator of such a page."""
    return (
        f"the custom error page {path} for {error_code} is served without a signature, though behavior {pattern} needs "
        "one: whoever causes the error sees it. Move the page to a path that needs none, unless it is meant for all"
    )


def exposed_pages(snapshot: Snapshot) -> list[str]:
    """A warning for each custom error page whose own path is guarded."""
    found = []
    for distribution in snapshot.distributions:
        behaviors = [(behavior.path_pattern, behavior.restricted) for behavior in distribution.behaviors]
        for response in distribution.error_responses:
            pattern = response.page_path and guarding_pattern(response.page_path, behaviors)
            if pattern:
                told = page_warning(response.error_code, response.page_path, pattern)
                found.append(f"distribution {distribution.id}: {told}")
    return found
