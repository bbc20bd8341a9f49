"""Machines as network namespaces, with `--long`: enrollment, partition, failover, upgrade one by one under load, and
revocation."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import ROOT
from tests.postgres import PostgresServer, unable

NAMESPACES = ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


def no_machines() -> str:
    """Why this machine permits no network namespaces; empty if it does."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "no network namespaces: unshare and ip are needed"
    script = (
        "mount -t tmpfs none /run && ip netns add tried && "
        "ip link add veth-1 type veth peer name veth-2 netns tried && "
        "ip link add bridge type bridge && ip netns exec tried true"
    )
    tried = subprocess.run([*NAMESPACES, "sh", "-c", script], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no network namespaces: {tried.stderr.strip()}"


def test_a_fleet_on_four_machines(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("runs with --long")
    if why := unable() or no_machines():
        pytest.skip(why)
    key = base64.b64encode(os.urandom(32)).decode()
    with PostgresServer() as server:
        argv = [*NAMESPACES, sys.executable, "-m", "tests.stories.machines", str(tmp_path), server.database()]
        done = subprocess.run(
            argv,
            cwd=ROOT,
            env={**os.environ, "KEYFRONT_ACCESS_KEY": key},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout
