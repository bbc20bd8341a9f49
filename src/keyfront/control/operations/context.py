"""One call at work in its transaction: what it may use, the steps that several operations share, and rows as the API
shows them.

A step that finds something wrong raises the API's error, and then nothing of the call has happened.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from keyfront.control.call import Call
from keyfront.control.operations.managed import managed_names, managed_rows
from keyfront.control.publish.compiler import Compiler, DeploymentProgress
from keyfront.control.store.rows import InvalidationRow, Load, Row
from keyfront.control.store.transaction import Transaction
from keyfront.errors import ApiError
from keyfront.fleet.regions import Regions
from keyfront.model import defaults, policies, validate
from keyfront.model.config_reader import Problem
from keyfront.model.kinds import DISTRIBUTION, ETAG, KEY_GROUP, Kind, Quotas
from keyfront.model.service import service
from keyfront.model.supported_members import unobeyed
from keyfront.model.validate import Problems, refusal

Config = dict[str, Any]
Output = dict[str, Any]


class ServiceContext(msgspec.Struct, frozen=True):
    """What stays the same from call to call."""

    account: str
    domain_suffix: str
    quotas: Quotas
    rng: random.Random
    feed: Regions
    compiler: Compiler
    reach: DeploymentProgress


class OperationContext:
    """One call at work in its transaction. `touched` are the distributions that it changed."""

    __slots__ = ("_keys", "_loads", "_reached", "call", "desk", "touched", "transaction")

    def __init__(self, call: Call, desk: ServiceContext, transaction: Transaction) -> None:
        self.call = call
        self.desk = desk
        self.transaction = transaction
        self.touched: set[str] = set()
        self._reached: int | None = None
        self._loads: dict[str, Load] | None = None
        self._keys: dict[str, list[str]] = {}

    @property
    def params(self) -> Config:
        return self.call.params

    def etag(self) -> str:
        return ETAG.new(self.desk.rng)

    def keys_of(self, groups: Iterable[str]) -> dict[str, list[str]]:
        """The keys of each of these key groups; a list of distributions asks for the same ones many times."""
        wanted = list(dict.fromkeys(groups))
        for row in self.transaction.some(KEY_GROUP.name, (id_ for id_ in wanted if id_ not in self._keys)):
            self._keys[row.id] = row.config["Items"]
        return {id_: self._keys[id_] for id_ in wanted}

    def deployed(self, row: Row) -> bool:
        """True if there are live edges and each has the snapshot with which `row` last changed."""
        return row.id not in self.touched and self.reached() >= row.snapshot

    def reached(self) -> int:
        """The number of the snapshot that every live edge obeys."""
        if self._reached is None:
            self._reached = self.desk.reach.now(self.transaction)
        return self._reached

    def completed(self, row: InvalidationRow) -> bool:
        """True if every edge that was live then has obeyed the snapshot that was the first to carry it."""
        self.reached()
        return self.desk.reach.highest >= row.snapshot

    def load(self, distribution: str) -> Load:
        """How much of the distribution's invalidations is in progress."""
        if self._loads is None:
            self.reached()
            self._loads = self.transaction.in_progress(self.desk.reach.highest)
        return self._loads.get(distribution, Load())


# ---- steps that several verbs share

_COMPLETE: dict[str, Callable[[Mapping[str, Any]], Config]] = {
    "PublicKey": defaults.public_key,
    "KeyGroup": defaults.key_group,
    "OriginAccessControl": defaults.origin_access_control,
    "CloudFrontOriginAccessIdentity": defaults.origin_access_identity,
    "CachePolicy": policies.complete_cache_policy,
    "OriginRequestPolicy": policies.complete_origin_request_policy,
    "ResponseHeadersPolicy": policies.complete_response_headers_policy,
    "Distribution": defaults.distribution,
}
_VALIDATE: dict[str, Callable[[Mapping[str, Any], Quotas], Problems]] = {
    "PublicKey": validate.public_key,
    "KeyGroup": validate.key_group,
    "OriginAccessControl": validate.origin_access_control,
    "CloudFrontOriginAccessIdentity": validate.origin_access_identity,
    "CachePolicy": policies.check_cache_policy,
    "OriginRequestPolicy": policies.check_origin_request_policy,
    "ResponseHeadersPolicy": policies.check_response_headers_policy,
    "Distribution": validate.distribution,
}


def found_row(work: OperationContext, kind: Kind) -> Row:
    id_ = work.params["Id"]
    row = work.transaction.get(kind.name, id_) or managed_rows(kind.name).get(id_)
    if row is None:
        raise refusal(kind.missing)
    return row


def matched(work: OperationContext, kind: Kind, illegal: str) -> Row:
    """The row that the call names, if its If-Match is the row's ETag (§3.5). What CloudFront manages may not be
    changed: that is the error `illegal`."""
    row = found_row(work, kind)
    if row.id in managed_rows(kind.name):
        raise refusal(illegal, f"CloudFront manages the {kind.name} {row.id}.")
    check_version(work, row)
    return row


def check_version(work: OperationContext, row: Row) -> None:
    """Refuse a call whose If-Match is not the row's ETag (§3.5)."""
    version = work.params.get("IfMatch") or ""
    if not ETAG.fits(version):
        raise refusal("InvalidIfMatchVersion")
    if version != row.etag:
        raise refusal("PreconditionFailed")


def reviewed(work: OperationContext, kind: Kind, given: Config) -> tuple[Config, list[ApiError]]:
    """`given` made complete, and what is wrong with it as far as one config shows it."""
    problems: list[ApiError] = []
    if kind is DISTRIBUTION:
        problems += [_error(problem) for problem in unobeyed(given)]
    if not any(problem.code == "InconsistentQuantities" for problem in problems):
        problems += policies.quantities(given, kind.config)
    config = _COMPLETE[kind.name](given)
    problems += _VALIDATE[kind.name](config, work.desk.quotas)
    if kind is DISTRIBUTION:
        problems += validate.aliases(config["Aliases"].get("Items") or (), work.desk.domain_suffix)
    return config, problems


