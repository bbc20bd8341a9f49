"""A valid call of every implemented operation, with the resources that must exist before it.

The tests that iterate over all operations take their calls from here, so an operation without one fails them:
`CONFIGS` covers the six verbs of each regular kind, `CALLS` the irregular operations by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from keyfront.model.kinds import KINDS, Kind
from tests.control.harness import many, minimal, trusting
from tests.keys import ec_pem

Output = dict[str, Any]
Params = dict[str, Any]

MANAGED_CACHE_POLICY = "658327ea-f89d-4fab-a63d-7e88639e58f6"
MANAGED_ORIGIN_REQUEST_POLICY = "216adef6-5c7f-47e4-b989-5492eafa07d3"
MANAGED_RESPONSE_HEADERS_POLICY = "67f7725c-6f97-4210-82d7-5512b31e9d03"


class World:
    """Creates what calls need, through `call(operation, **params)`; `obey()` makes an edge obey the published
    snapshot. With `reuse`, calls that only read name the first resource of their kind, in place of a new one each."""

    def __init__(
        self, call: Callable[..., Output], obey: Callable[[], Any], prefix: str = "w", *, reuse: bool = False
    ) -> None:
        self.call = call
        self.obey = obey
        self._prefix = prefix
        self._count = 0
        self._readable: dict[str, str] | None = {} if reuse else None

    def name(self) -> str:
        """A name that has not been used yet."""
        self._count += 1
        return f"{self._prefix}-{self._count}"

    def make(self, kind: str, **changes: Any) -> Output:
        """The output of a Create operation; the resource itself is under the kind's name."""
        config = CONFIGS[kind](self) | changes
        return self.call(f"Create{kind}", **{f"{kind}Config": config})

    def id(self, kind: str, **changes: Any) -> str:
        return str(self.make(kind, **changes)[kind]["Id"])

    def readable(self, kind: str) -> str:
        """The id of a resource that no call changes."""
        if self._readable is None:
            return self.id(kind)
        if kind not in self._readable:
            self._readable[kind] = self.id(kind)
        return self._readable[kind]

    def distribution(self, **changes: Any) -> Output:
        found: Output = self.make("Distribution", **changes)["Distribution"]
        return found


# ---- the configs of the regular kinds: each with as many members as are allowed together


def public_key(world: World) -> Params:
    return {
        "CallerReference": world.name(),
        "Name": world.name(),
        "EncodedKey": ec_pem(),
        "Comment": "a & b <é>",
    }


def key_group(world: World) -> Params:
    keys = [world.id("PublicKey"), world.id("PublicKey")]
    return {"Name": world.name(), "Items": keys, "Comment": "two keys"}


