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

from tests.control.plane import Plane, public_pem

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
