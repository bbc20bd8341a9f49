"""Behavior specific to AWS: its errors, its limits, and how a record is changed without conditional writes.

The contract is tested in test_contract.py. moto replaces AWS (tests/moto.py says where the two differ).
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from keyfront.custody import Custody, Record, open_key, open_place, open_records
from keyfront.custody.adapters.aws.kms import KmsCustody, KmsHandle
from keyfront.custody.adapters.aws.parameter_store import Write, counting
from keyfront.errors import (
    CustodyError,
    CustodyUnavailable,
    KeyExists,
    NoSuchKey,
    NotExportable,
    RecordChanged,
    SigningError,
)
from tests.custody.harness import made_elsewhere, sign_in_two_processes
from tests.moto import ACCESS, REGION, Moto
from tests.rows import rows

DAY = 86400.0
SCHEMES = ("awskms", "awssm", "awsssm")
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore retries without waiting."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None, time=time.time))


@pytest.fixture
def aws(moto: Moto) -> Iterator[Moto]:
    yield moto
    moto.well()


def somewhere(scheme: str, aws: Moto, more: str = "") -> str:
    return f"{scheme}:t{next(_numbers)}/?{aws.options}{more}"


def placed(scheme: str, aws: Moto, more: str = "") -> Custody:
    return open_place(somewhere(scheme, aws, more), aws.environment)


def client(service: str, aws: Moto) -> Any:
    return boto3.client(
        service,
        endpoint_url=aws.url,
        region_name=REGION,
        aws_access_key_id=ACCESS[0],
        aws_secret_access_key=ACCESS[1],
    )


def inner(place: Custody) -> str:
    """The place without scheme and options, as AWS sees it."""
    return place.uri.partition(":")[2].partition("/?")[0]


# ---- when AWS does not answer, or refuses


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("ThrottlingException", 400, CustodyUnavailable),
        ("TooManyRequestsException", 400, CustodyUnavailable),
        ("KMSInternalException", 500, CustodyUnavailable),
        ("Whatever", 503, CustodyUnavailable),
        ("AccessDeniedException", 400, CustodyError),
        ("ExpiredTokenException", 400, CustodyError),
        ("UnrecognizedClientException", 400, CustodyError),
    ],
)
def test_what_its_errors_mean(aws: Moto, code: str, status: int, expected: type[CustodyError]) -> None:
    place = placed("awskms", aws)
    place.create("one", "ECDSA-P256", now=time.time())
    handle = place.handle("one")
    aws.fault("Sign", code, status=status, message=f"it is {code}", times=9)
    with pytest.raises(CustodyError, match=rf"AWS KMS in {REGION}: Sign: {code}") as raised:
        handle.sign(b"data", "SHA256")
    assert isinstance(raised.value, CustodyUnavailable) is (expected is CustodyUnavailable)
    assert not isinstance(raised.value, NoSuchKey)
    aws.well()
    assert handle.public_key.verify(b"data", handle.sign(b"data", "SHA256"), "SHA256")


def test_throttling_that_passes_is_not_seen(aws: Moto) -> None:
    place = placed("awskms", aws)
    place.create("one", "ECDSA-P256", now=time.time())
    handle, before = place.handle("one"), aws.calls_of("Sign")
    aws.fault("Sign", "ThrottlingException", times=3)
    assert handle.public_key.verify(b"data", handle.sign(b"data", "SHA256"), "SHA256")
    assert aws.calls_of("Sign") == before + 4


@pytest.mark.parametrize("scheme", SCHEMES)
def test_where_nobody_listens(scheme: str, aws: Moto) -> None:
    place = open_place(f"{scheme}:keyfront/?region={REGION}&endpoint=http://127.0.0.1:1", aws.environment)
    for ask in (lambda: place.describe("one"), lambda: list(place.list()), lambda: place.handle("one")):
        with pytest.raises(CustodyUnavailable, match="cannot be reached"):
            ask()
    with pytest.raises(CustodyUnavailable):
        place.create("one", "ECDSA-P256", now=time.time())


@pytest.mark.parametrize(("scheme", "operation"), [("awssm", "DescribeSecret"), ("awsssm", "GetParameter")])
def test_a_key_that_was_loaded_signs_on_while_its_place_is_away(
    scheme: str, operation: str, aws: Moto
) -> None:
    place = placed(scheme, aws, "&check-every=0")
    held = place.create("one", "ECDSA-P256", now=time.time())
    handle = place.handle("one")
    aws.fault(operation, "InternalServiceError", status=500, times=99)
    assert held.public_key.verify(b"data", handle.sign(b"data", "SHA1"), "SHA1")
    with pytest.raises(CustodyUnavailable):
        place.handle("one")
    aws.well()
    place.delete("one", grace=7 * DAY, now=time.time())
    with pytest.raises(NoSuchKey):
        handle.sign(b"data", "SHA1")


@pytest.mark.parametrize(("scheme", "operation"), [("awssm", "DescribeSecret"), ("awsssm", "GetParameter")])
def test_its_place_is_not_asked_at_every_signature(scheme: str, operation: str, aws: Moto) -> None:
    place = placed(scheme, aws)
    place.create("one", "ECDSA-P256", now=time.time())
    handle, before = place.handle("one"), aws.calls_of(operation)
    for _ in range(20):
        handle.sign(b"data", "SHA256")
    assert aws.calls_of(operation) == before


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_region_is_another_place(scheme: str, aws: Moto) -> None:
    held = placed(scheme, aws).create("one", "ECDSA-P256", now=time.time())
    with pytest.raises(NoSuchKey, match="one"):
        open_key(held.uri.replace(REGION, "us-west-2"), aws.environment)
    assert open_key(held.uri, aws.environment).public_key == held.public_key


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("awskms:keyfront/?regoin=x", "no option 'regoin'"),
        ("awskms:keyfront/?kms-key=x", "no option 'kms-key'"),
        ("awssm:a//b/", "not a place"),
        ("awsssm:_records/", "not a place"),
        ("awssm:keyfront/?profile=nobody-has-this&region=eu-west-1", "nobody-has-this"),
        ("awssm:keyfront/?check-every=soon", "check-every"),
        ("awssm:keyfront/?region=not a region", "region"),
    ],
)
def test_what_makes_no_sense(uri: str, message: str, aws: Moto) -> None:
    with pytest.raises(CustodyError, match=message):
        open_place(uri, aws.environment)


def test_a_region_must_be_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(CustodyError, match="which region"):
        open_place("awskms:keyfront/", {})


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, aws: Moto) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    place = open_place(f"awskms:keyfront/?region=eu-west-3&endpoint={aws.url}", {})
    with pytest.raises(CustodyError, match="no credentials"):
        place.describe("one")


@pytest.mark.parametrize(
    ("scheme", "operation"),
    [("awssm", "CreateSecret"), ("awsssm", "PutParameter"), ("awskms", "ImportKeyMaterial")],
)
def test_a_service_that_quotes_what_it_refuses_is_not_quoted(scheme: str, operation: str, aws: Moto) -> None:
    key = made_elsewhere("ECDSA-P256")
    aws.fault(operation, "ValidationException", message=f"Value '{key.to_pem()}' at 'value' failed")
    with pytest.raises(CustodyError, match="ValidationException") as raised:
        placed(scheme, aws).import_key("one", key, now=time.time())
    text = f"{raised.value!r} {raised.value.__cause__!r}"
    assert "BEGIN" not in text
    assert all(line not in text for line in key.to_pem().splitlines()[1:-1])


def test_a_process_that_is_forked_off_has_connections_of_its_own(aws: Moto) -> None:
    place = placed("awskms", aws)
    place.create("one", "ECDSA-P256", now=time.time())
    sign_in_two_processes(place.handle("one"))


# ---- KMS


def test_kms_signs_no_sha1_and_says_what_to_do(aws: Moto) -> None:
    place = placed("awskms", aws)
    held = place.create("one", "RSA-2048", now=time.time())
    assert held.hash_names == ("SHA256",)
    with pytest.raises(SigningError, match="sign with SHA256"):
        place.handle("one").sign(b"data", "SHA1")


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 20_000])
def test_kms_signs_what_is_too_long_for_it_by_its_hash(size: int, aws: Moto) -> None:
    place = placed("awskms", aws)
    held = place.create("one", "ECDSA-P256", now=time.time())
    data = b"x" * size
    assert held.public_key.verify(data, place.handle("one").sign(data, "SHA256"), "SHA256")


def test_a_handle_stays_with_its_key_when_the_alias_moves(aws: Moto) -> None:
    place, kms = placed("awskms", aws), client("kms", aws)
    one, two = (place.create(name, "ECDSA-P256", now=time.time()) for name in ("one", "two"))
    handle = place.handle("one")
    other = kms.describe_key(KeyId=f"alias/{inner(place)}/two")["KeyMetadata"]["KeyId"]
    kms.update_alias(AliasName=f"alias/{inner(place)}/one", TargetKeyId=other)
    assert one.public_key.verify(b"data", handle.sign(b"data", "SHA256"), "SHA256")
    assert place.handle("one").public_key == two.public_key


def test_a_signature_that_does_not_verify_is_not_given_out(aws: Moto) -> None:
    place = placed("awskms", aws)
    assert isinstance(place, KmsCustody)
    one, two = (place.create(name, "ECDSA-P256", now=time.time()) for name in ("one", "two"))
    arn = client("kms", aws).describe_key(KeyId=f"alias/{inner(place)}/one")["KeyMetadata"]["Arn"]
    wrong = KmsHandle(one.uri, arn, two.public_key, place._kms)
    with pytest.raises(CustodyError, match="does not verify"):
        wrong.sign(b"data", "SHA256")


def test_kms_alone_says_which_public_key_it_is(aws: Moto) -> None:
    """The copy in the description counts only while KMS shows no public key."""
    place, kms = placed("awskms", aws), client("kms", aws)
    held = place.create("one", "ECDSA-P256", now=time.time())
    key_id = kms.describe_key(KeyId=f"alias/{inner(place)}/one")["KeyMetadata"]["KeyId"]
    kms.update_key_description(KeyId=key_id, Description=made_elsewhere("ECDSA-P256").public_key.pem)
    assert place.describe("one").public_key == held.public_key
    kms.update_key_description(KeyId=key_id, Description="mine")
    kms.disable_key(KeyId=key_id)
    for ask in (place.describe, place.handle):
        with pytest.raises(CustodyError, match="Disabled"):
            ask("one")
    assert list(place.list()) == [], "nobody can tell which key it is"
    kms.enable_key(KeyId=key_id)
    assert place.describe("one") == held


def test_kms_deletes_in_whole_days_of_7_to_30(aws: Moto) -> None:
    place, now = placed("awskms", aws), time.time()
    place.create("one", "ECDSA-P256", now=now)
    with pytest.raises(CustodyError, match="30 days at most"):
        place.delete("one", grace=30 * DAY + 1, now=now)
    assert place.describe("one").delete_at is None
    for grace, days in ((8.5 * DAY, 9), (DAY, 7), (20 * DAY, 7)):
        at = place.delete("one", grace=grace, now=now).delete_at
        assert at is not None
        assert now + days * DAY <= at + 1 < now + days * DAY + 121
    assert place.undelete("one").delete_at is None


def test_kms_has_not_told_all_its_parts_yet(aws: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyfront.custody.adapters.aws.kms._PAUSES", (0.0, 0.0))
    place = placed("awskms", aws)
    for operation in ("GetPublicKey", "UpdateKeyDescription", "CreateAlias", "GetParametersForImport"):
        aws.fault(operation, "NotFoundException", times=2)
    held = place.create("one", "ECDSA-P256", now=time.time())
    place.import_key("two", made_elsewhere("ECDSA-P256"), now=time.time())
    place.delete("one", grace=20 * DAY, now=time.time())
    for operation in ("EnableKey", "ScheduleKeyDeletion"):
        aws.fault(operation, "KMSInvalidStateException", times=2)
    assert place.delete("one", grace=10 * DAY, now=time.time()).delete_at is not None
    assert place.undelete("one") == held
    aws.fault("CreateAlias", "NotFoundException", times=9)
    with pytest.raises(CustodyError, match="NotFoundException"):
        place.create("three", "ECDSA-P256", now=time.time())


def test_whoever_loses_the_race_for_an_alias_leaves_no_key(aws: Moto) -> None:
    uri = somewhere("awskms", aws)
    start = threading.Barrier(3)
    aws.fault("DescribeKey", "NotFoundException", times=3)  # the other calls do not see it

    def race(_: int) -> bool:
        place = open_place(uri, aws.environment)
        start.wait(20)
        try:
            place.create("one", "ECDSA-P256", now=time.time())
        except KeyExists:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(race, range(3))) == [False, False, True]
    states = []
    for key in client("kms", aws).list_keys()["Keys"]:
        metadata = client("kms", aws).describe_key(KeyId=key["KeyId"])["KeyMetadata"]
        if f"{uri.partition(':')[2].partition('/?')[0]}/one" in metadata["Description"]:
            states.append(metadata["KeyState"])
    assert sorted(states) == ["Enabled", "PendingDeletion", "PendingDeletion"]


@pytest.mark.parametrize("how", ["create", "import"])
@pytest.mark.parametrize("lost", [1, 4])
def test_a_key_whose_name_was_given_and_the_answer_lost_stays(how: str, lost: int, aws: Moto) -> None:
    """botocore resends CreateAlias and learns that the alias exists, or gives up."""
    place = placed("awskms", aws)
    aws.fault("CreateAlias", "InternalFailure", status=500, done=True, times=lost)
    if how == "create":
        held = place.create("one", "ECDSA-P256", now=time.time())
    else:
        held = place.import_key("one", made_elsewhere("ECDSA-P256"), now=time.time())
    assert held.delete_at is None
    assert place.describe("one") == held
    assert held.public_key.verify(b"data", place.handle("one").sign(b"data", "SHA256"), "SHA256")


def test_nothing_is_thrown_away_while_nobody_can_tell_whether_it_has_its_name(
    aws: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyfront.custody.adapters.aws.kms._PAUSES", (0.0, 0.0))
    place = placed("awskms", aws)
    aws.fault("DescribeKey", "NotFoundException")  # the name is not in use
    aws.fault("CreateAlias", "InternalFailure", status=500, done=True)
    aws.fault("DescribeKey", "NotFoundException", times=3)  # the change has not reached all parts of KMS yet
    before = aws.calls_of("ScheduleKeyDeletion")
    with pytest.raises(CustodyUnavailable, match="does not tell yet whose"):
        place.create("one", "ECDSA-P256", now=time.time())
    assert aws.calls_of("ScheduleKeyDeletion") == before
    assert place.describe("one").delete_at is None


def test_kms_wraps_a_secret_for_one_purpose(aws: Moto) -> None:
    uri = somewhere("awskms", aws)
    place, kms = open_place(uri, aws.environment), client("kms", aws)
    assert isinstance(place, KmsCustody)
    for name in ("kek", "other"):
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName=f"alias/{inner(place)}/{name}", TargetKeyId=key_id)
    wrapped = place.wrap("kek", b"a secret of 32 bytes for a folder", "file:/srv/keys/")
    assert b"secret" not in wrapped
    assert place.unwrap("kek", wrapped, "file:/srv/keys/") == b"a secret of 32 bytes for a folder"
    for name, what, bound in (
        ("kek", wrapped, "file:/srv/other/"),
        ("other", wrapped, "file:/srv/keys/"),
        ("kek", wrapped[:-1] + bytes([wrapped[-1] ^ 1]), "file:/srv/keys/"),
    ):
        with pytest.raises(CustodyError):
            place.unwrap(name, what, bound)
    with pytest.raises(NoSuchKey):
        place.wrap("none", b"x", "y")
    with pytest.raises(NoSuchKey):
        place.unwrap("none", wrapped, "y")
    assert list(place.list()) == [], "a key to encrypt with is no key to sign with"
    with pytest.raises(NoSuchKey):
        place.handle("kek")
    with pytest.raises(NotExportable):
        place.export("kek")


# ---- Secrets Manager


def test_secrets_of_others_are_let_alone(aws: Moto) -> None:
    place, secrets = placed("awssm", aws), client("secretsmanager", aws)
    secrets.create_secret(Name=f"{inner(place)}/password", SecretString="theirs")
    secrets.create_secret(Name=f"{inner(place)}/deeper/one", SecretString="theirs")
    held = place.create("one", "ECDSA-P256", now=time.time(), labels={"application": "gallery"})
    secrets.tag_resource(SecretId=f"{inner(place)}/one", Tags=[{"Key": "CostCentre", "Value": "7"}])
    assert [(one.name, dict(one.labels)) for one in place.list()] == [
        ("one", {"application": "gallery", "CostCentre": "7"})
    ]
    for ask in (place.describe, place.handle, place.export, place.undelete):
        with pytest.raises(NoSuchKey):
            ask("password")
    with pytest.raises(NoSuchKey):
        place.delete("password", grace=0, now=time.time())
    with pytest.raises(KeyExists):
        place.create("password", "ECDSA-P256", now=time.time())
    assert secrets.get_secret_value(SecretId=f"{inner(place)}/password")["SecretString"] == "theirs"
    assert secrets.get_secret_value(SecretId=f"{inner(place)}/one")["SecretString"].startswith("-----BEGIN")
    assert held.public_key == place.export("one").public_key


@pytest.mark.parametrize("text", ["/etc/hostname", "-----BEGIN PRIVATE KEY-----\nnothing", "{}"])
def test_a_secret_that_is_no_key_is_not_shown(text: str, aws: Moto) -> None:
    place, secrets = placed("awssm", aws), client("secretsmanager", aws)
    place.create("one", "ECDSA-P256", now=time.time())
    secrets.put_secret_value(SecretId=f"{inner(place)}/one", SecretString=text)
    for ask in (place.handle, place.export):
        with pytest.raises(CustodyError, match=r"no private key in PEM|cannot be read") as raised:
            ask("one")
        assert text not in f"{raised.value!r} {raised.value.__cause__!r}"


def test_a_secret_that_holds_another_key_than_it_says_does_not_sign(aws: Moto) -> None:
    place, secrets = placed("awssm", aws), client("secretsmanager", aws)
    place.create("one", "ECDSA-P256", now=time.time())
    secrets.put_secret_value(
        SecretId=f"{inner(place)}/one", SecretString=made_elsewhere("ECDSA-P256").to_pem()
    )
    with pytest.raises(CustodyError, match="another key"):
        place.handle("one")


def test_secrets_manager_deletes_at_once_or_in_7_to_30_days(aws: Moto) -> None:
    place, now = placed("awssm", aws), time.time()
    place.create("one", "ECDSA-P256", now=now)
    with pytest.raises(CustodyError, match="30 days at most"):
        place.delete("one", grace=31 * DAY, now=now)
    at = place.delete("one", grace=DAY, now=now).delete_at
    assert at is not None
    assert abs(at - now - 7 * DAY) < 120
    with pytest.raises(NoSuchKey):
        place.export("one")
    place.delete("one", grace=0, now=now)
    assert list(place.list()) == []


@pytest.mark.parametrize("operation", ["PutSecretValue", "UpdateSecretVersionStage", "CreateSecret"])
def test_a_secret_is_written_once_when_an_answer_is_lost(operation: str, aws: Moto) -> None:
    records = open_records(somewhere("awssm", aws), aws.environment)
    first = records.write("one", b"1", None)
    aws.fault(operation, "InternalServiceError", status=500, done=True)
    if operation == "CreateSecret":
        other = records.write("two", b"1", None)
        assert records.read("two") == other
        return
    second = records.write("one", b"2", first.version)
    assert records.read("one") == second
    assert records.write("one", b"3", second.version).data == b"3"


def test_a_record_that_somebody_deletes_in_the_console_is_not_made_anew(aws: Moto) -> None:
    uri = somewhere("awssm", aws)
    records, secrets = open_records(uri, aws.environment), client("secretsmanager", aws)
    first = records.write("one", b"1", None)
    secret_id = f"{uri.partition(':')[2].partition('/?')[0]}/_records/one"
    secrets.delete_secret(SecretId=secret_id, RecoveryWindowInDays=7)
    with pytest.raises(CustodyError, match="restore it"):
        records.read("one")
    with pytest.raises(CustodyError, match="restore it"):
        records.write("one", b"2", None)
    secrets.restore_secret(SecretId=secret_id)
    assert records.read("one") == first


# ---- Systems Manager: a record's value is that of its last valid write

A, B = "a" * 16, "b" * 16


@rows(
    ("writes", "count"),
    [
        ("1a", "1"),
        ("1a 2b<1a 3c<2b", "123"),
        ("1a 2b<1a 3c<1a", "12"),  # the third came too late
        ("1a 2b<1a 3c<1a 4d<2b", "124"),  # and the fourth knows that
        ("1a 2b<1a 3c<1a 4d<1a 5e<2b", "125"),
        ("4d<2b 5e<4d 6f<4d", "5"),  # history before 4 is lost: whether 4 is valid cannot be determined
        ("4d<3c 5e<4d 6f<4d", "45"),
        ("4d<2b 5e<2b", ""),
        ("1! 2b<1a 3c<1a", ""),  # the first was written by another program
        ("1a<7b", ""),  # the parameter was deleted, and an unaware writer continued
        ("1a 2b<1c", "1"),  # it was deleted and recreated, and an unaware writer continued
        ("1a 2b<1c 3d<1a", "13"),
        ("1a 2b<7c 3d<1a", "13"),
    ],
)
def test_which_writes_count(writes: str, count: str) -> None:
    def version(text: str) -> str:
        return f"{text[0]}.{text[1]}" if text else ""

    found = []
    for text in writes.split():
        own, _, after = text.partition("<")
        found.append(Write(int(own[0]), version(after), own[1].replace("!", ""), "", 0.0))
    assert "".join(str(write.number) for write in counting(found)) == count


def the_parameter(records: Any, name: str) -> str:
    return f"{records._prefix}{name}"


def test_who_comes_too_late_has_written_nothing(aws: Moto) -> None:
    records, ssm = open_records(somewhere("awsssm", aws), aws.environment), client("ssm", aws)
    first = records.write("one", b"1", None)
    second = records.write("one", b"2", first.version)
    # another writer had seen the first, and sends after the second was written
    ssm.put_parameter(
        Name=the_parameter(records, "one"),
        Value=f"keyfront-1 {first.version} {A}\nlate",
        Type="SecureString",
        Overwrite=True,
    )
    assert records.read("one") == second
    assert records.names() == ["one"]
    with pytest.raises(RecordChanged):
        records.write("one", b"x", f"3.{A}")
    third = records.write("one", b"3", second.version)
    assert third.version.startswith("4.")
    assert records.read("one") == third


def test_a_parameter_is_written_once_when_an_answer_is_lost(aws: Moto) -> None:
    records = open_records(somewhere("awsssm", aws), aws.environment)
    aws.fault("PutParameter", "InternalServerError", status=500, done=True)
    first = records.write("one", b"1", None)
    assert records.read("one") == first
    aws.fault("PutParameter", "InternalServerError", status=500, done=True, times=2)
    second = records.write("one", b"2", first.version)
    assert second.version.startswith("2.")
    assert records.read("one") == second
    third = records.write("one", b"3", second.version)
    assert records.read("one") == third


def test_a_record_that_changes_often_forgets_its_oldest_writes(aws: Moto) -> None:
    records, ssm = open_records(somewhere("awsssm", aws), aws.environment), client("ssm", aws)
    name = the_parameter(records, "one")
    last = records.write("one", b"0", None)
    before = last.version
    for number in range(2, 104):  # as records.write does, with one call each
        value = f"keyfront-1 {before} {A}\n{number}"
        ssm.put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)
        before = f"{number}.{A}"
    late = f"keyfront-1 50.{A} {B}\nlate"
    ssm.put_parameter(Name=name, Value=late, Type="SecureString", Overwrite=True)
    seen = records.read("one")
    assert seen == Record("one", b"103", f"103.{A}")
    with pytest.raises(RecordChanged):
        records.write("one", b"x", last.version)
    next_one = records.write("one", b"y", seen.version)
    assert records.read("one") == next_one


def test_parameters_of_others_are_let_alone(aws: Moto) -> None:
    place, ssm = placed("awsssm", aws), client("ssm", aws)
    ssm.put_parameter(Name=f"/{inner(place)}/password", Value="theirs", Type="String")
    place.create("one", "ECDSA-P256", now=time.time())
    assert [held.name for held in place.list()] == ["one"]
    for ask in (place.describe, place.handle, place.export, place.undelete):
        with pytest.raises(CustodyError, match="not written by Keyfront"):
            ask("password")
    with pytest.raises(CustodyError):
        place.create("password", "ECDSA-P256", now=time.time())
    with pytest.raises(CustodyError):
        place.delete("password", grace=0, now=time.time())
    assert ssm.get_parameter(Name=f"/{inner(place)}/password")["Parameter"]["Value"] == "theirs"


def test_nothing_is_left_of_a_key_that_is_deleted(aws: Moto) -> None:
    place, ssm = placed("awsssm", aws), client("ssm", aws)
    place.create("one", "ECDSA-P256", now=time.time())
    place.delete("one", grace=DAY, now=time.time())
    place.delete("one", grace=0, now=time.time())
    with pytest.raises(ssm.exceptions.ParameterNotFound):
        ssm.get_parameter_history(Name=f"/{inner(place)}/one")


def test_a_key_whose_time_is_over_goes_when_somebody_looks(aws: Moto) -> None:
    place, ssm = placed("awsssm", aws), client("ssm", aws)
    for name in ("one", "two", "three"):
        place.create(name, "ECDSA-P256", now=time.time())
    for name in ("one", "two"):
        place.delete(name, grace=DAY, now=time.time() - 2 * DAY)
    with pytest.raises(NoSuchKey):
        place.undelete("one")
    assert [held.name for held in place.list()] == ["three"]
    for name in ("one", "two"):
        with pytest.raises(ssm.exceptions.ParameterNotFound):
            ssm.get_parameter_history(Name=f"/{inner(place)}/{name}")
    place.create("two", "ECDSA-P256", now=time.time())


def test_who_writes_on_after_the_parameter_is_gone_does_not_bring_it_back(aws: Moto) -> None:
    uri = somewhere("awsssm", aws)
    place, ssm = open_place(uri, aws.environment), client("ssm", aws)
    place.create("one", "ECDSA-P256", now=time.time())
    texts = place._texts  # type: ignore[attr-defined]
    seen = texts._last("one")
    place.delete("one", grace=0, now=time.time())
    texts._last = lambda name: seen  # it reads, and then other writers are faster
    with pytest.raises(RecordChanged):
        texts.write("one", b"late", seen.version)
    with pytest.raises(ssm.exceptions.ParameterNotFound):
        ssm.get_parameter(Name=f"/{inner(place)}/one")


@pytest.mark.parametrize("changes", [0, 2])
def test_who_writes_on_after_another_key_has_the_name_does_it_no_harm(changes: int, aws: Moto) -> None:
    place = placed("awsssm", aws)
    place.create("one", "ECDSA-P256", now=time.time())
    for _ in range(changes):
        place.delete("one", grace=DAY, now=time.time())
        place.undelete("one")
    texts = place._texts  # type: ignore[attr-defined]
    seen = texts._last("one")
    place.delete("one", grace=0, now=time.time())
    held = place.create("one", "ECDSA-P256", now=time.time())
    last = texts._last
    texts._last = lambda name: seen  # it reads, and then other writers are faster
    with pytest.raises(RecordChanged):
        texts.write("one", b"late", seen.version)
    with pytest.raises(RecordChanged):
        texts.remove("one", seen.version)
    texts._last = last
    assert place.describe("one") == held
    assert list(place.list()) == [held]


def test_what_such_a_writer_leaves_behind_is_swept(aws: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    place, ssm = placed("awsssm", aws), client("ssm", aws)
    late = f"keyfront-1 7.{A} {B}\nlate"
    ssm.put_parameter(Name=f"/{inner(place)}/one", Value=late, Type="SecureString")
    with pytest.raises(NoSuchKey):
        place.describe("one")
    with pytest.raises(KeyExists):  # the other writer may be about to delete it
        place.create("one", "ECDSA-P256", now=time.time())
    assert list(place.list()) == []
    monkeypatch.setattr("keyfront.custody.adapters.aws.parameter_store._ERASING", -1.0)
    held = place.create("one", "ECDSA-P256", now=time.time())
    assert list(place.list()) == [held]


def test_labels_that_are_too_long_for_a_parameter(aws: Moto) -> None:
    place = placed("awsssm", aws)
    labels = {f"label-{number}": "x" * 128 for number in range(16)}
    held = place.create("one", "ECDSA-P256", now=time.time(), labels=labels)
    assert held.labels == labels
    labels = {f"{number:064}": "x" * 128 for number in range(16)}
    with pytest.raises(CustodyError, match="fewer labels"):
        place.import_key("two", made_elsewhere("RSA-2048"), now=time.time(), labels=labels)
    assert [held.name for held in place.list()] == ["one"]


@pytest.mark.parametrize("scheme", ["awssm", "awsssm"])
def test_four_who_count_at_once_lose_no_count(scheme: str, aws: Moto) -> None:
    uri = somewhere(scheme, aws)
    open_records(uri, aws.environment).write("count", b"0", None)

    def count(_: int) -> None:
        records = open_records(uri, aws.environment)
        for _ in range(2):
            while True:
                seen = records.read("count")
                assert seen is not None
                try:
                    records.write("count", b"%d" % (int(seen.data) + 1), seen.version)
                    break
                except RecordChanged:
                    continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(4)))
    last = open_records(uri, aws.environment).read("count")
    assert last is not None
    assert last.data == b"8"


# ---- what its policies must allow

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference" / "custody-aws.md"
IMPLIED = {"TagResource"}
"""Actions that AWS asks for where another operation sets tags."""


def allowed(role: str) -> set[str]:
    """The actions of the statements in docs/reference/custody-aws.md whose Sid begins with `role`."""
    found: set[str] = set()
    for block in re.findall(r"```json\n(.*?)```", REFERENCE.read_text(), re.DOTALL):
        for statement in json.loads(block)["Statement"]:
            if statement["Sid"].startswith(role):
                found |= {action.partition(":")[2] for action in statement["Action"]}
    return found


@pytest.mark.parametrize(("scheme", "short"), [("awskms", "kms"), ("awssm", "sm"), ("awsssm", "ssm")])
def test_the_policies_of_the_docs_are_what_is_called(scheme: str, short: str, aws: Moto) -> None:
    def called(before: dict[str, int]) -> set[str]:
        return {operation for operation, times in aws.all_asked().items() if times > before.get(operation, 0)}

    uri = somewhere(scheme, aws)
    before, place = aws.all_asked(), open_place(uri, aws.environment)
    held = place.create("one", "ECDSA-P256", now=time.time(), labels={"application": "gallery"})
    place.import_key("two", made_elsewhere("ECDSA-P256"), now=time.time())
    assert len(list(place.list())) == 2
    place.delete("one", grace=20 * DAY, now=time.time())
    place.undelete("one")
    place.delete("two", grace=0, now=time.time())
    if scheme != "awskms":
        records = open_records(uri, aws.environment)
        first = records.write("group", b"1", None)
        second = records.write("group", b"2", first.version)
        assert records.names() == ["group"]
        if scheme == "awsssm":
            late = f"keyfront-1 {first.version} {A}\nlate"
            client("ssm", aws).put_parameter(
                Name=the_parameter(records, "group"), Value=late, Type="SecureString", Overwrite=True
            )
            assert records.read("group") == second
        records.remove("group", second.version)
    assert called(before) | IMPLIED == allowed(f"{short}-keeper") | IMPLIED

    before = aws.all_asked()
    handle = open_key(held.uri, aws.environment)
    handle.sign(b"data", "SHA256")
    if scheme != "awskms":
        open_records(uri, aws.environment).read("group")
    assert called(before) <= allowed(f"{short}-signer") <= called(before) | {"GetParameterHistory"}
