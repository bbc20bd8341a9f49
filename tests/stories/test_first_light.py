"""First light: every client sets up content, every signer's URLs open it, and every corrupted URL is refused with the
exact bytes.

Each API client creates a key, a group and a distribution on its own fresh Keyfront. The edge's workers then serve the
URLs of each signer, and refuse them when they are corrupted, expired, for another path, for another address, or after
the key has left its group.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from botocore.signers import CloudFrontSigner

from keyfront import load_private_key, load_signer, sign_url
from keyfront.errors import Denial
from tests.up import Answer, Up, distribution_config, seconds

HERE = Path(__file__).resolve().parent.parent
NODE = HERE / "node"
PRIVATE = HERE / "vectors" / "keys" / "rsa.pem"
PUBLIC = HERE / "vectors" / "keys" / "rsa.pub"
OTHER = HERE / "vectors" / "keys" / "other.pub"
AWS = shutil.which("aws", path=str(Path(sys.executable).parent))
NPM = shutil.which("node") and (NODE / "node_modules" / "@aws-sdk").exists()

Call = Callable[..., dict[str, Any]]


# -- API clients: one operation each -------------------------------------------------------------------------------


def snake(operation: str, joint: str = "_") -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", joint, operation).lower()


def boto3_call(up: Up) -> Call:
    client = up.client()
    return lambda operation, **params: getattr(client, snake(operation))(**params)


def awscli_call(up: Up) -> Call:
    if AWS is None:
        pytest.skip("the AWS CLI is not installed beside this Python")

    def call(operation: str, **params: Any) -> dict[str, Any]:
        argv = [AWS, "--endpoint-url", up.endpoint, "--output", "json", "cloudfront", snake(operation, "-")]
        argv += ["--cli-input-json", json.dumps(params)]
        done = subprocess.run(
            argv, env=up.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else {}

    return call


def npm_call(up: Up) -> Call:
    if not NPM:
        pytest.skip("node or @aws-sdk/client-cloudfront is not installed (npm ci in tests/node)")

    def call(operation: str, **params: Any) -> dict[str, Any]:
        done = subprocess.run(
            ["node", "call.mjs", operation, json.dumps(params)],
            cwd=NODE,
            env={**up.environment, "AWS_ENDPOINT_URL": up.endpoint},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    return call


CLIENTS = {"boto3": boto3_call, "awscli": awscli_call, "npm": npm_call}


# -- signers: a URL until an epoch second, optionally for one network only -----------------------------------------


def by_keyfront(url: str, key_id: str, expires: int, ip: str | None) -> str:
    return sign_url(url, load_signer(key_id, PRIVATE), expires=datetime.fromtimestamp(expires, UTC), ip=ip)


def by_botocore(url: str, key_id: str, expires: int, ip: str | None) -> str:
    private = load_private_key(PRIVATE)
    signer = CloudFrontSigner(key_id, lambda data: private.sign(data, "SHA1"))
    date = datetime.fromtimestamp(expires, UTC)
    if ip is None:
        return str(signer.generate_presigned_url(url, date))
    return str(signer.generate_presigned_url(url, policy=signer.build_policy(url, date, ip_address=ip)))


def by_awscli(url: str, key_id: str, expires: int, ip: str | None) -> str:
    if AWS is None:
        pytest.skip("the AWS CLI is not installed beside this Python")
    argv = [
        AWS,
        "cloudfront",
        "sign",
        "--url",
        url,
        "--key-pair-id",
        key_id,
        "--private-key",
        PRIVATE.as_uri(),
    ]
    argv += ["--date-less-than", str(expires), *(["--ip-address", ip] if ip else [])]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def by_npm(url: str, key_id: str, expires: int, ip: str | None) -> str:
    if not NPM:
        pytest.skip("node or @aws-sdk/cloudfront-signer is not installed (npm ci in tests/node)")
    args = {"url": url, "keyPairId": key_id, "privateKey": PRIVATE.read_text(), "ipAddress": ip}
    args["dateLessThan"] = datetime.fromtimestamp(expires, UTC).isoformat()
    jobs = [{"kind": "url", "args": {k: v for k, v in args.items() if v is not None}}]
    done = subprocess.run(
        ["node", "sign.mjs"],
        cwd=NODE,
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return str(json.loads(done.stdout)[0])


def by_openssl(url: str, key_id: str, expires: int, ip: str | None) -> str:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    condition: dict[str, Any] = {"DateLessThan": {"AWS:EpochTime": expires}}
    if ip is not None:
        condition["IpAddress"] = {"AWS:SourceIp": ip}
    statement = {"Statement": [{"Resource": url, "Condition": condition}]}
    policy = json.dumps(statement, separators=(",", ":")).encode()

    def run(recipe: str) -> str:
        shell = ["sh", "-c", recipe + " | openssl base64 -A | tr -- '+=/' '-_~'"]
        return subprocess.run(
            shell, input=policy, capture_output=True, timeout=60, check=True
        ).stdout.decode()

    signature = run(f"openssl sha1 -sign '{PRIVATE}'")
    terms = f"Expires={expires}" if ip is None else "Policy=" + run("cat")
    return f"{url}?{terms}&Signature={signature}&Key-Pair-Id={key_id}"


SIGNERS = {
    "keyfront": by_keyfront,
    "botocore": by_botocore,
    "awscli": by_awscli,
    "npm": by_npm,
    "openssl": by_openssl,
}


# -- the application server -----------------------------------------------------------------------------------------


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"private: " + self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=300")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def app() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def refused(answer: Answer, denial: Denial) -> bool:
    xml = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
    assert answer.body == xml.format(denial.code, denial.message).encode(), answer
    assert answer.headers["content-type"] == "text/xml"
    return answer.status == 403 and answer.x_cache == "Error"


@pytest.mark.parametrize("client", CLIENTS)
def test_set_up_by_each_client_opened_by_each_signer(client: str, app: int, tmp_path: Path) -> None:
    with Up(tmp_path / "data") as up:
        call = CLIENTS[client](up)
        key = call(
            "CreatePublicKey",
            PublicKeyConfig={"CallerReference": "1", "Name": "media", "EncodedKey": PUBLIC.read_text()},
        )["PublicKey"]
        other = call(
            "CreatePublicKey",
            PublicKeyConfig={"CallerReference": "2", "Name": "next", "EncodedKey": OTHER.read_text()},
        )["PublicKey"]
        made = call("CreateKeyGroup", KeyGroupConfig={"Name": "media", "Items": [key["Id"]]})
        group = made["KeyGroup"]["Id"]
        config = distribution_config("1", app, [], paths={"/private/*": [group]})
        distribution = call("CreateDistribution", DistributionConfig=config)["Distribution"]
        up.deployed(distribution["Id"])
        host = f"{distribution['DomainName']}:{up.edge_port}"
        base = f"http://{host}"

        def get(url: str) -> Answer:
            return up.get(host, url.removeprefix(base))

        assert get(base + "/open").status == 200
        assert refused(get(base + "/private/a"), Denial.MISSING_KEY_PAIR_ID)
        soon = int(time.time()) + 600
        good = {}
        for name, sign in SIGNERS.items():
            url = base + "/private/" + name
            signed = good[name] = sign(url, key["Id"], soon, None)
            answer = get(signed)
            assert (answer.status, answer.body) == (200, b"private: /private/" + name.encode()), name
            assert get(sign(url, key["Id"], soon, "127.0.0.1")).status == 200, name
            spoilt = re.sub(r"(Signature=.{10})(.)", lambda m: m[1] + ("A" if m[2] != "A" else "B"), signed)
            assert refused(get(spoilt), Denial.SIGNATURE_MISMATCH), name
            assert refused(get(signed.replace("/private/", "/private/other-")), Denial.SIGNATURE_MISMATCH), (
                name
            )
            assert refused(get(sign(url, key["Id"], soon - 1200, None)), Denial.EXPIRED), name
            assert refused(get(sign(url, key["Id"], soon, "203.0.113.9")), Denial.WRONG_IP), name
            assert refused(get(sign(url, other["Id"], soon, None)), Denial.UNKNOWN_KEY), name

        left = call(
            "UpdateKeyGroup",
            Id=group,
            IfMatch=made["ETag"],
            KeyGroupConfig={"Name": "media", "Items": [other["Id"]]},
        )
        assert left["KeyGroup"]["KeyGroupConfig"]["Items"] == [other["Id"]]
        began = time.monotonic()
        # Every worker must obey: open many connections, so that each worker gets some.
        up.until(lambda: all(get(good["keyfront"]).status == 403 for _ in range(20)))
        assert time.monotonic() - began < seconds(1.5)
        for name, signed in good.items():
            assert refused(get(signed), Denial.UNKNOWN_KEY), name
        reasons = {r["reason"] for r in up.records() if r.get("verdict") == "refused"}
        assert {"missing_key_pair_id", "signature_mismatch", "expired", "wrong_ip", "unknown_key"} <= reasons
        assert up.stop() == 0
