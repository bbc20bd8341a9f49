"""Cache policies, origin request policies and response headers policies: what is accepted, how it is returned, what
is refused, and what a change does to the distributions that use them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from keyfront.control.operations.registry import OPERATIONS
from keyfront.control.store.store import Store
from keyfront.model import managed
from keyfront.model.kinds import CACHE_POLICY, KINDS, Kind, Quotas
from keyfront.model.quotas import PolicyLimits
from keyfront.model.service import service
from keyfront.model.snapshot import Cors, ResponseHeader, ResponseHeadersPolicy, Select
from tests.control.harness import Harness, many, minimal
from tests.control.plane import Plane, distribution_config
from tests.control.test_app_clients import NODE, run
from tests.rows import rows

TYPED = [kind for kind in KINDS.values() if kind.typed]
NOBODY = "00000000-0000-4000-8000-000000000000"
OPTIMIZED = "658327ea-f89d-4fab-a63d-7e88639e58f6"
SECURITY = "67f7725c-6f97-4210-82d7-5512b31e9d03"
MANAGED = {
    "CachePolicy": managed.CACHE_POLICIES,
    "OriginRequestPolicy": managed.ORIGIN_REQUEST_POLICIES,
    "ResponseHeadersPolicy": managed.RESPONSE_HEADERS_POLICIES,
}
each_kind = pytest.mark.parametrize("kind", TYPED, ids=[kind.name for kind in TYPED])


def cache(**changes: Any) -> dict[str, Any]:
    return {"Name": "mine", "MinTTL": 1} | changes


def key(**changes: Any) -> dict[str, Any]:
    """A cache policy with these changes to its key parameters."""
    parameters = {
        "EnableAcceptEncodingGzip": False,
        "HeadersConfig": {"HeaderBehavior": "none"},
        "CookiesConfig": {"CookieBehavior": "none"},
        "QueryStringsConfig": {"QueryStringBehavior": "none"},
    }
    return cache(ParametersInCacheKeyAndForwardedToOrigin=parameters | changes)


def origin_request(**changes: Any) -> dict[str, Any]:
    return {
        "Name": "mine",
        "HeadersConfig": {"HeaderBehavior": "none"},
        "CookiesConfig": {"CookieBehavior": "none"},
        "QueryStringsConfig": {"QueryStringBehavior": "none"},
    } | changes


def response_headers(**changes: Any) -> dict[str, Any]:
    return {"Name": "mine"} | changes


def headers(mode: str, *names: str) -> dict[str, Any]:
    return {"HeaderBehavior": mode, "Headers": many(*names)}


def cookies(mode: str, *names: str) -> dict[str, Any]:
    return {"CookieBehavior": mode, "Cookies": many(*names)}


def query(mode: str, *names: str) -> dict[str, Any]:
    return {"QueryStringBehavior": mode, "QueryStrings": many(*names)}


def cors(**changes: Any) -> dict[str, Any]:
    return response_headers(
        CorsConfig={
            "AccessControlAllowOrigins": many("https://app.example.org"),
            "AccessControlAllowHeaders": many("x-token"),
            "AccessControlAllowMethods": many("GET"),
            "AccessControlAllowCredentials": False,
            "OriginOverride": True,
        }
        | changes
    )


def security(**sections: Any) -> dict[str, Any]:
    return response_headers(SecurityHeadersConfig=sections)


def custom(*items: Any) -> dict[str, Any]:
    return response_headers(
        CustomHeadersConfig=many(*({"Header": h, "Value": v, "Override": True} for h, v in items))
    )


def removing(*names: str) -> dict[str, Any]:
    return response_headers(RemoveHeadersConfig=many(*({"Header": name} for name in names)))


LEAST = {
    "CachePolicy": cache(),
    "OriginRequestPolicy": origin_request(),
    "ResponseHeadersPolicy": response_headers(),
}

NOTHING = {
    "HeadersConfig": {"HeaderBehavior": "none"},
    "CookiesConfig": {"CookieBehavior": "none"},
    "QueryStringsConfig": {"QueryStringBehavior": "none"},
}


def made(harness: Harness, kind: str, config: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
    """Id, config as answered, ETag."""
    answer = harness.call(f"Create{kind}", **{f"{kind}Config": config})
    return answer[kind]["Id"], answer[kind][f"{kind}Config"], answer["ETag"]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    found = Harness(tmp_path, audit_reads=False)
    yield found
    found.close()


# ---- how policies are returned

RETURNED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "CachePolicy",
        cache(),
        {
            "Comment": "",
            "Name": "mine",
            "DefaultTTL": 86_400,
            "MaxTTL": 31_536_000,
            "MinTTL": 1,
            "ParametersInCacheKeyAndForwardedToOrigin": {
                "EnableAcceptEncodingGzip": False,
                "EnableAcceptEncodingBrotli": False,
                **NOTHING,
            },
        },
    ),
    (
        "CachePolicy",
        cache(MinTTL=100_000_000, Comment="long"),
        {
            "Comment": "long",
            "Name": "mine",
            "DefaultTTL": 100_000_000,
            "MaxTTL": 100_000_000,
            "MinTTL": 100_000_000,
            "ParametersInCacheKeyAndForwardedToOrigin": {
                "EnableAcceptEncodingGzip": False,
                "EnableAcceptEncodingBrotli": False,
                **NOTHING,
            },
        },
    ),
    (
        "CachePolicy",
        key(
            EnableAcceptEncodingGzip=True,
            HeadersConfig=headers("whitelist", "X-B", "x-a"),
            CookiesConfig=cookies("allExcept", "session"),
            QueryStringsConfig=query("none"),
        )
        | {"MaxTTL": 90_000},
        {
            "Comment": "",
            "Name": "mine",
            "DefaultTTL": 86_400,
            "MaxTTL": 90_000,
            "MinTTL": 1,
            "ParametersInCacheKeyAndForwardedToOrigin": {
                "EnableAcceptEncodingGzip": True,
                "EnableAcceptEncodingBrotli": False,
                "HeadersConfig": headers("whitelist", "X-B", "x-a"),
                "CookiesConfig": cookies("allExcept", "session"),
                "QueryStringsConfig": {"QueryStringBehavior": "none"},
            },
        },
    ),
    (
        "OriginRequestPolicy",
        origin_request(HeadersConfig=headers("allExcept", "Host"), CookiesConfig=cookies("all")),
        {
            "Comment": "",
            "Name": "mine",
            "HeadersConfig": headers("allExcept", "Host"),
            "CookiesConfig": {"CookieBehavior": "all"},
            "QueryStringsConfig": {"QueryStringBehavior": "none"},
        },
    ),
    ("ResponseHeadersPolicy", response_headers(), {"Comment": "", "Name": "mine"}),
    (
        "ResponseHeadersPolicy",
        cors(),
        {"Comment": "", **cors(AccessControlExposeHeaders={"Quantity": 0})},
    ),
    (
        "ResponseHeadersPolicy",
        {
            **cors(AccessControlMaxAgeSec=0, AccessControlExposeHeaders=many("etag")),
            "Comment": "all of it",
            "SecurityHeadersConfig": {
                "XSSProtection": {"Override": True, "Protection": True, "ReportUri": ""},
                "FrameOptions": {"Override": True, "FrameOption": "DENY"},
                "ReferrerPolicy": {"Override": False, "ReferrerPolicy": "no-referrer"},
                "ContentSecurityPolicy": {"Override": True, "ContentSecurityPolicy": "default-src 'self'"},
                "ContentTypeOptions": {"Override": True},
                "StrictTransportSecurity": {"Override": True, "AccessControlMaxAgeSec": 60, "Preload": True},
            },
            "ServerTimingHeadersConfig": {"Enabled": True},
            **custom(("X-A", ""), ("x-b", "two words")),
            **removing("X-Powered-By", "Vary"),
        },
        {
            **cors(AccessControlMaxAgeSec=0, AccessControlExposeHeaders=many("etag")),
            "Comment": "all of it",
            "SecurityHeadersConfig": {
                "XSSProtection": {"Override": True, "Protection": True, "ModeBlock": False},
                "FrameOptions": {"Override": True, "FrameOption": "DENY"},
                "ReferrerPolicy": {"Override": False, "ReferrerPolicy": "no-referrer"},
                "ContentSecurityPolicy": {"Override": True, "ContentSecurityPolicy": "default-src 'self'"},
                "ContentTypeOptions": {"Override": True},
                "StrictTransportSecurity": {
                    "Override": True,
                    "AccessControlMaxAgeSec": 60,
                    "Preload": True,
                    "IncludeSubdomains": False,
                },
            },
            "ServerTimingHeadersConfig": {"Enabled": True, "SamplingRate": 0.0},
            **custom(("X-A", ""), ("x-b", "two words")),
            **removing("X-Powered-By", "Vary"),
        },
    ),
    (
        "ResponseHeadersPolicy",
        {**custom(), **removing(), "SecurityHeadersConfig": {}},
        {
            "Comment": "",
            "Name": "mine",
            "CustomHeadersConfig": {"Quantity": 0},
            "RemoveHeadersConfig": {"Quantity": 0},
            "SecurityHeadersConfig": {},
        },
    ),
]


@pytest.mark.parametrize(("kind", "given", "returned"), RETURNED)
def test_configs_are_complete_and_can_be_sent_back(
    harness: Harness, kind: str, given: dict[str, Any], returned: dict[str, Any]
) -> None:
    before = copy.deepcopy(given)
    answer = harness.call(f"Create{kind}", **{f"{kind}Config": given})
    assert given == before
    id_, etag = answer[kind]["Id"], answer["ETag"]
    assert KINDS[kind].id.fits(id_)
    path = {"CachePolicy": "cache-policy", "OriginRequestPolicy": "origin-request-policy"}
    assert answer["Location"] == f"/2020-05-31/{path.get(kind, 'response-headers-policy')}/{id_}"
    assert answer[kind][f"{kind}Config"] == returned
    assert harness.call(f"Get{kind}", Id=id_) == {kind: answer[kind], "ETag": etag}
    assert harness.call(f"Get{kind}Config", Id=id_) == {f"{kind}Config": returned, "ETag": etag}
    again = harness.call(f"Update{kind}", Id=id_, IfMatch=etag, **{f"{kind}Config": returned})
    assert again[kind][f"{kind}Config"] == returned
    assert again["ETag"] != etag
    assert again[kind]["LastModifiedTime"] > answer[kind]["LastModifiedTime"]


@each_kind
def test_the_life_of_a_policy(harness: Harness, kind: Kind) -> None:
    id_, config, etag = made(harness, kind.name, LEAST[kind.name])
    changed = config | {"Comment": "changed", "Name": "renamed"}
    for version, code, status in (
        (None, "InvalidIfMatchVersion", 400),
        (f'"{etag}"', "InvalidIfMatchVersion", 400),
        ("E2QWRUHAPOMQZL", "PreconditionFailed", 412),
    ):
        params = {"Id": id_} | ({"IfMatch": version} if version else {})
        for operation, more in ((f"Update{kind.name}", {kind.config: changed}), (f"Delete{kind.name}", {})):
            error = harness.refused(operation, **params, **more)
            assert (error.code, error.status) == (code, status)
    updated = harness.call(f"Update{kind.name}", Id=id_, IfMatch=etag, **{kind.config: changed})
    assert updated[kind.name][kind.config] == changed
    assert harness.refused(f"Delete{kind.name}", Id=id_, IfMatch=etag).code == "PreconditionFailed"
    assert harness.call(f"Delete{kind.name}", Id=id_, IfMatch=updated["ETag"]) == {}
    for operation in (f"Get{kind.name}", f"Get{kind.config}", f"Update{kind.name}", f"Delete{kind.name}"):
        more = {kind.config: changed} if operation.startswith("Update") else {}
        error = harness.refused(operation, Id=id_, **more)
        assert (error.code, error.status) == (kind.missing, 404)


@each_kind
def test_names_are_taken_once(harness: Harness, kind: Kind) -> None:
    code = kind.unique[0].taken
    made(harness, kind.name, LEAST[kind.name])
    error = harness.refused(f"Create{kind.name}", **{kind.config: LEAST[kind.name]})
    assert (error.code, error.status) == (code, 409)
    id_, config, etag = made(harness, kind.name, LEAST[kind.name] | {"Name": "Mine"})
    for name in ("mine", next(iter(MANAGED[kind.name].values()))["Name"]):
        params = {"Id": id_, "IfMatch": etag, kind.config: config | {"Name": name}}
        assert harness.refused(f"Update{kind.name}", **params).code == code
        assert harness.refused(f"Create{kind.name}", **{kind.config: config | {"Name": name}}).code == code
    harness.call(f"Update{kind.name}", Id=id_, IfMatch=etag, **{kind.config: config | {"Comment": "x"}})


@each_kind
def test_quotas(tmp_path: Path, kind: Kind) -> None:
    harness = Harness(tmp_path, quotas=msgspec.structs.replace(Quotas(), **{kind.quota: 2}))
    for number in range(2):
        made(harness, kind.name, LEAST[kind.name] | {"Name": str(number)})
    error = harness.refused(f"Create{kind.name}", **{kind.config: LEAST[kind.name]})
    assert (error.code, error.status) == (kind.too_many, 400)
    harness.close()


# ---- refusals

ELEVEN = [f"n{number}" for number in range(11)]
LONG = "x" * 1784
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    *[
        (kind, config | change, "InvalidArgument", words)
        for kind, config in LEAST.items()
        for change, words in (
            ({"Name": ""}, "Name"),
            ({"Name": "two words"}, "Name"),
            ({"Name": "a.b"}, "Name"),
            ({"Name": "é"}, "Name"),
            ({"Name": "a\n"}, "Name"),
            ({"Name": "a" * 129}, "Name"),
            ({"Comment": "c" * 129}, "Comment"),
            ({"Unknown": "1"}, "Unknown"),
        )
    ],
    ("CachePolicy", cache(MinTTL=-1), "InvalidArgument", "MinTTL"),
    ("CachePolicy", cache(MinTTL=3_153_600_001), "InvalidArgument", "MinTTL"),
    ("CachePolicy", cache(MinTTL=2, DefaultTTL=1), "InvalidArgument", "MinTTL 2"),
    ("CachePolicy", cache(DefaultTTL=9, MaxTTL=8), "InvalidArgument", "MaxTTL 8"),
    ("CachePolicy", cache(MaxTTL=0), "InvalidArgument", "MaxTTL 0"),
    ("CachePolicy", key() | {"MinTTL": True}, "InvalidArgument", "MinTTL"),
    ("CachePolicy", key(HeadersConfig={"HeaderBehavior": "all"}), "InvalidArgument", "HeaderBehavior"),
    ("CachePolicy", key(HeadersConfig={"HeaderBehavior": ""}), "InvalidArgument", "HeaderBehavior"),
    (
        "CachePolicy",
        key(HeadersConfig={"HeaderBehavior": "whitelist"}),
        "InvalidArgument",
        "Headers must be listed",
    ),
    ("CachePolicy", key(HeadersConfig=headers("none", "x-a")), "InvalidArgument", "Headers cannot be listed"),
    ("CachePolicy", key(HeadersConfig=headers("whitelist", "x a")), "InvalidArgument", "not a header name"),
    ("CachePolicy", key(HeadersConfig=headers("whitelist", "x-*")), "InvalidArgument", "not a header name"),
    ("CachePolicy", key(HeadersConfig=headers("whitelist", "Cookie")), "InvalidArgument", "Cookie"),
    ("CachePolicy", key(HeadersConfig=headers("whitelist", "X-Edge-A")), "InvalidArgument", "X-Edge-A"),
    ("CachePolicy", key(HeadersConfig=headers("whitelist", "a", "a")), "InvalidArgument", "more than once"),
    (
        "CachePolicy",
        key(HeadersConfig=headers("whitelist", "CloudFront-Viewer-TLS")),
        "InvalidArgument",
        "not allowed",
    ),
    (
        "CachePolicy",
        key(EnableAcceptEncodingBrotli=True, HeadersConfig=headers("whitelist", "Accept-Encoding")),
        "InvalidArgument",
        "Accept-Encoding",
    ),
    ("CachePolicy", key(CookiesConfig=cookies("all", "a")), "InvalidArgument", "Cookies cannot be listed"),
    ("CachePolicy", key(CookiesConfig=cookies("allExcept")), "InvalidArgument", "Cookies must be listed"),
    ("CachePolicy", key(CookiesConfig=cookies("whitelist", "a=b")), "InvalidArgument", "not a cookie name"),
    ("CachePolicy", key(CookiesConfig=cookies("whitelist", "a*")), "InvalidArgument", "not a cookie name"),
    ("CachePolicy", key(CookiesConfig=cookies("whitelist", "")), "InvalidArgument", ""),
    (
        "CachePolicy",
        key(QueryStringsConfig=query("whitelist", "a=b")),
        "InvalidArgument",
        "not a parameter name",
    ),
    (
        "CachePolicy",
        key(QueryStringsConfig=query("whitelist", "a b")),
        "InvalidArgument",
        "not a parameter name",
    ),
    (
        "CachePolicy",
        key(QueryStringsConfig=query("whitelist", "ä")),
        "InvalidArgument",
        "not a parameter name",
    ),
    ("CachePolicy", key(HeadersConfig=headers("whitelist", *ELEVEN)), "TooManyHeadersInCachePolicy", ""),
    ("CachePolicy", key(CookiesConfig=cookies("whitelist", *ELEVEN)), "TooManyCookiesInCachePolicy", ""),
    (
        "CachePolicy",
        key(QueryStringsConfig=query("allExcept", *ELEVEN)),
        "TooManyQueryStringsInCachePolicy",
        "",
    ),
    (
        "CachePolicy",
        key(HeadersConfig=headers("whitelist", "h" * 500), CookiesConfig=cookies("whitelist", "c" * 525)),
        "InvalidArgument",
        "1024",
    ),
    *[
        (
            "CachePolicy",
            key(**change) | {"MinTTL": 0, "DefaultTTL": 0, "MaxTTL": 0},
            "InvalidArgument",
            f"{member} is invalid for policy with caching disabled.",
        )
        for member, change in (
            ("EnableAcceptEncodingGzip", {"EnableAcceptEncodingGzip": True}),
            ("EnableAcceptEncodingBrotli", {"EnableAcceptEncodingBrotli": True}),
            ("HeaderBehavior", {"HeadersConfig": headers("whitelist", "Authorization")}),
            ("CookieBehavior", {"CookiesConfig": {"CookieBehavior": "all"}}),
            ("QueryStringBehavior", {"QueryStringsConfig": {"QueryStringBehavior": "all"}}),
        )
    ],
    (
        "CachePolicy",
        key(HeadersConfig={"HeaderBehavior": "whitelist", "Headers": {"Quantity": 2, "Items": ["a"]}}),
        "InconsistentQuantities",
        "Headers",
    ),
    (
        "CachePolicy",
        key(CookiesConfig={"CookieBehavior": "none", "Cookies": {"Quantity": 1}}),
        "InconsistentQuantities",
        "Cookies",
    ),
    (
        "OriginRequestPolicy",
        origin_request(HeadersConfig=headers("whitelist", "authorization")),
        "InvalidArgument",
        "authorization that is not allowed",
    ),
    (
        "OriginRequestPolicy",
        origin_request(HeadersConfig=headers("allViewerAndWhitelistCloudFront", "x-a")),
        "InvalidArgument",
        "CloudFront headers",
    ),
    (
        "OriginRequestPolicy",
        origin_request(HeadersConfig=headers("allViewer", "x-a")),
        "InvalidArgument",
        "cannot be listed",
    ),
    (
        "OriginRequestPolicy",
        origin_request(HeadersConfig=headers("allExcept", *ELEVEN)),
        "TooManyHeadersInOriginRequestPolicy",
        "",
    ),
    (
        "OriginRequestPolicy",
        origin_request(CookiesConfig=cookies("whitelist", *ELEVEN)),
        "TooManyCookiesInOriginRequestPolicy",
        "",
    ),
    (
        "OriginRequestPolicy",
        origin_request(QueryStringsConfig=query("whitelist", *ELEVEN)),
        "TooManyQueryStringsInOriginRequestPolicy",
        "",
    ),
    (
        "OriginRequestPolicy",
        origin_request(QueryStringsConfig={"QueryStringBehavior": "all", "QueryStrings": {"Quantity": 3}}),
        "InconsistentQuantities",
        "QueryStrings",
    ),
    *[
        ("ResponseHeadersPolicy", cors(**change), "InvalidArgument", words)
        for change, words in (
            ({"AccessControlAllowOrigins": many()}, "AccessControlAllowOrigins"),
            ({"AccessControlAllowHeaders": many()}, "AccessControlAllowHeaders"),
            ({"AccessControlAllowMethods": many()}, "AccessControlAllowMethods"),
            ({"AccessControlAllowOrigins": many("https://a.test/")}, "https://a.test/"),
            ({"AccessControlAllowOrigins": many("https://a.test", "")}, "AccessControlAllowOrigins"),
            ({"AccessControlAllowOrigins": many("example.*")}, "example.*"),
            ({"AccessControlAllowOrigins": many("test.*.example.org")}, "test.*"),
            ({"AccessControlAllowOrigins": many("exa*mple.org")}, "exa*mple"),
            ({"AccessControlAllowOrigins": many("https://*")}, "https://*"),
            ({"AccessControlAllowOrigins": many("https://a.test:1*2*3")}, "1*2*3"),
            ({"AccessControlAllowOrigins": many("https://a.test, https://b.test")}, "https://b.test"),
            ({"AccessControlAllowOrigins": many("https://a.test\r\nX-A: 1")}, ""),
            ({"AccessControlAllowOrigins": many(*(f"https://{n}.test" for n in range(101)))}, "100"),
            ({"AccessControlExposeHeaders": many("x" * 257)}, "256"),
            ({"AccessControlAllowHeaders": many("x a")}, "not a header name"),
            ({"AccessControlAllowHeaders": many("x-*-*")}, "not a header name"),
            ({"AccessControlExposeHeaders": many("x-*")}, "not a header name"),
            ({"AccessControlAllowMethods": many("ALL", "GET")}, "ALL"),
            ({"AccessControlAllowMethods": many("TRACE")}, "AccessControlAllowMethods"),
            ({"AccessControlAllowMethods": many("get")}, "AccessControlAllowMethods"),
            ({"AccessControlMaxAgeSec": -1}, "AccessControlMaxAgeSec"),
            ({"AccessControlMaxAgeSec": 2**31}, "AccessControlMaxAgeSec"),
            (
                {"AccessControlAllowCredentials": True, "AccessControlAllowHeaders": many("*")},
                "The parameter Access-Control-Allow-Headers cannot contain * when allowCredentials is true",
            ),
            (
                {"AccessControlAllowCredentials": True, "AccessControlAllowHeaders": many("x-*")},
                "cannot contain *",
            ),
            (
                {"AccessControlAllowCredentials": True, "AccessControlAllowOrigins": many("*")},
                "cannot contain *",
            ),
            (
                {"AccessControlAllowCredentials": True, "AccessControlExposeHeaders": many("*")},
                "cannot contain *",
            ),
        )
    ],
    *[
        ("ResponseHeadersPolicy", security(**sections), code, words)
        for sections, code, words in (
            ({"FrameOptions": {"Override": True, "FrameOption": "ALLOW"}}, "InvalidArgument", "FrameOption"),
            (
                {"ReferrerPolicy": {"Override": True, "ReferrerPolicy": "none"}},
                "InvalidArgument",
                "ReferrerPolicy",
            ),
            (
                {"ContentSecurityPolicy": {"Override": True, "ContentSecurityPolicy": ""}},
                "InvalidArgument",
                "required",
            ),
            (
                {"ContentSecurityPolicy": {"Override": True, "ContentSecurityPolicy": "a\nb"}},
                "InvalidArgument",
                "ContentSecurityPolicy",
            ),
            (
                {"ContentSecurityPolicy": {"Override": True, "ContentSecurityPolicy": LONG}},
                "TooLongCSPInResponseHeadersPolicy",
                "",
            ),
            (
                {"StrictTransportSecurity": {"Override": True, "AccessControlMaxAgeSec": -1}},
                "InvalidArgument",
                "AccessControlMaxAgeSec",
            ),
            (
                {
                    "XSSProtection": {
                        "Override": True,
                        "Protection": True,
                        "ModeBlock": True,
                        "ReportUri": "/r",
                    }
                },
                "InvalidArgument",
                "ReportUri cannot be specified when ModeBlock is true",
            ),
            (
                {"XSSProtection": {"Override": True, "Protection": True, "ReportUri": "/r; mode=block"}},
                "InvalidArgument",
                "ReportUri",
            ),
        )
    ],
    *[
        ("ResponseHeadersPolicy", config, code, words)
        for config, code, words in (
            (custom(("", "v")), "InvalidArgument", "Header"),
            (custom(("x a", "v")), "InvalidArgument", "not a header name"),
            (custom(("x-a:", "v")), "InvalidArgument", "not a header name"),
            (custom(("x" * 257, "v")), "InvalidArgument", "256"),
            (custom(("x-a", LONG)), "InvalidArgument", "1783"),
            (custom(("x-a", "v\r\nx-b: 1")), "InvalidArgument", "Value"),
            (custom(("x-a", " v")), "InvalidArgument", "Value"),
            (custom(("x-a", "v\t")), "InvalidArgument", "Value"),
            (custom(("x-a", "é")), "InvalidArgument", "Value"),
            (custom(("x-a", "1"), ("X-A", "2")), "InvalidArgument", "more than once"),
            (
                custom(("Content-Security-Policy", "v")),
                "InvalidArgument",
                "The parameter CustomHeaders contains Content-Security-Policy that is a security header and cannot be "
                "set as custom header",
            ),
            (custom(("access-control-allow-origin", "*")), "InvalidArgument", "is a CORS header"),
            (custom(("Content-Length", "1")), "InvalidArgument", "not allowed"),
            (custom(("transfer-encoding", "chunked")), "InvalidArgument", "not allowed"),
            (custom(("Content-Encoding", "gzip")), "InvalidArgument", "not allowed"),
            (custom(("X-Cache", "Hit")), "InvalidArgument", "not allowed"),
            (custom(("X-Amz-Cf-Id", "1")), "InvalidArgument", "not allowed"),
            (custom(*((name, "v") for name in ELEVEN)), "TooManyCustomHeadersInResponseHeadersPolicy", ""),
            (removing("x a"), "InvalidArgument", "not a header name"),
            (removing("Connection"), "InvalidArgument", "cannot be removed"),
            (removing("content-encoding"), "InvalidArgument", "cannot be removed"),
            (removing("X-Edge-Location"), "InvalidArgument", "cannot be removed"),
            (removing(*ELEVEN), "TooManyRemoveHeadersInResponseHeadersPolicy", ""),
            (
                response_headers(RemoveHeadersConfig={"Quantity": 2, "Items": [{"Header": "a"}]}),
                "InconsistentQuantities",
                "RemoveHeadersConfig",
            ),
            (
                response_headers(ServerTimingHeadersConfig={"Enabled": True, "SamplingRate": 100.1}),
                "InvalidArgument",
                "SamplingRate",
            ),
            (
                response_headers(ServerTimingHeadersConfig={"Enabled": True, "SamplingRate": 0.00001}),
                "InvalidArgument",
                "SamplingRate",
            ),
        )
    ],
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A harness with one policy of each kind, for tests that do not change it."""
    harness = Harness(tmp_path_factory.mktemp("harness"), audit_reads=False)
    for kind, config in LEAST.items():
        made(harness, kind, config | {"Name": "other"})
    yield harness
    harness.close()


