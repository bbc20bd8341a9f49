"""The API's representation of rows: whole resources, summaries, and pages of a list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from keyfront.control.operations.context import OperationContext, Output
from keyfront.control.operations.managed import managed_rows
from keyfront.control.store.rows import Row
from keyfront.model.kinds import DISTRIBUTION, KEY_GROUP, Kind
from keyfront.model.service import service


def timestamp(seconds: float) -> datetime:
    """Epoch seconds as a UTC time with milliseconds, like CloudFront's (§7.1)."""
    return datetime.fromtimestamp(int(seconds * 1000) / 1000, UTC)


def view(context: OperationContext, kind: Kind, row: Row) -> Output:
    """The resource as Get returns it."""
    common = {"Id": row.id, **_when(kind, row), **row.attributes, kind.config: row.config}
    return common | _state(context, row) if kind is DISTRIBUTION else common


def _when(kind: Kind, row: Row) -> Output:
    if not kind.time:
        return {}
    return {kind.time: timestamp(row.created if kind.time == "CreatedTime" else row.modified)}


def _state(context: OperationContext, row: Row) -> Output:
    """A distribution's members that are not in its config."""
    groups = context.keys_of(DISTRIBUTION.refers_to[0].ids(row.config))
    active: Output = {"Enabled": bool(groups), "Quantity": len(groups)}
    if groups:
        active["Items"] = [
            {"KeyGroupId": id_, "KeyPairIds": {"Quantity": len(keys), "Items": keys}}
            for id_, keys in groups.items()
        ]
    return {
        "ARN": DISTRIBUTION.arn_of(row.id, context.service.account),
        "Status": "Deployed" if context.is_deployed(row) else "InProgress",
        "InProgressInvalidationBatches": context.load(row.id).batches,
        "ActiveTrustedSigners": {"Enabled": False, "Quantity": 0},
        "ActiveTrustedKeyGroups": active,
    }


def summary(context: OperationContext, kind: Kind, row: Row) -> Output:
    """The resource as List returns it."""
    if kind is DISTRIBUTION:
        whole = view(context, kind, row)
        shape = service().operations["ListDistributions"].output
        members = shape.members["DistributionList"].members["Items"].member.members
        return {
            "ETag": row.etag,
            **{name: value for name, value in (whole | row.config).items() if name in members},
        }
    if kind is KEY_GROUP:
        return {"KeyGroup": view(context, kind, row)}
    if kind.typed:
        type_ = "managed" if row.id in managed_rows(kind.name) else "custom"
        return {"Type": type_, kind.name: view(context, kind, row)}
    config = {name: value for name, value in row.config.items() if name != "CallerReference"}
    return {"Id": row.id, **_when(kind, row), **row.attributes, **config}


def page_of(marked: bool, marker: str, limit: int, items: list[Any], following: str | None) -> Output:
    """One page of a list, in either of the API's two styles (§7.4).

    :param marked: whether the style has Marker and IsTruncated.
    :param following: the marker of the next page; None if this page is the last.
    """
    found: Output = {"MaxItems": limit, "Quantity": len(items)}
    if items:
        found["Items"] = items
    if following is not None:
        found["NextMarker"] = following
    if marked:
        found |= {"Marker": marker, "IsTruncated": following is not None}
    return found
