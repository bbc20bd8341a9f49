"""Access control on a whole Keyfront: users created while it runs, by boto3, and the audit log of what they did."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session
from click.testing import CliRunner

from keyfront.cli.main import keyfront
from tests.up import Up, distribution_config

PUBLIC = (Path(__file__).resolve().parent.parent / "vectors" / "keys" / "rsa.pub").read_text()
ACCOUNT = "000000000000"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    options = ("--trusted-proxies", "127.0.0.1", "--cache-disk", "0")
    with Up(tmp_path_factory.mktemp("access"), workers=1, options=options) as running:
        yield running


def run(up: Up, *argv: str, stdin: str | None = None) -> str:
    """The standard output of `keyfront` with these arguments, on the folder that the running Keyfront uses."""
    done = CliRunner().invoke(keyfront, [*argv, "--data", str(up.data)], input=stdin)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


class User:
    """A user with an access key, and its clients."""

    def __init__(self, up: Up, name: str, *roles: str) -> None:
        self.up = up
        run(up, "access", "user", "create", name, *(word for role in roles for word in ("--role", role)))
        self.use(json.loads(run(up, "access", "key", "create", name, "--json")))

    def use(self, key: dict[str, str]) -> None:
        self.key_id, self.secret = key["AccessKeyId"], key["SecretAccessKey"]

    def client(self, service: str = "cloudfront") -> Any:
        return boto3.client(
            service,
            endpoint_url=self.up.endpoint,
            region_name="eu-central-1",
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
            config=Config(retries={"max_attempts": 0}),
        )


def code_of(call: Callable[[], Any]) -> str:
    """The error code that a call ends in; empty for success."""
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def soon(call: Callable[[], Any], code: str) -> None:
    """Repeat the call until it answers with `code`."""
    Up.until(lambda: code_of(call) == code)


def test_a_key_manager(up: Up) -> None:
    user = User(up, "manager", "key-manager")
    cloudfront = user.client()
    soon(cloudfront.list_public_keys, "")
    config = {"CallerReference": "m", "Name": "m", "EncodedKey": PUBLIC}
    key = cloudfront.create_public_key(PublicKeyConfig=config)
    group = cloudfront.create_key_group(KeyGroupConfig={"Name": "m", "Items": [key["PublicKey"]["Id"]]})
    made = up.client().create_distribution(DistributionConfig=distribution_config("m", 80, []))
    id_ = made["Distribution"]["Id"]
    assert cloudfront.get_distribution(Id=id_)["ETag"] == made["ETag"]
    config = made["Distribution"]["DistributionConfig"] | {"Enabled": False}
    with pytest.raises(cloudfront.exceptions.AccessDenied) as caught:
        cloudfront.update_distribution(Id=id_, IfMatch=made["ETag"], DistributionConfig=config)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert caught.value.response["Error"]["Message"] == (
        f"User: arn:aws:iam::{ACCOUNT}:user/manager is not authorized to perform: cloudfront:UpdateDistribution on "
        f"resource: arn:aws:cloudfront::{ACCOUNT}:distribution/{id_} because no identity-based policy allows the "
        "cloudfront:UpdateDistribution action"
    )
    assert code_of(lambda: cloudfront.delete_distribution(Id=id_, IfMatch=made["ETag"])) == "AccessDenied"
    assert up.client().get_distribution(Id=id_)["ETag"] == made["ETag"]
    cloudfront.delete_key_group(Id=group["KeyGroup"]["Id"], IfMatch=group["ETag"])
    cloudfront.delete_public_key(Id=key["PublicKey"]["Id"], IfMatch=key["ETag"])


def test_who_am_i(up: Up) -> None:
    user = User(up, "viewer")
    Up.until(lambda: code_of(user.client("sts").get_caller_identity) == "")
    found = user.client("sts").get_caller_identity()
    assert (found["Account"], found["Arn"]) == (ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/viewer")
    assert found["UserId"].startswith("AIDA")
    assert code_of(lambda: user.client("sts").get_session_token()) == "InvalidAction"
    with pytest.raises(ClientError, match=r"ListDistributions operation.*: User: arn:aws:iam") as caught:
        user.client().list_distributions()  # without a role, everything is denied
    assert caught.value.response["Error"]["Code"] == "AccessDenied"


def test_a_rotation_without_a_gap(up: Up) -> None:
    """A client calls continuously while its keys are exchanged, and no call is refused."""
    user = User(up, "rotating", "auditor")
    soon(user.client().list_public_keys, "")
    old = user.key_id
    clients, outcomes, stop = [user.client()], [], threading.Event()

    def calling() -> None:
        while not stop.is_set():
            outcomes.append(code_of(clients[-1].list_public_keys))

    caller = threading.Thread(target=calling)
    caller.start()
    user.use(json.loads(run(up, "access", "key", "rotate", "rotating", "--json")))
    new = user.client()
    soon(new.list_public_keys, "")
    clients.append(new)
    run(up, "access", "key", "list", "rotating")
    stop.set()
    caller.join()
    assert set(outcomes) == {""}
    run(up, "access", "key", "revoke", old)
    soon(clients[0].list_public_keys, "InvalidClientTokenId")
    assert code_of(new.list_public_keys) == ""
    (left,) = json.loads(run(up, "access", "key", "list", "rotating", "--json"))
    assert left["AccessKeyId"] == user.key_id
    assert left["LastUsedDate"] is not None


def test_changes_take_effect_at_once(up: Up) -> None:
    user = User(up, "changing", "auditor")
    cloudfront = user.client()
    soon(cloudfront.list_public_keys, "")
    deny = '{"Statement": {"Effect": "Deny", "Action": "cloudfront:List*", "Resource": "*"}}'
    steps = [
        (("access", "key", "disable", user.key_id), "InvalidClientTokenId"),
        (("access", "key", "enable", user.key_id), ""),
        (("access", "policy", "detach", "auditor", "changing"), "AccessDenied"),
        (("access", "policy", "attach", "auditor", "changing"), ""),
        (("access", "policy", "put", "no-lists", "-"), ""),
        (("access", "policy", "attach", "no-lists", "changing"), "AccessDenied"),
        (("access", "user", "delete", "changing", "--with-keys"), "InvalidClientTokenId"),
    ]
    for argv, code in steps:
        run(up, *argv, stdin=deny if argv[2] == "put" else None)
        soon(cloudfront.list_public_keys, code)


def test_the_source_address_is_the_proxys_word_where_it_is_trusted(up: Up) -> None:
    office = {
        "Effect": "Allow",
        "Action": "cloudfront:ListPublicKeys",
        "Resource": "*",
        "Condition": {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}, "Bool": {"aws:SecureTransport": "true"}},
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": office})
    run(up, "access", "policy", "put", "office", "-", stdin=document)
    user = User(up, "officer", "office")
    soon(user.client().list_public_keys, "AccessDenied")
    cases = {
        ("192.0.2.7", "https"): 200,
        ("198.51.100.1, 192.0.2.7", "https"): 200,
        ("192.0.2.7, 198.51.100.1", "https"): 403,  # an untrusted peer's fields do not count
        ("192.0.2.7", "http"): 403,
        ("198.51.100.1", "https"): 403,
    }
    for (address, scheme), status in cases.items():
        url = f"{up.endpoint}/2020-05-31/public-key"
        request = AWSRequest("GET", url, {"X-Forwarded-For": address, "X-Forwarded-Proto": scheme})
        SigV4Auth(Credentials(user.key_id, user.secret), "cloudfront", "us-east-1").add_auth(request)
        assert URLLib3Session().send(request.prepare()).status_code == status, address


def test_what_was_done_is_in_the_log(up: Up) -> None:
    user = User(up, "watched", "auditor")
    soon(user.client().list_public_keys, "")
    assert code_of(lambda: user.client().delete_public_key(Id="K1", IfMatch="E1")) == "AccessDenied"
    user.client("sts").get_caller_identity()
    lines = run(up, "audit", "list", "--user", "watched", "--json").splitlines()
    records = [json.loads(line) for line in lines][-3:]
    assert [(one["eventName"], one["eventSource"].partition(".")[0], one["readOnly"]) for one in records] == [
        ("ListPublicKeys", "cloudfront", True),
        ("DeletePublicKey", "cloudfront", False),
        ("GetCallerIdentity", "sts", True),
    ]
    assert [one.get("errorCode") for one in records] == [None, "AccessDenied", None]
    assert records[2]["userIdentity"]["accessKeyId"] == user.key_id
    assert (records[2]["requestParameters"], records[2]["responseElements"]) == (None, None)
    made = json.loads(run(up, "audit", "list", "--event", "CreateAccessKey", "--json", "-n", "1"))
    assert made["responseElements"]["accessKey"]["accessKeyId"] == user.key_id
    anchor = run(up, "audit", "verify").strip()
    user.client().list_key_groups()
    assert int(run(up, "audit", "verify", "--expect", anchor).partition(":")[0]) > int(
        anchor.partition(":")[0]
    )
    log = run(up, "audit", "export") + "".join(up.log)
    assert user.secret not in log
    assert user.secret.encode() not in b"".join(
        path.read_bytes() for path in up.data.rglob("*") if path.is_file()
    )


def test_users_are_there_after_a_restart_and_reads_can_go_unrecorded(tmp_path: Path) -> None:
    options = ("--cache-disk", "0", "--no-audit-reads")
    with Up(tmp_path / "data", workers=1, options=options) as up:
        user = User(up, "ci", "auditor")
        soon(user.client().list_public_keys, "")
        up.kill()
        up.start()
        assert code_of(user.client().list_public_keys) == ""
        assert code_of(lambda: user.client().delete_public_key(Id="K1", IfMatch="E1")) == "AccessDenied"
        events = [line.split()[4] for line in run(up, "audit", "list").splitlines()]
        assert events == ["CreateUser", "CreateAccessKey", "DeletePublicKey"]
        # Without the key that seals them, secrets are lost, and no caller is authenticated by mistake.
        os.rename(up.data / "access.key", up.data / "access.key.away")
        assert up.stop() == 0
        up.start()
        assert code_of(user.client().list_public_keys) == "InvalidClientTokenId"
        assert code_of(up.client().list_public_keys) == ""
        assert up.stop() == 0
        assert "no access key in the store can be used" in "".join(up.log)
