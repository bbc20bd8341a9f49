"""Execution of the API's operations: transactions, authorization, audit records, and publication.

    write:  begin → authorize → operation → compile → number the snapshot → audit record → commit → publish
    read:   begin → authorize → operation → end → audit record

Every write follows four rules:

1. It is one atomic transaction, including the audit record.
2. Nothing is stored that an edge could not serve: problems that the compiler finds become the API's errors.
3. A snapshot gets a new number if and only if an edge would behave differently with it. A distribution that the call
   changed is Deployed once every live edge reports that number (cloudfront-semantics §7.6).
4. The response is sent after the commit, and so is the snapshot. If publishing fails, the change remains in effect, and
   the distribution stays InProgress until `follow` publishes it. See docs/decisions/0003-store.md.

The operations themselves are pure; they are in `operations/`.
"""

from __future__ import annotations

import random

import msgspec

from keyfront.control.audit import records as audit
from keyfront.control.audit.writer import AuditWriter
from keyfront.control.call import Call, Result
from keyfront.control.operations import authorization
from keyfront.control.operations.context import OperationContext, Output, ServiceContext
from keyfront.control.operations.registry import OPERATIONS, Operation
from keyfront.control.publish.compiler import Compiler
from keyfront.control.publish.progress import DeploymentProgress
from keyfront.control.publish.replica import Replica
from keyfront.control.store.contract import Snapshots
from keyfront.control.store.store import Store
from keyfront.errors import ApiError
from keyfront.fleet.regions import Regions
from keyfront.model import validate
from keyfront.model.kinds import DISTRIBUTION, Quotas
from keyfront.model.residency import retied


class ServiceSettings(msgspec.Struct, frozen=True):
    """An installation's settings for a `Service`.

    :param account: the 12-digit number of the account that owns everything.
    :param domain_suffix: distributions' own names are `d….<domain_suffix>`.
    :param audit_reads: whether to record successful reads as well.
    :param replica: whether other control planes also use the store; None: true if the store can be shared.
    """

    account: str = "000000000000"
    domain_suffix: str = "cloudfront.localhost"
    quotas: Quotas = Quotas()
    audit_reads: bool = True
    replica: bool | None = None


class Service:
    """The API behind its wire format. Safe to call from several threads. Call `start` once before `run`.

    :param feeds: the feeds of its own edges and of the other regions that it serves.
    :param rng: the source of ids and ETags, which must not be guessable; by default the system's generator.

    `audit` writes the records of calls that changed nothing, and of everything else that this process records.
    """

    def __init__(
        self,
        store: Store,
        feeds: Regions,
        settings: ServiceSettings = ServiceSettings(),
        rng: random.Random | None = None,
    ) -> None:
        rng = rng or random.SystemRandom()
        shared = store.shared if settings.replica is None else settings.replica
        name = f"{rng.getrandbits(64):016x}" if shared else ""
        compiler = Compiler(settings.account, settings.quotas)
        self._store = store
        self._audit_reads = settings.audit_reads
        self.audit = AuditWriter(store, rng)
        self._progress = DeploymentProgress(feeds.reports, name)
        self._compiler = compiler
        self._replica = Replica(store, feeds, compiler, self._progress, rng, name)
        self._rng = rng
        self._context = ServiceContext(
            account=settings.account,
            domain_suffix=settings.domain_suffix.lower(),
            quotas=settings.quotas,
            rng=rng,
            compiler=compiler,
            progress=self._progress,
        )

    def start(self, now: float) -> None:
        """Publish the store's content if edges may have something else; see `Replica.start`.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not respond.
        :raises SettingsError: if the store is new, but a snapshot with distributions is published.
        """
        self._replica.start(now)

    def run(self, call: Call) -> Result:
        """Run one call.

        :raises ApiError: the error to return; nothing was changed.
        """
        try:
            operation = OPERATIONS.get(call.operation)
            if operation is None:
                raise ApiError(
                    "UnsupportedOperation",
                    f"Keyfront does not have the operation {call.operation}; see docs/not-cloudfront.md.",
                )
            validate.params(call.operation, call.params)
            if not audit.read_only(call.operation):
                return Result(self._write(operation, call))
            with self._store.read() as transaction:
                context = OperationContext(call, self._context, transaction)
                authorization.check(context)
                output = operation(context)
        except ApiError as error:
            self.record(call, error)
            raise
        except Exception as error:
            self.record(call, ApiError("InternalFailure", type(error).__name__, 500))
            raise
        self.record(call, output)
        return Result(output)

    def record(self, call: Call, outcome: Output | ApiError) -> None:
        """Write the audit record of a call that changed nothing: a successful read (with `audit_reads`), or a call that
        was refused here or earlier.

        Reads are answered even while the store cannot be written to, so a failure is only logged. (A change
        is never made without its record, as both are in one transaction.)
        """
        if not (self._audit_reads or isinstance(outcome, ApiError)):
            return
        if isinstance(outcome, ApiError) and outcome.code == "ServiceUnavailable":
            return  # the store has just failed, which is already logged
        self.audit.record(call, outcome)

    def follow(self, now: float) -> bool:
        """Publish what other control planes committed, and what could not be published earlier; see
        `Replica.follow`."""
        return self._replica.follow(now)

    def deployed(self, transaction: Snapshots) -> int:
        """See `DeploymentProgress.deployed`."""
        return self._progress.deployed(transaction)

    def leave(self) -> None:
        """See `Replica.leave`."""
        self._replica.leave()

    def _write(self, operation: Operation, call: Call) -> Output:
        replica = self._replica
        with replica.lock:
            with self._store.write() as transaction:
                replica.settle(transaction)
                context = OperationContext(call, self._context, transaction)
                authorization.check(context)
                output = operation(context)
                snapshot = replica.next(transaction, call.now)
                if snapshot is not None:
                    context.changed |= retied(self._compiler.current, snapshot)
                    transaction.set_snapshot(DISTRIBUTION.name, context.changed, snapshot.number)
                transaction.raise_highest_deployed(self._progress.highest)
                audit.append(transaction, audit.entry(call, output, self._rng))
            if snapshot is not None:
                replica.committed(snapshot)
            replica.publish()
        return output
