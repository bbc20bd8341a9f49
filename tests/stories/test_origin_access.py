"""Origins that only the edge can reach, using real ones: a private bucket of a real S3 server that serves signed
requests only, and an application server that recognizes the edge by a secret header."""

from __future__ import annotations

import http.client
import os
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError

from keyfront import load_signer, sign_url
from tests import seaweedfs
from tests.application import Request, Response, served
from tests.seaweedfs import ONE, TWO, Weed
from tests.up import Up, distribution_config

HERE = Path(__file__).resolve().parent.parent
PRIVATE, PUBLIC = HERE / "vectors" / "keys" / "rsa.pem", HERE / "vectors" / "keys" / "rsa.pub"
BUCKET = "media.s3.eu-central-1.amazonaws.com"

needs_weed = pytest.mark.skipif(bool(seaweedfs.unable()), reason=seaweedfs.unable() or "-")


@pytest.fixture(scope="module")
def server() -> Iterator[Weed]:
    with Weed() as running:
        yield running


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    others = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AWS_")}
    with Up(tmp_path_factory.mktemp("up"), workers=1) as running:
        yield running
    os.environ.update(others)


def bucket(domain: str = BUCKET, *, control: str = "", identity: str = "", path: str = "") -> dict[str, Any]:
    return {
        "Id": "app",
        "DomainName": domain,
        "OriginPath": path,
        "S3OriginConfig": {"OriginAccessIdentity": identity},
        "OriginAccessControlId": control,
    }


def control(up: Up, behavior: str = "always") -> str:
    made = up.client().create_origin_access_control(
        OriginAccessControlConfig={
            "Name": secrets.token_hex(8),
            "SigningProtocol": "sigv4",
            "SigningBehavior": behavior,
            "OriginAccessControlOriginType": "s3",
        }
    )
    return str(made["OriginAccessControl"]["Id"])


def distribution(up: Up, origin: dict[str, Any], groups: tuple[str, ...] = (), **behavior: Any) -> str:
    """A distribution in front of `origin`. Returns its domain name once all edges apply it."""
    config = distribution_config(secrets.token_hex(8), 80, list(groups))
    config["Origins"]["Items"] = [origin]
    config["DefaultCacheBehavior"] |= behavior
    config["CustomErrorResponses"] = {
        "Quantity": 3,
        "Items": [{"ErrorCode": code, "ErrorCachingMinTTL": 0} for code in (403, 404, 502)],
    }
    made = up.client().create_distribution(DistributionConfig=config)["Distribution"]
    up.deployed(made["Id"])
    return str(made["DomainName"])


def write_credentials(up: Up, server: Weed, identity: tuple[str, str] | None) -> None:
    """Write the operator's file: the S3 endpoint, and this key."""
    text = f"[default]\nendpoint_url = {server.url}\n"
    if identity is not None:
        text += f"aws_access_key_id = {identity[0]}\naws_secret_access_key = {identity[1]}\n"
    path = up.data / "origin-credentials"
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    if path.exists() and path.read_text() == text:
        return
    changed = "the origin credentials have changed"
    before = sum(changed in line for line in up.log)
    os.replace(new, path)
    up.until(lambda: sum(changed in line for line in up.log) > before)


def directly(server: Weed, path: str) -> int:
    """The status of a request to the server without a key."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


@needs_weed
def test_a_private_bucket_opens_to_the_edge_and_the_edge_to_signed_urls(up: Up, server: Weed) -> None:
    """The config is as written for AWS; only the operator's file knows where the bucket is."""
    write_credentials(up, server, ONE)
    client = up.client()
    key = client.create_public_key(
        PublicKeyConfig={"CallerReference": "k", "Name": "k", "EncodedKey": PUBLIC.read_text()}
    )["PublicKey"]["Id"]
    group = client.create_key_group(KeyGroupConfig={"Name": "g", "Items": [key]})["KeyGroup"]["Id"]
    host = distribution(up, bucket(control=control(up)), (group,))
    server.client().put_object(
        Bucket="media", Key="film.mp4", Body=b"0123456789", ContentType="video/mp4", CacheControl="max-age=60"
    )
    assert up.get(host, "/ready").status == 403
    assert directly(server, "/media/film.mp4") == 403
    assert up.get(host, "/film.mp4").status == 403, "the viewer's own signature is still needed"
    signed = sign_url(f"http://{host}/film.mp4", load_signer(key, PRIVATE), expires=timedelta(minutes=5))
    target = signed.removeprefix(f"http://{host}")
    first = up.get(host, target)
    assert (first.status, first.body, first.x_cache) == (200, b"0123456789", "Miss")
    assert first.headers["content-type"] == "video/mp4"
    again = up.get(host, target, {"Range": "bytes=2-4"})
    assert (again.status, again.body, again.x_cache) == (206, b"234", "Hit")


