"""The form in which a config is read back, whatever members were omitted."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from keyfront.model import defaults
from tests.control.harness import Harness, many, minimal
from tests.rows import rows

MINIMAL_AS_READ: dict[str, Any] = {
    "CallerReference": "one",
    "Aliases": {"Quantity": 0},
    "DefaultRootObject": "",
    "Origins": {
        "Quantity": 1,
        "Items": [
            {
                "Id": "app",
                "DomainName": "app.example.com",
                "OriginPath": "",
                "CustomHeaders": {"Quantity": 0},
                "CustomOriginConfig": {
                    "HTTPPort": 80,
                    "HTTPSPort": 443,
                    "OriginProtocolPolicy": "http-only",
                    "OriginSslProtocols": {"Quantity": 1, "Items": ["TLSv1.2"]},
                    "OriginReadTimeout": 30,
                    "OriginKeepaliveTimeout": 5,
                },
                "ConnectionAttempts": 3,
                "ConnectionTimeout": 10,
                "OriginShield": {"Enabled": False},
                "OriginAccessControlId": "",
            }
        ],
    },
    "OriginGroups": {"Quantity": 0},
    "DefaultCacheBehavior": {
        "TargetOriginId": "app",
        "TrustedSigners": {"Enabled": False, "Quantity": 0},
        "TrustedKeyGroups": {"Enabled": False, "Quantity": 0},
        "ViewerProtocolPolicy": "allow-all",
        "AllowedMethods": {
            "Quantity": 2,
            "Items": ["HEAD", "GET"],
            "CachedMethods": {"Quantity": 2, "Items": ["HEAD", "GET"]},
        },
        "SmoothStreaming": False,
        "Compress": False,
        "LambdaFunctionAssociations": {"Quantity": 0},
        "FunctionAssociations": {"Quantity": 0},
        "FieldLevelEncryptionId": "",
        "ForwardedValues": {
            "QueryString": False,
            "Cookies": {"Forward": "none"},
            "Headers": {"Quantity": 0},
            "QueryStringCacheKeys": {"Quantity": 0},
        },
        "MinTTL": 0,
        "DefaultTTL": 86400,
        "MaxTTL": 31536000,
    },
    "CacheBehaviors": {"Quantity": 0},
    "CustomErrorResponses": {"Quantity": 0},
    "Comment": "",
    "Logging": {"Enabled": False, "IncludeCookies": False, "Bucket": "", "Prefix": ""},
    "PriceClass": "PriceClass_All",
    "Enabled": True,
    "ViewerCertificate": {
        "CloudFrontDefaultCertificate": True,
        "MinimumProtocolVersion": "TLSv1",
        "CertificateSource": "cloudfront",
    },
    "Restrictions": {"GeoRestriction": {"RestrictionType": "none", "Quantity": 0}},
    "WebACLId": "",
    "HttpVersion": "http2",
    "IsIPV6Enabled": True,
    "ContinuousDeploymentPolicyId": "",
    "Staging": False,
}


def test_the_clis_minimal_create_is_read_complete(harness: Harness) -> None:
    created = harness.distribution()
    assert created["DistributionConfig"] == MINIMAL_AS_READ
    assert list(created["DistributionConfig"]) == list(MINIMAL_AS_READ)  # in CloudFront's order, too
    assert harness.config(created["Id"])[0] == MINIMAL_AS_READ
    assert created | {"DistributionConfig": 0, "Id": 0, "ARN": 0, "DomainName": 0, "LastModifiedTime": 0} == {
        "Id": 0,
        "ARN": 0,
        "Status": "InProgress",
        "LastModifiedTime": 0,
        "InProgressInvalidationBatches": 0,
        "DomainName": 0,
        "ActiveTrustedSigners": {"Enabled": False, "Quantity": 0},
        "ActiveTrustedKeyGroups": {"Enabled": False, "Quantity": 0},
        "DistributionConfig": 0,
    }


def test_a_summary_holds_what_the_model_demands(harness: Harness) -> None:
    created = harness.distribution()
    (summary,) = harness.call("ListDistributions")["DistributionList"]["Items"]
    shared = {name: value for name, value in MINIMAL_AS_READ.items() if name in summary}
    assert summary == shared | {
        "Id": created["Id"],
        "ARN": created["ARN"],
        "ETag": harness.etag("Distribution", created["Id"]),
        "Status": "InProgress",
        "LastModifiedTime": created["LastModifiedTime"],
        "DomainName": created["DomainName"],
    }
    missing = {"CallerReference", "DefaultRootObject", "Logging", "ContinuousDeploymentPolicyId"}
    assert shared.keys() == MINIMAL_AS_READ.keys() - missing


def read(**changes: Any) -> dict[str, Any]:
    return defaults.distribution(minimal() | changes)


@rows(
    ("given_ttl", "ttl"),
    [
        ({}, (0, 86400, 31536000)),
        ({"MinTTL": 100000}, (100000, 100000, 31536000)),
        ({"MinTTL": 40000000}, (40000000, 40000000, 40000000)),
        ({"DefaultTTL": 40000000}, (0, 40000000, 40000000)),
        ({"MinTTL": 0, "DefaultTTL": 0, "MaxTTL": 0}, (0, 0, 0)),
    ],
)
def test_ttls(given_ttl: dict[str, int], ttl: tuple[int, int, int]) -> None:
    config = minimal()
    del config["DefaultCacheBehavior"]["MinTTL"]
    behavior = defaults.distribution(
        config | {"DefaultCacheBehavior": config["DefaultCacheBehavior"] | given_ttl}
    )["DefaultCacheBehavior"]
    assert (behavior["MinTTL"], behavior["DefaultTTL"], behavior["MaxTTL"]) == ttl


def test_a_behavior_with_a_cache_policy_has_no_ttls() -> None:
    behavior = minimal()["DefaultCacheBehavior"] | {
        "CachePolicyId": "p",
        "OriginRequestPolicyId": "",
        "ResponseHeadersPolicyId": "r",
        "MinTTL": 0,
        "DefaultTTL": 0,
        "MaxTTL": 0,
    }
    del behavior["ForwardedValues"]
    found = read(DefaultCacheBehavior=behavior)["DefaultCacheBehavior"]
    assert {"CachePolicyId", "ResponseHeadersPolicyId"} <= found.keys()
    assert not {"MinTTL", "DefaultTTL", "MaxTTL", "ForwardedValues", "OriginRequestPolicyId"} & found.keys()


ACM = "arn:aws:acm:us-east-1:123456789012:certificate/1"
DEFAULT = MINIMAL_AS_READ["ViewerCertificate"]
OWN = {
    "CloudFrontDefaultCertificate": False,
    "ACMCertificateArn": ACM,
    "SSLSupportMethod": "sni-only",
    "MinimumProtocolVersion": "TLSv1",
    "Certificate": ACM,
    "CertificateSource": "acm",
}


@rows(
    ("certificate", "as_read"),
    [
        ({}, DEFAULT),
        ({"CloudFrontDefaultCertificate": True}, DEFAULT),
        ({"CloudFrontDefaultCertificate": True, "MinimumProtocolVersion": "TLSv1.2_2021"}, DEFAULT),
        ({"CloudFrontDefaultCertificate": False, "IAMCertificateId": "", "ACMCertificateArn": ""}, DEFAULT),
        ({"ACMCertificateArn": ACM, "SSLSupportMethod": "sni-only"}, OWN),
        ({"Certificate": ACM, "CertificateSource": "acm", "SSLSupportMethod": "sni-only"}, OWN),
        (OWN, OWN),
        (
            {"IAMCertificateId": "A", "SSLSupportMethod": "vip", "MinimumProtocolVersion": "SSLv3"},
            {
                "CloudFrontDefaultCertificate": False,
                "IAMCertificateId": "A",
                "SSLSupportMethod": "vip",
                "MinimumProtocolVersion": "SSLv3",
                "Certificate": "A",
                "CertificateSource": "iam",
            },
        ),
    ],
)
def test_viewer_certificates(certificate: dict[str, Any], as_read: dict[str, Any]) -> None:
    assert read(ViewerCertificate=certificate)["ViewerCertificate"] == as_read


def test_methods_come_in_cloudfronts_order() -> None:
    behavior = minimal()["DefaultCacheBehavior"] | {
        "AllowedMethods": many("PATCH", "PUT", "OPTIONS", "GET", "POST", "DELETE", "HEAD")
    }
    methods = read(DefaultCacheBehavior=behavior)["DefaultCacheBehavior"]["AllowedMethods"]
    assert methods["Items"] == ["HEAD", "DELETE", "POST", "GET", "OPTIONS", "PUT", "PATCH"]
    assert methods["CachedMethods"]["Items"] == ["HEAD", "GET"]


def test_logging_that_is_off_forgets_its_bucket() -> None:
    off = {"Enabled": False, "IncludeCookies": True, "Bucket": "b.s3.amazonaws.com", "Prefix": "p/"}
    assert read(Logging=off)["Logging"] == off | {"Bucket": "", "Prefix": ""}
    assert read(Logging=off | {"Enabled": True})["Logging"] == off | {"Enabled": True}


def test_order_and_case_of_what_the_caller_wrote_are_kept() -> None:
    aliases = many("B.example.com", "a.example.com")
    assert read(Aliases=aliases)["Aliases"] == aliases


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def members(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Structures with any of the members present, null, or absent."""
    return st.fixed_dictionaries({}, optional={name: optional(value) for name, value in strategies.items()})


