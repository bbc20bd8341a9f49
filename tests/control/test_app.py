"""The control plane over HTTP: boto3 as the client for everything that is implemented, and raw requests for
everything invalid."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from keyfront.control.call import Call, Result
from keyfront.control.identity.credentials import load
from keyfront.control.identity.directory import CallerDirectory
from keyfront.control.identity.sealing import sealer
from keyfront.control.identity.users import UserAdmin
from keyfront.control.wire.app import DISCARD_LIMIT, build_app
from keyfront.control.wire.xml_body import BODY_LIMIT
from keyfront.errors import ApiError
from tests.control.plane import ACCOUNT, Plane, distribution_config
from tests.keys import public_pem
from tests.rows import rows


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture(scope="module")
def client(plane: Plane) -> Any:
    return plane.client()


def key_config(reference: str, **more: str) -> dict[str, str]:
    return {"CallerReference": reference, "Name": reference, "EncodedKey": public_pem(), **more}


def refused(call: Any, **params: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**params)
    error = caught.value.response
    assert error["Error"]["Message"]
    assert error["ResponseMetadata"]["RequestId"]
    return error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]


# ---- boto3


def test_the_life_of_a_public_key(plane: Plane, client: Any) -> None:
    config = key_config("life", Comment="a <comment> & more")
    made = client.create_public_key(PublicKeyConfig=config)
    key = made["PublicKey"]
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert made["Location"] == f"{plane.endpoint}/2020-05-31/public-key/{key['Id']}"
    assert key["PublicKeyConfig"] == config
    assert key["CreatedTime"].tzinfo is not None
    got = client.get_public_key(Id=key["Id"])
    assert (got["PublicKey"], got["ETag"]) == (key, made["ETag"])
    assert client.get_public_key_config(Id=key["Id"])["PublicKeyConfig"] == config
    assert key["Id"] in {item["Id"] for item in client.list_public_keys()["PublicKeyList"]["Items"]}
    changed = client.update_public_key(
        Id=key["Id"], IfMatch=made["ETag"], PublicKeyConfig={**config, "Comment": ""}
    )
    assert changed["PublicKey"]["PublicKeyConfig"]["Comment"] == ""
    assert changed["ETag"] != made["ETag"]
    gone = client.delete_public_key(Id=key["Id"], IfMatch=changed["ETag"])
    assert gone["ResponseMetadata"]["HTTPStatusCode"] == 204
    with pytest.raises(client.exceptions.NoSuchPublicKey):
        client.get_public_key(Id=key["Id"])


def test_errors_are_the_modelled_exceptions(client: Any) -> None:
    config = key_config("errors")
    made = client.create_public_key(PublicKeyConfig=config)
    id_ = made["PublicKey"]["Id"]
    with pytest.raises(client.exceptions.PublicKeyAlreadyExists):
        client.create_public_key(PublicKeyConfig=config)
    with pytest.raises(client.exceptions.InvalidIfMatchVersion):
        client.delete_public_key(Id=id_)
    with pytest.raises(client.exceptions.PreconditionFailed) as stale:
        client.delete_public_key(Id=id_, IfMatch="E2QWRUHAPOMQZL")
    assert stale.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    with pytest.raises(client.exceptions.CannotChangeImmutablePublicKeyFields):
        client.update_public_key(Id=id_, IfMatch=made["ETag"], PublicKeyConfig={**config, "Name": "other"})
    with pytest.raises(client.exceptions.InvalidArgument):
        client.create_public_key(PublicKeyConfig={**config, "CallerReference": "bad", "EncodedKey": "no key"})
    group = client.create_key_group(KeyGroupConfig={"Name": "errors", "Items": [id_]})
    with pytest.raises(client.exceptions.PublicKeyInUse) as used:
        client.delete_public_key(Id=id_, IfMatch=made["ETag"])
    assert used.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409
    client.delete_key_group(Id=group["KeyGroup"]["Id"], IfMatch=group["ETag"])
    client.delete_public_key(Id=id_, IfMatch=made["ETag"])


def test_the_life_of_a_distribution_and_its_group(plane: Plane, client: Any) -> None:
    keys = [client.create_public_key(PublicKeyConfig=key_config(f"group-{n}")) for n in (1, 2)]
    ids = [key["PublicKey"]["Id"] for key in keys]
    group = client.create_key_group(KeyGroupConfig={"Name": "group", "Items": ids[:1], "Comment": "c"})
    group_id = group["KeyGroup"]["Id"]
    group = client.update_key_group(
        Id=group_id, IfMatch=group["ETag"], KeyGroupConfig={"Name": "group", "Items": ids}
    )
    assert client.get_key_group(Id=group_id)["KeyGroup"]["KeyGroupConfig"]["Items"] == ids
    assert client.get_key_group_config(Id=group_id)["ETag"] == group["ETag"]
    assert group_id in {item["KeyGroup"]["Id"] for item in client.list_key_groups()["KeyGroupList"]["Items"]}

    made = client.create_distribution_with_tags(
        DistributionConfigWithTags={
            "DistributionConfig": distribution_config("life", [group_id]),
            "Tags": {"Items": [{"Key": "env", "Value": "té st"}]},
        }
    )
    distribution = made["Distribution"]
    id_, arn = distribution["Id"], distribution["ARN"]
    assert made["Location"].endswith(f"/2020-05-31/distribution/{id_}")
    assert arn == f"arn:aws:cloudfront::{ACCOUNT}:distribution/{id_}"
    assert distribution["Status"] == "InProgress"
    assert distribution["ActiveTrustedKeyGroups"]["Items"][0]["KeyPairIds"]["Items"] == ids
    plane.obey()
    client.get_waiter("distribution_deployed").wait(Id=id_, WaiterConfig={"Delay": 0, "MaxAttempts": 1})
    with pytest.raises(client.exceptions.ResourceInUse):
        client.delete_key_group(Id=group_id, IfMatch=group["ETag"])

    assert client.list_tags_for_resource(Resource=arn)["Tags"]["Items"] == [{"Key": "env", "Value": "té st"}]
    client.tag_resource(Resource=arn, Tags={"Items": [{"Key": "a b", "Value": ""}]})
    client.untag_resource(Resource=arn, TagKeys={"Items": ["env"]})
    assert client.list_tags_for_resource(Resource=arn)["Tags"]["Items"] == [{"Key": "a b", "Value": ""}]

    # A config can be sent back exactly as it was read.
    read = client.get_distribution_config(Id=id_)
    config = read["DistributionConfig"] | {"Comment": "changed", "Enabled": False}
    changed = client.update_distribution(Id=id_, IfMatch=read["ETag"], DistributionConfig=config)
    assert changed["Distribution"]["DistributionConfig"] == config
    with pytest.raises(client.exceptions.PreconditionFailed):
        client.update_distribution(Id=id_, IfMatch=read["ETag"], DistributionConfig=config)
    with pytest.raises(client.exceptions.DistributionNotDisabled):
        client.delete_distribution(Id=id_, IfMatch=changed["ETag"])
    plane.obey()
    assert client.list_distributions_by_key_group(KeyGroupId=group_id)["DistributionIdList"]["Items"] == [id_]
    client.delete_distribution(Id=id_, IfMatch=changed["ETag"])
    with pytest.raises(client.exceptions.NoSuchDistribution):
        client.get_distribution(Id=id_)
    with pytest.raises(client.exceptions.NoSuchResource):
        client.list_tags_for_resource(Resource=arn)
    client.delete_key_group(Id=group_id, IfMatch=group["ETag"])
    for key in keys:
        client.delete_public_key(Id=key["PublicKey"]["Id"], IfMatch=key["ETag"])


def test_pages(client: Any) -> None:
    made = [
        client.create_distribution(DistributionConfig=distribution_config(f"page-{n}", [])) for n in range(5)
    ]
    ids = {item["Distribution"]["Id"] for item in made}
    pages = list(client.get_paginator("list_distributions").paginate(PaginationConfig={"PageSize": 2}))
    assert len(pages) == 3
    listed = [item["Id"] for page in pages for item in page["DistributionList"]["Items"]]
    assert len(listed) == 5
    assert set(listed) == ids


def test_an_operation_that_is_not_built(client: Any) -> None:
    assert refused(client.list_functions) == ("UnsupportedOperation", 400)


def test_who_may_call(plane: Plane) -> None:
    assert refused(plane.client(secret="x" * 40).list_public_keys) == ("SignatureDoesNotMatch", 403)
    assert refused(plane.client(token="FwoGZXIv").list_public_keys) == ("InvalidClientTokenId", 403)
    assert plane.client(region="eu-west-1").list_public_keys()["PublicKeyList"]["MaxItems"] == 100


def test_an_enum_in_a_config(client: Any) -> None:
    config = distribution_config("enum", []) | {"PriceClass": "PriceClass_1"}
    assert refused(client.create_distribution, DistributionConfig=config) == ("MalformedXML", 400)


# ---- raw requests


def ask(
    plane: Plane,
    method: str,
    target: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    signed: bool = True,
    service: str = "cloudfront",
) -> tuple[int, dict[str, str], bytes]:
    request = AWSRequest(method=method, url=plane.endpoint + target, headers=headers or {}, data=body)
    if signed:
        SigV4Auth(Credentials(*plane.key), service, "us-east-1").add_auth(request)
    prepared = request.prepare()
    url = urlsplit(prepared.url)
    connection = http.client.HTTPConnection("127.0.0.1", plane.port, timeout=10)
    try:
        connection.request(
            method, target if target == "*" else f"{url.path}?{url.query}", body, dict(prepared.headers)
        )
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_an_error_on_the_wire(plane: Plane) -> None:
    status, headers, body = ask(plane, "GET", "/2020-05-31/public-key/KNOSUCHKEY123")
    assert status == 404
    assert headers["content-type"] == "text/xml"
    assert body.startswith(
        b'<?xml version="1.0"?>\n<ErrorResponse xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/"><Error>'
        b"<Type>Sender</Type><Code>NoSuchPublicKey</Code><Message>"
    )
    assert f"<RequestId>{headers['x-amzn-requestid']}</RequestId></ErrorResponse>".encode() in body


@rows(
    ("method", "target", "signed", "status", "code"),
    [
        ("GET", "/2020-05-31/public-key", False, 403, b"MissingAuthenticationToken"),
        ("GET", "/", True, 400, b"InvalidURI"),
        ("GET", "/2020-05-31/no-such-thing", True, 400, b"InvalidURI"),
        ("GET", "/2020-05-31/no-such-thing", False, 400, b"InvalidURI"),
        ("GET", "/healthz/", True, 400, b"InvalidURI"),
        ("POST", "/metrics", True, 400, b"InvalidURI"),
        ("PATCH", "/2020-05-31/public-key", True, 405, b"MethodNotAllowed"),
        ("POST", "/2020-05-31/public-key", True, 400, b"MalformedXML"),
        ("POST", "/2020-05-31/distribution", True, 400, b"MissingBody"),
    ],
)
def test_requests_that_ask_for_nothing(
    plane: Plane, method: str, target: str, signed: bool, status: int, code: bytes
) -> None:
    got, headers, body = ask(plane, method, target, signed=signed)
    assert (got, b"<Code>" + code + b"</Code>" in body) == (status, True)
    assert ("allow" in headers) == (status == 405)


def test_head_has_no_body(plane: Plane) -> None:
    status, headers, body = ask(plane, "HEAD", "/2020-05-31/public-key")
    assert (status, headers["allow"], body) == (405, "GET, POST", b"")


STS = b"Action=GetCallerIdentity&Version=2011-06-15"


@pytest.mark.parametrize(
    ("method", "target", "body", "service", "status", "code"),
    [
        ("POST", "/", STS, "sts", 200, ""),
        ("GET", f"/?{STS.decode()}", b"", "sts", 200, ""),
        ("POST", "/", STS, "cloudfront", 403, "SignatureDoesNotMatch"),
        ("POST", "/", STS, "", 403, "MissingAuthenticationToken"),
        ("POST", "/", STS.replace(b"GetCallerIdentity", b"AssumeRole"), "sts", 400, "InvalidAction"),
        ("POST", "/", STS.replace(b"2011", b"2010"), "sts", 400, "InvalidAction"),
        ("POST", "/", b"XAction=", "sts", 400, "MissingAction"),
        ("POST", "/", b"Action=%ff\xff", "sts", 400, "ValidationError"),
        ("POST", "/", b"", "sts", 400, "InvalidURI"),
        ("PUT", "/", STS, "sts", 400, "InvalidURI"),
    ],
)  # fmt: skip
def test_sts(
    plane: Plane, method: str, target: str, body: bytes, service: str, status: int, code: str
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"} if body else {}
    got, headers, text = ask(plane, method, target, body, form, service=service, signed=bool(service))
    assert got == status
    assert headers["content-type"] == "text/xml"
    if code:
        assert f"<Code>{code}</Code>".encode() in text
    else:
        assert f"<Arn>arn:aws:iam::{ACCOUNT}:user/default</Arn>".encode() in text
        assert f"<RequestId>{headers['x-amzn-requestid']}</RequestId>".encode() in text


def test_bodies_that_are_too_long(plane: Plane) -> None:
    body = b" " * (BODY_LIMIT + 1)
    status, headers, text = ask(plane, "POST", "/2020-05-31/public-key", body)
    assert (status, b"RequestEntityTooLarge" in text, headers["connection"]) == (413, True, "close")
    connection = http.client.HTTPConnection("127.0.0.1", plane.port, timeout=10)
    try:
        connection.putrequest("POST", "/2020-05-31/public-key")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(DISCARD_LIMIT // 65536 * 4):
                connection.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
    finally:
        connection.close()


def test_an_answer_does_not_wait_for_its_head_to_be_acknowledged(plane: Plane) -> None:
    """Head and body are two writes; connections inherit this option from the listener."""
    assert plane.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_health_and_metrics(plane: Plane, client: Any) -> None:
    client.list_key_groups()
    refused(client.get_key_group, Id="4b4f2f1c-315d-5c2e-f093-216650fed10f")
    status, _, body = ask(plane, "GET", "/healthz", signed=False)
    assert (status, json.loads(body)["status"]) == (200, "ok")
    assert ask(plane, "GET", "/livez", signed=False)[::2] == (200, b"ok\n")
    status, headers, body = ask(plane, "GET", "/metrics", signed=False)
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b'keyfront_control_requests_total{code="OK",operation="ListKeyGroups"}' in body
    assert b'keyfront_control_requests_total{code="NoSuchResource",operation="GetKeyGroup"} 1.0' in body
    assert b'keyfront_control_request_duration_seconds_count{operation="ListKeyGroups"}' in body


def test_what_was_refused_is_in_the_audit_log(plane: Plane) -> None:
    ask(plane, "POST", "/2020-05-31/key-group", b"<KeyGroupConfig><Naam/></KeyGroupConfig>")
    with plane.store.read() as transaction:
        head = transaction.audit_head()
    assert head is not None
    assert b"CreateKeyGroup" in head.record
    assert b"MalformedXML" in head.record


# ---- signers and times


async def test_refused_signatures(tmp_path: Path) -> None:
    """AWS's answer to each, with a clock set by the test. A request sent twice within the allowed time makes two
    calls, as at AWS: an SDK's retry within the same second is an identical request."""
    with Plane(tmp_path) as plane:
        real = time.time()
        now = real
        register = UserAdmin(
            plane.store, ACCOUNT, lambda: sealer(tmp_path, {}, make=True), by="tests", clock=lambda: now
        )
        register.create_user("ci", ["auditor"])
        (rested, rested_secret), (revoked, revoked_secret) = (register.create_key("ci") for _ in range(2))
        access = CallerDirectory(
            plane.store, plane.credentials, ACCOUNT, lambda: sealer(tmp_path, {}, make=False)
        )
        transport = httpx.ASGITransport(build_app(plane.service, access, clock=lambda: now))
        key_id, secret = plane.key

        def signed(
            key_id: str, secret: str, *, token: str | None = None, service: str = "cloudfront"
        ) -> AWSRequest:
            request = AWSRequest(method="GET", url="http://plane/2020-05-31/public-key")
            SigV4Auth(Credentials(key_id, secret, token), service, "us-east-1").add_auth(request)
            return request

        good = signed(key_id, secret)
        unsigned = AWSRequest(method="GET", url="http://plane/2020-05-31/public-key")
        register.set_active(rested.id, active=False)
        register.delete_key(revoked.id)
        cases: dict[str, tuple[AWSRequest, float, int, str]] = {
            "good": (good, 0, 200, ""),
            "good, again": (good, 1, 200, ""),
            "nearly too old": (good, 298, 200, ""),
            "replayed too late": (good, 302, 403, "SignatureDoesNotMatch"),
            "from a clock that is fast": (good, -298, 200, ""),
            "from a clock that is too fast": (good, -302, 403, "SignatureDoesNotMatch"),
            "a wrong secret": (signed(key_id, secret[::-1]), 0, 403, "SignatureDoesNotMatch"),
            "for another service": (signed(key_id, secret, service="sts"), 0, 403, "SignatureDoesNotMatch"),
            "an unknown key": (signed("AKIAUNKNOWNUNKNOWN00", secret), 0, 403, "InvalidClientTokenId"),
            "a disabled key": (signed(rested.id, rested_secret), 0, 403, "InvalidClientTokenId"),
            "a revoked key": (signed(revoked.id, revoked_secret), 0, 403, "InvalidClientTokenId"),
            "a session token": (signed(key_id, secret, token="FwoG"), 0, 403, "InvalidClientTokenId"),
            "no signature": (unsigned, 0, 403, "MissingAuthenticationToken"),
        }  # fmt: skip
        with plane.store.read() as transaction:
            before = len(transaction.audit())
        async with httpx.AsyncClient(transport=transport) as viewer:
            for name, (request, later, status, code) in cases.items():
                now = real + later
                answer = await viewer.get(request.url, headers=dict(request.headers.items()))
                assert answer.status_code == status, name
                assert (f"<Code>{code}</Code>" in answer.text) == bool(code), name
                assert "<Type>Receiver" not in answer.text
        with plane.store.read() as transaction:  # a client without a valid key cannot fill the disk
            assert len(transaction.audit()) == before + sum(
                status == 200 for _, _, status, _ in cases.values()
            )