def distribution(world: World) -> Params:
    """Every member that edges obey, and those that are accepted without effect."""
    name = world.name()
    behavior = {
        "TargetOriginId": "group",
        "TrustedKeyGroups": trusting(world.id("KeyGroup")),
        "ViewerProtocolPolicy": "redirect-to-https",
        "AllowedMethods": many("GET", "HEAD", "OPTIONS") | {"CachedMethods": many("GET", "HEAD")},
        "Compress": True,
        "ForwardedValues": {
            "QueryString": True,
            "QueryStringCacheKeys": many("a", "b"),
            "Cookies": {"Forward": "whitelist", "WhitelistedNames": many("session", "lang-*")},
            "Headers": many("Accept-Language", "Origin"),
        },
        "MinTTL": 1,
        "DefaultTTL": 60,
        "MaxTTL": 3600,
    }
    custom = {
        "Id": "app",
        "DomainName": "app.example.com",
        "OriginPath": "/live",
        "CustomHeaders": many({"HeaderName": "X-From", "HeaderValue": "edge & more"}),
        "CustomOriginConfig": {
            "HTTPPort": 8080,
            "HTTPSPort": 8443,
            "OriginProtocolPolicy": "match-viewer",
            "OriginSslProtocols": many("TLSv1.1", "TLSv1.2"),
            "OriginReadTimeout": 10,
            "OriginKeepaliveTimeout": 7,
        },
        "ConnectionAttempts": 2,
        "ConnectionTimeout": 4,
    }
    spare = {
        "Id": "spare",
        "DomainName": "bucket.s3.eu-central-1.amazonaws.com",
        "S3OriginConfig": {"OriginAccessIdentity": ""},
    }
    return {
        "CallerReference": name,
        "Aliases": many(f"{name}.example.com", f"*.{name}.example.com"),
        "DefaultRootObject": "index.html",
        "Origins": many(custom, spare),
        "OriginGroups": many(
            {
                "Id": "group",
                "FailoverCriteria": {"StatusCodes": many(502, 404)},
                "Members": many({"OriginId": "app"}, {"OriginId": "spare"}),
            }
        ),
        "DefaultCacheBehavior": behavior,
        "CacheBehaviors": many(
            {
                "PathPattern": "/docs/*",
                "TargetOriginId": "app",
                "ViewerProtocolPolicy": "https-only",
                "AllowedMethods": many("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"),
                "CachePolicyId": MANAGED_CACHE_POLICY,
                "OriginRequestPolicyId": MANAGED_ORIGIN_REQUEST_POLICY,
                "ResponseHeadersPolicyId": MANAGED_RESPONSE_HEADERS_POLICY,
            }
        ),
        "CustomErrorResponses": many(
            {
                "ErrorCode": 404,
                "ResponsePagePath": "/404.html",
                "ResponseCode": "200",
                "ErrorCachingMinTTL": 5,
            }
        ),
        "Comment": "all of it",
        "Logging": {
            "Enabled": True,
            "IncludeCookies": True,
            "Bucket": "logs.s3.amazonaws.com",
            "Prefix": "x/",
        },
        "PriceClass": "PriceClass_100",
        "Enabled": True,
        "ViewerCertificate": {
            "ACMCertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/0123abcd",
            "SSLSupportMethod": "sni-only",
            "MinimumProtocolVersion": "TLSv1.2_2021",
        },
        "Restrictions": {"GeoRestriction": {"RestrictionType": "blacklist"} | many("KP", "IR")},
        "HttpVersion": "http2and3",
        "IsIPV6Enabled": False,
    }


def cache_policy(world: World) -> Params:
    return {
        "Name": world.name(),
        "Comment": "three of each",
        "DefaultTTL": 60,
        "MaxTTL": 3600,
        "MinTTL": 1,
        "ParametersInCacheKeyAndForwardedToOrigin": {
            "EnableAcceptEncodingGzip": True,
            "EnableAcceptEncodingBrotli": True,
            "HeadersConfig": {"HeaderBehavior": "whitelist", "Headers": many("Origin", "X-A", "X-B")},
            "CookiesConfig": {"CookieBehavior": "allExcept", "Cookies": many("a", "b")},
            "QueryStringsConfig": {"QueryStringBehavior": "whitelist", "QueryStrings": many("page", "size")},
        },
    }


def origin_request_policy(world: World) -> Params:
    return {
        "Name": world.name(),
        "Comment": "",
        "HeadersConfig": {
            "HeaderBehavior": "allViewerAndWhitelistCloudFront",
            "Headers": many("CloudFront-Viewer-Country"),
        },
        "CookiesConfig": {"CookieBehavior": "whitelist", "Cookies": many("a")},
        "QueryStringsConfig": {"QueryStringBehavior": "all"},
    }


