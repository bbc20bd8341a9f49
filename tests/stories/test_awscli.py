"""The AWS CLI as its users run it: queries, pages, waiters, errors, and every implemented operation."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyfront.control.operations.registry import OPERATIONS
from keyfront.model.kinds import Quotas
from tests.awscli import Aws
from tests.control.calls import World, call_of
from tests.control.harness import minimal
from tests.control.plane import Plane
from tests.keys import public_pem

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("awscli") is None, reason="the AWS CLI is not installed beside this Python"
)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


def environment(plane: Plane, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**kept, **plane.environment, **more}


@pytest.fixture(scope="module")
def aws(plane: Plane) -> Iterator[Aws]:
    with Aws(environment(plane)) as running:
        yield running


def test_every_operation(tmp_path: Path) -> None:
    with Plane(tmp_path, quotas=Quotas(public_keys=1000, key_groups=1000)) as plane:
        client = plane.client()
        methods = {name: method for method, name in client.meta.method_to_api_mapping.items()}

        def call(operation: str, **params: Any) -> Any:
            return getattr(client, methods[operation])(**params)

        world = World(call, plane.obey, "cli")
        with Aws(environment(plane)) as aws:
            for operation in sorted(OPERATIONS):
                said = json.dumps(call_of(operation, world))
                answer = aws(methods[operation].replace("_", "-"), "--cli-input-json", said)
                output = client.meta.service_model.operation_model(operation).output_shape
                if output is None or not output.members:
                    assert answer is None, operation
                elif not operation.startswith("List"):  # the CLI rebuilds what it has paged
                    assert answer.keys() <= output.members.keys(), operation
                    assert answer, operation


def test_a_key_and_its_groups(aws: Aws) -> None:
    config = {"CallerReference": "q", "Name": "q", "EncodedKey": public_pem(), "Comment": "by query"}
    key = aws("create-public-key", "--public-key-config", json.dumps(config), "--query", "PublicKey.Id")
    etag = aws("get-public-key", "--id", key, "--query", "ETag")
    found = aws("list-public-keys", "--query", f"PublicKeyList.Items[?Id=='{key}'].{{n:Name,c:Comment}}")
    assert found == [{"n": "q", "c": "by query"}]
    text = aws.run("cloudfront", "get-public-key", "--id", key, "--query", "ETag", "--output", "text")
    assert text.out == etag + "\n"

    # As scripts do it: read the config, change it, and send it back.
    config = aws("get-public-key-config", "--id", key)["PublicKeyConfig"] | {"Comment": "changed"}
    changed = aws(
        "update-public-key", "--id", key, "--if-match", etag, "--public-key-config", json.dumps(config)
    )
    assert changed["PublicKey"]["PublicKeyConfig"]["Comment"] == "changed"
    group = aws("create-key-group", "--key-group-config", f"Name=q,Items={key}")
    said = aws.refused("delete-public-key", "--id", key, "--if-match", changed["ETag"])
    assert said.status == 255
    assert said.err == (
        "\nAn error occurred (PublicKeyInUse) when calling the DeletePublicKey operation: The Cloudfront public "
        "key is currently associated with either Key Group or a field level encryption profile.\n"
    )
    id_ = group["KeyGroup"]["Id"]
    assert aws("delete-key-group", "--id", id_, "--if-match", group["ETag"]) is None
    assert aws("delete-public-key", "--id", key, "--if-match", changed["ETag"]) is None


def test_a_distribution_until_it_is_gone(plane: Plane, aws: Aws) -> None:
    made = aws("create-distribution", "--origin-domain-name", "app.example.com", "--default-root-object", "i")
    id_, etag = made["Distribution"]["Id"], made["ETag"]
    assert made["Distribution"]["Status"] == "InProgress"
    assert made["Distribution"]["DistributionConfig"]["PriceClass"] == "PriceClass_All"
    assert made["Location"] == f"{plane.endpoint}/2020-05-31/distribution/{id_}"
    bucket = aws(
        "create-distribution", "--origin-domain-name", "b.s3.amazonaws.com", "--query", "Distribution"
    )
    assert "S3OriginConfig" in bucket["DistributionConfig"]["Origins"]["Items"][0]
    plane.obey()
    assert aws("wait", "distribution-deployed", "--id", id_) is None
    root = aws("update-distribution", "--id", id_, "--default-root-object", "index.html")
    assert root["Distribution"]["DistributionConfig"]["DefaultRootObject"] == "index.html"
    stale = aws.refused("delete-distribution", "--id", id_, "--if-match", etag)
    assert stale.err.startswith(
        "\nAn error occurred (PreconditionFailed) when calling the DeleteDistribution"
    )

    plane.obey()
    batch = aws("create-invalidation", "--distribution-id", id_, "--paths", "/a", "/b/*")["Invalidation"]
    assert sorted(batch["InvalidationBatch"]["Paths"]["Items"]) == ["/a", "/b/*"]
    assert re.fullmatch("cli-[0-9]+-[0-9]+", batch["InvalidationBatch"]["CallerReference"])
    plane.obey()
    waited = ["wait", "invalidation-completed", "--distribution-id", id_, "--id", batch["Id"]]
    assert aws(*waited) is None

    none = aws.refused("get-invalidation", "--distribution-id", id_, "--id", "INONE12345678")
    assert "(NoSuchInvalidation)" in none.err
    invalid = aws.refused("create-invalidation", "--distribution-id", id_, "--paths", "a")
    assert "(InvalidArgument)" in invalid.err
    assert "Your request contains one or more invalid invalidation paths." in invalid.err

    arn = made["Distribution"]["ARN"]
    aws("tag-resource", "--resource", arn, "--tags", "Items=[{Key=team,Value=media},{Key=env,Value=ci}]")
    aws("untag-resource", "--resource", arn, "--tag-keys", "Items=team")
    assert aws("list-tags-for-resource", "--resource", arn, "--query", "Tags.Items[].Key") == ["env"]

    config = aws("get-distribution-config", "--id", id_)
    off = json.dumps(config["DistributionConfig"] | {"Enabled": False})
    disabled = aws(
        "update-distribution", "--id", id_, "--if-match", config["ETag"], "--distribution-config", off
    )
    early = aws.refused("delete-distribution", "--id", id_, "--if-match", disabled["ETag"])
    assert "(DistributionNotDisabled)" in early.err
    plane.obey()
    assert aws("delete-distribution", "--id", id_, "--if-match", disabled["ETag"]) is None
    gone = aws.refused("get-distribution", "--id", id_)
    assert (gone.status, "(NoSuchDistribution)" in gone.err) == (255, True)
    failed = aws.refused("wait", "distribution-deployed", "--id", id_)
    assert failed.status == 255
    assert "Waiter DistributionDeployed failed" in failed.err


PAGED: dict[str, str] = {
    "list-distributions": "DistributionList.Items[].Id",
    "list-public-keys": "PublicKeyList.Items[].Id",
    "list-cloud-front-origin-access-identities": "CloudFrontOriginAccessIdentityList.Items[].Id",
    "list-origin-access-controls": "OriginAccessControlList.Items[].Id",
}
"""The lists that the CLI pages by itself (§7.4), beside invalidations."""


MADE: dict[str, Callable[[Any, str], Any]] = {
    "list-distributions": lambda client, name: client.create_distribution(DistributionConfig=minimal(name)),
    "list-public-keys": lambda client, name: client.create_public_key(
        PublicKeyConfig={"CallerReference": name, "Name": name, "EncodedKey": public_pem()}
    ),
    "list-cloud-front-origin-access-identities": (
        lambda client, name: client.create_cloud_front_origin_access_identity(
            CloudFrontOriginAccessIdentityConfig={"CallerReference": name, "Comment": ""}
        )
    ),
    "list-origin-access-controls": lambda client, name: client.create_origin_access_control(
        OriginAccessControlConfig={
            "Name": name,
            "SigningProtocol": "sigv4",
            "SigningBehavior": "always",
            "OriginAccessControlOriginType": "s3",
        }
    ),
}


@pytest.mark.parametrize("command", PAGED)
def test_pages(plane: Plane, aws: Aws, command: str) -> None:
    for number in range(5):
        MADE[command](plane.client(), f"page-{number}")
    walk(aws, command, PAGED[command])


def test_pages_of_invalidations(plane: Plane, aws: Aws) -> None:
    made = aws(
        "create-distribution", "--origin-domain-name", "paged.example.com", "--query", "Distribution.Id"
    )
    for number in range(5):
        aws("create-invalidation", "--distribution-id", made, "--paths", f"/{number}")
    walk(aws, "list-invalidations", "InvalidationList.Items[].Id", "--distribution-id", made)


def walk(aws: Aws, command: str, items: str, *more: str) -> None:
    """In one piece, in the API's pages, or in parts of the caller's choice: the list is always the same."""
    whole = aws(command, *more, "--query", items)
    assert len(whole) == len(set(whole)) >= 5
    assert aws(command, *more, "--query", items, "--page-size", "2") == whole
    first = aws(command, *more, "--query", items, "--no-paginate", "--max-items", "3")
    assert first == whole[:3]
    parts: list[str] = []
    token: list[str] = []
    while True:
        part = aws(command, *more, "--max-items", "2", "--page-size", "3", *token)
        (listed,) = (value for name, value in part.items() if name != "NextToken")
        parts += [item["Id"] for item in listed["Items"]]
        if "NextToken" not in part:
            break
        token = ["--starting-token", part["NextToken"]]
    assert parts == whole


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "an operation that is not built": (
        ["list-functions"],
        255,
        "An error occurred (UnsupportedOperation) when calling the ListFunctions operation: Keyfront does not have",
    ),
    "a value that is none": (
        ["list-origin-access-controls", "--no-paginate", "--max-items", "0"],
        255,
        "An error occurred (InvalidArgument) when calling the ListOriginAccessControls operation: ",
    ),
    "no such thing": (
        ["get-key-group", "--id", "00000000-0000-0000-0000-000000000000"],
        255,
        "An error occurred (NoSuchResource) when calling the GetKeyGroup operation: The specified resource",
    ),
    "no version": (
        ["delete-public-key", "--id", "K2JCJMDEHXQW5F"],
        255,
        "An error occurred (NoSuchPublicKey) when calling the DeletePublicKey operation: ",
    ),
    "no identity": (
        ["get-cloud-front-origin-access-identity", "--id", "E1"],
        255,
        "An error occurred (NoSuchCloudFrontOriginAccessIdentity) when calling the ",
    ),
    "no argument": (["get-public-key"], 2, "the following arguments are required: --id"),
    "no parameter": (
        ["create-public-key", "--public-key-config", "Name=a"],
        255,
        'Missing required parameter in PublicKeyConfig: "EncodedKey"',
    ),
}


@pytest.mark.parametrize(("argv", "status", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_fails_says_so(aws: Aws, argv: list[str], status: int, said: str) -> None:
    done = aws.refused(*argv)
    assert (done.status, said in done.err) == (status, True), done.err


def test_who_it_is(aws: Aws, plane: Plane) -> None:
    done = aws.run("sts", "get-caller-identity", "--query", "Arn", "--output", "text")
    assert (done.status, done.out) == (0, "arn:aws:iam::123456789012:user/default\n"), done.err


def test_a_wrong_secret(plane: Plane) -> None:
    key, secret = plane.key
    with Aws(environment(plane, AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret[::-1])) as aws:
        assert "An error occurred (SignatureDoesNotMatch)" in aws.refused("list-public-keys").err
    with Aws(environment(plane, AWS_ACCESS_KEY_ID="AKIANOBODY0000000000", AWS_SECRET_ACCESS_KEY="x")) as aws:
        assert "An error occurred (InvalidClientTokenId)" in aws.refused("list-public-keys").err
