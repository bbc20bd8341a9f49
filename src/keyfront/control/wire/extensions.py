"""Keyfront's own operations in addition to CloudFront's API: paths that begin with /keyfront/, signed and authorized
like all calls.

`control/own_operations` has the operations. The IAM action of each is `keyfront:` and its name; the audit log records
calls with the source `keyfront`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from keyfront.control.audit import records
from keyfront.control.audit.writer import AuditWriter
from keyfront.control.call import Call
from keyfront.control.iam import policy as iam
from keyfront.control.iam.policy import AccessRequest
from keyfront.control.operations import authorization
from keyfront.control.own_operations.contract import PREFIX, SOURCE, Found, OwnOperation, find
from keyfront.control.wire.codec import Answer, MethodNotAllowed
from keyfront.errors import ApiError

HIDDEN = "HIDDEN"
"""Stands in the audit log for the value of a secret parameter."""
_HEADERS = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))


def has_path(path: str) -> bool:
    """True for a path below /keyfront/."""
    return path.startswith(PREFIX)


class ExtensionApi:
    """Runs these operations. Safe to call from several threads.

    :param audit_reads: whether to record successful reads as well.
    """

    def __init__(self, operations: Iterable[OwnOperation], audit: AuditWriter, *, audit_reads: bool) -> None:
        self._operations = tuple(operations)
        self._audit = audit
        self._audit_reads = audit_reads

    def match(self, method: str, path: str) -> Found:
        """The operation at this path.

        :raises ApiError: InvalidURI, or MethodNotAllowed.
        """
        found = find(self._operations, method, path)
        if isinstance(found, Found):
            return found
        if found:
            raise MethodNotAllowed(found)
        raise ApiError("InvalidURI", f"There is no operation at {path[:100]}.", 404)

    def run(self, call: Call, found: Found, query: str, body: bytes) -> Answer:
        """Authorize the call and run the operation.

        :raises ApiError: AccessDenied, with IAM's message, InvalidArgument, or the operation's own error.
        """
        operation = found.operation
        call = msgspec.structs.replace(call, source=SOURCE, params=dict(found.parameters))
        try:
            more = operation.further_parameters(query, body)
            call = msgspec.structs.replace(call, params={**more, **found.parameters})
            request = AccessRequest(
                f"keyfront:{operation.name}",
                operation.resource(call),
                authorization.request_context(call, (), ()),
            )
            decision = iam.evaluate(call.caller.policies, request)
            if not decision.allowed:
                raise iam.denied(call.caller.arn, request, decision)
            output = operation.run(call)
        except ApiError as error:
            if error.code != "ServiceUnavailable":
                self._audit.record(_recorded(call, operation), error)
            raise
        if self._audit_reads or not records.read_only(operation.name):
            self._audit.record(_recorded(call, operation), {})
        return Answer(200, _HEADERS, msgspec.json.encode(output))


def _recorded(call: Call, operation: OwnOperation) -> Call:
    """The call without the values of secret parameters."""
    params = {name: HIDDEN if name in operation.secret else value for name, value in call.params.items()}
    return msgspec.structs.replace(call, params=params)


def write_error(error: ApiError, request_id: str) -> Answer:
    """An error as JSON."""
    allow = (("Allow", ", ".join(error.allow)),) if isinstance(error, MethodNotAllowed) else ()
    body = {"Error": {"Code": error.code, "Message": error.message}, "RequestId": request_id}
    return Answer(error.status, (*_HEADERS, *allow), msgspec.json.encode(body))