# ---- internal failures


class Broken:
    """A service with a bug in it."""

    def run(self, call: Call) -> Result:
        raise ZeroDivisionError(f"inside, of {call.operation}")

    def record(self, call: Call, outcome: dict[str, Any] | ApiError) -> None:
        raise ZeroDivisionError("inside")


@pytest.mark.parametrize("target", ["/2020-05-31/public-key", "/2020-05-31/conflicting-alias"])
async def test_what_breaks_inside_stays_inside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    credentials = load(tmp_path / "credentials", ACCOUNT)
    plane = Plane(tmp_path)
    request = AWSRequest(method="GET", url=f"http://plane{target}")
    SigV4Auth(Credentials(*plane.key), "cloudfront", "us-east-1").add_auth(request)
    transport = httpx.ASGITransport(build_app(Broken(), credentials))
    async with httpx.AsyncClient(transport=transport) as viewer:
        answer = await viewer.get(request.url, headers=dict(request.headers.items()))
    assert answer.status_code == 500
    assert "<Type>Receiver</Type><Code>InternalFailure</Code>" in answer.text
    assert "inside" not in answer.text
    assert answer.headers["x-amzn-requestid"] in caplog.text
    assert "ZeroDivisionError: inside" in caplog.text


# ---- the process


PROGRAM = """
import os, socket, sys
from pathlib import Path
from keyfront.control.process import ControlPlaneSettings, Supervision, run_control
held = socket.create_server(("127.0.0.1", 0))
def ready():
    print("ready", held.getsockname()[1], flush=True)
settings = ControlPlaneSettings(data=Path(sys.argv[1]), domain="cloudfront.localhost", account="123456789012")
run_control(settings, held, ready, Supervision(lifeline=int(sys.argv[2])))
"""


