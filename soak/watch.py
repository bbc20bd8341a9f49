"""Monitoring of the processes: memory, file descriptors, log output, and access records."""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final, NamedTuple

from soak.churn import children
from soak.judge import Ask, Judge, Seen
from soak.truth import Truth
from tests.up import Up

MIB: Final = 1 << 20
GROWTH: Final = 1.15
ROOM: Final = 8 * MIB
"""A worker's memory is flat if the last third's median is at most `GROWTH` times the middle third's plus `ROOM`."""
ABOVE_CACHE: Final = 120 * MIB
"""Bytes that a worker may need in addition to its cache."""
LONG: Final = 90.0
"""Seconds of a soak from which growth is judged; before that, the cache is filling."""
_SECRET: Final = re.compile(rb"(?:Signature|Policy)=[^&\"]{40}|CloudFront-[PSKE]")
_PAGE: Final = os.sysconf("SC_PAGESIZE")


class Sample(NamedTuple):
    """One sample of a process. `at` is seconds since the start, `rss` bytes, `files` the number of open file
    descriptors."""

    at: float
    pid: int
    rss: int
    files: int


class Watch:
    def __init__(self, up: Up, truth: Truth, judge: Judge, cache: int) -> None:
        self.up = up
        self.truth = truth
        self.judge = judge
        self.cache = cache
        self.samples: defaultdict[str, list[Sample]] = defaultdict(list)
        self.fresh = max(sample.files for name, sample in self.look().items() if name != "control")
        """Number of file descriptors of a worker that has received no request yet."""

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.look()
            try:
                await asyncio.wait_for(stop.wait(), 1.0)
            except TimeoutError:
                pass

    def look(self) -> dict[str, Sample]:
        """One sample of each process."""
        taken = {}
        for name, pid in children(self.up).items():
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                files = len(os.listdir(f"/proc/{pid}/fd"))
            except (OSError, IndexError):
                continue
            sample = Sample(time.time() - self.truth.began, pid, pages * _PAGE, files)
            taken[name] = sample
            self.samples[name].append(sample)
        return taken

    def judge_memory(self, seconds: float) -> None:
        """Print and judge each process's series. Each run of a process that was killed is judged separately, by its
        peak."""
        for name, samples in sorted(self.samples.items()):
            lives = {sample.pid: [s for s in samples if s.pid == sample.pid] for sample in samples}
            longest = max(lives.values(), key=len)
            step = max(1, len(longest) // 20)
            series = [longest[at : at + step] for at in range(0, len(longest), step)]
            rss = [statistics.median(s.rss for s in part) / MIB for part in series]
            files = [int(statistics.median(s.files for s in part)) for part in series]
            print(f"  {name:8} {len(lives)} lives; the longest {longest[-1].at - longest[0].at:.0f} s")
            print(f"    MiB   {' '.join(f'{value:5.0f}' for value in rss)}")
            print(f"    files {' '.join(f'{value:5}' for value in files)}")
            if name == "control":
                continue
            peak = max(sample.rss for sample in samples)
            if peak > self.cache + ABOVE_CACHE:
                self.judge.violation(
                    "memory", f"{name} had {peak / MIB:.0f} MiB, its cache {self.cache / MIB:.0f} MiB of them"
                )
            if seconds >= LONG and len(longest) >= 0.8 * seconds:
                self._flat(name, longest)

    def _flat(self, name: str, samples: list[Sample]) -> None:
        third = len(samples) // 3
        middle, last = samples[third : 2 * third], samples[2 * third :]
        before, after = (statistics.median(s.rss for s in part) for part in (middle, last))
        verdict = (
            f"{name}: median {before / MIB:.1f} MiB in the middle third, {after / MIB:.1f} MiB in the last"
        )
        print(f"    {verdict}")
        if after > GROWTH * before + ROOM:
            self.judge.violation("memory grows", verdict)
        open_before, open_after = (statistics.median(s.files for s in part) for part in (middle, last))
        if open_after > GROWTH * open_before + 16:
            self.judge.violation(
                "file descriptors grow",
                f"{name}: {open_before} in the middle third, {open_after} in the last",
            )

    async def at_rest(self) -> None:
        """Check that when all viewers are gone, a worker closes their connections and, soon after, those to the
        origin."""
        ends = time.time() + 12
        while True:
            files = {name: s.files for name, s in self.look().items() if name != "control"}
            over = {name: count for name, count in files.items() if count > self.fresh + 4}
            if not over:
                return
            if time.time() > ends:
                still = {name: _open_files(self.samples[name][-1].pid) for name in over}
                self.judge.violation(
                    "file descriptors at rest", f"{over}, {self.fresh} at the beginning; there are {still}"
                )
                return
            await asyncio.sleep(0.2)

    def judge_log(self) -> None:
        """Judge the output of `keyfront up`."""
        said: Counter[str] = Counter()
        for line in self.up.log:
            text = line.rstrip()
            if re.fullmatch(r"keyfront: \S+ \(pid \d+\) exited with status -9; restarting it", text):
                continue
            if not text or text.startswith("keyfront ready "):
                continue
            said[re.sub(r"\d+|\b[A-Za-z0-9_-]{40,}=*", "#", text)] += 1
        for text, times in said.most_common(40):
            print(f"  said {times} times: {text}")
        # An origin's fault is named like an error, and may also be the reason why a limit was reached.
        whole = "".join([line for line in self.up.log if not line.startswith("keyfront: the limit ")])
        whole = re.sub(r"\bOrigin\w+Error:", "", whole)
        for word in ("Traceback", "Exception", "Error:", "was never awaited", "Task was destroyed", "failed"):
            if word in whole:
                at = max(0, whole.index(word) - 300)
                self.judge.violation("a traceback in the log", f"{word!r}: …{whole[at : at + 3000]}")
                return


def _open_files(pid: int) -> list[str]:
    found = []
    for number in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(f"{number.name} {number.readlink()}")
        except OSError:
            continue
    return found


class Ledger:
    """The check that each request with a response has exactly one access record, and that each record, except those of
    requests without a response, has its response. Records are read as the log grows, so that little memory is
    needed."""

    def __init__(self, path: Path, truth: Truth, judge: Judge) -> None:
        self._path = path
        self._truth = truth
        self._judge = judge
        self._offset = 0
        self._answered: dict[str, tuple[float, float, str, str, int, int]] = {}
        self._logged: dict[str, tuple[str, str, int, int]] = {}
        self.matched = 0
        self.records = 0
        self.summed = 0
        """Number of refusals that are summarized in a record for several (`repeats`)."""

    def answered(self, ask: Ask, seen: Seen) -> None:
        path = ask.target.partition("?")[0]
        self._answered[seen.get("x-amz-cf-id")] = (
            ask.sent,
            seen.answered,
            ask.method,
            path,
            seen.status,
            len(seen.body),
        )

    def refused(self, head: bytes, size: int, sent: float, answered: float) -> None:
        """Record that an unreadable request was refused with this head and a body of `size` bytes."""
        found = re.search(rb"\r\nX-Amz-Cf-Id: (\S+)", head)
        status = int(head[9:12])
        if found is not None:
            self._answered[found[1].decode()] = (sent, answered, "-", "/flood", status, size)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), 1.0)
            except TimeoutError:
                pass
            self.read()

    def read(self) -> None:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read(64 << 20)
        except FileNotFoundError:
            return
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        for line in data.splitlines():
            self._line(line)
        for request_id in [i for i in self._logged if i in self._answered]:
            self._match(request_id)

    def _line(self, line: bytes) -> None:
        self.records += 1
        if _SECRET.search(line):
            self._judge.violation("a secret in the access log", line.decode("latin-1")[:600])
        try:
            record = json.loads(line)
        except ValueError:
            self._judge.violation("a torn access record", line.decode("latin-1")[:500])
            return
        self.summed += record.get("repeats", 0)
        request_id = record["request_id"]
        if request_id in self._logged:
            self._judge.violation("two access records", line.decode("latin-1")[:500])
        self._logged[request_id] = (record["method"], record["path"], record["status"], record["bytes"])

    def _match(self, request_id: str) -> None:
        _, answered, *seen = self._answered.pop(request_id)
        logged = list(self._logged.pop(request_id))
        self.matched += 1
        if seen != logged:
            self._judge.violation(
                "access record", f"{request_id} has {logged}, its viewer saw {seen} at {answered}"
            )

    def close(self) -> None:
        """Finish after the edge has exited: what is not matched now never will be."""
        self.read()
        lost = 0
        for request_id, (sent, answered, *seen) in self._answered.items():
            # Records are written after 20 ms, and a busy machine may delay that. The viewer cannot know when the edge
            # responded: it may have spent a long time reading earlier responses.
            if any(sent <= kill <= answered + 0.5 for kill in self._truth.kills):
                lost += 1
            elif isinstance(seen[2], int) and 400 <= seen[2] < 500 and self.summed > 0:
                self.summed -= (
                    1  # an address gets a limited number of refusal records a second, and one for the rest
                )
            else:
                at = answered - self._truth.began
                kills = [f"{kill - self._truth.began:.3f}" for kill in self._truth.kills]
                self._judge.violation(
                    "no access record", f"{request_id} {seen}, answered at {at:.3f} s, kills at {kills}"
                )
        counts = self._judge.counts
        unanswered = counts["asked"] - counts["answers"]
        print(
            f"  {self.records} records for {counts['answers']} answers and {unanswered} requests without one;"
            f" {self.matched} match, {lost} were lost with killed workers"
        )
        if len(self._logged) > unanswered:
            some = list(self._logged.items())[:3]
            self._judge.violation("access records of nobody", f"{len(self._logged)} for {unanswered}: {some}")
        # At the pace of the soak's viewers, 20 ms are a few batches.
        if lost > 100 * len(self._truth.kills):
            self._judge.violation("access records lost", f"{lost} with {len(self._truth.kills)} kills")
