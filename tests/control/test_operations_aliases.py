"""Moving and overlapping aliases, copying distributions, and listing distributions by what they use
(cloudfront-semantics §7.3)."""

from __future__ import annotations

from typing import Any

import pytest

from keyfront.control.operations.distributions import half_hidden, overlap
from tests.control.harness import ACCOUNT, Config, Harness, many, minimal
from tests.rows import rows


def named(harness: Harness, reference: str, *aliases: str, **changes: Any) -> str:
    return str(harness.distribution(reference, Aliases=many(*aliases), **changes)["Id"])


def aliases(harness: Harness, id_: str) -> list[str]:
    config, _ = harness.config(id_)
    found: list[str] = config["Aliases"].get("Items", [])
    assert config["Aliases"]["Quantity"] == len(found)
    return found


def routed(harness: Harness) -> dict[str, str]:
    """The distribution that edges route each alias to."""
    published = harness.feed.published()
    assert published is not None
    return {alias: value.id for value in published.distributions for alias in value.aliases}


# ---- AssociateAlias


def test_an_alias_moves_in_one_step(harness: Harness) -> None:
    one = named(harness, "one", "a.example.com", "b.example.com")
    two = named(harness, "two", "c.example.com")
    harness.report()
    number = harness.number()
    etags = [harness.etag("Distribution", id_) for id_ in (one, two)]
    assert harness.call("AssociateAlias", TargetDistributionId=two, Alias="A.example.com") == {}
    assert aliases(harness, one) == ["b.example.com"]
    assert aliases(harness, two) == ["c.example.com", "a.example.com"]
    assert harness.number() == number + 1, "no viewer meets the name without a distribution"
    assert routed(harness) == {"b.example.com": one, "c.example.com": two, "a.example.com": two}
    for id_, etag in zip((one, two), etags, strict=True):
        assert harness.etag("Distribution", id_) != etag
        assert harness.call("GetDistribution", Id=id_)["Distribution"]["Status"] == "InProgress"
    # A moved alias can move again, and is then unavailable to the distribution that it left.
    harness.call("AssociateAlias", TargetDistributionId=one, Alias="a.example.com")
    assert aliases(harness, two) == ["c.example.com"]
    config, etag = harness.config(two)
    taken = harness.refused(
        "UpdateDistribution",
        Id=two,
        IfMatch=etag,
        DistributionConfig=config | {"Aliases": many("a.example.com")},
    )
    assert taken.code == "CNAMEAlreadyExists"


def test_an_alias_that_nobody_has_is_added_and_one_that_is_there_stays(harness: Harness) -> None:
    one = named(harness, "one")
    harness.call("AssociateAlias", TargetDistributionId=one, Alias="*.example.com")
    assert aliases(harness, one) == ["*.example.com"]
    etag, number = harness.etag("Distribution", one), harness.number()
    harness.call("AssociateAlias", TargetDistributionId=one, Alias="*.EXAMPLE.com")
    assert (harness.etag("Distribution", one), harness.number()) == (etag, number)


def test_the_last_alias_goes_from_a_disabled_distribution(harness: Harness) -> None:
    one = named(harness, "one", "a.example.com", Enabled=False)
    two = named(harness, "two")
    harness.call("AssociateAlias", TargetDistributionId=two, Alias="a.example.com")
    assert aliases(harness, one) == []


@pytest.mark.parametrize(
    ("alias", "code"),
    [
        ("", "InvalidArgument"),
        ("a b.example.com", "InvalidArgument"),
        ("a.*.example.com", "InvalidArgument"),
        ("x.cloudfront.localhost", "InvalidArgument"),
        ("y" * 64 + ".example.com", "InvalidArgument"),
        ("new.example.com", "TooManyDistributionCNAMEs"),
        ("taken.example.com", "TooManyDistributionCNAMEs"),
    ],
)
def test_an_alias_that_cannot_move_stays(harness: Harness, alias: str, code: str) -> None:
    owner = named(harness, "owner", "taken.example.com")
    full = named(harness, "full", *(f"n{number}.example.com" for number in range(100)))
    before, number = [harness.config(id_) for id_ in (owner, full)], harness.number()
    assert harness.refused("AssociateAlias", TargetDistributionId=full, Alias=alias).code == code
    assert [harness.config(id_) for id_ in (owner, full)] == before
    assert harness.number() == number


def test_a_distribution_that_is_not_there_gets_no_alias(harness: Harness) -> None:
    error = harness.refused("AssociateAlias", TargetDistributionId="E404", Alias="a.example.com")
    assert (error.code, error.status) == ("NoSuchDistribution", 404)


# ---- ListConflictingAliases

