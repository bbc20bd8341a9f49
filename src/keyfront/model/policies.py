"""Completion and validation of the three kinds of policies.

Lists in a config have two shapes: {Quantity, Items}, and a choice with such a list ({HeaderBehavior, Headers}). What an
edge could not apply (TTLs out of order, invalid names, a CORS section that browsers would reject) is refused when the
policy is compiled (`model/forwarding.py`, `model/response_headers.py`). This module refuses what CloudFront does not
accept although an edge could apply it, and whatever exceeds a quota. Sources: cloudfront-semantics §3.3, §5.4, §5.7,
§5.12, §5.15, and CloudFront's messages as reported by users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from keyfront.model.defaults import DEFAULT_TTL, MAX_TTL, quantity_and_items, value_or_default
from keyfront.model.kinds import Quotas
from keyfront.model.validate import Problems, refusal

Config = Mapping[str, Any]

# ---- completing


def complete_cache_policy(config: Config) -> dict[str, Any]:
    """A CachePolicyConfig as CloudFront returns it. Idempotent, like the functions of `defaults.py`."""
    key = config.get("ParametersInCacheKeyAndForwardedToOrigin") or {}
    lowest = config["MinTTL"]
    usual = value_or_default(config, "DefaultTTL", max(DEFAULT_TTL, lowest))
    return {
        "Comment": config.get("Comment") or "",
        "Name": config["Name"],
        "DefaultTTL": usual,
        "MaxTTL": value_or_default(config, "MaxTTL", max(MAX_TTL, usual)),
        "MinTTL": lowest,
        "ParametersInCacheKeyAndForwardedToOrigin": {
            "EnableAcceptEncodingGzip": value_or_default(key, "EnableAcceptEncodingGzip", False),
            "EnableAcceptEncodingBrotli": value_or_default(key, "EnableAcceptEncodingBrotli", False),
            **_selections(key),
        },
    }


def complete_origin_request_policy(config: Config) -> dict[str, Any]:
    """The same for an OriginRequestPolicyConfig."""
    return {"Comment": config.get("Comment") or "", "Name": config["Name"], **_selections(config)}


_CHOICES = (
    ("HeadersConfig", "HeaderBehavior", "Headers"),
    ("CookiesConfig", "CookieBehavior", "Cookies"),
    ("QueryStringsConfig", "QueryStringBehavior", "QueryStrings"),
)


def _selections(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for member, behavior, names in _CHOICES:
        selection = config.get(member) or {}
        found[member] = {behavior: selection.get(behavior) or "none"}
        if items := _items(selection.get(names)):
            found[member][names] = quantity_and_items(items)
    return found


def complete_response_headers_policy(config: Config) -> dict[str, Any]:
    """The same for a ResponseHeadersPolicyConfig. Absent sections stay absent."""
    found: dict[str, Any] = {"Comment": config.get("Comment") or "", "Name": config["Name"]}
    if (cors := config.get("CorsConfig")) is not None:
        found["CorsConfig"] = _cors(cors)
    if (security := config.get("SecurityHeadersConfig")) is not None:
        found["SecurityHeadersConfig"] = _security(security)
    if (timing := config.get("ServerTimingHeadersConfig")) is not None:
        found["ServerTimingHeadersConfig"] = {
            "Enabled": timing["Enabled"],
            "SamplingRate": float(value_or_default(timing, "SamplingRate", 0.0)),
        }
    for member in ("CustomHeadersConfig", "RemoveHeadersConfig"):
        if (headers := config.get(member)) is not None:
            found[member] = quantity_and_items(dict(item) for item in _items(headers))
    return found


def _cors(config: Config) -> dict[str, Any]:
    found = {
        member: quantity_and_items(_items(config.get(member)))
        for member in (
            "AccessControlAllowOrigins",
            "AccessControlAllowHeaders",
            "AccessControlAllowMethods",
        )
    }
    found["AccessControlAllowCredentials"] = config["AccessControlAllowCredentials"]
    found["AccessControlExposeHeaders"] = quantity_and_items(_items(config.get("AccessControlExposeHeaders")))
    if config.get("AccessControlMaxAgeSec") is not None:
        found["AccessControlMaxAgeSec"] = config["AccessControlMaxAgeSec"]
    found["OriginOverride"] = config["OriginOverride"]
    return found


def _security(config: Config) -> dict[str, Any]:
    found = {member: dict(section) for member, section in config.items() if section is not None}
    if "XSSProtection" in found:
        found["XSSProtection"].setdefault("ModeBlock", False)
        if not found["XSSProtection"].get("ReportUri"):
            found["XSSProtection"].pop("ReportUri", None)
    if "StrictTransportSecurity" in found:
        found["StrictTransportSecurity"].setdefault("IncludeSubdomains", False)
        found["StrictTransportSecurity"].setdefault("Preload", False)
    return found


# ---- checking

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_QUERY_STRING = re.compile(r"[!-~]+")

_ONLY_ORIGIN_REQUEST = frozenset(
    {
        "cloudfront-viewer-address",
        "cloudfront-viewer-asn",
        "cloudfront-viewer-ja3-fingerprint",
        "cloudfront-viewer-ja4-fingerprint",
        "cloudfront-viewer-tls",
    }
)
"""Headers that differ for nearly every viewer, so that no cache key can include them (§5.15)."""


def check_cache_policy(config: Config, quotas: Quotas) -> Problems:
    """The problems of a complete CachePolicyConfig."""
    yield from _common(config)
    low, usual, high = (config[member] for member in ("MinTTL", "DefaultTTL", "MaxTTL"))
    if not low <= usual <= high:  # InvalidTTLOrder is for distributions only
        yield refusal(
            "InvalidArgument",
            f"MinTTL {low}, DefaultTTL {usual}, and MaxTTL {high} must not decrease in this order.",
        )
    key = config["ParametersInCacheKeyAndForwardedToOrigin"]
    yield from _names(key, "CachePolicy", quotas)
    encodings = ("EnableAcceptEncodingGzip", "EnableAcceptEncodingBrotli")
    if config["MaxTTL"] == 0:
        for member in encodings:
            if key[member]:
                yield refusal(
                    "InvalidArgument", f"The parameter {member} is invalid for policy with caching disabled."
                )
        for member, behavior, _ in _CHOICES:
            if key[member][behavior] != "none":
                yield refusal(
                    "InvalidArgument",
                    f"The parameter {behavior} is invalid for policy with caching disabled.",
                )
    for name in _items(key["HeadersConfig"].get("Headers")):
        if name.lower() in _ONLY_ORIGIN_REQUEST:
            yield refusal("InvalidArgument", f"The parameter Headers contains {name} that is not allowed.")
        if name.lower() == "accept-encoding" and any(key[member] for member in encodings):
            yield refusal(
                "InvalidArgument",
                f"The parameter Headers contains {name} that is not allowed with {' or '.join(encodings)}.",
            )


def check_origin_request_policy(config: Config, quotas: Quotas) -> Problems:
    """The problems of a complete OriginRequestPolicyConfig."""
    yield from _common(config)
    yield from _names(config, "OriginRequestPolicy", quotas)
    headers = config["HeadersConfig"]
    for name in _items(headers.get("Headers")):
        if headers["HeaderBehavior"] == "whitelist" and name.lower() == "authorization":
            yield refusal("InvalidArgument", f"The parameter Headers contains {name} that is not allowed.")


def check_response_headers_policy(config: Config, quotas: Quotas) -> Problems:
    """The problems of a complete ResponseHeadersPolicyConfig."""
    yield from _common(config)
    limits = quotas.policy_limits
    custom = _items(config.get("CustomHeadersConfig"))
    removed = _items(config.get("RemoveHeadersConfig"))
    if len(custom) > limits.custom_headers:
        yield refusal("TooManyCustomHeadersInResponseHeadersPolicy")
    if len(removed) > limits.remove_headers:
        yield refusal("TooManyRemoveHeadersInResponseHeadersPolicy")
    security = config.get("SecurityHeadersConfig") or {}
    if len((security.get("ContentSecurityPolicy") or {}).get("ContentSecurityPolicy", "")) > (
        limits.content_security_policy
    ):
        yield refusal("TooLongCSPInResponseHeadersPolicy")
    for member, value in (config.get("CorsConfig") or {}).items():
        items = _items(value) if isinstance(value, Mapping) else []
        if len(items) > limits.cors_items:
            yield refusal("InvalidArgument", f"The parameter {member} can list {limits.cors_items} items.")
        if any(len(item) > limits.header_name for item in items):
            yield refusal(
                "InvalidArgument",
                f"An item of the parameter {member} can have {limits.header_name} characters.",
            )
    for header in (*custom, *removed):
        if len(header["Header"]) > limits.header_name:
            yield refusal(
                "InvalidArgument", f"The name of a header can have {limits.header_name} characters."
            )
        if len(header.get("Value", "")) > limits.header_value:
            yield refusal(
                "InvalidArgument", f"The value of a header can have {limits.header_value} characters."
            )


def quantities(value: Any, at: str) -> Problems:
    """InconsistentQuantities for each list in a config, at any depth, whose Quantity differs from its length.

    :param at: the config's location, for messages.
    """
    if isinstance(value, Mapping):
        items = value.get("Items") or ()
        quantity = value.get("Quantity")
        if quantity is not None and quantity != len(items):
            yield refusal(
                "InconsistentQuantities",
                f"The value of Quantity and the size of Items don't match: {quantity} and {len(items)} ({at}).",
            )
        for member, inner in value.items():
            yield from quantities(inner, at if member == "Items" else f"{at}.{member}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from quantities(item, at)


def _common(config: Config) -> Problems:
    if not _NAME.fullmatch(config["Name"]):
        yield refusal(
            "InvalidArgument",
            "The parameter Name must have 1 to 128 characters: letters, digits, hyphens, and underscores.",
        )
    if len(config["Comment"]) > 128:
        yield refusal("InvalidArgument", "The parameter Comment can have 128 characters.")


def _names(config: Config, kind: str, quotas: Quotas) -> Problems:
    limits = quotas.policy_limits
    length = 0
    for member, _, names in _CHOICES:
        items = _items(config[member].get(names))
        if len(items) > limits.names:
            yield refusal(f"TooMany{names}In{kind}")
        if len(set(items)) != len(items):
            yield refusal("InvalidArgument", f"The parameter {names} lists a name more than once.")
        length += sum(len(name) for name in items)
    if length > limits.name_length:
        yield refusal(
            "InvalidArgument",
            f"The names of headers, cookies, and query strings can have {limits.name_length} characters in total.",
        )
    for name in _items(config["CookiesConfig"].get("Cookies")):
        if re.search(r"[^!-~]|[=;,*?\"\\]", name):
            yield refusal(
                "InvalidArgument", f"The parameter Cookies contains {name!r}, which is not a cookie name."
            )
    for name in _items(config["QueryStringsConfig"].get("QueryStrings")):
        if not _QUERY_STRING.fullmatch(name) or re.search("[&=#]", name):
            yield refusal(
                "InvalidArgument",
                f"The parameter QueryStrings contains {name!r}, which is not a parameter name.",
            )


# ---- shared


def _items(config: Config | None) -> list[Any]:
    return list((config or {}).get("Items") or ())
