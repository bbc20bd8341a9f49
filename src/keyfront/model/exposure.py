"""Detection of restricted content that a configuration serves without a signature: custom error pages. Pure.

The edge itself fetches a custom error page, and that fetch needs no signature. CloudFront's documentation does not
specify this; CloudFront has behaved this way since 2018 (cloudfront-semantics §5.6). A page whose own path is
restricted is therefore served to anyone who causes the error. That is intended for "please log in", but not for a
video.
"""

from __future__ import annotations

from collections.abc import Iterable

from keyfront.model.pattern import compile_pattern, normalise_path
from keyfront.model.snapshot import Snapshot


def guarding_pattern(path: str, behaviors: Iterable[tuple[str, bool]]) -> str:
    """The path pattern of the behavior that applies to a raw path, if it requires a signature; otherwise empty.

    :param behaviors: path pattern, and whether a signature is required, in the distribution's order, the default last.
    """
    normal = normalise_path(path.partition("?")[0])
    matching = (
        pattern if restricted else "" for pattern, restricted in behaviors if compile_pattern(pattern)(normal)
    )
    return next(matching, "")


def page_warning(error_code: int, path: str, pattern: str) -> str:
    """The warning about such a page."""
    return (
        f"the custom error page {path} for {error_code} is served without a signature, although behavior {pattern} "
        "requires one: anyone who causes the error gets it. Unless that is intended, move the page to a path that "
        "requires no signature"
    )


def exposed_pages(snapshot: Snapshot) -> list[str]:
    """A warning for each custom error page whose own path is restricted."""
    found = []
    for distribution in snapshot.distributions:
        behaviors = [(behavior.path_pattern, behavior.restricted) for behavior in distribution.behaviors]
        for response in distribution.error_responses:
            pattern = response.page_path and guarding_pattern(response.page_path, behaviors)
            if pattern:
                warning = page_warning(response.error_code, response.page_path, pattern)
                found.append(f"distribution {distribution.id}: {warning}")
    return found