OVERLAPS = [
    ("a.example.com", "a.example.com", True),
    ("a.example.com", "b.example.com", False),
    ("*.example.com", "a.example.com", True),
    ("*.example.com", "a.b.example.com", True),
    ("*.example.com", "example.com", False),
    ("*.example.com", "aexample.com", False),
    ("*.example.com", "*.example.com", True),
    ("*.example.com", "*.b.example.com", True),
    ("*.example.com", "*.example.org", False),
    ("*.example.com", "*.xexample.com", False),
]


@rows(("one", "other", "expected"), OVERLAPS)
def test_overlap(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected


def test_ids_are_half_hidden() -> None:
    assert half_hidden("E2VY6GYSB2RFYS") == "*******SB2RFYS"
    assert half_hidden("123456112233") == "******112233"
    assert half_hidden("abc") == "**c"


def test_conflicting_aliases(harness: Harness) -> None:
    one = named(harness, "one", "www.example.com", "*.dev.example.com", "example.com")
    two = named(harness, "two", "*.example.com", "www.example.org")

    def conflicts(alias: str, **params: Any) -> Config:
        found: Config = harness.call("ListConflictingAliases", DistributionId=one, Alias=alias, **params)[
            "ConflictingAliasesList"
        ]
        return found

    def item(alias: str, id_: str) -> Config:
        return {
            "Alias": alias,
            "DistributionId": "*******" + id_[7:],
            "AccountId": "******" + ACCOUNT[6:],
        }

    assert conflicts("WWW.example.com") == {
        "MaxItems": 100,
        "Quantity": 2,
        "Items": [item("*.example.com", two), item("www.example.com", one)],
    }
    every = [item("*.dev.example.com", one), item("*.example.com", two), item("www.example.com", one)]
    assert conflicts("*.example.com")["Items"] == every
    assert conflicts("nobody.example.net") == {"MaxItems": 100, "Quantity": 0}
    first = conflicts("*.example.com", MaxItems=2)
    assert (first["Items"], first["NextMarker"]) == (every[:2], "*.example.com")
    rest = conflicts("*.example.com", MaxItems=2, Marker=first["NextMarker"])
    assert rest["Items"] == every[2:]
    assert "NextMarker" not in rest


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"DistributionId": "E404"}, "NoSuchDistribution"),
        ({"Alias": "no host"}, "InvalidArgument"),
        ({"Alias": ""}, "InvalidArgument"),
        ({"MaxItems": 0}, "InvalidArgument"),
    ],
)
def test_what_cannot_be_asked_about_conflicts(harness: Harness, params: Config, code: str) -> None:
    query = {"DistributionId": named(harness, "one"), "Alias": "a.example.com"} | params
    assert harness.refused("ListConflictingAliases", **query).code == code


# ---- CopyDistribution


def test_a_copy_is_a_staging_distribution(harness: Harness) -> None:
    primary = named(harness, "one", "a.example.com", Comment="as it is")
    config, etag = harness.config(primary)
    made = harness.call(
        "CopyDistribution", PrimaryDistributionId=primary, Staging=True, IfMatch=etag, CallerReference="copy"
    )
    copy = made["Distribution"]
    assert copy["Id"] != primary
    assert made["Location"] == f"/2020-05-31/distribution/{copy['Id']}"
    assert copy["DistributionConfig"] == config | {
        "CallerReference": "copy",
        "Staging": True,
        "Aliases": {"Quantity": 0},
    }
    published = harness.feed.published()
    assert published is not None
    assert {value.id: value.enabled for value in published.distributions} == {
        primary: True,
        copy["Id"]: False,
    }
    changed = copy["DistributionConfig"] | {"Comment": "changed"}
    made = harness.call("UpdateDistribution", Id=copy["Id"], IfMatch=made["ETag"], DistributionConfig=changed)
    for staging in (False,):
        error = harness.refused(
            "UpdateDistribution",
            Id=copy["Id"],
            IfMatch=made["ETag"],
            DistributionConfig=changed | {"Staging": staging},
        )
        assert error.code == "IllegalUpdate"


def test_a_copy_may_be_disabled(harness: Harness) -> None:
    primary = named(harness, "one")
    _, etag = harness.config(primary)
    params = {"PrimaryDistributionId": primary, "IfMatch": etag, "CallerReference": "copy", "Staging": True}
    made = harness.call("CopyDistribution", Enabled=False, **params)
    assert made["Distribution"]["DistributionConfig"]["Enabled"] is False


COPIES: list[tuple[Config, str]] = [
    ({"PrimaryDistributionId": "E404"}, "NoSuchDistribution"),
    ({"IfMatch": ""}, "InvalidIfMatchVersion"),
    ({"IfMatch": None}, "InvalidIfMatchVersion"),
    ({"IfMatch": "EABCDEFGHIJKLM"}, "PreconditionFailed"),
    ({"Staging": False}, "InvalidArgument"),
    ({"Staging": None}, "InvalidArgument"),
    ({"CallerReference": "one"}, "DistributionAlreadyExists"),
    ({"CallerReference": ""}, "InvalidArgument"),
]


