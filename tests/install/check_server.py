"""Run by the Python of a fresh environment (test_install.py): Keyfront from an empty folder to a signed link that its
edge serves, and to a backup. It imports nothing of the tests."""

from __future__ import annotations

import contextlib
import functools
import http.client
import http.server
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

KEYFRONT = Path(sys.executable).with_name("keyfront")
SITE = """\
name = "site"

[PublicKey.first]
EncodedKey = {{ file = "public.pem" }}

[KeyGroup.viewers]
Items = ["first"]

[Distribution.files]
Aliases = ["cdn.test"]

[[Distribution.files.Origins]]
Id = "files"
DomainName = "127.0.0.1"
CustomOriginConfig = {{ HTTPPort = {origin}, HTTPSPort = 443, OriginProtocolPolicy = "http-only" }}

[Distribution.files.DefaultCacheBehavior]
TargetOriginId = "files"
ViewerProtocolPolicy = "allow-all"
TrustedKeyGroups = ["viewers"]
CachePolicyId = "Managed-CachingOptimized"
Compress = true
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.chdir(folder)
        os.environ.pop("AWS_PROFILE", None)
        os.environ |= {"AWS_SHARED_CREDENTIALS_FILE": f"{folder}/state/credentials", "NO_PROXY": "*"}
        Path("public").mkdir()
        Path("public/a.txt").write_text("hello " * 1000)
        origin = stack.enter_context(serving("public"))
        edge, control = free_port(), free_port()
        stack.enter_context(running(edge, control))
        Path("public.pem").write_text(run("custody", "create", f"file:{folder}/keys/first"))
        Path("site.toml").write_text(SITE.format(origin=origin))
        run("apply", "site.toml", "-y", "--wait", "--endpoint-url", f"http://127.0.0.1:{control}")
        listed = run("key", "list", "--endpoint-url", f"http://127.0.0.1:{control}")
        (key,) = (word for word in listed.split() if word.startswith("K") and len(word) > 12)
        signed_by = ("--key-pair-id", key, "--key", f"file:{folder}/keys/first")
        url = run("sign", "http://cdn.test/a.txt", *signed_by, "--expires", "1h")
        target = url.strip().removeprefix("http://cdn.test")
        for cache in ("Miss", "Hit"):
            status, headers, body = get(edge, target, {"Host": "cdn.test", "Accept-Encoding": "br"})
            assert (status, headers["Content-Encoding"]) == (200, "br"), (status, dict(headers), body)
            assert headers["X-Cache"] == f"{cache} from cloudfront", dict(headers)
        assert get(edge, "/a.txt", {"Host": "cdn.test"})[0] == 403
        status, _, metrics = get(control, "/metrics", {})
        assert status == 200
        assert b"keyfront_" in metrics
        Path("passphrase").write_text("correct horse battery staple\n")
        Path("passphrase").chmod(0o600)
        run(
            "backup",
            "create",
            "--data",
            "state",
            "--to",
            f"{folder}/backups",
            "--passphrase-file",
            "passphrase",
            "-q",
        )


def get(port: int, target: str, headers: dict[str, str]) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def run(*arguments: str) -> str:
    done = subprocess.run([KEYFRONT, *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Origin(http.server.SimpleHTTPRequestHandler):
    """A file server without a log."""

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: str) -> Iterator[int]:
    handler = functools.partial(Origin, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextlib.contextmanager
def running(edge: int, control: int) -> Iterator[None]:
    """`keyfront up`, which ends with status 0 and without a traceback."""
    command = [str(KEYFRONT), "up", "--data", "state", "--workers", "1"]
    command += ["--edge", f"127.0.0.1:{edge}", "--control", f"127.0.0.1:{control}"]
    with open("log", "w") as log:
        up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert up.stdout is not None
    try:
        assert up.stdout.readline().startswith("keyfront ready"), Path("log").read_text()
        yield
    finally:
        up.send_signal(signal.SIGTERM)
        status = up.wait(60)
        up.stdout.close()
    log_text = Path("log").read_text()
    assert status == 0, log_text
    assert "Traceback" not in log_text, log_text


if __name__ == "__main__":
    main()
