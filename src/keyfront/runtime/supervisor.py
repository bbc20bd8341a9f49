"""Supervision of child processes: start them, wait until they are ready, restart them when they exit or hang, and stop
them in order.

Each child holds one end of a pipe from its parent, its lifeline: when the parent exits, for whatever reason, the pipe
closes, and the child drains and exits. The child writes to a second pipe once, when it is ready. From then on it writes
heartbeats to a board in shared memory (`fleet/heartbeat.py`); a child without a heartbeat for too long is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping

import msgspec

from keyfront.errors import SettingsError
from keyfront.fleet.heartbeat import Board, Silence
from keyfront.runtime.handover import HandedChild

logger = logging.getLogger("keyfront.supervisor")

MIN_RESTART_DELAY = 0.1
MAX_RESTART_DELAY = 1.0
"""Maximum seconds between the exit of a child and its next start; the delay doubles each time the child exits within
SHORT_RUN."""
MAX_DELAY_WITH_DEPUTY = 5.0
"""Maximum delay in seconds after MANY_SHORT_RUNS in a row, while another child does its work."""
MANY_SHORT_RUNS = 10
SHORT_RUN = 5.0
"""Seconds; a run that ends earlier counts as short."""
READY_TIMEOUT = 60.0
EXIT_TIMEOUT = 40.0
"""Seconds from SIGTERM to SIGKILL, by default."""
AFTER_DRAIN = 10.0
"""Seconds an edge worker has to exit once the time for its requests is over."""
WATCH_INTERVAL = 0.25
"""Seconds between two checks of a child's heartbeat."""


class Watchdog(msgspec.Struct, frozen=True):
    """How a child's heartbeat is monitored.

    `slot` is its place on the board. Without a heartbeat for `stuck_after` seconds it is killed; 0 disables this.
    `substitutes` are the slots of the children that do its work while it is down.
    """

    board: Board
    slot: int
    stuck_after: float
    substitutes: range = range(0)

    async def watch(self, runs: Callable[[], bool], kill: Callable[[str], None]) -> None:
        """Kill the child when its heartbeats stop.

        :param kill: called with the reason.
        """
        if not self.stuck_after:
            return
        silence = Silence(time.monotonic(), WATCH_INTERVAL)
        while runs():
            await asyncio.sleep(WATCH_INTERVAL)
            if silence.seconds(self.board.last(self.slot), time.monotonic()) > self.stuck_after:
                kill(f"has had no heartbeat for {self.stuck_after:g} seconds")
                return

    def has_substitute(self, now: float) -> bool:
        return any(self.board.accepts(slot, now) for slot in self.substitutes if slot != self.slot)