@rows(("kind", "config", "code", "words"), WRONG)
def test_refused(shared: Harness, kind: str, config: dict[str, Any], code: str, words: str) -> None:
    def everything() -> Any:
        return shared.call(f"List{KINDS[kind].plural}", Type="custom")[f"{kind}List"]["Items"]

    (before,) = everything()
    id_ = before[kind]["Id"]
    etag = shared.etag(kind, id_)
    for operation, more in ((f"Create{kind}", {}), (f"Update{kind}", {"Id": id_, "IfMatch": etag})):
        error = shared.refused(operation, **more, **{f"{kind}Config": config})
        assert (error.code, error.status) == (code, 400)
        assert words in error.message
        assert code in service().operations[operation].errors
    assert (everything(), shared.etag(kind, id_)) == ([before], etag)


PLUS = "allViewerAndWhitelistCloudFront"
ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("CachePolicy", cache(MinTTL=0, DefaultTTL=0, MaxTTL=0)),
    ("CachePolicy", key(HeadersConfig=headers("whitelist", *ELEVEN[:10]), CookiesConfig=cookies("all"))),
    ("CachePolicy", key(HeadersConfig=headers("whitelist", "Accept-Encoding"))),
    ("CachePolicy", key(QueryStringsConfig=query("whitelist", "aws.manifestfilter", "a%20b", "x[]"))),
    ("OriginRequestPolicy", origin_request(HeadersConfig=headers("allExcept", "Authorization"))),
    ("OriginRequestPolicy", origin_request(HeadersConfig=headers("whitelist", "x-auth", "CloudFront-Viewer-TLS"))),
    ("OriginRequestPolicy", origin_request(HeadersConfig=headers(PLUS, "CloudFront-Viewer-City"))),
    ("ResponseHeadersPolicy", cors(AccessControlAllowOrigins=many("*", "https://*.example.org:*", "localhost:3000"))),
    ("ResponseHeadersPolicy", cors(AccessControlAllowMethods=many("ALL"))),
    ("ResponseHeadersPolicy", cors(AccessControlAllowCredentials=True, AccessControlAllowOrigins=many("*.a.test"))),
    ("ResponseHeadersPolicy", custom(("Cache-Control", "no-store"), ("x-a", "a \t b"), ("Server", "x"), ("Vary", ""))),
    ("ResponseHeadersPolicy", removing("Server", "Date", "Vary", "Set-Cookie", "ETag")),
    ("ResponseHeadersPolicy", security(ContentSecurityPolicy={"Override": True, "ContentSecurityPolicy": "x" * 1783})),
    ("ResponseHeadersPolicy", response_headers(ServerTimingHeadersConfig={"Enabled": True, "SamplingRate": 33.3333})),
]  # fmt: skip


