"""The check whether a caller's policies allow a call.

The check runs inside the call's transaction, so it sees the same tags of a resource as the operation itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from keyfront.control.call import Call
from keyfront.control.iam import permissions
from keyfront.control.iam import policy as iam
from keyfront.control.iam.conditions import RequestContext
from keyfront.control.iam.policy import AccessRequest
from keyfront.control.operations.context import OperationContext
from keyfront.model.kinds import KINDS

REGION = "us-east-1"
"""CloudFront's only region. It is `aws:RequestedRegion` and CloudTrail's awsRegion, whichever region a client signs
for."""


def check(context: OperationContext) -> None:
    """Refuse the call unless its caller's policies allow every action that it needs.

    :raises ApiError: AccessDenied, with IAM's message.
    """
    call = context.call
    keys = tuple((call.params.get("TagKeys") or {}).get("Items") or ())
    for need in permissions.needs(call.operation):
        resource = need.resource(call.params, context.service.account)
        tags = _tags_of(context, resource)
        found = request_context(call, tags, _given_tags(call.params), keys)
        request = AccessRequest(f"cloudfront:{need.action}", resource, found)
        decision = iam.evaluate(call.caller.policies, request)
        if not decision.allowed:
            raise iam.denied(call.caller.arn, request, decision)


def request_context(
    call: Call,
    tags: Iterable[tuple[str, str]],
    given: Collection[tuple[str, str]],
    keys: tuple[str, ...] = (),
) -> RequestContext:
    """The condition keys of the call, in lower case, with their values.

    :param tags: the tags of the resource.
    :param given: the tags that the call would add.
    :param keys: the keys of the tags that the call would remove.
    """
    caller = call.caller
    values = {
        "aws:currenttime": datetime.fromtimestamp(call.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "aws:epochtime": str(int(call.now)),
        "aws:principalaccount": caller.account,
        "aws:principalarn": caller.arn,
        "aws:principaltype": "User",
        "aws:requestedregion": REGION,
        "aws:securetransport": "true" if call.secure else "false",
        "aws:sourceip": source_address(call.source_ip),
        "aws:useragent": call.user_agent,
        "aws:userid": caller.user_id,
        "aws:username": caller.name,
    }
    common: dict[str, tuple[str, ...]] = {key: (value,) for key, value in values.items() if value}
    named = tuple(key for key, _ in given) or keys
    if named:
        common["aws:tagkeys"] = named
    return common | _tagged("aws:resourcetag", tags) | _tagged("aws:requesttag", given)


def source_address(text: str) -> str:
    """The caller's address as conditions compare it: an IPv4-mapped IPv6 address counts as the IPv4 address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _given_tags(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The tags that the call would add."""
    with_tags = params.get("DistributionConfigWithTags") or {}
    given = (params.get("Tags") or with_tags.get("Tags") or {}).get("Items") or ()
    return [(tag["Key"], tag.get("Value") or "") for tag in given]


def _tagged(prefix: str, tags: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    return {f"{prefix}/{key}": (value,) for key, value in tags}


def _tags_of(context: OperationContext, arn: str) -> Iterable[tuple[str, str]]:
    """The tags of the resource with this ARN; empty if there is no such resource or its kind has no tags."""
    for kind in KINDS.values():
        if kind.arn and arn.startswith(begin := kind.arn_of("", context.service.account)):
            return context.transaction.tags(kind.name, arn.removeprefix(begin)).items()
    return ()