class Child:
    """One supervised process.

    :param argv: the command line. The numbers of the two pipes are in `KEYFRONT_LIFELINE` and `KEYFRONT_READY`.
    :param on_exit: called after each exit that was not requested, before the restart. It may raise OSError.
    :param environment: the variables that the process gets; by default this process's.
    :param fds: file descriptors that it inherits.
    :param exit_timeout: seconds from SIGTERM to SIGKILL.
    """

    def __init__(
        self,
        name: str,
        argv: list[str],
        on_exit: Callable[[], None] | None = None,
        environment: Mapping[str, str] = os.environ,
        fds: tuple[int, ...] = (),
        watchdog: Watchdog | None = None,
        exit_timeout: float = EXIT_TIMEOUT,
    ) -> None:
        self.exit_timeout = exit_timeout
        self.name = name
        self.argv = argv
        self.pid = 0
        self.ready = asyncio.Event()
        self._on_exit = on_exit
        self._environment = dict(environment)
        self._fds = fds
        self._watchdog = watchdog
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline = -1
        self._stopping = False
        self._killed = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process, and return when it is ready.

        :raises SettingsError: if its first run ends before it is ready (the process has logged why), or it is not
            ready within READY_TIMEOUT.
        """
        first_run: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(first_run))
        await first_run

    async def stop(self) -> None:
        """Send SIGTERM, wait for the process to drain, and send SIGKILL if it does not exit."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            await end_process(
                process.send_signal,
                asyncio.ensure_future(process.wait()),
                self.exit_timeout,
                self._identity(),
            )
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def handed(self) -> HandedChild | None:
        """The running process, for the program that takes over this one's children; None if there is none."""
        if self._process is None or self._process.returncode is not None or self._lifeline < 0:
            return None
        watchdog = self._watchdog
        slot, stuck_after = (-1, 0.0) if watchdog is None else (watchdog.slot, watchdog.stuck_after)
        return HandedChild(self.name, self.pid, self._lifeline, self.exit_timeout, slot, stuck_after)

    def _is_stopping(self) -> bool:
        return self._stopping

    def _identity(self, **more: object) -> dict[str, object]:
        return {"child": self.name, "child_pid": self.pid, **more}

    async def _run(self, first_run: asyncio.Future[None]) -> None:
        """Keep the process running. `first_run` ends when it is ready for the first time, or raises."""
        loop = asyncio.get_running_loop()
        short_runs = 0
        while not self._stopping:
            began = loop.time()
            self._killed = False
            try:
                status = await self._run_once(first_run)
            except OSError as error:  # no process, pipe, or memory available: possibly temporary
                if not first_run.done():
                    first_run.set_exception(SettingsError(f"{self.name} cannot be started: {error}"))
                    return
                logger.warning("%s cannot be started: %s; trying again", self.name, error)
                status = None
            self.ready.clear()
            if self._watchdog is not None:
                self._watchdog.board.clear(self._watchdog.slot)
            if self._is_stopping():
                if not first_run.done():
                    first_run.cancel()
                return
            if not first_run.done():
                why = f"was not ready within {READY_TIMEOUT:.0f} seconds" if self._killed else "did not start"
                first_run.set_exception(SettingsError(f"{self.name} {why} (exit status {status})"))
                return
            if status is not None:
                self._record_exit(status)
            short_runs = short_runs + 1 if loop.time() - began < SHORT_RUN else 0
            await asyncio.sleep(self._restart_delay(short_runs))

    def _record_exit(self, status: int) -> None:
        if self._watchdog is not None:
            self._watchdog.board.count(self._watchdog.slot, killed=self._killed)
        if self._on_exit is not None:
            # A full disk can prevent the cleanup, but must not prevent the restart.
            with contextlib.suppress(OSError):
                self._on_exit()
        logger.warning("%s (pid %d) exited with status %d; restarting it", self.name, self.pid, status)

    def _restart_delay(self, short_runs: int) -> float:
        """Seconds until the next start."""
        most = MAX_RESTART_DELAY
        if (
            short_runs > MANY_SHORT_RUNS
            and self._watchdog is not None
            and self._watchdog.has_substitute(time.monotonic())
        ):
            most = MAX_DELAY_WITH_DEPUTY
        return float(min(MIN_RESTART_DELAY * 2 ** min(short_runs, 10), most))

    async def _run_once(self, first_run: asyncio.Future[None]) -> int:
        """Run the process until it exits, and return its exit status."""
        lifeline, ours = os.pipe()
        try:
            ready_read, ready_write = os.pipe()
        except OSError:
            os.close(lifeline)
            os.close(ours)
            raise
        try:
            began = time.monotonic()
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
            self.pid, self._lifeline = process.pid, ours
            logger.info("process started", extra=self._identity())
            os.close(lifeline)
            os.close(ready_write)
            lifeline = ready_write = -1
            exited = asyncio.ensure_future(process.wait())
            ready = asyncio.ensure_future(_is_written_to(ready_read))
            await asyncio.wait([exited, ready], timeout=READY_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and ready.result():
                logger.info("process ready", extra=self._identity(seconds=round(time.monotonic() - began, 3)))
                self.ready.set()
                if not first_run.done():
                    first_run.set_result(None)
            elif not exited.done() and not ready.done():
                self._kill(f"was not ready within {READY_TIMEOUT:.0f} seconds")
            ready.cancel()
            watching = asyncio.ensure_future(self._watch(process))
            try:
                await asyncio.gather(ready, return_exceptions=True)
                return await exited
            finally:
                watching.cancel()
        finally:
            self._lifeline = -1
            for fd in (lifeline, ours, ready_read, ready_write):
                if fd >= 0:
                    os.close(fd)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill the process when its heartbeats stop."""
        if self._watchdog is not None:
            await self._watchdog.watch(lambda: process.returncode is None, self._kill)

    def _kill(self, why: str) -> None:
        self._killed = True
        logger.warning("%s (pid %d) %s; killing it", self.name, self.pid, why)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


async def end_process(
    send: Callable[[signal.Signals], None],
    exited: asyncio.Future[int | None],
    exit_timeout: float,
    identity: Mapping[str, object],
) -> None:
    """Send SIGTERM, wait for the process to drain, and send SIGKILL if it does not exit.

    :param send: sends a signal to the process.
    :param exited: its exit status, None if unknown.
    :param exit_timeout: seconds from SIGTERM to SIGKILL.
    :param identity: names the process in log records.
    """
    logger.info("stopping a process", extra=identity)
    send(signal.SIGTERM)
    await asyncio.wait([exited], timeout=exit_timeout)
    if not exited.done():
        logger.info("killing a process that did not stop", extra={**identity, "seconds": exit_timeout})
        with contextlib.suppress(ProcessLookupError):  # it exits just now
            send(signal.SIGKILL)
        await asyncio.wait([exited])
    logger.info("process stopped", extra={**identity, "status": exited.result()})


async def _is_written_to(fd: int) -> bool:
    """Wait until `fd` is readable. Returns False if its other end was closed before anything was written."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(fd, on_readable)
    try:
        await readable
    finally:
        loop.remove_reader(fd)
    return bool(os.read(fd, 1))