@rows(("kind", "config"), ACCEPTED)
def test_accepted(shared: Harness, kind: str, config: dict[str, Any]) -> None:
    id_, _, etag = made(shared, kind, config)
    shared.call(f"Delete{kind}", Id=id_, IfMatch=etag)


def test_the_limits_are_settings(tmp_path: Path) -> None:
    harness = Harness(tmp_path, quotas=Quotas(policy_limits=PolicyLimits(names=11, custom_headers=1)))
    made(harness, "CachePolicy", key(HeadersConfig=headers("whitelist", *ELEVEN)))
    error = harness.refused(
        "CreateResponseHeadersPolicy", ResponseHeadersPolicyConfig=custom(("a", "1"), ("b", "2"))
    )
    assert error.code == "TooManyCustomHeadersInResponseHeadersPolicy"
    harness.close()


# ---- the managed ones


@each_kind
def test_managed_policies_are_read_and_never_changed(harness: Harness, kind: Kind) -> None:
    for id_, config in MANAGED[kind.name].items():
        answer = harness.call(f"Get{kind.name}", Id=id_)
        assert answer[kind.name]["Id"] == id_
        assert answer[kind.name][kind.time].isoformat() == "1970-01-01T00:00:00+00:00"
        returned = answer[kind.name][kind.config]
        assert returned["Name"] == config["Name"]
        assert harness.call(f"Get{kind.config}", Id=id_) == {kind.config: returned, "ETag": answer["ETag"]}
        for version in ({"IfMatch": answer["ETag"]}, {}, {"IfMatch": "E2QWRUHAPOMQZL"}):
            update = harness.refused(f"Update{kind.name}", Id=id_, **version, **{kind.config: returned})
            delete = harness.refused(f"Delete{kind.name}", Id=id_, **version)
            assert (update.code, delete.code) == ("IllegalUpdate", "IllegalDelete")
            assert (update.status, delete.status) == (400, 400)