def listed(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return members(Items=st.lists(strategy, max_size=3), Quantity=st.integers(0, 3))


names = st.sampled_from(["", "a", "B", "x.example.com"])
numbers = st.integers(0, 200)
flags = st.booleans()
behaviors = st.builds(
    lambda needed, rest: needed | rest,
    st.fixed_dictionaries({"TargetOriginId": names, "ViewerProtocolPolicy": names}),
    members(
        TrustedKeyGroups=listed(names),
        TrustedSigners=listed(names),
        AllowedMethods=listed(st.sampled_from(["GET", "HEAD", "PUT", "BREW"])),
        CachePolicyId=names,
        OriginRequestPolicyId=names,
        Compress=flags,
        MinTTL=numbers,
        DefaultTTL=numbers,
        MaxTTL=numbers,
        ForwardedValues=st.fixed_dictionaries(
            {
                "QueryString": flags,
                "Cookies": st.builds(
                    lambda forward, rest: forward | rest,
                    st.fixed_dictionaries({"Forward": st.sampled_from(["none", "whitelist", "all"])}),
                    members(WhitelistedNames=listed(names)),
                ),
            },
            optional={"Headers": optional(listed(names)), "QueryStringCacheKeys": optional(listed(names))},
        ),
    ),
)
origins = st.builds(
    lambda needed, rest: needed | rest,
    st.fixed_dictionaries({"Id": names, "DomainName": names}),
    members(
        OriginPath=names,
        CustomHeaders=listed(st.fixed_dictionaries({"HeaderName": names, "HeaderValue": names})),
        S3OriginConfig=members(OriginAccessIdentity=names, OriginReadTimeout=numbers),
        CustomOriginConfig=st.fixed_dictionaries(
            {"HTTPPort": numbers, "HTTPSPort": numbers, "OriginProtocolPolicy": names},
            optional={"OriginSslProtocols": optional(listed(names)), "OriginReadTimeout": optional(numbers)},
        ),
        OriginShield=members(Enabled=flags, OriginShieldRegion=names),
        ResponseCompletionTimeout=numbers,
    ),
)
configs = st.builds(
    lambda needed, rest: needed | rest,
    st.fixed_dictionaries(
        {
            "CallerReference": names,
            "Origins": listed(origins),
            "DefaultCacheBehavior": behaviors,
            "Enabled": flags,
        }
    ),
    members(
        Aliases=listed(names),
        CacheBehaviors=listed(behaviors),
        CustomErrorResponses=listed(
            st.builds(
                lambda needed, rest: needed | rest,
                st.fixed_dictionaries({"ErrorCode": numbers}),
                members(ResponsePagePath=names, ResponseCode=names, ErrorCachingMinTTL=numbers),
            )
        ),
        Comment=names,
        Logging=members(Enabled=flags, Bucket=names, Prefix=names, IncludeCookies=flags),
        ViewerCertificate=members(
            CloudFrontDefaultCertificate=flags,
            IAMCertificateId=names,
            ACMCertificateArn=names,
            Certificate=names,
            CertificateSource=st.sampled_from(["acm", "iam", "cloudfront"]),
            SSLSupportMethod=st.sampled_from(["sni-only", "vip"]),
        ),
        Restrictions=members(GeoRestriction=listed(names)),
        WebACLId=names,
        IsIPV6Enabled=flags,
        ConnectionMode=names,
    ),
)


@given(configs)
def test_it_is_idempotent_and_leaves_its_argument_alone(config: dict[str, Any]) -> None:
    before = copy.deepcopy(config)
    once = defaults.distribution(config)
    assert config == before
    assert defaults.distribution(once) == once
    assert "None" not in repr(once)
