"""Keyfront's own operations in addition to CloudFront's API: paths that begin with /keyfront/, signed and authorized
like all calls.

There is one: GetKeyUse, which returns the key usage that edges report, as JSON. Its IAM action is `keyfront:GetKeyUse`
without a resource; the audit log records its calls with the source `keyfront`.
"""

from __future__ import annotations

import contextlib

import msgspec

from keyfront.cloudfront import key_usage
from keyfront.control.audit.writer import AuditWriter
from keyfront.control.call import Call
from keyfront.control.iam import policy as iam
from keyfront.control.iam.policy import AccessRequest
from keyfront.control.keys.usage import KeyUsageCollector, uses
from keyfront.control.operations import authorization
from keyfront.control.store.store import Store
from keyfront.control.wire.codec import Answer, MethodNotAllowed
from keyfront.errors import ApiError

SOURCE = "keyfront"
PREFIX = "/keyfront/"
OPERATIONS = {key_usage.PATH: "GetKeyUse"}
_HEADERS = (("Content-Type", "application/json"),)


def has_path(path: str) -> bool:
    """True for a path below /keyfront/."""
    return path.startswith(PREFIX)


def match(method: str, path: str, query: str) -> str:
    """The operation at this path.

    :raises ApiError: InvalidURI, MethodNotAllowed, or InvalidArgument for a query, as no operation has parameters.
    """
    name = OPERATIONS.get(path)
    if name is None:
        raise ApiError("InvalidURI", f"There is no operation at {path[:100]}.", 404)
    if method not in ("GET", "HEAD"):
        raise MethodNotAllowed(("GET",))
    given = [piece.partition("=")[0] for piece in query.split("&") if piece]
    if unknown := [piece for piece in given if not piece.lower().startswith("x-amz-")]:
        raise ApiError("InvalidArgument", f"{name} has no parameter {unknown[0][:100]}.")
    return name


class ExtensionApi:
    """Runs these operations. Safe to call from several threads.

    :param audit_reads: whether to record successful calls as well.
    """

    def __init__(
        self, store: Store, usage: KeyUsageCollector, audit: AuditWriter, *, audit_reads: bool
    ) -> None:
        self._store = store
        self._usage = usage
        self._audit = audit
        self._audit_reads = audit_reads

    def run(self, call: Call) -> Answer:
        """Run GetKeyUse.

        :raises ApiError: AccessDenied, with IAM's message, or ServiceUnavailable.
        """
        request = AccessRequest(
            f"keyfront:{call.operation}", "*", authorization.request_context(call, (), ())
        )
        decision = iam.evaluate(call.caller.policies, request)
        if not decision.allowed:
            error = iam.denied(call.caller.arn, request, decision)
            self._audit.record(call, error)
            raise error
        # The response includes the latest reports of this machine's edges, if the store can still be written to.
        with contextlib.suppress(ApiError):
            self._usage.gather(call.now)
        with self._store.read() as transaction:
            found = uses(transaction, call.now)
        if self._audit_reads:
            self._audit.record(call, {})
        return Answer(200, _HEADERS, msgspec.json.encode(found))


def write_error(error: ApiError, request_id: str) -> Answer:
    """An error as JSON."""
    allow = (("Allow", ", ".join(error.allow)),) if isinstance(error, MethodNotAllowed) else ()
    body = {"Error": {"Code": error.code, "Message": error.message}, "RequestId": request_id}
    return Answer(error.status, (*_HEADERS, *allow), msgspec.json.encode(body))