@each_kind
def test_lists_by_type(harness: Harness, kind: Kind) -> None:
    mine = [made(harness, kind.name, LEAST[kind.name] | {"Name": f"n{number}"})[0] for number in range(3)]

    def ids(**params: str) -> list[str]:
        found: list[str] = []
        while True:
            answer = harness.call(f"List{kind.plural}", **params)[kind.list]
            for item in answer.get("Items", []):
                found.append(item[kind.name]["Id"])
                assert item["Type"] == ("custom" if found[-1] in mine else "managed")
                assert item[kind.name] == harness.call(f"Get{kind.name}", Id=found[-1])[kind.name]
            if "NextMarker" not in answer:
                return found
            params["Marker"] = answer["NextMarker"]

    everything = sorted([*mine, *MANAGED[kind.name]])
    for size in ("1", "2", "100"):
        assert ids(MaxItems=size) == everything
        assert ids(MaxItems=size, Type="managed") == sorted(MANAGED[kind.name])
        assert ids(MaxItems=size, Type="custom") == sorted(mine)
    assert harness.refused(f"List{kind.plural}", Type="own").code == "InvalidArgument"


# ---- distributions and policies


def using(**members: str) -> dict[str, Any]:
    """A DefaultCacheBehavior with policies."""
    behavior = minimal()["DefaultCacheBehavior"]
    for member in ("ForwardedValues", "MinTTL"):
        del behavior[member]
    return {"DefaultCacheBehavior": behavior | {"CachePolicyId": OPTIMIZED} | members}


