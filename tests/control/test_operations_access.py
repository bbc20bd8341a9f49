"""Origin access controls and origin access identities: their own rules, and what distributions that refer to them may
say (cloudfront-semantics §3.3, §5.14, §7.6)."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from keyfront.model.access import IDENTITY
from keyfront.model.kinds import Quotas
from tests.control.house import Config, House, many, minimal

OAC, OAI = "OriginAccessControl", "CloudFrontOriginAccessIdentity"


def control(name: str = "bucket", **changes: Any) -> Config:
    return {
        "Name": name,
        "SigningProtocol": "sigv4",
        "SigningBehavior": "always",
        "OriginAccessControlOriginType": "s3",
    } | changes


def make_control(house: House, name: str = "bucket", **changes: Any) -> Config:
    made: Config = house.call(f"Create{OAC}", OriginAccessControlConfig=control(name, **changes))
    return made


def make_identity(house: House, reference: str = "one", comment: str = "") -> Config:
    config = {"CallerReference": reference, "Comment": comment}
    made: Config = house.call(f"Create{OAI}", CloudFrontOriginAccessIdentityConfig=config)
    return made


def bucket(control: str = "", identity: str = "", own: str = "app") -> Config:
    return {
        "Id": own,
        "DomainName": "media.s3.eu-central-1.amazonaws.com",
        "S3OriginConfig": {"OriginAccessIdentity": identity},
        "OriginAccessControlId": control,
    }


def signing(house: House) -> list[str]:
    published = house.feed.published()
    assert published is not None
    return [origin.signing for value in published.distributions for origin in value.origins]


def test_the_life_of_a_control(house: House) -> None:
    made = make_control(house, Description="reads")
    id_, etag = made[OAC]["Id"], made["ETag"]
    assert re.fullmatch("E[A-Z0-9]{13}", id_)
    assert made["Location"] == f"/2020-05-31/origin-access-control/{id_}"
    assert made[OAC] == {"Id": id_, "OriginAccessControlConfig": control(Description="reads")}
    assert house.call(f"Get{OAC}", Id=id_) == {OAC: made[OAC], "ETag": etag}
    assert house.call(f"Get{OAC}Config", Id=id_) == {
        "OriginAccessControlConfig": control(Description="reads"),
        "ETag": etag,
    }
    assert house.call(f"List{OAC}s")["OriginAccessControlList"] == {
        "Marker": "",
        "MaxItems": 100,
        "IsTruncated": False,
        "Quantity": 1,
        "Items": [{"Id": id_, **control(Description="reads")}],
    }
    changed = house.call(
        f"Update{OAC}",
        Id=id_,
        IfMatch=etag,
        OriginAccessControlConfig=control("other", SigningBehavior="no-override"),
    )
    assert changed["ETag"] != etag
    assert changed[OAC]["OriginAccessControlConfig"] == control(
        "other", SigningBehavior="no-override", Description=""
    )
    assert house.refused(f"Delete{OAC}", Id=id_, IfMatch=etag).code == "PreconditionFailed"
    assert house.call(f"Delete{OAC}", Id=id_, IfMatch=changed["ETag"]) == {}
    assert house.refused(f"Get{OAC}", Id=id_).code == "NoSuchOriginAccessControl"


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
def test_what_a_control_may_not_say(house: House, member: str, changes: Config) -> None:
    id_ = make_control(house, "there")[OAC]["Id"]
    etag = house.etag(OAC, id_)
    for error in (
        house.refused(f"Create{OAC}", OriginAccessControlConfig=control() | changes),
        house.refused(f"Update{OAC}", Id=id_, IfMatch=etag, OriginAccessControlConfig=control() | changes),
    ):
        assert (error.code, error.status) == ("InvalidArgument", 400)
        assert member in error.message


def test_a_controls_name_is_its_own(house: House) -> None:
    make_control(house)
    assert (
        house.refused(f"Create{OAC}", OriginAccessControlConfig=control()).code
        == "OriginAccessControlAlreadyExists"
    )
    other = make_control(house, "second")
    taken = house.refused(
        f"Update{OAC}",
        Id=other[OAC]["Id"],
        IfMatch=other["ETag"],
        OriginAccessControlConfig=control(),
    )
    assert (taken.code, taken.status) == ("OriginAccessControlAlreadyExists", 409)


def test_the_life_of_an_identity(house: House) -> None:
    made = make_identity(house, comment="reads")
    id_, etag = made[OAI]["Id"], made["ETag"]
    assert made["Location"] == f"/2020-05-31/origin-access-identity/cloudfront/{id_}"
    user = made[OAI]["S3CanonicalUserId"]
    assert re.fullmatch("[0-9a-f]{96}", user)
    config = {"CallerReference": "one", "Comment": "reads"}
    whole = {"Id": id_, "S3CanonicalUserId": user, "CloudFrontOriginAccessIdentityConfig": config}
    assert made[OAI] == whole
    listed = house.call("ListCloudFrontOriginAccessIdentities")["CloudFrontOriginAccessIdentityList"]
    assert listed["Items"] == [{"Id": id_, "S3CanonicalUserId": user, "Comment": "reads"}]
    changed = house.call(
        f"Update{OAI}",
        Id=id_,
        IfMatch=etag,
        CloudFrontOriginAccessIdentityConfig=config | {"Comment": "reads more"},
    )
    assert changed[OAI]["S3CanonicalUserId"] == user
    error = house.refused(
        f"Update{OAI}",
        Id=id_,
        IfMatch=changed["ETag"],
        CloudFrontOriginAccessIdentityConfig=config | {"CallerReference": "two"},
    )
    assert error.code == "IllegalUpdate"
    long = house.refused(
        f"Create{OAI}", CloudFrontOriginAccessIdentityConfig={"CallerReference": "x", "Comment": "x" * 129}
    )
    assert long.code == "InvalidArgument"
    house.call(f"Delete{OAI}", Id=id_, IfMatch=changed["ETag"])
    assert house.refused(f"Get{OAI}", Id=id_).code == "NoSuchCloudFrontOriginAccessIdentity"


def test_an_identity_that_is_asked_for_twice_is_made_once(house: House) -> None:
    made = make_identity(house, "one", "a")
    assert make_identity(house, "one", "a") == made
    config = {"CallerReference": "one", "Comment": "b"}
    error = house.refused(f"Create{OAI}", CloudFrontOriginAccessIdentityConfig=config)
    assert (error.code, error.status) == ("CloudFrontOriginAccessIdentityAlreadyExists", 409)
    listed = house.call("ListCloudFrontOriginAccessIdentities")["CloudFrontOriginAccessIdentityList"]
    assert listed["Quantity"] == 1


def test_quotas(tmp_path: Path) -> None:
    quotas = Quotas(
        origin_access_controls=2, origin_access_identities=1, distributions_per_origin_access_control=1
    )
    house = House(tmp_path, quotas=quotas)
    id_ = make_control(house)[OAC]["Id"]
    make_control(house, "second")
    third = house.refused(f"Create{OAC}", OriginAccessControlConfig=control("third"))
    assert (third.code, third.status) == ("TooManyOriginAccessControls", 400)
    made = make_identity(house)
    assert make_identity(house) == made
    config = {"CallerReference": "two", "Comment": ""}
    error = house.refused(f"Create{OAI}", CloudFrontOriginAccessIdentityConfig=config)
    assert (error.code, error.status) == ("TooManyCloudFrontOriginAccessIdentities", 400)
    house.distribution(Origins=many(bucket(id_)))
    crowd = house.refused(
        "CreateDistribution", DistributionConfig=minimal("two") | {"Origins": many(bucket(id_))}
    )
    assert crowd.code == "TooManyDistributionsAssociatedToOriginAccessControl"
    house.close()


def test_distributions_refer_to_what_exists_and_keep_it(house: House) -> None:
    made, identity = make_control(house), make_identity(house)
    id_, other = made[OAC]["Id"], identity[OAI]["Id"]
    created = house.distribution(
        Origins=many(
            bucket(id_),
            bucket(identity=IDENTITY + other, own="old"),
            minimal()["Origins"]["Items"][0] | {"Id": "x"},
        )
    )
    assert signing(house) == ["always", "always", "never"]
    kept = house.refused(f"Delete{OAC}", Id=id_, IfMatch=made["ETag"])
    assert (kept.code, kept.status) == ("OriginAccessControlInUse", 409)
    kept = house.refused(f"Delete{OAI}", Id=other, IfMatch=identity["ETag"])
    assert (kept.code, kept.status) == ("CloudFrontOriginAccessIdentityInUse", 409)
    config, etag = house.config(created["Id"])
    assert config["Origins"]["Items"][0]["OriginAccessControlId"] == id_
    assert config["Origins"]["Items"][1]["S3OriginConfig"] == {"OriginAccessIdentity": IDENTITY + other}
    for origin, code in (
        (bucket("E404"), "InvalidOriginAccessControl"),
        (bucket(other), "InvalidOriginAccessControl"),
        (bucket(identity=IDENTITY + "E404"), "InvalidOriginAccessIdentity"),
        (bucket(identity=other), "InvalidOriginAccessIdentity"),
        (bucket(id_, IDENTITY + other), "IllegalOriginAccessConfiguration"),
    ):
        error = house.refused(
            "UpdateDistribution",
            Id=created["Id"],
            IfMatch=etag,
            DistributionConfig=config | {"Origins": many(origin)},
        )
        assert (error.code, error.status) == (code, 400)
    plain = copy.deepcopy(config) | {"Origins": many(bucket())}
    house.call("UpdateDistribution", Id=created["Id"], IfMatch=etag, DistributionConfig=plain)
    assert signing(house) == ["never"]
    house.call(f"Delete{OAC}", Id=id_, IfMatch=made["ETag"])
    house.call(f"Delete{OAI}", Id=other, IfMatch=identity["ETag"])


def test_a_change_of_a_control_reaches_the_edges(house: House) -> None:
    made = make_control(house)
    id_ = made[OAC]["Id"]
    created = house.distribution(Origins=many(bucket(id_)))
    house.report()
    number, etag = house.number(), house.etag("Distribution", created["Id"])
    described = house.call(
        f"Update{OAC}", Id=id_, IfMatch=made["ETag"], OriginAccessControlConfig=control(Description="new")
    )
    assert house.number() == number, "no edge would do anything differently"
    assert house.etag("Distribution", created["Id"]) == etag
    changed = house.call(
        f"Update{OAC}",
        Id=id_,
        IfMatch=described["ETag"],
        OriginAccessControlConfig=control(SigningBehavior="no-override"),
    )
    assert house.number() == number + 1
    assert signing(house) == ["no-override"]
    assert house.etag("Distribution", created["Id"]) != etag
    assert house.call("GetDistribution", Id=created["Id"])["Distribution"]["Status"] == "InProgress"
    house.call(
        f"Update{OAC}",
        Id=id_,
        IfMatch=changed["ETag"],
        OriginAccessControlConfig=control(SigningBehavior="never"),
    )
    assert signing(house) == ["never"]
    house.report()
    assert house.call("GetDistribution", Id=created["Id"])["Distribution"]["Status"] == "Deployed"
