"""The compiler from a ResponseHeadersPolicyConfig to the headers that an edge adds and removes, or to the list of its
problems (cloudfront-semantics §5.13).

A policy cannot break a response: framing fields and fields that the edge itself writes can be neither added nor
removed, and a value is a single line. CORS and security headers have their own sections and cannot also be custom
headers, so a policy sets each of them once.
"""

from __future__ import annotations

import re
from typing import Final

from keyfront.model.config_reader import Config, Problem, Struct, words
from keyfront.model.forwarding import TOKEN
from keyfront.model.snapshot import Cors, ResponseHeader, ResponseHeadersPolicy

METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""The methods that `ALL` stands for, in CloudFront's order."""

MAX_AGE: Final = 2**31 - 1
"""The highest max-age in seconds."""

FRAMING: Final = words(
    """
    connection content-encoding content-length expect host keep-alive proxy-authenticate proxy-authorization
    proxy-connection trailer transfer-encoding upgrade via warning
    x-accel-buffering x-accel-charset x-accel-limit-rate x-accel-redirect
    x-amzn-auth x-amzn-cf-billing x-amzn-cf-id x-amzn-cf-xff x-amzn-errortype x-amzn-fle-profile
    x-amzn-header-count x-amzn-header-order x-amzn-lambda-integration-tag x-amzn-requestid
    x-cache x-forwarded-proto x-real-ip
    """
)
"""Headers that no policy can remove (the Developer Guide's list) or add."""

_RESERVED_PREFIXES: Final = ("x-amz-cf-", "x-edge-")
_NEVER_ADDED: Final = FRAMING | {"age", "content-range", "proxy-authentication-info", "te"}

_SECURITY: Final = words(
    """
    content-security-policy referrer-policy strict-transport-security x-content-type-options x-frame-options
    x-xss-protection
    """
)
_CORS: Final = words(
    """
    access-control-allow-credentials access-control-allow-headers access-control-allow-methods
    access-control-allow-origin access-control-expose-headers access-control-max-age
    """
)

_FRAME_OPTIONS: Final = ("DENY", "SAMEORIGIN")
_REFERRER_POLICIES: Final = (
    "no-referrer",
    "no-referrer-when-downgrade",
    "origin",
    "origin-when-cross-origin",
    "same-origin",
    "strict-origin",
    "strict-origin-when-cross-origin",
    "unsafe-url",
)

_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?|")
_REPORT_URI: Final = re.compile(r"[\x21-\x2b\x2d-\x3a\x3c-\x7e]+")
"""A URI in a directive, without `,` and `;`, which would end it."""

_ORIGIN: Final = re.compile(
    r"""
    (?:[a-z][a-z0-9+.-]*://)?
    (?:(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)* | \[[0-9a-f:.]+\])
    (?::(?:[0-9]{1,5}|[0-9]{0,4}\*[0-9]{0,4}))?
    """,
    re.VERBOSE,
)
"""`*` is allowed at the left end of a host, before a dot, and once in a port (§5.13)."""


def read_response_headers_policy(id_: str, config: Config) -> ResponseHeadersPolicy | list[Problem]:
    """The compiled policy, or all problems of its config (never an empty list)."""
    problems: list[Problem] = []
    top = Struct(config, "", problems)
    policy = ResponseHeadersPolicy(
        id=id_,
        headers=(*_security(top.struct("SecurityHeadersConfig")), *_custom(top)),
        remove=_remove(top),
        cors=_cors(top.struct("CorsConfig")) if "CorsConfig" in top else None,
        server_timing=_server_timing(top.struct("ServerTimingHeadersConfig")),
    )
    return list(dict.fromkeys(problems)) or policy


# CORS


def _cors(struct: Struct) -> Cors:
    credentials = struct.flag("AccessControlAllowCredentials")
    headers = struct.texts("AccessControlAllowHeaders")
    expose = struct.texts("AccessControlExposeHeaders")
    origins = [origin.lower() for origin in struct.texts("AccessControlAllowOrigins")]
    for member, values in (
        ("AccessControlAllowOrigins", origins),
        ("AccessControlAllowHeaders", headers),
        ("AccessControlAllowMethods", struct.texts("AccessControlAllowMethods")),
    ):
        if not values:
            struct.refuse(f"The parameter {member} must not be empty")
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            struct.refuse(
                f"The parameter AccessControlAllowOrigins contains {origin!r}, which is neither * nor "
                "[scheme://]host[:port] with * for its leftmost labels or in its port"
            )
    for name in headers:
        if not TOKEN.fullmatch(name) or name.count("*") > 1:
            struct.refuse(
                f"The parameter AccessControlAllowHeaders contains {name!r}, which is not a header name"
            )
    for name in expose:
        if not TOKEN.fullmatch(name) or ("*" in name and name != "*"):
            struct.refuse(
                f"The parameter AccessControlExposeHeaders contains {name!r}, which is not a header name"
            )
    if credentials:  # browsers then read * as a name (Fetch, "CORS protocol and credentials")
        for header, values in (
            ("Access-Control-Allow-Origin", [origin for origin in origins if origin == "*"]),
            ("Access-Control-Allow-Headers", headers),
            ("Access-Control-Expose-Headers", expose),
        ):
            if any("*" in value for value in values):
                struct.refuse(f"The parameter {header} cannot contain * when allowCredentials is true")
    age = struct.number("AccessControlMaxAgeSec", -1, 0, MAX_AGE)
    return Cors(
        origins=tuple(dict.fromkeys(origins)),
        headers=tuple(headers),
        methods=_methods(struct),
        expose=tuple(expose),
        credentials=credentials,
        max_age=age if age >= 0 else None,
        override=struct.flag("OriginOverride"),
    )