def served(harness: Harness) -> Any:
    """The default behavior of the only distribution, as edges obey it, and the response headers policies."""
    published = harness.feed.published()
    assert published is not None
    (distribution,) = published.distributions
    return distribution.behaviors[-1], published.response_headers_policies


@each_kind
def test_a_policy_must_exist_and_is_kept_while_it_is_used(harness: Harness, kind: Kind) -> None:
    member = f"{kind.name}Id"
    error = harness.refused("CreateDistribution", DistributionConfig=minimal() | using(**{member: NOBODY}))
    assert (error.code, error.status) == (kind.missing, 404)
    id_, _, etag = made(harness, kind.name, LEAST[kind.name])
    distribution = harness.distribution(**using(**{member: id_}))
    error = harness.refused(f"Delete{kind.name}", Id=id_, IfMatch=etag)
    assert (error.code, error.status) == (kind.in_use, 409)
    config, version = harness.config(distribution["Id"])
    assert config["DefaultCacheBehavior"][member] == id_
    config["DefaultCacheBehavior"] = using(**{member: NOBODY})["DefaultCacheBehavior"]
    error = harness.refused(
        "UpdateDistribution", Id=distribution["Id"], IfMatch=version, DistributionConfig=config
    )
    assert error.code == kind.missing
    config["DefaultCacheBehavior"] = using()["DefaultCacheBehavior"]
    harness.call("UpdateDistribution", Id=distribution["Id"], IfMatch=version, DistributionConfig=config)
    harness.call(f"Delete{kind.name}", Id=id_, IfMatch=etag)


CHANGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("CachePolicy", cache(), cache(DefaultTTL=5)),
    ("CachePolicy", key(), key(QueryStringsConfig={"QueryStringBehavior": "all"})),
    (
        "OriginRequestPolicy",
        origin_request(),
        origin_request(HeadersConfig=headers("whitelist", "Referer")),
    ),
    ("OriginRequestPolicy", origin_request(), origin_request(CookiesConfig={"CookieBehavior": "all"})),
    ("ResponseHeadersPolicy", cors(), cors(AccessControlMaxAgeSec=5)),
    ("ResponseHeadersPolicy", response_headers(), removing("server")),
]


@pytest.mark.parametrize(("kind", "before", "after"), CHANGES)
def test_a_change_is_a_change_of_whoever_uses_it(
    harness: Harness, kind: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    id_, config, etag = made(harness, kind, before)
    distribution = harness.distribution(**using(**{f"{kind}Id": id_}))["Id"]
    other = harness.distribution("two", **using())["Id"]
    harness.report()

    def state(id_: str) -> tuple[str, str]:
        answer = harness.call("GetDistribution", Id=id_)
        return answer["Distribution"]["Status"], answer["ETag"]

    deployed, unconcerned, number = state(distribution), state(other), harness.number()
    assert deployed[0] == unconcerned[0] == "Deployed"
    # Neither its name nor its comment matters to an edge, nor does the spelling of its list items.
    quiet = config | {"Comment": "new", "Name": "other"}
    etag = harness.call(f"Update{kind}", Id=id_, IfMatch=etag, **{f"{kind}Config": quiet})["ETag"]
    assert (state(distribution), harness.number()) == (deployed, number)
    etag = harness.call(f"Update{kind}", Id=id_, IfMatch=etag, **{f"{kind}Config": after})["ETag"]
    assert harness.number() == number + 1
    status, version = state(distribution)
    assert (status, version != deployed[1]) == ("InProgress", True)
    assert state(other) == unconcerned
    harness.report()
    assert state(distribution) == ("Deployed", version)
    # A refused change changes nothing.
    harness.refused(f"Update{kind}", Id=id_, IfMatch=etag, **{f"{kind}Config": after | {"Name": "two words"}})
    assert (state(distribution), harness.number()) == (("Deployed", version), number + 1)


def test_what_edges_get(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    key_config = key(
        EnableAcceptEncodingGzip=True,
        HeadersConfig=headers("whitelist", "X-Lang"),
        QueryStringsConfig=query("whitelist", "page"),
    )
    ttl = {"MinTTL": 1, "DefaultTTL": 2, "MaxTTL": 3}
    cache_policy, cache_config, cache_etag = made(harness, "CachePolicy", key_config | ttl)
    sent = origin_request(
        CookiesConfig=cookies("whitelist", "session"), HeadersConfig=headers("whitelist", "Referer")
    )
    request_policy, _, _ = made(harness, "OriginRequestPolicy", sent)
    told = {**cors(), **custom(("X-A", "1"))}
    headers_policy, _, headers_etag = made(harness, "ResponseHeadersPolicy", told)
    unused = made(harness, "ResponseHeadersPolicy", response_headers(Name="unused"))[0]
    distribution = harness.distribution(
        **using(
            CachePolicyId=cache_policy,
            OriginRequestPolicyId=request_policy,
            ResponseHeadersPolicyId=headers_policy,
        )
    )
    behavior, policies = served(harness)
    assert (behavior.min_ttl, behavior.default_ttl, behavior.max_ttl) == (1, 2, 3)
    assert (behavior.accept_gzip, behavior.accept_brotli) == (True, False)
    assert (behavior.key_headers, behavior.key_query) == (
        Select("whitelist", ("x-lang",)),
        Select("whitelist", ("page",)),
    )
    assert behavior.forward_headers == Select("whitelist", ("x-lang", "referer"))
    assert behavior.forward_cookies == Select("whitelist", ("session",))
    expected = ResponseHeadersPolicy(
        headers_policy,
        headers=(ResponseHeader("x-a", "1", True),),
        cors=Cors(("https://app.example.org",), ("x-token",), ("GET",), override=True),
    )
    assert policies == (expected,)
    changed = cache_config | {"DefaultTTL": 3, "MaxTTL": 3}
    harness.call("UpdateCachePolicy", Id=cache_policy, IfMatch=cache_etag, CachePolicyConfig=changed)
    assert served(harness)[0].default_ttl == 3
    harness.call(
        "UpdateResponseHeadersPolicy",
        Id=headers_policy,
        IfMatch=headers_etag,
        ResponseHeadersPolicyConfig=removing("server"),
    )
    assert served(harness)[1] == (ResponseHeadersPolicy(headers_policy, remove=("server",)),)
    # After a restart nothing differs, so nothing is published.
    number, before = harness.number(), harness.feed.published()
    harness.close()
    harness = Harness(tmp_path, seed=2)
    assert (harness.number(), harness.feed.published()) == (number, before)
    # A managed one is published in its place, and an unused one is not.
    config, etag = harness.config(distribution["Id"])
    config["DefaultCacheBehavior"]["ResponseHeadersPolicyId"] = SECURITY
    harness.call("UpdateDistribution", Id=distribution["Id"], IfMatch=etag, DistributionConfig=config)
    (security_policy,) = served(harness)[1]
    assert security_policy.id == SECURITY
    assert ResponseHeader("x-content-type-options", "nosniff", True) in security_policy.headers
    for id_ in (headers_policy, unused):
        harness.call(
            "DeleteResponseHeadersPolicy", Id=id_, IfMatch=harness.etag("ResponseHeadersPolicy", id_)
        )
    harness.close()


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("CachePolicy", {"MinTTL": 9, "DefaultTTL": 8}),
        ("ResponseHeadersPolicy", {"RemoveHeadersConfig": many({"Header": "connection"})}),
    ],
)
def test_what_an_upgrade_has_outlawed_goes_on_until_it_is_mended(
    tmp_path: Path, kind: str, broken: dict[str, Any]
) -> None:
    harness = Harness(tmp_path)
    id_, config, _ = made(harness, kind, LEAST[kind])
    distribution = harness.distribution(**using(**{f"{kind}Id": id_}))["Id"]
    before = served(harness)
    harness.close()
    store = Store(tmp_path / "keyfront.db")
    with store.write() as transaction:  # as stored by an older, laxer Keyfront
        for kind_name, key_, change in ((kind, id_, config | broken), ("Distribution", distribution, None)):
            row = transaction.get(kind_name, key_)
            assert row is not None
            other = {"etag": f"{row.etag[:-1]}0"} | ({"config": change} if change else {})
            transaction.update(msgspec.structs.replace(row, **other))
    store.close()
    harness = Harness(tmp_path, seed=2)
    assert served(harness) == before
    harness.distribution("two", **using())
    mended = LEAST[kind] | {"Comment": "mended"}
    harness.call(f"Update{kind}", Id=id_, IfMatch=harness.etag(kind, id_), **{f"{kind}Config": mended})
    harness.call(
        "DeleteDistribution",
        Id=_off(harness, distribution),
        IfMatch=harness.etag("Distribution", distribution),
    )
    harness.close()


