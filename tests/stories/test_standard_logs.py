"""CloudFront's standard logs, from `Logging` of a distribution to files in a folder and in a real S3 bucket."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyfront import LocalSigner, sign_url
from keyfront.edge.logs.delivery import has_work, read_status
from keyfront.edge.logs.standard_format import LEGACY
from tests import seaweedfs
from tests.application import Request, Response, served
from tests.up import Up, distribution_config, has_exited, suspended
from tests.vectors.corpus import key

PAGE = b"0123456789" * 50
FIELDS = ["x-edge-request-id", "sc-status", "kf-verdict", "kf-reason", "kf-key-group", "connection-id"]


def respond(request: Request) -> Response:
    if request.target.startswith("/missing"):
        return Response(b"none", status=404)
    return Response(PAGE, {"Cache-Control": "max-age=1000", "Content-Type": "text/plain; charset=utf-8"})


class Place:
    """A running Keyfront with a distribution whose logs are delivered to a folder, and everything to a bucket."""

    def __init__(self, up: Up, weed: seaweedfs.Weed, made: dict[str, Any], signer: LocalSigner) -> None:
        self.up = up
        self.weed = weed
        self.id: str = made["Id"]
        self.host: str = made["DomainName"]
        self.signer = signer

    def deliverer(self) -> int:
        """The process that delivers."""
        for pid in self.up.children():
            if b"log-process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return 0

    def delivered(self) -> None:
        """Wait until nothing waits."""
        self.up.until(lambda: not has_work(self.up.data) and self.problem() == "")

    def problem(self) -> str:
        status = read_status(self.up.data)
        return "no delivery yet" if status is None else status.problem

    def lines(self) -> list[dict[str, str]]:
        """The records in all files of the folder."""
        found = []
        for path in (self.up.data / "logs" / "delivered" / "media-logs" / "cdn").glob("[!.]*"):
            version, fields, *lines = gzip.decompress(path.read_bytes()).decode("ascii").splitlines()
            assert version == "#Version: 1.0"
            assert fields == f"#Fields: {' '.join(LEGACY)}"
            assert path.name.startswith(f"{self.id}.2")
            found += [dict(zip(LEGACY, line.split("\t"), strict=True)) for line in lines]
        return found

    def objects(self) -> list[dict[str, str]]:
        """The records in all objects of the bucket."""
        client = self.weed.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="lake", Prefix="logs/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        assert all(key.startswith(f"logs/id=x/{self.id}/year=20") for key in keys)
        bodies = [gzip.decompress(client.get_object(Bucket="lake", Key=key)["Body"].read()) for key in keys]
        return [json.loads(line) for body in bodies for line in body.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if seaweedfs.unable():
        pytest.skip(seaweedfs.unable())
    folder = tmp_path_factory.mktemp("logs")
    deliveries = folder / "deliveries.toml"
    with pytest.MonkeyPatch.context() as patch, seaweedfs.Weed() as weed, served(respond) as port:
        patch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.WRITER[0])
        patch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.WRITER[1])
        weed.client().create_bucket(Bucket="lake")
        deliveries.write_text(
            f'[[delivery]]\nname = "lake"\nto = "s3://lake/logs"\nendpoint = "{weed.url}"\nformat = "json"\n'
            f'fields = {json.dumps(FIELDS)}\npath = "id=x/{{DistributionId}}/year={{yyyy}}"\n'
        )
        options = ("--log-interval", "1s", "--log-deliveries", str(deliveries))
        with Up(folder / "data", workers=2, options=options) as up:
            client = up.client()
            public = {"CallerReference": "k", "Name": "k", "EncodedKey": key("ec").public_key.pem}
            key_id = client.create_public_key(PublicKeyConfig=public)["PublicKey"]["Id"]
            group = client.create_key_group(KeyGroupConfig={"Name": "g", "Items": [key_id]})["KeyGroup"]["Id"]
            config = distribution_config("logs", port, [], paths={"/private/*": [group]})
            config["Logging"] = {
                "Enabled": True,
                "IncludeCookies": True,
                "Bucket": "media-logs.s3.amazonaws.com",
                "Prefix": "cdn",
            }
            made = client.create_distribution(DistributionConfig=config)["Distribution"]
            up.deployed(made["Id"])
            yield Place(up, weed, made, LocalSigner(key_id, key("ec")))


def exchange(place: Place, *requests: bytes) -> list[int]:
    """Send requests over one connection. Returns the bytes of each response."""
    sizes = []
    with socket.create_connection((place.up.host, place.up.edge_port)) as connection:
        for raw in requests:
            connection.sendall(raw)
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            while len(body) < length and not raw.startswith(b"HEAD") and b" 304 " not in head[:14]:
                body += connection.recv(65536)
            sizes.append(len(head) + 4 + len(body))
    return sizes


def test_a_session_is_logged_as_cloudfront_logs_it(place: Place) -> None:
    host = place.host.encode()
    plain = (
        b"GET /a%20b?x=%22&y=1 HTTP/1.1\r\nHost: "
        + host
        + (
            b'\r\nUser-Agent: Mozilla/5.0 (caf\xe9)\r\nReferer: http://r.test/#"\r\nCookie: a=1; b={2}\r\n'
            b"X-Forwarded-For: 192.0.2.7\r\n\r\n"
        )
    )
    ranged = b"GET /a%20b?x=%22&y=1 HTTP/1.1\r\nHost: " + host + b"\r\nRange: bytes=5-9\r\n\r\n"
    head = b"HEAD /a%20b?x=%22&y=1 HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    missing = b"GET /missing HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    refused = b"GET /private/a?Expires=1&Signature=a~_&Key-Pair-Id=K HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    posted = b"POST /a HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 5\r\n\r\nhello"
    requests = [plain] * 4 + [ranged, head, missing, refused, posted]
    sizes = exchange(place, *requests)
    place.up.until(lambda: place.problem() == "" and len(place.lines()) >= len(requests))
    found = {line["x-edge-request-id"]: line for line in place.lines()}
    ids = [
        r["request_id"] for r in place.up.records() if r["path"] in ("/a%20b", "/missing", "/private/a", "/a")
    ]
    lines = [found[id_] for id_ in ids]
    assert len(lines) == len(requests)
    assert [int(line["sc-bytes"]) for line in lines] == sizes
    assert [int(line["cs-bytes"]) for line in lines] == [len(raw) for raw in requests]
    assert {line["cs-protocol-version"] for line in lines} == {"HTTP/1.1"}
    columns = (
        "cs-method",
        "cs-uri-stem",
        "sc-status",
        "x-edge-result-type",
        "sc-content-len",
        "sc-range-start",
    )
    assert [tuple(line[name] for name in columns) for line in lines] == [
        ("GET", "/a%2520b", "200", "Miss", "500", "-"),
        *[("GET", "/a%2520b", "200", "Hit", "500", "-")] * 3,
        ("GET", "/a%2520b", "206", "Hit", "5", "5"),
        ("HEAD", "/a%2520b", "200", "Hit", "500", "-"),
        ("GET", "/missing", "404", "Error", "4", "-"),
        ("GET", "/private/a", "403", "Error", lines[7]["sc-content-len"], "-"),
        ("POST", "/a", "403", "Error", lines[8]["sc-content-len"], "-"),
    ]
    for line in lines[:4]:
        assert line["cs-uri-query"] == "x=%2522&y=1"
        assert line["cs(User-Agent)"] == "Mozilla/5.0%20(caf%E9)"
        assert line["cs(Referer)"] == "http://r.test/%23%22"
        assert line["cs(Cookie)"] == "a=1;%20b=%7B2%7D"
        assert line["x-forwarded-for"] == "192.0.2.7"
        assert line["sc-content-type"] == "text/plain;%20charset=utf-8"
        assert (line["cs(Host)"], line["x-host-header"]) == (place.host, place.host)
    assert lines[7]["cs-uri-query"] == "Expires=1&Signature=a%7E_&Key-Pair-Id=K"
    assert "Signature" not in (place.up.data / "logs" / "access.jsonl").read_text()


def test_goaccess_reads_it(place: Place, tmp_path: Path) -> None:
    goaccess = shutil.which("goaccess")
    if goaccess is None:
        pytest.skip("no goaccess on this machine")
    exchange(place, *[b"GET /g HTTP/1.1\r\nHost: " + place.host.encode() + b"\r\n\r\n"] * 5)
    place.up.until(lambda: any(line["cs-uri-stem"] == "/g" for line in place.lines()))
    log = tmp_path / "log"
    folder = place.up.data / "logs" / "delivered" / "media-logs" / "cdn"
    log.write_bytes(b"".join([gzip.decompress(path.read_bytes()) for path in folder.glob("[!.]*")]))
    invalid = tmp_path / "invalid"
    command = [goaccess, str(log), "--log-format=CLOUDFRONT", "-o", "json", "--no-global-config"]
    done = subprocess.run(
        [*command, f"--invalid-requests={invalid}"], capture_output=True, text=True, timeout=60, check=True
    )
    general = json.loads(done.stdout)["general"]
    assert (general["failed_requests"], invalid.read_text()) == (0, "")
    assert general["valid_requests"] >= 5


def test_every_record_is_delivered_once_whatever_happens(place: Place) -> None:
    """The bucket hangs, the process is killed again and again, and workers are killed too."""
    url = sign_url(f"http://{place.host}/private/x", place.signer, expires=int(time.time()) + 600)
    target = url.removeprefix(f"http://{place.host}")
    place.up.until(lambda: place.deliverer() != 0)
    for turn in range(4):
        with suspended(place.weed.pid) if turn % 2 else suspended():
            for number in range(10):
                assert place.up.get(place.host, f"/once/{number}").status == 200
                assert place.up.get(place.host, target).status == 200
                assert place.up.get(place.host, "/private/y").status == 403
            if pid := place.deliverer():
                os.kill(pid, signal.SIGKILL)
                place.up.until(lambda: has_exited(pid))
        place.up.until(lambda: place.deliverer() != 0)
    place.up.until(lambda: len(list(place.up.records())) >= 120)
    place.delivered()
    records = Counter(r["request_id"] for r in place.up.records() if r["distribution"] == place.id)
    assert Counter(line["x-edge-request-id"] for line in place.lines()) == records
    objects = place.objects()
    assert Counter(line["x-edge-request-id"] for line in objects) == records
    assert list(objects[0]) == FIELDS
    assert {line["kf-verdict"] for line in objects} >= {"-", "allowed", "refused"}
    assert all(line["connection-id"] != "-" for line in objects)


def test_it_goes_on_after_a_restart(place: Place) -> None:
    place.up.until(lambda: place.deliverer() != 0)
    before = place.deliverer()
    os.kill(place.up.pid, signal.SIGUSR2)
    place.up.until(lambda: has_exited(before))
    place.up.until(lambda: sum("keyfront ready" in line for line in place.up.log) == 2)
    answer = place.up.get(place.host, "/after")
    place.up.until(lambda: any(line["cs-uri-stem"] == "/after" for line in place.lines()))
    assert answer.status == 200
    assert not Path(f"/proc/{before}").exists()  # nor is it a zombie
