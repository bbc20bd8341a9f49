"""Origins and origin groups of a DistributionConfig (cloudfront-semantics §5.14)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from typing import Any, Literal, cast

from keyfront.model.access import read_signing
from keyfront.model.config_reader import Configs, Struct, words
from keyfront.model.forwarding import ONE_HUNDRED_YEARS, TOKEN
from keyfront.model.quotas import Limits
from keyfront.model.snapshot import Origin, OriginGroup

_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"

HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\Z")
"""A host name of one or more labels, without a trailing dot. IPv4 addresses match, too."""

PATH = re.compile(r"/[!-~]{0,254}\Z")
"""An absolute path, URL-encoded."""

_REGION = re.compile(r"(?=.{1,32}\Z)[a-z]{2}(-[a-z]+)+-[0-9]+")

_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?\Z")

_FORBIDDEN_HEADERS = words(
    """
    cache-control connection content-length cookie host if-match if-modified-since if-none-match if-range
    if-unmodified-since max-forwards pragma proxy-authorization proxy-connection range request-range te
    trailer transfer-encoding upgrade via x-real-ip
    """
)
_FORBIDDEN_PREFIXES = ("x-amz-", "x-edge-")

_TLS_VERSIONS = ("SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2")
_FAILOVER_CODES = frozenset({400, 403, 404, 416, 500, 502, 503, 504})

ProtocolPolicy = Literal["http-only", "https-only", "match-viewer"]


def read_origins(top: Struct, limits: Limits, controls: Configs, identities: Configs) -> tuple[Origin, ...]:
    """The origins of the DistributionConfig `top`.

    :param controls: the origin access controls by id; `identities` likewise.
    """
    structs = top.structs("Origins", "origin", "Id")
    if not structs:
        top.refuse("A distribution must have at least one origin")
    if len(structs) > limits.origins:
        top.refuse(f"A distribution can have {limits.origins} origins", "TooManyOrigins")
    _unique_ids(top, structs)
    return tuple(_origin(struct, limits, controls, identities) for struct in structs)


def read_origin_groups(top: Struct, origins: Iterable[Origin], limits: Limits) -> tuple[OriginGroup, ...]:
    """The origin groups of the DistributionConfig `top`; their members must be in `origins`."""
    origin_ids = {origin.id for origin in origins}
    structs = top.structs("OriginGroups", "origin group", "Id")
    if len(structs) > limits.origin_groups:
        top.refuse(
            f"A distribution can have {limits.origin_groups} origin groups",
            "TooManyOriginGroupsPerDistribution",
        )
    _unique_ids(top, structs, origin_ids)
    return tuple(_origin_group(struct, origin_ids) for struct in structs)


def _origin_group(struct: Struct, origin_ids: Collection[str]) -> OriginGroup:
    members = [member.text("OriginId") for member in struct.structs("Members", "member", "OriginId")]
    if len(members) != 2 or members[0] == members[1]:
        struct.refuse("An origin group must have two different members, the primary origin first")
        members = [*members, "", ""][:2]
    for member in members:
        if member not in origin_ids:
            struct.refuse(f"There is no origin {member!r}", "NoSuchOrigin")
    codes = struct.struct("FailoverCriteria").numbers("StatusCodes")
    if not codes or not _FAILOVER_CODES.issuperset(codes):
        struct.refuse(f"StatusCodes must be some of {', '.join(map(str, sorted(_FAILOVER_CODES)))}")
    return OriginGroup(
        id=struct.text("Id"), members=(members[0], members[1]), status_codes=tuple(sorted(codes))
    )


def _unique_ids(top: Struct, structs: list[Struct], taken: Collection[str] = ()) -> None:
    used = set(taken)
    for struct in structs:
        own = struct.text("Id")
        if not 1 <= len(own) <= 128:
            struct.refuse("Id must have 1 to 128 characters")
        elif own in used:
            top.refuse(f"The Id {own!r} is used by more than one origin or origin group")
        used.add(own)


def _origin(struct: Struct, limits: Limits, controls: Configs, identities: Configs) -> Origin:
    domain_name = struct.text("DomainName", None)
    if domain_name and not _is_host(domain_name):
        struct.refuse("DomainName must be a host name or an IP address, without scheme, port, and path")
    path = struct.text("OriginPath")
    if path and (not PATH.match(path) or path.endswith("/") or "?" in path or "#" in path):
        struct.refuse(
            "OriginPath must be URL-encoded, begin with /, and not end with /", "InvalidRelativePath"
        )
    common: dict[str, Any] = {
        "id": struct.text("Id"),
        "domain_name": domain_name,
        "path": path,
        "connection_attempts": struct.number("ConnectionAttempts", 3, 1, 3),
        "connection_timeout": float(struct.number("ConnectionTimeout", 10, 1, 10)),
        "custom_headers": _custom_headers(struct, limits),
        "shield_region": _shield_region(struct.struct("OriginShield")),
    }
    custom, s3 = struct.struct("CustomOriginConfig"), struct.struct("S3OriginConfig")
    common["signing"] = read_signing(struct, s3, controls, identities)
    if ("CustomOriginConfig" in struct) == ("S3OriginConfig" in struct):
        struct.refuse("An origin must have either CustomOriginConfig or S3OriginConfig")
    if "S3OriginConfig" in struct:
        # Requests to a bucket use HTTPS at its REST endpoint, which is its DomainName.
        return Origin(**common, **_timeouts(struct, s3), kind="s3", protocol_policy="https-only")
    versions = tuple(custom.texts("OriginSslProtocols")) or ("TLSv1.2",)
    if not set(versions) <= set(_TLS_VERSIONS):
        custom.refuse(f"OriginSslProtocols must be of {', '.join(_TLS_VERSIONS)}")
    elif versions == ("SSLv3",):
        custom.refuse("Keyfront does not support SSLv3: OriginSslProtocols must name a later version")
    policy = custom.text("OriginProtocolPolicy", None, ("http-only", "match-viewer", "https-only"))
    return Origin(
        **common,
        **_timeouts(struct, custom),
        protocol_policy=cast(ProtocolPolicy, policy or "https-only"),
        http_port=_port(custom, "HTTPPort", 80),
        https_port=_port(custom, "HTTPSPort", 443),
        ssl_protocols=versions,
    )


def _timeouts(struct: Struct, config: Struct) -> dict[str, Any]:
    read = config.number("OriginReadTimeout", 30, 1, 120, "InvalidOriginReadTimeout")
    keepalive = config.number("OriginKeepaliveTimeout", 5, 1, 120, "InvalidOriginKeepaliveTimeout")
    completion = struct.number("ResponseCompletionTimeout", 0, 0, ONE_HUNDRED_YEARS)
    if 0 < completion < read:
        struct.refuse("ResponseCompletionTimeout must not be less than OriginReadTimeout")
    return {
        "read_timeout": float(read),
        "keepalive_timeout": float(keepalive),
        "response_completion_timeout": float(completion) or None,
    }


def _port(config: Struct, name: str, default: int) -> int:
    port = config.number(name, default, 1, 65535)
    if port not in (80, 443) and port < 1024:
        config.refuse(f"The parameter {name} must be 80, 443, or from 1024 to 65535")
    return port


def _shield_region(shield: Struct) -> str:
    """The region of the origin shield; empty if there is none (API reference, OriginShield)."""
    region = shield.text("OriginShieldRegion")
    if not shield.flag("Enabled"):
        return ""
    if not _REGION.fullmatch(region):
        shield.refuse("An enabled origin shield must have an OriginShieldRegion, such as eu-central-1")
    return region


def _custom_headers(struct: Struct, limits: Limits) -> tuple[tuple[str, str], ...]:
    headers: dict[str, tuple[str, str]] = {}
    structs = struct.structs("CustomHeaders", "custom header", "HeaderName")
    if len(structs) > limits.origin_custom_headers:
        struct.refuse(
            f"An origin can have {limits.origin_custom_headers} custom headers", "TooManyOriginCustomHeaders"
        )
    for header in structs:
        name, value = header.text("HeaderName"), header.text("HeaderValue")
        lower = name.lower()
        if not TOKEN.fullmatch(name) or len(name) > 256:
            header.refuse("HeaderName must be a header name of at most 256 characters")
        elif lower in _FORBIDDEN_HEADERS or lower.startswith(_FORBIDDEN_PREFIXES):
            header.refuse("This header cannot be an origin custom header")
        elif lower in headers:
            header.refuse("A custom header can be listed only once")
        if len(value) > 1783 or (value and not _HEADER_VALUE.match(value)):
            # The value may be a secret, so the message does not repeat it.
            header.refuse(
                "HeaderValue must be at most 1783 printable ASCII characters, with no space at either end"
            )
        headers[lower] = (name, value)
    if sum(len(name) + len(value) for name, value in headers.values()) > 10_240:
        struct.refuse("Names and values of custom headers must not exceed 10240 characters in total")
    return tuple(headers.values())


def _is_host(name: str) -> bool:
    if HOST_NAME.match(name):
        return True
    try:
        return ipaddress.ip_address(name).version == 6 and "%" not in name
    except ValueError:
        return False
