"""The treatment of each member of a DistributionConfig: applied, refused, or accepted without effect.

No member is silently dropped. Each one is in exactly one of the three tables below. A test compares them with the API's
own model, so a new member fails the test until it is added to a table. `unobeyed` reports members of the second table,
members in no table, and lists whose Quantity differs from their length.

A path names members from the top; `[]` after a list's name stands for its items. Both kinds of behaviors are
`CacheBehavior`. An entry covers everything below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyfront.model.config_reader import Config, Problem, problem, words

OBEYED = words(
    """
    Aliases[] DefaultRootObject Enabled HttpVersion Staging Logging.Enabled
    Logging.Bucket Logging.Prefix Logging.IncludeCookies
    Origins[].Id Origins[].DomainName Origins[].OriginPath
    Origins[].CustomHeaders[].HeaderName Origins[].CustomHeaders[].HeaderValue
    Origins[].S3OriginConfig.OriginReadTimeout
    Origins[].S3OriginConfig.OriginAccessIdentity Origins[].OriginAccessControlId
    Origins[].CustomOriginConfig.HTTPPort Origins[].CustomOriginConfig.HTTPSPort
    Origins[].CustomOriginConfig.OriginProtocolPolicy Origins[].CustomOriginConfig.OriginSslProtocols[]
    Origins[].CustomOriginConfig.OriginReadTimeout Origins[].CustomOriginConfig.OriginKeepaliveTimeout
    Origins[].ConnectionAttempts Origins[].ConnectionTimeout Origins[].ResponseCompletionTimeout
    Origins[].OriginShield.Enabled Origins[].OriginShield.OriginShieldRegion
    OriginGroups[].Id OriginGroups[].FailoverCriteria.StatusCodes[] OriginGroups[].Members[].OriginId
    CacheBehavior.PathPattern CacheBehavior.TargetOriginId CacheBehavior.ViewerProtocolPolicy
    CacheBehavior.TrustedKeyGroups.Enabled CacheBehavior.TrustedKeyGroups[]
    CacheBehavior.AllowedMethods[] CacheBehavior.AllowedMethods.CachedMethods[]
    CacheBehavior.Compress CacheBehavior.MinTTL CacheBehavior.DefaultTTL CacheBehavior.MaxTTL
    CacheBehavior.CachePolicyId CacheBehavior.OriginRequestPolicyId CacheBehavior.ResponseHeadersPolicyId
    CacheBehavior.ForwardedValues.QueryString CacheBehavior.ForwardedValues.QueryStringCacheKeys[]
    CacheBehavior.ForwardedValues.Cookies.Forward CacheBehavior.ForwardedValues.Cookies.WhitelistedNames[]
    CacheBehavior.ForwardedValues.Headers[]
    CustomErrorResponses[].ErrorCode CustomErrorResponses[].ResponsePagePath
    CustomErrorResponses[].ResponseCode CustomErrorResponses[].ErrorCachingMinTTL
    Restrictions.GeoRestriction.RestrictionType Restrictions.GeoRestriction[]
    CacheTagConfig.HeaderName
    """
)

REFUSED: dict[str, tuple[str, str]] = {
    "Origins[].CustomOriginConfig.OriginHttpVersion": (
        "InvalidArgument",
        "Keyfront uses HTTP/1.1 to origins: OriginHttpVersion can only be http1.1",
    ),
    "Origins[].CustomOriginConfig.OriginMtlsConfig": (
        "InvalidArgument",
        "Keyfront does not support client certificates for origins: OriginMtlsConfig cannot be used",
    ),
    "Origins[].VpcOriginConfig": (
        "InvalidArgument",
        "Keyfront does not support VPC origins: use CustomOriginConfig",
    ),
    "OriginGroups[].SelectionCriteria": (
        "InvalidArgument",
        "Keyfront does not support media quality scores: SelectionCriteria can only be default",
    ),
    "CacheBehavior.TrustedSigners": (
        "TrustedSignerDoesNotExist",
        "Keyfront does not support AWS accounts as trusted signers: use TrustedKeyGroups",
    ),
    "CacheBehavior.SmoothStreaming": (
        "InvalidArgument",
        "Keyfront does not support Microsoft Smooth Streaming: SmoothStreaming can only be false",
    ),
    "CacheBehavior.LambdaFunctionAssociations": (
        "InvalidLambdaFunctionAssociation",
        "Keyfront does not support Lambda@Edge functions",
    ),
    "CacheBehavior.FunctionAssociations": (
        "InvalidFunctionAssociation",
        "Keyfront does not support CloudFront Functions",
    ),
    "CacheBehavior.FieldLevelEncryptionId": (
        "NoSuchFieldLevelEncryptionConfig",
        "Keyfront does not support field-level encryption",
    ),
    "CacheBehavior.RealtimeLogConfigArn": (
        "NoSuchRealtimeLogConfig",
        "Keyfront does not support real-time logs: its edges write their own access log",
    ),
    "CacheBehavior.GrpcConfig": (
        "InvalidArgument",
        "Keyfront does not support gRPC: GrpcConfig cannot be enabled",
    ),
    "WebACLId": ("InvalidWebACLId", "Keyfront does not support AWS WAF: leave WebACLId empty"),
    "ContinuousDeploymentPolicyId": (
        "NoSuchContinuousDeploymentPolicy",
        "Keyfront does not support continuous deployment: leave ContinuousDeploymentPolicyId empty",
    ),
    "AnycastIpListId": (
        "EntityNotFound",
        "Keyfront does not support Anycast IP lists: leave AnycastIpListId empty",
    ),
    "TenantConfig": (
        "InvalidArgument",
        "Keyfront does not support multi-tenant distributions: TenantConfig cannot be used",
    ),
    "ConnectionMode": (
        "InvalidArgument",
        "Keyfront does not support multi-tenant distributions: ConnectionMode can only be direct",
    ),
    "ViewerMtlsConfig": (
        "InvalidArgument",
        "Keyfront does not request client certificates from viewers: ViewerMtlsConfig cannot be used",
    ),
    "ConnectionFunctionAssociation": ("InvalidArgument", "Keyfront does not support connection functions"),
}
"""Members that would be unsafe or misleading to ignore: the API's error code, and the message. Empty values, false, and
the values in `HARMLESS` request nothing and are accepted."""

HARMLESS = {
    "Origins[].CustomOriginConfig.OriginHttpVersion": "http1.1",
    "OriginGroups[].SelectionCriteria": "default",
    "ConnectionMode": "direct",
}

WITHOUT_EFFECT: dict[str, str] = {
    "CallerReference": "stored and returned; it has no meaning at the edge, as at CloudFront",
    "Comment": "stored and returned; it has no meaning at the edge, as at CloudFront",
    "Origins[].CustomOriginConfig.IpAddressType": "an edge connects to any address that its resolver returns",
    "PriceClass": "you decide where your edges are",
    "IsIPV6Enabled": "the listener determines the addresses that viewers can reach; Keyfront does not serve DNS",
    "ViewerCertificate": "the listener determines certificates and TLS versions",
}
"""Members that are stored and returned, but have no effect at the edge, each with the reason."""


def unobeyed(config: Config) -> list[Problem]:
    """The problems of `config` that follow from the three tables."""
    problems: list[Problem] = []
    _walk(config, "", problems)
    return problems


def canonical(path: str) -> str:
    """The path in the tables for the member at `path`."""
    for prefix in ("DefaultCacheBehavior", "CacheBehaviors[]"):
        if path.startswith(prefix):
            return "CacheBehavior" + path[len(prefix) :]
    return path


def _above(paths: frozenset[str]) -> frozenset[str]:
    """All structures and lists above `paths`."""
    found = {"", "CacheBehaviors", "DefaultCacheBehavior"}
    for path in paths:
        steps = path.split(".")
        for depth in range(1, len(steps) + 1):
            prefix = ".".join(steps[:depth])
            if prefix.endswith("[]"):
                found.add(prefix.removesuffix("[]"))
            if depth < len(steps):
                found.add(prefix)
    return frozenset(found)


_STRUCTURES = _above(OBEYED | REFUSED.keys() | WITHOUT_EFFECT.keys())


def _walk(value: Any, at: str, problems: list[Problem]) -> None:
    path = canonical(at)
    refusal = REFUSED.get(path)
    if refusal is not None:
        if _requests_something(value) and value != HARMLESS.get(path):
            problems.append(problem(refusal[0], f"{refusal[1]} ({at})."))
    elif path in WITHOUT_EFFECT or value is None:
        return
    elif isinstance(value, Mapping):
        if path not in _STRUCTURES:
            problems.append(_unknown(at))
            return
        items = value.get("Items")
        if "Quantity" in value or items is not None:
            _count(value.get("Quantity"), items, at, problems)
        for name, member in value.items():
            if name == "Items" and isinstance(member, list | tuple):
                for item in member:
                    _walk(item, f"{at}[]", problems)
            elif name != "Quantity":
                _walk(member, f"{at}.{name}" if at else str(name), problems)
    elif path not in OBEYED:
        problems.append(_unknown(at))


def _unknown(at: str) -> Problem:
    """The problem of a member that is in no table. A newer client or botocore may have it."""
    return problem(
        "InvalidArgument", f"The parameter {at} is not known to this version of Keyfront: remove it."
    )


def _count(quantity: Any, items: Any, at: str, problems: list[Problem]) -> None:
    length = len(items) if isinstance(items, list | tuple) else 0
    if quantity is not None and quantity != length:
        problems.append(
            problem(
                "InconsistentQuantities",
                f"Quantity and the number of Items do not match: {quantity!r} and {length} ({at}).",
            )
        )


def _requests_something(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_requests_something(member) for member in value.values())
    if isinstance(value, list | tuple):
        return len(value) > 0
    return bool(value)
