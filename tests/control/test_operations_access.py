"""Origin access controls and origin access identities: their own rules, and how distributions may refer to them
(cloudfront-semantics §3.3, §5.14, §7.6)."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from keyfront.model.access import IDENTITY
from keyfront.model.kinds import Quotas
from tests.control.harness import Config, Harness, many, minimal

OAC, OAI = "OriginAccessControl", "CloudFrontOriginAccessIdentity"


def control(name: str = "bucket", **changes: Any) -> Config:
    return {
        "Name": name,
        "SigningProtocol": "sigv4",
        "SigningBehavior": "always",
        "OriginAccessControlOriginType": "s3",
    } | changes


def make_control(harness: Harness, name: str = "bucket", **changes: Any) -> Config:
    made: Config = harness.call(f"Create{OAC}", OriginAccessControlConfig=control(name, **changes))
    return made


def make_identity(harness: Harness, reference: str = "one", comment: str = "") -> Config:
    config = {"CallerReference": reference, "Comment": comment}
    made: Config = harness.call(f"Create{OAI}", CloudFrontOriginAccessIdentityConfig=config)
    return made


def bucket(control: str = "", identity: str = "", own: str = "app") -> Config:
    return {
        "Id": own,
        "DomainName": "media.s3.eu-central-1.amazonaws.com",
        "S3OriginConfig": {"OriginAccessIdentity": identity},
        "OriginAccessControlId": control,
    }


def signing(harness: Harness) -> list[str]:
    published = harness.feed.published()
    assert published is not None
    return [origin.signing for value in published.distributions for origin in value.origins]


def test_the_life_of_a_control(harness: Harness) -> None:
    made = make_control(harness, Description="reads")
    id_, etag = made[OAC]["Id"], made["ETag"]
    assert re.fullmatch("E[A-Z0-9]{13}", id_)
    assert made["Location"] == f"/2020-05-31/origin-access-control/{id_}"
    assert made[OAC] == {"Id": id_, "OriginAccessControlConfig": control(Description="reads")}
    assert harness.call(f"Get{OAC}", Id=id_) == {OAC: made[OAC], "ETag": etag}
    assert harness.call(f"Get{OAC}Config", Id=id_) == {
        "OriginAccessControlConfig": control(Description="reads"),
        "ETag": etag,
    }
    assert harness.call(f"List{OAC}s")["OriginAccessControlList"] == {
        "Marker": "",
        "MaxItems": 100,
        "IsTruncated": False,
        "Quantity": 1,
        "Items": [{"Id": id_, **control(Description="reads")}],
    }
    changed = harness.call(
        f"Update{OAC}",
        Id=id_,
        IfMatch=etag,
        OriginAccessControlConfig=control("other", SigningBehavior="no-override"),
    )
    assert changed["ETag"] != etag
    assert changed[OAC]["OriginAccessControlConfig"] == control(
        "other", SigningBehavior="no-override", Description=""
    )
    assert harness.refused(f"Delete{OAC}", Id=id_, IfMatch=etag).code == "PreconditionFailed"
    assert harness.call(f"Delete{OAC}", Id=id_, IfMatch=changed["ETag"]) == {}
    assert harness.refused(f"Get{OAC}", Id=id_).code == "NoSuchOriginAccessControl"


REFUSED: list[tuple[str, Config]] = [
    ("OriginAccessControlOriginType", {"OriginAccessControlOriginType": "lambda"}),
    ("OriginAccessControlOriginType", {"OriginAccessControlOriginType": "mediastore"}),
    ("OriginAccessControlOriginType", {"OriginAccessControlOriginType": "mediapackagev2"}),
    ("SigningProtocol", {"SigningProtocol": "sigv4a"}),
    ("SigningBehavior", {"SigningBehavior": "always-amz-auth"}),
    ("SigningBehavior", {"SigningBehavior": "sometimes"}),
    ("Name", {"Name": ""}),
    ("Name", {"Name": "x" * 65}),
    ("Description", {"Description": "x" * 257}),
]


@pytest.mark.parametrize(("member", "changes"), REFUSED)
def test_what_a_control_may_not_say(harness: Harness, member: str, changes: Config) -> None:
    id_ = make_control(harness, "there")[OAC]["Id"]
    etag = harness.etag(OAC, id_)
    for error in (
        harness.refused(f"Create{OAC}", OriginAccessControlConfig=control() | changes),
        harness.refused(f"Update{OAC}", Id=id_, IfMatch=etag, OriginAccessControlConfig=control() | changes),
    ):
        assert (error.code, error.status) == ("InvalidArgument", 400)
        assert member in error.message


def test_a_controls_name_is_its_own(harness: Harness) -> None:
    make_control(harness)
    assert (
        harness.refused(f"Create{OAC}", OriginAccessControlConfig=control()).code
        == "OriginAccessControlAlreadyExists"
    )
    other = make_control(harness, "second")
    taken = harness.refused(
        f"Update{OAC}",
        Id=other[OAC]["Id"],
        IfMatch=other["ETag"],
        OriginAccessControlConfig=control(),
    )
    assert (taken.code, taken.status) == ("OriginAccessControlAlreadyExists", 409)


def test_the_life_of_an_identity(harness: Harness) -> None:
    made = make_identity(harness, comment="reads")
    id_, etag = made[OAI]["Id"], made["ETag"]
    assert made["Location"] == f"/2020-05-31/origin-access-identity/cloudfront/{id_}"
    user = made[OAI]["S3CanonicalUserId"]
    assert re.fullmatch("[0-9a-f]{96}", user)
    config = {"CallerReference": "one", "Comment": "reads"}
    whole = {"Id": id_, "S3CanonicalUserId": user, "CloudFrontOriginAccessIdentityConfig": config}
    assert made[OAI] == whole
    listed = harness.call("ListCloudFrontOriginAccessIdentities")["CloudFrontOriginAccessIdentityList"]
    assert listed["Items"] == [{"Id": id_, "S3CanonicalUserId": user, "Comment": "reads"}]
    changed = harness.call(
        f"Update{OAI}",
        Id=id_,
        IfMatch=etag,
        CloudFrontOriginAccessIdentityConfig=config | {"Comment": "reads more"},
    )
    assert changed[OAI]["S3CanonicalUserId"] == user
    error = harness.refused(
        f"Update{OAI}",
        Id=id_,
        IfMatch=changed["ETag"],
        CloudFrontOriginAccessIdentityConfig=config | {"CallerReference": "two"},
    )
    assert error.code == "IllegalUpdate"
    long = harness.refused(
        f"Create{OAI}", CloudFrontOriginAccessIdentityConfig={"CallerReference": "x", "Comment": "x" * 129}
    )
    assert long.code == "InvalidArgument"
    harness.call(f"Delete{OAI}", Id=id_, IfMatch=changed["ETag"])
    assert harness.refused(f"Get{OAI}", Id=id_).code == "NoSuchCloudFrontOriginAccessIdentity"


def test_an_identity_that_is_asked_for_twice_is_made_once(harness: Harness) -> None:
    made = make_identity(harness, "one", "a")
    assert make_identity(harness, "one", "a") == made
    config = {"CallerReference": "one", "Comment": "b"}
    error = harness.refused(f"Create{OAI}", CloudFrontOriginAccessIdentityConfig=config)
    assert (error.code, error.status) == ("CloudFrontOriginAccessIdentityAlreadyExists", 409)
    listed = harness.call("ListCloudFrontOriginAccessIdentities")["CloudFrontOriginAccessIdentityList"]
    assert listed["Quantity"] == 1


def test_quotas(tmp_path: Path) -> None:
    quotas = Quotas(
        origin_access_controls=2, origin_access_identities=1, distributions_per_origin_access_control=1
    )
    harness = Harness(tmp_path, quotas=quotas)
    id_ = make_control(harness)[OAC]["Id"]
    make_control(harness, "second")
    third = harness.refused(f"Create{OAC}", OriginAccessControlConfig=control("third"))
    assert (third.code, third.status) == ("TooManyOriginAccessControls", 400)
    made = make_identity(harness)
    assert make_identity(harness) == made
    config = {"CallerReference": "two", "Comment": ""}
    error = harness.refused(f"Create{OAI}", CloudFrontOriginAccessIdentityConfig=config)
    assert (error.code, error.status) == ("TooManyCloudFrontOriginAccessIdentities", 400)
    harness.distribution(Origins=many(bucket(id_)))
    crowd = harness.refused(
        "CreateDistribution", DistributionConfig=minimal("two") | {"Origins": many(bucket(id_))}
    )
    assert crowd.code == "TooManyDistributionsAssociatedToOriginAccessControl"
    harness.close()


def test_distributions_refer_to_what_exists_and_keep_it(harness: Harness) -> None:
    made, identity = make_control(harness), make_identity(harness)
    id_, other = made[OAC]["Id"], identity[OAI]["Id"]
    created = harness.distribution(
        Origins=many(
            bucket(id_),
            bucket(identity=IDENTITY + other, own="old"),
            minimal()["Origins"]["Items"][0] | {"Id": "x"},
        )
    )
    assert signing(harness) == ["always", "always", "never"]
    refused = harness.refused(f"Delete{OAC}", Id=id_, IfMatch=made["ETag"])
    assert (refused.code, refused.status) == ("OriginAccessControlInUse", 409)
    refused = harness.refused(f"Delete{OAI}", Id=other, IfMatch=identity["ETag"])
    assert (refused.code, refused.status) == ("CloudFrontOriginAccessIdentityInUse", 409)
    config, etag = harness.config(created["Id"])
    assert config["Origins"]["Items"][0]["OriginAccessControlId"] == id_
    assert config["Origins"]["Items"][1]["S3OriginConfig"] == {"OriginAccessIdentity": IDENTITY + other}
    for origin, code in (
        (bucket("E404"), "InvalidOriginAccessControl"),
        (bucket(other), "InvalidOriginAccessControl"),
        (bucket(identity=IDENTITY + "E404"), "InvalidOriginAccessIdentity"),
        (bucket(identity=other), "InvalidOriginAccessIdentity"),
        (bucket(id_, IDENTITY + other), "IllegalOriginAccessConfiguration"),
    ):
        error = harness.refused(
            "UpdateDistribution",
            Id=created["Id"],
            IfMatch=etag,
            DistributionConfig=config | {"Origins": many(origin)},
        )
        assert (error.code, error.status) == (code, 400)
    plain = copy.deepcopy(config) | {"Origins": many(bucket())}
    harness.call("UpdateDistribution", Id=created["Id"], IfMatch=etag, DistributionConfig=plain)
    assert signing(harness) == ["never"]
    harness.call(f"Delete{OAC}", Id=id_, IfMatch=made["ETag"])
    harness.call(f"Delete{OAI}", Id=other, IfMatch=identity["ETag"])


def test_a_change_of_a_control_reaches_the_edges(harness: Harness) -> None:
    made = make_control(harness)
    id_ = made[OAC]["Id"]
    created = harness.distribution(Origins=many(bucket(id_)))
    harness.report()
    number, etag = harness.number(), harness.etag("Distribution", created["Id"])
    described = harness.call(
        f"Update{OAC}", Id=id_, IfMatch=made["ETag"], OriginAccessControlConfig=control(Description="new")
    )
    assert harness.number() == number, "no edge would do anything differently"
    assert harness.etag("Distribution", created["Id"]) == etag
    changed = harness.call(
        f"Update{OAC}",
        Id=id_,
        IfMatch=described["ETag"],
        OriginAccessControlConfig=control(SigningBehavior="no-override"),
    )
    assert harness.number() == number + 1
    assert signing(harness) == ["no-override"]
    assert harness.etag("Distribution", created["Id"]) != etag
    assert harness.call("GetDistribution", Id=created["Id"])["Distribution"]["Status"] == "InProgress"
    harness.call(
        f"Update{OAC}",
        Id=id_,
        IfMatch=changed["ETag"],
        OriginAccessControlConfig=control(SigningBehavior="never"),
    )
    assert signing(harness) == ["never"]
    harness.report()
    assert harness.call("GetDistribution", Id=created["Id"])["Distribution"]["Status"] == "Deployed"
