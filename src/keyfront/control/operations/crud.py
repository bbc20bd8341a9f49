"""The five verbs, Create, Get, Update, Delete and List, over the kinds of `model/kinds.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from keyfront.control.operations.context import (
    Config,
    OperationContext,
    Output,
    fitting,
    found_row,
    matched,
    page_of,
    relate,
    reviewed,
    summary,
    view,
)
from keyfront.control.operations.managed import managed_rows
from keyfront.control.store.rows import Row
from keyfront.errors import ApiError
from keyfront.model import validate
from keyfront.model.kinds import DISTRIBUTION, DOMAIN, MONITORING_SUBSCRIPTION, ORIGIN_ACCESS_IDENTITY, Kind
from keyfront.model.service import service
from keyfront.model.validate import refusal


def create(work: OperationContext, kind: Kind) -> Output:
    return create_from(work, kind, work.params[kind.config])


def create_from(
    work: OperationContext, kind: Kind, given: Config, tags: Mapping[str, str] | None = None
) -> Output:
    transaction, now, rng = work.transaction, work.call.now, work.desk.rng
    config, problems = reviewed(work, kind, given)
    if not problems and kind.repeatable and (before := _same(work, kind, config)) is not None:
        return _created(work, kind, before)
    row = Row(kind.name, kind.id.new(rng), work.etag(), now, now, config, _attributes(work, kind), 0)
    targets = fitting(work, kind, row, problems)
    if transaction.count(kind.name) >= getattr(work.desk.quotas, kind.quota):
        raise refusal(kind.too_many)
    transaction.insert(row)
    relate(work, kind, row, targets)
    if tags:
        transaction.set_tags(kind.name, row.id, tags)
    return _created(work, kind, row)


def _same(work: OperationContext, kind: Kind, config: Config) -> Row | None:
    """The resource that was made with the same CallerReference, if its config is the same."""
    reference = config["CallerReference"]
    owner = work.transaction.owners(kind.name, "CallerReference", [reference]).get(reference)
    row = work.transaction.get(kind.name, owner) if owner is not None else None
    return row if row is not None and row.config == config else None


def _attributes(work: OperationContext, kind: Kind) -> Config:
    """Output members that are made with the resource and stay."""
    rng = work.desk.rng
    if kind is DISTRIBUTION:
        return {"DomainName": f"{DOMAIN.new(rng)}.{work.desk.domain_suffix}"}
    if kind is ORIGIN_ACCESS_IDENTITY:
        return {"S3CanonicalUserId": f"{rng.getrandbits(384):096x}"}
    return {}


def _created(work: OperationContext, kind: Kind, row: Row) -> Output:
    path = "/".join(segment or "" for segment in service().operations[f"Create{kind.name}"].segments)
    return {kind.name: view(work, kind, row), "Location": f"/{path}/{row.id}", "ETag": row.etag}


def get(work: OperationContext, kind: Kind) -> Output:
    row = found_row(work, kind)
    return {kind.name: view(work, kind, row), "ETag": row.etag}


def get_config(work: OperationContext, kind: Kind) -> Output:
    row = found_row(work, kind)
    return {kind.config: row.config, "ETag": row.etag}


def update(work: OperationContext, kind: Kind) -> Output:
    old = matched(work, kind, "IllegalUpdate")
    config, problems = reviewed(work, kind, work.params[kind.config])
    problems += [
        refusal(kind.fixed_error, f"({member})")
        for member in kind.fixed
        if config[member] != old.config[member]
    ]
    row = replace(work, kind, old, config, problems)
    return {kind.name: view(work, kind, row), "ETag": row.etag}


def replace(
    work: OperationContext, kind: Kind, old: Row, config: Config, problems: Iterable[ApiError] = ()
) -> Row:
    """Give the resource `old` the complete `config`, if it fits to all others.

    :param problems: what is known to be wrong with it.
    :raises ApiError: for all that is wrong with it.
    """
    transaction = work.transaction
    row = msgspec.structs.replace(old, etag=work.etag(), modified=work.call.now, config=config)
    targets = fitting(work, kind, row, list(problems))
    compiler = work.desk.compiler
    compiled = compiler.compiled(transaction, row)
    referrers = transaction.referrers(kind.name, row.id, DISTRIBUTION.name)
    changed = bool(referrers) and compiler.differs(transaction, old, compiled)
    transaction.update(row)
    relate(work, kind, row, targets)
    if changed:
        # Whoever refers to it is changed with it, ETag and all (§3.5), and must still be something to obey.
        transaction.retag(DISTRIBUTION.name, {id_: work.etag() for id_ in referrers})
        for referrer in transaction.some(DISTRIBUTION.name, referrers):
            compiler.compiled(transaction, referrer)
        work.touched |= set(referrers)
    return row


def delete(work: OperationContext, kind: Kind) -> Output:
    row = matched(work, kind, "IllegalDelete")
    if kind is DISTRIBUTION and (row.config["Enabled"] or not work.deployed(row)):
        detail = "" if row.config["Enabled"] else "It is disabled, but not yet on all edges."
        raise refusal("DistributionNotDisabled", detail)
    if work.transaction.referrers(kind.name, row.id):
        raise refusal(kind.in_use)
    work.transaction.delete(kind.name, row.id)
    if kind is DISTRIBUTION:
        work.transaction.delete(MONITORING_SUBSCRIPTION, row.id)
    return {}


def list_(work: OperationContext, kind: Kind) -> Output:
    marker, limit = validate.page(work.params, kind.id)
    wanted = work.params.get("Type")
    rows = [] if wanted == "managed" else work.transaction.page(kind.name, marker, limit + 1)
    if wanted != "custom":
        managed = [row for id_, row in managed_rows(kind.name).items() if id_ > marker]
        rows = sorted([*rows, *managed], key=lambda row: row.id)[: limit + 1]
    items = [summary(work, kind, row) for row in rows[:limit]]
    following = rows[limit - 1].id if len(rows) > limit else None
    return {kind.list: page_of(kind.marked, marker, limit, items, following)}
