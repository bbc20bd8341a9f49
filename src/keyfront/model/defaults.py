"""Completion of configs with all of CloudFront's defaults (cloudfront-semantics §7.5).

A config is completed when it is accepted, so that the stored, the compiled, and the returned config are the same, and a
returned config can be sent back unchanged. The functions here add missing members and drop meaningless ones. They
refuse nothing (`validate.py` and `compile.py` do). Each is idempotent.

Where the id or name of another resource is expected, an empty string means "unset": Go clients send it (§7.1). The
order of members is that of the API's model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Config = Mapping[str, Any]

_METHODS = ("HEAD", "DELETE", "POST", "GET", "OPTIONS", "PUT", "PATCH")
"""The order in which CloudFront lists methods."""

DEFAULT_TTL = 86_400
MAX_TTL = 31_536_000
"""Seconds. A minimum or default TTL above them raises them (§5.4)."""


def public_key(config: Config) -> dict[str, Any]:
    return {
        "CallerReference": config["CallerReference"],
        "Name": config["Name"],
        # Unchanged, byte for byte: to Terraform any difference is a new key, which replaces this one (§3.1).
        "EncodedKey": config["EncodedKey"],
        "Comment": config.get("Comment") or "",
    }


def key_group(config: Config) -> dict[str, Any]:
    return {
        "Name": config["Name"],
        "Items": list(config.get("Items") or ()),
        "Comment": config.get("Comment") or "",
    }


def origin_access_control(config: Config) -> dict[str, Any]:
    return {
        "Name": config["Name"],
        "Description": config.get("Description") or "",
        "SigningProtocol": config["SigningProtocol"],
        "SigningBehavior": config["SigningBehavior"],
        "OriginAccessControlOriginType": config["OriginAccessControlOriginType"],
    }


def origin_access_identity(config: Config) -> dict[str, Any]:
    return {"CallerReference": config["CallerReference"], "Comment": config["Comment"]}


def invalidation_batch(batch: Config) -> dict[str, Any]:
    return {"Paths": _same(batch["Paths"]), "CallerReference": batch["CallerReference"]}


def distribution(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {
        "CallerReference": config["CallerReference"],
        "Aliases": _same(config.get("Aliases")),
        "DefaultRootObject": config.get("DefaultRootObject") or "",
        "Origins": _each(config.get("Origins"), _origin),
        "OriginGroups": _each(config.get("OriginGroups"), _origin_group),
        "DefaultCacheBehavior": _behavior(config["DefaultCacheBehavior"]),
        "CacheBehaviors": _each(config.get("CacheBehaviors"), _behavior),
        "CustomErrorResponses": _each(config.get("CustomErrorResponses"), _error_response),
        "Comment": config.get("Comment") or "",
        "Logging": _logging(config.get("Logging") or {}),
        "PriceClass": config.get("PriceClass") or "PriceClass_All",
        "Enabled": config["Enabled"],
        "ViewerCertificate": _viewer_certificate(config.get("ViewerCertificate") or {}),
        "Restrictions": {"GeoRestriction": _geo(config.get("Restrictions") or {})},
        "WebACLId": config.get("WebACLId") or "",
        "HttpVersion": config.get("HttpVersion") or "http2",
        "IsIPV6Enabled": value_or_default(config, "IsIPV6Enabled", True),
        "ContinuousDeploymentPolicyId": config.get("ContinuousDeploymentPolicyId") or "",
        "Staging": value_or_default(config, "Staging", False),
    }
    return found | _given(config, "ConnectionMode") | _given(config, "CacheTagConfig")


def _origin(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {
        "Id": config["Id"],
        "DomainName": config["DomainName"],
        "OriginPath": config.get("OriginPath") or "",
        "CustomHeaders": _each(config.get("CustomHeaders"), dict),
    }
    if config.get("S3OriginConfig") is not None:
        s3 = config["S3OriginConfig"]
        found["S3OriginConfig"] = {"OriginAccessIdentity": s3.get("OriginAccessIdentity") or ""}
        found["S3OriginConfig"] |= _given(s3, "OriginReadTimeout")
    if config.get("CustomOriginConfig") is not None:
        found["CustomOriginConfig"] = _custom_origin(config["CustomOriginConfig"])
    found |= {
        "ConnectionAttempts": value_or_default(config, "ConnectionAttempts", 3),
        "ConnectionTimeout": value_or_default(config, "ConnectionTimeout", 10),
    }
    if config.get("ResponseCompletionTimeout"):  # Go clients send 0 for unset
        found["ResponseCompletionTimeout"] = config["ResponseCompletionTimeout"]
    shield = config.get("OriginShield") or {}
    found["OriginShield"] = {"Enabled": value_or_default(shield, "Enabled", False)}
    found["OriginShield"] |= _given(shield, "OriginShieldRegion") if found["OriginShield"]["Enabled"] else {}
    found["OriginAccessControlId"] = config.get("OriginAccessControlId") or ""
    return found


def _custom_origin(config: Config) -> dict[str, Any]:
    return {
        "HTTPPort": config["HTTPPort"],
        "HTTPSPort": config["HTTPSPort"],
        "OriginProtocolPolicy": config["OriginProtocolPolicy"],
        "OriginSslProtocols": _same(config.get("OriginSslProtocols") or {"Items": ["TLSv1.2"]}),
        "OriginReadTimeout": value_or_default(config, "OriginReadTimeout", 30),
        "OriginKeepaliveTimeout": value_or_default(config, "OriginKeepaliveTimeout", 5),
        **_given(config, "IpAddressType"),
        **_given(config, "OriginHttpVersion"),
    }


def _origin_group(config: Config) -> dict[str, Any]:
    return {
        "Id": config["Id"],
        "FailoverCriteria": {"StatusCodes": _same(config["FailoverCriteria"]["StatusCodes"])},
        "Members": _each(config["Members"], dict),
        **_given(config, "SelectionCriteria"),
    }


def _behavior(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "PathPattern" in config:
        found["PathPattern"] = config["PathPattern"]
    found |= {
        "TargetOriginId": config["TargetOriginId"],
        "TrustedSigners": _switched(config.get("TrustedSigners")),
        "TrustedKeyGroups": _switched(config.get("TrustedKeyGroups")),
        "ViewerProtocolPolicy": config["ViewerProtocolPolicy"],
        "AllowedMethods": _allowed_methods(config.get("AllowedMethods") or {}),
        "SmoothStreaming": value_or_default(config, "SmoothStreaming", False),
        "Compress": value_or_default(config, "Compress", False),
        "LambdaFunctionAssociations": _each(config.get("LambdaFunctionAssociations"), dict),
        "FunctionAssociations": _each(config.get("FunctionAssociations"), dict),
        "FieldLevelEncryptionId": config.get("FieldLevelEncryptionId") or "",
    }
    for member in ("CachePolicyId", "OriginRequestPolicyId", "ResponseHeadersPolicyId"):
        if config.get(member):
            found[member] = config[member]
    found |= _given(config, "GrpcConfig")
    if config.get("ForwardedValues") is not None:
        found["ForwardedValues"] = _forwarded_values(config["ForwardedValues"])
    if "CachePolicyId" not in found:
        lowest = value_or_default(config, "MinTTL", 0)
        usual = value_or_default(config, "DefaultTTL", max(DEFAULT_TTL, lowest))
        found |= {
            "MinTTL": lowest,
            "DefaultTTL": usual,
            "MaxTTL": value_or_default(config, "MaxTTL", max(MAX_TTL, usual)),
        }
    else:  # the policy's TTLs apply; Go clients send zeros
        found |= {ttl: config[ttl] for ttl in ("MinTTL", "DefaultTTL", "MaxTTL") if config.get(ttl)}
    return found


def _allowed_methods(config: Config) -> dict[str, Any]:
    cached = (config.get("CachedMethods") or {}).get("Items") or ("GET", "HEAD")
    return {
        **quantity_and_items(sorted(config.get("Items") or ("GET", "HEAD"), key=_rank)),
        "CachedMethods": quantity_and_items(sorted(cached, key=_rank)),
    }


def _rank(method: str) -> int:
    return _METHODS.index(method) if method in _METHODS else len(_METHODS)


def _forwarded_values(config: Config) -> dict[str, Any]:
    cookies = config["Cookies"]
    found: dict[str, Any] = {"Forward": cookies["Forward"]}
    if cookies["Forward"] == "whitelist":  # otherwise CloudFront deletes the names
        found["WhitelistedNames"] = _same(cookies.get("WhitelistedNames"))
    return {
        "QueryString": config["QueryString"],
        "Cookies": found,
        "Headers": _same(config.get("Headers")),
        "QueryStringCacheKeys": _same(config.get("QueryStringCacheKeys")),
    }


def _error_response(config: Config) -> dict[str, Any]:
    return {
        "ErrorCode": config["ErrorCode"],
        "ResponsePagePath": config.get("ResponsePagePath") or "",
        "ResponseCode": config.get("ResponseCode") or "",
        "ErrorCachingMinTTL": value_or_default(config, "ErrorCachingMinTTL", 10),
    }


def _logging(config: Config) -> dict[str, Any]:
    enabled = value_or_default(config, "Enabled", False)
    return {
        "Enabled": enabled,
        "IncludeCookies": value_or_default(config, "IncludeCookies", False),
        # "If you specify false for Enabled […] the values are automatically deleted" (the model).
        "Bucket": (config.get("Bucket") or "") if enabled else "",
        "Prefix": (config.get("Prefix") or "") if enabled else "",
    }


def _viewer_certificate(config: Config) -> dict[str, Any]:
    """Certificate and CertificateSource are the deprecated form; they are always returned, and apply if they are given
    alone."""
    source, certificate = config.get("CertificateSource"), config.get("Certificate") or ""
    iam = config.get("IAMCertificateId") or (certificate if source == "iam" else "")
    acm = config.get("ACMCertificateArn") or (certificate if source == "acm" else "")
    own = {name: value for name, value in (("IAMCertificateId", iam), ("ACMCertificateArn", acm)) if value}
    if config.get("CloudFrontDefaultCertificate") or not own:
        return {
            "CloudFrontDefaultCertificate": True,
            **own,  # validate.py refuses both together
            "MinimumProtocolVersion": "TLSv1",  # whatever was requested (the model)
            "CertificateSource": "cloudfront",
        }
    return {
        "CloudFrontDefaultCertificate": False,
        **own,
        **_given(config, "SSLSupportMethod"),
        "MinimumProtocolVersion": config.get("MinimumProtocolVersion") or "TLSv1",
        "Certificate": acm or iam,
        "CertificateSource": "acm" if acm else "iam",
    }


def _geo(restrictions: Config) -> dict[str, Any]:
    geo = restrictions.get("GeoRestriction") or {}
    return {"RestrictionType": geo.get("RestrictionType") or "none", **_same(geo)}


def _switched(config: Config | None) -> dict[str, Any]:
    """TrustedSigners and TrustedKeyGroups."""
    config = config or {}
    return {"Enabled": value_or_default(config, "Enabled", False), **_same(config)}


def _same(config: Config | None) -> dict[str, Any]:
    """A {Quantity, Items} of plain values."""
    return quantity_and_items((config or {}).get("Items") or ())


def _each(config: Config | None, complete: Any) -> dict[str, Any]:
    """A {Quantity, Items} of structures, each completed."""
    return quantity_and_items(complete(item) for item in (config or {}).get("Items") or ())


def quantity_and_items(items: Iterable[Any]) -> dict[str, Any]:
    """A list as CloudFront's API writes it: {Quantity, Items}, without Items if there are none."""
    found = list(items)
    return {"Quantity": len(found), "Items": found} if found else {"Quantity": 0}


def value_or_default(config: Config, member: str, default: Any) -> Any:
    """The member's value, or `default` if it is missing or null."""
    value = config.get(member)
    return default if value is None else value


def _given(config: Config, member: str) -> dict[str, Any]:
    """The member, if it is neither absent nor empty."""
    value = config.get(member)
    return {} if value is None or value == "" else {member: value}
