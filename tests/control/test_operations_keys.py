"""Public keys and key groups: what is accepted, what is refused and how, what an update changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from keyfront.model.kinds import Quotas
from tests.control.harness import BOTH, Harness, minimal, trusting
from tests.keys import ec_pem, rsa_key, rsa_pem
from tests.rows import rows

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
def test_a_public_key_is_returned_byte_for_byte(harness: Harness, pem: str) -> None:
    created = harness.call("CreatePublicKey", PublicKeyConfig=key_config(EncodedKey=pem))
    id_ = created["PublicKey"]["Id"]
    assert id_[0] == "K"
    assert len(id_) == 14
    assert created["Location"] == f"/2020-05-31/public-key/{id_}"
    expected = key_config(EncodedKey=pem, Comment="")
    assert created["PublicKey"]["PublicKeyConfig"] == expected
    assert harness.call("GetPublicKey", Id=id_) == {
        "PublicKey": created["PublicKey"],
        "ETag": created["ETag"],
    }
    assert harness.call("GetPublicKeyConfig", Id=id_) == {
        "PublicKeyConfig": expected,
        "ETag": created["ETag"],
    }
    summary = harness.call("ListPublicKeys")["PublicKeyList"]["Items"]
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


@rows("pem", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_other_keys_are_refused_and_never_repeated(harness: Harness, pem: str) -> None:
    error = harness.refused("CreatePublicKey", PublicKeyConfig=key_config(EncodedKey=pem))
    assert (error.code, error.status) == ("InvalidArgument", 400)
    assert "empty/invalid/out of limits RSA Encoded Key" in error.message
    assert harness.call("ListPublicKeys")["PublicKeyList"] == {"MaxItems": 100, "Quantity": 0}
    body = PRIVATE.decode().splitlines()[1]
    assert body not in error.message
    with harness.store.read() as transaction:
        assert not any(body.encode() in row.record for row in transaction.audit())


def test_the_message_helps() -> None:
    from keyfront.model import validate

    for name, words in {
        "RSA of 4096 bits": "4096",
        "PKCS#1": "RSA PUBLIC KEY",
        "a private key": "private",
    }.items():
        (problem,) = validate.public_key(key_config(EncodedKey=BAD_KEYS[name], Comment=""), Quotas())
        assert words in problem.message


@rows(
    "changes",
    [{"Name": ""}, {"Name": "n" * 129}, {"CallerReference": ""}, {"Comment": "c" * 129}, {"Name": "a\x00b"}],
)
def test_texts_of_the_wrong_length_are_refused(harness: Harness, changes: dict[str, str]) -> None:
    assert harness.refused("CreatePublicKey", PublicKeyConfig=key_config(**changes)).code == "InvalidArgument"


def test_name_and_caller_reference_are_unique(harness: Harness) -> None:
    harness.call("CreatePublicKey", PublicKeyConfig=key_config())
    for changes in ({}, {"Name": "other"}, {"CallerReference": "other"}):
        error = harness.refused("CreatePublicKey", PublicKeyConfig=key_config(**changes))
        assert (error.code, error.status) == ("PublicKeyAlreadyExists", 409)
    harness.call("CreatePublicKey", PublicKeyConfig=key_config(Name="other", CallerReference="other"))


def test_a_deleted_keys_name_is_free_again(harness: Harness) -> None:
    id_ = harness.key("a")
    harness.call("DeletePublicKey", Id=id_, IfMatch=harness.etag("PublicKey", id_))
    assert harness.refused("GetPublicKey", Id=id_).code == "NoSuchPublicKey"
    assert harness.key("a") != id_


def test_only_the_comment_of_a_public_key_changes(harness: Harness) -> None:
    id_ = harness.key("a", pem=rsa_pem().rstrip())
    before = harness.call("GetPublicKey", Id=id_)
    config = before["PublicKey"]["PublicKeyConfig"]
    for member, value in [
        ("Name", "b"),
        ("CallerReference", "b"),
        ("EncodedKey", ec_pem()),
        ("EncodedKey", rsa_pem()),  # with a trailing newline, which it was created without
    ]:
        error = harness.refused(
            "UpdatePublicKey", Id=id_, IfMatch=before["ETag"], PublicKeyConfig=config | {member: value}
        )
        assert (error.code, error.status) == ("CannotChangeImmutablePublicKeyFields", 400)
    changed = harness.call(
        "UpdatePublicKey", Id=id_, IfMatch=before["ETag"], PublicKeyConfig=config | {"Comment": "new"}
    )
    assert changed["ETag"] != before["ETag"]
    assert changed["PublicKey"] == before["PublicKey"] | {"PublicKeyConfig": config | {"Comment": "new"}}
    assert harness.call("GetPublicKey", Id=id_) == changed


def test_a_key_in_a_group_cannot_be_deleted(harness: Harness) -> None:
    first, second = harness.key("a"), harness.key("b")
    group = harness.group(first, second)
    error = harness.refused("DeletePublicKey", Id=first, IfMatch=harness.etag("PublicKey", first))
    assert (error.code, error.status) == ("PublicKeyInUse", 409)
    assert error.message == (
        "The Cloudfront public key is currently associated with either Key Group or a field level encryption "
        "profile."
    )
    harness.call(
        "UpdateKeyGroup",
        Id=group,
        IfMatch=harness.etag("KeyGroup", group),
        KeyGroupConfig={"Name": "group", "Items": [second]},
    )
    assert harness.call("DeletePublicKey", Id=first, IfMatch=harness.etag("PublicKey", first)) == {}


# ---- If-Match, for each kind that requires it

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
def test_if_match(harness: Harness, operation: str, kind: str) -> None:
    key = harness.key()
    id_ = {
        "PublicKey": lambda: key,
        "KeyGroup": lambda: harness.group(key),
        "Distribution": lambda: str(harness.distribution()["Id"]),
    }[kind]()
    params: dict[str, Any] = {}
    if operation.startswith("Update"):
        params[f"{kind}Config"] = harness.call(f"Get{kind}Config", Id=id_)[f"{kind}Config"]

    missing = harness.refused(operation, Id="ENOTHING000000", IfMatch="E1234567890ABC", **params)
    assert (missing.code, missing.status) == (MISSING[kind], 404)
    for version in (None, "", "*", f'"{harness.etag(kind, id_)}"', "nonsense"):
        given = {} if version is None else {"IfMatch": version}
        error = harness.refused(operation, Id=id_, **given, **params)
        assert (error.code, error.status) == ("InvalidIfMatchVersion", 400)
        assert error.message == "The If-Match version is missing or not valid for the resource."
    stale = harness.refused(operation, Id=id_, IfMatch="E1234567890ABC", **params)
    assert (stale.code, stale.status) == ("PreconditionFailed", 412)
    assert stale.message == (
        "The request failed because it didn't meet the preconditions in one or more request-header fields."
    )
    assert harness.call(f"Get{kind}", Id=id_)  # still there


# ---- key groups


def test_a_key_group_is_read_as_it_was_made(harness: Harness) -> None:
    keys = [harness.key(name) for name in "cab"]
    created = harness.call("CreateKeyGroup", KeyGroupConfig={"Name": "g", "Items": keys, "Comment": "c"})
    group = created["KeyGroup"]
    assert len(group["Id"]) == 36
    assert created["Location"] == f"/2020-05-31/key-group/{group['Id']}"
    assert group["KeyGroupConfig"] == {"Name": "g", "Items": keys, "Comment": "c"}
    assert harness.call("GetKeyGroup", Id=group["Id"]) == {"KeyGroup": group, "ETag": created["ETag"]}
    listed = harness.call("ListKeyGroups")["KeyGroupList"]
    assert listed == {"MaxItems": 100, "Quantity": 1, "Items": [{"KeyGroup": group}]}


def test_what_a_key_group_may_not_hold(harness: Harness) -> None:
    keys = [harness.key(str(number)) for number in range(6)]
    cases: list[tuple[list[str], str]] = [
        ([], "InvalidArgument"),
        (["KNOTHING123456"], "InvalidArgument"),
        ([keys[0], "KNOTHING123456"], "InvalidArgument"),
        ([keys[0], keys[0]], "InvalidArgument"),
        ([""], "InvalidArgument"),
        (keys, "TooManyPublicKeysInKeyGroup"),
    ]
    for items, code in cases:
        error = harness.refused("CreateKeyGroup", KeyGroupConfig={"Name": "g", "Items": items})
        assert (error.code, error.status) == (code, 400), items
    group = harness.group(*keys[:5])
    for items, code in cases:
        error = harness.refused(
            "UpdateKeyGroup",
            Id=group,
            IfMatch=harness.etag("KeyGroup", group),
            KeyGroupConfig={"Name": "g", "Items": items},
        )
        assert error.code == code, items
    assert harness.call("GetKeyGroupConfig", Id=group)["KeyGroupConfig"]["Items"] == keys[:5]


def test_a_key_groups_name_is_unique(harness: Harness) -> None:
    key = harness.key()
    harness.group(key, name="a")
    other = harness.group(key, name="b")
    error = harness.refused("CreateKeyGroup", KeyGroupConfig={"Name": "a", "Items": [key]})
    assert (error.code, error.status) == ("KeyGroupAlreadyExists", 409)
    etag = harness.etag("KeyGroup", other)
    for name, outcome in {"a": "KeyGroupAlreadyExists", "b": "", "c": ""}.items():
        params: dict[str, Any] = {
            "Id": other,
            "IfMatch": etag,
            "KeyGroupConfig": {"Name": name, "Items": [key]},
        }
        if outcome:
            assert harness.refused("UpdateKeyGroup", **params).code == outcome
        else:
            etag = harness.call("UpdateKeyGroup", **params)["ETag"]


def test_a_trusted_key_group_cannot_be_deleted(harness: Harness) -> None:
    group = harness.group(harness.key())
    config = minimal()
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = trusting(group)
    created = harness.call("CreateDistribution", DistributionConfig=config)
    error = harness.refused("DeleteKeyGroup", Id=group, IfMatch=harness.etag("KeyGroup", group))
    assert (error.code, error.status) == ("ResourceInUse", 409)
    id_ = created["Distribution"]["Id"]
    config, etag = harness.config(id_)
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = trusting()
    harness.call("UpdateDistribution", Id=id_, IfMatch=etag, DistributionConfig=config)
    harness.call("DeleteKeyGroup", Id=group, IfMatch=harness.etag("KeyGroup", group))


def test_an_edit_of_a_key_group_changes_the_distributions_that_trust_it(harness: Harness) -> None:
    first, second = harness.key("a"), harness.key("b")
    group = harness.group(first)
    config = minimal("trusting")
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = trusting(group)
    trusts = harness.call("CreateDistribution", DistributionConfig=config)
    other = harness.distribution("other")
    harness.report()
    etags = {id_: harness.etag("Distribution", id_) for id_ in (trusts["Distribution"]["Id"], other["Id"])}
    number = harness.number()

    harness.call(
        "UpdateKeyGroup",
        Id=group,
        IfMatch=harness.etag("KeyGroup", group),
        KeyGroupConfig={"Name": "group", "Items": [second]},
    )

    assert harness.number() == number + 1
    changed = harness.call("GetDistribution", Id=trusts["Distribution"]["Id"])
    assert changed["ETag"] != etags[changed["Distribution"]["Id"]]
    assert changed["Distribution"]["Status"] == "InProgress"
    assert changed["Distribution"]["ActiveTrustedKeyGroups"] == {
        "Enabled": True,
        "Quantity": 1,
        "Items": [{"KeyGroupId": group, "KeyPairIds": {"Quantity": 1, "Items": [second]}}],
    }
    assert harness.etag("Distribution", other["Id"]) == etags[other["Id"]]
    assert harness.call("GetDistribution", Id=other["Id"])["Distribution"]["Status"] == "Deployed"
    published = harness.feed.published()
    assert published is not None
    assert [key.id for key in published.public_keys] == [second]
    harness.report()
    assert (
        harness.call("GetDistribution", Id=changed["Distribution"]["Id"])["Distribution"]["Status"]
        == "Deployed"
    )


def test_a_comment_alone_changes_no_distribution_and_publishes_nothing(harness: Harness) -> None:
    key = harness.key()
    group = harness.group(key)
    config = minimal()
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = trusting(group)
    created = harness.call("CreateDistribution", DistributionConfig=config)
    number = harness.number()
    harness.call(
        "UpdateKeyGroup",
        Id=group,
        IfMatch=harness.etag("KeyGroup", group),
        KeyGroupConfig={"Name": "group", "Items": [key], "Comment": "why"},
    )
    assert harness.number() == number
    assert harness.etag("Distribution", created["Distribution"]["Id"]) == created["ETag"]


def test_quotas(tmp_path: Path) -> None:
    harness = Harness(tmp_path, quotas=Quotas(public_keys=2, key_groups=1))
    key = harness.key("a")
    harness.key("b")
    error = harness.refused("CreatePublicKey", PublicKeyConfig=key_config())
    assert (error.code, error.status) == ("TooManyPublicKeys", 400)
    assert error.message == (
        "Processing your request will cause you to exceed the maximum number of CloudFront public keys "
        "allowed."
    )
    harness.group(key)
    error = harness.refused("CreateKeyGroup", KeyGroupConfig={"Name": "h", "Items": [key]})
    assert (error.code, error.status) == ("TooManyKeyGroups", 400)
    harness.close()


def test_a_pasted_private_key_is_not_even_in_the_audit_log_of_an_update(harness: Harness) -> None:
    id_ = harness.key()
    config = harness.call("GetPublicKeyConfig", Id=id_)
    harness.refused(
        "UpdatePublicKey",
        Id=id_,
        IfMatch=config["ETag"],
        PublicKeyConfig=config["PublicKeyConfig"]
        | {"EncodedKey": PRIVATE.decode(), "Comment": PRIVATE.decode()},
    )
    with harness.store.read() as transaction:
        last = json.loads(transaction.audit()[-1].record)
    sent = last["requestParameters"]["publicKeyConfig"]
    assert sent["encodedKey"] == sent["comment"] == "HIDDEN_DUE_TO_SECURITY_REASONS"
