"""What the control API has beside CloudFront's: paths that begin with /keyfront/, signed and allowed like all calls.

There is one operation: GetKeyUse, what edges see of the keys that sign. It answers in JSON. Its IAM action is
`keyfront:GetKeyUse`, about no single resource; its calls are in the audit log with `keyfront` as their source.
"""

from __future__ import annotations

import contextlib
import random

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


def asked(path: str) -> bool:
    """True for a path that is none of CloudFront's, and may be ours."""
    return path.startswith(PREFIX)


def match(method: str, path: str, query: str) -> str:
    """The operation that is asked for.

    :raises ApiError: InvalidURI, MethodNotAllowed, or InvalidArgument for a query, which none of them has.
    """
    name = OPERATIONS.get(path)
    if name is None:
        raise ApiError("InvalidURI", f"There is nothing at {path[:100]}.", 404)
    if method not in ("GET", "HEAD"):
        raise MethodNotAllowed(("GET",))
    given = [piece.partition("=")[0] for piece in query.split("&") if piece]
    if unknown := [piece for piece in given if not piece.lower().startswith("x-amz-")]:
        raise ApiError("InvalidArgument", f"{name} has no parameter {unknown[0][:100]}.")
    return name


class ExtensionApi:
    """Those operations. Safe to call from several threads.

    :param audit_reads: whether calls that succeed are recorded as well.
    """

    def __init__(
        self, store: Store, gatherer: KeyUsageCollector, rng: random.Random, *, audit_reads: bool
    ) -> None:
        self._store = store
        self._gatherer = gatherer
        self._ledger = AuditWriter(store, rng)
        self._audit_reads = audit_reads

    def run(self, call: Call) -> Answer:
        """Do what `call` asks: GetKeyUse.

        :raises ApiError: AccessDenied, in IAM's words; ServiceUnavailable.
        """
        wanted = AccessRequest(f"keyfront:{call.operation}", "*", authorization.circumstances(call, (), ()))
        decision = iam.evaluate(call.caller.policies, wanted)
        if not decision.allowed:
            error = iam.denied(call.caller.arn, wanted, decision)
            self._ledger.record(call, error)
            raise error
        with contextlib.suppress(ApiError):  # a store that takes nothing may answer still
            self._gatherer.gather(
                call.now
            )  # so that the answer is as new as the reports of this machine's edges
        with self._store.read() as transaction:
            found = uses(transaction, call.now)
        if self._audit_reads:
            self._ledger.record(call, {})
        return Answer(200, _HEADERS, msgspec.json.encode(found))


def write_error(error: ApiError, request_id: str) -> Answer:
    allow = (("Allow", ", ".join(error.allow)),) if isinstance(error, MethodNotAllowed) else ()
    said = {"Error": {"Code": error.code, "Message": error.message}, "RequestId": request_id}
    return Answer(error.status, (*_HEADERS, *allow), msgspec.json.encode(said))
