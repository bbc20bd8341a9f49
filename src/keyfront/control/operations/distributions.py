"""Operations of distributions beyond Create, Get, Update, Delete, and List: copy, move an alias, list by a reference or
a property, and the monitoring subscription.

Sources: cloudfront-semantics §7.3, and the texts of botocore's model.
"""

from __future__ import annotations

from keyfront.control.operations.context import Config, OperationContext, Output
from keyfront.control.operations.crud import create_from, list_, replace
from keyfront.control.operations.managed import managed_rows
from keyfront.control.operations.validation import check_if_match
from keyfront.control.operations.views import page_of
from keyfront.control.store.rows import Row
from keyfront.model import validate
from keyfront.model.kinds import DISTRIBUTION, MONITORING_SUBSCRIPTION, Kind
from keyfront.model.residency import TAG
from keyfront.model.validate import refusal

_ALIASES = DISTRIBUTION.unique[1]


def copy(context: OperationContext) -> Output:
    """CopyDistribution: a staging distribution with the config of another one, but without aliases, as two
    distributions cannot share one."""
    primary = _distribution(context, context.params["PrimaryDistributionId"])
    check_if_match(context, primary)
    if context.params.get("Staging") is not True:
        raise refusal(
            "InvalidArgument",
            "The parameter Staging can only be true: the copy is a staging distribution.",
        )
    if primary.config["Staging"]:
        raise refusal(
            "InvalidArgument",
            "The parameter PrimaryDistributionId names a staging distribution, which cannot be copied.",
        )
    enabled = context.params.get("Enabled")
    changes = {
        "CallerReference": context.params["CallerReference"],
        "Enabled": True if enabled is None else enabled,
        "Staging": True,
        "Aliases": {"Quantity": 0},
    }
    # A distribution that is tied to regions must not reach others as a copy.
    regions = context.transaction.tags(DISTRIBUTION.name, primary.id).get(TAG)
    return create_from(context, DISTRIBUTION, primary.config | changes, {TAG: regions} if regions else None)


def associate_alias(context: OperationContext) -> Output:
    """AssociateAlias: move an alias to the distribution, from the one that has it now. Both change in one transaction,
    so the name is never without a distribution."""
    target = _distribution(context, context.params["TargetDistributionId"])
    alias = context.params["Alias"].lower()
    validate.refuse(validate.host_pattern("Alias", alias))
    validate.refuse(validate.aliases([alias], context.service.domain_suffix))
    owner = context.transaction.owners(DISTRIBUTION.name, _ALIASES.name, [alias]).get(alias)
    if owner == target.id:
        return {}
    if owner is not None:
        source = _distribution(context, owner)
        names = [name for name in source.config["Aliases"]["Items"] if name.lower() != alias]
        replace(context, DISTRIBUTION, source, _with_aliases(source.config, names))
    names = [*target.config["Aliases"].get("Items", ()), alias]
    replace(context, DISTRIBUTION, target, _with_aliases(target.config, names))
    return {}


def _with_aliases(config: Config, names: list[str]) -> Config:
    aliases = {"Quantity": len(names), "Items": names} if names else {"Quantity": 0}
    return config | {"Aliases": aliases}


def list_conflicting_aliases(context: OperationContext) -> Output:
    """ListConflictingAliases: the aliases that overlap with the given one, in order. Ids are half hidden, because at
    CloudFront they may belong to another account."""
    _distribution(context, context.params["DistributionId"])
    alias = context.params["Alias"].lower()
    validate.refuse(validate.host_pattern("Alias", alias))
    marker, limit = validate.page(context.params, None)
    owners = context.transaction.unique_values(DISTRIBUTION.name, _ALIASES.name)
    found = sorted(name for name in owners if name > marker and overlap(name, alias))
    items = [
        {
            "Alias": name,
            "DistributionId": half_hidden(owners[name]),
            "AccountId": half_hidden(context.service.account),
        }
        for name in found[:limit]
    ]
    following = found[limit - 1] if len(found) > limit else None
    return {"ConflictingAliasesList": page_of(False, marker, limit, items, following)}


