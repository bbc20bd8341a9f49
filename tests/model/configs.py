"""DistributionConfigs for tests: the smallest complete one, and ways to change one member of it."""

from __future__ import annotations

import copy
from typing import Any

from keyfront.model.compile import Lookup, Problem, compile_distribution
from keyfront.model.snapshot import Distribution

ARN = "arn:aws:cloudfront::000000000000:distribution/E2VY6GYSB2RFYS"

DOMAIN_NAME = "D111.cloudfront.localhost"

OPTIMIZED = "658327ea-f89d-4fab-a63d-7e88639e58f6"
DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
AMPLIFY = "2e54312d-136d-493c-8eb9-b001f22f67d2"
ALL_VIEWER = "216adef6-5c7f-47e4-b989-5492eafa07d3"
ALL_BUT_HOST = "b689b0a8-53d0-40ab-baf2-68738e2966ac"
CORS_S3 = "88a5eaf4-2fd4-4709-b370-b4c650ea3fcf"
SECURITY = "67f7725c-6f97-4210-82d7-5512b31e9d03"
GROUP = "4b4f2f1c-315d-5c2e-f093-216f50fed10f"
OTHER_GROUP = "5b4f2f1c-315d-5c2e-f093-216f50fed10f"

LOOKUP = Lookup(
    key_groups={
        GROUP: {"Name": "ours", "Items": ["KDFB19YGCR002"]},
        OTHER_GROUP: {"Name": "theirs", "Items": ["KDFB19YGCR003"]},
    },
    origin_access_controls={
        "EALWAYS": {"SigningBehavior": "always"},
        "ENOOVERRIDE": {"SigningBehavior": "no-override"},
        "ENEVER": {"SigningBehavior": "never"},
    },
    origin_access_identities={"E1": {"Comment": ""}},
)


def many(*items: Any) -> dict[str, Any]:
    """A list in the API's form."""
    return {"Quantity": len(items), "Items": list(items)} if items else {"Quantity": 0}


def origin(own: str = "app", domain: str = "origin.example.com", **members: Any) -> dict[str, Any]:
    return {
        "Id": own,
        "DomainName": domain,
        "CustomOriginConfig": {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "http-only"},
    } | members


def bucket(own: str = "media", **members: Any) -> dict[str, Any]:
    return {
        "Id": own,
        "DomainName": "bucket.s3.eu-west-1.amazonaws.com",
        "S3OriginConfig": {"OriginAccessIdentity": ""},
    } | members


def behavior(**members: Any) -> dict[str, Any]:
    return {
        "TargetOriginId": "app",
        "ViewerProtocolPolicy": "allow-all",
        "CachePolicyId": OPTIMIZED,
    } | members


def legacy(**members: Any) -> dict[str, Any]:
    return {
        "TargetOriginId": "app",
        "ViewerProtocolPolicy": "allow-all",
        "ForwardedValues": {"QueryString": False, "Cookies": {"Forward": "none"}},
    } | members


def config(**members: Any) -> dict[str, Any]:
    return {
        "CallerReference": "a",
        "Comment": "",
        "Enabled": True,
        "Origins": many(origin()),
        "DefaultCacheBehavior": behavior(),
    } | copy.deepcopy(members)


def compiled(lookup: Lookup = LOOKUP, **members: Any) -> Distribution:
    found = compile_distribution(
        "E2VY6GYSB2RFYS", ARN, "D111.cloudfront.localhost", config(**members), lookup
    )
    assert isinstance(found, Distribution), found
    return found


def problems(lookup: Lookup = LOOKUP, **members: Any) -> list[Problem]:
    found = compile_distribution(
        "E2VY6GYSB2RFYS", ARN, "D111.cloudfront.localhost", config(**members), lookup
    )
    assert isinstance(found, list), found
    assert found
    return found
