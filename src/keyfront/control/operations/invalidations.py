"""Invalidations."""

from __future__ import annotations

from keyfront.control.operations.context import OperationContext, Output, page_of, timestamp
from keyfront.control.store.rows import InvalidationRow
from keyfront.model import defaults, validate
from keyfront.model.invalidation import carry, is_wildcard
from keyfront.model.kinds import (
    DISTRIBUTION,
    INVALIDATION,
)
from keyfront.model.service import API_VERSION
from keyfront.model.validate import refusal


def create_invalidation(work: OperationContext) -> Output:
    """It takes effect with the next snapshot; that one carries it, and those after it (`model/invalidation.py`)."""
    transaction, quotas = work.transaction, work.desk.quotas
    distribution = _invalidated(work)
    validate.refuse(validate.invalidation_batch(work.params["InvalidationBatch"], quotas))
    batch = defaults.invalidation_batch(work.params["InvalidationBatch"])
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


def get_invalidation(work: OperationContext) -> Output:
    row = work.transaction.invalidation(_invalidated(work), id_=work.params["Id"])
    if row is None:
        raise refusal("NoSuchInvalidation")
    return {"Invalidation": _invalidation(work, row)}


def list_invalidations(work: OperationContext) -> Output:
    """Newest first."""
    distribution = _invalidated(work)
    marker, limit = validate.page(work.params, INVALIDATION)
    if marker and work.transaction.invalidation(distribution, id_=marker) is None:
        raise refusal("InvalidArgument", "The parameter Marker is not one that a list has returned.")
    rows = work.transaction.invalidations(distribution, marker, limit + 1)
    items = [_invalidation_summary(work, row) for row in rows[:limit]]
    following = rows[limit - 1].id if len(rows) > limit else None
    return {"InvalidationList": page_of(True, marker, limit, items, following)}


def _invalidated(work: OperationContext) -> str:
    """The id of the distribution whose invalidations the call is about."""
    id_: str = work.params["DistributionId"]
    if work.transaction.get(DISTRIBUTION.name, id_) is None:
        raise refusal(DISTRIBUTION.missing)
    return id_


def _invalidation(work: OperationContext, row: InvalidationRow) -> Output:
    return _invalidation_summary(work, row) | {"InvalidationBatch": row.batch}


def _invalidation_summary(work: OperationContext, row: InvalidationRow) -> Output:
    status = "Completed" if work.completed(row) else "InProgress"
    return {"Id": row.id, "CreateTime": timestamp(row.created), "Status": status}