@pytest.mark.parametrize(("params", "code"), COPIES)
def test_copies_that_are_refused(harness: Harness, params: Config, code: str) -> None:
    primary = named(harness, "one")
    _, etag = harness.config(primary)
    query = {
        "PrimaryDistributionId": primary,
        "Staging": True,
        "IfMatch": etag,
        "CallerReference": "copy",
    } | params
    given = {name: value for name, value in query.items() if value is not None}
    assert harness.refused("CopyDistribution", **given).code == code


def test_a_copy_is_not_copied(harness: Harness) -> None:
    made = harness.call("CreateDistribution", DistributionConfig=minimal() | {"Staging": True})
    error = harness.refused(
        "CopyDistribution",
        PrimaryDistributionId=made["Distribution"]["Id"],
        Staging=True,
        IfMatch=made["ETag"],
        CallerReference="copy",
    )
    assert error.code == "InvalidArgument"


# ---- lists


def test_distributions_without_a_web_acl_are_all(harness: Harness) -> None:
    ids = sorted(named(harness, str(number)) for number in range(3))
    everything = harness.call("ListDistributions")
    assert harness.call("ListDistributionsByWebACLId", WebACLId="null") == everything
    assert harness.call("ListDistributionsByConnectionMode", ConnectionMode="direct") == everything
    first = harness.call("ListDistributionsByWebACLId", WebACLId="null", MaxItems="2")["DistributionList"]
    assert [item["Id"] for item in first["Items"]] == ids[:2]
    rest = harness.call(
        "ListDistributionsByConnectionMode", ConnectionMode="direct", Marker=ids[1], MaxItems=5
    )
    assert [item["Id"] for item in rest["DistributionList"]["Items"]] == ids[2:]
    none = harness.call("ListDistributionsByConnectionMode", ConnectionMode="tenant-only")
    assert none == {"DistributionList": {"Marker": "", "MaxItems": 100, "IsTruncated": False, "Quantity": 0}}
    acl = "arn:aws:wafv2:us-east-1:123456789012:global/webacl/x/473e64fd-f30b-4765-81a0-62ad96dd167a"
    for unknown in (acl, "473e64fd-f30b-4765-81a0-62ad96dd167a", "NULL"):
        error = harness.refused("ListDistributionsByWebACLId", WebACLId=unknown)
        assert (error.code, error.status) == ("InvalidWebACLId", 400)
    assert (
        harness.refused("ListDistributionsByConnectionMode", ConnectionMode="other").code == "InvalidArgument"
    )


# ---- monitoring subscriptions


def subscription(status: str = "Enabled") -> Config:
    return {"RealtimeMetricsSubscriptionConfig": {"RealtimeMetricsSubscriptionStatus": status}}


def test_a_monitoring_subscription_lives_with_its_distribution(harness: Harness) -> None:
    id_ = named(harness, "one", Enabled=False)
    for operation in ("GetMonitoringSubscription", "DeleteMonitoringSubscription"):
        error = harness.refused(operation, DistributionId=id_)
        assert (error.code, error.status) == ("NoSuchMonitoringSubscription", 404)
    etag, number = harness.etag("Distribution", id_), harness.number()
    for status in ("Enabled", "Disabled", "Disabled"):
        made = harness.call(
            "CreateMonitoringSubscription", DistributionId=id_, MonitoringSubscription=subscription(status)
        )
        assert made == {"MonitoringSubscription": subscription(status)}
        assert harness.call("GetMonitoringSubscription", DistributionId=id_) == made
    assert (harness.etag("Distribution", id_), harness.number()) == (etag, number)
    assert harness.call("DeleteMonitoringSubscription", DistributionId=id_) == {}
    assert (
        harness.refused("GetMonitoringSubscription", DistributionId=id_).code
        == "NoSuchMonitoringSubscription"
    )
    harness.call("CreateMonitoringSubscription", DistributionId=id_, MonitoringSubscription=subscription())
    harness.report()
    harness.call("DeleteDistribution", Id=id_, IfMatch=etag)
    for operation in ("GetMonitoringSubscription", "DeleteMonitoringSubscription"):
        assert harness.refused(operation, DistributionId=id_).code == "NoSuchDistribution"
    with harness.store.read() as transaction:
        assert transaction.count("MonitoringSubscription") == 0


def test_a_monitoring_subscription_says_something(harness: Harness) -> None:
    id_ = named(harness, "one")
    empty: tuple[Config, ...] = ({}, {"RealtimeMetricsSubscriptionConfig": {}})
    for given in empty:
        error = harness.refused(
            "CreateMonitoringSubscription", DistributionId=id_, MonitoringSubscription=given
        )
        assert error.code == "InvalidArgument"
