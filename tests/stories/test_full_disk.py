"""A data folder on a file system that is really full: a small tmpfs in a mount namespace of Keyfront's own.

Nothing that was acknowledged is lost, nothing that was refused appears, viewers are served throughout, and everything
resumes when there is space again. `tests/faults.py` fails single calls; here all of them meet the real thing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.application import Request, Response, served
from tests.up import PATIENCE, Answer, Up, distribution_config

KEYS = Path(__file__).resolve().parents[1] / "vectors" / "keys"
RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
SIZE = 24 << 20
"""Bytes of the file system."""
NAMESPACE = ("unshare", "--map-root-user", "--mount")
MOUNTED = """
mount -t tmpfs -o size=%d,mode=700 none "$0" || exit
exec "$@"
"""

pytestmark = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], check=False).returncode != 0,
    reason="no file system can be mounted here",
)


class Disk:
    """Keyfront's data folder as its processes see it."""

    def __init__(self, up: Up, data: Path) -> None:
        self.up = up
        self.data = data

    @property
    def folder(self) -> Path:
        return Path(f"/proc/{self.up.pid}/root{self.data}")

    def fill(self) -> None:
        """Leave no byte."""
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def free(self) -> None:
        (self.folder / "filler").unlink()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command on the same file system."""
        within = ["nsenter", f"--target={self.up.pid}", "--mount", "--user", "--preserve-credentials"]
        return subprocess.run(
            [*within, sys.executable, "-m", "keyfront", *words, "--data", str(self.data)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd="/",
        )


def respond(request: Request) -> Response:
    return Response(os.urandom(300_000), {"Cache-Control": "max-age=3600"})


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    data = tmp_path / "data"
    data.mkdir()
    within = (*NAMESPACE, "sh", "-c", MOUNTED % SIZE, str(data))
    with Up(data, workers=1, within=within, options=("--cache-disk", "64M")) as up:
        disk = Disk(up, data)
        up.data = disk.folder  # for what the test reads
        yield disk
        assert up.stop() == 0


def test_a_full_file_system_loses_nothing_that_was_acknowledged(disk: Disk) -> None:
    up = disk.up
    client = up.client()
    acknowledged: list[str] = []

    def add(name: str) -> None:
        config = {"CallerReference": name, "Name": name, "EncodedKey": (KEYS / "rsa.pub").read_text()}
        made = client.create_public_key(PublicKeyConfig=config)["PublicKey"]
        acknowledged.append(made["PublicKeyConfig"]["Name"])

    def names() -> list[str]:
        found = client.list_public_keys()["PublicKeyList"].get("Items", [])
        return [each["Name"] for each in found]

    with served(respond) as port:
        config = distribution_config("d", port, [])
        made = client.create_distribution(DistributionConfig=config)["Distribution"]
        up.deployed(made["Id"])
        get = partial(up.get, made["DomainName"])
        add("before")
        cached = get("/cached").body
        disk.fill()

        # The API refuses changes with the reason. What was accepted until then counts.
        with pytest.raises(ClientError, match=r"database or disk is full\. Nothing was changed") as refused:
            for number in range(1000):
                add(f"full {number}")
        assert refused.value.response["Error"]["Code"] == "ServiceUnavailable"
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        status, health = up.health()
        assert (status, health["reasons"]["data folder"]) == (
            503,
            ["cannot be written: No space left on device"],
        )

        # Viewers are served: what is cached, and what is not.
        assert [get(f"/{number}").status for number in range(20)] == [200] * 20
        assert get("/cached").body == cached
        assert any("the cache on disk cannot be written" in line for line in up.log)

        # A backup leaves nothing behind that looks like one.
        disk.fill()  # the cache has given up some of its space
        done = disk.run("backup", "create", "--to", f"{disk.data}/backups", "--recipient", RECIPIENT)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert "No space left on device" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert [each.name for each in disk.folder.glob("backups/*")] == []

        # Every process is killed, and starts again on the full disk.
        before = up.children()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        up.until(lambda: len({*up.children()} - {*before}) == len(before))
        up.until(lambda: _is_served(get))
        disk.free()
        up.well()
        add("after")
        assert sorted(names()) == sorted(acknowledged)
        disk.run("backup", "create", "--to", f"{disk.data}/backups", "--recipient", RECIPIENT)
        assert len([*disk.folder.glob("backups/*.age")]) == 1


def _is_served(get: Callable[[str], Answer]) -> bool:
    try:
        return get("/cached").status == 200
    except OSError:  # no worker listens yet
        return False
