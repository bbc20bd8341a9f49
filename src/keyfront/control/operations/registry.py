"""The table of all operations: what is built, and what answers UnsupportedOperation."""

from __future__ import annotations

import functools
from collections.abc import Callable

from keyfront.control.operations import distributions
from keyfront.control.operations.context import OperationContext, Output, page_of
from keyfront.control.operations.crud import create, create_from, delete, get, get_config, list_, update
from keyfront.control.operations.invalidations import (
    create_invalidation,
    get_invalidation,
    list_invalidations,
)
from keyfront.control.operations.managed import managed_rows
from keyfront.control.operations.tags import list_tags, tag, untag
from keyfront.model import validate
from keyfront.model.kinds import (
    CACHE_POLICY,
    DISTRIBUTION,
    KEY_GROUP,
    KINDS,
    ORIGIN_REQUEST_POLICY,
    RESPONSE_HEADERS_POLICY,
    Kind,
)
from keyfront.model.service import service
from keyfront.model.validate import refusal


def create_with_tags(work: OperationContext, kind: Kind) -> Output:
    given = work.params[f"{kind.config}WithTags"]
    tags = validate.tags(given["Tags"].get("Items") or (), work.desk.quotas)
    return create_from(work, kind, given[kind.config], tags)


def list_distributions_by(work: OperationContext, kind: Kind) -> Output:
    """The distributions that refer to a resource of the kind."""
    marker, limit = validate.page(work.params, DISTRIBUTION.id)
    id_ = work.params[f"{kind.name}Id"]
    if id_ in managed_rows(kind.name):
        referrers = _using(work, kind, id_)
    elif work.transaction.get(kind.name, id_) is not None:
        referrers = work.transaction.referrers(kind.name, id_, DISTRIBUTION.name)
    else:
        raise refusal(kind.missing)
    ids = [referrer for referrer in referrers if referrer > marker]
    following = ids[limit - 1] if len(ids) > limit else None
    return {"DistributionIdList": page_of(True, marker, limit, ids[:limit], following)}


def _using(work: OperationContext, kind: Kind, id_: str) -> list[str]:
    """The distributions that refer to what is not stored, and so is no target of a stored reference."""
    (reference,) = (reference for reference in DISTRIBUTION.refers_to if reference.kind == kind.name)
    rows = work.transaction.some(DISTRIBUTION.name, work.transaction.versions(DISTRIBUTION.name))
    return [row.id for row in rows if id_ in reference.ids(row.config)]


def _operations() -> dict[str, Callable[[OperationContext], Output]]:
    found: dict[str, Callable[[OperationContext], Output]] = {}
    for kind in KINDS.values():
        found |= {
            f"Create{kind.name}": functools.partial(create, kind=kind),
            f"Get{kind.name}": functools.partial(get, kind=kind),
            f"Get{kind.config}": functools.partial(get_config, kind=kind),
            f"Update{kind.name}": functools.partial(update, kind=kind),
            f"Delete{kind.name}": functools.partial(delete, kind=kind),
            f"List{kind.plural}": functools.partial(list_, kind=kind),
        }
    return found | {
        "CreateDistributionWithTags": functools.partial(create_with_tags, kind=DISTRIBUTION),
        "ListDistributionsByKeyGroup": functools.partial(list_distributions_by, kind=KEY_GROUP),
        **{
            f"ListDistributionsBy{kind.name}Id": functools.partial(list_distributions_by, kind=kind)
            for kind in (CACHE_POLICY, ORIGIN_REQUEST_POLICY, RESPONSE_HEADERS_POLICY)
        },
        "CopyDistribution": distributions.copy,
        "AssociateAlias": distributions.associate_alias,
        "ListConflictingAliases": distributions.list_conflicting_aliases,
        "ListDistributionsByWebACLId": distributions.list_by_web_acl,
        "ListDistributionsByConnectionMode": distributions.list_by_connection_mode,
        "CreateMonitoringSubscription": distributions.create_monitoring_subscription,
        "GetMonitoringSubscription": distributions.get_monitoring_subscription,
        "DeleteMonitoringSubscription": distributions.delete_monitoring_subscription,
        "CreateInvalidation": create_invalidation,
        "GetInvalidation": get_invalidation,
        "ListInvalidations": list_invalidations,
        "ListTagsForResource": list_tags,
        "TagResource": tag,
        "UntagResource": untag,
    }


OPERATIONS = _operations()
"""All that is built; every other operation of the model answers UnsupportedOperation and stands in
docs/not-cloudfront.md."""


def unsupported() -> list[str]:
    """The operations of the model that are not built."""
    return sorted(service().operations.keys() - OPERATIONS.keys())
