"""The behaviors that a drill should request: every behavior that requires signatures. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from keyfront.model.pattern import compile_pattern
from keyfront.model.snapshot import Distribution, Snapshot


def unasked(snapshot: Snapshot, urls: Iterable[str]) -> list[str]:
    """Return the behaviors of enabled distributions that require signatures and that none of `urls` matches, each as
    host name and path pattern."""
    met = {found for url in urls if (found := _behavior(snapshot, url)) is not None}
    return [
        f"{distribution.domain_name} {behavior.path_pattern}"
        for distribution in snapshot.distributions
        if distribution.enabled
        for number, behavior in enumerate(distribution.behaviors)
        if behavior.restricted and (distribution.id, number) not in met
    ]


def _behavior(snapshot: Snapshot, url: str) -> tuple[str, int] | None:
    """Return the distribution that serves `url`, and the index of its behavior."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return None
    distribution = _distribution(snapshot, host)
    if distribution is None:
        return None
    for number, behavior in enumerate(distribution.behaviors):
        if compile_pattern(behavior.path_pattern)(parts.path or "/"):
            return distribution.id, number
    return None


def _distribution(snapshot: Snapshot, host: str) -> Distribution | None:
    """Return the distribution with the host name `host`. A wildcard stands for one label and has lower precedence than
    an exact name."""
    for name in (host, f"*.{host.partition('.')[2]}"):
        for distribution in snapshot.distributions:
            if name == distribution.domain_name or name in distribution.aliases:
                return distribution
    return None
