"""Tags of resources."""

from __future__ import annotations

from collections.abc import Mapping

from keyfront.control.operations.context import OperationContext, Output
from keyfront.control.store.rows import Row
from keyfront.model import validate
from keyfront.model.kinds import (
    DISTRIBUTION,
    KINDS,
    Kind,
)
from keyfront.model.residency import TAG
from keyfront.model.validate import refusal


def list_tags(work: OperationContext) -> Output:
    kind, row = _tagged(work)
    tags = work.transaction.tags(kind.name, row.id)
    return {"Tags": {"Items": [{"Key": key, "Value": value} for key, value in tags.items()]}}


def tag(work: OperationContext) -> Output:
    kind, row = _tagged(work)
    added = validate.tags(work.params["Tags"].get("Items") or (), work.desk.quotas)
    tags = work.transaction.tags(kind.name, row.id) | added
    if len(tags) > work.desk.quotas.tags:
        raise refusal("InvalidTagging", f"A resource can have {work.desk.quotas.tags} tags.")
    _retag(work, kind, row, tags)
    return {}


def untag(work: OperationContext) -> Output:
    kind, row = _tagged(work)
    keys = work.params["TagKeys"].get("Items") or ()
    for key in keys:
        validate.tag_key(key)
    tags = work.transaction.tags(kind.name, row.id)
    _retag(work, kind, row, {key: tags[key] for key in tags if key not in keys})
    return {}


def _retag(work: OperationContext, kind: Kind, row: Row, tags: Mapping[str, str]) -> None:
    """Give `row` these tags. Where that ties it to other regions, edges notice: what is changed is in progress, under
    its old ETag."""
    before = work.transaction.tags(kind.name, row.id).get(TAG)
    work.transaction.set_tags(kind.name, row.id, tags)
    if tags.get(TAG) != before:
        referrers = work.transaction.referrers(kind.name, row.id, DISTRIBUTION.name)
        work.touched |= {row.id} if kind is DISTRIBUTION else set(referrers)


def _tagged(work: OperationContext) -> tuple[Kind, Row]:
    """The resource whose ARN the call names."""
    named = work.params["Resource"]
    head, _, tail = named.partition("/")
    for kind in KINDS.values():
        if kind.arn and head == kind.arn_of("", work.desk.account).rstrip("/"):
            row = work.transaction.get(kind.name, tail)
            if row is not None:
                return kind, row
    if not named.startswith(("arn:aws:cloudfront::", "arn:aws-cn:cloudfront::")):
        raise refusal("InvalidArgument", "The parameter Resource is not the ARN of a CloudFront resource.")
    raise refusal("NoSuchResource")
