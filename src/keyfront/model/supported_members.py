"""What becomes of every member of a DistributionConfig: obeyed, refused, or accepted without effect.

Nothing is dropped in silence. A member stands in exactly one of the three tables below; a test holds them
against the API's own model, so a member that is new there fails the test until someone has decided.
`unobeyed` refuses what the second table names, what no table names, and lists whose Quantity is not their
length.

A path names members from the top, `[]` after a list's name its items. Both kinds of behavior are
`CacheBehavior`. An entry stands for all that lies below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyfront.model.config_reader import Config, Problem, problem, words

OBEYED = words(
    """
    Aliases[] DefaultRootObject Enabled Staging Logging.IncludeCookies
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
        "Keyfront speaks HTTP/1.1 to origins: OriginHttpVersion can only be http1.1",
    ),
    "Origins[].CustomOriginConfig.OriginMtlsConfig": (
        "InvalidArgument",
        "Keyfront has no client certificates for origins: OriginMtlsConfig cannot be used",
    ),
    "Origins[].VpcOriginConfig": (
        "InvalidArgument",
        "Keyfront has no VPC origins: name the origin with CustomOriginConfig",
    ),
    "OriginGroups[].SelectionCriteria": (
        "InvalidArgument",
        "Keyfront knows no media quality scores: SelectionCriteria can only be default",
    ),
    "CacheBehavior.TrustedSigners": (
        "TrustedSignerDoesNotExist",
        "Keyfront has no AWS accounts whose key pairs could be trusted: use TrustedKeyGroups",
    ),
    "CacheBehavior.SmoothStreaming": (
        "InvalidArgument",
        "Keyfront does not serve Microsoft Smooth Streaming: SmoothStreaming can only be false",
    ),
    "CacheBehavior.LambdaFunctionAssociations": (
        "InvalidLambdaFunctionAssociation",
        "Keyfront runs no Lambda@Edge functions",
    ),
    "CacheBehavior.FunctionAssociations": (
        "InvalidFunctionAssociation",
        "Keyfront runs no CloudFront Functions",
    ),
    "CacheBehavior.FieldLevelEncryptionId": (
        "NoSuchFieldLevelEncryptionConfig",
        "Keyfront has no field-level encryption",
    ),
    "CacheBehavior.RealtimeLogConfigArn": (
        "NoSuchRealtimeLogConfig",
        "Keyfront has no real-time log configurations: its edges write an access log of their own",
    ),
    "CacheBehavior.GrpcConfig": (
        "InvalidArgument",
        "Keyfront does not carry gRPC: GrpcConfig cannot be enabled",
    ),
    "WebACLId": ("InvalidWebACLId", "Keyfront has no AWS WAF: leave WebACLId empty"),
    "ContinuousDeploymentPolicyId": (
        "NoSuchContinuousDeploymentPolicy",
        "Keyfront has no continuous deployment: leave ContinuousDeploymentPolicyId empty",
    ),
    "AnycastIpListId": ("EntityNotFound", "Keyfront has no Anycast IP lists: leave AnycastIpListId empty"),
    "TenantConfig": (
        "InvalidArgument",
        "Keyfront has no multi-tenant distributions: TenantConfig cannot be used",
    ),
    "ConnectionMode": (
        "InvalidArgument",
        "Keyfront has no multi-tenant distributions: ConnectionMode can only be direct",
    ),
    "ViewerMtlsConfig": (
        "InvalidArgument",
        "Keyfront does not ask viewers for certificates: ViewerMtlsConfig cannot be used",
    ),
    "ConnectionFunctionAssociation": ("InvalidArgument", "Keyfront runs no connection functions"),
}
"""Members whose neglect would be unsafe or would deceive: the API's error code and what to say. Empty values,
false, and those of `HARMLESS` ask for nothing and pass."""

HARMLESS = {
    "Origins[].CustomOriginConfig.OriginHttpVersion": "http1.1",
    "OriginGroups[].SelectionCriteria": "default",
    "ConnectionMode": "direct",
}

WITHOUT_EFFECT: dict[str, str] = {
    "CallerReference": "kept and returned; it means nothing to an edge, CloudFront's or Keyfront's",
    "Comment": "kept and returned; it means nothing to an edge, CloudFront's or Keyfront's",
    "Origins[].CustomOriginConfig.IpAddressType": "an edge connects to whichever address its resolver gives",
    "Logging.Enabled": "an edge always writes its own access log",
    "Logging.Bucket": "logs are not delivered to a bucket",
    "Logging.Prefix": "logs are not delivered to a bucket",
    "PriceClass": "the edges are those that you run",
    "HttpVersion": "the listener decides which versions viewers can speak",
    "IsIPV6Enabled": "the listener decides which addresses viewers can reach; Keyfront answers no DNS",
    "ViewerCertificate": "certificates and TLS versions are the listener's",
}
"""Members that are kept and returned but change nothing at the edge, each with the reason."""


def unobeyed(config: Config) -> list[Problem]:
    """The problems of `config` that need no knowledge beyond the three tables."""
    problems: list[Problem] = []
    _walk(config, "", problems)
    return problems


def canonical(path: str) -> str:
    """The path under which the tables name what stands at `path`."""
    for prefix in ("DefaultCacheBehavior", "CacheBehaviors[]"):
        if path.startswith(prefix):
            return "CacheBehavior" + path[len(prefix) :]
    return path


def _above(paths: frozenset[str]) -> frozenset[str]:
    """All structures and lists on the way to `paths`."""
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
        if _asks_for_something(value) and value != HARMLESS.get(path):
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
    """A member that this version has no rule for; a newer client or botocore may know it."""
    return problem(
        "InvalidArgument", f"The parameter {at} is not known to this version of Keyfront: leave it out."
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


def _asks_for_something(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_asks_for_something(member) for member in value.values())
    if isinstance(value, list | tuple):
        return len(value) > 0
    return bool(value)
