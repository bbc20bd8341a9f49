"""One worker of the edge beside the peers, on the same work, in one run.

Needs the peers' folder (PEERS, default ../shared/peers), Debian's nginx with its Lua module, and wrk; says what is
missing and stops. The server has core 0 to itself, the client core 1. Both sides write an access log. Rounds alternate
(A B A B); a case's figure is the median over its rounds, and beside requests per second stands what the server's
processes used of the CPU per request, which other tenants of the machine disturb less.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from keyfront.edge.serve import WorkerSettings
from keyfront.fleet.file import FileFeed
from keyfront.model.snapshot import Behavior, Distribution, KeyGroup, Origin, PublicKey, Snapshot

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(os.environ.get("PEERS", ROOT.parent / "shared" / "peers"))
VAR = Path(os.environ.get("BENCH_VAR", ROOT / "var" / "bench"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = int(os.environ.get("SECONDS_EACH", "5"))
CONNECTIONS = int(os.environ.get("CONNECTIONS", "32"))
ORIGIN_PORT = 18490

CASES = [
    # name, request list, cookie file, the peers to stand beside
    ("canned 1 KiB, remembered", "canned-1k", None, ["lualru", "luamem", "lua"]),
    ("cookie wildcard 1 KiB", "plain-1k", "cookie-1k", ["lualru"]),
    ("no signature 1 KiB", "open-1k", None, ["cache"]),
    ("canned 64 KiB", "canned-64k", None, ["lualru"]),
    ("canned 1 MiB", "canned-1m", None, ["lualru"]),
]


class Server:
    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int) -> None:
        self.name = name
        self.process = process
        self.port = port

    def cpu(self) -> float:
        """Seconds of CPU that the process and its children have used."""
        total = 0
        ticks = os.sysconf("SC_CLK_TCK")
        pids = [self.process.pid, *children(self.process.pid)]
        for pid in pids:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / ticks


def children(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"a server ended at once with {process.returncode}: {process.args!r}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


@contextlib.contextmanager
def running(name: str, argv: list[str], port: int, cores: set[int]) -> Iterator[Server]:
    process = subprocess.Popen(
        argv, preexec_fn=lambda: os.sched_setaffinity(0, cores), stdout=subprocess.DEVNULL, cwd=ROOT
    )
    try:
        wait_for_port(port, process)
        yield Server(name, process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def peer(name: str, peers: Path, port: int, cores: set[int]) -> contextlib.AbstractContextManager[Server]:
    argv = [sys.executable, str(peers / "peers.py"), "serve", name, str(VAR), str(port), "1"]
    return running(name, argv, port, cores)


def logging_peers() -> Path:
    """The peers with their access log switched on, as ours is."""
    copy = Path(tempfile.mkdtemp(prefix="keyfront-peers-"))
    shutil.copytree(PEERS, copy, dirs_exist_ok=True, copy_function=shutil.copyfile)
    base = copy / "conf" / "base.inc"
    text = base.read_text()
    assert "access_log off;" in text
    base.chmod(0o644)
    base.write_text(
        text.replace("access_log off;", "access_log @V@/@NAME@.access.log combined buffer=64k flush=1s;")
    )
    return copy


def keyfront(folder: Path, port: int, cores: set[int]) -> contextlib.AbstractContextManager[Server]:
    origin = Origin("o", "127.0.0.1", http_port=ORIGIN_PORT)
    open_ = Behavior("*", "o")
    signed = Behavior("/o/*", "o", restricted=True, trusted_key_groups=("g",))
    snapshot = Snapshot(
        1,
        time.time(),
        (PublicKey("K2JCJMDEHXQW5F", (VAR / "k1.pub").read_text()),),
        (KeyGroup("g", "bench", ("K2JCJMDEHXQW5F",)),),
        (Distribution("EBENCH", "", "cdn.test", origins=(origin,), behaviors=(signed, open_)),),
    )
    FileFeed(folder).publish(snapshot)
    settings = WorkerSettings(str(folder), "edge-1", "127.0.0.1", port)
    code = (
        "import sys, msgspec; from keyfront.edge.serve import *;"
        "run_worker(msgspec.json.decode(sys.argv[1], type=WorkerSettings), lambda: None)"
    )
    argv = [sys.executable, "-c", code, msgspec.json.encode(settings).decode()]
    return running("keyfront", argv, port, cores)


def load(server: Server, urls: str, cookie: str | None, seconds: int) -> dict[str, float]:
    argv = ["taskset", "-c", "1", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    argv += [
        "-s",
        str(PEERS / "wrk" / "run.lua"),
        f"http://127.0.0.1:{server.port}",
        str(VAR / "urls" / f"{urls}.txt"),
    ]
    if cookie:
        argv.append(str(VAR / "urls" / f"{cookie}.hdr"))
    before = server.cpu()
    out = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
    used = server.cpu() - before
    figures: dict[str, float] = json.loads(out[out.index("JSON") + 5 :].splitlines()[0])
    if figures["status"] or figures["err"] or figures["timeout"]:
        print(
            f"   ! {server.name}: {figures['status']} refused, {figures['err']} errors, {figures['timeout']} time-outs"
        )
    figures["rate"] = figures["req"] / (figures["us"] / 1e6)
    figures["cpu_us"] = used / max(figures["req"], 1) * 1e6
    return figures


def main() -> None:
    lacking = [name for name in ("nginx", "wrk", "taskset") if shutil.which(name) is None]
    if lacking or not PEERS.is_dir():
        print(f"skipped: {', '.join(lacking) or PEERS} not found")
        return
    if not (VAR / "urls" / "canned-1k.txt").exists():
        VAR.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(PEERS / "peers.py"), "gen", str(VAR)], check=True)
    peers = logging_peers()
    only = os.environ.get("CASE", "")
    with contextlib.ExitStack() as stack:
        stack.enter_context(peer("origin", peers, ORIGIN_PORT, {1}))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyfront-bench-")))
        ours = stack.enter_context(keyfront(folder, 18401, {0}))
        print(f"{'case':28} {'server':10} {'req/s':>8} {'CPU µs':>7} {'p99 ms':>7}   ratio of rates, of CPU")
        for case, urls, cookie, names in CASES:
            if only not in case:
                continue
            for name in names:
                with peer(name, peers, 18402, {0}) as theirs:
                    rounds: dict[str, list[dict[str, float]]] = {"keyfront": [], name: []}
                    for server in (ours, theirs):
                        load(server, urls, cookie, 2)
                    for _ in range(ROUNDS):
                        for server in (ours, theirs):
                            rounds[server.name].append(load(server, urls, cookie, SECONDS))
                middle = {
                    who: {k: statistics.median(r[k] for r in rows) for k in ("rate", "cpu_us", "p99")}
                    for who, rows in rounds.items()
                }
                a, b = middle["keyfront"], middle[name]
                for who, row in middle.items():
                    tail = ""
                    if who == "keyfront":
                        tail = (
                            f"   {a['rate'] / b['rate']:.2f} ×, {a['cpu_us'] / b['cpu_us']:.2f} × of {name}"
                        )
                    print(
                        f"{case:28} {who:10} {row['rate']:8.0f} {row['cpu_us']:7.1f} {row['p99'] / 1000:7.2f}{tail}",
                        flush=True,
                    )
    shutil.rmtree(peers, ignore_errors=True)


if __name__ == "__main__":
    main()