AWKWARD = [
    "plain.txt",
    "a b+c.txt",
    "ünï/ключ/鍵.txt",
    "100% sure?.txt",
    "s;c,e=q&a@b:c!$'()*~.txt",
    "hash#tag",
    "back\\slash",
    "double//slash",
    ".hidden/dots..txt",
    '"quoted" <x>',
]


@needs_weed
def test_awkward_keys(up: Up, server: Weed) -> None:
    """However a viewer spells it, the object key is the same, and the response is what S3's own client stored."""
    write_credentials(up, server, ONE)
    host = distribution(up, bucket(control=control(up)))
    assert up.get(host, "/ready").status == 200
    for key in AWKWARD:
        server.client().put_object(Bucket="media", Key=key, Body=key.encode())
        spellings = {
            "/" + quote(key, safe="/"),
            "/" + quote(key, safe="/!$&'()*+,;=:@~"),
            "/" + "".join(f"%{byte:02x}" for byte in key.encode()).replace("%2f", "/"),
        }
        for target in sorted(spellings):
            seen = up.get(host, target)
            assert (seen.status, seen.body.decode()) == (200, key), target


@needs_weed
def test_ranges_conditions_heads_and_large_objects_are_signed_too(up: Up, server: Weed) -> None:
    write_credentials(up, server, ONE)
    host = distribution(up, bucket(control=control(up)), CachePolicyId="4135ea2d-6df8-44a3-9df3-4b5a84be39ad")
    assert up.get(host, "/ready").status == 200
    large = secrets.token_bytes(9 << 20)
    server.client().put_object(Bucket="media", Key="large", Body=large)
    server.client().put_object(Bucket="media", Key="small", Body=b"0123456789")
    part = up.get(host, "/small", {"Range": "bytes=3-5"})
    assert (part.status, part.body) == (206, b"345")
    head = up.get(host, "/small", method="HEAD")
    assert (head.status, head.headers["content-length"]) == (200, "10")
    etag = head.headers["etag"]
    assert up.get(host, "/small", {"If-None-Match": etag}).status == 304
    cached = distribution(up, bucket(control=control(up)))
    for _ in range(2):
        assert up.get(cached, "/large").body == large
    middle = up.get(cached, "/large", {"Range": f"bytes={5 << 20}-{(5 << 20) + 9}"})
    assert (middle.status, middle.body) == (206, large[5 << 20 : (5 << 20) + 10])
    assert up.get(host, "/nothing-there").status == 404


@needs_weed
def test_a_change_of_the_control_takes_effect(up: Up, server: Weed) -> None:
    write_credentials(up, server, ONE)
    id_ = control(up)
    host = distribution(up, bucket(control=id_), CachePolicyId="4135ea2d-6df8-44a3-9df3-4b5a84be39ad")
    assert up.get(host, "/ready").status == 200
    client = up.client()
    found = client.get_origin_access_control_config(Id=id_)
    config = found["OriginAccessControlConfig"]
    changed = client.update_origin_access_control(
        Id=id_, IfMatch=found["ETag"], OriginAccessControlConfig=config | {"SigningBehavior": "never"}
    )
    up.until(lambda: b"AccessDenied" in up.get(host, "/ready").body)
    client.update_origin_access_control(
        Id=id_, IfMatch=changed["ETag"], OriginAccessControlConfig=config | {"SigningBehavior": "no-override"}
    )
    up.until(lambda: up.get(host, "/ready").status == 200)
    with pytest.raises(ClientError, match="OriginAccessControlInUse"):
        client.delete_origin_access_control(Id=id_, IfMatch=client.get_origin_access_control(Id=id_)["ETag"])


