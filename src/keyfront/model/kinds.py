"""The kinds of resources: one row for each, with everything that distinguishes it from the others.

`control/operations/crud.py` implements Create…, Get…, Get…Config, Update…, Delete…, and List… for each row without
branches. A new kind is a new row here, one function in `model/defaults.py`, and one in `model/validate.py`. Sources:
cloudfront-semantics §3.3-3.5, §7.2-7.6, and botocore's model for the names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from keyfront.model.access import IDENTITY
from keyfront.model.quotas import Limits, PolicyLimits

_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"


class RandomSource(Protocol):
    """The source of the random parts of ids; `random.Random` and `random.SystemRandom` are such sources."""

    def getrandbits(self, k: int, /) -> int:
        """A number of `k` random bits."""

    def choices(self, population: Sequence[str], /, *, k: int) -> list[str]:
        """`k` random items of the population, with repetition."""


class IdShape(msgspec.Struct, frozen=True):
    """The shape of an id: `prefix` and 13 characters, or a UUID if there is no prefix (§3.4)."""

    prefix: str = ""

    def new(self, rng: RandomSource) -> str:
        """A random id of this shape."""
        if not self.prefix:
            digits = f"{rng.getrandbits(128):032x}"
            return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        alphabet = _LOWER if self.prefix.islower() else _UPPER
        return self.prefix + "".join(rng.choices(alphabet, k=13))

    def fits(self, text: str) -> bool:
        """True if `text` has this shape."""
        if not self.prefix:
            return re.fullmatch(r"[0-9a-z]{8}(-[0-9a-z]{4}){3}-[0-9a-z]{12}", text) is not None
        alphabet = "a-z0-9" if self.prefix.islower() else "A-Z0-9"
        return re.fullmatch(f"{self.prefix}[{alphabet}]{{10,14}}", text) is not None


ETAG = IdShape("E")
INVALIDATION = IdShape("I")
DOMAIN = IdShape("d")

MONITORING_SUBSCRIPTION = "MonitoringSubscription"
"""A kind without a row: a monitoring subscription has the id of its distribution."""


class Reference(msgspec.Struct, frozen=True):
    """References from a config to resources of another kind.

    :param kind: the kind that is referred to.
    :param paths: where the ids are in the config; `*` stands for every item of a list.
    :param missing: the error for an id that does not exist.
    :param prefix: precedes the id in the config.
    :param referrer_quota: the quota of referring resources, and the error if it is exceeded.
    """

    kind: str
    paths: tuple[tuple[str, ...], ...]
    missing: str
    prefix: str = ""
    referrer_quota: tuple[str, str] | None = None

    def ids(self, config: Mapping[str, Any]) -> Iterator[str]:
        """The ids in `config` as written, in order, with repetitions. An empty string is not an id, unless it is an
        item of a list."""
        for path in self.paths:
            for found in _walk(config, path):
                if found or path[-1] == "*":
                    yield found


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[Any]:
    if value is None:
        return
    if not path:
        yield value
    elif path[0] == "*":
        for item in value:
            yield from _walk(item, path[1:])
    else:
        yield from _walk(value.get(path[0]), path[1:])


class Unique(msgspec.Struct, frozen=True):
    """Values that no two resources of a kind can share.

    :param path: where the values are in the config.
    :param taken: the error if another resource has a value.
    :param host: whether the values are host names, which are compared regardless of case.
    """

    path: tuple[str, ...]
    taken: str
    host: bool = False

    @property
    def name(self) -> str:
        return ".".join(self.path)

    def values(self, config: Mapping[str, Any]) -> list[str]:
        found = [str(value) for value in _walk(config, self.path)]
        return [value.lower() for value in found] if self.host else found


class Kind(msgspec.Struct, frozen=True):
    """A kind of resource. Errors are codes of the model; MESSAGES has their texts.

    :param time: the output member with the time of creation or of the last change; empty: there is none.
    :param quota: the member of `Quotas` that limits the number of resources.
    :param fixed: config members that an update must not change.
    :param marked: whether lists have Marker and IsTruncated (§7.4).
    :param repeatable: whether a Create with the same CallerReference and config returns the existing resource (§7.6).
    :param typed: whether CloudFront manages some resources of the kind (`model/managed.py`), which lists mark.
    :param arn: the resource type in ARNs; empty if the kind has neither ARN nor tags.
    """

    name: str
    plural: str
    id: IdShape
    time: Literal["CreatedTime", "LastModifiedTime", ""]
    missing: str
    too_many: str
    quota: str
    in_use: str = "ResourceInUse"
    unique: tuple[Unique, ...] = ()
    fixed: tuple[str, ...] = ()
    fixed_error: str = "IllegalUpdate"
    marked: bool = False
    repeatable: bool = False
    typed: bool = False
    arn: str = ""
    refers_to: tuple[Reference, ...] = ()

    @property
    def config(self) -> str:
        """The name of the config's member and shape."""
        return f"{self.name}Config"

    def arn_of(self, id_: str, account: str) -> str:
        """The ARN of the resource `id_` (§3.4), if the kind has one."""
        return f"arn:aws:cloudfront::{account}:{self.arn}/{id_}"

    @property
    def list(self) -> str:
        """The name of the list's member and shape."""
        return f"{self.name}List"


