"""The table of all operations, by the name that CloudFront's model gives them.

Every other operation of the model returns UnsupportedOperation and is listed in docs/not-cloudfront.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from keyfront.control.operations import crud, distributions, invalidations, tags
from keyfront.control.operations.context import OperationContext, Output
from keyfront.model.kinds import (
    CACHE_POLICY,
    DISTRIBUTION,
    KEY_GROUP,
    KINDS,
    ORIGIN_REQUEST_POLICY,
    RESPONSE_HEADERS_POLICY,
)
from keyfront.model.service import service

Operation = Callable[[OperationContext], Output]


def _regular() -> dict[str, Operation]:
    """Create, Get, Get…Config, Update, Delete, and List of each kind."""
    found: dict[str, Operation] = {}
    for kind in KINDS.values():
        found |= {
            f"Create{kind.name}": functools.partial(crud.create, kind=kind),
            f"Get{kind.name}": functools.partial(crud.get, kind=kind),
            f"Get{kind.config}": functools.partial(crud.get_config, kind=kind),
            f"Update{kind.name}": functools.partial(crud.update, kind=kind),
            f"Delete{kind.name}": functools.partial(crud.delete, kind=kind),
            f"List{kind.plural}": functools.partial(crud.list_, kind=kind),
        }
    return found


OPERATIONS: dict[str, Operation] = {
    **_regular(),
    "CreateDistributionWithTags": functools.partial(crud.create_with_tags, kind=DISTRIBUTION),
    "CopyDistribution": distributions.copy,
    "AssociateAlias": distributions.associate_alias,
    "ListConflictingAliases": distributions.list_conflicting_aliases,
    "ListDistributionsByKeyGroup": functools.partial(distributions.list_by_reference, kind=KEY_GROUP),
    **{
        f"ListDistributionsBy{kind.name}Id": functools.partial(distributions.list_by_reference, kind=kind)
        for kind in (CACHE_POLICY, ORIGIN_REQUEST_POLICY, RESPONSE_HEADERS_POLICY)
    },
    "ListDistributionsByWebACLId": distributions.list_by_web_acl,
    "ListDistributionsByConnectionMode": distributions.list_by_connection_mode,
    "CreateMonitoringSubscription": distributions.create_monitoring_subscription,
    "GetMonitoringSubscription": distributions.get_monitoring_subscription,
    "DeleteMonitoringSubscription": distributions.delete_monitoring_subscription,
    "CreateInvalidation": invalidations.create_invalidation,
    "GetInvalidation": invalidations.get_invalidation,
    "ListInvalidations": invalidations.list_invalidations,
    "ListTagsForResource": tags.list_tags,
    "TagResource": tags.tag,
    "UntagResource": tags.untag,
}


def unsupported() -> list[str]:
    """The operations of CloudFront's model that Keyfront does not have, in order of name."""
    return sorted(service().operations.keys() - OPERATIONS.keys())
