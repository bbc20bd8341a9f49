"""The compiler from the API's DistributionConfig to the value that an edge uses; there is no other conversion.

A config is compiled once, when it is created or updated, and either compiles as a whole or is refused with all its
problems; an edge never sees a dict. Every member of a config is applied, refused, or listed as accepted without effect
(`supported_members.py`). Problems that can be found in one config alone are found here: its shape, its ranges, its
references, and the quotas of one distribution. Anything that involves other resources (aliases of other distributions,
quotas of the account, ETags) is checked by the control plane.

Pure: the same config compiles to the same value.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, cast

import msgspec

from keyfront.model import managed
from keyfront.model.config_reader import Config, Configs, Problem, Struct, words
from keyfront.model.forwarding import (
    ONE_HUNDRED_YEARS,
    TOKEN,
    Forwarding,
    from_forwarded_values,
    from_policies,
)
from keyfront.model.origins import HOST_NAME, PATH, read_origin_groups, read_origins
from keyfront.model.quotas import Limits
from keyfront.model.response_headers import read_response_headers_policy
from keyfront.model.snapshot import (
    Behavior,
    Distribution,
    ErrorResponse,
    Geo,
    KeyGroup,
    PublicKey,
    ResponseHeadersPolicy,
    Snapshot,
)
from keyfront.model.supported_members import unobeyed

__all__ = [
    "Limits",
    "Lookup",
    "Problem",
    "compile_cache_policy",
    "compile_distribution",
    "compile_origin_request_policy",
    "compile_snapshot",
    "read_response_headers_policy",
]


_NONE: dict[str, Config] = {}


class Lookup(msgspec.Struct, frozen=True):
    """The resources that a config can refer to, by id: their configs in the API's shape (KeyGroupConfig,
    CachePolicyConfig, …). Managed policies are known anyway."""

    key_groups: Configs = _NONE
    cache_policies: Configs = _NONE
    origin_request_policies: Configs = _NONE
    response_headers_policies: Configs = _NONE
    origin_access_controls: Configs = _NONE
    origin_access_identities: Configs = _NONE


_LIMITS = Limits()


def compile_distribution(
    id: str,  # noqa: A002 - the resource's id, as everywhere in the API
    arn: str,
    domain_name: str,
    config: Config,
    lookup: Lookup,
    limits: Limits = _LIMITS,
) -> Distribution | list[Problem]:
    """The compiled distribution, or all problems of its config (never an empty list).

    :param domain_name: the distribution's own host name.
    :param config: a DistributionConfig in the API's shape; absent optional members have CloudFront's defaults.
    :param lookup: the resources that the config can refer to.
    """
    problems = unobeyed(config)
    top = Struct(config, "", problems)
    origins = read_origins(top, limits, lookup.origin_access_controls, lookup.origin_access_identities)
    groups = read_origin_groups(top, origins, limits)
    targets = {origin.id for origin in origins} | {group.id for group in groups}
    log_bucket, log_prefix = _log_location(top)
    distribution = Distribution(
        id=id,
        arn=arn,
        domain_name=domain_name.lower(),
        aliases=_aliases(top, limits),
        # A staging distribution gets requests only through a continuous deployment policy, which Keyfront lacks.
        enabled=_enabled(top) and not top.flag("Staging"),
        default_root_object=_default_root_object(top),
        origins=origins,
        origin_groups=groups,
        behaviors=_behaviors(top, targets, lookup, limits),
        error_responses=_error_responses(top),
        geo=_geo(top),
        log_cookies=top.struct("Logging").flag("IncludeCookies"),
        cache_tag_header=_cache_tag_header(top),
        # `http3` is HTTP/3 without HTTP/2. Viewers then use HTTP/1.1, which CloudFront always allows.
        http2=top.text("HttpVersion") not in ("http1.1", "http3"),
        log_bucket=log_bucket,
        log_prefix=log_prefix,
    )
    return list(dict.fromkeys(problems)) or distribution


def _log_location(top: Struct) -> tuple[str, str]:
    """The bucket and the prefix of the distribution's standard log; empty if it has none."""
    logging = top.struct("Logging")
    if not logging.flag("Enabled"):
        return "", ""
    return logging.text("Bucket", None), logging.text("Prefix")


