"""The command behind `make soak`. Exit status 0 if there was no violation, 1 if there was any.

python -m soak [--seconds 600] [--seed N] [--viewers 16] [--workers 2]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import uvloop

from keyfront.fleet.file_feed import FileFeed
from soak import churn, slow
from soak.flood import flood
from soak.judge import Judge
from soak.objects import catalogue
from soak.origin import SoakOrigin
from soak.talker import Talker
from soak.truth import Truth
from soak.viewer import Listener, Viewer
from soak.watch import MIB, Ledger, Watch
from tests.up import Up

MEMORY = 16
MAX_OBJECT = 1
DISK = 64
"""Size of the caches, MiB: far less than the content. Objects larger than `MAX_OBJECT` are stored in slices."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m soak", description="Mixed load, misfortune and a judge.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long there is load (default 600)")
    parser.add_argument("--seed", type=int, help="what to repeat (default: a new one)")
    parser.add_argument("--viewers", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    if not (1 <= options.viewers <= 256 and 1 <= options.workers <= 16 and 1 <= options.seconds <= 86_400):
        parser.error("1 to 256 viewers, 1 to 16 workers, 1 to 86400 seconds")
    with tempfile.TemporaryDirectory(prefix="keyfront-soak-") as folder:
        judge = uvloop.run(soak(Path(folder), seed, options.seconds, options.viewers, options.workers))
    return 1 if judge.violations else 0


async def soak(folder: Path, seed: int, seconds: float, viewers: int, workers: int) -> Judge:
    """Run one soak. Violations are printed as they are found, the totals at the end."""
    print(f"soak: {seconds:g} s, seed {seed}, {viewers} viewers, {workers} workers", flush=True)
    truth = Truth(catalogue(seed))
    judge = Judge(truth, seed)
    origin = SoakOrigin(truth, seed)
    await origin.start()
    options = ["--memory", str(MEMORY), "--max-object", str(MAX_OBJECT), "--cache-disk", f"{DISK}M"]
    options += ["--tls", "127.0.0.1:0", "--certificates", str(folder / "certificates")]
    options += slow.OPTIONS
    up = Up(folder / "data", workers=workers, options=(*options, "--stuck-after", f"{churn.STUCK_AFTER:g}"))
    operator = churn.Operator(up, origin.port, truth, judge, seed)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        with up:
            await _load(up, origin, operator, judge, seed, seconds, viewers)
    finally:
        await origin.stop()
    return judge


async def _load(
    up: Up,
    origin: SoakOrigin,
    operator: churn.Operator,
    judge: Judge,
    seed: int,
    seconds: float,
    viewers: int,
) -> None:
    truth = judge.truth
    await operator.settle()
    watch = Watch(up, truth, judge, MEMORY * MIB)
    ledger = Ledger(up.data / "logs" / "access.jsonl", truth, judge)

    stop, stop_watching = asyncio.Event(), asyncio.Event()
    http = Listener(up.edge_port, operator.issuers["http"])
    https = Listener(up.tls_port, operator.issuers["https"], operator.certificates.context)
    crowd = [
        Viewer(n, seed, https if n % 3 == 2 else http, operator.hosts, judge, ledger.answered)
        for n in range(viewers)
    ]
    talkers = [
        Talker(
            n,
            seed,
            up.edge_port,
            operator.hosts.own,
            operator.issuers["http"],
            judge,
            ledger.answered,
        )
        for n in range(max(2, viewers // 4))
    ]
    tasks = [asyncio.create_task(viewer.run(stop)) for viewer in crowd]
    tasks += [asyncio.create_task(talker.run(stop)) for talker in talkers]
    tasks += [
        asyncio.create_task(
            slow.Slow(n, seed, (up.edge_port, up.tls_port), operator.hosts.own, truth, judge).run(stop)
        )
        for n in range(5)
    ]
    tasks += [
        asyncio.create_task(work)
        for work in (
            churn.publish(truth, stop, seed),
            churn.origin_faults(origin, stop, seed, min(45.0, seconds / 2.5)),
            churn.kill(up, truth, judge, stop, "edge-1", min(30.0, seconds / 3)),
            churn.kill(up, truth, judge, stop, "control", min(60.0, seconds / 2)),
            # A short run has no time for this: a stuck process is replaced only after some seconds.
            churn.stun(up, truth, judge, stop, "edge-1", 47.0 if seconds > 60 else max(8.0, seconds / 2.5)),
            churn.stun(up, truth, judge, stop, "control", 83.0 if seconds > 60 else max(10.0, seconds / 2)),
            operator.run(stop, min(1.0, seconds / 30)),
            flood(up.edge_port, truth, judge, ledger, stop, seed),
        )
    ]
    watching = [
        asyncio.create_task(work)
        for work in (watch.run(stop_watching), ledger.run(stop_watching), _lag(judge, stop))
    ]
    ends = time.time() + seconds
    while time.time() < ends and not any(task.done() for task in tasks):
        await asyncio.sleep(min(0.25, max(0.0, ends - time.time())))
        _leaks(judge)
    stop.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    await watch.at_rest()
    for report in FileFeed(up.data).reports():
        evicted = sum(cells[0] for name, _, cells in report.counters["series"] if name == "disk_evictions")
        judge.counts["entries evicted from disk, by workers that live"] += evicted
    stop_watching.set()
    done += await asyncio.gather(*watching, return_exceptions=True)
    status = await asyncio.to_thread(up.stop)
    if status != 0:
        judge.violation("exit status", f"keyfront ended with {status}")
    _leaks(judge)
    _sums(judge, origin, seconds)
    watch.judge_memory(seconds)
    watch.judge_log()
    ledger.close()
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
    if judge.violations:
        print(f"\nFAIL, seed {seed}: " + ", ".join(f"{n} × {kind}" for kind, n in judge.violations.items()))
    else:
        print(f"\nPASS, seed {seed}: {judge.counts['answers']} answers, none of them wrong")


async def _lag(judge: Judge, stop: asyncio.Event) -> None:
    """Measure how late this process itself runs: its own delay may look like a slow response."""
    while not stop.is_set():
        before = time.monotonic()
        await asyncio.sleep(0.05)
        judge.truth.pulse()
        late = int((time.monotonic() - before - 0.05) * 1000)
        judge.counts["the soak's own lag at worst, ms"] = max(
            judge.counts["the soak's own lag at worst, ms"], late
        )


def _leaks(judge: Judge) -> None:
    while judge.truth.leaks:
        judge.violation("at the origin", judge.truth.leaks.pop())


def _sums(judge: Judge, origin: SoakOrigin, seconds: float) -> None:
    def table(title: str, counter: Counter[str]) -> None:
        print(f"\n{title}")
        for name, count in sorted(counter.items(), key=lambda pair: -pair[1])[:60]:
            print(f"  {count:9}  {name}")

    print(f"\n== after {seconds:g} s")
    table("what came to pass", judge.counts + Counter({"requests at the origin": origin.requests}))
    table("answers", judge.results)
    table("requests", judge.kinds)
    print("\nprocesses, records, log")


if __name__ == "__main__":
    sys.exit(main())
