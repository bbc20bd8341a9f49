"""Which permissions each operation needs: IAM's actions, and the ARNs of the resources that they are asked for.

The actions are those of AWS's Service Authorization Reference for CloudFront; most operations need the one of their own
name. Where AWS asks for no resource, only a policy whose Resource is `*` grants. Keyfront goes further in two places,
and a policy with `*` is good for both: public keys and key groups have ARNs (`public-key/ID`, `key-group/ID`), and
what is to be created is `TYPE/*`. See docs/guide/access.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from keyfront.model.kinds import KINDS, Kind

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class Need(msgspec.Struct, frozen=True):
    """An action, and what it is done to: the resource of `type` whose id is the call's parameter `member`. Without a
    member it is any resource of the type; without a type it is about no single resource. A parameter that is an ARN
    has no type."""

    action: str
    type: str = ""
    member: str = ""

    def resource(self, params: Mapping[str, Any], account: str) -> str:
        """The ARN that policies are asked for, `*` if there is none."""
        named = str(params.get(self.member) or "") if self.member else "*"
        if not self.type:
            return named
        return f"arn:aws:cloudfront::{account}:{self.type}/{named}"


def type_of(kind: str) -> str:
    """The first word of a resource's ARN by its kind's name: `key-group` for KeyGroup."""
    return _CAPITAL.sub("-", kind.removeprefix("CloudFront")).lower()


def _regular(kind: Kind) -> dict[str, tuple[Need, ...]]:
    type_ = type_of(kind.name)
    verbs = (f"Get{kind.name}", f"Get{kind.config}", f"Update{kind.name}", f"Delete{kind.name}")
    return {
        f"Create{kind.name}": (Need(f"Create{kind.name}", type_),),
        **{name: (Need(name, type_, "Id"),) for name in verbs},
        f"List{kind.plural}": (Need(f"List{kind.plural}"),),
    }


def _distribution(operation: str, member: str = "DistributionId") -> tuple[Need, ...]:
    return (Need(operation, "distribution", member),)


_IRREGULAR: dict[str, tuple[Need, ...]] = {
    "AssociateAlias": (
        Need("AssociateAlias", "distribution", "TargetDistributionId"),
        Need("UpdateDistribution", "distribution", "TargetDistributionId"),
    ),
    "CopyDistribution": (
        Need("CopyDistribution", "distribution", "PrimaryDistributionId"),
        Need("GetDistribution", "distribution", "PrimaryDistributionId"),
        Need("CreateDistribution", "distribution"),
    ),
    "CreateDistributionWithTags": (
        Need("CreateDistribution", "distribution"),
        Need("TagResource", "distribution"),
    ),
    "ListTagsForResource": (Need("ListTagsForResource", member="Resource"),),
    "TagResource": (Need("TagResource", member="Resource"),),
    "UntagResource": (Need("UntagResource", member="Resource"),),
    **{
        name: _distribution(name)
        for name in (
            "CreateInvalidation",
            "CreateMonitoringSubscription",
            "DeleteMonitoringSubscription",
            "GetInvalidation",
            "GetMonitoringSubscription",
            "ListConflictingAliases",
            "ListInvalidations",
        )
    },
}

NEEDS: dict[str, tuple[Need, ...]] = _IRREGULAR | {
    name: needs for kind in KINDS.values() for name, needs in _regular(kind).items()
}


def needs(operation: str) -> tuple[Need, ...]:
    """All the permissions that `operation` needs. One without a row of its own, as the lists by what distributions
    refer to, is about no single resource."""
    return NEEDS.get(operation) or (Need(operation),)