def compile_cache_policy(config: Config) -> Forwarding | list[Problem]:
    """What a CachePolicyConfig selects for the behaviors that use it, or all its problems."""
    problems: list[Problem] = []
    forwarding = from_policies(Struct(config, "", problems), None)
    return list(dict.fromkeys(problems)) or forwarding


def compile_origin_request_policy(config: Config) -> Forwarding | list[Problem]:
    """What an OriginRequestPolicyConfig selects for a behavior whose cache policy selects nothing, or all its
    problems."""
    problems: list[Problem] = []
    nothing = Struct(managed.CACHE_POLICIES[managed.CACHING_DISABLED], "", problems)
    forwarding = from_policies(nothing, Struct(config, "", problems))
    return list(dict.fromkeys(problems)) or forwarding


def compile_snapshot(
    distributions: Iterable[Distribution],
    public_keys: Iterable[PublicKey],
    key_groups: Iterable[KeyGroup],
    number: int,
    now: float,
    response_headers_policies: Iterable[ResponseHeadersPolicy] = (),
) -> Snapshot:
    """Snapshot `number`, created at `now` (epoch seconds).

    It contains only key groups that a restricted behavior trusts, and only their keys. A key id without a key is
    removed from its group, so its signatures are refused. A trusted group that is missing stays named in the behavior,
    which then refuses all signatures that only this group would admit. Response headers policies are included if a
    behavior uses them, managed ones too. Everything is in order of id, so the same resources yield the same bytes apart
    from number and time.
    """
    served = sorted(distributions, key=lambda distribution: distribution.id)
    trusted = {
        group_id
        for distribution in served
        for behavior in distribution.behaviors
        if behavior.restricted
        for group_id in behavior.trusted_key_groups
    }
    keys = {key.id: key for key in public_keys}
    groups = [
        msgspec.structs.replace(group, key_ids=tuple(k for k in group.key_ids if k in keys))
        for group in sorted(key_groups, key=lambda group: group.id)
        if group.id in trusted
    ]
    key_ids = sorted({key_id for group in groups for key_id in group.key_ids})
    policies = {policy.id: policy for policy in (*_managed_policies(), *response_headers_policies)}
    named = {
        behavior.response_headers_policy_id for distribution in served for behavior in distribution.behaviors
    }
    return Snapshot(
        number=number,
        created=now,
        public_keys=tuple(keys[key_id] for key_id in key_ids),
        key_groups=tuple(groups),
        distributions=tuple(served),
        response_headers_policies=tuple(policies[id_] for id_ in sorted(named & policies.keys())),
    )


@functools.cache
def _managed_policies() -> tuple[ResponseHeadersPolicy, ...]:
    found = [read_response_headers_policy(*item) for item in managed.RESPONSE_HEADERS_POLICIES.items()]
    return tuple(policy for policy in found if isinstance(policy, ResponseHeadersPolicy))


# Behaviors (§5.1 to §5.4, §5.7)

_PATH_PATTERN = re.compile(r"""[A-Za-z0-9_\-.*$/~"'@:+&?]{1,255}\Z""")
_UNREACHABLE = re.compile(r"//|/\.\.?(/|\Z)")
_ALL_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"})
_METHOD_SETS = (frozenset({"GET", "HEAD"}), frozenset({"GET", "HEAD", "OPTIONS"}), _ALL_METHODS)

ViewerProtocolPolicy = Literal["allow-all", "redirect-to-https", "https-only"]


