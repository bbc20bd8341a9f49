"""What can be done with distributions besides the five verbs: copies, aliases that move, lists by what they use, and
the monitoring subscription that one may have.

Sources: cloudfront-semantics §7.3, and the texts of botocore's model.
"""

from __future__ import annotations

from keyfront.control.operations.context import Config, OperationContext, Output, check_version, page_of
from keyfront.control.operations.crud import create_from, list_, replace
from keyfront.control.store.rows import Row
from keyfront.model import validate
from keyfront.model.kinds import DISTRIBUTION, MONITORING_SUBSCRIPTION
from keyfront.model.residency import TAG
from keyfront.model.validate import refusal

_ALIASES = DISTRIBUTION.unique[1]


def copy(work: OperationContext) -> Output:
    """Make a staging distribution like another one. It has no aliases, since names are one distribution's only."""
    primary = _found(work, work.params["PrimaryDistributionId"])
    check_version(work, primary)
    if work.params.get("Staging") is not True:
        raise refusal(
            "InvalidArgument",
            "The parameter Staging can only be true: what is made is a staging distribution.",
        )
    if primary.config["Staging"]:
        raise refusal(
            "InvalidArgument",
            "The parameter PrimaryDistributionId is that of a staging distribution, which cannot be copied.",
        )
    enabled = work.params.get("Enabled")
    changes = {
        "CallerReference": work.params["CallerReference"],
        "Enabled": True if enabled is None else enabled,
        "Staging": True,
        "Aliases": {"Quantity": 0},
    }
    # What is tied to regions is not to reach others in a copy.
    tie = work.transaction.tags(DISTRIBUTION.name, primary.id).get(TAG)
    return create_from(work, DISTRIBUTION, primary.config | changes, {TAG: tie} if tie else None)


def associate_alias(work: OperationContext) -> Output:
    """Give the alias to the distribution, whichever one has it now. Both change in one transaction, so that no viewer
    meets the name without a distribution."""
    target = _found(work, work.params["TargetDistributionId"])
    alias = work.params["Alias"].lower()
    validate.refuse(validate.host_pattern("Alias", alias))
    validate.refuse(validate.aliases([alias], work.desk.domain_suffix))
    owner = work.transaction.owners(DISTRIBUTION.name, _ALIASES.name, [alias]).get(alias)
    if owner == target.id:
        return {}
    if owner is not None:
        source = _found(work, owner)
        kept = [name for name in source.config["Aliases"]["Items"] if name.lower() != alias]
        replace(work, DISTRIBUTION, source, _with_aliases(source.config, kept))
    names = [*target.config["Aliases"].get("Items", ()), alias]
    replace(work, DISTRIBUTION, target, _with_aliases(target.config, names))
    return {}


def _with_aliases(config: Config, names: list[str]) -> Config:
    aliases = {"Quantity": len(names), "Items": names} if names else {"Quantity": 0}
    return config | {"Aliases": aliases}


def list_conflicting_aliases(work: OperationContext) -> Output:
    """The aliases that some host name could be routed by as well as by the one asked about, in their order; ids are
    half hidden, since at CloudFront they may be another account's."""
    _found(work, work.params["DistributionId"])
    asked = work.params["Alias"].lower()
    validate.refuse(validate.host_pattern("Alias", asked))
    marker, limit = validate.page(work.params, None)
    held = work.transaction.values(DISTRIBUTION.name, _ALIASES.name)
    found = sorted(name for name in held if name > marker and overlap(name, asked))
    items = [
        {
            "Alias": name,
            "DistributionId": half_hidden(held[name]),
            "AccountId": half_hidden(work.desk.account),
        }
        for name in found[:limit]
    ]
    following = found[limit - 1] if len(found) > limit else None
    return {"ConflictingAliasesList": page_of(False, marker, limit, items, following)}


def overlap(one: str, other: str) -> bool:
    """Is there a host name that both aliases stand for? A `*.` stands for one label or more (§5.1)."""
    if not one.startswith("*."):
        one, other = other, one
    if not one.startswith("*."):
        return one == other
    return other == one or other.endswith(one[1:]) or (other.startswith("*.") and one.endswith(other[1:]))


def half_hidden(id_: str) -> str:
    """An id whose owner recognises it, and nobody else."""
    shown = len(id_) // 2
    return "*" * (len(id_) - shown) + id_[-shown:]


def list_by_web_acl(work: OperationContext) -> Output:
    """No distribution has a web ACL, so there is a list only of those without one."""
    acl = work.params["WebACLId"]
    if acl != "null":
        raise refusal("InvalidWebACLId", f"Keyfront has no AWS WAF: there is no web ACL {acl[:128]!r}.")
    return list_(work, DISTRIBUTION)


def list_by_connection_mode(work: OperationContext) -> Output:
    """Every distribution is a direct one."""
    if work.params["ConnectionMode"] == "direct":
        return list_(work, DISTRIBUTION)
    marker, limit = validate.page(work.params, DISTRIBUTION.id)
    return {"DistributionList": page_of(True, marker, limit, [], None)}


# ---- monitoring subscriptions


def create_monitoring_subscription(work: OperationContext) -> Output:
    """Another one in the place of the first changes it: so Terraform does (§7.7)."""
    distribution = _found(work, work.params["DistributionId"])
    given = work.params["MonitoringSubscription"]
    if given.get("RealtimeMetricsSubscriptionConfig") is None:
        raise refusal("InvalidArgument", "The parameter RealtimeMetricsSubscriptionConfig is required.")
    transaction, now = work.transaction, work.call.now
    row = Row(MONITORING_SUBSCRIPTION, distribution.id, work.etag(), now, now, given, {}, 0)
    transaction.delete(MONITORING_SUBSCRIPTION, distribution.id)
    transaction.insert(row)
    return {"MonitoringSubscription": given}


def get_monitoring_subscription(work: OperationContext) -> Output:
    return {"MonitoringSubscription": _subscription(work).config}


def delete_monitoring_subscription(work: OperationContext) -> Output:
    work.transaction.delete(MONITORING_SUBSCRIPTION, _subscription(work).id)
    return {}


def _subscription(work: OperationContext) -> Row:
    distribution = _found(work, work.params["DistributionId"])
    row = work.transaction.get(MONITORING_SUBSCRIPTION, distribution.id)
    if row is None:
        raise refusal("NoSuchMonitoringSubscription")
    return row


def _found(work: OperationContext, id_: str) -> Row:
    row = work.transaction.get(DISTRIBUTION.name, id_)
    if row is None:
        raise refusal(DISTRIBUTION.missing)
    return row