def _behaviors(*path: str) -> tuple[tuple[str, ...], ...]:
    return (("DefaultCacheBehavior", *path), ("CacheBehaviors", "Items", "*", *path))


PUBLIC_KEY = Kind(
    name="PublicKey",
    plural="PublicKeys",
    id=IdShape("K"),
    time="CreatedTime",
    missing="NoSuchPublicKey",
    in_use="PublicKeyInUse",
    too_many="TooManyPublicKeys",
    quota="public_keys",
    unique=(
        Unique(("CallerReference",), "PublicKeyAlreadyExists"),
        Unique(("Name",), "PublicKeyAlreadyExists"),
    ),
    fixed=("CallerReference", "Name", "EncodedKey"),
    fixed_error="CannotChangeImmutablePublicKeyFields",
)

KEY_GROUP = Kind(
    name="KeyGroup",
    plural="KeyGroups",
    id=IdShape(),
    time="LastModifiedTime",
    missing="NoSuchResource",
    too_many="TooManyKeyGroups",
    quota="key_groups",
    unique=(Unique(("Name",), "KeyGroupAlreadyExists"),),
    arn="key-group",  # CloudFront gives key groups no tags (docs/decisions/0025-residency.md)
    refers_to=(Reference("PublicKey", (("Items", "*"),), "InvalidArgument"),),
)

CACHE_POLICY = Kind(
    name="CachePolicy",
    plural="CachePolicies",
    id=IdShape(),
    time="LastModifiedTime",
    missing="NoSuchCachePolicy",
    in_use="CachePolicyInUse",
    too_many="TooManyCachePolicies",
    quota="cache_policies",
    unique=(Unique(("Name",), "CachePolicyAlreadyExists"),),
    typed=True,
)

ORIGIN_REQUEST_POLICY = Kind(
    name="OriginRequestPolicy",
    plural="OriginRequestPolicies",
    id=IdShape(),
    time="LastModifiedTime",
    missing="NoSuchOriginRequestPolicy",
    in_use="OriginRequestPolicyInUse",
    too_many="TooManyOriginRequestPolicies",
    quota="origin_request_policies",
    unique=(Unique(("Name",), "OriginRequestPolicyAlreadyExists"),),
    typed=True,
)

RESPONSE_HEADERS_POLICY = Kind(
    name="ResponseHeadersPolicy",
    plural="ResponseHeadersPolicies",
    id=IdShape(),
    time="LastModifiedTime",
    missing="NoSuchResponseHeadersPolicy",
    in_use="ResponseHeadersPolicyInUse",
    too_many="TooManyResponseHeadersPolicies",
    quota="response_headers_policies",
    unique=(Unique(("Name",), "ResponseHeadersPolicyAlreadyExists"),),
    typed=True,
)