def _behaviors(top: Struct, targets: Collection[str], lookup: Lookup, limits: Limits) -> tuple[Behavior, ...]:
    structs = top.structs("CacheBehaviors", "cache behavior", "PathPattern")
    if len(structs) > limits.cache_behaviors:
        top.refuse(
            f"A distribution can have {limits.cache_behaviors} cache behaviors", "TooManyCacheBehaviors"
        )
    behaviors = []
    patterns: set[str] = set()
    for struct in structs:
        pattern = struct.text("PathPattern", None)
        if not _PATH_PATTERN.match(pattern):
            struct.refuse("PathPattern must be 1 to 255 of the characters A-Z a-z 0-9 _-.*$/~\"'@:+& and ?")
        elif _UNREACHABLE.search("/" + pattern.removeprefix("/")):
            # Normalized paths have none of these, and a rule that never applies would leave content unprotected.
            struct.refuse("PathPattern must not contain //, /./ or /../: no path could match it")
        same = pattern.removeprefix("/")
        if same in patterns:
            struct.refuse("An earlier cache behavior has the same PathPattern")
        patterns.add(same)
        behaviors.append(_behavior(struct, pattern, targets, lookup, limits))
    if "DefaultCacheBehavior" not in top:
        top.refuse("The parameter DefaultCacheBehavior is required")
    else:
        default = top.struct("DefaultCacheBehavior")
        if "PathPattern" in default:
            default.refuse("The default cache behavior has no PathPattern")
        behaviors.append(_behavior(default, "*", targets, lookup, limits))
    return tuple(behaviors)


def _behavior(
    struct: Struct, pattern: str, targets: Collection[str], lookup: Lookup, limits: Limits
) -> Behavior:
    target = struct.text("TargetOriginId", None)
    if target and target not in targets:
        struct.refuse(f"There is no origin or origin group {target!r}", "NoSuchOrigin")
    protocol = struct.text("ViewerProtocolPolicy", None, ("allow-all", "https-only", "redirect-to-https"))
    allowed, cached = _methods(struct)
    groups = _trusted_key_groups(struct, lookup, limits)
    forwarding = _forwarding(struct, lookup, limits)
    response_headers_policy_id = struct.text("ResponseHeadersPolicyId")
    if response_headers_policy_id:
        _policy(
            struct,
            response_headers_policy_id,
            managed.RESPONSE_HEADERS_POLICIES,
            lookup.response_headers_policies,
            "ResponseHeadersPolicy",
        )
    low, usual, high = forwarding.ttl
    behavior = Behavior(
        path_pattern=pattern,
        target_origin_id=target,
        viewer_protocol_policy=cast(ViewerProtocolPolicy, protocol or "https-only"),
        allowed_methods=allowed,
        cached_methods=cached,
        restricted=groups is not None,
        trusted_key_groups=groups or (),
        min_ttl=low,
        default_ttl=usual,
        max_ttl=high,
        legacy=forwarding.legacy,
        key_headers=forwarding.key_headers,
        key_cookies=forwarding.key_cookies,
        key_query=forwarding.key_query,
        forward_headers=forwarding.forward_headers,
        forward_cookies=forwarding.forward_cookies,
        forward_query=forwarding.forward_query,
        accept_gzip=forwarding.accept_gzip,
        accept_brotli=forwarding.accept_brotli,
        response_headers_policy_id=response_headers_policy_id,
    )
    if struct.flag("Compress") and behavior.caches and (behavior.accept_gzip or behavior.accept_brotli):
        # Without caching, or if the viewer's own Accept-Encoding is forwarded, the edge does not compress (§5.11).
        return msgspec.structs.replace(behavior, compress=True)
    return behavior


def _methods(struct: Struct) -> tuple[tuple[str, ...], tuple[str, ...]]:
    listed = struct.struct("AllowedMethods")
    allowed = struct.texts("AllowedMethods") or ["GET", "HEAD"]
    if frozenset(allowed) not in _METHOD_SETS:
        listed.refuse("AllowedMethods must be GET and HEAD, these and OPTIONS, or all seven methods")
    cached = listed.texts("CachedMethods") or ["GET", "HEAD"]
    if frozenset(cached) not in _METHOD_SETS[:2]:
        listed.refuse("CachedMethods must be GET and HEAD, or these and OPTIONS")
    elif not set(cached) <= set(allowed):
        listed.refuse("CachedMethods must be among AllowedMethods")
    return tuple(allowed), tuple(cached)