def fitting(work: OperationContext, kind: Kind, row: Row, problems: list[ApiError]) -> list[tuple[str, str]]:
    """The stored resources that the row refers to, if nothing is wrong with it.

    :param problems: what is known to be wrong with its config; what shows only beside all that is stored is added.
    :raises ApiError: for all of it at once.
    """
    problems = [
        *problems,
        *map(_error, work.desk.compiler.problems(work.transaction, row)),
        *_taken(work, kind, row),
    ]
    targets = _targets_of(work, kind, row, problems)
    validate.refuse(problems)
    return targets


def _error(problem: Problem) -> ApiError:
    return ApiError(problem.code, problem.message, problem.status)


def _taken(work: OperationContext, kind: Kind, row: Row) -> Problems:
    for unique in kind.unique:
        if unique.path == ("Name",) and row.config["Name"] in managed_names(kind.name):
            yield refusal(unique.taken)
        values = unique.values(row.config)
        owners = work.transaction.owners(kind.name, unique.name, values)
        taken = sorted(
            {value for value in values if owners.get(value, row.id) != row.id or values.count(value) > 1}
        )
        if taken:
            yield refusal(unique.taken, f"({', '.join(taken)})" if unique.host else "")


def _targets_of(
    work: OperationContext, kind: Kind, row: Row, problems: list[ApiError]
) -> list[tuple[str, str]]:
    """The stored resources that the row's config refers to. What does not exist goes to `problems`, unless the
    compiler has named it there already."""
    targets: list[tuple[str, str]] = []
    for reference in kind.refers_to:
        wanted = {
            written.removeprefix(reference.prefix): written.startswith(reference.prefix)
            for written in reference.ids(row.config)
        }
        ours = [id_ for id_ in wanted if id_ not in managed_rows(reference.kind)]
        known = {found.id for found in work.transaction.some(reference.kind, ours)}
        for id_ in ours:
            if id_ not in known or not wanted[id_]:
                if not any(each.code == reference.missing and repr(id_) in each.message for each in problems):
                    problems.append(refusal(reference.missing, f"There is no {reference.kind} {id_!r}."))
                continue
            if reference.crowd is not None:
                quota, error = reference.crowd
                others = set(work.transaction.referrers(reference.kind, id_, kind.name)) - {row.id}
                if len(others) >= getattr(work.desk.quotas, quota):
                    problems.append(refusal(error))
            targets.append((reference.kind, id_))
    return targets


def relate(work: OperationContext, kind: Kind, row: Row, targets: list[tuple[str, str]]) -> None:
    work.transaction.claim(
        kind.name, row.id, {unique.name: unique.values(row.config) for unique in kind.unique}
    )
    work.transaction.refer(kind.name, row.id, targets)
    if kind is DISTRIBUTION:
        work.touched.add(row.id)


# ---- rows as the API shows them


def timestamp(seconds: float) -> datetime:
    """With milliseconds, as CloudFront has them (§7.1)."""
    return datetime.fromtimestamp(int(seconds * 1000) / 1000, UTC)


def view(work: OperationContext, kind: Kind, row: Row) -> Output:
    common = {"Id": row.id, **_when(kind, row), **row.attributes, kind.config: row.config}
    return common | _state(work, row) if kind is DISTRIBUTION else common


def _when(kind: Kind, row: Row) -> Output:
    if not kind.time:
        return {}
    return {kind.time: timestamp(row.created if kind.time == "CreatedTime" else row.modified)}


def _state(work: OperationContext, row: Row) -> Output:
    """What a distribution is, beside its config."""
    groups = work.keys_of(DISTRIBUTION.refers_to[0].ids(row.config))
    active: Output = {"Enabled": bool(groups), "Quantity": len(groups)}
    if groups:
        active["Items"] = [
            {"KeyGroupId": id_, "KeyPairIds": {"Quantity": len(keys), "Items": keys}}
            for id_, keys in groups.items()
        ]
    return {
        "ARN": DISTRIBUTION.arn_of(row.id, work.desk.account),
        "Status": "Deployed" if work.deployed(row) else "InProgress",
        "InProgressInvalidationBatches": work.load(row.id).batches,
        "ActiveTrustedSigners": {"Enabled": False, "Quantity": 0},
        "ActiveTrustedKeyGroups": active,
    }


def summary(work: OperationContext, kind: Kind, row: Row) -> Output:
    if kind is DISTRIBUTION:
        seen = view(work, kind, row)
        shape = service().operations["ListDistributions"].output
        members = shape.members["DistributionList"].members["Items"].member.members
        return {
            "ETag": row.etag,
            **{name: value for name, value in (seen | row.config).items() if name in members},
        }
    if kind is KEY_GROUP:
        return {"KeyGroup": view(work, kind, row)}
    if kind.typed:
        type_ = "managed" if row.id in managed_rows(kind.name) else "custom"
        return {"Type": type_, kind.name: view(work, kind, row)}
    config = {name: value for name, value in row.config.items() if name != "CallerReference"}
    return {"Id": row.id, **_when(kind, row), **row.attributes, **config}


def page_of(marked: bool, marker: str, limit: int, items: list[Any], following: str | None) -> Output:
    """A list in the one style or the other (§7.4)."""
    found: Output = {"MaxItems": limit, "Quantity": len(items)}
    if items:
        found["Items"] = items
    if following is not None:
        found["NextMarker"] = following
    if marked:
        found |= {"Marker": marker, "IsTruncated": following is not None}
    return found
