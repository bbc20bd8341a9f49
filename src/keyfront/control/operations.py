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

import functools
import logging
import random
from collections.abc import Callable, Iterable, Mapping

from keyfront.control import audit, distributions, guard, normalise, validate
from keyfront.control.call import Call, Result
from keyfront.control.ledger import Ledger
from keyfront.control.policies import managed_rows
from keyfront.control.publish import Compiler, Reach
from keyfront.control.replica import Replica
from keyfront.control.store import InvalidationRow, Row, Store
from keyfront.control.validate import refusal
from keyfront.control.verbs import create, create_from, delete, get, get_config, list_, update
from keyfront.control.work import Desk, Output, Work, page_of, timestamp
from keyfront.errors import ApiError
from keyfront.fleet.file import FileFeed
from keyfront.fleet.regions import Regions
from keyfront.model.invalidation import carry, is_wildcard
from keyfront.model.kinds import (
    CACHE_POLICY,
    DISTRIBUTION,
    INVALIDATION,
    KEY_GROUP,
    KINDS,
    ORIGIN_REQUEST_POLICY,
    RESPONSE_HEADERS_POLICY,
    Kind,
    Quotas,
)
from keyfront.model.residency import TAG, retied
from keyfront.model.service import API_VERSION, service

log = logging.getLogger("keyfront.control")


# ---- the irregular operations


def create_with_tags(work: Work, kind: Kind) -> Output:
    given = work.params[f"{kind.config}WithTags"]
    tags = validate.tags(given["Tags"].get("Items") or (), work.desk.quotas)
    return create_from(work, kind, given[kind.config], tags)


def list_distributions_by(work: Work, kind: Kind) -> Output:
    """The distributions that refer to a resource of the kind."""
    marker, limit = validate.page(work.params, DISTRIBUTION.id)
    id_ = work.params[f"{kind.name}Id"]
    if id_ in managed_rows(kind.name):
        referrers = _using(work, kind, id_)
    elif work.transaction.get(kind.name, id_) is not None:
        referrers = work.transaction.referrers(kind.name, id_, DISTRIBUTION.name)
    else:
        raise refusal(kind.missing)
    ids = [referrer for referrer in referrers if referrer > marker]
    following = ids[limit - 1] if len(ids) > limit else None
    return {"DistributionIdList": page_of(True, marker, limit, ids[:limit], following)}


def _using(work: Work, kind: Kind, id_: str) -> list[str]:
    """The distributions that refer to what is not stored, and so is no target of a stored reference."""
    (reference,) = (reference for reference in DISTRIBUTION.refers_to if reference.kind == kind.name)
    rows = work.transaction.some(DISTRIBUTION.name, work.transaction.versions(DISTRIBUTION.name))
    return [row.id for row in rows if id_ in reference.ids(row.config)]


def create_invalidation(work: Work) -> Output:
    """It takes effect with the next snapshot; that one carries it, and those after it (`model/invalidation.py`)."""
    transaction, quotas = work.transaction, work.desk.quotas
    distribution = _invalidated(work)
    validate.refuse(validate.invalidation_batch(work.params["InvalidationBatch"], quotas))
    batch = normalise.invalidation_batch(work.params["InvalidationBatch"])
    paths = batch["Paths"]["Items"]
    row = transaction.invalidation(distribution, reference=batch["CallerReference"])
    if row is None:
        wildcards = sum(map(is_wildcard, paths))
        plain = len(paths) - wildcards
        load = work.load(distribution)
        if plain and load.paths + plain > quotas.invalidation_paths:
            raise refusal("TooManyInvalidationsInProgress")
        if wildcards and load.wildcards + wildcards > quotas.invalidation_wildcards:
            raise refusal(
                "TooManyInvalidationsInProgress", f"({quotas.invalidation_wildcards} with a wildcard)"
            )
        number = transaction.snapshot_number() + 1
        id_ = INVALIDATION.new(work.desk.rng)
        row = InvalidationRow(distribution, id_, work.call.now, batch, plain, wildcards, number)
        transaction.add_invalidation(row)
        carried = carry(transaction.carried(distribution), paths, number)
        transaction.set_carried(distribution, carried, work.etag())
    elif set(row.batch["Paths"]["Items"]) != set(paths):
        raise refusal(
            "InvalidArgument",
            "Your request contains a caller reference that was used for a previous invalidation batch for the "
            "same distribution.",
        )
    location = f"/{API_VERSION}/distribution/{distribution}/invalidation/{row.id}"
    return {"Invalidation": _invalidation(work, row), "Location": location}


def get_invalidation(work: Work) -> Output:
    row = work.transaction.invalidation(_invalidated(work), id_=work.params["Id"])
    if row is None:
        raise refusal("NoSuchInvalidation")
    return {"Invalidation": _invalidation(work, row)}


def list_invalidations(work: Work) -> Output:
    """Newest first."""
    distribution = _invalidated(work)
    marker, limit = validate.page(work.params, INVALIDATION)
    if marker and work.transaction.invalidation(distribution, id_=marker) is None:
        raise refusal("InvalidArgument", "The parameter Marker is not one that a list has returned.")
    rows = work.transaction.invalidations(distribution, marker, limit + 1)
    items = [_invalidation_summary(work, row) for row in rows[:limit]]
    following = rows[limit - 1].id if len(rows) > limit else None
    return {"InvalidationList": page_of(True, marker, limit, items, following)}


def _invalidated(work: Work) -> str:
    """The id of the distribution whose invalidations the call is about."""
    id_: str = work.params["DistributionId"]
    if work.transaction.get(DISTRIBUTION.name, id_) is None:
        raise refusal(DISTRIBUTION.missing)
    return id_