def _trusted_key_groups(struct: Struct, lookup: Lookup, limits: Limits) -> tuple[str, ...] | None:
    """The ids of the groups whose keys can sign for this behavior; None if no signature is needed.

    Listed groups with Enabled false, and Enabled without groups, are refused, so that no interpretation of an ambiguous
    config leaves private content open.
    """
    trusted = struct.struct("TrustedKeyGroups")
    enabled = trusted.flag("Enabled")
    ids = struct.texts("TrustedKeyGroups")
    if enabled != bool(ids):
        trusted.refuse("Enabled must be true if key groups are listed, and false if none are")
    if len(ids) > limits.key_groups_per_behavior:
        trusted.refuse(
            f"A cache behavior can trust {limits.key_groups_per_behavior} key groups",
            "TooManyKeyGroupsAssociatedToDistribution",
        )
    for group_id in ids:
        if lookup.key_groups.get(group_id) is None:
            trusted.refuse(f"The key group {group_id!r} does not exist", "TrustedKeyGroupDoesNotExist")
    return tuple(ids) if enabled or ids else None


def _forwarding(struct: Struct, lookup: Lookup, limits: Limits) -> Forwarding:
    cache_policy_id = struct.text("CachePolicyId")
    origin_request_policy_id = struct.text("OriginRequestPolicyId")
    if not cache_policy_id:
        if "ForwardedValues" not in struct:
            struct.refuse("Either CachePolicyId or ForwardedValues is required")
        if origin_request_policy_id:
            struct.refuse("OriginRequestPolicyId can be used only with CachePolicyId")
        return from_forwarded_values(struct, limits.forwarded_names)
    if "ForwardedValues" in struct:
        struct.refuse("ForwardedValues cannot be used with CachePolicyId")
    for name in ("MinTTL", "DefaultTTL", "MaxTTL"):
        if struct.members.get(name):
            struct.refuse(f"{name} cannot be used with CachePolicyId: the policy defines it")
    cache_policy = _policy(
        struct, cache_policy_id, managed.CACHE_POLICIES, lookup.cache_policies, "CachePolicy"
    )
    origin_request_policy = None
    if origin_request_policy_id:
        origin_request_policy = _policy(
            struct,
            origin_request_policy_id,
            managed.ORIGIN_REQUEST_POLICIES,
            lookup.origin_request_policies,
            "OriginRequestPolicy",
        )
    return from_policies(cache_policy or _placeholder(managed.CACHE_POLICIES, struct), origin_request_policy)


def _policy(
    struct: Struct, policy_id: str, known: Mapping[str, Config], custom: Configs, kind: str
) -> Struct | None:
    config = known.get(policy_id) or custom.get(policy_id)
    if config is None:
        struct.refuse(f"There is no {kind} {policy_id!r}", f"NoSuch{kind}")
        return None
    return Struct(config, f"{kind} {policy_id}", struct.problems)


def _placeholder(known: Mapping[str, Config], struct: Struct) -> Struct:
    """Any policy, to continue with if the named one is missing; the config is refused anyway."""
    return Struct(next(iter(known.values())), "", struct.problems)


# The rest of a distribution


def _cache_tag_header(top: Struct) -> str:
    """The response header with cache tags, in lower case; empty if there is none (§5.16)."""
    if "CacheTagConfig" not in top:
        return ""
    name = top.struct("CacheTagConfig").text("HeaderName", None)
    if name and (not TOKEN.fullmatch(name) or len(name) > 256):
        top.struct("CacheTagConfig").refuse("HeaderName must be a header name of at most 256 characters")
    return name.lower()