def overlap(one: str, other: str) -> bool:
    """True if some host name matches both aliases. A `*.` matches one label or more (§5.1)."""
    if not one.startswith("*."):
        one, other = other, one
    if not one.startswith("*."):
        return one == other
    return other == one or other.endswith(one[1:]) or (other.startswith("*.") and one.endswith(other[1:]))


def half_hidden(id_: str) -> str:
    """The id with its first half replaced by asterisks: its owner recognizes it, others learn nothing."""
    shown = len(id_) // 2
    return "*" * (len(id_) - shown) + id_[-shown:]


def list_by_reference(context: OperationContext, kind: Kind) -> Output:
    """ListDistributionsBy…: the ids of the distributions that refer to a resource of the kind."""
    marker, limit = validate.page(context.params, DISTRIBUTION.id)
    id_ = context.params[f"{kind.name}Id"]
    if id_ in managed_rows(kind.name):
        referrers = _referrers_of_managed(context, kind, id_)
    elif context.transaction.get(kind.name, id_) is not None:
        referrers = context.transaction.referrers(kind.name, id_, DISTRIBUTION.name)
    else:
        raise refusal(kind.missing)
    ids = [referrer for referrer in referrers if referrer > marker]
    following = ids[limit - 1] if len(ids) > limit else None
    return {"DistributionIdList": page_of(True, marker, limit, ids[:limit], following)}


def _referrers_of_managed(context: OperationContext, kind: Kind, id_: str) -> list[str]:
    """The distributions that refer to a managed policy. It is not stored, so no stored reference leads to it."""
    (reference,) = (reference for reference in DISTRIBUTION.refers_to if reference.kind == kind.name)
    rows = context.transaction.get_many(DISTRIBUTION.name, context.transaction.versions(DISTRIBUTION.name))
    return [row.id for row in rows if id_ in reference.ids(row.config)]


def list_by_web_acl(context: OperationContext) -> Output:
    """ListDistributionsByWebACLId: no distribution has a web ACL, so only the list for `null` is not an error."""
    acl = context.params["WebACLId"]
    if acl != "null":
        raise refusal("InvalidWebACLId", f"Keyfront has no AWS WAF: there is no web ACL {acl[:128]!r}.")
    return list_(context, DISTRIBUTION)


def list_by_connection_mode(context: OperationContext) -> Output:
    """ListDistributionsByConnectionMode: every distribution has the mode `direct`."""
    if context.params["ConnectionMode"] == "direct":
        return list_(context, DISTRIBUTION)
    marker, limit = validate.page(context.params, DISTRIBUTION.id)
    return {"DistributionList": page_of(True, marker, limit, [], None)}


# ---- monitoring subscriptions


def create_monitoring_subscription(context: OperationContext) -> Output:
    """CreateMonitoringSubscription: create it or replace it, since Terraform updates by creating again (§7.7)."""
    distribution = _distribution(context, context.params["DistributionId"])
    given = context.params["MonitoringSubscription"]
    if given.get("RealtimeMetricsSubscriptionConfig") is None:
        raise refusal("InvalidArgument", "The parameter RealtimeMetricsSubscriptionConfig is required.")
    transaction, now = context.transaction, context.call.now
    row = Row(MONITORING_SUBSCRIPTION, distribution.id, context.new_etag(), now, now, given, {}, 0)
    transaction.delete(MONITORING_SUBSCRIPTION, distribution.id)
    transaction.insert(row)
    return {"MonitoringSubscription": given}


def get_monitoring_subscription(context: OperationContext) -> Output:
    """GetMonitoringSubscription."""
    return {"MonitoringSubscription": _subscription(context).config}


def delete_monitoring_subscription(context: OperationContext) -> Output:
    """DeleteMonitoringSubscription."""
    context.transaction.delete(MONITORING_SUBSCRIPTION, _subscription(context).id)
    return {}


def _subscription(context: OperationContext) -> Row:
    distribution = _distribution(context, context.params["DistributionId"])
    row = context.transaction.get(MONITORING_SUBSCRIPTION, distribution.id)
    if row is None:
        raise refusal("NoSuchMonitoringSubscription")
    return row


def _distribution(context: OperationContext, id_: str) -> Row:
    row = context.transaction.get(DISTRIBUTION.name, id_)
    if row is None:
        raise refusal(DISTRIBUTION.missing)
    return row
