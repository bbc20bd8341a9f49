"""`keyfront up -vv --log-format json`: what an operator finds in the log, and what must never be in it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from keyfront import sign_cookies, sign_url, signer_for
from keyfront.cli.main import keyfront
from keyfront.custody.key_record import load
from keyfront.custody.schemes import open_records
from tests.keys import public_pem
from tests.origin import ScriptedOrigin, answer, closed_port
from tests.up import Up, distribution_config

PASSPHRASE = "correct horse battery staple"
ORIGIN_SECRET = "shared-with-the-origin-only"
VIEWER_SECRET = "session-of-one-viewer"


def run(up: Up, monkeypatch: pytest.MonkeyPatch, *argv: str) -> str:
    with monkeypatch.context() as patched:
        for name, value in up.environment.items():
            patched.setenv(name, value)
        done = CliRunner().invoke(keyfront, [*argv, "--endpoint-url", up.endpoint])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def create_distribution(up: Up, reference: str, port: int, group: str) -> dict[str, Any]:
    config = distribution_config(reference, port, [group])
    config["Origins"]["Items"][0]["CustomHeaders"] = {
        "Quantity": 1,
        "Items": [{"HeaderName": "X-Origin-Secret", "HeaderValue": ORIGIN_SECRET}],
    }
    made: dict[str, Any] = up.client().create_distribution(DistributionConfig=config)["Distribution"]
    return made


def call_with_wrong_credentials(up: Up, access_key_id: str) -> str:
    """Returns the secret that was used; it grants nothing."""
    secret = "wrong" + "w" * 35
    client = boto3.client(
        "cloudfront",
        endpoint_url=up.endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
    )
    with pytest.raises(ClientError):
        client.list_distributions()
    # Also with the secret in the query string, where a presigned URL has its signature.
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{up.endpoint}/2020-05-31/distribution?X-Amz-Signature={secret}", timeout=10)
    return secret


async def test_the_log_has_the_events_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYFRONT_CUSTODY_PASSPHRASE", PASSPHRASE)
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "KEYFRONT_RECORDS"):
        monkeypatch.delenv(name, raising=False)
    secrets = [PASSPHRASE, ORIGIN_SECRET, VIEWER_SECRET]
    up = Up(tmp_path / "data", workers=1, options=("--cache-disk", "0", "-vv", "--log-format", "json"))
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"the film", {"Cache-Control": "max-age=600"}))
        with up:
            secrets += await asyncio.to_thread(exercise, up, monkeypatch, origin.port)
        assert origin.requests[0].header("x-origin-secret") == ORIGIN_SECRET
    text = "".join(up.log)
    for secret in secrets:
        assert secret not in text, f"a secret is in the log: {secret[:6]}…"
    assert "PRIVATE KEY" not in text
    ready, records = read_log(up.log)
    assert ready == 1
    assert_events(records)


def exercise(up: Up, monkeypatch: pytest.MonkeyPatch, port: int) -> list[str]:
    """Exercise everything that handles secrets. Returns the secrets that occurred."""
    client = up.client()
    config = {"CallerReference": "one", "Name": "none", "EncodedKey": public_pem()}
    key = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
    group = client.create_key_group(KeyGroupConfig={"Name": "films", "Items": [key]})["KeyGroup"]["Id"]
    made = create_distribution(up, "one", port, group)
    place = f"file:{up.data}/custody/"
    account = ("--data", str(up.data))
    run(up, monkeypatch, "rotation", "start", "films", *account, "--settle", "0", "--max-staleness", "5s")

    def signing_key() -> str:
        kept = load(open_records(place), "films")
        return kept.record.signing.key_pair_id if kept and kept.record.signing else ""

    up.until(lambda: bool(signing_key()), 60)
    host = made["DomainName"]
    signer = signer_for("films", records=place)
    signed = sign_url(f"http://{host}/a?token={VIEWER_SECRET}", signer, expires=timedelta(hours=1))
    target = signed.partition(host)[2]
    up.until(lambda: up.get(host, target).status == 200, 60)
    cookies = sign_cookies(f"http://{host}/*", signer, expires=timedelta(hours=1))
    header = f"{cookies.header}; session={VIEWER_SECRET}"
    assert up.get(host, "/a", {"Cookie": header, "Authorization": f"Bearer {VIEWER_SECRET}"}).status == 200
    assert up.get(host, target.replace("Signature=", "Signature=x")).status == 403
    credentials = up.credentials()
    wrong = call_with_wrong_credentials(up, credentials["aws_access_key_id"])
    down = create_distribution(up, "two", closed_port(), group)
    up.deployed(down["Id"], 60)
    lost = sign_url(f"http://{down['DomainName']}/a", signer, expires=timedelta(hours=1))
    assert up.get(down["DomainName"], lost.partition(down["DomainName"])[2]).status == 502
    client.create_invalidation(
        DistributionId=made["Id"],
        InvalidationBatch={"CallerReference": "i", "Paths": {"Quantity": 1, "Items": ["/*"]}},
    )
    before = signing_key()
    run(up, monkeypatch, "rotation", "rotate", "films", *account)
    up.until(lambda: signing_key() != before, 60)
    up.until(lambda: any('"invalidations applied"' in line for line in up.log), 60)
    values = list(re.findall(r"(?:Signature|Policy)=([^&;]+)", f"{signed}&{cookies.header}"))
    assert len(values) >= 2
    own = base64.b64encode((up.data / "credentials").read_bytes()[-40:]).decode()
    return [credentials["aws_secret_access_key"], wrong, own, *values]


def read_log(lines: list[str]) -> tuple[int, list[dict[str, Any]]]:
    """The number of ready lines, and all other lines, each of which is one JSON object."""
    rest = [line for line in lines if not line.startswith("keyfront ready ")]
    return len(lines) - len(rest), [json.loads(line) for line in rest]


def assert_events(records: list[dict[str, Any]]) -> None:
    assert all({"time", "level", "logger", "message", "process", "pid"} <= set(record) for record in records)
    assert {record["process"] for record in records} == {"up", "control", "edge-1"}
    found = {(record["process"], record["message"]) for record in records}
    assert found >= {
        ("up", "process started"),
        ("up", "process ready"),
        ("up", "process stopped"),
        ("control", "API call"),
        ("control", "feed written"),
        ("control", "leadership gained"),
        ("control", "opening custody"),
        ("edge-1", "snapshot applied"),
        ("edge-1", "invalidations applied"),
        ("edge-1", "origin connection failed"),
    }
    calls = [record for record in records if record["message"] == "API call"]
    assert any(call["action"] == "CreateKeyGroup" and call["status"] == 201 for call in calls)
    refused = [call for call in calls if call["status"] == 403]
    assert refused
    assert all(call["caller"] == "-" for call in refused)
