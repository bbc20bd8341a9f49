"""The control plane through the AWS CLI and through the AWS SDK for JavaScript, as their users run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.plane import Plane, distribution_config, public_pem

CLI = Path(sys.executable).with_name("aws")
NODE = Path(__file__).parents[1] / "node"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


def run(plane: Plane, *argv: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        argv, env={**kept, **plane.environment}, capture_output=True, text=True, timeout=60, check=False
    )


def aws(plane: Plane, command: str, *options: str) -> Any:
    """The answer of a command that succeeds."""
    done = run(plane, str(CLI), "--endpoint-url", plane.endpoint, "cloudfront", command, *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def aws_refused(plane: Plane, command: str, *options: str) -> str:
    """What a command that fails says."""
    done = run(plane, str(CLI), "cloudfront", command, *options)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.skipif(not CLI.exists(), reason="the AWS CLI is not installed")
def test_the_aws_cli(plane: Plane, tmp_path: Path) -> None:
    config = {"CallerReference": "cli", "Name": "cli", "EncodedKey": public_pem(), "Comment": "by the CLI"}
    key = aws(plane, "create-public-key", "--public-key-config", json.dumps(config))
    key_id = key["PublicKey"]["Id"]
    assert key["Location"] == f"{plane.endpoint}/2020-05-31/public-key/{key_id}"
    assert aws(plane, "get-public-key", "--id", key_id)["PublicKey"]["PublicKeyConfig"] == config
    group = aws(plane, "create-key-group", "--key-group-config", f"Name=cli,Items={key_id}")
    group_id = group["KeyGroup"]["Id"]
    said = aws_refused(plane, "delete-public-key", "--id", key_id, "--if-match", key["ETag"])
    assert "An error occurred (PublicKeyInUse) when calling the DeletePublicKey operation" in said

    made = aws(
        plane,
        "create-distribution",
        "--distribution-config",
        json.dumps(distribution_config("cli", [group_id])),
    )
    id_ = made["Distribution"]["Id"]
    changed = aws(plane, "update-distribution", "--id", id_, "--default-root-object", "index.html")
    assert changed["Distribution"]["DistributionConfig"]["DefaultRootObject"] == "index.html"
    plane.obey()
    assert aws(plane, "wait", "distribution-deployed", "--id", id_) is None
    minimal = aws(plane, "create-distribution", "--origin-domain-name", "app.example.com")
    assert minimal["Distribution"]["DistributionConfig"]["PriceClass"] == "PriceClass_All"
    listed = aws(plane, "list-distributions", "--page-size", "1")["DistributionList"]["Items"]
    assert {item["Id"] for item in listed} == {id_, minimal["Distribution"]["Id"]}
    arn = made["Distribution"]["ARN"]
    assert aws(plane, "tag-resource", "--resource", arn, "--tags", "Items=[{Key=env,Value=ci}]") is None
    tags = aws(plane, "list-tags-for-resource", "--resource", arn)["Tags"]["Items"]
    assert tags == [{"Key": "env", "Value": "ci"}]

    read = aws(plane, "get-distribution-config", "--id", id_)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(read["DistributionConfig"] | {"Enabled": False}))
    off = aws(
        plane,
        "update-distribution",
        "--id",
        id_,
        "--if-match",
        read["ETag"],
        "--distribution-config",
        f"file://{path}",
    )
    plane.obey()
    assert "(PreconditionFailed)" in aws_refused(
        plane, "delete-distribution", "--id", id_, "--if-match", read["ETag"]
    )
    assert aws(plane, "delete-distribution", "--id", id_, "--if-match", off["ETag"]) is None
    assert "(NoSuchDistribution)" in aws_refused(plane, "get-distribution", "--id", id_)
    assert aws(plane, "delete-key-group", "--id", group_id, "--if-match", group["ETag"]) is None
    assert aws(plane, "delete-public-key", "--id", key_id, "--if-match", key["ETag"]) is None


def node(plane: Plane, part: str, argument: dict[str, Any]) -> Any:
    done = run(plane, "node", str(NODE / "control.mjs"), part, json.dumps(argument))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules/@aws-sdk/client-cloudfront").exists(),
    reason="node or @aws-sdk/client-cloudfront is not installed",
)
def test_the_sdk_for_javascript(plane: Plane) -> None:
    for line_end in ("\n", "\r\n"):
        reference = f"js-{line_end!r}"
        pem = public_pem().replace("\n", line_end)
        made = node(plane, "begin", {"pem": pem, "reference": reference})
        plane.obey()
        node(plane, "end", made)