def _invalidation(work: Work, row: InvalidationRow) -> Output:
    return _invalidation_summary(work, row) | {"InvalidationBatch": row.batch}


def _invalidation_summary(work: Work, row: InvalidationRow) -> Output:
    status = "Completed" if work.completed(row) else "InProgress"
    return {"Id": row.id, "CreateTime": timestamp(row.created), "Status": status}


def list_tags(work: Work) -> Output:
    kind, row = _tagged(work)
    tags = work.transaction.tags(kind.name, row.id)
    return {"Tags": {"Items": [{"Key": key, "Value": value} for key, value in tags.items()]}}


def tag(work: Work) -> Output:
    kind, row = _tagged(work)
    added = validate.tags(work.params["Tags"].get("Items") or (), work.desk.quotas)
    tags = work.transaction.tags(kind.name, row.id) | added
    if len(tags) > work.desk.quotas.tags:
        raise refusal("InvalidTagging", f"A resource can have {work.desk.quotas.tags} tags.")
    _retag(work, kind, row, tags)
    return {}


def untag(work: Work) -> Output:
    kind, row = _tagged(work)
    keys = work.params["TagKeys"].get("Items") or ()
    for key in keys:
        validate.tag_key(key)
    tags = work.transaction.tags(kind.name, row.id)
    _retag(work, kind, row, {key: tags[key] for key in tags if key not in keys})
    return {}


def _retag(work: Work, kind: Kind, row: Row, tags: Mapping[str, str]) -> None:
    """Give `row` these tags. Where that ties it to other regions, edges notice: what is changed is in progress, under
    its old ETag."""
    before = work.transaction.tags(kind.name, row.id).get(TAG)
    work.transaction.set_tags(kind.name, row.id, tags)
    if tags.get(TAG) != before:
        referrers = work.transaction.referrers(kind.name, row.id, DISTRIBUTION.name)
        work.touched |= {row.id} if kind is DISTRIBUTION else set(referrers)


def _operations() -> dict[str, Callable[[Work], Output]]:
    found: dict[str, Callable[[Work], Output]] = {}
    for kind in KINDS.values():
        found |= {
            f"Create{kind.name}": functools.partial(create, kind=kind),
            f"Get{kind.name}": functools.partial(get, kind=kind),
            f"Get{kind.config}": functools.partial(get_config, kind=kind),
            f"Update{kind.name}": functools.partial(update, kind=kind),
            f"Delete{kind.name}": functools.partial(delete, kind=kind),
            f"List{kind.plural}": functools.partial(list_, kind=kind),
        }
    return found | {
        "CreateDistributionWithTags": functools.partial(create_with_tags, kind=DISTRIBUTION),
        "ListDistributionsByKeyGroup": functools.partial(list_distributions_by, kind=KEY_GROUP),
        **{
            f"ListDistributionsBy{kind.name}Id": functools.partial(list_distributions_by, kind=kind)
            for kind in (CACHE_POLICY, ORIGIN_REQUEST_POLICY, RESPONSE_HEADERS_POLICY)
        },
        "CopyDistribution": distributions.copy,
        "AssociateAlias": distributions.associate_alias,
        "ListConflictingAliases": distributions.list_conflicting_aliases,
        "ListDistributionsByWebACLId": distributions.list_by_web_acl,
        "ListDistributionsByConnectionMode": distributions.list_by_connection_mode,
        "CreateMonitoringSubscription": distributions.create_monitoring_subscription,
        "GetMonitoringSubscription": distributions.get_monitoring_subscription,
        "DeleteMonitoringSubscription": distributions.delete_monitoring_subscription,
        "CreateInvalidation": create_invalidation,
        "GetInvalidation": get_invalidation,
        "ListInvalidations": list_invalidations,
        "ListTagsForResource": list_tags,
        "TagResource": tag,
        "UntagResource": untag,
    }


OPERATIONS = _operations()
"""All that is built; every other operation of the model answers UnsupportedOperation and stands in
docs/not-cloudfront.md."""


def _tagged(work: Work) -> tuple[Kind, Row]:
    """The resource whose ARN the call names."""
    named = work.params["Resource"]
    head, _, tail = named.partition("/")
    for kind in KINDS.values():
        if kind.arn and head == kind.arn_of("", work.desk.account).rstrip("/"):
            row = work.transaction.get(kind.name, tail)
            if row is not None:
                return kind, row
    if not named.startswith(("arn:aws:cloudfront::", "arn:aws-cn:cloudfront::")):
        raise refusal("InvalidArgument", "The parameter Resource is not the ARN of a CloudFront resource.")
    raise refusal("NoSuchResource")


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
        compiler, reach = Compiler(account, quotas), Reach(feeds.reports, name)
        self._desk = Desk(
            account=account,
            domain_suffix=domain_suffix.lower(),
            quotas=quotas,
            rng=rng,
            feed=feeds,
            compiler=compiler,
            reach=reach,
        )
        self._audit_reads = audit_reads
        self._ledger = Ledger(store, self._desk.rng)
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
                work = Work(call, self._desk, transaction)
                guard.check(work)
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

    def _write(self, operation: Callable[[Work], Output], call: Call) -> Output:
        replica, reach = self._replica, self._desk.reach
        with replica.lock:
            with self._store.write() as transaction:
                replica.settle(transaction)
                work = Work(call, self._desk, transaction)
                guard.check(work)
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


def unsupported() -> list[str]:
    """The operations of the model that are not built."""
    return sorted(service().operations.keys() - OPERATIONS.keys())
