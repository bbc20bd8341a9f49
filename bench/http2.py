"""Signed hits over HTTP/2 and TLS, beside an nginx that checks no signature, on one core each.

Rounds alternate; the ratios are of CPU time per request. Each of 1,000 URLs has a signature of its own. Needs h2load,
nginx, and the peers' folder (PEERS).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import trustme

from bench.edge import (
    KEY_ID,
    ORIGIN_PORT,
    OUR_PORT,
    PEERS,
    ROUNDS,
    SECONDS,
    VAR,
    Server,
    keyfront,
    peer,
    prepare,
)
from keyfront import load_signer, sign_url
from keyfront.edge.worker_settings import TlsSettings

OBJECTS = 1000
"""Few enough for each connection to request all of them before the measurement: h2load begins anew each time."""
CONNECTIONS, STREAMS = 8, 16
PEER_PORT = OUR_PORT + 50
TLS_PORT = OUR_PORT + 51


def requests(folder: Path) -> Path:
    """A file with the requests: URLs signed for https."""
    signer = load_signer(KEY_ID, VAR / "k1.pem")
    urls = [
        sign_url(f"https://cdn.test/o/1k/{number:05d}.bin", signer, expires=1_900_000_000)
        for number in range(OBJECTS)
    ]
    file = folder / "requests"
    file.write_text("".join(f"{url}\n" for url in urls))
    return file


def certificate(folder: Path) -> Path:
    """A folder with the certificate that both servers use."""
    made = trustme.CA().issue_cert("cdn.test")
    certificates = folder / "certificates"
    certificates.mkdir()
    made.private_key_and_cert_chain_pem.write_to_path(certificates / "site.pem")
    return certificates


def peers_with_tls(folder: Path, pem: Path) -> Path:
    """The peers, whose nginx that only caches speaks HTTP/2 over TLS."""
    shutil.copytree(PEERS, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    conf = folder / "conf" / "cache.conf"
    text = conf.read_text()
    listen = "listen 127.0.0.1:@PORT@ reuseport;"
    assert listen in text
    tls = f"ssl_certificate {pem}; ssl_certificate_key {pem}; http2_max_concurrent_streams 128;"
    conf.write_text(text.replace(listen, f"listen 127.0.0.1:@PORT@ ssl http2 reuseport; {tls}"))
    return folder


def warm(server: Server, file: Path) -> None:
    """Request each object twice on each connection, however long that takes."""
    h2load(server, file, "-n", str(2 * OBJECTS * CONNECTIONS))


def h2load(server: Server, file: Path, *options: str) -> str:
    argv = ["taskset", "-c", "1", "h2load", *options, "-c", str(CONNECTIONS), "-m", str(STREAMS)]
    argv += ["-i", str(file), f"--connect-to=127.0.0.1:{server.port}"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=600, check=True).stdout


def load(server: Server, file: Path, seconds: int) -> tuple[float, float]:
    """Requests per second, and microseconds of CPU per request."""
    before = server.cpu()
    out = h2load(server, file, "-D", str(seconds))
    used = server.cpu() - before
    found = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out)
    assert found is not None, out
    answered, *others = map(int, found.groups())
    if any(others) or not answered:
        sys.exit(f"{server.name}: {found[0]}")
    return answered / seconds, used / answered * 1e6


def main() -> None:
    if not PEERS.is_dir() or shutil.which("h2load") is None or shutil.which("nginx") is None:
        print("skipped: needs h2load, nginx, and the folder of the peers (PEERS)")
        return
    prepare()
    with tempfile.TemporaryDirectory(prefix="keyfront-bench-") as made, contextlib.ExitStack() as stack:
        folder = Path(made)
        certificates, file = certificate(folder), requests(folder)
        peers = peers_with_tls(folder / "peers", certificates / "site.pem")
        stack.enter_context(peer("origin", peers, ORIGIN_PORT, {1}))
        tls = TlsSettings("127.0.0.1", TLS_PORT, str(certificates))
        servers = [
            stack.enter_context(keyfront(folder / "data", OUR_PORT, {0}, tls=tls)),
            stack.enter_context(peer("cache", peers, PEER_PORT, {0})),
        ]
        for server in servers:
            warm(server, file)
        rounds: list[list[tuple[float, float]]] = [[], []]
        for _ in range(ROUNDS):
            for server, figures in zip(servers, rounds, strict=True):
                figures.append(load(server, file, SECONDS))
    print(f"{'':12} {'requests/s':>10} {'CPU µs':>8} {'best':>8}")
    middle = []
    for server, figures in zip(servers, rounds, strict=True):
        rate, cpu = (statistics.median(column) for column in zip(*figures, strict=True))
        best = min(cpu for _, cpu in figures)
        middle.append((rate, cpu, best))
        print(f"{server.name:12} {rate:10.0f} {cpu:8.1f} {best:8.1f}")
    (rate, cpu, best), (peer_rate, peer_cpu, peer_best) = middle
    ratios = rate / peer_rate, peer_cpu / cpu, peer_best / best
    print(
        "of nginx: {:.2f} × the rate, {:.2f} × the requests per CPU second ({:.2f} × at best)".format(*ratios)
    )


if __name__ == "__main__":
    main()
