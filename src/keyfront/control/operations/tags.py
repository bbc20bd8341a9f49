"""Tags of resources: list, add, and remove them."""

from __future__ import annotations

from collections.abc import Mapping

from keyfront.control.operations.context import OperationContext, Output
from keyfront.control.store.rows import Row
from keyfront.model import validate
from keyfront.model.kinds import DISTRIBUTION, KINDS, Kind
from keyfront.model.residency import TAG
from keyfront.model.validate import refusal


def list_tags(context: OperationContext) -> Output:
    """ListTagsForResource."""
    kind, row = _tagged_resource(context)
    tags = context.transaction.tags(kind.name, row.id)
    return {"Tags": {"Items": [{"Key": key, "Value": value} for key, value in tags.items()]}}


def tag(context: OperationContext) -> Output:
    """TagResource: add tags, and replace the values of those that the resource has."""
    kind, row = _tagged_resource(context)
    added = validate.tags(context.params["Tags"].get("Items") or (), context.service.quotas)
    tags = context.transaction.tags(kind.name, row.id) | added
    if len(tags) > context.service.quotas.tags:
        raise refusal("InvalidTagging", f"A resource can have {context.service.quotas.tags} tags.")
    _set_tags(context, kind, row, tags)
    return {}


def untag(context: OperationContext) -> Output:
    """UntagResource: remove tags by key. Keys that the resource does not have are ignored."""
    kind, row = _tagged_resource(context)
    keys = context.params["TagKeys"].get("Items") or ()
    for key in keys:
        validate.tag_key(key)
    tags = context.transaction.tags(kind.name, row.id)
    _set_tags(context, kind, row, {key: tags[key] for key in tags if key not in keys})
    return {}


def _set_tags(context: OperationContext, kind: Kind, row: Row, tags: Mapping[str, str]) -> None:
    """Replace the row's tags. A change of its regions reaches edges, so the distributions concerned are in progress
    again; their ETags stay."""
    before = context.transaction.tags(kind.name, row.id).get(TAG)
    context.transaction.set_tags(kind.name, row.id, tags)
    if tags.get(TAG) != before:
        referrers = context.transaction.referrers(kind.name, row.id, DISTRIBUTION.name)
        context.changed |= {row.id} if kind is DISTRIBUTION else set(referrers)


def _tagged_resource(context: OperationContext) -> tuple[Kind, Row]:
    """The resource whose ARN the call names."""
    arn = context.params["Resource"]
    head, _, tail = arn.partition("/")
    for kind in KINDS.values():
        if kind.arn and head == kind.arn_of("", context.service.account).rstrip("/"):
            row = context.transaction.get(kind.name, tail)
            if row is not None:
                return kind, row
    if not arn.startswith(("arn:aws:cloudfront::", "arn:aws-cn:cloudfront::")):
        raise refusal("InvalidArgument", "The parameter Resource is not the ARN of a CloudFront resource.")
    raise refusal("NoSuchResource")
