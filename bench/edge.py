"""Benchmark of one edge worker against peers, with the same workload, in one run.

Requires the peers' folder (PEERS, default ../shared/peers), Debian's nginx with its Lua module, and wrk; if something
is missing, reports it and stops. The server has core 0 to itself; client and origin share core 1. Both sides write an
access log. Rounds alternate (A B A B), and a figure is the median over the rounds. In addition to requests per second,
the table shows the CPU time that the server's processes used per request; other tenants of the machine disturb this
figure less, and least in the best round.

CASE=text runs only the cases whose name contains the text; ROUNDS, SECONDS_EACH, and CONNECTIONS change the amount of
work. BASE=folder names another checkout of Keyfront that has its own .venv; its edge then takes the place of all peers.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from keyfront import load_signer, sign_url
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.edge.worker_settings import TlsSettings, WorkerSettings
from keyfront.fleet.file_feed import FileFeed
from keyfront.model.snapshot import Behavior, Distribution, KeyGroup, Origin, PublicKey, Select, Snapshot

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(os.environ.get("PEERS", ROOT.parent / "shared" / "peers"))
VAR = Path(os.environ.get("BENCH_VAR", ROOT / "var" / "bench"))
BASE = os.environ.get("BASE", "")
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = int(os.environ.get("SECONDS_EACH", "5"))
CONNECTIONS = int(os.environ.get("CONNECTIONS", "32"))
ORIGIN_PORT, OUR_PORT, PEER_PORT = 18490, 18401, 18402
KEY_ID = "K2JCJMDEHXQW5F"


class Case(NamedTuple):
    """A benchmark case. `urls` is a list under VAR/urls, `cookie` a header file there, `beside` the peers. `fresh`
    servers are restarted for each round and warmed with `warm`; `paced` runs at half the rate that the previous round
    reached; `unique` makes every target new; `unseen` means that no signature in `urls` is in `warm`; `seconds`
    overrides the length of a round."""

    name: str
    urls: str
    beside: tuple[str, ...]
    cookie: str | None = None
    fresh: bool = False
    warm: str = ""
    paced: bool = False
    unique: bool = False
    unseen: bool = False
    seconds: int = 0
    connections: int = CONNECTIONS


CASES = [
    Case("canned 1 KiB, remembered", "canned-1k", ("lualru", "securelink", "luamem")),
    Case("cookie wildcard 1 KiB", "plain-1k", ("lualru",), cookie="cookie-1k"),
    Case("every signature new", "new-1k", ("lua",), fresh=True, warm="canned-1k", seconds=1, unseen=True),
    Case("no signature 1 KiB", "open-1k", ("cache",)),
    Case("canned 1 KiB at half the rate", "canned-1k", ("lualru",), paced=True),
    Case("canned 64 KiB", "canned-64k", ("lualru",)),
    Case("canned 1 MiB", "canned-1m", ("lualru",)),
    Case("100 MiB hit", "open-100m", ("cache",), connections=4),
    Case("miss 1 KiB", "open-1k", ("proxy",), unique=True),
]


class Server:
    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int) -> None:
        self.name = name
        self.process = process
        self.port = port

    def cpu(self) -> float:
        """CPU seconds that the process and its children have used."""
        total = 0
        for pid in [self.process.pid, *children(self.process.pid)]:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """MiB of resident memory, including child processes."""
        total = 0
        for pid in [self.process.pid, *children(self.process.pid)]:
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        return total >> 20


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
def running(name: str, argv: list[str], port: int, cores: set[int], cwd: Path = ROOT) -> Iterator[Server]:
    process = subprocess.Popen(
        argv, preexec_fn=lambda: os.sched_setaffinity(0, cores), stdout=subprocess.DEVNULL, cwd=cwd
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


def logging_peers(folder: Path) -> Path:
    """The peers with their access log enabled, as ours is, and `proxy`: an nginx that forwards everything."""
    shutil.copytree(PEERS, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    base = folder / "conf" / "base.inc"
    text = base.read_text()
    assert "access_log off;" in text
    base.write_text(
        text.replace("access_log off;", "access_log @V@/@NAME@.access.log combined buffer=64k flush=1s;")
    )
    cache = (folder / "conf" / "cache.conf").read_text()
    passing = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_pass http://origin;'
    proxy = cache.replace("include @V@/conf-@NAME@/cached.inc;", passing)
    assert proxy != cache
    (folder / "conf" / "proxy.conf").write_text(proxy)
    return folder


def keyfront(
    folder: Path,
    port: int,
    cores: set[int],
    name: str = "edge-1",
    tls: TlsSettings | None = None,
    *,
    standard_log: bool = False,
    ledger: bool = False,
    shown: str = "keyfront",
) -> contextlib.AbstractContextManager[Server]:
    """:param standard_log: whether the distribution has a standard log, with cookies.
    :param ledger: whether it counts from where signed URLs and cookies are used.
    :param shown: the name in the table.
    """
    origin = Origin("o", "127.0.0.1", http_port=ORIGIN_PORT)
    query = Select("all")
    snapshot = Snapshot(
        1,
        0.0,
        (PublicKey(KEY_ID, (VAR / "k1.pub").read_text()),),
        (KeyGroup("g", "bench", (KEY_ID,)),),
        (
            Distribution(
                "EBENCH",
                "",
                "cdn.test",
                origins=(origin,),
                behaviors=(
                    Behavior("/o/*", "o", restricted=True, trusted_key_groups=("g",)),
                    Behavior("*", "o", key_query=query, forward_query=query),
                ),
                log_bucket="logs.s3.amazonaws.com" if standard_log else "",
                log_cookies=standard_log,
            ),
        ),
    )
    FileFeed(folder).publish(snapshot)
    settings = WorkerSettings(str(folder), name, "127.0.0.1", port, tls=tls, edge=EdgeSettings(ledger=ledger))
    code = (
        "import sys, msgspec; from keyfront.edge.worker import *;"
        "run_worker(msgspec.json.decode(sys.argv[1], type=WorkerSettings), lambda: None)"
    )
    argv = [sys.executable, "-c", code, msgspec.json.encode(settings).decode()]
    return running(shown, argv, port if tls is None else tls.port, cores)


def checkout(root: Path, folder: Path, port: int) -> contextlib.AbstractContextManager[Server]:
    """The edge of another checkout, started by that checkout's own benchmark: its settings and its snapshot may look
    different."""
    code = (
        "import signal, sys; from pathlib import Path; from bench.edge import keyfront\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit())\n"
        f"with keyfront(Path({str(folder)!r}), {port}, {{0}}): signal.pause()"
    )
    argv = ["env", f"BENCH_VAR={VAR}", str(root / ".venv" / "bin" / "python"), "-c", code]
    return running("base", argv, port, {0}, cwd=root)


def load(server: Server, case: Case, urls: str, seconds: int, *, pause: float = 0.0) -> dict[str, float]:
    argv = [
        "taskset",
        "-c",
        "1",
        "wrk",
        "-t1",
        f"-c{case.connections}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
        "-s",
    ]
    listed = [f"http://127.0.0.1:{server.port}", str(VAR / "urls" / f"{urls}.txt")]
    if pause or case.unique:
        argv += [str(ROOT / "bench" / "paced.lua"), *listed, str(pause)]
        if case.unique:
            argv.append(str(time.time_ns() // 1000 % 10**9))
    else:
        argv += [str(PEERS / "wrk" / "run.lua"), *listed]
        if case.cookie:
            argv.append(str(VAR / "urls" / f"{case.cookie}.hdr"))
    before = server.cpu()
    out = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
    used = server.cpu() - before
    figures: dict[str, float] = json.loads(out[out.index("JSON") + 5 :].splitlines()[0])
    if figures["status"] or figures["err"] or figures["timeout"]:
        told = f"{figures['status']} refused, {figures['err']} errors, {figures['timeout']} time-outs"
        print(f"   ! {server.name}: {told}")
    figures["rate"] = figures["req"] / (figures["us"] / 1e6)
    figures["cpu_us"] = used / max(figures["req"], 1) * 1e6
    figures["memory"] = server.memory()
    return figures


def prepare() -> None:
    """Make keys, objects, and request lists, among them those that the peers do not make: signatures that no other list
    has, and the one large object."""
    if not (VAR / "urls" / "canned-1k.txt").exists():
        VAR.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(PEERS / "peers.py"), "gen", str(VAR)], check=True)
    new = VAR / "urls" / "new-1k.txt"
    if not new.exists():
        signer = load_signer(KEY_ID, VAR / "k1.pem")
        base = "http://cdn.test"
        paths = [f"/o/1k/{i % 10_000:05d}.bin" for i in range(24_000)]
        signed = [sign_url(base + p, signer, expires=1_900_000_000 + i) for i, p in enumerate(paths)]
        new.write_text("".join(url.removeprefix(base) + "\n" for url in signed))
    (VAR / "urls" / "open-100m.txt").write_text("/open/100m/00000.bin\n")


Start = Callable[[], contextlib.AbstractContextManager[Server]]


def compare(case: Case, ours: Start, name: str, theirs: Start) -> None:
    rounds: dict[str, list[dict[str, float]]] = {"keyfront": [], name: []}
    seconds = case.seconds or SECONDS
    with contextlib.ExitStack() as stack:
        servers = [] if case.fresh else [stack.enter_context(start()) for start in (ours, theirs)]
        pauses = dict.fromkeys(rounds, 0.0)
        for server in servers:
            warm = load(server, case, case.warm or case.urls, 3)
            if case.paced:
                warm = load(server, case, case.urls, 1)  # the first one filled the cache
                pauses[server.name] = round(2 * case.connections / warm["rate"] * 1000, 2)
        for _ in range(ROUNDS):
            for which, start in enumerate((ours, theirs)):
                if case.fresh:
                    with start() as server:
                        load(server, case, case.warm, 3)
                        rounds[server.name].append(load(server, case, case.urls, seconds))
                else:
                    server = servers[which]
                    rounds[server.name].append(
                        load(server, case, case.urls, seconds, pause=pauses[server.name])
                    )
    wanted = ("rate", "cpu_us", "p99", "memory", "bytes")
    middle = {who: {k: statistics.median(r[k] for r in rows) for k in wanted} for who, rows in rounds.items()}
    best = {who: min(row["cpu_us"] for row in rows) for who, rows in rounds.items()}
    a, b = middle["keyfront"], middle[name]
    for who, row in middle.items():
        tail = (
            f"   {a['rate'] / b['rate']:.2f} ×, {a['cpu_us'] / b['cpu_us']:.2f} ×,"
            f" {best['keyfront'] / best[name]:.2f} × of {name}"
            if row is a
            else ""
        )
        print(
            f"{case.name:30} {who:10} {row['rate']:8.0f} {row['cpu_us']:9.1f} {best[who]:7.1f} {row['p99'] / 1000:7.2f}"
            f" {row['memory']:5.0f}{tail}",
            flush=True,
        )


def stream(ours: Start, theirs: Start) -> None:
    """Measure one uncached GiB for one viewer, and the memory that this takes."""
    big = VAR / "www" / "open" / "1g.bin"
    if not big.exists():
        with big.open("wb") as file:
            file.truncate(1 << 30)
    rounds: dict[str, list[tuple[float, float, float]]] = {"keyfront": [], "proxy": []}
    with ours() as a, theirs() as b:
        for number in range(ROUNDS):
            for server in (a, b):
                url = f"http://127.0.0.1:{server.port}/open/1g.bin?{time.time_ns()}{number}"
                argv = ["taskset", "-c", "1", "curl", "-sS", "-o", "/dev/null", "-H", "Host: cdn.test", url]
                before, began = server.cpu(), time.monotonic()
                subprocess.run(argv, check=True, timeout=120)
                took = time.monotonic() - began
                rounds[server.name].append(
                    (1024 / took, (server.cpu() - before) / 1024 * 1e6, server.memory())
                )
    middle = {
        who: [statistics.median(column) for column in zip(*rows, strict=True)] for who, rows in rounds.items()
    }
    for who, (rate, cpu, memory) in middle.items():
        tail = f"   {rate / middle['proxy'][0]:.2f} × of proxy" if who == "keyfront" else ""
        print(
            f"{'miss: a stream of 1 GiB, MiB/s':30} {who:10} {rate:8.0f} {cpu:9.1f} {'':7} {memory:5.0f}{tail}",
            flush=True,
        )


def two_workers() -> None:
    """Compare one worker with two, on links that are all new. The client shares the second core with the second worker,
    so this must be a case in which the client needs little CPU."""
    case = next(case for case in CASES if case.unseen)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for count, figures in rates.items():
            with (
                tempfile.TemporaryDirectory(prefix="keyfront-bench-") as folder,
                contextlib.ExitStack() as stack,
            ):
                workers = [
                    stack.enter_context(keyfront(Path(folder), OUR_PORT, {core}, f"edge-{core}"))
                    for core in range(count)
                ]
                load(workers[0], case, case.warm, 3)
                figures.append(load(workers[0], case, case.urls, 1)["rate"])
    one, two = (statistics.median(figures) for figures in rates.values())
    print(
        f"{'two workers, new signatures':30} {'keyfront':10} {two:8.0f} {'':17}   {two / one:.2f} × of one worker",
        flush=True,
    )


def main() -> None:
    lacking = [name for name in ("nginx", "wrk", "taskset") if shutil.which(name) is None]
    if lacking or not PEERS.is_dir():
        print(f"skipped: {', '.join(lacking) or 'the folder of the peers (PEERS)'} not found")
        return
    prepare()
    only = os.environ.get("CASE", "")
    with tempfile.TemporaryDirectory(prefix="keyfront-peers-") as made:
        peers = logging_peers(Path(made))
        print(
            f"{'case':30} {'server':10} {'req/s':>8} {'CPU µs':>9} {'best':>7} {'p99 ms':>7} {'MiB':>5}"
            "   ratio of rates, of CPU, of best"
        )
        with peer("origin", peers, ORIGIN_PORT, {1}):
            for case in CASES:
                if only not in case.name:
                    continue
                for name in ("base",) if BASE else case.beside:
                    with (
                        tempfile.TemporaryDirectory(prefix="keyfront-bench-") as folder,
                        tempfile.TemporaryDirectory(prefix="keyfront-base-") as other,
                    ):
                        compare(
                            case,
                            lambda folder=folder: keyfront(Path(folder), OUR_PORT, {0}),  # type: ignore[misc]
                            name,
                            lambda name=name, other=other: (  # type: ignore[misc]
                                checkout(Path(BASE).resolve(), Path(other), PEER_PORT)
                                if BASE
                                else peer(name, peers, PEER_PORT, {0})
                            ),
                        )
            if BASE:
                return
            if only in "miss: a stream of 1 GiB":
                with tempfile.TemporaryDirectory(prefix="keyfront-bench-") as folder:
                    stream(
                        lambda: keyfront(Path(folder), OUR_PORT, {0}),
                        lambda: peer("proxy", peers, PEER_PORT, {0}),
                    )
            if only in "two workers":
                two_workers()


if __name__ == "__main__":
    main()
