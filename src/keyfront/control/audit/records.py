"""Who did what: each API call as a record in CloudTrail's shape, chained against tampering.

A call and its outcome in, a record out. `append` puts it at the end of the log, a change's record in the transaction
of the change itself. A record's digest is SHA-256 over the digest before it and the record's bytes; `first_break`
finds where a chain was tampered with.

No secret enters a record: what the API's model marks as sensitive (origin custom header values among it)
reads HIDDEN, and so does an EncodedKey that is no public key, since people do paste private ones by
mistake.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from keyfront.control.call import Call
from keyfront.control.store.contract import AuditLog
from keyfront.control.store.rows import AuditIndex, AuditRow
from keyfront.errors import ApiError, KeyLoadError
from keyfront.model.kinds import RandomSource
from keyfront.model.service import API_VERSION, Shape, service
from keyfront.signing.keys import load_public_key

HIDDEN = "HIDDEN_DUE_TO_SECURITY_REASONS"
"""What CloudTrail writes in the place of a sensitive value."""

START = bytes(32)
"""The digest before the first record."""

CLOUDFRONT = "cloudfront.amazonaws.com"

_PRIVATE = re.compile(r"PRIVATE KEY|PuTTY-User-Key-File")


def record(call: Call, outcome: dict[str, Any] | ApiError, rng: RandomSource) -> dict[str, Any]:
    """The record of `call`, which ended in its output or was refused.

    `responseElements` are the id, the ETag and the location of what a call made or changed, not all that it
    read.
    """
    operation = service().operations.get(call.operation) if call.source == CLOUDFRONT else None
    now = datetime.fromtimestamp(call.now, UTC)
    found: dict[str, Any] = {
        "eventVersion": "1.09",
        "userIdentity": _identity(call),
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": call.source,
        "eventName": call.operation,
        "awsRegion": "us-east-1",
        "sourceIPAddress": call.source_ip,
        "userAgent": call.user_agent,
    }
    if isinstance(outcome, ApiError):
        found["errorCode"] = outcome.code
        found["errorMessage"] = outcome.message
        found["responseElements"] = None
    else:
        found["responseElements"] = _elements(call, outcome)
    found |= {
        "requestParameters": _parameters(call.params, operation.input if operation else None)
        if call.source == CLOUDFRONT
        else _renamed(call.params),
        "requestID": call.request_id,
        "eventID": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "readOnly": read_only(call.operation),
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": call.caller.account,
        "eventCategory": "Management",
    }
    if call.source == CLOUDFRONT:
        found["apiVersion"] = API_VERSION.replace("-", "_")
    return found


class Entry(msgspec.Struct, frozen=True):
    """A record ready for the log: its bytes, and what it can be searched by."""

    record: bytes
    index: AuditIndex


def entry(call: Call, outcome: dict[str, Any] | ApiError, rng: RandomSource) -> Entry:
    """The record of `call`, which ended in its output or was refused, ready for the log."""
    return Entry(
        record=encode(record(call, outcome, rng)),
        index=AuditIndex(
            time=call.now,
            name=call.operation,
            principal=call.caller.arn,
            resource=subject(call, outcome),
            error=outcome.code if isinstance(outcome, ApiError) else "",
        ),
    )


def append(transaction: AuditLog, *entries: Entry) -> None:
    """Write records at the end of the log."""
    head = transaction.audit_head()
    for one in entries:
        head = following(head, one.record)
        transaction.append_audit(head, one.index)


def encode(found: dict[str, Any]) -> bytes:
    """A record's bytes, over which its digest is taken."""
    return msgspec.json.encode(_encodable(found))


def _encodable(value: Any) -> Any:
    """Without what JSON or UTF-8 cannot say: a call is recorded whatever it sent."""
    if isinstance(value, dict):
        return {_encodable(name): _encodable(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return str(value)
    return value


def following(head: AuditRow | None, data: bytes) -> AuditRow:
    """The row of the record `data` after the row `head`."""
    before, number = (START, 0) if head is None else (head.digest, head.number)
    return AuditRow(number + 1, data, hashlib.sha256(before + data).digest())


def first_break(rows: Iterable[AuditRow], head: AuditRow | None = None) -> int | None:
    """The number of the first row that does not follow from the one before it (`head` before the first);
    None if the chain is whole."""
    for row in rows:
        if following(head, row.record) != row:
            return row.number
        head = row
    return None


READS = ("Get", "List", "Describe", "Test", "Verify")
"""How the names of operations begin that change nothing."""


def read_only(operation: str) -> bool:
    """True for an operation that changes nothing, as its name says."""
    return operation.startswith(READS)


def subject(call: Call, outcome: dict[str, Any] | ApiError) -> str:
    """The id or the ARN of the resource that a call was about; empty if it named none."""
    for member in (
        "Id",
        "Resource",
        "KeyGroupId",
        "DistributionId",
        "TargetDistributionId",
        "PrimaryDistributionId",
        "AccessKeyId",
        "UserName",
        "PolicyName",
    ):
        if isinstance(value := call.params.get(member), str):
            return str(_encodable(value))[:2048]
    if isinstance(outcome, dict):
        for value in outcome.values():
            if isinstance(value, dict) and isinstance(id_ := value.get("Id"), str):
                return id_
    return ""


def _identity(call: Call) -> dict[str, Any]:
    """Whoever works on the data folder itself has no access key and no name there, and is the account's root."""
    caller = call.caller
    found = {
        "type": "IAMUser" if caller.name else "Root",
        "principalId": caller.user_id,
        "arn": caller.arn,
        "accountId": caller.account,
        "accessKeyId": caller.access_key_id,
        "userName": caller.name,
    }
    return {member: value for member, value in found.items() if value or member == "principalId"}


def _elements(call: Call, output: dict[str, Any]) -> dict[str, Any] | None:
    if read_only(call.operation):
        return None
    if call.source != CLOUDFRONT:
        return _renamed(output)
    found: dict[str, Any] = {}
    for member, value in output.items():
        if isinstance(value, str):
            found[_camel(member)] = value
        elif isinstance(value, dict):
            found[_camel(member)] = {
                _camel(name): value[name] for name in ("Id", "ARN", "DomainName", "Status") if name in value
            }
    return found or None


def _parameters(value: Any, shape: Shape | None) -> Any:
    """`value` with camelCase names and without secrets, as far as its shape is known; what is not known is
    hidden."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if shape is None or shape.metadata.get("sensitive"):
        return HIDDEN
    if isinstance(value, dict):
        members = shape.members if shape.type_name == "structure" else {}
        return {
            _camel(str(name)): HIDDEN
            if name == "EncodedKey" and not _is_public(member)
            else _parameters(member, members.get(name))
            for name, member in value.items()
        }
    if isinstance(value, list | tuple):
        return [_parameters(item, shape.member if shape.type_name == "list" else None) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and shape.type_name == "string" and not _PRIVATE.search(value):
        return value
    return HIDDEN  # what is not of its shape may be anything


def _renamed(value: dict[str, Any]) -> dict[str, Any] | None:
    """What a call other than CloudFront's says: it was made by this process and holds no secret."""
    return {
        _camel(name): _renamed(member) if isinstance(member, dict) else member
        for name, member in value.items()
    } or None


def _is_public(value: Any) -> bool:
    try:
        load_public_key(value if isinstance(value, str) else "")
    except KeyLoadError:
        return False
    return True


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]