ORIGIN_ACCESS_CONTROL = Kind(
    name="OriginAccessControl",
    plural="OriginAccessControls",
    id=IdShape("E"),
    time="",
    missing="NoSuchOriginAccessControl",
    in_use="OriginAccessControlInUse",
    too_many="TooManyOriginAccessControls",
    quota="origin_access_controls",
    unique=(Unique(("Name",), "OriginAccessControlAlreadyExists"),),
    marked=True,
)

ORIGIN_ACCESS_IDENTITY = Kind(
    name="CloudFrontOriginAccessIdentity",
    plural="CloudFrontOriginAccessIdentities",
    id=IdShape("E"),
    time="",
    missing="NoSuchCloudFrontOriginAccessIdentity",
    in_use="CloudFrontOriginAccessIdentityInUse",
    too_many="TooManyCloudFrontOriginAccessIdentities",
    quota="origin_access_identities",
    unique=(Unique(("CallerReference",), "CloudFrontOriginAccessIdentityAlreadyExists"),),
    fixed=("CallerReference",),
    marked=True,
    repeatable=True,
)

DISTRIBUTION = Kind(
    name="Distribution",
    plural="Distributions",
    id=IdShape("E"),
    time="LastModifiedTime",
    missing="NoSuchDistribution",
    too_many="TooManyDistributions",
    quota="distributions",
    unique=(
        Unique(("CallerReference",), "DistributionAlreadyExists"),
        Unique(("Aliases", "Items", "*"), "CNAMEAlreadyExists", host=True),
    ),
    fixed=("CallerReference", "Staging"),
    marked=True,
    arn="distribution",
    refers_to=(
        Reference(
            "KeyGroup",
            _behaviors("TrustedKeyGroups", "Items", "*"),
            "TrustedKeyGroupDoesNotExist",
            referrer_quota=("distributions_per_key_group", "TooManyDistributionsAssociatedToKeyGroup"),
        ),
        Reference(
            "CachePolicy",
            _behaviors("CachePolicyId"),
            "NoSuchCachePolicy",
            referrer_quota=("distributions_per_cache_policy", "TooManyDistributionsAssociatedToCachePolicy"),
        ),
        Reference(
            "OriginRequestPolicy",
            _behaviors("OriginRequestPolicyId"),
            "NoSuchOriginRequestPolicy",
            referrer_quota=(
                "distributions_per_origin_request_policy",
                "TooManyDistributionsAssociatedToOriginRequestPolicy",
            ),
        ),
        Reference(
            "ResponseHeadersPolicy",
            _behaviors("ResponseHeadersPolicyId"),
            "NoSuchResponseHeadersPolicy",
            referrer_quota=(
                "distributions_per_response_headers_policy",
                "TooManyDistributionsAssociatedToResponseHeadersPolicy",
            ),
        ),
        Reference(
            "OriginAccessControl",
            (("Origins", "Items", "*", "OriginAccessControlId"),),
            "InvalidOriginAccessControl",
            referrer_quota=(
                "distributions_per_origin_access_control",
                "TooManyDistributionsAssociatedToOriginAccessControl",
            ),
        ),
        Reference(
            "CloudFrontOriginAccessIdentity",
            (("Origins", "Items", "*", "S3OriginConfig", "OriginAccessIdentity"),),
            "InvalidOriginAccessIdentity",
            prefix=IDENTITY,
        ),
    ),
)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        PUBLIC_KEY,
        KEY_GROUP,
        ORIGIN_ACCESS_CONTROL,
        ORIGIN_ACCESS_IDENTITY,
        CACHE_POLICY,
        ORIGIN_REQUEST_POLICY,
        RESPONSE_HEADERS_POLICY,
        DISTRIBUTION,
    )
}


