"""Audit records: one for each API call, in CloudTrail's shape, in a hash chain that reveals tampering.

`entry` makes a record from a call and its outcome. `append` writes it at the end of the log; a change's record is part
of the change's own transaction. A record's digest is SHA-256 over the previous digest and the record's bytes, so
`first_break` finds the first record that was altered.

Records hold no secrets. Values that the API's model marks as sensitive, such as origin custom header values, are
replaced by HIDDEN. So is an EncodedKey that is not a public key, because private keys are sometimes pasted by mistake.
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
from keyfront.model.service import API_VERSION, service
from keyfront.model.shapes import Shape
from keyfront.signing.keys import load_public_key

HIDDEN = "HIDDEN_DUE_TO_SECURITY_REASONS"
"""What CloudTrail writes instead of a sensitive value."""

START = bytes(32)
"""The digest before the first record."""

CLOUDFRONT = "cloudfront.amazonaws.com"

_PRIVATE = re.compile(r"PRIVATE KEY|PuTTY-User-Key-File")


def record(call: Call, outcome: dict[str, Any] | ApiError, rng: RandomSource) -> dict[str, Any]:
    """The record of `call` with its outcome: the output, or the error with which it was refused.

    `responseElements` holds only the id, ETag, and location of a resource that the call created or changed.
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
    """A record ready for the log: its bytes, and the values it can be searched by."""

    record: bytes
    index: AuditIndex


def entry(call: Call, outcome: dict[str, Any] | ApiError, rng: RandomSource) -> Entry:
    """The record of `call` with its outcome, ready for the log."""
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
    """Append records to the log, in this order."""
    head = transaction.audit_head()
    for one in entries:
        head = following(head, one.record)
        transaction.append_audit(head, one.index)


def encode(found: dict[str, Any]) -> bytes:
    """A record's bytes, as stored and hashed."""
    return msgspec.json.encode(_encodable(found))


def _encodable(value: Any) -> Any:
    """The value without what JSON or UTF-8 cannot represent, so that every call can be recorded."""
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
    """The row for the record `data` that follows the row `head`."""
    before, number = (START, 0) if head is None else (head.digest, head.number)
    return AuditRow(number + 1, data, hashlib.sha256(before + data).digest())


def first_break(rows: Iterable[AuditRow], head: AuditRow | None = None) -> int | None:
    """The number of the first row that does not follow from the one before it; None if the chain is intact.

    :param head: the row before the first; None if the rows start at the beginning of the log.
    """
    for row in rows:
        if following(head, row.record) != row:
            return row.number
        head = row
    return None


READS = ("Get", "List", "Lookup", "Describe", "Test", "Verify")
"""Prefixes of the names of operations that change nothing."""


def read_only(operation: str) -> bool:
    """True for an operation that changes nothing, judged by its name."""
    return operation.startswith(READS)


def subject(call: Call, outcome: dict[str, Any] | ApiError) -> str:
    """The id or ARN of the resource that a call concerns; empty if it names none."""
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
        "AlarmName",
        "ResourceARN",
    ):
        if isinstance(value := call.params.get(member), str):
            return str(_encodable(value))[:2048]
    if isinstance(outcome, dict):
        for value in outcome.values():
            if isinstance(value, dict) and isinstance(id_ := value.get("Id"), str):
                return id_
    return ""


def _identity(call: Call) -> dict[str, Any]:
    """CloudTrail's userIdentity. Commands that work on the data folder itself have neither access key nor user name;
    they count as the account's root."""
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
    """`value` with camelCase names and without secrets. Members that the model does not know are hidden."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if shape is None or shape.traits.get("sensitive"):
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
    return HIDDEN  # a value that does not fit its shape may be a secret


def _renamed(value: dict[str, Any]) -> dict[str, Any] | None:
    """The parameters of an operation that is not CloudFront's, with camelCase names. This process made them, so they
    hold no secret."""
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