def started(folder: Path) -> tuple[subprocess.Popen[str], int, int]:
    """The process, its port, and our end of its lifeline pipe."""
    theirs, ours = os.pipe()
    argv = [sys.executable, "-c", PROGRAM, str(folder), str(theirs)]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=[theirs]
    )
    os.close(theirs)
    assert process.stdout is not None
    line = process.stdout.readline().split()
    assert line[:1] == ["ready"], process.communicate()
    return process, int(line[1]), ours


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "lifeline"])
def test_it_ends_as_it_is_told_and_forgets_nothing(tmp_path: Path, how: str) -> None:
    process, port, lifeline = started(tmp_path)
    with process:
        plane = Plane(tmp_path)
        plane.port = port
        made = plane.client().create_public_key(PublicKeyConfig=key_config("kept"))
        if how == "lifeline":
            os.close(lifeline)
        else:
            process.send_signal(getattr(signal, how))
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")
    if how != "lifeline":
        os.close(lifeline)
    with Plane(tmp_path) as again:
        assert again.client().get_public_key(Id=made["PublicKey"]["Id"])["ETag"] == made["ETag"]


def test_a_request_under_way_is_answered_before_the_end(tmp_path: Path) -> None:
    process, port, lifeline = started(tmp_path)
    with process, socket.create_connection(("127.0.0.1", port)) as viewer:
        viewer.sendall(b"POST /2020-05-31/public-key HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n<a")
        # The server has received the head once it answers a connection that was opened later.
        with socket.create_connection(("127.0.0.1", port)) as other:
            other.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while other.recv(4096):
                pass
        process.send_signal(signal.SIGTERM)
        viewer.sendall(b"/>")
        assert b"MissingAuthenticationToken" in viewer.makefile("rb").read()
        process.communicate(timeout=30)
        assert process.returncode == 0
    os.close(lifeline)