def _off(harness: Harness, id_: str) -> str:
    config, etag = harness.config(id_)
    harness.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config | {"Enabled": False})
    harness.report()
    return id_


@each_kind
def test_which_distributions_use_a_policy(harness: Harness, kind: Kind) -> None:
    member, operation = f"{kind.name}Id", f"ListDistributionsBy{kind.name}Id"
    own = made(harness, kind.name, LEAST[kind.name])[0]
    one_managed, other_managed = sorted(set(MANAGED[kind.name]) - {OPTIMIZED})[:2]

    def ids(policy: str, size: int = 100) -> list[str]:
        found: list[str] = []
        marker = ""
        while True:
            answer = harness.call(operation, **{member: policy}, MaxItems=str(size), Marker=marker)[
                "DistributionIdList"
            ]
            assert (answer["Marker"], answer["MaxItems"], answer["Quantity"]) == (
                marker,
                size,
                len(answer.get("Items", [])),
            )
            found += answer.get("Items", [])
            if not answer["IsTruncated"]:
                assert "NextMarker" not in answer
                return found
            marker = answer["NextMarker"]

    assert ids(own) == ids(one_managed) == []
    users = {
        policy: sorted(
            harness.distribution(f"{policy}{n}", **using(**{member: policy}))["Id"] for n in range(3)
        )
        for policy in (own, one_managed)
    }
    twice = harness.distribution("twice", **using(**{member: own}))
    config, etag = harness.config(twice["Id"])
    config["CacheBehaviors"] = many(
        config["DefaultCacheBehavior"] | {"PathPattern": "/a", member: one_managed}
    )
    harness.call("UpdateDistribution", Id=twice["Id"], IfMatch=etag, DistributionConfig=config)
    for size in (1, 2, 100):
        for policy, expected in users.items():
            assert ids(policy, size) == sorted([*expected, twice["Id"]])
    assert ids(other_managed) == []
    error = harness.refused(operation, **{member: NOBODY})
    assert (error.code, error.status) == (kind.missing, 404)
    assert harness.refused(operation, **{member: own}, MaxItems="0").code == "InvalidArgument"
    assert harness.refused(operation, **{member: own}, Marker="nonsense").code == "InvalidArgument"


