"""Whether a call may do what it asks for: its operation's needs, held against its caller's policies.

It happens inside the call's transaction, so that what it judges by (the tags of a resource) is what the operation
finds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from keyfront.control.call import Call
from keyfront.control.iam import permissions
from keyfront.control.iam import policy as iam
from keyfront.control.iam.conditions import Circumstances
from keyfront.control.iam.policy import AccessRequest
from keyfront.control.operations.context import OperationContext
from keyfront.model.kinds import KINDS

REGION = "us-east-1"
"""CloudFront's only region, and so `aws:RequestedRegion` and CloudTrail's awsRegion, wherever a client signs for."""


def check(work: OperationContext) -> None:
    """Refuse the call unless its caller's policies allow all that it needs.

    :raises ApiError: AccessDenied, in IAM's words.
    """
    call = work.call
    keys = tuple((call.params.get("TagKeys") or {}).get("Items") or ())
    for need in permissions.needs(call.operation):
        resource = need.resource(call.params, work.desk.account)
        tags = _tags_of(work, resource)
        found = circumstances(call, tags, _given_tags(call.params), keys)
        asked = AccessRequest(f"cloudfront:{need.action}", resource, found)
        decision = iam.evaluate(call.caller.policies, asked)
        if not decision.allowed:
            raise iam.denied(call.caller.arn, asked, decision)


def circumstances(
    call: Call,
    tags: Iterable[tuple[str, str]],
    given: Collection[tuple[str, str]],
    keys: tuple[str, ...] = (),
) -> Circumstances:
    """What conditions are held against.

    :param tags: those that the resource has.
    :param given: those that the call would give it.
    :param keys: of the tags that it would take away.
    """
    caller = call.caller
    said = {
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
    common: dict[str, tuple[str, ...]] = {key: (value,) for key, value in said.items() if value}
    named = tuple(key for key, _ in given) or keys
    if named:
        common["aws:tagkeys"] = named
    return common | _tagged("aws:resourcetag", tags) | _tagged("aws:requesttag", given)


def source_address(text: str) -> str:
    """The caller's address as conditions compare it: an IPv4 address is one, also where the socket speaks IPv6."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _given_tags(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The tags that a call would set."""
    with_tags = params.get("DistributionConfigWithTags") or {}
    given = (params.get("Tags") or with_tags.get("Tags") or {}).get("Items") or ()
    return [(tag["Key"], tag.get("Value") or "") for tag in given]


def _tagged(prefix: str, tags: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    return {f"{prefix}/{key}": (value,) for key, value in tags}


def _tags_of(work: OperationContext, arn: str) -> Iterable[tuple[str, str]]:
    """The tags of the resource with this ARN, if there is such a resource and it can have tags."""
    for kind in KINDS.values():
        if kind.arn and arn.startswith(begin := kind.arn_of("", work.desk.account)):
            return work.transaction.tags(kind.name, arn.removeprefix(begin)).items()
    return ()
