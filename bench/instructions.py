"""Instructions per request, counted by Valgrind, of this checkout and of another (BASE=folder, with its own .venv).

Two checkouts that are close to each other cannot be told apart by their CPU time on a machine that others use. An
instruction count differs from run to run by less than one percent, even on a busy machine. It says nothing about caches
and system calls; for those, and for the comparison with peers, see `bench.edge`.

The server runs twice for each case, with FEW requests and with MANY, and the difference is divided by the difference
in requests, so that start and shutdown cancel out.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.edge import BASE, CASES, ORIGIN_PORT, OUR_PORT, PEERS, ROOT, VAR, Case, peer, prepare

FEW, MANY = 200, 700
OBJECTS = 10
"""How many objects a case repeats, unless every target is new."""
PATIENCE = 300.0
"""Seconds until a server that does not start counts as failed: Valgrind makes it some fifty times slower."""

CHILD = """
import os, sys
from pathlib import Path
from bench import edge

def running(name, argv, port, cores, **_):
    count = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    os.chdir(edge.ROOT)
    os.execvp("valgrind", [*count, "--log-file=" + sys.argv[3], *argv])

edge.running = running
edge.keyfront(Path(sys.argv[1]), int(sys.argv[2]), set()%s)
"""


def count(root: Path, case: Case, requests: int, options: str = "") -> int:
    """Instructions that the edge of the checkout at `root` executes from its start to its end.

    :param options: further arguments of `edge.keyfront`, with a comma before each.
    """
    with tempfile.TemporaryDirectory(prefix="keyfront-bench-") as folder:
        log = Path(folder) / "valgrind.log"
        argv = [
            str(root / ".venv" / "bin" / "python"),
            "-c",
            CHILD % options,
            folder,
            str(OUR_PORT),
            str(log),
        ]
        environment = dict(os.environ, BENCH_VAR=str(VAR), PYTHONHASHSEED="0")
        server = subprocess.Popen(argv, cwd=root, env=environment)
        try:
            send(case, requests, connected(server))
        finally:
            server.terminate()
            server.wait(PATIENCE)
        line = next(line for line in log.read_text().splitlines() if "refs:" in line)
        return int(line.rpartition(":")[2].replace(",", ""))


def connected(server: subprocess.Popen[bytes]) -> socket.socket:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", OUR_PORT), PATIENCE)
        except OSError:
            time.sleep(0.2)
    sys.exit("the edge does not start under Valgrind")


def send(case: Case, requests: int, connection: socket.socket) -> None:
    """Send the case's requests one after the other, after one for each object so that it is in the cache."""
    header = ""
    if case.cookie:
        cookie = (VAR / "urls" / f"{case.cookie}.hdr").read_text().strip()
        header = f"Cookie: {cookie}\r\n"
    with connection, connection.makefile("rb") as responses:
        for target in targets(case, requests):
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: cdn.test\r\n{header}\r\n".encode())
            status = responses.readline()
            if b" 200 " not in status:
                sys.exit(f"{case.name}: {status!r}")
            length = 0
            while (line := responses.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            responses.read(length)


def targets(case: Case, requests: int) -> Iterator[str]:
    lines = (VAR / "urls" / f"{case.urls}.txt").read_text().split()
    if case.unique:
        yield from (f"{target}?{number}" for number, target in zip(range(requests), itertools.cycle(lines)))
    elif case.unseen:
        warm = (VAR / "urls" / f"{case.warm}.txt").read_text().split()
        objects = dict.fromkeys(line.partition("?")[0] for line in lines[:MANY])
        signed = {line.partition("?")[0]: line for line in warm}
        yield from (signed[name] for name in objects)
        yield from lines[:requests]
    else:
        yield from lines[:OBJECTS]
        yield from itertools.islice(itertools.cycle(lines[:OBJECTS]), requests)


def main() -> None:
    if not BASE or not PEERS.is_dir() or shutil.which("valgrind") is None:
        print("skipped: needs another checkout (BASE), the folder of the peers (PEERS), and valgrind")
        return
    prepare()
    only = os.environ.get("CASE", "")
    print(f"{'case':30} {'base':>10} {'this':>10}   instructions per request, and their ratio")
    with tempfile.TemporaryDirectory() as made:
        shutil.copytree(PEERS, made, dirs_exist_ok=True, copy_function=shutil.copyfile)
        with peer("origin", Path(made), ORIGIN_PORT, {1}):
            for case in CASES:
                if only not in case.name or case.paced or case.connections == 4:
                    continue
                base, this = (
                    (count(root, case, MANY) - count(root, case, FEW)) / (MANY - FEW)
                    for root in (Path(BASE).resolve(), ROOT)
                )
                print(f"{case.name:30} {base:10.0f} {this:10.0f}   {this / base:.3f} ×", flush=True)


if __name__ == "__main__":
    main()
