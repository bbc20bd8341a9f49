"""The permissions that each operation needs: IAM actions, and the ARNs of their resources.

The actions are those of AWS's Service Authorization Reference for CloudFront; most operations need the action of the
same name. For an action without a resource, only a policy with the Resource `*` grants permission. Keyfront adds two
things that policies with `*` cover as well: public keys and key groups have ARNs (`public-key/ID`, `key-group/ID`), and
a resource to be created is `TYPE/*`. See docs/guide/access.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from keyfront.model.kinds import KINDS, Kind

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class Need(msgspec.Struct, frozen=True):
    """An action and its resource.

    :param type: the resource's type in ARNs; empty if there is no resource, or if the parameter is a whole ARN.
    :param member: the call's parameter with the resource's id or ARN; empty: any resource of the type.
    """

    action: str
    type: str = ""
    member: str = ""

    def resource(self, params: Mapping[str, Any], account: str) -> str:
        """The ARN to evaluate policies with; `*` if there is no resource."""
        named = str(params.get(self.member) or "") if self.member else "*"
        if not self.type:
            return named
        return f"arn:aws:cloudfront::{account}:{self.type}/{named}"


def type_of(kind: str) -> str:
    """The resource type in ARNs of a kind: `key-group` for KeyGroup."""
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
    """All permissions that `operation` needs. An operation that is not in NEEDS, such as ListDistributionsByKeyGroup,
    needs the action of its name, without a resource."""
    return NEEDS.get(operation) or (Need(operation),)
