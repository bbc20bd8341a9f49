"""Compiling a DistributionConfig gives what an edge obeys, or the list of all problems with it.

Tables of cases: what is accepted, what is refused and with which of the API's errors (cloudfront-semantics §5).
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from hypothesis import given
from hypothesis import strategies as st

from keyfront.model.access import IDENTITY
from keyfront.model.compile import (
    Limits,
    Lookup,
    Problem,
    compile_cache_policy,
    compile_distribution,
    compile_origin_request_policy,
    compile_snapshot,
)
from keyfront.model.managed import CACHE_POLICIES, ORIGIN_REQUEST_POLICIES
from keyfront.model.snapshot import (
    Behavior,
    Distribution,
    ErrorResponse,
    Geo,
    KeyGroup,
    Origin,
    OriginGroup,
    PublicKey,
    Select,
    from_bytes,
)
from keyfront.model.supported_members import OBEYED, REFUSED
from tests.model.configs import (
    ALL_BUT_HOST,
    ALL_VIEWER,
    AMPLIFY,
    ARN,
    CORS_S3,
    DISABLED,
    DOMAIN_NAME,
    GROUP,
    LOOKUP,
    OPTIMIZED,
    OTHER_GROUP,
    SECURITY,
    behavior,
    bucket,
    compiled,
    config,
    legacy,
    many,
    origin,
    problems,
)
from tests.rows import rows

MODEL = ServiceModel(Loader().load_service_model("cloudfront", "service-2"))

CUSTOM = origin()["CustomOriginConfig"]
ALL_METHODS = many("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")


def test_the_smallest_config() -> None:
    assert compiled() == Distribution(
        id="E2VY6GYSB2RFYS",
        arn=ARN,
        domain_name="d111.cloudfront.localhost",
        origins=(Origin(id="app", domain_name="origin.example.com"),),
        behaviors=(
            Behavior(
                path_pattern="*",
                target_origin_id="app",
                min_ttl=1,
                default_ttl=86400,
                max_ttl=31536000,
                accept_gzip=True,
                accept_brotli=True,
            ),
        ),
    )


def test_a_whole_config_travels_as_bytes() -> None:
    whole = compiled(
        Aliases=many("Media.Example.COM", "*.example.org"),
        DefaultRootObject="index.html",
        Enabled=False,
        Logging={"Enabled": False, "IncludeCookies": True, "Bucket": "", "Prefix": ""},
        Origins=many(
            origin(
                OriginPath="/v1",
                CustomHeaders=many({"HeaderName": "X-Origin-Secret", "HeaderValue": "s3 cret"}),
                ConnectionAttempts=2,
                ConnectionTimeout=4,
                ResponseCompletionTimeout=90,
                CustomOriginConfig={
                    "HTTPPort": 8000,
                    "HTTPSPort": 8443,
                    "OriginProtocolPolicy": "match-viewer",
                    "OriginSslProtocols": many("TLSv1.1", "TLSv1.2"),
                    "OriginReadTimeout": 60,
                    "OriginKeepaliveTimeout": 7,
                },
            ),
            bucket(),
        ),
        OriginGroups=many(
            {
                "Id": "both",
                "FailoverCriteria": {"StatusCodes": many(503, 500)},
                "Members": many({"OriginId": "app"}, {"OriginId": "media"}),
            }
        ),
        DefaultCacheBehavior=behavior(TargetOriginId="both", ViewerProtocolPolicy="redirect-to-https"),
        CacheBehaviors=many(
            behavior(
                PathPattern="/private/*",
                TrustedKeyGroups={"Enabled": True, **many(GROUP, OTHER_GROUP)},
                AllowedMethods={**ALL_METHODS, "CachedMethods": many("GET", "HEAD", "OPTIONS")},
                Compress=True,
                ResponseHeadersPolicyId=SECURITY,
            )
        ),
        CustomErrorResponses=many(
            {
                "ErrorCode": 403,
                "ResponsePagePath": "/denied.html",
                "ResponseCode": "200",
                "ErrorCachingMinTTL": 0,
            },
            {"ErrorCode": 500},
        ),
        Restrictions={"GeoRestriction": {"RestrictionType": "whitelist", **many("de", "FR", "DE")}},
    )
    assert (whole.aliases, whole.default_root_object, whole.enabled, whole.log_cookies) == (
        ("media.example.com", "*.example.org"),
        "index.html",
        False,
        True,
    )
    assert whole.origins == (
        Origin(
            id="app",
            domain_name="origin.example.com",
            path="/v1",
            protocol_policy="match-viewer",
            http_port=8000,
            https_port=8443,
            ssl_protocols=("TLSv1.1", "TLSv1.2"),
            read_timeout=60.0,
            keepalive_timeout=7.0,
            connection_attempts=2,
            connection_timeout=4.0,
            response_completion_timeout=90.0,
            custom_headers=(("X-Origin-Secret", "s3 cret"),),
        ),
        Origin(
            id="media",
            domain_name="bucket.s3.eu-west-1.amazonaws.com",
            kind="s3",
            protocol_policy="https-only",
        ),
    )
    assert whole.origin_groups == (OriginGroup("both", ("app", "media"), (500, 503)),)
    private, default = whole.behaviors
    assert (private.path_pattern, default.path_pattern) == ("/private/*", "*")
    assert (private.restricted, private.trusted_key_groups) == (True, (GROUP, OTHER_GROUP))
    assert set(private.allowed_methods) == {"GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"}
    assert private.cached_methods == ("GET", "HEAD", "OPTIONS")
    assert (private.compress, private.response_headers_policy_id) == (True, SECURITY)
    assert (default.viewer_protocol_policy, default.target_origin_id) == ("redirect-to-https", "both")
    assert whole.error_responses == (
        ErrorResponse(403, min_ttl=0, page_path="/denied.html", response_code=200),
        ErrorResponse(500, min_ttl=10),
    )
    assert whole.geo == Geo("whitelist", ("DE", "FR"))
    snapshot = compile_snapshot([whole], [], [], 1, 0.0)
    assert from_bytes(snapshot.to_bytes()) == snapshot


def test_a_config_is_not_changed_by_being_read() -> None:
    given_ = config(DefaultCacheBehavior=legacy(), Aliases=many("A.example.com"))
    before = copy.deepcopy(given_)
    compile_distribution("E", ARN, DOMAIN_NAME, given_, LOOKUP)
    assert given_ == before


# The effect of one member. For each obeyed member: two configs that differ only in it, or nearly so.

Members = dict[str, Any]


def geo(kind: str, *countries: str) -> Members:
    return {"Restrictions": {"GeoRestriction": {"RestrictionType": kind, **many(*countries)}}}


def app(**members: Any) -> Members:
    return {"Origins": many(origin(**members), origin("other"))}


def shield(region: str, *, enabled: bool = True) -> Members:
    return app(OriginShield={"Enabled": enabled, "OriginShieldRegion": region})


def custom(**members: Any) -> Members:
    return app(CustomOriginConfig={**CUSTOM, **members})


def group(own: str = "g", codes: tuple[int, ...] = (500,), *members: str) -> Members:
    return {
        "Origins": many(origin(), origin("other"), origin("third")),
        "OriginGroups": many(
            {
                "Id": own,
                "FailoverCriteria": {"StatusCodes": many(*codes)},
                "Members": many(*({"OriginId": member} for member in members or ("app", "other"))),
            }
        ),
    }


def default(**members: Any) -> Members:
    return {"DefaultCacheBehavior": behavior(**members)}


def values(**members: Any) -> Members:
    return {"DefaultCacheBehavior": legacy(ForwardedValues=forwarded(**members))}


def forwarded(**members: Any) -> Members:
    return {"QueryString": False, "Cookies": {"Forward": "none"}, **members}


def page(**members: Any) -> Members:
    return {
        "CustomErrorResponses": many(
            {"ErrorCode": 404, "ResponsePagePath": "/a", "ResponseCode": "200", "ErrorCachingMinTTL": 1}
            | members
        )
    }


def header(name: str = "X-Secret", value: str = "a") -> Members:
    return app(CustomHeaders=many({"HeaderName": name, "HeaderValue": value}))


def log(**members: Any) -> Members:
    return {"Logging": {"Enabled": True, "IncludeCookies": False, "Bucket": "a", "Prefix": ""} | members}


TRUSTED = {"Enabled": True, **many(GROUP)}
NAMED = {"Forward": "whitelist", "WhitelistedNames": many("a*")}

CHANGES: dict[str, tuple[Members, Members]] = {
    "Aliases[]": ({"Aliases": many("a.example.com")}, {"Aliases": many("b.example.com")}),
    "DefaultRootObject": ({"DefaultRootObject": "a"}, {"DefaultRootObject": "b"}),
    "Enabled": ({"Enabled": True}, {"Enabled": False}),
    "HttpVersion": ({}, {"HttpVersion": "http1.1"}),
    "Staging": ({"Staging": False}, {"Staging": True}),
    "Logging.Enabled": (log(Enabled=False), log()),
    "Logging.Bucket": (log(), log(Bucket="b.s3.amazonaws.com")),
    "Logging.Prefix": (log(), log(Prefix="cdn/")),
    "Logging.IncludeCookies": ({"Logging": {"IncludeCookies": True}}, {"Logging": {"IncludeCookies": False}}),
    "Origins[].Id": (app(), {"Origins": many(origin(), origin("x"))}),
    "Origins[].DomainName": (app(DomainName="a"), app(DomainName="b")),
    "Origins[].OriginPath": (app(OriginPath=""), app(OriginPath="/a")),
    "Origins[].CustomHeaders[].HeaderName": (header("A"), header("B")),
    "Origins[].CustomHeaders[].HeaderValue": (header(value="a"), header(value="")),
    "Origins[].S3OriginConfig.OriginReadTimeout": (
        {"Origins": many(origin(), bucket())},
        {
            "Origins": many(
                origin(), bucket(S3OriginConfig={"OriginAccessIdentity": "", "OriginReadTimeout": 5})
            )
        },
    ),
    "Origins[].S3OriginConfig.OriginAccessIdentity": (
        {"Origins": many(origin(), bucket())},
        {"Origins": many(origin(), bucket(S3OriginConfig={"OriginAccessIdentity": IDENTITY + "E1"}))},
    ),
    "Origins[].OriginAccessControlId": (
        app(OriginAccessControlId="EALWAYS"),
        app(OriginAccessControlId="ENOOVERRIDE"),
    ),
    "Origins[].CustomOriginConfig.HTTPPort": (custom(HTTPPort=80), custom(HTTPPort=1024)),
    "Origins[].CustomOriginConfig.HTTPSPort": (custom(HTTPSPort=443), custom(HTTPSPort=65535)),
    "Origins[].CustomOriginConfig.OriginProtocolPolicy": (
        custom(OriginProtocolPolicy="http-only"),
        custom(OriginProtocolPolicy="https-only"),
    ),
    "Origins[].CustomOriginConfig.OriginSslProtocols[]": (
        custom(OriginSslProtocols=many("TLSv1.2")),
        custom(OriginSslProtocols=many("SSLv3", "TLSv1")),
    ),
    "Origins[].CustomOriginConfig.OriginReadTimeout": (
        custom(OriginReadTimeout=1),
        custom(OriginReadTimeout=120),
    ),
    "Origins[].CustomOriginConfig.OriginKeepaliveTimeout": (
        custom(OriginKeepaliveTimeout=1),
        custom(OriginKeepaliveTimeout=120),
    ),
    "Origins[].ConnectionAttempts": (app(ConnectionAttempts=1), app(ConnectionAttempts=3)),
    "Origins[].ConnectionTimeout": (app(ConnectionTimeout=1), app(ConnectionTimeout=10)),
    "Origins[].OriginShield.Enabled": (shield("eu-west-1"), shield("eu-west-1", enabled=False)),
    "Origins[].OriginShield.OriginShieldRegion": (shield("eu-west-1"), shield("us-gov-west-1")),
    "Origins[].ResponseCompletionTimeout": (
        app(ResponseCompletionTimeout=0),
        app(ResponseCompletionTimeout=30),
    ),
    "OriginGroups[].Id": (group("g"), group("h")),
    "OriginGroups[].FailoverCriteria.StatusCodes[]": (group("g", (500,)), group("g", (404,))),
    "OriginGroups[].Members[].OriginId": (
        group("g", (500,), "app", "other"),
        group("g", (500,), "other", "app"),
    ),
    "CacheBehavior.PathPattern": (
        {"CacheBehaviors": many(behavior(PathPattern="/a"))},
        {"CacheBehaviors": many(behavior(PathPattern="/b"))},
    ),
    "CacheBehavior.TargetOriginId": (app() | default(), app() | default(TargetOriginId="other")),
    "CacheBehavior.ViewerProtocolPolicy": (default(), default(ViewerProtocolPolicy="https-only")),
    "CacheBehavior.TrustedKeyGroups.Enabled": (default(), default(TrustedKeyGroups=TRUSTED)),
    "CacheBehavior.TrustedKeyGroups[]": (
        default(TrustedKeyGroups=TRUSTED),
        default(TrustedKeyGroups={"Enabled": True, **many(OTHER_GROUP)}),
    ),
    "CacheBehavior.AllowedMethods[]": (default(), default(AllowedMethods=many("GET", "HEAD", "OPTIONS"))),
    "CacheBehavior.AllowedMethods.CachedMethods[]": (
        default(AllowedMethods={**ALL_METHODS, "CachedMethods": many("GET", "HEAD")}),
        default(AllowedMethods={**ALL_METHODS, "CachedMethods": many("GET", "HEAD", "OPTIONS")}),
    ),
    "CacheBehavior.Compress": (default(Compress=False), default(Compress=True)),
    "CacheBehavior.MinTTL": (
        {"DefaultCacheBehavior": legacy(MinTTL=0)},
        {"DefaultCacheBehavior": legacy(MinTTL=1)},
    ),
    "CacheBehavior.DefaultTTL": (
        {"DefaultCacheBehavior": legacy(DefaultTTL=0)},
        {"DefaultCacheBehavior": legacy(DefaultTTL=1)},
    ),
    "CacheBehavior.MaxTTL": (
        {"DefaultCacheBehavior": legacy(DefaultTTL=0, MaxTTL=0)},
        {"DefaultCacheBehavior": legacy(DefaultTTL=0, MaxTTL=1)},
    ),
    "CacheBehavior.CachePolicyId": (default(), default(CachePolicyId=DISABLED)),
    "CacheBehavior.OriginRequestPolicyId": (default(), default(OriginRequestPolicyId=ALL_VIEWER)),
    "CacheBehavior.ResponseHeadersPolicyId": (default(), default(ResponseHeadersPolicyId=SECURITY)),
    "CacheBehavior.ForwardedValues.QueryString": (values(QueryString=False), values(QueryString=True)),
    "CacheBehavior.ForwardedValues.QueryStringCacheKeys[]": (
        values(QueryString=True),
        values(QueryString=True, QueryStringCacheKeys=many("a")),
    ),
    "CacheBehavior.ForwardedValues.Cookies.Forward": (values(), values(Cookies={"Forward": "all"})),
    "CacheBehavior.ForwardedValues.Cookies.WhitelistedNames[]": (
        values(Cookies=NAMED),
        values(Cookies={"Forward": "whitelist", "WhitelistedNames": many("b")}),
    ),
    "CacheBehavior.ForwardedValues.Headers[]": (values(), values(Headers=many("Accept"))),
    "CustomErrorResponses[].ErrorCode": (page(), page(ErrorCode=403)),
    "CustomErrorResponses[].ResponsePagePath": (page(), page(ResponsePagePath="/b?c")),
    "CustomErrorResponses[].ResponseCode": (page(), page(ResponseCode="404")),
    "CustomErrorResponses[].ErrorCachingMinTTL": (page(), page(ErrorCachingMinTTL=2)),
    "Restrictions.GeoRestriction.RestrictionType": (geo("whitelist", "DE"), geo("blacklist", "DE")),
    "Restrictions.GeoRestriction[]": (geo("whitelist", "DE"), geo("whitelist", "FR")),
    "CacheTagConfig.HeaderName": ({}, {"CacheTagConfig": {"HeaderName": "Cache-Tag"}}),
}


def test_each_obeyed_member_has_an_example() -> None:
    assert CHANGES.keys() == OBEYED


@rows("path", CHANGES)
def test_obeyed(path: str) -> None:
    one, other = CHANGES[path]
    assert compiled(**one) != compiled(**other)


# The defaults of absent members


def test_absent_and_null_and_empty_mean_the_default() -> None:
    absent = compiled(DefaultCacheBehavior=legacy())
    assert absent == compiled(
        Aliases=None,
        DefaultRootObject="",
        OriginGroups=many(),
        CacheBehaviors={"Quantity": 0, "Items": []},
        CustomErrorResponses=None,
        Restrictions={"GeoRestriction": {"RestrictionType": "none", "Quantity": 0}},
        Origins=many(
            origin(
                OriginPath=None,
                CustomHeaders=many(),
                ConnectionAttempts=3,
                ConnectionTimeout=10,
                CustomOriginConfig={
                    **CUSTOM,
                    "OriginReadTimeout": 30,
                    "OriginKeepaliveTimeout": 5,
                    "OriginSslProtocols": many("TLSv1.2"),
                },
            )
        ),
        DefaultCacheBehavior=legacy(
            TrustedKeyGroups={"Enabled": False, "Quantity": 0},
            TrustedSigners={"Enabled": False, "Quantity": 0},
            AllowedMethods={**many("GET", "HEAD"), "CachedMethods": many("GET", "HEAD")},
            CachePolicyId="",
            OriginRequestPolicyId="",
            ResponseHeadersPolicyId="",
            MinTTL=0,
            DefaultTTL=86400,
            MaxTTL=31536000,
            Compress=False,
            ForwardedValues={
                "QueryString": False,
                "Cookies": {"Forward": "none", "WhitelistedNames": many("left", "over")},
                "Headers": many(),
                "QueryStringCacheKeys": many(),
            },
        ),
    )


TTLS = [
    # given, then (min, default, max)
    ({}, (0, 86400, 31536000)),
    ({"MinTTL": 100}, (100, 86400, 31536000)),
    ({"MinTTL": 100_000}, (100_000, 100_000, 31536000)),
    ({"MinTTL": 40_000_000}, (40_000_000, 40_000_000, 40_000_000)),
    ({"DefaultTTL": 40_000_000}, (0, 40_000_000, 40_000_000)),
    ({"MinTTL": 0, "DefaultTTL": 0, "MaxTTL": 0}, (0, 0, 0)),
    ({"MinTTL": 5, "DefaultTTL": 5, "MaxTTL": 5}, (5, 5, 5)),
    ({"MaxTTL": 3_153_600_000}, (0, 86400, 3_153_600_000)),
]


@rows(("given_", "ttl"), TTLS)
def test_ttl(given_: Members, ttl: tuple[int, int, int]) -> None:
    (one,) = compiled(DefaultCacheBehavior=legacy(**given_)).behaviors
    assert (one.min_ttl, one.default_ttl, one.max_ttl) == ttl
    assert one.caches is (ttl[2] > 0)
    policy = {"p": {"Name": "p", "MinTTL": 0, **given_, "ParametersInCacheKeyAndForwardedToOrigin": KEY}}
    (same,) = compiled(Lookup(cache_policies=policy), **default(CachePolicyId="p")).behaviors
    assert (same.min_ttl, same.default_ttl, same.max_ttl) == ttl


KEY: Members = {
    "EnableAcceptEncodingGzip": False,
    "HeadersConfig": {"HeaderBehavior": "none"},
    "CookiesConfig": {"CookieBehavior": "none"},
    "QueryStringsConfig": {"QueryStringBehavior": "none"},
}


# The cache key and what is forwarded, §5.7


def whitelist(*names: str) -> Select:
    return Select("whitelist", names)


ALL = Select("all")
NONE = Select()

LEGACY: list[tuple[Members, Members]] = [
    (
        {},
        {
            "key_headers": NONE,
            "key_cookies": NONE,
            "key_query": NONE,
            "forward_query": NONE,
            "accept_gzip": True,
        },
    ),
    ({"QueryString": True}, {"key_query": ALL, "forward_query": ALL}),
    (
        {"QueryString": True, "QueryStringCacheKeys": many("b", "A", "b")},
        {"key_query": whitelist("b", "A"), "forward_query": ALL},
    ),
    ({"QueryString": True, "QueryStringCacheKeys": many("*")}, {"key_query": ALL, "forward_query": ALL}),
    ({"Cookies": {"Forward": "all"}}, {"key_cookies": ALL, "forward_cookies": ALL}),
    ({"Cookies": NAMED}, {"key_cookies": whitelist("a*"), "forward_cookies": whitelist("a*")}),
    (
        {"Headers": many("Origin", "HOST", "origin")},
        {"key_headers": whitelist("origin", "host"), "forward_headers": whitelist("origin", "host")},
    ),
    (
        {"Headers": many("*")},
        {
            "key_headers": ALL,
            "forward_headers": ALL,
            "accept_gzip": False,
            "caches": False,
            "compress": False,
        },
    ),
    (
        {"Headers": many("Accept-Encoding")},
        {"key_headers": whitelist("accept-encoding"), "accept_gzip": False, "compress": False},
    ),
    ({"Headers": many("CloudFront-Viewer-Country")}, {"key_headers": whitelist("cloudfront-viewer-country")}),
]


@rows(("given_", "expected"), LEGACY)
def test_forwarded_values(given_: Members, expected: Members) -> None:
    (one,) = compiled(
        DefaultCacheBehavior=legacy(ForwardedValues=forwarded(**given_), Compress=True)
    ).behaviors
    assert {name: getattr(one, name) for name in expected} == expected
    assert one.legacy
    assert not one.accept_brotli


def policy_behavior(cache: Members, sent: Members | None = None) -> Behavior:
    lookup = Lookup(
        cache_policies={
            "c": {"Name": "c", "MinTTL": 0, "ParametersInCacheKeyAndForwardedToOrigin": {**KEY, **cache}}
        },
        origin_request_policies={"o": {"Name": "o", **(sent or {})}},
    )
    members = behavior(CachePolicyId="c", Compress=True)
    if sent is not None:
        members["OriginRequestPolicyId"] = "o"
    (one,) = compiled(lookup, DefaultCacheBehavior=members).behaviors
    return one


def headers(mode: str, *names: str) -> Members:
    return {"HeadersConfig": {"HeaderBehavior": mode, "Headers": many(*names)}}


def cookies(mode: str, *names: str) -> Members:
    return {"CookiesConfig": {"CookieBehavior": mode, "Cookies": many(*names)}}


def query(mode: str, *names: str) -> Members:
    return {"QueryStringsConfig": {"QueryStringBehavior": mode, "QueryStrings": many(*names)}}


SENT: Members = headers("none") | cookies("none") | query("none")

POLICIES: list[tuple[Members, Members | None, Members]] = [
    ({}, None, {"forward_headers": NONE, "accept_gzip": False, "accept_brotli": False, "compress": False}),
    ({}, SENT, {"forward_headers": NONE, "forward_cookies": NONE, "forward_query": NONE}),
    (
        {"EnableAcceptEncodingGzip": True},
        None,
        {"accept_gzip": True, "accept_brotli": False, "compress": True},
    ),
    (
        {"EnableAcceptEncodingBrotli": True},
        None,
        {"accept_gzip": False, "accept_brotli": True, "compress": True},
    ),
    (
        {"EnableAcceptEncodingGzip": True, **headers("whitelist", "Accept-Encoding")},
        None,
        {"accept_gzip": False, "compress": False, "key_headers": whitelist("accept-encoding")},
    ),
    (
        {"EnableAcceptEncodingGzip": True},
        SENT | headers("whitelist", "Accept-Encoding"),
        {"accept_gzip": True, "compress": True, "forward_headers": NONE},
    ),
    (
        headers("whitelist", "Origin") | cookies("whitelist", "a") | query("allExcept", "b"),
        None,
        {
            "key_headers": whitelist("origin"),
            "forward_headers": whitelist("origin"),
            "key_cookies": whitelist("a"),
            "forward_cookies": whitelist("a"),
            "key_query": Select("allExcept", ("b",)),
            "forward_query": Select("allExcept", ("b",)),
        },
    ),
    (
        headers("whitelist", "Origin") | cookies("whitelist", "a") | query("whitelist", "x"),
        headers("whitelist", "Accept", "origin") | cookies("all") | query("allExcept", "x", "y"),
        {
            "key_headers": whitelist("origin"),
            "forward_headers": whitelist("origin", "accept"),
            "key_cookies": whitelist("a"),
            "forward_cookies": ALL,
            "key_query": whitelist("x"),
            "forward_query": Select("allExcept", ("y",)),
        },
    ),
    (
        headers("whitelist", "Host"),
        SENT | headers("allExcept", "Host"),
        {"key_headers": whitelist("host"), "forward_headers": ALL},
    ),
    (
        cookies("allExcept", "a", "b") | query("all"),
        SENT | cookies("allExcept", "b", "c"),
        {"forward_cookies": Select("allExcept", ("b",)), "forward_query": ALL},
    ),
    (
        headers("whitelist", "CloudFront-Viewer-Country", "Host"),
        SENT | headers("allViewer"),
        {"forward_headers": Select("all", ("cloudfront-viewer-country",))},
    ),
    (
        {},
        SENT | headers("allViewerAndWhitelistCloudFront", "CloudFront-Viewer-Address"),
        {"forward_headers": Select("all", ("cloudfront-viewer-address",)), "key_headers": NONE},
    ),
    (
        {},
        SENT | headers("allExcept", "Cookie"),
        {"forward_headers": Select("allExcept", ("cookie",))},
    ),
]


@rows(("cache", "sent", "expected"), POLICIES)
def test_policies(cache: Members, sent: Members | None, expected: Members) -> None:
    one = policy_behavior(cache, sent)
    assert {name: getattr(one, name) for name in expected} == expected
    assert not one.legacy


UNSOUND_POLICIES: list[tuple[Members, Members, str]] = [
    (headers("none", "Origin"), SENT, "cannot be listed"),
    (cookies("all", "a"), SENT, "cannot be listed"),
    (query("whitelist"), SENT, "must be listed"),
    (headers("allExcept", "Origin"), SENT, "must be one of"),
    (headers("whitelist", "Cookie"), SENT, "cannot be forwarded"),
    (headers("whitelist", "X-Edge-Location"), SENT, "cannot be forwarded"),
    ({"HeadersConfig": {}}, SENT, "HeaderBehavior is required"),
    ({"EnableAcceptEncodingGzip": "true"}, SENT, "boolean"),
    ({}, SENT | headers("allViewerAndWhitelistCloudFront", "Origin"), "only CloudFront headers"),
    ({}, SENT | headers("allViewerAndWhitelistCloudFront"), "must be listed"),
    ({}, SENT | headers("allViewer", "Origin"), "cannot be listed"),
    ({}, SENT | headers("allExcept", "a b"), "not a header name"),
    ({}, SENT | cookies("some", "a"), "must be one of"),
]


@rows(("cache", "sent", "words"), UNSOUND_POLICIES)
def test_policies_that_make_no_sense(cache: Members, sent: Members, words: str) -> None:
    policy = {"Name": "c", "MinTTL": 0, "ParametersInCacheKeyAndForwardedToOrigin": {**KEY, **cache}}
    lookup = Lookup(cache_policies={"c": policy}, origin_request_policies={"o": {"Name": "o", **sent}})
    found = problems(lookup, **default(CachePolicyId="c", OriginRequestPolicyId="o"))
    assert any(words in one.message for one in found), found


MANAGED: list[tuple[Members, Members]] = [
    ({"CachePolicyId": DISABLED}, {"caches": False, "accept_gzip": False, "compress": False}),
    (
        {"CachePolicyId": OPTIMIZED, "OriginRequestPolicyId": CORS_S3},
        {
            "caches": True,
            "compress": True,
            "key_headers": NONE,
            "forward_headers": whitelist(
                "origin", "access-control-request-headers", "access-control-request-method"
            ),
        },
    ),
    (
        {"CachePolicyId": OPTIMIZED, "OriginRequestPolicyId": ALL_BUT_HOST},
        {"forward_headers": Select("allExcept", ("host",)), "forward_cookies": ALL, "forward_query": ALL},
    ),
    (
        {"CachePolicyId": AMPLIFY, "OriginRequestPolicyId": ALL_BUT_HOST},
        {
            "forward_headers": ALL,
            "key_headers": whitelist("authorization", "cloudfront-viewer-country", "host"),
            "key_cookies": ALL,
            "key_query": ALL,
            "max_ttl": 600,
        },
    ),
]


@pytest.mark.parametrize(("given_", "expected"), MANAGED)
def test_managed_policies(given_: Members, expected: Members) -> None:
    (one,) = compiled(**default(Compress=True, **given_)).behaviors
    assert {name: getattr(one, name) for name in expected} == expected


# What is refused, and with which of the API's errors

LONG = "x" * 256

REFUSALS: list[tuple[str, Members, str]] = [
    # code, input, a word of the message
    ("InvalidArgument", {"Enabled": None}, "Enabled"),
    ("InvalidArgument", {"Enabled": "true"}, "boolean"),
    ("InvalidArgument", {"DefaultCacheBehavior": None}, "DefaultCacheBehavior"),
    ("InvalidArgument", {"DefaultCacheBehavior": "x"}, "DefaultCacheBehavior"),
    ("InvalidArgument", {"Aliases": many("a.example.com:80")}, "alias"),
    ("InvalidArgument", {"Aliases": many("https://a.example.com")}, "alias"),
    ("InvalidArgument", {"Aliases": many("a.*.example.com")}, "alias"),
    ("InvalidArgument", {"Aliases": many("*")}, "alias"),
    ("InvalidArgument", {"Aliases": many("")}, "Aliases"),
    ("InvalidArgument", {"Aliases": many("a..b")}, "alias"),
    ("InvalidArgument", {"Aliases": many("a.example.com.")}, "alias"),
    ("InvalidArgument", {"Aliases": many("b\xfccher.example")}, "alias"),
    ("InvalidArgument", {"Aliases": {"Quantity": 1, "Items": [7]}}, "Aliases"),
    ("InvalidArgument", {"Aliases": {"Quantity": 1, "Items": "a"}}, "Aliases"),
    ("TooManyDistributionCNAMEs", {"Aliases": many(*(f"a{n}.example.com" for n in range(101)))}, "100"),
    ("InvalidDefaultRootObject", {"DefaultRootObject": "/index.html"}, "DefaultRootObject"),
    ("InvalidDefaultRootObject", {"DefaultRootObject": "a?b"}, "DefaultRootObject"),
    ("InvalidDefaultRootObject", {"DefaultRootObject": "a b"}, "DefaultRootObject"),
    ("InvalidDefaultRootObject", {"DefaultRootObject": LONG}, "DefaultRootObject"),
    ("InvalidArgument", {"DefaultRootObject": "a\r\nb"}, "printable"),
    # origins
    ("InvalidArgument", {"Origins": many()}, "at least one"),
    ("InvalidArgument", {"Origins": many(origin(), origin())}, "'app'"),
    ("InvalidArgument", {"Origins": many(origin(), origin(""))}, "Id"),
    ("InvalidArgument", {"Origins": many(origin(), "x")}, "structures"),
    ("TooManyOrigins", {"Origins": many(origin(), *(origin(f"o{n}") for n in range(100)))}, "100"),
    ("InvalidArgument", app(DomainName=""), "DomainName"),
    ("InvalidArgument", app(DomainName=None), "DomainName"),
    ("InvalidArgument", app(DomainName="http://a"), "DomainName"),
    ("InvalidArgument", app(DomainName="a:80"), "DomainName"),
    ("InvalidArgument", app(DomainName="a/b"), "DomainName"),
    ("InvalidArgument", app(DomainName="-a.b"), "DomainName"),
    ("InvalidArgument", app(DomainName="a b"), "DomainName"),
    ("InvalidArgument", app(DomainName="fe80::1%eth0"), "DomainName"),
    ("InvalidArgument", app(DomainName="[::1]"), "DomainName"),
    ("InvalidArgument", app(DomainName="a." * 127 + "bc"), "DomainName"),
    ("InvalidRelativePath", app(OriginPath="a"), "OriginPath"),
    ("InvalidRelativePath", app(OriginPath="/a/"), "OriginPath"),
    ("InvalidRelativePath", app(OriginPath="/"), "OriginPath"),
    ("InvalidRelativePath", app(OriginPath="/a b"), "OriginPath"),
    ("InvalidRelativePath", app(OriginPath="/a?b"), "OriginPath"),
    ("InvalidRelativePath", app(OriginPath="/" + LONG), "OriginPath"),
    ("InvalidArgument", app(OriginPath="/a\r\nX: y"), "OriginPath"),
    ("InvalidArgument", app(ConnectionAttempts=0), "ConnectionAttempts"),
    ("InvalidArgument", app(ConnectionAttempts=4), "ConnectionAttempts"),
    ("InvalidArgument", app(ConnectionAttempts="3"), "ConnectionAttempts"),
    ("InvalidArgument", app(ConnectionAttempts=True), "ConnectionAttempts"),
    ("InvalidArgument", app(ConnectionTimeout=11), "ConnectionTimeout"),
    ("InvalidArgument", app(OriginShield={"Enabled": True}), "must have an OriginShieldRegion"),
    ("InvalidArgument", shield("Frankfurt"), "must have an OriginShieldRegion"),
    ("InvalidArgument", app(ResponseCompletionTimeout=29), "ResponseCompletionTimeout"),
    ("InvalidArgument", app(CustomOriginConfig=None), "either"),
    ("InvalidArgument", app(S3OriginConfig={"OriginAccessIdentity": ""}), "either"),
    ("InvalidArgument", custom(HTTPPort=81), "HTTPPort"),
    ("InvalidArgument", custom(HTTPPort=0), "HTTPPort"),
    ("InvalidArgument", custom(HTTPSPort=65536), "HTTPSPort"),
    ("InvalidArgument", custom(OriginProtocolPolicy="ftp"), "OriginProtocolPolicy"),
    ("InvalidArgument", custom(OriginProtocolPolicy=None), "OriginProtocolPolicy"),
    ("InvalidArgument", custom(OriginProtocolPolicy=""), "OriginProtocolPolicy"),
    ("InvalidArgument", custom(OriginSslProtocols=many("TLSv9")), "OriginSslProtocols"),
    ("InvalidArgument", custom(OriginSslProtocols=many("SSLv3")), "SSLv3"),
    ("InvalidOriginReadTimeout", custom(OriginReadTimeout=0), "OriginReadTimeout"),
    ("InvalidOriginReadTimeout", custom(OriginReadTimeout=121), "OriginReadTimeout"),
    ("InvalidOriginKeepaliveTimeout", custom(OriginKeepaliveTimeout=121), "OriginKeepaliveTimeout"),
    (
        "IllegalOriginAccessConfiguration",
        {
            "Origins": many(
                bucket(
                    "app",
                    S3OriginConfig={"OriginAccessIdentity": IDENTITY + "E1"},
                    OriginAccessControlId="EALWAYS",
                )
            )
        },
        "not both",
    ),
    ("InvalidOriginAccessControl", app(OriginAccessControlId="E404"), "'E404'"),
    *[
        ("InvalidOriginAccessIdentity", {"Origins": many(bucket("app", S3OriginConfig=s3))}, text)
        for s3, text in (
            ({"OriginAccessIdentity": IDENTITY + "E404"}, "'E404'"),
            ({"OriginAccessIdentity": IDENTITY}, "''"),
            ({"OriginAccessIdentity": "E1"}, "cloudfront/ID"),
            ({"OriginAccessIdentity": "/" + IDENTITY + "E1"}, "cloudfront/ID"),
        )
    ],
    *[
        ("InvalidArgument", header(name), "custom header")
        for name in (
            *("Host", "host", "Cookie", "Connection", "Content-Length", "TE", "Transfer-Encoding", "Upgrade"),
            *("Via", "X-Amz-Cf-Id", "x-amz-anything", "X-Edge-Location", "X-Real-IP", "Range", "If-Match"),
            *("Cache-Control", "Max-Forwards", "Pragma", "Proxy-Authorization", "Trailer", "Request-Range"),
            *("", "a b", "a:b", "a\xe9", LONG + "x"),
        )
    ],
    ("InvalidArgument", header(value="a\r\nHost: evil"), "HeaderValue"),
    ("InvalidArgument", header(value=" a"), "HeaderValue"),
    ("InvalidArgument", header(value="caf\xe9"), "HeaderValue"),
    ("InvalidArgument", header(value="x" * 1784), "HeaderValue"),
    (
        "InvalidArgument",
        app(CustomHeaders=many(*({"HeaderName": f"X-{n}", "HeaderValue": "x" * 1700} for n in range(7)))),
        "10240",
    ),
    (
        "InvalidArgument",
        app(
            CustomHeaders=many({"HeaderName": "A", "HeaderValue": ""}, {"HeaderName": "a", "HeaderValue": ""})
        ),
        "only once",
    ),
    (
        "TooManyOriginCustomHeaders",
        app(CustomHeaders=many(*({"HeaderName": f"X-{n}", "HeaderValue": ""} for n in range(11)))),
        "10",
    ),
    # origin groups
    ("InvalidArgument", group("g", (500,), "app"), "two different members"),
    ("InvalidArgument", group("g", (500,), "app", "app"), "two different members"),
    ("InvalidArgument", group("g", (500,), "app", "other", "third"), "two different members"),
    ("NoSuchOrigin", group("g", (500,), "app", "absent"), "absent"),
    ("InvalidArgument", group("g", ()), "StatusCodes"),
    ("InvalidArgument", group("g", (500, 429)), "StatusCodes"),
    ("InvalidArgument", group("app"), "more than one"),
    (
        "TooManyOriginGroupsPerDistribution",
        {**group(), "OriginGroups": many(*(group(f"g{n}")["OriginGroups"]["Items"][0] for n in range(11)))},
        "10",
    ),
    # behaviors
    ("NoSuchOrigin", default(TargetOriginId="absent"), "absent"),
    ("InvalidArgument", default(TargetOriginId=None), "TargetOriginId"),
    ("InvalidArgument", default(TargetOriginId=""), "TargetOriginId"),
    ("InvalidArgument", default(ViewerProtocolPolicy="http"), "ViewerProtocolPolicy"),
    ("InvalidArgument", default(ViewerProtocolPolicy=None), "ViewerProtocolPolicy"),
    ("InvalidArgument", default(PathPattern="/a"), "PathPattern"),
    *[
        ("InvalidArgument", {"CacheBehaviors": many(behavior(PathPattern=pattern))}, "PathPattern")
        for pattern in ("", LONG, "/a b", "/a%20b", "/caf\xe9", "/a#", "/a\\b", "/[a]", "/a\n", None)
    ],
    *[
        ("InvalidArgument", {"CacheBehaviors": many(behavior(PathPattern=pattern))}, "no path")
        for pattern in ("//", "//a", "/a//b", "/a/./b", "/../a", "/a/..", "/.", "..", "*//*")
    ],
    (
        "InvalidArgument",
        {"CacheBehaviors": many(behavior(PathPattern="/a*"), behavior(PathPattern="a*"))},
        "earlier",
    ),
    (
        "TooManyCacheBehaviors",
        {"CacheBehaviors": many(*(behavior(PathPattern=f"/{n}") for n in range(76)))},
        "75",
    ),
    ("InvalidArgument", default(AllowedMethods=many("GET")), "AllowedMethods"),
    ("InvalidArgument", default(AllowedMethods=many("GET", "HEAD", "POST")), "AllowedMethods"),
    ("InvalidArgument", default(AllowedMethods=many("GET", "HEAD", "TRACE")), "AllowedMethods"),
    (
        "InvalidArgument",
        default(AllowedMethods={**many("GET", "HEAD"), "CachedMethods": many("GET", "HEAD", "OPTIONS")}),
        "CachedMethods",
    ),
    (
        "InvalidArgument",
        default(AllowedMethods={**ALL_METHODS, "CachedMethods": ALL_METHODS}),
        "CachedMethods",
    ),
    ("InvalidArgument", default(TrustedKeyGroups={"Enabled": True, "Quantity": 0}), "Enabled"),
    ("InvalidArgument", default(TrustedKeyGroups={"Enabled": False, **many(GROUP)}), "Enabled"),
    ("InvalidArgument", default(TrustedKeyGroups={"Enabled": "yes", **many(GROUP)}), "Enabled"),
    ("InvalidArgument", default(TrustedKeyGroups=many(GROUP)), "Enabled"),
    (
        "InvalidArgument",
        default(TrustedKeyGroups={"Enabled": True, "Quantity": 1, "Items": [[GROUP]]}),
        "strings",
    ),
    (
        "TrustedKeyGroupDoesNotExist",
        default(TrustedKeyGroups={"Enabled": True, **many("4b4f2f1c-none")}),
        "4b4f2f1c-none",
    ),
    (
        "TooManyKeyGroupsAssociatedToDistribution",
        default(TrustedKeyGroups={"Enabled": True, **many(GROUP, *"abcd")}),
        "4",
    ),
    # forwarding
    ("InvalidArgument", default(CachePolicyId=""), "CachePolicyId"),
    ("InvalidArgument", default(ForwardedValues=forwarded()), "ForwardedValues"),
    (
        "InvalidArgument",
        {"DefaultCacheBehavior": legacy(OriginRequestPolicyId=ALL_VIEWER)},
        "OriginRequestPolicyId",
    ),
    ("InvalidArgument", default(MinTTL=1), "MinTTL"),
    ("NoSuchCachePolicy", default(CachePolicyId="absent"), "absent"),
    ("NoSuchOriginRequestPolicy", default(OriginRequestPolicyId=OPTIMIZED), OPTIMIZED),
    ("NoSuchResponseHeadersPolicy", default(ResponseHeadersPolicyId="absent"), "absent"),
    ("InvalidTTLOrder", {"DefaultCacheBehavior": legacy(MinTTL=2, DefaultTTL=1)}, "MinTTL"),
    ("InvalidTTLOrder", {"DefaultCacheBehavior": legacy(DefaultTTL=2, MaxTTL=1)}, "MaxTTL"),
    ("InvalidTTLOrder", {"DefaultCacheBehavior": legacy(MaxTTL=600)}, "MaxTTL"),
    ("InvalidArgument", {"DefaultCacheBehavior": legacy(MinTTL=-1)}, "MinTTL"),
    ("InvalidArgument", {"DefaultCacheBehavior": legacy(MaxTTL=1 << 64)}, "MaxTTL"),
    (
        "InvalidArgument",
        {"DefaultCacheBehavior": legacy(MinTTL=1, ForwardedValues=forwarded(Headers=many("*")))},
        "MinTTL",
    ),
    ("InvalidArgument", values(Headers=many("*", "Origin")), "Headers"),
    ("InvalidArgument", values(Headers=many("Cookie")), "Cookie"),
    ("InvalidArgument", values(Headers=many("Connection")), "Connection"),
    ("InvalidArgument", values(Headers=many("a b")), "a b"),
    ("TooManyHeadersInForwardedValues", values(Headers=many(*(f"X-{n}" for n in range(11)))), "10"),
    ("InvalidForwardCookies", values(Cookies={"Forward": "whitelist"}), "WhitelistedNames"),
    ("InvalidArgument", values(Cookies={"Forward": "some"}), "Forward"),
    (
        "TooManyCookieNamesInWhiteList",
        values(Cookies={"Forward": "whitelist", "WhitelistedNames": many(*"abcdefghijk")}),
        "10",
    ),
    ("InvalidQueryStringParameters", values(QueryStringCacheKeys=many("a")), "QueryString"),
    (
        "TooManyQueryStringParameters",
        values(QueryString=True, QueryStringCacheKeys=many(*"abcdefghijk")),
        "10",
    ),
    # error responses and geo
    ("InvalidErrorCode", page(ErrorCode=412), "ErrorCode"),
    ("InvalidErrorCode", page(ErrorCode="404"), "ErrorCode"),
    ("InvalidErrorCode", page(ErrorCode=None), "ErrorCode"),
    ("InvalidArgument", page(ResponsePagePath=""), "together"),
    ("InvalidArgument", page(ResponseCode=""), "together"),
    ("InvalidRelativePath", page(ResponsePagePath="a"), "ResponsePagePath"),
    ("InvalidResponseCode", page(ResponseCode="204"), "ResponseCode"),
    ("InvalidResponseCode", page(ResponseCode="x"), "ResponseCode"),
    ("InvalidResponseCode", page(ResponseCode="\u0662\u0660\u0660"), "ResponseCode"),
    ("InvalidArgument", page(ErrorCachingMinTTL=-1), "ErrorCachingMinTTL"),
    ("InvalidArgument", {"CustomErrorResponses": many({"ErrorCode": 404}, {"ErrorCode": 404})}, "only once"),
    ("InvalidGeoRestrictionParameter", geo("whitelist"), "countries"),
    ("InvalidGeoRestrictionParameter", geo("none", "DE"), "countries"),
    ("InvalidLocationCode", geo("whitelist", "UK"), "UK"),
    ("InvalidLocationCode", geo("blacklist", "DEU"), "DEU"),
    ("InvalidArgument", geo("greylist", "DE"), "RestrictionType"),
]


@rows(("code", "members", "word"), REFUSALS)
def test_refused(code: str, members: Members, word: str) -> None:
    found = problems(**members)
    assert any(one.code == code and word in one.message for one in found), found
    for one in found:
        assert one.message.endswith(".")
        assert one.status == MODEL.shape_for(one.code).metadata["error"]["httpStatusCode"]


def test_all_problems_are_told_at_once_and_each_once() -> None:
    found = problems(
        DefaultRootObject="/x",
        Origins=many(origin(ConnectionAttempts=9, OriginPath="x")),
        DefaultCacheBehavior=behavior(TargetOriginId="absent", CachePolicyId="absent"),
    )
    assert [one.code for one in found] == [
        "InvalidRelativePath",
        "InvalidArgument",
        "InvalidDefaultRootObject",
        "NoSuchOrigin",
        "NoSuchCachePolicy",
    ]


def test_no_problem_repeats_a_secret() -> None:
    found = problems(**header(name="Host", value="hunter2\r\n"))
    assert "hunter2" not in msgspec.json.encode(found).decode()


def test_limits_are_settings() -> None:
    whole = config(Aliases=many("a.example.com", "b.example.com"))
    found = compile_distribution("E", ARN, DOMAIN_NAME, whole, LOOKUP, Limits(aliases=1))
    assert isinstance(found, list)
    assert [one.code for one in found] == ["TooManyDistributionCNAMEs"]


ACCEPTED: list[Members] = [
    app(DomainName="localhost"),
    app(DomainName="127.0.0.1"),
    app(DomainName="::1"),
    app(DomainName="my_service"),
    app(OriginPath="/a%20b/c"),
    {"Aliases": many("127.0.0.1", "localhost", "*.x", "a_b.example.com")},
    {"DefaultRootObject": "a/index.html"},
    {"CacheBehaviors": many(behavior(PathPattern="""*/A-z_0.9*$~"'@:+&?"""), behavior(PathPattern="*"))},
    {
        "CacheBehaviors": many(
            *(behavior(PathPattern=p) for p in ("/", "/a/", "/.a", "/a/..b", "/...", "/.*", "a./?"))
        )
    },
    geo("blacklist", "xk", "gb"),
    {"HttpVersion": "http3", "PriceClass": "PriceClass_100", "IsIPV6Enabled": False},
    {"ViewerCertificate": {"ACMCertificateArn": "arn:x", "MinimumProtocolVersion": "TLSv1.2_2021"}},
    default(MinTTL=0, DefaultTTL=0, MaxTTL=0),
]


