"""Makes a data folder with an earlier version of Keyfront, for tests/stories/test_upgrade.py.

`python -m scripts.old_data_folder COMMIT` starts `keyfront up` of that commit, with the packages of this environment,
gives it content by its API, its commands, and requests of viewers, stops it, and writes
tests/upgrade/COMMIT.tar.gz: the folder `data`, and `facts.json` with what the test needs to know about it. The keys in
the archive are for this test alone.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "tests" / "upgrade"
FAR = 2_500_000_000
"""When the signed link expires, epoch seconds: in 2049."""
BIG = 1 << 21
"""Bytes of a body that is stored in slices."""


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers every path with a body that may be cached for ten years."""

    def do_GET(self) -> None:
        body = b"x" * BIG if self.path == "/big" else f"old {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=315360000")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Old:
    """`keyfront` of the commit whose source is in `tree`, with the data folder `data`."""

    def __init__(self, tree: Path, data: Path) -> None:
        self.data = data
        others = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "KEYFRONT_"))}
        self.environment = {**others, "PYTHONPATH": str(tree / "src"), "KEYFRONT_DATA": str(data)}
        self.ports: dict[str, int] = {}

    def run(self, *words: str) -> str:
        """The standard output of a command."""
        argv = [sys.executable, "-m", "keyfront", *words]
        done = subprocess.run(argv, env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """`keyfront up`, until the end of the block."""
        options = [
            "--data",
            str(self.data),
            "--edge",
            "127.0.0.1:0",
            "--control",
            "127.0.0.1:0",
            "--workers",
            "1",
        ]
        argv = [sys.executable, "-m", "keyfront", "up", *options]
        with subprocess.Popen(argv, env=self.environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            self.ports = {
                name: int(port) for name, port in re.findall(r"(edge|control)=http://\S+?:(\d+)", line)
            }
            try:
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()

    def client(self) -> Any:
        secrets = dict(
            re.findall(r"(aws_access_key_id|aws_secret_access_key) *= *(\S+)", self._credentials())
        )
        endpoint = f"http://127.0.0.1:{self.ports['control']}"
        return boto3.client("cloudfront", endpoint_url=endpoint, region_name="us-east-1", **secrets)

    def _credentials(self) -> str:
        return (self.data / "credentials").read_text()

    def get(self, host: str, target: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["edge"], timeout=60)
        connection.request("GET", target, headers={"Host": host})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status


def until(true: Callable[[], object]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise TimeoutError


def fill(old: Old, origin: int) -> dict[str, Any]:
    """Give the running Keyfront content. Returns the facts."""
    client = old.client()
    pem = (ROOT / "tests" / "vectors" / "keys" / "rsa.pub").read_text()
    key = client.create_public_key(
        PublicKeyConfig={"CallerReference": "1", "Name": "first", "EncodedKey": pem}
    )
    key_id = key["PublicKey"]["Id"]
    group = client.create_key_group(KeyGroupConfig={"Name": "films", "Items": [key_id], "Comment": "of old"})
    group_id = group["KeyGroup"]["Id"]
    policy = client.create_response_headers_policy(
        ResponseHeadersPolicyConfig={
            "Name": "marked",
            "CustomHeadersConfig": {
                "Quantity": 1,
                "Items": [{"Header": "X-Of", "Value": "old", "Override": True}],
            },
        }
    )["ResponseHeadersPolicy"]["Id"]
    behavior = {
        "TargetOriginId": "app",
        "ViewerProtocolPolicy": "allow-all",
        "CachePolicyId": "658327ea-f89d-4fab-a63d-7e88639e58f6",
        "ResponseHeadersPolicyId": policy,
    }
    trusted = {"Enabled": True, "Quantity": 1, "Items": [group_id]}
    config = {
        "CallerReference": "1",
        "Comment": "of an earlier version",
        "Enabled": True,
        "Origins": {
            "Quantity": 1,
            "Items": [
                {
                    "Id": "app",
                    "DomainName": "127.0.0.1",
                    "CustomOriginConfig": {
                        "HTTPPort": origin,
                        "HTTPSPort": 443,
                        "OriginProtocolPolicy": "http-only",
                    },
                }
            ],
        },
        "DefaultCacheBehavior": {**behavior, "TrustedKeyGroups": {"Enabled": False, "Quantity": 0}},
        "CacheBehaviors": {
            "Quantity": 1,
            "Items": [{"PathPattern": "/private/*", **behavior, "TrustedKeyGroups": trusted}],
        },
    }
    tags = {"Items": [{"Key": "team", "Value": "films"}]}
    made = client.create_distribution_with_tags(
        DistributionConfigWithTags={"DistributionConfig": config, "Tags": tags}
    )["Distribution"]
    id_, host = made["Id"], made["DomainName"]
    until(lambda: client.get_distribution(Id=id_)["Distribution"]["Status"] == "Deployed")
    client.create_invalidation(
        DistributionId=id_,
        InvalidationBatch={"CallerReference": "1", "Paths": {"Quantity": 1, "Items": ["/gone*"]}},
    )
    old.run("access", "user", "create", "ci", "--role", "key-manager")
    old.run("rotation", "start", "films", "--every", "3650d")
    record = old.data / "custody"
    until(lambda: "SIGNING" in old.run("rotation", "status"))
    link = old.run(
        "sign",
        f"http://{host}/private/a",
        "--key-pair-id",
        key_id,
        "--private-key",
        str(ROOT / "tests" / "vectors" / "keys" / "rsa.pem"),
        "--expires",
        str(FAR),
    ).strip()
    target = link.removeprefix(f"http://{host}")
    for path in ("/a", "/big", target):
        assert old.get(host, path) == 200, path
    assert old.get(host, "/private/a") == 403
    until(lambda: len(list((old.data / "cache").glob("??/*"))) >= 4)
    client.get_distribution(Id=id_)
    status = json.loads(old.run("rotation", "status", "films", "--json"))
    assert record.is_dir()
    return {
        "distribution": id_,
        "host": host,
        "key": key_id,
        "group": group_id,
        "policy": policy,
        "link": target,
        "keys": client.get_key_group(Id=group_id)["KeyGroup"]["KeyGroupConfig"]["Items"],
        "etag": client.get_distribution(Id=id_)["ETag"],
        "rotation": status,
    }


def main(commit: str) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="keyfront-") as folder:
        tree, data = Path(folder) / "tree", Path(folder) / "data"
        source = Path(folder) / "source.tar"
        subprocess.run(["git", "-C", str(ROOT), "archive", "-o", source, commit, "src"], check=True)
        with tarfile.open(source) as packed:
            packed.extractall(tree, filter="data")
        old = Old(tree, data)
        with old.up():
            facts = fill(old, server.server_port)
        facts["data"] = str(data)
        facts["cached"] = len(list((data / "cache").glob("??/*")))
        facts["audit"] = old_audit_records(data)
        (Path(folder) / "facts.json").write_text(json.dumps(facts, indent=1))
        TARGET.mkdir(exist_ok=True)
        with tarfile.open(TARGET / f"{commit}.tar.gz", "w:gz") as archive:
            for name in ("facts.json", "data"):
                archive.add(Path(folder) / name, name)


def old_audit_records(data: Path) -> int:
    """The number of records in the audit log."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(data / "keyfront.db")) as database:
        found: int = database.execute("SELECT count(*) FROM audit").fetchone()[0]
    return found


if __name__ == "__main__":
    main(sys.argv[1])
