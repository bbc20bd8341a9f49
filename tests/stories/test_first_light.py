"""First light: every client sets up content, every signer's URLs open it, and every corrupted URL is refused with the
exact bytes.

Each API client creates keys, a group, and a distribution. The edge's workers serve the URLs of each signer, and refuse
them when they are corrupted, expired, for another path, for another address, or after the key has left its group.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.signers import CloudFrontSigner

from keyfront import load_private_key, load_signer, sign_url
from keyfront.errors import Denial
from tests.application import Request, Response, served
from tests.awscli import Aws
from tests.up import Answer, Up, distribution_config, seconds

HERE = Path(__file__).resolve().parent.parent
NODE = HERE / "node"
PRIVATE = HERE / "vectors" / "keys" / "rsa.pem"
PUBLIC = HERE / "vectors" / "keys" / "rsa.pub"
OTHER = HERE / "vectors" / "keys" / "other.pub"
AWS_CLI = importlib.util.find_spec("awscli") is not None
NPM = shutil.which("node") and (NODE / "node_modules" / "@aws-sdk").exists()

Call = Callable[..., dict[str, Any]]

_aws: list[Aws] = []


@pytest.fixture(scope="module", autouse=True)
def aws_process(shared_up: Up) -> Iterator[None]:
    """The AWS CLI as one process for the whole module."""
    if AWS_CLI:
        with Aws(shared_up.environment) as running:
            _aws.append(running)
            yield
        _aws.clear()
    else:
        yield


def awscli() -> Aws:
    if not _aws:
        pytest.skip("the AWS CLI is not installed beside this Python")
    return _aws[0]


# -- API clients: one operation each -------------------------------------------------------------------------------


def snake(operation: str, joint: str = "_") -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", joint, operation).lower()


def boto3_call(up: Up) -> Call:
    client = up.client()
    return lambda operation, **params: getattr(client, snake(operation))(**params)


def awscli_call(up: Up) -> Call:
    def call(operation: str, **params: Any) -> dict[str, Any]:
        argv = ["--endpoint-url", up.endpoint, "cloudfront", snake(operation, "-")]
        done = awscli().run(*argv, "--cli-input-json", json.dumps(params))
        assert done.status == 0, done.err
        return json.loads(done.out) if done.out.strip() else {}

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


# -- signers --------------------------------------------------------------------------------------------------------


class Link(NamedTuple):
    """A URL to sign: until an epoch second, optionally for one network only."""

    url: str
    key_id: str
    expires: int
    ip: str | None = None


def by_keyfront(links: list[Link]) -> list[str]:
    return [
        sign_url(
            link.url,
            load_signer(link.key_id, PRIVATE),
            expires=datetime.fromtimestamp(link.expires, UTC),
            ip=link.ip,
        )
        for link in links
    ]


def by_botocore(links: list[Link]) -> list[str]:
    private = load_private_key(PRIVATE)

    def sign(link: Link) -> str:
        signer = CloudFrontSigner(link.key_id, lambda data: private.sign(data, "SHA1"))
        date = datetime.fromtimestamp(link.expires, UTC)
        if link.ip is None:
            return str(signer.generate_presigned_url(link.url, date))
        policy = signer.build_policy(link.url, date, ip_address=link.ip)
        return str(signer.generate_presigned_url(link.url, policy=policy))

    return [sign(link) for link in links]


def by_awscli(links: list[Link]) -> list[str]:
    def sign(link: Link) -> str:
        argv = ["--url", link.url, "--key-pair-id", link.key_id, "--private-key", PRIVATE.as_uri()]
        argv += ["--date-less-than", str(link.expires), *(["--ip-address", link.ip] if link.ip else [])]
        done = awscli().run("cloudfront", "sign", *argv)
        assert done.status == 0, done.err
        return done.out.strip()

    return [sign(link) for link in links]


def by_npm(links: list[Link]) -> list[str]:
    if not NPM:
        pytest.skip("node or @aws-sdk/cloudfront-signer is not installed (npm ci in tests/node)")
    key = PRIVATE.read_text()
    jobs = []
    for link in links:
        args = {"url": link.url, "keyPairId": link.key_id, "privateKey": key, "ipAddress": link.ip}
        args["dateLessThan"] = datetime.fromtimestamp(link.expires, UTC).isoformat()
        jobs.append({"kind": "url", "args": {k: v for k, v in args.items() if v is not None}})
    done = subprocess.run(
        ["node", "sign.mjs"],
        cwd=NODE,
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [str(url) for url in json.loads(done.stdout)]


def by_openssl(links: list[Link]) -> list[str]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")

    def sign(link: Link) -> str:
        condition: dict[str, Any] = {"DateLessThan": {"AWS:EpochTime": link.expires}}
        if link.ip is not None:
            condition["IpAddress"] = {"AWS:SourceIp": link.ip}
        statement = {"Statement": [{"Resource": link.url, "Condition": condition}]}
        policy = json.dumps(statement, separators=(",", ":")).encode()

        def run(recipe: str) -> str:
            shell = ["sh", "-c", recipe + " | openssl base64 -A | tr -- '+=/' '-_~'"]
            return subprocess.run(
                shell, input=policy, capture_output=True, timeout=60, check=True
            ).stdout.decode()

        signature = run(f"openssl sha1 -sign '{PRIVATE}'")
        terms = f"Expires={link.expires}" if link.ip is None else "Policy=" + run("cat")
        return f"{link.url}?{terms}&Signature={signature}&Key-Pair-Id={link.key_id}"

    return [sign(link) for link in links]


SIGNERS = {
    "keyfront": by_keyfront,
    "botocore": by_botocore,
    "awscli": by_awscli,
    "npm": by_npm,
    "openssl": by_openssl,
}


# -- the stories ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app() -> Iterator[int]:
    def respond(request: Request) -> Response:
        return Response(b"private: " + request.target.encode(), {"Cache-Control": "max-age=300"})

    with served(respond) as port:
        yield port


class Content:
    """Private content behind `/private/*`, set up by one client."""

    def __init__(self, up: Up, call: Call, name: str, app: int) -> None:
        self.up = up
        self.call = call
        self.name = name
        self.key, self.other = (
            call(
                "CreatePublicKey",
                PublicKeyConfig={
                    "CallerReference": f"{name}-{number}",
                    "Name": f"{name}-{number}",
                    "EncodedKey": path.read_text(),
                },
            )["PublicKey"]["Id"]
            for number, path in enumerate((PUBLIC, OTHER))
        )
        self._group = call("CreateKeyGroup", KeyGroupConfig={"Name": name, "Items": [self.key]})
        config = distribution_config(name, app, [], paths={"/private/*": [self._group["KeyGroup"]["Id"]]})
        made = call("CreateDistribution", DistributionConfig=config)["Distribution"]
        up.deployed(made["Id"])
        self._host = f"{made['DomainName']}:{up.edge_port}"
        self.base = f"http://{self._host}"

    def get(self, url: str) -> Answer:
        return self.up.get(self._host, url.removeprefix(self.base))

    def replace_key(self) -> None:
        """Replace the group's key by the other one."""
        updated = self.call(
            "UpdateKeyGroup",
            Id=self._group["KeyGroup"]["Id"],
            IfMatch=self._group["ETag"],
            KeyGroupConfig={"Name": self.name, "Items": [self.other]},
        )
        assert updated["KeyGroup"]["KeyGroupConfig"]["Items"] == [self.other]


