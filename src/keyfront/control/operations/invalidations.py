"""Invalidations: create, get, and list them (cloudfront-semantics §5.16)."""

from __future__ import annotations

from keyfront.control.operations.context import OperationContext, Output
from keyfront.control.operations.views import page_of, timestamp
from keyfront.control.store.rows import InvalidationRow
from keyfront.model import defaults, validate
from keyfront.model.invalidation import carry, is_wildcard
from keyfront.model.kinds import DISTRIBUTION, INVALIDATION
from keyfront.model.service import API_VERSION
from keyfront.model.validate import refusal


def create_invalidation(context: OperationContext) -> Output:
    """CreateInvalidation. It takes effect with the next snapshot, which carries it to edges, as do later snapshots
    (`model/invalidation.py`).

    A batch with a caller reference that was used before creates nothing: with the same paths, it returns the first
    invalidation; with other paths, InvalidArgument.
    """
    transaction, quotas = context.transaction, context.service.quotas
    distribution = _distribution_id(context)
    validate.refuse(validate.invalidation_batch(context.params["InvalidationBatch"], quotas))
    batch = defaults.invalidation_batch(context.params["InvalidationBatch"])
    paths = batch["Paths"]["Items"]
    row = transaction.invalidation(distribution, reference=batch["CallerReference"])
    if row is None:
        wildcards = sum(map(is_wildcard, paths))
        plain = len(paths) - wildcards
        load = context.load(distribution)
        if plain and load.paths + plain > quotas.invalidation_paths:
            raise refusal("TooManyInvalidationsInProgress")
        if wildcards and load.wildcards + wildcards > quotas.invalidation_wildcards:
            raise refusal(
                "TooManyInvalidationsInProgress", f"({quotas.invalidation_wildcards} with a wildcard)"
            )
        number = transaction.snapshot_number() + 1
        id_ = INVALIDATION.new(context.service.rng)
        row = InvalidationRow(distribution, id_, context.call.now, batch, plain, wildcards, number)
        transaction.add_invalidation(row)
        carried = carry(transaction.carried(distribution), paths, number)
        transaction.set_carried(distribution, carried, context.new_etag())
    elif set(row.batch["Paths"]["Items"]) != set(paths):
        raise refusal(
            "InvalidArgument",
            "Your request contains a caller reference that was used for a previous invalidation batch for the "
            "same distribution.",
        )
    location = f"/{API_VERSION}/distribution/{distribution}/invalidation/{row.id}"
    return {"Invalidation": _view(context, row), "Location": location}


def get_invalidation(context: OperationContext) -> Output:
    """GetInvalidation."""
    row = context.transaction.invalidation(_distribution_id(context), id_=context.params["Id"])
    if row is None:
        raise refusal("NoSuchInvalidation")
    return {"Invalidation": _view(context, row)}


def list_invalidations(context: OperationContext) -> Output:
    """ListInvalidations, newest first."""
    distribution = _distribution_id(context)
    marker, limit = validate.page(context.params, INVALIDATION)
    if marker and context.transaction.invalidation(distribution, id_=marker) is None:
        raise refusal("InvalidArgument", "The parameter Marker is not one that a list has returned.")
    rows = context.transaction.invalidations(distribution, marker, limit + 1)
    items = [_summary(context, row) for row in rows[:limit]]
    following = rows[limit - 1].id if len(rows) > limit else None
    return {"InvalidationList": page_of(True, marker, limit, items, following)}


def _distribution_id(context: OperationContext) -> str:
    """The call's DistributionId, if there is such a distribution."""
    id_: str = context.params["DistributionId"]
    if context.transaction.get(DISTRIBUTION.name, id_) is None:
        raise refusal(DISTRIBUTION.missing)
    return id_


def _view(context: OperationContext, row: InvalidationRow) -> Output:
    return _summary(context, row) | {"InvalidationBatch": row.batch}


def _summary(context: OperationContext, row: InvalidationRow) -> Output:
    status = "Completed" if context.is_completed(row) else "InProgress"
    return {"Id": row.id, "CreateTime": timestamp(row.created), "Status": status}
