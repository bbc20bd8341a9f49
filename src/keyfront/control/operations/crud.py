"""Create, Get, Update, Delete, and List, the same for every kind of `model/kinds.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from keyfront.control.operations.context import Config, OperationContext, Output
from keyfront.control.operations.managed import managed_rows
from keyfront.control.operations.validation import (
    changeable,
    check_against_store,
    complete,
    existing,
    store_relations,
)
from keyfront.control.operations.views import page_of, summary, view
from keyfront.control.store.rows import Row
from keyfront.errors import ApiError
from keyfront.model import validate
from keyfront.model.kinds import DISTRIBUTION, DOMAIN, MONITORING_SUBSCRIPTION, ORIGIN_ACCESS_IDENTITY, Kind
from keyfront.model.service import service
from keyfront.model.validate import refusal


def create(context: OperationContext, kind: Kind) -> Output:
    """Create…: a new resource from the config in the call."""
    return create_from(context, kind, context.params[kind.config])


def create_with_tags(context: OperationContext, kind: Kind) -> Output:
    """Create…WithTags."""
    given = context.params[f"{kind.config}WithTags"]
    tags = validate.tags(given["Tags"].get("Items") or (), context.service.quotas)
    return create_from(context, kind, given[kind.config], tags)


def create_from(
    context: OperationContext, kind: Kind, given: Config, tags: Mapping[str, str] | None = None
) -> Output:
    """A new resource with the config `given` and these tags.

    :raises ApiError: for all problems of the config together, or for a full quota.
    """
    transaction, now, rng = context.transaction, context.call.now, context.service.rng
    config, problems = complete(context, kind, given)
    if not problems and kind.repeatable and (before := _created_before(context, kind, config)) is not None:
        return _created(context, kind, before)
    row = Row(
        kind.name, kind.id.new(rng), context.new_etag(), now, now, config, _attributes(context, kind), 0
    )
    targets = check_against_store(context, kind, row, problems)
    if transaction.count(kind.name) >= getattr(context.service.quotas, kind.quota):
        raise refusal(kind.too_many)
    transaction.insert(row)
    store_relations(context, kind, row, targets)
    if tags:
        transaction.set_tags(kind.name, row.id, tags)
    return _created(context, kind, row)


def _created_before(context: OperationContext, kind: Kind, config: Config) -> Row | None:
    """The resource that an earlier Create with the same CallerReference made, if its config is the same (§7.6)."""
    reference = config["CallerReference"]
    owner = context.transaction.owners(kind.name, "CallerReference", [reference]).get(reference)
    row = context.transaction.get(kind.name, owner) if owner is not None else None
    return row if row is not None and row.config == config else None


def _attributes(context: OperationContext, kind: Kind) -> Config:
    """Output members that are set at creation and never change."""
    rng = context.service.rng
    if kind is DISTRIBUTION:
        return {"DomainName": f"{DOMAIN.new(rng)}.{context.service.domain_suffix}"}
    if kind is ORIGIN_ACCESS_IDENTITY:
        return {"S3CanonicalUserId": f"{rng.getrandbits(384):096x}"}
    return {}


def _created(context: OperationContext, kind: Kind, row: Row) -> Output:
    path = "/".join(segment or "" for segment in service().operations[f"Create{kind.name}"].segments)
    return {kind.name: view(context, kind, row), "Location": f"/{path}/{row.id}", "ETag": row.etag}


def get(context: OperationContext, kind: Kind) -> Output:
    """Get…: the whole resource."""
    row = existing(context, kind)
    return {kind.name: view(context, kind, row), "ETag": row.etag}


def get_config(context: OperationContext, kind: Kind) -> Output:
    """Get…Config: the resource's config."""
    row = existing(context, kind)
    return {kind.config: row.config, "ETag": row.etag}


def update(context: OperationContext, kind: Kind) -> Output:
    """Update…: replace the config; members that the kind fixes must stay the same."""
    old = changeable(context, kind, "IllegalUpdate")
    config, problems = complete(context, kind, context.params[kind.config])
    problems += [
        refusal(kind.fixed_error, f"({member})")
        for member in kind.fixed
        if config[member] != old.config[member]
    ]
    row = replace(context, kind, old, config, problems)
    return {kind.name: view(context, kind, row), "ETag": row.etag}


def replace(
    context: OperationContext, kind: Kind, old: Row, config: Config, problems: Iterable[ApiError] = ()
) -> Row:
    """Give the resource `old` the complete `config`.

    :param problems: those of the config that are already known.
    :raises ApiError: for all problems together.
    """
    transaction = context.transaction
    row = msgspec.structs.replace(old, etag=context.new_etag(), modified=context.call.now, config=config)
    targets = check_against_store(context, kind, row, list(problems))
    compiler = context.service.compiler
    compiled = compiler.compiled(transaction, row)
    referrers = transaction.referrers(kind.name, row.id, DISTRIBUTION.name)
    changed = bool(referrers) and compiler.differs(transaction, old, compiled)
    transaction.update(row)
    store_relations(context, kind, row, targets)
    if changed:
        # The distributions that refer to it change with it, including their ETags (§3.5), and must still compile.
        transaction.set_etags(DISTRIBUTION.name, {id_: context.new_etag() for id_ in referrers})
        for referrer in transaction.get_many(DISTRIBUTION.name, referrers):
            compiler.compiled(transaction, referrer)
        context.changed |= set(referrers)
    return row


def delete(context: OperationContext, kind: Kind) -> Output:
    """Delete…: only if no resource refers to it; a distribution only once it is disabled on all edges."""
    row = changeable(context, kind, "IllegalDelete")
    if kind is DISTRIBUTION and (row.config["Enabled"] or not context.is_deployed(row)):
        detail = "" if row.config["Enabled"] else "It is disabled, but not yet on all edges."
        raise refusal("DistributionNotDisabled", detail)
    if context.transaction.referrers(kind.name, row.id):
        raise refusal(kind.in_use)
    context.transaction.delete(kind.name, row.id)
    if kind is DISTRIBUTION:
        context.transaction.delete(MONITORING_SUBSCRIPTION, row.id)
    return {}


def list_(context: OperationContext, kind: Kind) -> Output:
    """List…: one page of summaries in order of id, managed resources among them."""
    marker, limit = validate.page(context.params, kind.id)
    type_ = context.params.get("Type")
    rows = [] if type_ == "managed" else context.transaction.page(kind.name, marker, limit + 1)
    if type_ != "custom":
        managed = [row for id_, row in managed_rows(kind.name).items() if id_ > marker]
        rows = sorted([*rows, *managed], key=lambda row: row.id)[: limit + 1]
    items = [summary(context, kind, row) for row in rows[:limit]]
    following = rows[limit - 1].id if len(rows) > limit else None
    return {kind.list: page_of(kind.marked, marker, limit, items, following)}
