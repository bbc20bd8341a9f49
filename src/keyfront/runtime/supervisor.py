"""Child processes: start them, know when they are ready, start them again when they die or are stuck, end them in
order.

Each child holds one end of a pipe from its parent, its lifeline: when the parent is gone, however it went, the pipe
closes and the child drains and ends. Its other pipe says once that it is ready. From then on it beats on a board in
shared memory (`fleet/heartbeat.py`); one that does not for too long is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable

import msgspec

from keyfront.errors import SettingsError
from keyfront.fleet.heartbeat import Board

RESTART_AT_LEAST = 0.1
RESTART_AT_MOST = 1.0
"""Seconds between the end of a child and its next start; doubled each time it dies young."""
RESTART_SLOWLY = 5.0
"""The same for one that has died young MANY times, while another child does its work."""
MANY = 10
YOUNG = 5.0
READY_WITHIN = 60.0
END_WITHIN = 40.0
"""Seconds that a child may take to end, unless it is told otherwise."""
AFTER_DRAIN = 10.0
"""Seconds that an edge worker may take after the time for its requests."""
LOOK = 0.25
"""Seconds between two looks at a child's heartbeat."""


class Watched(msgspec.Struct, frozen=True):
    """How a child's heartbeat is watched: its place on the board, and after how many seconds without one it is killed
    (0: never). `deputies` are the slots of the children that do its work meanwhile."""

    board: Board
    slot: int
    stuck_after: float
    deputies: range = range(0)

    def has_deputy(self, now: float) -> bool:
        return any(self.board.accepts(slot, now) for slot in self.deputies if slot != self.slot)


class Child:
    """One supervised process. `argv` is what to run; it is told its pipes' numbers in the environment, and gets of the
    variables those that `passes` says yes to. It inherits the file descriptors `fds`. After SIGTERM it has
    `end_within` seconds."""

    def __init__(
        self,
        name: str,
        argv: list[str],
        on_death: Callable[[], None] | None = None,
        passes: Callable[[str], bool] = lambda _: True,
        fds: tuple[int, ...] = (),
        watched: Watched | None = None,
        end_within: float = END_WITHIN,
    ) -> None:
        self.end_within = end_within
        self.name = name
        self.argv = argv
        self.pid = 0
        self.ready = asyncio.Event()
        self._on_death = on_death
        self._environment = {name: text for name, text in os.environ.items() if passes(name)}
        self._fds = fds
        self._watched = watched
        self._process: asyncio.subprocess.Process | None = None
        self._ending = False
        self._killed = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and return when it is ready.

        :raises SettingsError: if its first run ends before it was ready (it has said why on standard error), or takes
            too long.
        """
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(first))
        await first

    async def end(self) -> None:
        """SIGTERM, time to drain, and SIGKILL for one that does not end."""
        self._ending = True
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), self.end_within)
            except TimeoutError:
                process.kill()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _ended_on_purpose(self) -> bool:
        return self._ending

    async def _run(self, first: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        died_young = 0
        while not self._ending:
            began = loop.time()
            self._killed = False
            try:
                status = await self._run_once(first)
            except OSError as error:  # no process, no pipe, no memory: it may pass
                if not first.done():
                    first.set_exception(SettingsError(f"{self.name} cannot be started: {error}"))
                    return
                self._say(f"{self.name} cannot be started: {error}; it is tried again")
                status = None
            self.ready.clear()
            if self._watched is not None:
                self._watched.board.clear(self._watched.slot)
            if self._ended_on_purpose():
                if not first.done():
                    first.cancel()
                return
            if not first.done():
                why = f"was not ready within {READY_WITHIN:.0f} seconds" if self._killed else "did not start"
                first.set_exception(SettingsError(f"{self.name} {why} (exit status {status})"))
                return
            if status is not None:
                self._mourn(status)
            died_young = died_young + 1 if loop.time() - began < YOUNG else 0
            await asyncio.sleep(self._pause(died_young))

    def _mourn(self, status: int) -> None:
        if self._watched is not None:
            self._watched.board.count(self._watched.slot, killed=self._killed)
        if self._on_death is not None:
            # What a full disk does not let it tidy up is no reason not to start the child again.
            with contextlib.suppress(OSError):
                self._on_death()
        self._say(f"{self.name} (pid {self.pid}) ended with {status}; it is started again")

    def _pause(self, died_young: int) -> float:
        """Seconds until the next start."""
        at_most = RESTART_AT_MOST
        if died_young > MANY and self._watched is not None and self._watched.has_deputy(time.monotonic()):
            at_most = RESTART_SLOWLY
        return float(min(RESTART_AT_LEAST * 2 ** min(died_young, 10), at_most))

    async def _run_once(self, first: asyncio.Future[None]) -> int:
        """Run the process until it ends; its exit status."""
        lifeline, ours = os.pipe()
        try:
            ready_read, ready_write = os.pipe()
        except OSError:
            os.close(lifeline)
            os.close(ours)
            raise
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(lifeline, ready_write, *self._fds),
                env={
                    **self._environment,
                    "KEYFRONT_LIFELINE": str(lifeline),
                    "KEYFRONT_READY": str(ready_write),
                },
                start_new_session=True,
            )
            self.pid = process.pid
            os.close(lifeline)
            os.close(ready_write)
            lifeline = ready_write = -1
            ended = asyncio.ensure_future(process.wait())
            ready = asyncio.ensure_future(_says_something(ready_read))
            await asyncio.wait([ended, ready], timeout=READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and ready.result():
                self.ready.set()
                if not first.done():
                    first.set_result(None)
            elif not ended.done() and not ready.done():
                self._kill(f"was not ready within {READY_WITHIN:.0f} seconds")
            ready.cancel()
            watching = asyncio.ensure_future(self._watch(process))
            try:
                await asyncio.gather(ready, return_exceptions=True)
                return await ended
            finally:
                watching.cancel()
        finally:
            for fd in (lifeline, ours, ready_read, ready_write):
                if fd >= 0:
                    os.close(fd)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill the process when it stops beating."""
        if self._watched is None or not self._watched.stuck_after:
            return
        board, slot, limit = self._watched.board, self._watched.slot, self._watched.stuck_after
        since = looked = time.monotonic()
        stood_still = 0.0
        while process.returncode is None:
            await asyncio.sleep(LOOK)
            now = time.monotonic()
            last = max(board.last(slot), since)
            if last > looked:
                stood_still = 0.0
            elif now - looked > LOOK + 1:
                # This process stood still itself, perhaps with the whole machine: that time does not count.
                stood_still += now - looked
            looked = now
            if now - last - stood_still > limit:
                self._kill(f"has not moved for {limit:g} seconds")
                return

    def _kill(self, why: str) -> None:
        self._killed = True
        self._say(f"{self.name} (pid {self.pid}) {why}; it is killed")
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    @staticmethod
    def _say(text: str) -> None:
        with contextlib.suppress(OSError):  # standard error may be a file on a full disk
            print(f"keyfront: {text}", file=sys.stderr, flush=True)


def open_files() -> None:
    """Let this process and its children have as many open files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _says_something(fd: int) -> bool:
    """Wait until something can be read from `fd`, or its other end is closed unsaid: then False."""
    loop = asyncio.get_running_loop()
    news: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not news.done():
            news.set_result(None)

    loop.add_reader(fd, tell)
    try:
        await news
    finally:
        loop.remove_reader(fd)
    return bool(os.read(fd, 1))