@rows(
    ("version", "http2"),
    [("http1.1", False), ("http2", True), ("http2and3", True), ("http3", False), ("", True), (None, True)],
)
def test_viewers_may_use_http2_if_the_distribution_allows_it(version: str | None, http2: bool) -> None:
    members: Members = {} if version is None else {"HttpVersion": version}
    assert compiled(**members).http2 is http2


@rows("members", ACCEPTED)
def test_accepted(members: Members) -> None:
    compiled(**members)


# For any config, compiling ends with a distribution that can be serialized or a list of problems

json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["Items", "Quantity", "x"]), inner)
    ),
    max_leaves=4,
)
WHOLE = config(
    Aliases=many("a.example.com"),
    DefaultCacheBehavior=legacy(
        ForwardedValues=forwarded(Headers=many("Origin"), Cookies=NAMED), Compress=True
    ),
    CacheBehaviors=many(
        behavior(
            PathPattern="/p/*",
            TrustedKeyGroups=TRUSTED,
            AllowedMethods={**ALL_METHODS, "CachedMethods": many("GET", "HEAD")},
            OriginRequestPolicyId=ALL_VIEWER,
        )
    ),
    **group(),
    **page(),
    **geo("whitelist", "DE"),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, member in children:
        found += places(member, (*at, name))
    return found


PLACES = places(WHOLE)


def test_the_whole_config_compiles() -> None:
    assert isinstance(compile_distribution("E", ARN, DOMAIN_NAME, WHOLE, LOOKUP), Distribution)


@given(st.lists(st.tuples(st.sampled_from(PLACES), json), min_size=1, max_size=3))
def test_any_config_compiles_or_is_refused(spoilt: list[tuple[tuple[Any, ...], Any]]) -> None:
    whole = copy.deepcopy(WHOLE)
    for place, value in spoilt:
        holder: Any = whole
        try:
            for step in place[:-1]:
                holder = holder[step]
            holder[place[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue
    found = compile_distribution("E", ARN, DOMAIN_NAME, whole, LOOKUP)
    if isinstance(found, list):
        assert found
        assert all(isinstance(one, Problem) for one in found)
    else:
        snapshot = compile_snapshot([found], [], [], 1, 0.0)
        assert from_bytes(snapshot.to_bytes()) == snapshot
        listed = (whole.get("CacheBehaviors") or {}).get("Items") or []
        for one, config in zip(found.behaviors, listed, strict=False):
            groups = config.get("TrustedKeyGroups") or {}
            assert one.restricted == bool(groups.get("Enabled") or groups.get("Items"))


@rows("path", sorted(REFUSED))
def test_nothing_refused_is_obeyed_as_well(path: str) -> None:
    assert path not in OBEYED


# Snapshots

KEYS = [PublicKey(f"K{n}", f"pem {n}") for n in range(4)]
GROUPS = [
    KeyGroup(GROUP, "ours", ("K0", "K1")),
    KeyGroup(OTHER_GROUP, "theirs", ("K2",)),
    KeyGroup("unused", "nobody's", ("K3",)),
]


def test_only_trusted_groups_and_their_keys_travel() -> None:
    signed = compiled(DefaultCacheBehavior=behavior(TrustedKeyGroups=TRUSTED))
    open_ = msgspec.structs.replace(compiled(), id="A")
    snapshot = compile_snapshot([signed, open_], reversed(KEYS), reversed(GROUPS), 7, 12.5)
    assert (snapshot.number, snapshot.created) == (7, 12.5)
    assert [one.id for one in snapshot.distributions] == ["A", "E2VY6GYSB2RFYS"]
    assert snapshot.key_groups == (GROUPS[0],)
    assert snapshot.public_keys == (KEYS[0], KEYS[1])


def test_a_group_keeps_no_key_that_is_gone() -> None:
    signed = compiled(DefaultCacheBehavior=behavior(TrustedKeyGroups=TRUSTED))
    snapshot = compile_snapshot([signed], KEYS[1:], GROUPS, 1, 0.0)
    assert snapshot.key_groups == (KeyGroup(GROUP, "ours", ("K1",)),)
    assert snapshot.public_keys == (KEYS[1],)
    gone = compile_snapshot([signed], [], [], 1, 0.0)
    assert (gone.key_groups, gone.public_keys) == ((), ())
    assert gone.distributions[0].behaviors[0].restricted


def test_the_same_resources_make_the_same_bytes() -> None:
    one = compile_snapshot([compiled()], KEYS, GROUPS, 1, 0.0)
    other = compile_snapshot([compiled()], KEYS[::-1], GROUPS[::-1], 1, 0.0)
    assert one.to_bytes() == other.to_bytes()


# ---- origin access

SIGNED: list[tuple[str, Members]] = [
    ("never", app()),
    ("never", app(OriginAccessControlId="")),
    ("always", app(OriginAccessControlId="EALWAYS")),
    ("no-override", app(OriginAccessControlId="ENOOVERRIDE")),
    ("never", app(OriginAccessControlId="ENEVER")),
    ("always", {"Origins": many(bucket("app", OriginAccessControlId="EALWAYS"))}),
    (
        "always",
        {"Origins": many(bucket("app", S3OriginConfig={"OriginAccessIdentity": IDENTITY + "E1"}))},
    ),
]


@rows(("signing", "members"), SIGNED)
def test_an_edge_is_told_which_requests_it_signs(signing: str, members: Members) -> None:
    assert compiled(**members).origins[0].signing == signing


def test_nobody_can_ask_a_staging_distribution() -> None:
    assert not compiled(Staging=True).enabled
    assert not compiled(Staging=False, Enabled=False).enabled


def test_a_policy_compiles_by_itself() -> None:
    found = compile_cache_policy(CACHE_POLICIES[OPTIMIZED])
    assert not isinstance(found, list)
    assert (found.accept_gzip, found.key_query) == (True, Select())
    found = compile_origin_request_policy(ORIGIN_REQUEST_POLICIES[ALL_VIEWER])
    assert not isinstance(found, list)
    assert found.forward_query == Select("all")
    assert found.key_query == Select()


def test_a_policy_is_refused_by_itself_once_per_problem() -> None:
    spoilt = copy.deepcopy(CACHE_POLICIES[OPTIMIZED])
    spoilt["MinTTL"] = 10**9
    spoilt["MaxTTL"] = 1
    found = compile_cache_policy(spoilt)
    assert isinstance(found, list)
    assert len(found) == len(set(found)) > 0


@pytest.mark.parametrize("name", ["a b", "x" * 257])
def test_the_header_of_cache_tags_has_a_headers_name(name: str) -> None:
    assert compiled(CacheTagConfig={"HeaderName": "Cache-Tag"}).cache_tag_header == "cache-tag"
    assert compiled(CacheTagConfig={"HeaderName": "x" * 256}).cache_tag_header == "x" * 256
    assert any("HeaderName" in problem.message for problem in problems(CacheTagConfig={"HeaderName": name}))


def test_what_a_config_can_refer_to_is_fixed() -> None:
    with pytest.raises(AttributeError):
        LOOKUP.key_groups = {}  # type: ignore[misc]
