"""CloudFront's managed policies by id, as configs that the API returns (cloudfront-semantics §5.12).

In the API, their names have the prefix `Managed-`, which the CloudFront Developer Guide omits. Treat the dicts as
read-only. The comments are Keyfront's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

_YEAR = 31_536_000

_OVERRIDING = (
    "Host",
    "Origin",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
)

CLOUDFRONT_HEADERS_2022_06 = (
    "CloudFront-Forwarded-Proto",
    "CloudFront-Is-Android-Viewer",
    "CloudFront-Is-Desktop-Viewer",
    "CloudFront-Is-IOS-Viewer",
    "CloudFront-Is-Mobile-Viewer",
    "CloudFront-Is-SmartTV-Viewer",
    "CloudFront-Is-Tablet-Viewer",
    "CloudFront-Viewer-ASN",
    "CloudFront-Viewer-Address",
    "CloudFront-Viewer-City",
    "CloudFront-Viewer-Country",
    "CloudFront-Viewer-Country-Name",
    "CloudFront-Viewer-Country-Region",
    "CloudFront-Viewer-Country-Region-Name",
    "CloudFront-Viewer-Http-Version",
    "CloudFront-Viewer-Latitude",
    "CloudFront-Viewer-Longitude",
    "CloudFront-Viewer-Metro-Code",
    "CloudFront-Viewer-Postal-Code",
    "CloudFront-Viewer-TLS",
    "CloudFront-Viewer-Time-Zone",
)
"""The headers that CloudFront could add in June 2022."""


def _list(items: Iterable[Any]) -> dict[str, Any]:
    items = list(items)
    return {"Quantity": len(items), "Items": items} if items else {"Quantity": 0}


def _selection(behavior: str, member: str, mode: str, names: Iterable[str] = ()) -> dict[str, Any]:
    names = list(names)
    return {behavior: mode, member: _list(names)} if names else {behavior: mode}


def _headers(mode: str, names: Iterable[str] = ()) -> dict[str, Any]:
    return _selection("HeaderBehavior", "Headers", mode, names)


def _cookies(mode: str) -> dict[str, Any]:
    return _selection("CookieBehavior", "Cookies", mode)


def _query(mode: str, names: Iterable[str] = ()) -> dict[str, Any]:
    return _selection("QueryStringBehavior", "QueryStrings", mode, names)


class _Key(NamedTuple):
    """What a cache policy includes in the cache key."""

    headers: tuple[str, ...] = ()
    cookies: str = "none"
    query: str = "none"
    parameters: tuple[str, ...] = ()
    gzip: bool = False
    brotli: bool = False


def _cache_policy(
    name: str, ttl: tuple[int, int, int], key: _Key = _Key(), comment: str = ""
) -> dict[str, Any]:
    return {
        "Comment": comment,
        "Name": f"Managed-{name}",
        "DefaultTTL": ttl[1],
        "MaxTTL": ttl[2],
        "MinTTL": ttl[0],
        "ParametersInCacheKeyAndForwardedToOrigin": {
            "EnableAcceptEncodingGzip": key.gzip,
            "EnableAcceptEncodingBrotli": key.brotli,
            "HeadersConfig": _headers("whitelist" if key.headers else "none", key.headers),
            "CookiesConfig": _cookies(key.cookies),
            "QueryStringsConfig": _query(key.query, key.parameters),
        },
    }


def _origin_request_policy(
    name: str,
    headers: dict[str, Any],
    *,
    cookies: str = "none",
    query: str = "none",
    comment: str = "",
) -> dict[str, Any]:
    return {
        "Comment": comment,
        "Name": f"Managed-{name}",
        "HeadersConfig": headers,
        "CookiesConfig": _cookies(cookies),
        "QueryStringsConfig": _query(query),
    }


_SECURITY = {
    "XSSProtection": {"Override": False, "Protection": True, "ModeBlock": True},
    "FrameOptions": {"Override": False, "FrameOption": "SAMEORIGIN"},
    "ReferrerPolicy": {"Override": False, "ReferrerPolicy": "strict-origin-when-cross-origin"},
    "ContentTypeOptions": {"Override": True},
    "StrictTransportSecurity": {
        "Override": False,
        "IncludeSubdomains": False,
        "Preload": False,
        "AccessControlMaxAgeSec": _YEAR,
    },
}

_SIMPLE_CORS = {
    "AccessControlAllowOrigins": _list(["*"]),
    "AccessControlAllowHeaders": _list(["*"]),
    "AccessControlAllowMethods": _list(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]),
    "AccessControlAllowCredentials": False,
    "OriginOverride": False,
}

_PREFLIGHT_CORS = {**_SIMPLE_CORS, "AccessControlExposeHeaders": _list(["*"])}


def _response_headers_policy(
    name: str, *, cors: dict[str, Any] | None = None, security: bool = False
) -> dict[str, Any]:
    config: dict[str, Any] = {"Comment": "", "Name": f"Managed-{name}"}
    if cors is not None:
        config["CorsConfig"] = cors
    if security:
        config["SecurityHeadersConfig"] = _SECURITY
    return config


CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"

CACHE_POLICIES: dict[str, dict[str, Any]] = {
    "658327ea-f89d-4fab-a63d-7e88639e58f6": _cache_policy(
        "CachingOptimized",
        (1, 86_400, _YEAR),
        _Key(gzip=True, brotli=True),
        comment="Caching enabled, the path alone in the key, gzip and Brotli kept apart",
    ),
    "b2884449-e4de-46a7-ac36-70bc7f1ddd6d": _cache_policy(
        "CachingOptimizedForUncompressedObjects",
        (1, 86_400, _YEAR),
        comment="Caching enabled, the path alone in the key, no compression",
    ),
    CACHING_DISABLED: _cache_policy(
        "CachingDisabled",
        (0, 0, 0),
        comment="Caching disabled",
    ),
    "83da9c7e-98b4-4e11-a168-04f0df8e2c65": _cache_policy(
        "UseOriginCacheControlHeaders",
        (0, 0, _YEAR),
        _Key(gzip=True, brotli=True, headers=_OVERRIDING, cookies="all"),
        comment="Caching as the origin specifies, query strings not in the key",
    ),
    "4cc15a8a-d715-48a4-82b8-cc0b614638fe": _cache_policy(
        "UseOriginCacheControlHeaders-QueryStrings",
        (0, 0, _YEAR),
        _Key(gzip=True, brotli=True, headers=_OVERRIDING, cookies="all", query="all"),
        comment="Caching as the origin specifies, query strings in the key",
    ),
    "08627262-05a9-4f76-9ded-b50ca2e3a84f": _cache_policy(
        "Elemental-MediaPackage",
        (0, 86_400, _YEAR),
        _Key(
            gzip=True,
            headers=("Origin",),
            query="whitelist",
            parameters=(
                "aws.manifestfilter",
                "start",
                "end",
                "m",
            ),
        ),
        comment="For origins that are AWS Elemental MediaPackage endpoints",
    ),
    "2e54312d-136d-493c-8eb9-b001f22f67d2": _cache_policy(
        "Amplify",
        (2, 2, 600),
        _Key(
            gzip=True,
            brotli=True,
            headers=(
                "Authorization",
                "CloudFront-Viewer-Country",
                "Host",
            ),
            cookies="all",
            query="all",
        ),
        comment="For origins that are AWS Amplify web applications",
    ),
}

ORIGIN_REQUEST_POLICIES: dict[str, dict[str, Any]] = {
    "216adef6-5c7f-47e4-b989-5492eafa07d3": _origin_request_policy(
        "AllViewer", _headers("allViewer"), cookies="all", query="all", comment="All that the viewer sent"
    ),
    "b689b0a8-53d0-40ab-baf2-68738e2966ac": _origin_request_policy(
        "AllViewerExceptHostHeader",
        _headers("allExcept", ["Host"]),
        cookies="all",
        query="all",
        comment="All that the viewer sent except the Host header",
    ),
    "33f36d7e-f396-46d9-90e0-52428a34d9dc": _origin_request_policy(
        "AllViewerAndCloudFrontHeaders-2022-06",
        _headers("allViewerAndWhitelistCloudFront", CLOUDFRONT_HEADERS_2022_06),
        cookies="all",
        query="all",
        comment="All that the viewer sent, and the CloudFront headers of June 2022",
    ),
    "59781a5b-3903-41f3-afcb-af62929ccde1": _origin_request_policy(
        "CORS-CustomOrigin", _headers("whitelist", ["Origin"]), comment="For CORS with a custom origin"
    ),
    "88a5eaf4-2fd4-4709-b370-b4c650ea3fcf": _origin_request_policy(
        "CORS-S3Origin",
        _headers("whitelist", ["Origin", "Access-Control-Request-Headers", "Access-Control-Request-Method"]),
        comment="For CORS with an S3 origin",
    ),
    "acba4595-bd28-49b8-b9fe-13317c0390fa": _origin_request_policy(
        "UserAgentRefererHeaders",
        _headers("whitelist", ["User-Agent", "Referer"]),
        comment="The User-Agent and Referer headers",
    ),
    "775133bc-15f2-49f9-abea-afb2e0bf67d2": _origin_request_policy(
        "Elemental-MediaTailor-PersonalizedManifests",
        _headers(
            "whitelist",
            [
                "Origin",
                "Access-Control-Request-Headers",
                "Access-Control-Request-Method",
                "User-Agent",
                "X-Forwarded-For",
            ],
        ),
        query="all",
        comment="For origins that are AWS Elemental MediaTailor endpoints",
    ),
    "bf0718e1-ba1e-49d1-88b1-f726733018ae": _origin_request_policy(
        "HostHeaderOnly", _headers("whitelist", ["Host"]), comment="The Host header"
    ),
}

RESPONSE_HEADERS_POLICIES: dict[str, dict[str, Any]] = {
    "60669652-455b-4ae9-85a4-c4c02393f86c": _response_headers_policy("SimpleCORS", cors=_SIMPLE_CORS),
    "5cc3b908-e619-4b99-88e5-2cf7f45965bd": _response_headers_policy(
        "CORS-With-Preflight", cors=_PREFLIGHT_CORS
    ),
    "67f7725c-6f97-4210-82d7-5512b31e9d03": _response_headers_policy("SecurityHeadersPolicy", security=True),
    "e61eb60c-9c35-4d20-a928-2b84e02af89c": _response_headers_policy(
        "CORS-and-SecurityHeadersPolicy", cors=_SIMPLE_CORS, security=True
    ),
    "eaab4381-ed33-4a86-88ca-d9558dc6cd63": _response_headers_policy(
        "CORS-with-preflight-and-SecurityHeadersPolicy", cors=_PREFLIGHT_CORS, security=True
    ),
}
