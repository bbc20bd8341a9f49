"""Execution of CloudWatch's operations: authorization, one transaction for each call, and its audit record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from keyfront.control.alarms.definition import KIND, name_in
from keyfront.control.alarms.operations import OPERATIONS, Context, Operation, Output
from keyfront.control.audit import records as audit
from keyfront.control.audit.writer import AuditWriter
from keyfront.control.call import Call
from keyfront.control.iam import policy as iam
from keyfront.control.iam.policy import AccessRequest
from keyfront.control.operations import authorization
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Transaction
from keyfront.errors import ApiError
from keyfront.model.kinds import RandomSource


class AlarmApi:
    """Runs these operations. Safe to call from several threads.

    :param audit_reads: whether to record successful reads as well.
    :param on_state_set: called with the time (epoch seconds) after a call has set the state of an alarm.
    """

    def __init__(
        self,
        store: Store,
        account: str,
        writer: AuditWriter,
        rng: RandomSource,
        *,
        audit_reads: bool,
        on_state_set: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._account = account
        self._writer = writer
        self._rng = rng
        self._audit_reads = audit_reads
        self._on_state_set = on_state_set

    def run(self, call: Call) -> Output:
        """Run one call.

        :raises ApiError: the error to return; nothing was changed.
        """
        try:
            operation = OPERATIONS.get(call.operation)
            if operation is None:
                raise ApiError(
                    "UnknownOperationException",
                    f"Keyfront does not have CloudWatch's operation {call.operation}; see docs/not-cloudfront.md.",
                )
            if audit.read_only(call.operation):
                with self._store.read() as transaction:
                    output = self._run(operation, call, transaction)
            else:
                with self._store.write() as transaction:
                    output = self._run(operation, call, transaction)
                    audit.append(transaction, audit.entry(call, output, self._rng))
                if call.operation == "SetAlarmState":
                    self._on_state_set(call.now)
                return output
        except ApiError as error:
            self.record(call, error)
            raise
        except Exception as error:
            self.record(call, ApiError("InternalFailure", type(error).__name__, 500))
            raise
        self.record(call, {})
        return output

    def record(self, call: Call, outcome: dict[str, Any] | ApiError) -> None:
        """Write the audit record of a call that changed nothing; see `Service.record`."""
        if not (self._audit_reads or isinstance(outcome, ApiError)):
            return
        if isinstance(outcome, ApiError) and outcome.code == "ServiceUnavailable":
            return  # the store has just failed, which is already logged
        self._writer.record(call, outcome)

    def _run(self, operation: Operation, call: Call, transaction: Transaction) -> Output:
        for resource in operation.resources(call.params, self._account):
            name = name_in(resource, self._account)
            tags = transaction.tags(KIND, name) if name is not None else {}
            self._authorize(call, resource, tags.items())
        return operation.run(Context(call, self._account, transaction, self._rng))

    def _authorize(self, call: Call, resource: str, tags: Iterable[tuple[str, str]]) -> None:
        """:raises ApiError: AccessDenied, with IAM's message."""
        given = [(each["Key"], each.get("Value", "")) for each in call.params.get("Tags") or ()]
        context = authorization.request_context(call, tags, given, tuple(call.params.get("TagKeys") or ()))
        request = AccessRequest(f"cloudwatch:{call.operation}", resource, context)
        decision = iam.evaluate(call.caller.policies, request)
        if not decision.allowed:
            raise iam.denied(call.caller.arn, request, decision)
