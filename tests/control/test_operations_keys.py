"""Public keys and key groups: what is taken, what is refused and how, what an edit changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from keyfront.model.kinds import Quotas
from tests.control.house import BOTH, House, ec_pem, minimal, rsa_key, rsa_pem, trusting

STORES = BOTH

PRIVATE = rsa_key().private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
PKCS1 = rsa_key().public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
ED25519 = (
    ed25519.Ed25519PrivateKey.generate()
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)


def certificate() -> str:
    import datetime

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example.com")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(rsa_key().public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .sign(rsa_key(), hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def key_config(**changes: Any) -> dict[str, Any]:
    return {"CallerReference": "r", "Name": "n", "EncodedKey": rsa_pem()} | changes


# ---- public keys


@pytest.mark.parametrize(
    "pem",
    [
        rsa_pem(),
        ec_pem(),
        rsa_pem().rstrip("\n"),
        rsa_pem().replace("\n", "\r\n"),
        rsa_pem() + "\n",
        " " + rsa_pem() + "\t",
    ],
    ids=["RSA", "EC", "no newline at its end", "CR LF", "an empty line", "blanks around"],
)
def test_a_public_key_is_returned_byte_for_byte(house: House, pem: str) -> None:
    created = house.call("CreatePublicKey", PublicKeyConfig=key_config(EncodedKey=pem))
    id_ = created["PublicKey"]["Id"]
    assert id_[0] == "K"
    assert len(id_) == 14
    assert created["Location"] == f"/2020-05-31/public-key/{id_}"
    expected = key_config(EncodedKey=pem, Comment="")
    assert created["PublicKey"]["PublicKeyConfig"] == expected
    assert house.call("GetPublicKey", Id=id_) == {"PublicKey": created["PublicKey"], "ETag": created["ETag"]}
    assert house.call("GetPublicKeyConfig", Id=id_) == {"PublicKeyConfig": expected, "ETag": created["ETag"]}
    summary = house.call("ListPublicKeys")["PublicKeyList"]["Items"]
    assert summary == [
        {
            "Id": id_,
            "Name": "n",
            "CreatedTime": created["PublicKey"]["CreatedTime"],
            "EncodedKey": pem,
            "Comment": "",
        }
    ]


BAD_KEYS = {
    "empty": "",
    "no key at all": "hello",
    "RSA of 1024 bits": rsa_pem(1024),
    "RSA of 3072 bits": rsa_pem(3072),
    "RSA of 4096 bits": rsa_pem(4096),
    "P-384": ec_pem("P-384"),
    "Ed25519": ED25519.decode(),
    "PKCS#1": PKCS1.decode(),
    "collapsed newlines": rsa_pem().replace("\n", ""),
    "newlines become blanks": rsa_pem().replace("\n", " "),
    "escaped newlines": rsa_pem().replace("\n", "\\n"),
    "cut short": rsa_pem()[:200],
    "damaged": rsa_pem().replace("MIIB", "AAAA"),
    "two keys": rsa_pem() + ec_pem(),
    "text before": "my key:\n" + rsa_pem(),
    "text after": rsa_pem() + "that was it",
    "a certificate": certificate(),
    "a private key": PRIVATE.decode(),
    "a private key after the public one": rsa_pem() + PRIVATE.decode(),
    "not ASCII": rsa_pem().replace("PUBLIC", "PÜBLIC"),
}


@pytest.mark.parametrize("pem", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_other_keys_are_refused_and_never_repeated(house: House, pem: str) -> None:
    error = house.refused("CreatePublicKey", PublicKeyConfig=key_config(EncodedKey=pem))
    assert (error.code, error.status) == ("InvalidArgument", 400)
    assert "empty/invalid/out of limits RSA Encoded Key" in error.message
    assert house.call("ListPublicKeys")["PublicKeyList"] == {"MaxItems": 100, "Quantity": 0}
    body = PRIVATE.decode().splitlines()[1]
    assert body not in error.message
    with house.store.read() as transaction:
        assert not any(body.encode() in row.record for row in transaction.audit())


def test_the_message_helps() -> None:
    from keyfront.control import validate

    for name, words in {
        "RSA of 4096 bits": "4096",
        "PKCS#1": "RSA PUBLIC KEY",
        "a private key": "private",
    }.items():
        (problem,) = validate.public_key(key_config(EncodedKey=BAD_KEYS[name], Comment=""), Quotas())
        assert words in problem.message


@pytest.mark.parametrize(
    "changes",
    [{"Name": ""}, {"Name": "n" * 129}, {"CallerReference": ""}, {"Comment": "c" * 129}, {"Name": "a\x00b"}],
)
def test_texts_of_the_wrong_length_are_refused(house: House, changes: dict[str, str]) -> None:
    assert house.refused("CreatePublicKey", PublicKeyConfig=key_config(**changes)).code == "InvalidArgument"


def test_name_and_caller_reference_are_unique(house: House) -> None:
    house.call("CreatePublicKey", PublicKeyConfig=key_config())
    for changes in ({}, {"Name": "other"}, {"CallerReference": "other"}):
        error = house.refused("CreatePublicKey", PublicKeyConfig=key_config(**changes))
        assert (error.code, error.status) == ("PublicKeyAlreadyExists", 409)
    house.call("CreatePublicKey", PublicKeyConfig=key_config(Name="other", CallerReference="other"))


def test_a_deleted_keys_name_is_free_again(house: House) -> None:
    id_ = house.key("a")
    house.call("DeletePublicKey", Id=id_, IfMatch=house.etag("PublicKey", id_))
    assert house.refused("GetPublicKey", Id=id_).code == "NoSuchPublicKey"
    assert house.key("a") != id_


def test_only_the_comment_of_a_public_key_changes(house: House) -> None:
    id_ = house.key("a", pem=rsa_pem().rstrip())
    before = house.call("GetPublicKey", Id=id_)
    config = before["PublicKey"]["PublicKeyConfig"]
    for member, value in [
        ("Name", "b"),
        ("CallerReference", "b"),
        ("EncodedKey", ec_pem()),
        ("EncodedKey", rsa_pem()),  # with a newline at its end, which it was created without
    ]:
        error = house.refused(
            "UpdatePublicKey", Id=id_, IfMatch=before["ETag"], PublicKeyConfig=config | {member: value}
        )
        assert (error.code, error.status) == ("CannotChangeImmutablePublicKeyFields", 400)
    changed = house.call(
        "UpdatePublicKey", Id=id_, IfMatch=before["ETag"], PublicKeyConfig=config | {"Comment": "new"}
    )
    assert changed["ETag"] != before["ETag"]
    assert changed["PublicKey"] == before["PublicKey"] | {"PublicKeyConfig": config | {"Comment": "new"}}
    assert house.call("GetPublicKey", Id=id_) == changed


def test_a_key_in_a_group_cannot_be_deleted(house: House) -> None:
    first, second = house.key("a"), house.key("b")
    group = house.group(first, second)
    error = house.refused("DeletePublicKey", Id=first, IfMatch=house.etag("PublicKey", first))
    assert (error.code, error.status) == ("PublicKeyInUse", 409)
    assert error.message == (
        "The Cloudfront public key is currently associated with either Key Group or a field level encryption "
        "profile."
    )
    house.call(
        "UpdateKeyGroup",
        Id=group,
        IfMatch=house.etag("KeyGroup", group),
        KeyGroupConfig={"Name": "group", "Items": [second]},
    )
    assert house.call("DeletePublicKey", Id=first, IfMatch=house.etag("PublicKey", first)) == {}


# ---- If-Match, for each kind that has one

VERSIONED = [
    ("UpdatePublicKey", "PublicKey"),
    ("DeletePublicKey", "PublicKey"),
    ("UpdateKeyGroup", "KeyGroup"),
    ("DeleteKeyGroup", "KeyGroup"),
    ("UpdateDistribution", "Distribution"),
    ("DeleteDistribution", "Distribution"),
]
MISSING = {"PublicKey": "NoSuchPublicKey", "KeyGroup": "NoSuchResource", "Distribution": "NoSuchDistribution"}


@pytest.mark.parametrize(("operation", "kind"), VERSIONED)
def test_if_match(house: House, operation: str, kind: str) -> None:
    key = house.key()
    id_ = {
        "PublicKey": lambda: key,
        "KeyGroup": lambda: house.group(key),
        "Distribution": lambda: str(house.distribution()["Id"]),
    }[kind]()
    params: dict[str, Any] = {}
    if operation.startswith("Update"):
        params[f"{kind}Config"] = house.call(f"Get{kind}Config", Id=id_)[f"{kind}Config"]

    missing = house.refused(operation, Id="ENOTHING000000", IfMatch="E1234567890ABC", **params)
    assert (missing.code, missing.status) == (MISSING[kind], 404)
    for version in (None, "", "*", f'"{house.etag(kind, id_)}"', "nonsense"):
        given = {} if version is None else {"IfMatch": version}
        error = house.refused(operation, Id=id_, **given, **params)
        assert (error.code, error.status) == ("InvalidIfMatchVersion", 400)
        assert error.message == "The If-Match version is missing or not valid for the resource."
    stale = house.refused(operation, Id=id_, IfMatch="E1234567890ABC", **params)
    assert (stale.code, stale.status) == ("PreconditionFailed", 412)
    assert stale.message == (
        "The request failed because it didn't meet the preconditions in one or more request-header fields."
    )
    assert house.call(f"Get{kind}", Id=id_)  # still there


# ---- key groups


def test_a_key_group_is_read_as_it_was_made(house: House) -> None:
    keys = [house.key(name) for name in "cab"]
    created = house.call("CreateKeyGroup", KeyGroupConfig={"Name": "g", "Items": keys, "Comment": "c"})
    group = created["KeyGroup"]
    assert len(group["Id"]) == 36
    assert created["Location"] == f"/2020-05-31/key-group/{group['Id']}"
    assert group["KeyGroupConfig"] == {"Name": "g", "Items": keys, "Comment": "c"}
    assert house.call("GetKeyGroup", Id=group["Id"]) == {"KeyGroup": group, "ETag": created["ETag"]}
    listed = house.call("ListKeyGroups")["KeyGroupList"]
    assert listed == {"MaxItems": 100, "Quantity": 1, "Items": [{"KeyGroup": group}]}


def test_what_a_key_group_may_not_hold(house: House) -> None:
    keys = [house.key(str(number)) for number in range(6)]
    cases: list[tuple[list[str], str]] = [
        ([], "InvalidArgument"),
        (["KNOTHING123456"], "InvalidArgument"),
        ([keys[0], "KNOTHING123456"], "InvalidArgument"),
        ([keys[0], keys[0]], "InvalidArgument"),
        ([""], "InvalidArgument"),
        (keys, "TooManyPublicKeysInKeyGroup"),
    ]
    for items, code in cases:
        error = house.refused("CreateKeyGroup", KeyGroupConfig={"Name": "g", "Items": items})
        assert (error.code, error.status) == (code, 400), items
    group = house.group(*keys[:5])
    for items, code in cases:
        error = house.refused(
            "UpdateKeyGroup",
            Id=group,
            IfMatch=house.etag("KeyGroup", group),
            KeyGroupConfig={"Name": "g", "Items": items},
        )
        assert error.code == code, items
    assert house.call("GetKeyGroupConfig", Id=group)["KeyGroupConfig"]["Items"] == keys[:5]


def test_a_key_groups_name_is_unique(house: House) -> None:
    key = house.key()
    house.group(key, name="a")
    other = house.group(key, name="b")
    error = house.refused("CreateKeyGroup", KeyGroupConfig={"Name": "a", "Items": [key]})
    assert (error.code, error.status) == ("KeyGroupAlreadyExists", 409)
    etag = house.etag("KeyGroup", other)
    for name, outcome in {"a": "KeyGroupAlreadyExists", "b": "", "c": ""}.items():
        params: dict[str, Any] = {
            "Id": other,
            "IfMatch": etag,
            "KeyGroupConfig": {"Name": name, "Items": [key]},
        }
        if outcome:
            assert house.refused("UpdateKeyGroup", **params).code == outcome
        else:
            etag = house.call("UpdateKeyGroup", **params)["ETag"]


def test_a_trusted_key_group_cannot_be_deleted(house: House) -> None:
    group = house.group(house.key())
    config = minimal()
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = trusting(group)
    created = house.call("CreateDistribution", DistributionConfig=config)
    error = house.refused("DeleteKeyGroup", Id=group, IfMatch=house.etag("KeyGroup", group))
    assert (error.code, error.status) == ("ResourceInUse", 409)
    id_ = created["Distribution"]["Id"]
    config, etag = house.config(id_)
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = trusting()
    house.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config)
    house.call("DeleteKeyGroup", Id=group, IfMatch=house.etag("KeyGroup", group))


def test_an_edit_of_a_key_group_changes_the_distributions_that_trust_it(house: House) -> None:
    first, second = house.key("a"), house.key("b")
    group = house.group(first)
    config = minimal("trusting")
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = trusting(group)
    trusts = house.call("CreateDistribution", DistributionConfig=config)
    other = house.distribution("other")
    house.report()
    etags = {id_: house.etag("Distribution", id_) for id_ in (trusts["Distribution"]["Id"], other["Id"])}
    number = house.number()

    house.call(
        "UpdateKeyGroup",
        Id=group,
        IfMatch=house.etag("KeyGroup", group),
        KeyGroupConfig={"Name": "group", "Items": [second]},
    )

    assert house.number() == number + 1
    changed = house.call("GetDistribution", Id=trusts["Distribution"]["Id"])
    assert changed["ETag"] != etags[changed["Distribution"]["Id"]]
    assert changed["Distribution"]["Status"] == "InProgress"
    assert changed["Distribution"]["ActiveTrustedKeyGroups"] == {
        "Enabled": True,
        "Quantity": 1,
        "Items": [{"KeyGroupId": group, "KeyPairIds": {"Quantity": 1, "Items": [second]}}],
    }
    assert house.etag("Distribution", other["Id"]) == etags[other["Id"]]
    assert house.call("GetDistribution", Id=other["Id"])["Distribution"]["Status"] == "Deployed"
    published = house.feed.published()
    assert published is not None
    assert [key.id for key in published.public_keys] == [second]
    house.report()
    assert (
        house.call("GetDistribution", Id=changed["Distribution"]["Id"])["Distribution"]["Status"]
        == "Deployed"
    )


def test_a_comment_alone_changes_no_distribution_and_publishes_nothing(house: House) -> None:
    key = house.key()
    group = house.group(key)
    config = minimal()
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = trusting(group)
    created = house.call("CreateDistribution", DistributionConfig=config)
    number = house.number()
    house.call(
        "UpdateKeyGroup",
        Id=group,
        IfMatch=house.etag("KeyGroup", group),
        KeyGroupConfig={"Name": "group", "Items": [key], "Comment": "why"},
    )
    assert house.number() == number
    assert house.etag("Distribution", created["Distribution"]["Id"]) == created["ETag"]


def test_quotas(tmp_path: Path) -> None:
    house = House(tmp_path, quotas=Quotas(public_keys=2, key_groups=1))
    key = house.key("a")
    house.key("b")
    error = house.refused("CreatePublicKey", PublicKeyConfig=key_config())
    assert (error.code, error.status) == ("TooManyPublicKeys", 400)
    assert error.message == (
        "Processing your request will cause you to exceed the maximum number of CloudFront public keys "
        "allowed."
    )
    house.group(key)
    error = house.refused("CreateKeyGroup", KeyGroupConfig={"Name": "h", "Items": [key]})
    assert (error.code, error.status) == ("TooManyKeyGroups", 400)
    house.close()


def test_a_pasted_private_key_is_not_even_in_the_audit_log_of_an_update(house: House) -> None:
    id_ = house.key()
    config = house.call("GetPublicKeyConfig", Id=id_)
    house.refused(
        "UpdatePublicKey",
        Id=id_,
        IfMatch=config["ETag"],
        PublicKeyConfig=config["PublicKeyConfig"]
        | {"EncodedKey": PRIVATE.decode(), "Comment": PRIVATE.decode()},
    )
    with house.store.read() as transaction:
        last = json.loads(transaction.audit()[-1].record)
    sent = last["requestParameters"]["publicKeyConfig"]
    assert sent["encodedKey"] == sent["comment"] == "HIDDEN_DUE_TO_SECURITY_REASONS"
