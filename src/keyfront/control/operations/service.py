"""The API's operations: five verbs over the kinds, the irregular ones by name, and what runs them.

    a write:  begin → operation → compile → number the snapshot → audit record → commit → publish
    a read:   begin → operation → end → audit record

What holds in every write:

1. All of it happens in one transaction, its audit record included, or nothing of it does.
2. Nothing is stored that an edge could not obey: problems of the compiler are the API's errors.
3. A snapshot gets a new number if and only if an edge would do something differently. What a call touched is
   Deployed once every live edge reports that number (cloudfront-semantics §7.6).
4. The answer leaves after the commit. Publishing comes after it, too: if it fails, the change stands and the
   distribution stays InProgress until `follow` has published it. See docs/decisions/0003-store.md.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable

from keyfront.control.audit import records as audit
from keyfront.control.audit.writer import AuditWriter
from keyfront.control.call import Call, Result
from keyfront.control.operations import authorization
from keyfront.control.operations.context import OperationContext, Output, ServiceContext
from keyfront.control.operations.registry import OPERATIONS
from keyfront.control.publish.compiler import Compiler, DeploymentProgress
from keyfront.control.publish.replica import Replica
from keyfront.control.store.store import Store
from keyfront.errors import ApiError
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.regions import Regions
from keyfront.model import validate
from keyfront.model.kinds import (
    DISTRIBUTION,
    Quotas,
)
from keyfront.model.residency import retied

log = logging.getLogger("keyfront.control")


# ---- the irregular operations


# ---- the service


class Service:
    """The control plane behind its wire: safe to call from several threads. Call `start` once before `run`.

    :param feed: of the edges beside it.
    :param elsewhere: the feeds of other regions that it serves.
    :param domain_suffix: distributions' own names are `d….<domain_suffix>`.
    :param account: the twelve digits of the account that owns everything.
    :param rng: where ids and ETags come from; they must not be guessable.
    :param audit_reads: whether reads that succeed are recorded as well.
    :param replica: whether other control planes use the store as well; by default, whether the store is such a one.
    """

    def __init__(
        self,
        store: Store,
        feed: FileFeed,
        *,
        elsewhere: Iterable[FileFeed] = (),
        domain_suffix: str = "cloudfront.localhost",
        account: str = "000000000000",
        quotas: Quotas | None = None,
        rng: random.Random | None = None,
        audit_reads: bool = True,
        replica: bool | None = None,
    ) -> None:
        quotas = quotas or Quotas()
        self._store = store
        rng = rng or random.SystemRandom()
        name = f"{rng.getrandbits(64):016x}" if (store.shared if replica is None else replica) else ""
        feeds = Regions(feed, elsewhere)
        compiler, reach = Compiler(account, quotas), DeploymentProgress(feeds.reports, name)
        self._desk = ServiceContext(
            account=account,
            domain_suffix=domain_suffix.lower(),
            quotas=quotas,
            rng=rng,
            feed=feeds,
            compiler=compiler,
            reach=reach,
        )
        self._audit_reads = audit_reads
        self._ledger = AuditWriter(store, self._desk.rng)
        self._replica = Replica(store, feeds, compiler, reach, rng, name)

    def start(self, now: float) -> None:
        """Bring the feed to what the store holds: a crash may have come between a commit and its publication.

        If edges may have seen a higher number (the store came from a backup), or something else under the same
        number (another Keyfront compiled it, or what was published is lost), the store's state goes out under a
        number above that: edges refuse to go back, and two snapshots of one number.

        :param now: epoch seconds.
        :raises ApiError: ServiceUnavailable if the store does not answer.
        :raises SettingsError: if the store is new and what is published is not: then the store was lost, and to
            publish its emptiness would take everything from the edges.
        """
        self._replica.start(now)

    def run(self, call: Call) -> Result:
        """Do what `call` asks.

        :raises ApiError: the answer, if it is not success. Then nothing was changed.
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
                work = OperationContext(call, self._desk, transaction)
                authorization.check(work)
                output = operation(work)
        except ApiError as error:
            self.record(call, error)
            raise
        except Exception as error:
            self.record(call, ApiError("InternalFailure", type(error).__name__, 500))
            raise
        self.record(call, output)
        return Result(output)

    def record(self, call: Call, outcome: Output | ApiError) -> None:
        """Write an audit record of a call that changed nothing: a read, if such are recorded, or one refused here or
        on its way here.

        A store that cannot be written to still answers reads, so a failure goes to the log only. (A change
        is never made without its record: theirs are one transaction.)
        """
        if not (self._audit_reads or isinstance(outcome, ApiError)):
            return
        if isinstance(outcome, ApiError) and outcome.code == "ServiceUnavailable":
            return  # the store has just failed, and its log says so
        self._ledger.record(call, outcome)

    @property
    def audit_trouble(self) -> str:
        """Why the last record of a call that changed nothing could not be written; empty if it could."""
        return self._ledger.trouble

    def follow(self, now: float) -> bool:
        """Keep up with the other control planes on this store, and with what could not be published; see
        `Replica.follow`."""
        return self._replica.follow(now)

    def leave(self) -> None:
        """See `Replica.leave`."""
        self._replica.leave()

    def _write(self, operation: Callable[[OperationContext], Output], call: Call) -> Output:
        replica, reach = self._replica, self._desk.reach
        with replica.lock:
            with self._store.write() as transaction:
                replica.settle(transaction)
                work = OperationContext(call, self._desk, transaction)
                authorization.check(work)
                output = operation(work)
                snapshot = replica.next(transaction, call.now)
                if snapshot is not None:
                    work.touched |= retied(self._desk.compiler.current, snapshot)
                    transaction.stamp(DISTRIBUTION.name, work.touched, snapshot.number)
                transaction.set_reached(reach.highest)
                audit.append(transaction, audit.entry(call, output, self._desk.rng))
            if snapshot is not None:
                replica.committed(snapshot)
            replica.publish()
        return output
