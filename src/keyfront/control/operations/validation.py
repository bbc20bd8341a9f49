"""Checks that several operations share: whether the resource exists, whether If-Match matches, and whether the config
is acceptable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keyfront.control.operations.context import Config, OperationContext
from keyfront.control.operations.managed import managed_names, managed_rows
from keyfront.control.store.rows import Row
from keyfront.errors import ApiError
from keyfront.model import defaults, policies, validate
from keyfront.model.config_reader import Problem
from keyfront.model.kinds import DISTRIBUTION, ETAG, Kind, Quotas
from keyfront.model.supported_members import unobeyed
from keyfront.model.validate import Problems, refusal

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


def existing(context: OperationContext, kind: Kind) -> Row:
    """The resource that the call's Id names, stored or managed by CloudFront.

    :raises ApiError: NoSuch… if there is none.
    """
    id_ = context.params["Id"]
    row = context.transaction.get(kind.name, id_) or managed_rows(kind.name).get(id_)
    if row is None:
        raise refusal(kind.missing)
    return row


def changeable(context: OperationContext, kind: Kind, illegal: str) -> Row:
    """The resource that the call's Id names, if its If-Match is the current ETag (§3.5).

    :param illegal: the error code for a resource that CloudFront manages.
    :raises ApiError: NoSuch…, `illegal`, InvalidIfMatchVersion, or PreconditionFailed.
    """
    row = existing(context, kind)
    if row.id in managed_rows(kind.name):
        raise refusal(illegal, f"CloudFront manages the {kind.name} {row.id}.")
    check_if_match(context, row)
    return row


def check_if_match(context: OperationContext, row: Row) -> None:
    """Refuse a call whose If-Match is not the row's ETag (§3.5).

    :raises ApiError: InvalidIfMatchVersion or PreconditionFailed.
    """
    version = context.params.get("IfMatch") or ""
    if not ETAG.fits(version):
        raise refusal("InvalidIfMatchVersion")
    if version != row.etag:
        raise refusal("PreconditionFailed")


def complete(context: OperationContext, kind: Kind, given: Config) -> tuple[Config, list[ApiError]]:
    """`given` with all defaults filled in, and the problems that can be found in the config alone."""
    problems: list[ApiError] = []
    if kind is DISTRIBUTION:
        problems += [_error(problem) for problem in unobeyed(given)]
    if not any(problem.code == "InconsistentQuantities" for problem in problems):
        problems += policies.quantities(given, kind.config)
    config = _COMPLETE[kind.name](given)
    problems += _VALIDATE[kind.name](config, context.service.quotas)
    if kind is DISTRIBUTION:
        problems += validate.aliases(config["Aliases"].get("Items") or (), context.service.domain_suffix)
    return config, problems


def check_against_store(
    context: OperationContext, kind: Kind, row: Row, problems: list[ApiError]
) -> list[tuple[str, str]]:
    """The stored resources (kind, id) that the row refers to, if the row is consistent with all others.

    :param problems: the problems already known, from `complete`.
    :raises ApiError: for all problems together.
    """
    problems = [
        *problems,
        *map(_error, context.service.compiler.problems(context.transaction, row)),
        *_duplicates(context, kind, row),
    ]
    targets = _targets_of(context, kind, row, problems)
    validate.refuse(problems)
    return targets


def _error(problem: Problem) -> ApiError:
    return ApiError(problem.code, problem.message, problem.status)


def _duplicates(context: OperationContext, kind: Kind, row: Row) -> Problems:
    for unique in kind.unique:
        if unique.path == ("Name",) and row.config["Name"] in managed_names(kind.name):
            yield refusal(unique.taken)
        values = unique.values(row.config)
        owners = context.transaction.owners(kind.name, unique.name, values)
        taken = sorted(
            {value for value in values if owners.get(value, row.id) != row.id or values.count(value) > 1}
        )
        if taken:
            yield refusal(unique.taken, f"({', '.join(taken)})" if unique.host else "")


def _targets_of(
    context: OperationContext, kind: Kind, row: Row, problems: list[ApiError]
) -> list[tuple[str, str]]:
    """The stored resources that the row's config refers to. A missing one is added to `problems`, unless the compiler
    has reported it already."""
    targets: list[tuple[str, str]] = []
    for reference in kind.refers_to:
        wanted = {
            written.removeprefix(reference.prefix): written.startswith(reference.prefix)
            for written in reference.ids(row.config)
        }
        ours = [id_ for id_ in wanted if id_ not in managed_rows(reference.kind)]
        known = {found.id for found in context.transaction.get_many(reference.kind, ours)}
        for id_ in ours:
            if id_ not in known or not wanted[id_]:
                if not any(each.code == reference.missing and repr(id_) in each.message for each in problems):
                    problems.append(refusal(reference.missing, f"There is no {reference.kind} {id_!r}."))
                continue
            if reference.referrer_quota is not None:
                quota, error = reference.referrer_quota
                others = set(context.transaction.referrers(reference.kind, id_, kind.name)) - {row.id}
                if len(others) >= getattr(context.service.quotas, quota):
                    problems.append(refusal(error))
            targets.append((reference.kind, id_))
    return targets


def store_relations(context: OperationContext, kind: Kind, row: Row, targets: list[tuple[str, str]]) -> None:
    """Store the row's unique values and references. A distribution counts as changed from here on."""
    context.transaction.set_unique_values(
        kind.name, row.id, {unique.name: unique.values(row.config) for unique in kind.unique}
    )
    context.transaction.set_references(kind.name, row.id, targets)
    if kind is DISTRIBUTION:
        context.changed.add(row.id)
