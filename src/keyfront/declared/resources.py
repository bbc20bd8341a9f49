"""The kinds of resource that a set-up can declare: a row for each, in the order in which they can be created.

The API's own knowledge of a kind (operations, members, IDs, what it refers to) is derived from botocore's description
and `model/kinds.py`; a row adds only what a declaration needs besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from keyfront.declared import alarms
from keyfront.model import cloudwatch, defaults, policies
from keyfront.model.kinds import KINDS, Reference
from keyfront.model.service import service
from keyfront.model.shapes import Shape


class Row(msgspec.Struct, frozen=True):
    """`identity` is the member by which a resource is found again; `comment` is the member that names the owner;
    `complete` turns a config into what the API returns; `title` is the kind's readable name; `fixed` members can
    never change."""

    name: str
    plural: str
    title: str
    complete: Callable[[Any], dict[str, Any]]
    identity: Literal["Name", "CallerReference", "AlarmName"] = "Name"
    comment: str = "Comment"
    has_reference: bool = False
    fixed: tuple[str, ...] = ()
    tagged: bool = False
    longest: int = 128
    """Maximum characters of the comment."""

    @property
    def config(self) -> str:
        return f"{self.name}Config"

    @property
    def shape(self) -> Shape:
        """The shape of its config."""
        if self.name == alarms.KIND:
            return cloudwatch.api().operations["PutMetricAlarm"].input
        return service().operations[f"Create{self.name}"].input.members[self.config]

    @property
    def refers_to(self) -> tuple[Reference, ...]:
        if self.name == alarms.KIND:
            return (Reference("Distribution", ((alarms.DISTRIBUTION,),), missing=""),)
        kind = KINDS.get(self.name)
        return kind.refers_to if kind else ()


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(
            "PublicKey",
            "PublicKeys",
            "public key",
            defaults.public_key,
            has_reference=True,
            fixed=("EncodedKey",),
        ),
        Row("KeyGroup", "KeyGroups", "key group", defaults.key_group),
        Row("CachePolicy", "CachePolicies", "cache policy", policies.complete_cache_policy),
        Row(
            "OriginRequestPolicy",
            "OriginRequestPolicies",
            "origin request policy",
            policies.complete_origin_request_policy,
        ),
        Row(
            "ResponseHeadersPolicy",
            "ResponseHeadersPolicies",
            "response headers policy",
            policies.complete_response_headers_policy,
        ),
        Row(
            "OriginAccessControl",
            "OriginAccessControls",
            "origin access control",
            defaults.origin_access_control,
            comment="Description",
            longest=256,
        ),
        Row(
            "CloudFrontOriginAccessIdentity",
            "CloudFrontOriginAccessIdentities",
            "origin access identity",
            defaults.origin_access_identity,
            identity="CallerReference",
            has_reference=True,
        ),
        Row(
            "Distribution",
            "Distributions",
            "distribution",
            defaults.distribution,
            identity="CallerReference",
            has_reference=True,
            tagged=True,
        ),
        Row(
            alarms.KIND,
            "MetricAlarms",
            "alarm",
            alarms.complete,
            identity="AlarmName",
            comment="AlarmDescription",
            longest=1024,
        ),
    )
}

RANK = {name: at for at, name in enumerate(ROWS)}
"""Kinds with a lower rank are created first and deleted last."""
