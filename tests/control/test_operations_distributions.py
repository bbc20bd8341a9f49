"""Distributions: their lifecycle from InProgress to deleted, and every refused config with its error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyfront.model.kinds import Quotas
from keyfront.model.quotas import Limits
from keyfront.model.service import error_status, service
from tests.control.harness import Harness, many, minimal, trusting
from tests.rows import rows

Config = dict[str, Any]

OPTIMIZED = "658327ea-f89d-4fab-a63d-7e88639e58f6"


# ---- lifecycle


def test_a_distribution_from_its_making_to_its_end(harness: Harness) -> None:
    made = harness.distribution()
    id_ = made["Id"]
    assert id_[0] == "E"
    assert len(id_) == 14
    assert made["DomainName"].endswith(".cloudfront.localhost")
    assert made["ARN"] == f"arn:aws:cloudfront::123456789012:distribution/{id_}"

    assert status(harness, id_) == "InProgress"  # no edge is live
    harness.report("a")
    assert status(harness, id_) == "Deployed"
    harness.report("b", harness.number() - 1)
    assert status(harness, id_) == "InProgress"  # one edge is behind
    harness.report("b")
    assert status(harness, id_) == "Deployed"

    delete = {"Id": id_, "IfMatch": harness.etag("Distribution", id_)}
    error = harness.refused("DeleteDistribution", **delete)
    assert (error.code, error.status) == ("DistributionNotDisabled", 409)
    assert error.message == "The distribution you are trying to delete has not been disabled."
    config, etag = harness.config(id_)
    config["Enabled"] = False
    changed = harness.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config)
    assert changed["Distribution"]["Status"] == "InProgress"
    delete["IfMatch"] = changed["ETag"]
    assert (
        harness.refused("DeleteDistribution", **delete).code == "DistributionNotDisabled"
    )  # edges still serve it
    harness.report("a")
    harness.report("b")
    assert harness.call("DeleteDistribution", **delete) == {}
    assert harness.refused("GetDistribution", Id=id_).code == "NoSuchDistribution"
    published = harness.feed.published()
    assert published is not None
    assert published.distributions == ()


def status(harness: Harness, id_: str) -> str:
    return str(harness.call("GetDistribution", Id=id_)["Distribution"]["Status"])


def test_a_caller_reference_makes_one_distribution_only(harness: Harness) -> None:
    harness.distribution("a")
    error = harness.refused("CreateDistribution", DistributionConfig=minimal("a"))
    assert (error.code, error.status) == ("DistributionAlreadyExists", 409)
    id_ = harness.distribution("b")["Id"]
    config, etag = harness.config(id_)
    for reference in ("a", "c"):
        config["CallerReference"] = reference
        error = harness.refused("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config)
        assert (error.code, error.status) == ("IllegalUpdate", 400)


def test_an_update_replaces_everything(harness: Harness) -> None:
    id_ = harness.distribution("a", DefaultRootObject="index.html", Aliases=many("a.example.com"))["Id"]
    config = minimal("a")
    etag = harness.etag("Distribution", id_)
    changed = harness.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config)
    assert changed["ETag"] != etag
    assert changed["Distribution"]["DistributionConfig"]["DefaultRootObject"] == ""
    assert changed["Distribution"]["DistributionConfig"]["Aliases"] == {"Quantity": 0}
    harness.distribution("b", Aliases=many("a.example.com"))  # the alias is free


def test_an_update_that_changes_nothing_at_the_edge_is_deployed_at_once(harness: Harness) -> None:
    id_ = harness.distribution()["Id"]
    harness.report()
    number = harness.number()
    config, etag = harness.config(id_)
    config["Comment"] = "new words"
    answer = harness.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config)
    assert answer["Distribution"]["Status"] == "InProgress"
    assert harness.number() == number
    assert status(harness, id_) == "Deployed"


# ---- aliases


def test_an_alias_belongs_to_one_distribution(harness: Harness) -> None:
    first = harness.distribution("1", Aliases=many("www.example.com", "*.example.org"))
    for alias in ("www.example.com", "WWW.Example.COM", "*.example.org"):
        config = minimal("2") | {"Aliases": many(alias)}
        error = harness.refused("CreateDistribution", DistributionConfig=config)
        assert (error.code, error.status) == ("CNAMEAlreadyExists", 409), alias
    # A wildcard may overlap with an exact name: the exact one wins at the edge.
    other = harness.distribution("2", Aliases=many("*.example.com", "a.example.org"))
    config, etag = harness.config(other["Id"])
    config["Aliases"] = many("www.example.com")
    error = harness.refused("UpdateDistribution", Id=other["Id"], IfMatch=etag, DistributionConfig=config)
    assert error.code == "CNAMEAlreadyExists"
    # A distribution's own alias is no conflict.
    config, etag = harness.config(first["Id"])
    harness.call("UpdateDistribution", Id=first["Id"], IfMatch=etag, DistributionConfig=config)


def test_a_disabled_distribution_still_owns_its_alias(harness: Harness) -> None:
    harness.distribution("1", Aliases=many("www.example.com"), Enabled=False)
    config = minimal("2") | {"Aliases": many("www.example.com")}
    assert harness.refused("CreateDistribution", DistributionConfig=config).code == "CNAMEAlreadyExists"


@pytest.mark.parametrize(
    "alias",
    [
        "cloudfront.localhost",
        "d123.cloudfront.localhost",
        "*.cloudfront.localhost",
        "D123.CloudFront.localhost",
    ],
)
def test_an_alias_cannot_stand_for_another_distribution(harness: Harness, alias: str) -> None:
    config = minimal() | {"Aliases": many(alias)}
    assert harness.refused("CreateDistribution", DistributionConfig=config).code == "InvalidArgument"


# ---- everything that is refused


def behavior(config: Config) -> Config:
    found: Config = config["DefaultCacheBehavior"]
    return found


def origin(config: Config) -> Config:
    found: Config = config["Origins"]["Items"][0]
    return found


def custom(config: Config) -> Config:
    found: Config = origin(config)["CustomOriginConfig"]
    return found


def put(where: Callable[[Config], Config], **members: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        where(config).update(copy.deepcopy(members))

    return change


def top(config: Config) -> Config:
    return config


def forwarded(**members: Any) -> Callable[[Config], None]:
    values = {"QueryString": False, "Cookies": {"Forward": "none"}} | members
    return put(behavior, ForwardedValues=values)


def headers(*pairs: tuple[str, str]) -> Callable[[Config], None]:
    items = [{"HeaderName": name, "HeaderValue": value} for name, value in pairs]
    return put(origin, CustomHeaders=many(*items))


def pattern(*texts: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["CacheBehaviors"] = many(*(behavior(config) | {"PathPattern": text} for text in texts))

    return change


def policy(**members: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        del behavior(config)["ForwardedValues"]
        behavior(config).update({"CachePolicyId": OPTIMIZED} | members)

    return change


def origin_group(**members: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["Origins"] = many(origin(config), origin(config) | {"Id": "second"})
        group = {
            "Id": "pair",
            "FailoverCriteria": {"StatusCodes": many(500)},
            "Members": many({"OriginId": "app"}, {"OriginId": "second"}),
        }
        config["OriginGroups"] = many(group | members)
        behavior(config)["TargetOriginId"] = "pair"

    return change


def both(*changes: Callable[[Config], None]) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for one in changes:
            one(config)

    return change


SEVEN = ("GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE")
S3 = put(origin, S3OriginConfig={"OriginAccessIdentity": ""})


def s3(config: Config) -> None:
    S3(config)
    del origin(config)["CustomOriginConfig"]


REFUSED: dict[str, tuple[Callable[[Config], None], str]] = {
    "no caller reference": (put(top, CallerReference=""), "InvalidArgument"),
    "a long comment": (put(top, Comment="c" * 129), "InvalidArgument"),
    "too few items": (
        put(top, Aliases={"Quantity": 2, "Items": ["a.example.com"]}),
        "InconsistentQuantities",
    ),
    "items missing": (put(top, Aliases={"Quantity": 1}), "InconsistentQuantities"),
    "quantity zero with items": (
        put(top, Aliases={"Quantity": 0, "Items": ["a.example.com"]}),
        "InconsistentQuantities",
    ),
    "deep quantity": (
        forwarded(Headers={"Quantity": 3, "Items": ["Accept"]}),
        "InconsistentQuantities",
    ),
    "no origins": (put(top, Origins={"Quantity": 0, "Items": []}), "InvalidArgument"),
    "an alias twice": (put(top, Aliases=many("a.example.com", "a.example.com")), "CNAMEAlreadyExists"),
    "an alias twice but for its case": (
        put(top, Aliases=many("a.example.com", "b.example.com", "A.Example.com")),
        "CNAMEAlreadyExists",
    ),
    "an alias with a scheme": (put(top, Aliases=many("https://a.example.com")), "InvalidArgument"),
    "an alias with a port": (put(top, Aliases=many("a.example.com:8080")), "InvalidArgument"),
    "a wildcard within a label": (put(top, Aliases=many("*test.example.com")), "InvalidArgument"),
    "a wildcard in the middle": (put(top, Aliases=many("a.*.example.com")), "InvalidArgument"),
    "a wildcard alone": (put(top, Aliases=many("*")), "InvalidArgument"),
    "root object with a slash": (put(top, DefaultRootObject="/index.html"), "InvalidDefaultRootObject"),
    "root object too long": (put(top, DefaultRootObject="i" * 256), "InvalidDefaultRootObject"),
    "root object with a blank": (put(top, DefaultRootObject="a b"), "InvalidDefaultRootObject"),
    "unknown target": (put(behavior, TargetOriginId="other"), "NoSuchOrigin"),
    "origin without a kind": (lambda config: origin(config).pop("CustomOriginConfig"), "InvalidArgument"),
    "origin of two kinds": (S3, "InvalidArgument"),
    "origin with a scheme": (put(origin, DomainName="http://app.example.com"), "InvalidArgument"),
    "origin with a port": (put(origin, DomainName="app.example.com:8080"), "InvalidArgument"),
    "origin path without a slash": (put(origin, OriginPath="files"), "InvalidRelativePath"),
    "origin path with a slash at its end": (put(origin, OriginPath="/files/"), "InvalidRelativePath"),
    "two origins of one id": (
        lambda config: config.update(Origins=many(origin(config), origin(config))),
        "InvalidArgument",
    ),
    "port 22": (put(custom, HTTPPort=22), "InvalidArgument"),
    "port 1023": (put(custom, HTTPSPort=1023), "InvalidArgument"),
    "port 65536": (put(custom, HTTPPort=65536), "InvalidArgument"),
    "read timeout 0": (put(custom, OriginReadTimeout=0), "InvalidOriginReadTimeout"),
    "read timeout 121": (put(custom, OriginReadTimeout=121), "InvalidOriginReadTimeout"),
    "keepalive timeout 0": (put(custom, OriginKeepaliveTimeout=0), "InvalidOriginKeepaliveTimeout"),
    "keepalive timeout 121": (put(custom, OriginKeepaliveTimeout=121), "InvalidOriginKeepaliveTimeout"),
    "no attempts": (put(origin, ConnectionAttempts=0), "InvalidArgument"),
    "four attempts": (put(origin, ConnectionAttempts=4), "InvalidArgument"),
    "connection timeout 11": (put(origin, ConnectionTimeout=11), "InvalidArgument"),
    "completion before the read timeout": (put(origin, ResponseCompletionTimeout=29), "InvalidArgument"),
    "SSLv3 alone": (put(custom, OriginSslProtocols=many("SSLv3")), "InvalidArgument"),
    "header Host": (headers(("Host", "x")), "InvalidArgument"),
    "header X-Amz": (headers(("X-Amz-Anything", "x")), "InvalidArgument"),
    "header X-Edge": (headers(("x-edge-thing", "x")), "InvalidArgument"),
    "header Via": (headers(("via", "x")), "InvalidArgument"),
    "a header twice": (headers(("X-One", "x"), ("x-one", "y")), "InvalidArgument"),
    "a header name that is none": (headers(("X One", "x")), "InvalidArgument"),
    "a header injected": (headers(("X-One", "x\r\nY: z")), "InvalidArgument"),
    "a header value too long": (headers(("X-One", "x" * 1784)), "InvalidArgument"),
    "eleven headers": (headers(*((f"X-{n}", "x") for n in range(11))), "TooManyOriginCustomHeaders"),
    "an access control": (put(origin, OriginAccessControlId="E123"), "InvalidOriginAccessControl"),
    "an access identity": (
        both(s3, put(origin, S3OriginConfig={"OriginAccessIdentity": "E1"})),
        "InvalidOriginAccessIdentity",
    ),
    "group with one member": (origin_group(Members=many({"OriginId": "app"})), "InvalidArgument"),
    "group with one origin twice": (
        origin_group(Members=many({"OriginId": "app"}, {"OriginId": "app"})),
        "InvalidArgument",
    ),
    "group with an unknown origin": (
        origin_group(Members=many({"OriginId": "app"}, {"OriginId": "x"})),
        "NoSuchOrigin",
    ),
    "group with code 429": (origin_group(FailoverCriteria={"StatusCodes": many(429)}), "InvalidArgument"),
    "group named like an origin": (origin_group(Id="app"), "InvalidArgument"),
    "group by media quality": (origin_group(SelectionCriteria="media-quality-based"), "InvalidArgument"),
    "group and POST": (
        both(origin_group(), put(behavior, AllowedMethods=many(*SEVEN))),
        "InvalidArgument",
    ),
    "one method": (put(behavior, AllowedMethods=many("GET")), "InvalidArgument"),
    "GET and POST": (put(behavior, AllowedMethods=many("GET", "POST")), "InvalidArgument"),
    "a method twice": (put(behavior, AllowedMethods=many("GET", "GET")), "InvalidArgument"),
    "cached PUT": (
        put(behavior, AllowedMethods=many(*SEVEN) | {"CachedMethods": many("GET", "HEAD", "PUT")}),
        "InvalidArgument",
    ),
    "cached but not allowed": (
        put(behavior, AllowedMethods=many("GET", "HEAD") | {"CachedMethods": many("GET", "HEAD", "OPTIONS")}),
        "InvalidArgument",
    ),
    "TTLs out of order": (put(behavior, MinTTL=10, DefaultTTL=5), "InvalidTTLOrder"),
    "default above the maximum": (put(behavior, DefaultTTL=10, MaxTTL=5), "InvalidTTLOrder"),
    "negative TTL": (put(behavior, MinTTL=-1), "InvalidArgument"),
    "all headers and a minimum": (
        both(forwarded(Headers=many("*")), put(behavior, MinTTL=1)),
        "InvalidArgument",
    ),
    "all headers and one": (forwarded(Headers=many("*", "Accept")), "InvalidArgument"),
    "all headers to S3": (both(s3, forwarded(Headers=many("*"))), "InvalidHeadersForS3Origin"),
    "eleven forwarded headers": (
        forwarded(Headers=many(*(f"X-{n}" for n in range(11)))),
        "TooManyHeadersInForwardedValues",
    ),
    "eleven cookies": (
        forwarded(Cookies={"Forward": "whitelist", "WhitelistedNames": many(*(f"c{n}" for n in range(11)))}),
        "TooManyCookieNamesInWhiteList",
    ),
    "eleven query keys": (
        forwarded(QueryString=True, QueryStringCacheKeys=many(*(f"q{n}" for n in range(11)))),
        "TooManyQueryStringParameters",
    ),
    "whitelist without names": (forwarded(Cookies={"Forward": "whitelist"}), "InvalidForwardCookies"),
    "query keys without query strings": (
        forwarded(QueryStringCacheKeys=many("a")),
        "InvalidQueryStringParameters",
    ),
    "neither policy nor values": (lambda config: behavior(config).pop("ForwardedValues"), "InvalidArgument"),
    "both policy and values": (put(behavior, CachePolicyId=OPTIMIZED), "InvalidArgument"),
    "policy and TTL": (policy(DefaultTTL=60), "InvalidArgument"),
    "unknown cache policy": (policy(CachePolicyId="0" * 36), "NoSuchCachePolicy"),
    "unknown origin request policy": (policy(OriginRequestPolicyId="0" * 36), "NoSuchOriginRequestPolicy"),
    "unknown response headers policy": (policy(ResponseHeadersPolicyId="x"), "NoSuchResponseHeadersPolicy"),
    "origin request policy without cache policy": (
        put(behavior, OriginRequestPolicyId="216adef6-5c7f-47e4-b989-5492eafa07d3"),
        "InvalidArgument",
    ),
    "unknown key group": (put(behavior, TrustedKeyGroups=trusting("x")), "TrustedKeyGroupDoesNotExist"),
    "key group that is nothing": (
        put(behavior, TrustedKeyGroups=trusting("")),
        "InvalidArgument",
    ),
    "enabled without groups": (
        put(behavior, TrustedKeyGroups={"Enabled": True, "Quantity": 0}),
        "InvalidArgument",
    ),
    "trusted signers": (put(behavior, TrustedSigners=trusting("self")), "TrustedSignerDoesNotExist"),
    "smooth streaming": (put(behavior, SmoothStreaming=True), "InvalidArgument"),
    "gRPC": (put(behavior, GrpcConfig={"Enabled": True}), "InvalidArgument"),
    "a Lambda function": (
        put(
            behavior,
            LambdaFunctionAssociations=many({"LambdaFunctionARN": "arn", "EventType": "viewer-request"}),
        ),
        "InvalidLambdaFunctionAssociation",
    ),
    "a CloudFront function": (
        put(behavior, FunctionAssociations=many({"FunctionARN": "arn", "EventType": "viewer-request"})),
        "InvalidFunctionAssociation",
    ),
    "field-level encryption": (put(behavior, FieldLevelEncryptionId="C"), "NoSuchFieldLevelEncryptionConfig"),
    "real-time log": (put(behavior, RealtimeLogConfigArn="arn:aws:x"), "NoSuchRealtimeLogConfig"),
    "pattern too long": (pattern("/" + "a" * 255), "InvalidArgument"),
    "empty pattern": (pattern(""), "InvalidArgument"),
    "pattern with a blank": (pattern("/a b"), "InvalidArgument"),
    "a pattern twice": (pattern("/a/*", "/a/*"), "InvalidArgument"),
    "a pattern twice, once without its slash": (pattern("/a/*", "a/*"), "InvalidArgument"),
    "error code 402": (put(top, CustomErrorResponses=many({"ErrorCode": 402})), "InvalidErrorCode"),
    "response code 302": (
        put(
            top,
            CustomErrorResponses=many({"ErrorCode": 404, "ResponsePagePath": "/e", "ResponseCode": "302"}),
        ),
        "InvalidResponseCode",
    ),
    "error page without a slash": (
        put(
            top, CustomErrorResponses=many({"ErrorCode": 404, "ResponsePagePath": "e", "ResponseCode": "200"})
        ),
        "InvalidRelativePath",
    ),
    "page without code": (
        put(top, CustomErrorResponses=many({"ErrorCode": 404, "ResponsePagePath": "/e"})),
        "InvalidArgument",
    ),
    "an error code twice": (
        put(top, CustomErrorResponses=many({"ErrorCode": 404}, {"ErrorCode": 404})),
        "InvalidArgument",
    ),
    "countries without restriction": (
        put(top, Restrictions={"GeoRestriction": {"RestrictionType": "none"} | many("DE")}),
        "InvalidGeoRestrictionParameter",
    ),
    "restriction without countries": (
        put(top, Restrictions={"GeoRestriction": {"RestrictionType": "whitelist", "Quantity": 0}}),
        "InvalidGeoRestrictionParameter",
    ),
    "no such country": (
        put(top, Restrictions={"GeoRestriction": {"RestrictionType": "blacklist"} | many("XX")}),
        "InvalidLocationCode",
    ),
    "a web ACL": (put(top, WebACLId="acl"), "InvalidWebACLId"),
    "continuous deployment": (
        put(top, ContinuousDeploymentPolicyId="p"),
        "NoSuchContinuousDeploymentPolicy",
    ),
    "price class None": (put(top, PriceClass="None"), "InvalidArgument"),
    "logging without a bucket": (put(top, Logging={"Enabled": True}), "InvalidArgument"),
    "two certificates": (
        put(
            top,
            ViewerCertificate={
                "CloudFrontDefaultCertificate": True,
                "ACMCertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/1",
            },
        ),
        "InvalidViewerCertificate",
    ),
    "a certificate of another region": (
        put(
            top,
            ViewerCertificate={
                "ACMCertificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/1",
                "SSLSupportMethod": "sni-only",
            },
        ),
        "InvalidViewerCertificate",
    ),
    "a certificate without a method": (
        put(top, ViewerCertificate={"ACMCertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/1"}),
        "InvalidViewerCertificate",
    ),
    "SNI with SSLv3": (
        put(
            top,
            ViewerCertificate={
                "IAMCertificateId": "ASCA1",
                "SSLSupportMethod": "sni-only",
                "MinimumProtocolVersion": "SSLv3",
            },
        ),
        "InvalidProtocolSettings",
    ),
    "a header name for cache tags that is none": (
        put(top, CacheTagConfig={"HeaderName": "Cache Tag"}),
        "InvalidArgument",
    ),
    "HTTP/2 to an origin": (
        lambda config: config["Origins"]["Items"][0]["CustomOriginConfig"].update(OriginHttpVersion="http2"),
        "InvalidArgument",
    ),
}


@rows(("change", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_faulty_config_is_refused_and_changes_nothing(
    harness: Harness, existing: Config, change: Callable[[Config], None], code: str
) -> None:
    config = minimal("new")
    change(config)
    created = harness.refused("CreateDistribution", DistributionConfig=config)
    assert created.code == code, created.message
    assert created.status == error_status(code)
    assert len(created.message) > 10
    assert code in service().operations["CreateDistribution"].errors
    # The same applies to an update; and neither changed anything.
    before, etag = harness.config(existing["Id"])
    number = harness.number()
    config = minimal("existing")
    change(config)
    updated = harness.refused(
        "UpdateDistribution", Id=existing["Id"], IfMatch=etag, DistributionConfig=config
    )
    if config["CallerReference"] == "existing":
        assert updated.code == code, updated.message
    assert harness.config(existing["Id"]) == (before, etag)
    assert harness.number() == number
    assert harness.call("ListDistributions")["DistributionList"]["Quantity"] == 1


def faulty(harness: Harness) -> Config:
    """A config with errors of every kind: in members, lengths, values, references, and combinations."""
    harness.distribution("kept")
    config = minimal("kept")  # the CallerReference of another distribution
    put(top, WebACLId="arn:aws:wafv2:us-east-1:1:global/webacl/a/b", Comment="c" * 129)(config)
    put(top, PriceClass="None")(config)
    put(behavior, TargetOriginId="nowhere", CachePolicyId="", TrustedKeyGroups=trusting("KG-none"))(config)
    put(top, CustomErrorResponses=many({"ErrorCode": 418, "ResponsePagePath": "/e", "ResponseCode": "200"}))(
        config
    )
    return config


ALL_FAULTS = [
    ("InvalidWebACLId", "Keyfront does not support AWS WAF"),
    ("InvalidArgument", "The parameter Comment must have 0 to 128 characters"),
    ("InvalidArgument", "The parameter PriceClass is None"),
    ("NoSuchOrigin", "There is no origin or origin group 'nowhere'"),
    ("TrustedKeyGroupDoesNotExist", "The key group 'KG-none' does not exist"),
    ("InvalidErrorCode", "ErrorCode must be a code"),
    ("DistributionAlreadyExists", ""),
]


def test_all_that_is_refused_is_named_at_once_across_codes(harness: Harness) -> None:
    config = faulty(harness)
    error = harness.refused("CreateDistribution", DistributionConfig=config)
    assert (error.code, error.status) == ("InvalidWebACLId", 400)
    first, _, others = error.message.partition(" Also refused: ")
    assert first.startswith("Keyfront does not support AWS WAF")
    for code, text in ALL_FAULTS[1:]:
        assert f"({code}) " in others, code
        assert text in others, text
    assert error.message.count("'nowhere'") == 1
    assert error.message.count("'KG-none'") == 1, "the compiler and the references find the same fault"
    assert error.message.count("Keyfront does not support AWS WAF") == 1


def test_one_fault_after_the_other_taken_away_leaves_the_others(harness: Harness) -> None:
    """Whichever error is fixed, the rest are still listed: no error hides another."""
    config = faulty(harness)
    sound = minimal("new")
    target = sound["DefaultCacheBehavior"]["TargetOriginId"]
    mends = [
        put(top, WebACLId=""),
        put(top, Comment=""),
        put(top, PriceClass="PriceClass_All"),
        put(behavior, TargetOriginId=target),
        put(behavior, TrustedKeyGroups={"Enabled": False, "Quantity": 0}),
        put(top, CustomErrorResponses=many()),
    ]
    for mend, (code, _) in zip(mends, ALL_FAULTS[:-1], strict=True):
        error = harness.refused("CreateDistribution", DistributionConfig=config)
        assert f"({code}) " in f"({error.code}) {error.message}"
        mend(config)
    assert (
        harness.refused("CreateDistribution", DistributionConfig=config).code == "DistributionAlreadyExists"
    )


def test_the_message_stays_short(harness: Harness) -> None:
    config = minimal()
    config["Aliases"] = many(*(f"-{number}.example.com" for number in range(90)))
    error = harness.refused("CreateDistribution", DistributionConfig=config)
    assert error.message.count("Aliases") <= 30 or error.message.endswith(" more.")
    assert len(error.message) < 8192


@pytest.mark.parametrize("number", [1, 60])
def test_a_long_value_is_not_repeated_in_full(harness: Harness, number: int) -> None:
    config = minimal()
    config["Aliases"] = many(*(f"bad_{n} {'y' * 6000}" for n in range(number)))
    error = harness.refused("CreateDistribution", DistributionConfig=config)
    assert "bad_0" in error.message
    assert len(error.message) < 12_000


def test_the_message_names_the_secret_header_but_not_its_value(harness: Harness) -> None:
    config = minimal()
    headers(("X-Secret", "hunter2\n"))(config)
    error = harness.refused("CreateDistribution", DistributionConfig=config)
    assert "hunter2" not in error.message


def test_key_groups_of_a_behavior(tmp_path: Path) -> None:
    harness = Harness(tmp_path, quotas=Quotas(distributions_per_key_group=1))
    key = harness.key()
    groups = [harness.group(key, name=str(number)) for number in range(5)]
    config = minimal()
    behavior(config)["TrustedKeyGroups"] = trusting(*groups)
    error = harness.refused("CreateDistribution", DistributionConfig=config)
    assert (error.code, error.status) == ("TooManyKeyGroupsAssociatedToDistribution", 400)
    behavior(config)["TrustedKeyGroups"] = {"Enabled": False} | many(groups[0])
    assert harness.refused("CreateDistribution", DistributionConfig=config).code == "InvalidArgument"
    behavior(config)["TrustedKeyGroups"] = trusting(*groups[:4])
    created = harness.call("CreateDistribution", DistributionConfig=config)
    active = created["Distribution"]["ActiveTrustedKeyGroups"]
    assert {item["KeyGroupId"] for item in active["Items"]} == set(groups[:4])
    # Its own trust does not count against it.
    harness.call(
        "UpdateDistribution",
        Id=created["Distribution"]["Id"],
        IfMatch=created["ETag"],
        DistributionConfig=config,
    )
    config["CallerReference"] = "two"
    error = harness.refused("CreateDistribution", DistributionConfig=config)
    assert (error.code, error.status) == ("TooManyDistributionsAssociatedToKeyGroup", 400)
    harness.close()


def test_quotas_of_a_distribution(tmp_path: Path) -> None:
    limits = Limits(aliases=1, origins=1, origin_groups=0, cache_behaviors=1)
    harness = Harness(tmp_path, quotas=Quotas(distributions=1, limits=limits))
    second = origin(minimal()) | {"Id": "second"}
    cases: dict[str, Callable[[Config], None]] = {
        "TooManyDistributionCNAMEs": put(top, Aliases=many("a.example.com", "b.example.com")),
        "TooManyOrigins": put(top, Origins=many(origin(minimal()), second)),
        "TooManyCacheBehaviors": pattern("/a", "/b"),
    }
    for code, change in cases.items():
        config = minimal()
        change(config)
        assert harness.refused("CreateDistribution", DistributionConfig=config).code == code
    harness.distribution("one")
    error = harness.refused("CreateDistribution", DistributionConfig=minimal("two"))
    assert (error.code, error.status) == ("TooManyDistributions", 400)
    harness.close()


ACCEPTED: dict[str, Callable[[Config], None]] = {
    "a managed cache policy": policy(),
    "all three managed policies": policy(
        OriginRequestPolicyId="216adef6-5c7f-47e4-b989-5492eafa07d3",
        ResponseHeadersPolicyId="67f7725c-6f97-4210-82d7-5512b31e9d03",
    ),
    "Go's zeros beside a policy": policy(MinTTL=0, DefaultTTL=0, MaxTTL=0),
    "Go's empty strings": both(
        put(
            behavior,
            CachePolicyId="",
            OriginRequestPolicyId="",
            ResponseHeadersPolicyId="",
            RealtimeLogConfigArn="",
        ),
        put(top, AnycastIpListId="", WebACLId=""),
        put(origin, OriginAccessControlId=""),
    ),
    "an S3 origin": s3,
    "an origin group": origin_group(),
    "all methods": put(behavior, AllowedMethods=many(*SEVEN)),
    "an IP address as origin": put(origin, DomainName="127.0.0.1"),
    "localhost as origin": put(origin, DomainName="localhost"),
    "high ports": put(custom, HTTPPort=1024, HTTPSPort=65535),
    "an error page": put(
        top,
        CustomErrorResponses=many({"ErrorCode": 403, "ResponsePagePath": "/e.html", "ResponseCode": "200"}),
    ),
    "an error TTL alone": put(top, CustomErrorResponses=many({"ErrorCode": 404, "ErrorCachingMinTTL": 0})),
    "geo": put(top, Restrictions={"GeoRestriction": {"RestrictionType": "whitelist"} | many("DE", "FR")}),
    "a certificate": put(
        top,
        ViewerCertificate={
            "ACMCertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/1-2",
            "SSLSupportMethod": "sni-only",
            "MinimumProtocolVersion": "TLSv1.2_2021",
        },
    ),
    "logging": put(
        top, Logging={"Enabled": True, "IncludeCookies": True, "Bucket": "b.s3.amazonaws.com", "Prefix": ""}
    ),
    "what has no effect": put(
        top,
        PriceClass="PriceClass_100",
        HttpVersion="http2and3",
        IsIPV6Enabled=False,
        ConnectionMode="direct",
    ),
    "origin shield": put(origin, OriginShield={"Enabled": True, "OriginShieldRegion": "eu-west-1"}),
    "leftover cookie names": forwarded(Cookies={"Forward": "none", "WhitelistedNames": many("a")}),
    "a secret header": headers(("X-Origin-Secret", "s3cr3t")),
    "behaviors": pattern("/a/*", "*.jpg", "b?"),
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_is_accepted_can_be_sent_back_unchanged(
    harness: Harness, change: Callable[[Config], None]
) -> None:
    config = minimal()
    change(config)
    created = harness.call("CreateDistribution", DistributionConfig=config)["Distribution"]
    read, etag = harness.config(created["Id"])
    assert read == created["DistributionConfig"]
    number = harness.number()
    again = harness.call("UpdateDistribution", Id=created["Id"], IfMatch=etag, DistributionConfig=read)
    assert again["Distribution"]["DistributionConfig"] == read
    assert harness.number() == number


def test_list_distributions_by_key_group(harness: Harness) -> None:
    key = harness.key()
    used, unused = harness.group(key), harness.group(key, name="unused")
    ids = []
    for reference in "abc":
        config = minimal(reference)
        behavior(config)["TrustedKeyGroups"] = trusting(used)
        ids.append(harness.call("CreateDistribution", DistributionConfig=config)["Distribution"]["Id"])
    harness.distribution("other")
    first = harness.call("ListDistributionsByKeyGroup", KeyGroupId=used, MaxItems="2")["DistributionIdList"]
    assert first == {
        "Marker": "",
        "MaxItems": 2,
        "IsTruncated": True,
        "Quantity": 2,
        "Items": sorted(ids)[:2],
        "NextMarker": sorted(ids)[1],
    }
    rest = harness.call("ListDistributionsByKeyGroup", KeyGroupId=used, Marker=first["NextMarker"])
    assert rest["DistributionIdList"]["Items"] == sorted(ids)[2:]
    none = harness.call("ListDistributionsByKeyGroup", KeyGroupId=unused)["DistributionIdList"]
    assert none == {"Marker": "", "MaxItems": 100, "IsTruncated": False, "Quantity": 0}
    assert harness.refused("ListDistributionsByKeyGroup", KeyGroupId="x").code == "NoSuchResource"


def test_a_guarded_error_page_is_told_in_the_log(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each state, and not again for another change."""
    config = minimal("pages")
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = trusting(harness.group(harness.key()))
    page = {
        "ErrorCode": 403,
        "ResponsePagePath": "/login.html",
        "ResponseCode": "403",
        "ErrorCachingMinTTL": 0,
    }
    config["CustomErrorResponses"] = {"Quantity": 1, "Items": [page]}
    with caplog.at_level("WARNING"):
        harness.call("CreateDistribution", DistributionConfig=config)
        harness.distribution("another")
    assert caplog.text.count("the custom error page /login.html for 403 is served without a signature") == 1