@each_kind
def test_a_policy_can_have_so_many_distributions(tmp_path: Path, kind: Kind) -> None:
    words = {"CachePolicy": "cache_policy", "OriginRequestPolicy": "origin_request_policy"}
    quota = f"distributions_per_{words.get(kind.name, 'response_headers_policy')}"
    harness = Harness(tmp_path, quotas=msgspec.structs.replace(Quotas(), **{quota: 2}))
    id_ = made(harness, kind.name, LEAST[kind.name])[0]
    for number in range(2):
        harness.distribution(str(number), **using(**{f"{kind.name}Id": id_}))
    config = minimal("three") | using(**{f"{kind.name}Id": id_})
    error = harness.refused("CreateDistribution", DistributionConfig=config)
    assert (error.code, error.status) == (f"TooManyDistributionsAssociatedTo{kind.name}", 400)
    harness.close()


# ---- over the wire


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.mark.parametrize(("number", "returned"), list(enumerate(RETURNED)))
def test_boto3(plane: Plane, number: int, returned: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    kind, given, complete = returned
    name = f"boto3-{number}"
    snake = "".join("_" + letter.lower() if letter.isupper() else letter for letter in kind).lstrip("_")
    client = plane.client()

    def call(operation: str, **params: Any) -> Any:
        answer = getattr(client, operation)(**params)
        answer.pop("ResponseMetadata")
        return answer

    answer = call(f"create_{snake}", **{f"{kind}Config": given | {"Name": name}})
    assert answer["Location"].endswith(answer[kind]["Id"])
    expected = complete | {"Name": name}
    assert answer[kind][f"{kind}Config"] == expected
    id_ = answer[kind]["Id"]
    assert call(f"get_{snake}", Id=id_)[kind] == answer[kind]
    read = call(f"get_{snake}_config", Id=id_)
    assert read[f"{kind}Config"] == expected
    with pytest.raises(ClientError) as caught:
        call(f"create_{snake}", **{f"{kind}Config": given | {"Name": name}})
    assert caught.value.response["Error"]["Code"] == f"{kind}AlreadyExists"
    updated = call(
        f"update_{snake}", Id=id_, IfMatch=read["ETag"], **{f"{kind}Config": expected | {"Comment": "x"}}
    )
    plural = f"{snake[:-1]}ies"
    listed = call(f"list_{plural}", Type="custom")[f"{kind}List"]["Items"]
    assert {"Type": "custom", kind: updated[kind]} in listed
    names = [
        item[kind][f"{kind}Config"]["Name"]
        for item in call(f"list_{plural}", Type="managed")[f"{kind}List"]["Items"]
    ]
    assert sorted(names) == sorted(config["Name"] for config in MANAGED[kind].values())
    config = distribution_config(name, [])
    behavior = config["DefaultCacheBehavior"]
    for member in ("ForwardedValues", "MinTTL"):
        del behavior[member]
    behavior |= {"CachePolicyId": OPTIMIZED} | {f"{kind}Id": id_}
    distribution = call("create_distribution", DistributionConfig=config)["Distribution"]["Id"]
    users = call(f"list_distributions_by_{snake}_id", **{f"{kind}Id": id_})["DistributionIdList"]
    assert users["Items"] == [distribution]
    with pytest.raises(ClientError) as caught:
        call(f"delete_{snake}", Id=id_, IfMatch=updated["ETag"])
    assert caught.value.response["Error"]["Code"] == f"{kind}InUse"
    read = call("get_distribution_config", Id=distribution)
    off = call(
        "update_distribution",
        Id=distribution,
        IfMatch=read["ETag"],
        DistributionConfig=read["DistributionConfig"] | {"Enabled": False},
    )
    plane.obey()
    call("delete_distribution", Id=distribution, IfMatch=off["ETag"])
    call(f"delete_{snake}", Id=id_, IfMatch=updated["ETag"])
    with pytest.raises(ClientError) as caught:
        call(f"get_{snake}", Id=id_)
    assert caught.value.response["Error"]["Code"] == f"NoSuch{kind}"


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules/@aws-sdk/client-cloudfront").exists(),
    reason="node or @aws-sdk/client-cloudfront is not installed",
)
def test_the_sdk_for_javascript(plane: Plane) -> None:
    configs = [
        [kind, given | {"Name": f"js-{n}"}, returned | {"Name": f"js-{n}"}]
        for n, (kind, given, returned) in enumerate(RETURNED)
    ]
    done = run(plane, "node", str(NODE / "policies.mjs"), json.dumps(configs))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"made": len(configs)}


def test_every_operation_of_policies_is_built() -> None:
    assert {f"List{kind.plural}" for kind in TYPED} <= OPERATIONS.keys()
    assert CACHE_POLICY in TYPED
