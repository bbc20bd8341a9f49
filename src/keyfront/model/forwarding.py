"""The rules for what a behavior includes in the cache key and forwards to the origin, and how long it caches responses.

There are three sources: the behavior's own ForwardedValues (legacy), a cache policy, and an origin request policy in
addition to a cache policy. All compile to the same selections. Whatever is in the key is also forwarded
(cloudfront-semantics §5.7).

Names of headers that CloudFront adds (`cloudfront-*`) are listed with the others. The origin gets those named in the
key's headers, and those named in the forwarded headers if their mode is `whitelist` or `all`. A header of such a name
from a viewer is never forwarded.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from keyfront.model.config_reader import Struct, words
from keyfront.model.snapshot import Select

ONE_HUNDRED_YEARS = 3_153_600_000
"""The greatest TTL, in seconds (§5.4)."""

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

_NEVER_SELECTED = words(
    """
    connection content-length cookie expect keep-alive proxy-connection te trailer transfer-encoding upgrade
    via
    """
)
"""Connection and framing headers, and Cookie, which has its own selection. Selecting them by name would break the
connection or the framing, or put signed cookies into the cache key."""

Mode = Literal["none", "whitelist", "allExcept", "all"]

_NONE = Select()
_ALL = Select("all")


class Forwarding(NamedTuple):
    """The part of a `Behavior` that this module compiles."""

    legacy: bool
    ttl: tuple[int, int, int]
    key_headers: Select
    key_cookies: Select
    key_query: Select
    forward_headers: Select
    forward_cookies: Select
    forward_query: Select
    accept_gzip: bool
    accept_brotli: bool


def from_forwarded_values(behavior: Struct, most_names: int) -> Forwarding:
    """The legacy form: TTLs and ForwardedValues of the behavior itself.

    :param most_names: the maximum number of headers, cookies, or query parameters that can be listed.
    """
    values = behavior.struct("ForwardedValues")
    headers = _legacy_headers(values, most_names)
    cookies = _legacy_cookies(values.struct("Cookies"), most_names)
    keys = values.texts("QueryStringCacheKeys")
    if len(keys) > most_names:
        values.refuse(
            f"ForwardedValues can list {most_names} query string parameters", "TooManyQueryStringParameters"
        )
    if values.flag("QueryString"):
        forward_query = _ALL
        key_query = Select("whitelist", tuple(keys)) if keys and "*" not in keys else _ALL
    else:
        forward_query = key_query = _NONE
        if keys:
            values.refuse(
                "QueryStringCacheKeys can be listed only if QueryString is true",
                "InvalidQueryStringParameters",
            )
    ttl = read_ttl(behavior)
    if headers.mode == "all" and ttl[0] != 0:
        behavior.refuse("The parameter MinTTL must be 0 if all headers are forwarded")
    # Unless it lists Accept-Encoding, a legacy behavior normalizes it to gzip or nothing, in the key as well.
    normalized = headers.mode != "all" and "accept-encoding" not in headers.names
    return Forwarding(
        legacy=True,
        ttl=ttl,
        key_headers=headers,
        key_cookies=cookies,
        key_query=key_query,
        forward_headers=headers,
        forward_cookies=cookies,
        forward_query=forward_query,
        accept_gzip=normalized,
        accept_brotli=False,
    )


def from_policies(cache_policy: Struct, origin_request_policy: Struct | None) -> Forwarding:
    """The current form: a CachePolicyConfig, with or without an OriginRequestPolicyConfig."""
    key = cache_policy.struct("ParametersInCacheKeyAndForwardedToOrigin")
    headers = _selection(
        key, "HeadersConfig", "HeaderBehavior", "Headers", ("none", "whitelist"), header=True
    )
    cookies = _selection(key, "CookiesConfig", "CookieBehavior", "Cookies")
    query = _selection(key, "QueryStringsConfig", "QueryStringBehavior", "QueryStrings")
    forward_headers, forward_cookies, forward_query = headers, cookies, query
    normalized = "accept-encoding" not in headers.names
    gzip = key.flag("EnableAcceptEncodingGzip") and normalized
    brotli = key.flag("EnableAcceptEncodingBrotli") and normalized
    if origin_request_policy is not None:
        policy = origin_request_policy
        sent = _selection(
            policy, "HeadersConfig", "HeaderBehavior", "Headers", _ORIGIN_REQUEST_HEADERS, header=True
        )
        forward_headers = union(headers, sent)
        if gzip or brotli:
            # The normalized Accept-Encoding is already sent; naming it here as well has no effect (§5.11).
            forward_headers = _without(forward_headers, "accept-encoding")
        forward_cookies = union(cookies, _selection(policy, "CookiesConfig", "CookieBehavior", "Cookies"))
        forward_query = union(
            query, _selection(policy, "QueryStringsConfig", "QueryStringBehavior", "QueryStrings")
        )
    return Forwarding(
        legacy=False,
        ttl=read_ttl(cache_policy),
        key_headers=headers,
        key_cookies=cookies,
        key_query=query,
        forward_headers=forward_headers,
        forward_cookies=forward_cookies,
        forward_query=forward_query,
        accept_gzip=gzip,
        accept_brotli=brotli,
    )


def read_ttl(struct: Struct) -> tuple[int, int, int]:
    """Minimum, default and maximum TTL in seconds. An absent default is a day or, if longer, the minimum; an
    absent maximum is a year or, if longer, the default (§5.4)."""
    low = struct.number("MinTTL", 0, 0, ONE_HUNDRED_YEARS)
    usual = struct.number("DefaultTTL", max(86_400, low), 0, ONE_HUNDRED_YEARS)
    high = struct.number("MaxTTL", max(31_536_000, usual), 0, ONE_HUNDRED_YEARS)
    if not low <= usual <= high:
        struct.refuse(
            f"MinTTL {low}, DefaultTTL {usual} and MaxTTL {high} must not decrease in this order",
            "InvalidTTLOrder",
        )
    return low, usual, high


def union(one: Select, other: Select) -> Select:
    """A selection of everything that either of the two selects."""
    for select in (one, other):
        if select.mode == "all":
            names = one.names * (one.mode != "allExcept") + other.names * (other.mode != "allExcept")
            added = [name for name in names if name.startswith("cloudfront-")]
            return Select("all", _unique(added))
    if one.mode == "none":
        return other
    if other.mode == "none":
        return one
    if one.mode == other.mode == "whitelist":
        return Select("whitelist", _unique([*one.names, *other.names]))
    if one.mode == other.mode:
        return _all_except([name for name in one.names if name in other.names])
    listed, but = (one, other) if one.mode == "whitelist" else (other, one)
    return _all_except([name for name in but.names if name not in listed.names])


_ORIGIN_REQUEST_HEADERS = ("none", "whitelist", "allViewer", "allViewerAndWhitelistCloudFront", "allExcept")
_MODES: dict[str, Mode] = {
    "none": "none",
    "whitelist": "whitelist",
    "allExcept": "allExcept",
    "all": "all",
    "allViewer": "all",
    "allViewerAndWhitelistCloudFront": "all",
}


def _selection(
    policy: Struct,
    config: str,
    behavior: str,
    member: str,
    choices: tuple[str, ...] = ("none", "whitelist", "allExcept", "all"),
    *,
    header: bool = False,
) -> Select:
    struct = policy.struct(config)
    chosen = struct.text(behavior, None, choices)
    names = struct.texts(member)
    if header:
        names = _header_names(struct, names, exceptions=chosen == "allExcept")
    if chosen in ("none", "all", "allViewer", ""):
        if names:
            struct.refuse(f"{member} cannot be listed if {behavior} is {chosen or 'absent'}")
        return _ALL if chosen in ("all", "allViewer") else _NONE
    if not names:
        struct.refuse(f"{member} must be listed if {behavior} is {chosen}")
        return _NONE
    if chosen == "allViewerAndWhitelistCloudFront" and not all(
        name.startswith("cloudfront-") for name in names
    ):
        struct.refuse(f"{member} can name only CloudFront headers if {behavior} is {chosen}")
    return Select(_MODES[chosen], tuple(names))


def _legacy_headers(values: Struct, most: int) -> Select:
    names = values.texts("Headers")
    if names == ["*"]:
        return _ALL
    if "*" in names:
        values.refuse("Headers must list either names or nothing but *")
        return _ALL
    if len(names) > most:
        values.refuse(f"ForwardedValues can list {most} headers", "TooManyHeadersInForwardedValues")
    names = _header_names(values, names)
    return Select("whitelist", tuple(names)) if names else _NONE


def _legacy_cookies(cookies: Struct, most: int) -> Select:
    forward = cookies.text("Forward", "none", ("none", "whitelist", "all"))
    if forward == "all":
        return _ALL
    if forward != "whitelist":
        # Names left over from an earlier `whitelist` have no effect: CloudFront deletes them.
        return _NONE
    names = cookies.texts("WhitelistedNames")
    if not names:
        cookies.refuse("WhitelistedNames must be listed if Forward is whitelist", "InvalidForwardCookies")
    if len(names) > most:
        cookies.refuse(f"ForwardedValues can list {most} cookies", "TooManyCookieNamesInWhiteList")
    return Select("whitelist", tuple(names))


def _header_names(struct: Struct, names: list[str], *, exceptions: bool = False) -> list[str]:
    """The distinct names in lower case. Names that cannot be selected are problems, unless they are exceptions."""
    for name in names:
        if not TOKEN.fullmatch(name) or "*" in name:
            struct.refuse(f"{name!r} is not a header name")
        elif exceptions:
            continue
        elif name.lower() in _NEVER_SELECTED or name.lower().startswith("x-edge-"):
            struct.refuse(f"The header {name} cannot be forwarded or cached on")
    return list(_unique([name.lower() for name in names]))


def _all_except(names: list[str]) -> Select:
    return Select("allExcept", tuple(names)) if names else _ALL


def _without(select: Select, name: str) -> Select:
    if select.mode != "whitelist":
        return select
    names = tuple(each for each in select.names if each != name)
    return Select("whitelist", names) if names else _NONE


def _unique(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