_ROOT_OBJECT = re.compile(r"[!-~]{1,255}\Z")
_CUSTOM_ERROR_CODES = frozenset({400, 403, 404, 405, 414, 416, 500, 501, 502, 503, 504})
_RESPONSE_CODES = _CUSTOM_ERROR_CODES | {200}

_COUNTRIES = words(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW
    BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI
    FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN
    IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME
    MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF
    PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV
    SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE
    YT ZA ZM ZW XK
    """
)
"""ISO 3166-1 alpha-2, and XK (Kosovo), which country databases use."""

GeoKind = Literal["none", "whitelist", "blacklist"]


def _enabled(top: Struct) -> bool:
    if "Enabled" not in top:
        top.refuse("The parameter Enabled is required")
    return top.flag("Enabled")


def _aliases(top: Struct, limits: Limits) -> tuple[str, ...]:
    aliases = tuple(dict.fromkeys(alias.lower() for alias in top.texts("Aliases")))
    if len(aliases) > limits.aliases:
        top.refuse(
            f"A distribution can have {limits.aliases} alternate domain names", "TooManyDistributionCNAMEs"
        )
    for alias in aliases:
        if not HOST_NAME.match(alias.removeprefix("*.")):
            top.refuse(f"The alias {alias!r} must be a host name, whose first label may be *")
    return aliases


def _default_root_object(top: Struct) -> str:
    name = top.text("DefaultRootObject")
    if name and (not _ROOT_OBJECT.match(name) or name.startswith("/") or "?" in name or "#" in name):
        top.refuse(
            "DefaultRootObject must be the URL-encoded name of an object, without a leading slash",
            "InvalidDefaultRootObject",
        )
    return name


def _error_responses(top: Struct) -> tuple[ErrorResponse, ...]:
    responses: dict[int, ErrorResponse] = {}
    for struct in top.structs("CustomErrorResponses", "custom error response", "ErrorCode"):
        code = struct.number("ErrorCode", 0, 0, 999, "InvalidErrorCode")
        if code not in _CUSTOM_ERROR_CODES:
            struct.refuse(
                "ErrorCode must be a code for which custom error responses exist", "InvalidErrorCode"
            )
        if code in responses:
            struct.refuse("An ErrorCode can be listed only once")
        page, replacement = struct.text("ResponsePagePath"), struct.text("ResponseCode")
        if bool(page) != bool(replacement):
            struct.refuse("ResponsePagePath and ResponseCode must be given together")
        if page and (not PATH.match(page) or "#" in page):
            struct.refuse("ResponsePagePath must begin with /, URL-encoded", "InvalidRelativePath")
        if replacement and not (replacement.isascii() and replacement.isdigit()):
            struct.refuse("ResponseCode must be an HTTP status code", "InvalidResponseCode")
            replacement = ""
        if replacement and int(replacement) not in _RESPONSE_CODES:
            struct.refuse("ResponseCode must be one that CloudFront can return", "InvalidResponseCode")
        responses[code] = ErrorResponse(
            error_code=code,
            min_ttl=struct.number("ErrorCachingMinTTL", 10, 0, ONE_HUNDRED_YEARS),
            page_path=page,
            response_code=int(replacement or 0),
        )
    return tuple(responses.values())


def _geo(top: Struct) -> Geo:
    struct = top.struct("Restrictions").struct("GeoRestriction")
    kind = struct.text("RestrictionType", "none", ("none", "whitelist", "blacklist"))
    countries = [country.upper() for country in top.struct("Restrictions").texts("GeoRestriction")]
    if (kind == "none") != (not countries):
        struct.refuse(
            "GeoRestriction must list countries if and only if it is a whitelist or a blacklist",
            "InvalidGeoRestrictionParameter",
        )
    for country in countries:
        if country not in _COUNTRIES:
            struct.refuse(f"{country!r} is not an ISO 3166-1 alpha-2 country code", "InvalidLocationCode")
    return Geo(kind=cast(GeoKind, kind), countries=tuple(dict.fromkeys(countries)))