@needs_weed
def test_an_origin_access_identity_and_a_custom_origin_sign_as_well(up: Up, server: Weed) -> None:
    write_credentials(up, server, ONE)
    made = up.client().create_cloud_front_origin_access_identity(
        CloudFrontOriginAccessIdentityConfig={"CallerReference": secrets.token_hex(8), "Comment": ""}
    )["CloudFrontOriginAccessIdentity"]
    server.client().put_object(Bucket="media", Key="live/a.txt", Body=b"a")
    old = distribution(up, bucket(identity=f"origin-access-identity/cloudfront/{made['Id']}", path="/live"))
    assert up.get(old, "/a.txt").body == b"a"
    custom = {
        "Id": "app",
        "DomainName": "127.0.0.1",
        "OriginPath": "/media/live",
        "CustomOriginConfig": {
            "HTTPPort": server.port,
            "HTTPSPort": 443,
            "OriginProtocolPolicy": "http-only",
        },
    }
    signed = distribution(up, custom | {"OriginAccessControlId": control(up)})
    assert up.get(signed, "/a.txt").body == b"a"
    assert up.get(signed, "/../ready").status == 400, "not out of the OriginPath, nor of the bucket"
    unsigned = distribution(up, custom)
    assert up.get(unsigned, "/a.txt").status == 403


@needs_weed
def test_an_upload_through_the_edge(up: Up, server: Weed) -> None:
    write_credentials(up, server, ONE)
    server.client().create_bucket(Bucket="inbox")
    every = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]
    host = distribution(
        up,
        bucket("inbox.s3.eu-central-1.amazonaws.com", control=control(up)),
        AllowedMethods={"Quantity": 7, "Items": every},
    )
    connection = http.client.HTTPConnection("127.0.0.1", up.edge_port, timeout=10)
    connection.request("PUT", "/up.txt", body=b"hello", headers={"Host": host, "Content-Type": "text/plain"})
    assert connection.getresponse().status == 200
    connection.close()
    stored = server.client().get_object(Bucket="inbox", Key="up.txt")
    assert (stored["Body"].read(), stored["ContentType"]) == (b"hello", "text/plain")


@needs_weed
def test_credentials_are_rotated_while_it_serves(up: Up, server: Weed) -> None:
    """Missing credentials give 502, and nothing is sent; wrong ones give S3's own 403; right ones work within
    seconds."""
    write_credentials(up, server, ONE)
    host = distribution(up, bucket(control=control(up)), CachePolicyId="4135ea2d-6df8-44a3-9df3-4b5a84be39ad")
    assert up.get(host, "/ready").status == 200
    write_credentials(up, server, (ONE[0], "wrong" * 8))
    wrong = up.get(host, "/ready")
    assert wrong.status == 403
    assert b"SignatureDoesNotMatch" in wrong.body, "the origin's answer, as it is"
    assert wrong.x_cache == "Error"
    write_credentials(up, server, TWO)
    assert up.get(host, "/ready").body == b"ready"
    write_credentials(up, server, None)
    assert up.get(host, "/ready").status == 502
    up.until(lambda: any("there are no credentials for media.s3" in line for line in up.log))
    assert not [line for line in up.log for _, secret in (ONE, TWO) if secret in line]
    records = (up.data / "logs" / "access.jsonl").read_text()
    assert ONE[0] not in records
    assert TWO[1] not in records


def test_an_application_server_knows_the_edge_by_its_secret_header(up: Up) -> None:
    """It need not be S3: an origin custom header that only the edge can send and no viewer can overwrite."""
    secret = secrets.token_urlsafe(32)

    def respond(request: Request) -> Response:
        if request.headers.get_all("X-Origin-Secret") == [secret]:
            return Response(b"private")
        return Response(b"ask the edge", status=403)

    with served(respond) as port:
        config = distribution_config(secrets.token_hex(8), port, [])
        config["Origins"]["Items"][0]["CustomHeaders"] = {
            "Quantity": 1,
            "Items": [{"HeaderName": "X-Origin-Secret", "HeaderValue": secret}],
        }
        made = up.client().create_distribution(DistributionConfig=config)["Distribution"]
        up.deployed(made["Id"])
        host = made["DomainName"]
        assert up.get(host, "/a").body == b"private"
        for spoof in ({"X-Origin-Secret": "x"}, {"x_origin_secret": "x"}):
            assert up.get(host, f"/{secrets.token_hex(4)}", spoof).body == b"private"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/a", headers={"X-Origin-Secret": "guess"})
        assert connection.getresponse().status == 403
        connection.close()
        records = [record for record in up.records() if record.get("distribution") == made["Id"]]
        assert secret not in repr(records)
