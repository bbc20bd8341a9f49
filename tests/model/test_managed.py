"""The managed policies have the API's own shape, and the same values as CloudFront's (cloudfront-semantics §5.12)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from keyfront.model.managed import CACHE_POLICIES, ORIGIN_REQUEST_POLICIES, RESPONSE_HEADERS_POLICIES
from tests.model.configs import behavior, compiled
from tests.rows import rows

MODEL = ServiceModel(Loader().load_service_model("cloudfront", "service-2"))

ALL = [
    (shape, policy_id, config)
    for shape, table in (
        ("CachePolicyConfig", CACHE_POLICIES),
        ("OriginRequestPolicyConfig", ORIGIN_REQUEST_POLICIES),
        ("ResponseHeadersPolicyConfig", RESPONSE_HEADERS_POLICIES),
    )
    for policy_id, config in table.items()
]


@rows(("shape", "policy_id", "config"), ALL, ids=[config["Name"] for _, _, config in ALL])
def test_shape(shape: str, policy_id: str, config: dict[str, Any]) -> None:
    assert str(UUID(policy_id)) == policy_id
    assert config["Name"].startswith("Managed-")
    report = ParamValidator().validate(config, MODEL.shape_for(shape))
    assert not report.has_errors(), report.generate_report()


def test_names_and_ids_are_unique() -> None:
    assert len({policy_id for _, policy_id, _ in ALL}) == len(ALL) == 20
    assert len({config["Name"] for _, _, config in ALL}) == len(ALL)


@rows("cache_policy_id", CACHE_POLICIES)
@rows("origin_request_policy_id", ["", *ORIGIN_REQUEST_POLICIES])
def test_every_pair_compiles(cache_policy_id: str, origin_request_policy_id: str) -> None:
    (one,) = compiled(
        DefaultCacheBehavior=behavior(
            CachePolicyId=cache_policy_id,
            OriginRequestPolicyId=origin_request_policy_id,
            ResponseHeadersPolicyId="67f7725c-6f97-4210-82d7-5512b31e9d03",
        )
    ).behaviors
    ttl = CACHE_POLICIES[cache_policy_id]
    assert (one.min_ttl, one.default_ttl, one.max_ttl) == (ttl["MinTTL"], ttl["DefaultTTL"], ttl["MaxTTL"])