def response_headers_policy(world: World) -> Params:
    return {
        "Name": world.name(),
        "Comment": "much",
        "CorsConfig": {
            "AccessControlAllowOrigins": many("https://example.com", "*.example.org"),
            "AccessControlAllowHeaders": many("X-A"),
            "AccessControlAllowMethods": many("GET", "HEAD"),
            "AccessControlAllowCredentials": False,
            "AccessControlExposeHeaders": many("X-B"),
            "AccessControlMaxAgeSec": 600,
            "OriginOverride": True,
        },
        "SecurityHeadersConfig": {
            "XSSProtection": {"Override": True, "Protection": True, "ModeBlock": True},
            "FrameOptions": {"Override": True, "FrameOption": "DENY"},
            "ReferrerPolicy": {"Override": False, "ReferrerPolicy": "same-origin"},
            "ContentSecurityPolicy": {"Override": True, "ContentSecurityPolicy": "default-src 'self'"},
            "ContentTypeOptions": {"Override": True},
            "StrictTransportSecurity": {
                "Override": True,
                "IncludeSubdomains": True,
                "Preload": False,
                "AccessControlMaxAgeSec": 63072000,
            },
        },
        "ServerTimingHeadersConfig": {"Enabled": True, "SamplingRate": 12.5},
        "CustomHeadersConfig": many({"Header": "X-C", "Value": "c", "Override": False}),
        "RemoveHeadersConfig": many({"Header": "X-Powered-By"}),
    }


def origin_access_control(world: World) -> Params:
    return {
        "Name": world.name(),
        "Description": "signs for a bucket",
        "SigningProtocol": "sigv4",
        "SigningBehavior": "always",
        "OriginAccessControlOriginType": "s3",
    }


def origin_access_identity(world: World) -> Params:
    return {"CallerReference": world.name(), "Comment": "reads a bucket"}


CONFIGS: dict[str, Callable[[World], Params]] = {
    "PublicKey": public_key,
    "KeyGroup": key_group,
    "Distribution": distribution,
    "CachePolicy": cache_policy,
    "OriginRequestPolicy": origin_request_policy,
    "ResponseHeadersPolicy": response_headers_policy,
    "OriginAccessControl": origin_access_control,
    "CloudFrontOriginAccessIdentity": origin_access_identity,
}


# ---- the six verbs


def _create(world: World, kind: Kind) -> Params:
    return {kind.config: CONFIGS[kind.name](world)}


def _named(world: World, kind: Kind) -> Params:
    return {"Id": world.readable(kind.name)}


def _update(world: World, kind: Kind) -> Params:
    made = world.make(kind.name)
    config = copy.deepcopy(made[kind.name][kind.config])
    text = next(member for member in ("Comment", "Description") if member in config)
    return {"Id": made[kind.name]["Id"], "IfMatch": made["ETag"], kind.config: config | {text: "changed"}}


def _delete(world: World, kind: Kind) -> Params:
    made = world.make(kind.name, **({"Enabled": False} if kind.name == "Distribution" else {}))
    world.obey()
    return {"Id": made[kind.name]["Id"], "IfMatch": made["ETag"]}


def _list(world: World, kind: Kind) -> Params:
    world.readable(kind.name)
    return {"MaxItems": "1"}


# ---- the irregular operations


def _tagged(world: World) -> str:
    made = world.call(
        "CreateDistributionWithTags",
        DistributionConfigWithTags={
            "DistributionConfig": minimal(world.name()),
            "Tags": {"Items": [{"Key": "env", "Value": "té st"}, {"Key": "empty"}]},
        },
    )
    return str(made["Distribution"]["ARN"])


def _with_tags(world: World) -> Params:
    config = CONFIGS["Distribution"](world)
    return {
        "DistributionConfigWithTags": {
            "DistributionConfig": config,
            "Tags": {"Items": [{"Key": "env", "Value": "ci"}]},
        }
    }


def _invalidation(world: World) -> Params:
    return {
        "DistributionId": world.distribution()["Id"],
        "InvalidationBatch": {"Paths": many("/a", "/b/*", "/c?d=e"), "CallerReference": world.name()},
    }


def _invalidated(world: World) -> Params:
    params = _invalidation(world)
    made = world.call("CreateInvalidation", **params)
    return {"DistributionId": params["DistributionId"], "Id": made["Invalidation"]["Id"]}


def _by_key_group(world: World) -> Params:
    group = world.id("KeyGroup")
    behavior = minimal()["DefaultCacheBehavior"] | {"TrustedKeyGroups": trusting(group)}
    world.distribution(DefaultCacheBehavior=behavior, **_plain())
    return {"KeyGroupId": group}