class Quotas(msgspec.Struct, frozen=True):
    """The quotas of an account (§3.3); the defaults are CloudFront's. `Limits` has those of one distribution,
    `PolicyLimits` those of one policy. Managed policies do not count. `invalidation_*` limit the paths in progress in
    one distribution."""

    public_keys: int = 10
    key_groups: int = 10
    cache_policies: int = 20
    origin_request_policies: int = 20
    response_headers_policies: int = 20
    origin_access_controls: int = 100
    origin_access_identities: int = 100
    distributions: int = 500
    public_keys_per_key_group: int = 5
    distributions_per_key_group: int = 100
    distributions_per_origin_access_control: int = 100
    distributions_per_cache_policy: int = 100
    distributions_per_origin_request_policy: int = 100
    distributions_per_response_headers_policy: int = 100
    invalidation_paths: int = 3000
    invalidation_wildcards: int = 15
    tags: int = 50
    limits: Limits = Limits()
    policy_limits: PolicyLimits = PolicyLimits()


MESSAGES: dict[str, str] = {
    "BatchTooLarge": "Invalidation batch specified is too large.",
    "CachePolicyAlreadyExists": "A cache policy with this name already exists. You must provide a unique name. To modify an existing cache policy, use UpdateCachePolicy.",  # noqa: E501
    "CachePolicyInUse": "Cannot delete the cache policy because it is attached to one or more cache behaviors.",
    "CannotChangeImmutablePublicKeyFields": "You can't change the value of a public key.",
    "CloudFrontOriginAccessIdentityAlreadyExists": "The caller reference is that of an identity with another config.",
    "CloudFrontOriginAccessIdentityInUse": "The Origin Access Identity specified is already in use.",
    "CNAMEAlreadyExists": "One or more of the CNAMEs you provided are already associated with a different resource.",
    "DistributionAlreadyExists": "The caller reference you attempted to create the distribution with is associated with another distribution.",  # noqa: E501
    "DistributionNotDisabled": "The distribution you are trying to delete has not been disabled.",
    "IllegalDelete": "You cannot delete a managed policy.",
    "IllegalUpdate": "The update contains modifications that are not allowed.",
    "InvalidIfMatchVersion": "The If-Match version is missing or not valid for the resource.",
    "InvalidOriginAccessControl": "The origin access control is not valid.",
    "InvalidOriginAccessIdentity": "The specified origin access identity does not exist or is not valid.",
    "KeyGroupAlreadyExists": "A key group with this name already exists. You must provide a unique name. To modify an existing key group, use UpdateKeyGroup.",  # noqa: E501
    "NoSuchCloudFrontOriginAccessIdentity": "The specified origin access identity does not exist.",
    "NoSuchMonitoringSubscription": "A monitoring subscription does not exist for the specified distribution.",
    "NoSuchOriginAccessControl": "The origin access control does not exist.",
    "NoSuchCachePolicy": "The specified cache policy does not exist.",
    "NoSuchDistribution": "The specified distribution does not exist.",
    "NoSuchInvalidation": "The specified invalidation does not exist.",
    "NoSuchOrigin": "One or more of your origins or origin groups do not exist.",
    "NoSuchOriginRequestPolicy": "The specified origin request policy does not exist.",
    "NoSuchPublicKey": "The specified public key does not exist.",
    "NoSuchResource": "The specified resource does not exist.",
    "NoSuchResponseHeadersPolicy": "The specified response headers policy does not exist.",
    "OriginRequestPolicyAlreadyExists": "An origin request policy with this name already exists. You must provide a unique name. To modify an existing origin request policy, use UpdateOriginRequestPolicy.",  # noqa: E501
    "OriginRequestPolicyInUse": "Cannot delete the origin request policy because it is attached to one or more cache behaviors.",  # noqa: E501
    "OriginAccessControlAlreadyExists": "An origin access control with this name already exists.",
    "OriginAccessControlInUse": "Cannot delete the origin access control because it's in use by one or more distributions.",  # noqa: E501
    "PreconditionFailed": "The request failed because it didn't meet the preconditions in one or more request-header fields.",  # noqa: E501
    "PublicKeyAlreadyExists": "A public key with this name or caller reference already exists.",
    "PublicKeyInUse": "The Cloudfront public key is currently associated with either Key Group or a field level encryption profile.",  # noqa: E501
    "ResourceInUse": "Cannot delete this resource because it is in use.",
    "ResponseHeadersPolicyAlreadyExists": "A response headers policy with this name already exists. You must provide a unique name. To modify an existing response headers policy, use UpdateResponseHeadersPolicy.",  # noqa: E501
    "ResponseHeadersPolicyInUse": "Cannot delete the response headers policy because it is attached to one or more cache behaviors in a CloudFront distribution.",  # noqa: E501
    "TooLongCSPInResponseHeadersPolicy": "The length of the Content-Security-Policy header value in the response headers policy exceeds the maximum.",  # noqa: E501
    "TooManyCachePolicies": "You have reached the maximum number of cache policies for this account.",
    "TooManyCookiesInCachePolicy": "The number of cookies in the cache policy exceeds the maximum.",
    "TooManyCookiesInOriginRequestPolicy": "The number of cookies in the origin request policy exceeds the maximum.",
    "TooManyCustomHeadersInResponseHeadersPolicy": "The number of custom headers in the response headers policy exceeds the maximum.",  # noqa: E501
    "TooManyDistributions": "Processing your request will cause you to exceed the maximum number of distributions allowed.",  # noqa: E501
    "TooManyDistributionsAssociatedToCachePolicy": "The maximum number of distributions have been associated with the specified cache policy.",  # noqa: E501
    "TooManyCloudFrontOriginAccessIdentities": "Processing your request would cause you to exceed the maximum number of origin access identities allowed.",  # noqa: E501
    "TooManyDistributionsAssociatedToOriginAccessControl": "The maximum number of distributions have been associated with the specified origin access control.",  # noqa: E501
    "TooManyOriginAccessControls": "The number of origin access controls in your account exceeds the maximum allowed.",
    "TooManyDistributionsAssociatedToKeyGroup": "The number of distributions that reference this key group is more than the maximum allowed.",  # noqa: E501
    "TooManyDistributionsAssociatedToOriginRequestPolicy": "The maximum number of distributions have been associated with the specified origin request policy.",  # noqa: E501
    "TooManyDistributionsAssociatedToResponseHeadersPolicy": "The maximum number of distributions have been associated with the specified response headers policy.",  # noqa: E501
    "TooManyHeadersInCachePolicy": "The number of headers in the cache policy exceeds the maximum.",
    "TooManyHeadersInOriginRequestPolicy": "The number of headers in the origin request policy exceeds the maximum.",
    "TooManyInvalidationsInProgress": "Processing your request will cause you to exceed the maximum number of in-progress invalidations.",  # noqa: E501
    "TooManyKeyGroups": "You have reached the maximum number of key groups for this account.",
    "TooManyKeyGroupsAssociatedToDistribution": "The number of key groups referenced by this cache behavior is more than the maximum allowed.",  # noqa: E501
    "TooManyOriginRequestPolicies": "You have reached the maximum number of origin request policies for this account.",
    "TooManyPublicKeys": "Processing your request will cause you to exceed the maximum number of CloudFront public keys allowed.",  # noqa: E501
    "TooManyPublicKeysInKeyGroup": "The number of public keys in this key group is more than the maximum allowed.",
    "TooManyQueryStringsInCachePolicy": "The number of query strings in the cache policy exceeds the maximum.",
    "TooManyQueryStringsInOriginRequestPolicy": "The number of query strings in the origin request policy exceeds the maximum.",  # noqa: E501
    "TooManyRemoveHeadersInResponseHeadersPolicy": "The number of headers in RemoveHeadersConfig in the response headers policy exceeds the maximum.",  # noqa: E501
    "TooManyResponseHeadersPolicies": "You have reached the maximum number of response headers policies for this account.",  # noqa: E501
    "TrustedKeyGroupDoesNotExist": "One or more of the trusted key groups do not exist.",
}