@pytest.fixture(scope="module")
def content(shared_up: Up, app: int) -> Content:
    shared_up.well()
    return Content(shared_up, boto3_call(shared_up), "signers", app)


def refused(answer: Answer, denial: Denial) -> bool:
    xml = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
    assert answer.body == xml.format(denial.code, denial.message).encode(), answer
    assert answer.headers["content-type"] == "text/xml"
    return answer.status == 403 and answer.x_cache == "Error"


@pytest.mark.parametrize("client", CLIENTS)
def test_content_set_up_by_each_client(client: str, shared_up: Up, app: int) -> None:
    up = shared_up
    up.well()
    content = Content(up, CLIENTS[client](up), client, app)
    assert content.get(content.base + "/open").status == 200
    url = content.base + "/private/a"
    assert refused(content.get(url), Denial.MISSING_KEY_PAIR_ID)
    (good,) = by_keyfront([Link(url, content.key, int(time.time()) + 600)])
    assert content.get(good).status == 200

    content.replace_key()
    began = time.monotonic()
    # Every worker must obey: open many connections, so that each worker gets some.
    up.until(lambda: all(content.get(good).status == 403 for _ in range(20)))
    assert time.monotonic() - began < seconds(1.5)
    assert refused(content.get(good), Denial.UNKNOWN_KEY)


@pytest.mark.parametrize("signer", SIGNERS)
def test_urls_of_each_signer(signer: str, content: Content) -> None:
    url = f"{content.base}/private/{signer}"
    soon = int(time.time()) + 600
    good, for_us, late, for_others, unknown = SIGNERS[signer](
        [
            Link(url, content.key, soon),
            Link(url, content.key, soon, "127.0.0.1"),
            Link(url, content.key, soon - 1200),
            Link(url, content.key, soon, "203.0.113.9"),
            Link(url, content.other, soon),
        ]
    )
    answer = content.get(good)
    assert (answer.status, answer.body) == (200, b"private: /private/" + signer.encode())
    assert content.get(for_us).status == 200
    corrupted = re.sub(r"(Signature=.{10})(.)", lambda m: m[1] + ("A" if m[2] != "A" else "B"), good)
    assert refused(content.get(corrupted), Denial.SIGNATURE_MISMATCH)
    assert refused(content.get(good.replace("/private/", "/private/other-")), Denial.SIGNATURE_MISMATCH)
    assert refused(content.get(late), Denial.EXPIRED)
    assert refused(content.get(for_others), Denial.WRONG_IP)
    assert refused(content.get(unknown), Denial.UNKNOWN_KEY)
    expected = {"signature_mismatch", "expired", "wrong_ip", "unknown_key"}

    def recorded() -> set[str]:
        return {
            r["reason"] for r in content.up.records() if r["path"] == f"/private/{signer}" and "reason" in r
        }

    content.up.until(lambda: expected <= recorded())
