"""The control plane through the AWS SDK for JavaScript, as its users run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyfront.control.operations.registry import OPERATIONS
from keyfront.model.kinds import Quotas
from keyfront.model.service import service
from tests.control.calls import World, call_of
from tests.control.harness import minimal
from tests.control.plane import Plane
from tests.keys import public_pem

NODE = Path(__file__).parents[1] / "node"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


def run(plane: Plane, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        argv,
        env={**environment, **plane.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def node(plane: Plane, part: str, argument: dict[str, Any]) -> Any:
    done = run(plane, "node", str(NODE / "control.mjs"), part, json.dumps(argument))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


with_node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules/@aws-sdk/client-cloudfront").exists(),
    reason="node or @aws-sdk/client-cloudfront is not installed",
)


@with_node
def test_the_sdk_for_javascript(plane: Plane) -> None:
    for line_end in ("\n", "\r\n"):
        reference = f"js-{line_end!r}"
        pem = public_pem().replace("\n", line_end)
        made = node(plane, "begin", {"pem": pem, "reference": reference})
        plane.obey()
        node(plane, "end", made)


class Sdk:
    """tests/node/every.mjs as a child process; use as a context manager."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def __enter__(self) -> Sdk:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self._process = subprocess.Popen(
            ["node", str(NODE / "every.mjs")],
            env={**environment, **self._plane.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def ask(self, **message: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def call(self, operation: str, **params: Any) -> dict[str, Any]:
        answer = self.ask(send=operation, input=params)
        assert answer.get("status") == service().operations[operation].status, (operation, answer)
        output: dict[str, Any] = answer["output"]
        return output


@with_node
def test_every_operation(tmp_path: Path) -> None:
    with Plane(tmp_path, quotas=Quotas(public_keys=1000, key_groups=1000)) as plane, Sdk(plane) as sdk:
        world = World(sdk.call, plane.obey, "js")
        for operation in sorted(OPERATIONS):
            output = sdk.call(operation, **call_of(operation, world))
            shape = service().operations[operation].output
            assert output.keys() <= shape.members.keys(), operation
            assert bool(output) == bool(shape.members), operation


@with_node
def test_pages_and_waiters(tmp_path: Path) -> None:
    with Plane(tmp_path) as plane, Sdk(plane) as sdk:
        world = World(sdk.call, plane.obey, "page")
        made = {
            "Distributions": [
                sdk.call("CreateDistribution", DistributionConfig=minimal(str(number)))["Distribution"]["Id"]
                for number in range(3)
            ],
            "PublicKeys": [world.id("PublicKey") for _ in range(3)],
            "OriginAccessControls": [world.id("OriginAccessControl") for _ in range(3)],
            "CloudFrontOriginAccessIdentities": [
                world.id("CloudFrontOriginAccessIdentity") for _ in range(3)
            ],
        }
        for plural, ids in made.items():
            first, second = sdk.ask(pages=f"List{plural}", size=2, input={})["pages"]
            assert [*first, *second] == sorted(ids)
            assert len(second) == 1

        waited = made["Distributions"][0]
        assert sdk.ask(wait="DistributionDeployed", input={"Id": waited}) == {"waiting": True}
        plane.obey()
        assert sdk.hear() == {"state": "SUCCESS"}
        named = {"DistributionId": waited}
        batches = [
            sdk.call(
                "CreateInvalidation",
                InvalidationBatch={"Paths": {"Quantity": 1, "Items": [f"/{n}"]}, "CallerReference": str(n)},
                **named,
            )["Invalidation"]["Id"]
            for n in range(3)
        ]
        (first, second) = sdk.ask(pages="ListInvalidations", size=2, input=named)["pages"]
        assert [*first, *second] == batches[::-1]
        last = named | {"Id": batches[-1]}
        assert sdk.ask(wait="InvalidationCompleted", input=last) == {"waiting": True}
        plane.obey()
        assert sdk.hear() == {"state": "SUCCESS"}
        refused = sdk.ask(send="GetInvalidation", input=named | {"Id": "INONE"})
        assert (refused["error"], refused["modelled"], refused["status"]) == (
            "NoSuchInvalidation",
            True,
            404,
        )