def _plain() -> Params:
    """The reference of a distribution's default behavior to its only origin."""
    return {"Origins": minimal()["Origins"], "OriginGroups": many(), "CacheBehaviors": many()}


def _by_policy(member: str) -> Callable[[World], Params]:
    def params(world: World) -> Params:
        policy = world.id(member.removesuffix("Id"))
        behavior: Params = {
            "TargetOriginId": "app",
            "ViewerProtocolPolicy": "allow-all",
            "CachePolicyId": MANAGED_CACHE_POLICY,
        }
        world.distribution(DefaultCacheBehavior=behavior | {member: policy}, **_plain())
        return {member: policy}

    return params


def _copied(world: World) -> Params:
    made = world.make("Distribution", Aliases=many())
    return {
        "PrimaryDistributionId": made["Distribution"]["Id"],
        "IfMatch": made["ETag"],
        "Staging": True,
        "CallerReference": world.name(),
        "Enabled": False,
    }


def _alias(world: World) -> Params:
    name = f"{world.name()}.example.com"
    world.distribution(Aliases=many(name))
    return {"TargetDistributionId": world.distribution()["Id"], "Alias": name}


def _conflicting(world: World) -> Params:
    name = f"{world.name()}.example.com"
    world.distribution(Aliases=many(name))
    return {"DistributionId": world.distribution()["Id"], "Alias": name}


def _subscription(world: World) -> Params:
    config = {"RealtimeMetricsSubscriptionConfig": {"RealtimeMetricsSubscriptionStatus": "Enabled"}}
    return {"DistributionId": world.distribution()["Id"], "MonitoringSubscription": config}


def _subscribed(world: World) -> Params:
    params = _subscription(world)
    world.call("CreateMonitoringSubscription", **params)
    return {"DistributionId": params["DistributionId"]}


CALLS: dict[str, Callable[[World], Params]] = {
    "CreateDistributionWithTags": _with_tags,
    "CopyDistribution": _copied,
    "AssociateAlias": _alias,
    "ListConflictingAliases": _conflicting,
    "ListDistributionsByKeyGroup": _by_key_group,
    "ListDistributionsByCachePolicyId": _by_policy("CachePolicyId"),
    "ListDistributionsByOriginRequestPolicyId": _by_policy("OriginRequestPolicyId"),
    "ListDistributionsByResponseHeadersPolicyId": _by_policy("ResponseHeadersPolicyId"),
    "ListDistributionsByConnectionMode": lambda world: (
        {"ConnectionMode": "direct"} if world.readable("Distribution") else {}
    ),
    "ListDistributionsByWebACLId": lambda world: (
        {"WebACLId": "null"} if world.readable("Distribution") else {}
    ),
    "CreateInvalidation": _invalidation,
    "GetInvalidation": _invalidated,
    "ListInvalidations": lambda world: {"DistributionId": _invalidated(world)["DistributionId"]},
    "CreateMonitoringSubscription": _subscription,
    "GetMonitoringSubscription": _subscribed,
    "DeleteMonitoringSubscription": _subscribed,
    "ListTagsForResource": lambda world: {"Resource": _tagged(world)},
    "TagResource": lambda world: {
        "Resource": _tagged(world),
        "Tags": {"Items": [{"Key": "a", "Value": "b"}]},
    },
    "UntagResource": lambda world: {"Resource": _tagged(world), "TagKeys": {"Items": ["env"]}},
}


def call_of(operation: str, world: World) -> Params:
    """Params with which `operation` succeeds. The resources that they name exist when this returns.

    :raises KeyError: if this file has no call for the operation.
    """
    if operation in CALLS:
        return CALLS[operation](world)
    for kind in KINDS.values():
        verbs = {
            f"Create{kind.name}": _create,
            f"Get{kind.name}": _named,
            f"Get{kind.config}": _named,
            f"Update{kind.name}": _update,
            f"Delete{kind.name}": _delete,
            f"List{kind.plural}": _list,
        }
        if operation in verbs:
            return verbs[operation](world, kind)
    raise KeyError(operation)
