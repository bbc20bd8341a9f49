"""The query parameters, cookies, and headers that a policy selects."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from keyfront.model.pattern import compile_pattern
from keyfront.model.snapshot import Select

SIGNING_COOKIES: Final = frozenset(
    {
        "CloudFront-Expires",
        "CloudFront-Hash-Algorithm",
        "CloudFront-Key-Pair-Id",
        "CloudFront-Policy",
        "CloudFront-Signature",
    }
)


def select_query(select: Select, query: str) -> str:
    """The selected part of a raw query string (no `?`): order, case, encoding, and repeats as sent.

    `&` is the only delimiter; names are compared raw and case-sensitively (§5.7).
    """
    mode = select.mode
    if mode == "all" or not query:
        return query
    if mode == "none":
        return ""
    names = select.names
    if mode == "whitelist":
        return "&".join([p for p in query.split("&") if p.partition("=")[0] in names])
    return "&".join([p for p in query.split("&") if p.partition("=")[0] not in names])


def select_cookies(select: Select, cookie: str, *, signing: bool = False) -> str:
    """The selected cookies of a Cookie header, sorted by name, with repeats in their original order (§5.7).

    Names are case-sensitive; `*` and `?` in a listed name are wildcards.

    :param signing: whether to retain the cookies that carry a signature (`CloudFront-Policy` and the like). They are
        dropped otherwise.
    """
    mode = select.mode
    if mode == "none" or not cookie:
        return ""
    matches = _cookie_matcher(select.names) if mode != "all" else None
    pairs = []
    for piece in cookie.split(";"):
        piece = piece.strip(" \t")
        name = piece.partition("=")[0].rstrip(" \t")
        if not piece or (not signing and name in SIGNING_COOKIES):
            continue
        if matches is not None and matches(name) == (mode == "allExcept"):
            continue
        pairs.append((name, piece))
    pairs.sort(key=_name)
    return "; ".join([piece for _, piece in pairs])


def _name(pair: tuple[str, str]) -> str:
    return pair[0]


@lru_cache(maxsize=1024)
def _cookie_matcher(names: tuple[str, ...]) -> Callable[[str], bool]:
    exact = frozenset(n for n in names if "*" not in n and "?" not in n)
    wild = [compile_pattern("/" + n) for n in names if n not in exact]
    if not wild:
        return exact.__contains__
    return lambda name: name in exact or any(matches("/" + name) for matches in wild)


@lru_cache(maxsize=1024)
def bytes_names(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(n.encode("latin-1") for n in names)


SELECTS_NOTHING: Final = Select()


@lru_cache(maxsize=1024)
def listed_names(key: Select, forward: Select) -> frozenset[bytes]:
    """Header names that the behavior lists, in its cache key or only for forwarding."""
    names: frozenset[bytes] = frozenset()
    if key.mode in ("whitelist", "all"):
        names |= bytes_names(key.names)
    if forward.mode in ("whitelist", "all"):
        names |= bytes_names(forward.names)
    return names
