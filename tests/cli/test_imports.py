"""What a process does not import: every user waits for each import, at every start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from keyfront.custody import SCHEMES

ADAPTERS = {target.partition(":")[0] for target in SCHEMES.values()}
CLIENTS = {"boto3", "botocore", "awscrt", "hvac", "pkcs11", "urllib3", "OpenSSL"}
SERVERS = {"prometheus_client", "sqlalchemy", "starlette", "uvicorn", "uvloop", "websockets"}

COMMAND = "from keyfront.cli.main import keyfront; keyfront.get_command(None, sys.argv[1])"
SETTINGS = "from keyfront.cli.up import read_settings; read_settings(['--data', sys.argv[2]])"
MODEL = "from keyfront.model.service import service; service()"


@pytest.mark.parametrize(
    ("command", "further", "without"),
    [
        ("sign", "", ADAPTERS | CLIENTS | SERVERS | {"asyncio", "importlib.metadata", "rich", "ssl"}),
        ("key", "", ADAPTERS | CLIENTS | SERVERS | {"asyncio", "importlib.metadata", "rich", "ssl"}),
        ("status", "", ADAPTERS | CLIENTS | SERVERS | {"asyncio", "importlib.metadata", "rich"}),
        (
            "up",
            SETTINGS,
            ADAPTERS
            | CLIENTS
            | SERVERS
            | {"cryptography.x509", "rich", "http.client", "keyfront.edge.origin.client"},
        ),
        (
            "control-process",
            MODEL,
            CLIENTS | {"cryptography.x509", "jinja2", "keyfront.edge.serving", "psycopg", "rich", "uvloop"},
        ),
        (
            "edge-worker",
            "",
            CLIENTS | ADAPTERS | (SERVERS - {"uvloop"}) | {"cryptography.x509", "keyfront.control", "rich"},
        ),
    ],
)
def test_what_it_does_not_import(command: str, further: str, without: set[str], tmp_path: Path) -> None:
    code = f"import sys; {COMMAND}; {further or 'pass'}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, command, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "keyfront.cli.main" in loaded
    assert loaded & without == set()
