"""The checks behind `GET /healthz`: whether everything on this machine works, and if not, the reasons.

    edges        every edge worker runs, uses the published snapshot, and can write its records
    data folder  a file can be written and synced there
    store        a transaction that changes a row can be committed
    audit        the last audit record of a call that changed nothing, or of a rotation step, could be written
    publishing   every accepted change is published
    calls        API calls finish

A check runs on request, at most once a second, in its own thread. A check that hangs is reported as a reason and blocks
neither the others nor the response. Edges on other machines are listed with their reports, but do not affect the
status.
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

from keyfront.control.store.queries.base import Now
from keyfront.control.store.schema import lease as _lease
from keyfront.control.store.store import Store
from keyfront.errors import ApiError
from keyfront.fleet.feed import STALE, Report
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.heartbeat import SILENT, Board, Trouble

FRESH = 1.0
"""Seconds for which a check's result is reused."""
ANSWER = 5.0
"""Seconds after which a check that has not finished counts as failed."""
BEHIND = 5.0
"""Seconds within which an edge must use a published snapshot. (This takes 50 ms; a busy machine may need longer.)"""
CALLS_SLOW = 20.0
"""Seconds without a finished call, while all threads are busy, after which `/healthz` fails."""
CALLS_STUCK = 90.0
"""Seconds without a finished call, while all threads are busy, after which the process counts as stuck. Every wait for
a store times out earlier."""

_PROBE_BYTES = 4096
_ROW = "health"
_TROUBLES = {
    Trouble.ACCESS_LOG: "cannot write the access log",
    Trouble.REPORT: "cannot write its report",
}

Check = Callable[[], Iterable[str]]
"""Returns the reasons why something does not work; none if it works."""


class Health:
    """All checks.

    :param checks: by name. Each runs in a thread.
    :param details: additional members of the response.
    """

    def __init__(self, checks: Mapping[str, Check], details: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._checks = [_CachedCheck(name, check) for name, check in checks.items()]
        self._details = details

    async def answer(self) -> tuple[bool, dict[str, Any]]:
        """Whether everything works, and the body of the response."""
        found = await asyncio.gather(*(check.reasons() for check in self._checks))
        reasons = {
            check.name: list(reasons) for check, reasons in zip(self._checks, found, strict=True) if reasons
        }
        body = {"status": "failing" if reasons else "ok", "reasons": reasons, **self._details()}
        return not reasons, body


class _CachedCheck:
    """A check with its last result."""

    def __init__(self, name: str, check: Check) -> None:
        self.name = name
        self._check = check
        self._limiter = CapacityLimiter(1)  # separate from the threads that API calls may occupy
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
        def reasons() -> list[str]:
            return list(self._check())

        try:
            return await to_thread.run_sync(reasons, limiter=self._limiter, abandon_on_cancel=True)
        except ApiError as error:
            return [error.message]
        except OSError as error:
            return [error.strerror or str(error)]
        except Exception as error:
            return [f"the check failed: {type(error).__name__}"]


# ---- the checks


class EdgeWorkers:
    """The edge workers of this machine: their heartbeats and reports.

    :param names: the workers' names, in the order of their slots.
    """

    def __init__(self, board: Board, names: tuple[str, ...], feed: FileFeed) -> None:
        self._board = board
        self._names = names
        self._feed = feed
        self._beats = [0.0] * len(names)

    def note_heartbeats(self, now: float) -> None:
        """Note which workers have a current heartbeat at `now` (monotonic). Called several times a second, so that a
        worker that is replaced within SILENT seconds does not count as missing."""
        for slot in range(len(self._names)):
            if self._board.silence(slot, now) < SILENT:
                self._beats[slot] = now

    def reasons(self) -> Iterable[str]:
        now, clock = time.monotonic(), time.time()
        self.note_heartbeats(now)  # it may not have been called yet
        reports = {report.name: report for report in self._feed.last_reports()}
        published = self._feed.published_at()
        for slot, name in enumerate(self._names):
            if now - self._beats[slot] > SILENT:
                gone = self._board.last(slot) == 0
                yield f"{name} is not running" if gone else f"{name} does not respond"
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
                yield f"{name} uses snapshot {report.number}, but {published[0]} is published"

    def details(self, notes: Iterable[str] = ()) -> dict[str, Any]:
        """The workers, edges of other machines that follow this feed, and notes on what is degraded.

        :param notes: further ones.
        """
        now = time.monotonic()
        found = [
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
        return {"notes": [*found, *notes], "edges": edges, "edges_elsewhere": list(self._elsewhere(reports))}

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
    """Check that a new file can be written and synced. (A full disk may still allow existing bytes to be
    overwritten.)"""
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
    """Check that a change can be committed, on a row of the table of leases that nothing else uses."""
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
    """Counts API calls that are running. Used on the event loop only; `now` is monotonic.

    :param threads: the number of calls that can run at once; others wait.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._running = 0
        self._since = 0.0
        """The time since which all threads have been busy and no call has finished."""

    def begin(self, now: float) -> None:
        """A call has begun."""
        self._running += 1
        if self._running == self._threads:
            self._since = now

    def end(self, now: float) -> None:
        """A call has finished."""
        self._running -= 1
        self._since = now

    def held_up(self, now: float) -> float:
        """Seconds since the last call finished, while all threads are busy; 0.0 while a thread is free."""
        return now - self._since if self._running >= self._threads else 0.0

    def reasons(self) -> Iterable[str]:
        held = self.held_up(time.monotonic())
        if held > CALLS_SLOW:
            yield f"none of {self._running} calls has finished for {held:.0f} seconds"
