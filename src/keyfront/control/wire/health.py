"""What `GET /healthz` answers: whether everything on this machine can do its work, and if not, why.

    edges        every edge worker runs, obeys the published snapshot, and can write its records
    data folder  a file can be written there and is on the disk afterwards
    store        a transaction that changes a row can be committed
    audit        the last record of the audit log could be written
    publishing   every change that was accepted is published
    calls        calls of the API come to an end

Each check is made when somebody asks, at most once a second, in a thread of its own: one that hangs is a reason, and
hangs neither the others nor the answer. Edges on other machines are not this process's to judge: the answer lists what
they report and draws no conclusion.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread

from keyfront.control.store.schema import lease as _lease
from keyfront.control.store.store import Store
from keyfront.control.store.transaction import Now
from keyfront.errors import ApiError
from keyfront.fleet.feed import STALE, Report
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.heartbeat import SILENT, Board, Trouble

FRESH = 1.0
"""Seconds for which a check's result counts."""
ANSWER = 5.0
"""Seconds after which a check that has not ended is itself a reason."""
BEHIND = 5.0
"""Seconds that an edge may take to obey a published snapshot. (It takes 50 ms; a busy machine may need longer.)"""
CALLS_SLOW = 20.0
"""Seconds without the end of a call, while all threads are busy, after which `/healthz` says so."""
CALLS_STUCK = 90.0
"""The same, after which the process counts as stuck. Every wait for a store ends before that."""

_PROBE_BYTES = 4096
_ROW = "health"
_TROUBLES = {
    Trouble.ACCESS_LOG: "cannot write the access log",
    Trouble.REPORT: "cannot write its report",
}

Look = Callable[[], Iterable[str]]
"""A check: the reasons why something is not as it should be, none if it is."""


class Health:
    """The checks together.

    :param checks: by name. Each runs in a thread.
    :param details: what the answer shows besides.
    """

    def __init__(self, checks: Mapping[str, Look], details: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._checks = [_Check(name, look) for name, look in checks.items()]
        self._details = details

    async def answer(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and what to tell."""
        found = await asyncio.gather(*(check.reasons() for check in self._checks))
        reasons = {
            check.name: list(reasons) for check, reasons in zip(self._checks, found, strict=True) if reasons
        }
        body = {"status": "failing" if reasons else "ok", "reasons": reasons, **self._details()}
        return not reasons, body


class _Check:
    def __init__(self, name: str, look: Look) -> None:
        self.name = name
        self._look = look
        self._limiter = CapacityLimiter(1)  # not one of the threads that calls may all be waiting in
        self._task: asyncio.Task[list[str]] | None = None
        self._began = 0.0

    async def reasons(self) -> list[str]:
        now = time.monotonic()
        if self._task is None or (self._task.done() and now - self._began >= FRESH):
            self._began = now
            self._task = asyncio.create_task(self._run())
        await asyncio.wait([self._task], timeout=max(0.0, self._began + ANSWER - now))
        if not self._task.done():
            return [f"no answer for {time.monotonic() - self._began:.0f} seconds"]
        return self._task.result()

    async def _run(self) -> list[str]:
        def look() -> list[str]:
            return list(self._look())

        try:
            return await to_thread.run_sync(look, limiter=self._limiter, abandon_on_cancel=True)
        except ApiError as error:
            return [error.message]
        except OSError as error:
            return [error.strerror or str(error)]
        except Exception as error:
            return [f"the check failed: {type(error).__name__}"]


# ---- the checks


class EdgeWorkers:
    """The edge workers of this machine, by their heartbeats and reports.

    :param names: of the workers, in the order of their slots.
    """

    def __init__(self, board: Board, names: tuple[str, ...], feed: FileFeed) -> None:
        self._board = board
        self._names = names
        self._feed = feed
        self._moved = [0.0] * len(names)

    def look(self, now: float) -> None:
        """Take note of who beats at `now` (monotonic). Called several times a second, so that a worker that is
        replaced within SILENT seconds is none that is missing."""
        for slot in range(len(self._names)):
            if self._board.silence(slot, now) < SILENT:
                self._moved[slot] = now

    def reasons(self) -> Iterable[str]:
        now, clock = time.monotonic(), time.time()
        self.look(now)  # the first one may still be to come
        reports = {report.name: report for report in self._feed.last_reports()}
        published = self._feed.published_at()
        for slot, name in enumerate(self._names):
            if now - self._moved[slot] > SILENT:
                gone = self._board.last(slot) == 0
                yield f"{name} is not running" if gone else f"{name} does not move"
                continue
            if self._board.silence(slot, now) == float("inf"):
                continue  # it is being replaced
            for trouble, text in _TROUBLES.items():
                if self._board.trouble(slot) & trouble:
                    yield f"{name} {text}"
            report = reports.get(name)
            if report is None or clock - report.at > STALE:
                yield f"{name} has not reported for {STALE:.0f} seconds"
            elif report.refused:
                yield f"{name} refused a snapshot: {report.refused}"
            elif published is not None and report.number < published[0] and clock - published[1] > BEHIND:
                yield f"{name} obeys snapshot {report.number}, and {published[0]} is published"

    def details(self) -> dict[str, Any]:
        """The workers, those of other machines that follow this feed, and what works less well than it could."""
        now = time.monotonic()
        notes = [
            f"{name} cannot write the cache on disk: new responses are not stored there"
            for slot, name in enumerate(self._names)
            if self._board.trouble(slot) & Trouble.CACHE_DISK
        ]
        reports = self._feed.last_reports()
        edges = [
            {
                "name": name,
                "silent_seconds": _seconds(self._board.silence(slot, now)),
                "restarts": self._board.restarts(slot)[0],
                "killed": self._board.restarts(slot)[1],
                "snapshot": next((report.number for report in reports if report.name == name), None),
            }
            for slot, name in enumerate(self._names)
        ]
        return {"notes": notes, "edges": edges, "edges_elsewhere": list(self._elsewhere(reports))}

    def _elsewhere(self, reports: Iterable[Report]) -> Iterable[dict[str, Any]]:
        now = time.time()
        for report in reports:
            if report.name not in self._names:
                yield {
                    "name": report.name,
                    "reported_seconds_ago": round(now - report.at, 1),
                    "snapshot": report.number,
                    "refused": report.refused,
                }


def _seconds(found: float) -> float | None:
    return None if found == float("inf") else round(found, 1)


def writable(folder: Path) -> Iterable[str]:
    """Is what is written in the folder on the disk? A new file, since a full disk may take what replaces old bytes."""
    path = folder / f".health.{os.getpid()}.tmp"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.write(fd, bytes(_PROBE_BYTES)) < _PROBE_BYTES:
                yield "cannot be written: no space left"
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        yield f"cannot be written: {error.strerror}"
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def committable(store: Store) -> Iterable[str]:
    """Can a change of a row be committed? The table of leases has a row that nothing else uses."""
    try:
        with store.write() as transaction:
            transaction.audit_head()
            connection = transaction.connection
            changed = connection.execute(
                sa.update(_lease).where(_lease.c.name == _ROW).values(until=Now())
            ).rowcount
            if not changed:
                connection.execute(sa.insert(_lease).values(name=_ROW, holder=_ROW, until=Now()))
    except ApiError as error:
        yield error.message


class Calls:
    """Whether calls of the API come to an end. Used on the event loop only; `now` is monotonic.

    :param threads: how many calls can be at work at once; the others wait.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._under_way = 0
        self._since = 0.0
        """Since when all threads have been busy without the end of a call."""

    def begin(self, now: float) -> None:
        self._under_way += 1
        if self._under_way == self._threads:
            self._since = now

    def end(self, now: float) -> None:
        self._under_way -= 1
        self._since = now

    def held_up(self, now: float) -> float:
        """Seconds since a call last ended, while all threads are busy; 0.0 while one is free."""
        return now - self._since if self._under_way >= self._threads else 0.0

    def reasons(self) -> Iterable[str]:
        held = self.held_up(time.monotonic())
        if held > CALLS_SLOW:
            yield f"none of {self._under_way} calls has ended for {held:.0f} seconds"
