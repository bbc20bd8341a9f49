"""What remains of a supervisor whose new program cannot take over.

The trial of a program (`runtime/restart.py`) finds what is wrong with it. What goes wrong only afterward, such as a
configuration file that changes in this second, would end the supervisor and with it all processes that serve. Instead,
`guarded` keeps everything that was handed over, and the program is executed again when an operator requests it or a
process is lost.

While it waits, it uses as little of the program as it can. It starts no process again, but kills one whose heartbeats
stop: that is a loss, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from keyfront.errors import SettingsError
from keyfront.fleet.heartbeat import Board, Silence
from keyfront.runtime.handover import (
    HANDOVER,
    HandedChild,
    Handover,
    duplicated,
    encode,
    offered,
    set_inheritable,
)
from keyfront.runtime.reload import RELOADED, RESTARTED, Result, write_result
from keyfront.runtime.restart import SIGNALS, execute, program, trial
from keyfront.runtime.systemd import ALIVE, READY, STOPPING, notify, watchdog_interval

logger = logging.getLogger("keyfront.supervisor")

RETRY: Final = 5.0
"""Seconds between two attempts after the loss of a process."""
LOOK: Final = 1.0
"""Seconds between two looks at the processes."""


def guarded(run: Callable[[], object]) -> None:
    """Run a program that takes over from the one before. If it ends before it has adopted the processes, they go on.

    :param run: removes the handover from the environment once it has adopted everything.
    """
    handover = offered(os.environ, HANDOVER)
    assert handover is not None  # noqa: S101 - the caller has looked
    set_inheritable(handover, False)
    os.environ[HANDOVER] = encode(duplicated(handover))
    try:
        run()
    except SystemExit as end:
        if HANDOVER not in os.environ or not end.code:
            raise
    except BaseException:
        if HANDOVER not in os.environ:
            raise
        logger.exception("the new program failed")
    if HANDOVER in os.environ:
        sys.exit(Caretaker(handover).wait())


class Caretaker:
    """Keeps what was handed over until a program takes over."""

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self._lost: set[int] = set()
        processes = handover.processes
        self._board = Board(processes.board, processes.slots)
        now = time.monotonic()
        self._silences = {each.pid: Silence(now, LOOK) for each in self._children() if each.slot >= 0}
        del os.environ[HANDOVER]

    def wait(self) -> int:
        """Wait for signals. Returns the exit status, unless another program takes over."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGCHLD})
        self._report("the new program could not take over: its log says why")
        interval = min(watchdog_interval(os.environ, os.getpid()) or LOOK, LOOK)
        tried = time.monotonic()
        while True:
            received = signal.sigtimedwait({*SIGNALS, signal.SIGCHLD}, interval)
            number = received.si_signo if received is not None else 0
            notify(ALIVE)
            if number in (signal.SIGTERM, signal.SIGINT):
                notify(STOPPING)
                self._stop()
                return 0
            self._kill_stuck(time.monotonic())
            self._reap(self._children())
            is_due = bool(self._lost) and time.monotonic() - tried >= RETRY
            if number in (signal.SIGHUP, signal.SIGUSR2) or is_due:
                tried = time.monotonic()
                command, handover = program(sys.argv), self._remaining(tried)
                try:
                    asyncio.run(trial(command, handover))
                    execute(command, handover)
                except SettingsError as error:
                    self._report(str(error))

    def _report(self, error: str) -> None:
        """Say that the processes from before go on, also to the commands that wait for it."""
        print(
            f"keyfront: {error}; the processes from before the restart go on, and are not restarted if they exit: "
            "repair the cause, and run `keyfront restart`",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(OSError):
            for name in (RESTARTED, RELOADED):
                write_result(Path(self._handover.data), name, Result(time.monotonic(), error))
        notify(READY)

    def _children(self) -> list[HandedChild]:
        processes = self._handover.processes
        every = (*processes.edges, *processes.control, *processes.metrics)
        return [each for each in every if each.pid not in self._lost]

    def _kill_stuck(self, now: float) -> None:
        for child in self._children():
            silence = self._silences.get(child.pid)
            if silence is None or not child.stuck_after:
                continue
            if silence.seconds(self._board.last(child.slot), now) > child.stuck_after:
                logger.warning(
                    "%s (pid %d) has had no heartbeat for %g seconds; killing it",
                    child.name,
                    child.pid,
                    child.stuck_after,
                )
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)

    def _reap(self, children: Iterable[HandedChild]) -> None:
        for child in children:
            try:
                exited = os.waitpid(child.pid, os.WNOHANG) != (0, 0)
            except ChildProcessError:
                exited = True
            if exited:
                self._lost.add(child.pid)

    def _remaining(self, now: float) -> Handover:
        """The handover without the processes that have exited, executed at `now`."""
        processes = self._handover.processes
        edges, control, metrics = (
            tuple(each for each in children if each.pid not in self._lost)
            for children in (processes.edges, processes.control, processes.metrics)
        )
        return msgspec.structs.replace(
            self._handover,
            began=now,
            processes=msgspec.structs.replace(processes, edges=edges, control=control, metrics=metrics),
        )

    def _stop(self) -> None:
        """Drain the workers, then stop the control process, as `AdoptedProcesses.stop` does."""
        processes = self._handover.processes
        for listeners in self._handover.listeners:
            for fd in listeners.fds:
                os.close(fd)
        for children in (processes.edges, processes.control, processes.metrics):
            self._end([each for each in children if each.pid not in self._lost])

    def _end(self, children: list[HandedChild]) -> None:
        for child in children:
            os.kill(child.pid, signal.SIGTERM)
        until = time.monotonic() + max((each.exit_timeout for each in children), default=0.0)
        while running := [each for each in children if each.pid not in self._lost]:
            self._reap(running)
            rest = until - time.monotonic()
            if rest <= 0:
                for child in running:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child.pid, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, max(0.05, min(rest, 1.0)))