def _methods(struct: Struct) -> tuple[str, ...]:
    methods = struct.texts("AccessControlAllowMethods")
    if methods == ["ALL"]:
        return METHODS
    for method in methods:
        if method == "ALL":
            struct.refuse("The parameter AccessControlAllowMethods must be either ALL or a list of methods")
        elif method not in METHODS:
            struct.refuse(f"The parameter AccessControlAllowMethods must list {', '.join(METHODS)} or ALL")
    return tuple(sorted(methods))


# Security headers


def _security(struct: Struct) -> list[ResponseHeader]:
    found: list[ResponseHeader] = []

    def add(name: str, value: str, member: Struct) -> None:
        found.append(ResponseHeader(name, value, member.flag("Override")))

    if "XSSProtection" in struct:
        member = struct.struct("XSSProtection")
        add("x-xss-protection", _xss(member), member)
    if "FrameOptions" in struct:
        member = struct.struct("FrameOptions")
        add("x-frame-options", member.text("FrameOption", None, _FRAME_OPTIONS), member)
    if "ReferrerPolicy" in struct:
        member = struct.struct("ReferrerPolicy")
        add("referrer-policy", member.text("ReferrerPolicy", None, _REFERRER_POLICIES), member)
    if "ContentSecurityPolicy" in struct:
        member = struct.struct("ContentSecurityPolicy")
        add("content-security-policy", _value(member, "ContentSecurityPolicy", None), member)
    if "ContentTypeOptions" in struct:
        add("x-content-type-options", "nosniff", struct.struct("ContentTypeOptions"))
    if "StrictTransportSecurity" in struct:
        member = struct.struct("StrictTransportSecurity")
        if "AccessControlMaxAgeSec" not in member:
            member.refuse("The parameter AccessControlMaxAgeSec is required")
        value = f"max-age={member.number('AccessControlMaxAgeSec', 0, 0, MAX_AGE)}"
        value += "; includeSubDomains" * member.flag("IncludeSubdomains")
        value += "; preload" * member.flag("Preload")
        add("strict-transport-security", value, member)
    return found


def _xss(struct: Struct) -> str:
    block, report = struct.flag("ModeBlock"), struct.text("ReportUri")
    if block and report:
        struct.refuse("The parameter ReportUri cannot be specified when ModeBlock is true")
    if report and not _REPORT_URI.fullmatch(report):
        struct.refuse("The parameter ReportUri must be a URI without white space, commas, and semicolons")
    if not struct.flag("Protection"):
        return "0"
    return "1" + "; mode=block" * block + (f"; report={report}" if report else "")


# Headers by name


def _custom(top: Struct) -> list[ResponseHeader]:
    found: dict[str, ResponseHeader] = {}
    for struct in top.structs("CustomHeadersConfig", "custom header", "Header"):
        header = _name(struct, "CustomHeaders")
        name = header.lower()
        for names, what in ((_SECURITY, "security"), (_CORS, "CORS")):
            if name in names:
                struct.refuse(
                    f"The parameter CustomHeaders contains {header} that is a {what} header and cannot be set as "
                    "custom header"
                )
        if name in _NEVER_ADDED or name.startswith(_RESERVED_PREFIXES):
            struct.refuse(f"The parameter CustomHeaders contains {header} that is not allowed")
        if name in found:
            struct.refuse(f"The parameter CustomHeaders contains {header} more than once")
        found[name] = ResponseHeader(name, _value(struct, "Value", ""), struct.flag("Override"))
    return list(found.values())


def _remove(top: Struct) -> tuple[str, ...]:
    names: list[str] = []
    for struct in top.structs("RemoveHeadersConfig", "removed header", "Header"):
        header = _name(struct, "RemoveHeaders")
        names.append(header.lower())
        if names[-1] in FRAMING or names[-1].startswith(_RESERVED_PREFIXES):
            struct.refuse(f"The parameter RemoveHeaders contains {header} that cannot be removed")
    return tuple(dict.fromkeys(names))


def _name(struct: Struct, parameter: str) -> str:
    header = struct.text("Header", None)
    if header and not TOKEN.fullmatch(header):
        struct.refuse(f"The parameter {parameter} contains {header!r}, which is not a header name")
    return header


def _value(struct: Struct, member: str, default: str | None) -> str:
    """The value of a header: one line of visible ASCII, with spaces and tabs inside."""
    value = struct.members.get(member)
    if not isinstance(value, str) or not value:
        return struct.text(member, default)
    if not _VALUE.fullmatch(value):
        struct.refuse(
            f"The parameter {member} must be visible ASCII, with spaces and tabs only between other characters"
        )
        return ""
    return value


# Server-Timing


def _server_timing(struct: Struct) -> float | None:
    rate = struct.members.get("SamplingRate")
    if rate is None:
        rate = 0.0
    elif isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 100:
        struct.refuse("The parameter SamplingRate must be from 0 to 100")
        rate = 0.0
    elif round(rate, 4) != rate:
        struct.refuse("The parameter SamplingRate can have four decimal places")
    return float(rate) if struct.flag("Enabled") else None
