"""Processes that the program before a restart started. They serve until their successors do, and are then stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterable

import msgspec

from keyfront.fleet.heartbeat import Board
from keyfront.runtime.handover import HandedChild, HandedProcesses
from keyfront.runtime.supervisor import Watchdog, end_process

logger = logging.getLogger("keyfront.supervisor")

INTERVAL = 0.05
"""Seconds between two checks of whether a process has exited."""


class AdoptedProcess:
    """A child process that this program did not start. It is killed when its heartbeats stop.

    :param on_loss: called if it exits without having been stopped.
    """

    def __init__(self, child: HandedChild, board: Board, on_loss: Callable[[], None]) -> None:
        self.child = child
        self._on_loss = on_loss
        self._stopping = False
        watchdog = Watchdog(board, child.slot, child.stuck_after if child.slot >= 0 else 0.0)
        self._watching = asyncio.create_task(watchdog.watch(lambda: self.runs, self._kill))
        self._exited = asyncio.create_task(self._wait())

    async def _wait(self) -> int | None:
        """Wait until it exits, and return its exit status; None if something else has reaped it."""
        status = None
        try:
            # asyncio waits only for processes that it has started, so this polls. WNOHANG does not block.
            while (ended := os.waitpid(self.child.pid, os.WNOHANG)) == (0, 0):  # noqa: ASYNC110, ASYNC222 - see above
                await asyncio.sleep(INTERVAL)
            status = os.waitstatus_to_exitcode(ended[1])
        except ChildProcessError:
            pass  # already reaped
        self._watching.cancel()
        os.close(self.child.lifeline)
        if not self._stopping:
            logger.warning("%s (pid %d) has exited", self.child.name, self.child.pid)
            self._on_loss()
        return status

    @property
    def runs(self) -> bool:
        return not self._exited.done()

    async def stop(self) -> None:
        """Send SIGTERM, wait for the process to drain, and send SIGKILL if it does not exit."""
        self._stopping = True
        identity = {"child": self.child.name, "child_pid": self.child.pid}
        await end_process(self._send, self._exited, self.child.exit_timeout, identity)

    def _kill(self, why: str) -> None:
        logger.warning("%s (pid %d) %s; killing it", self.child.name, self.child.pid, why)
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.runs:  # until it is reaped, no other process has its number
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child.pid, number)


class AdoptedProcesses:
    """A generation of processes that this program did not start, and cannot start again.

    :param on_loss: called when one of them exits without having been stopped.
    """

    can_restart = False

    def __init__(self, handed: HandedProcesses, on_loss: Callable[[], None]) -> None:
        self.names = [child.name for child in handed.edges]
        self._handed = handed
        self._board = Board(handed.board, handed.slots)
        self._edges, self._control, self._metrics = (
            [AdoptedProcess(child, self._board, on_loss) for child in children]
            for children in (handed.edges, handed.control, handed.metrics)
        )
        self.counters, self.bank = handed.counters, handed.bank

    def handed(self) -> HandedProcesses:
        """What still runs, for another restart after one that failed."""
        edges, control, metrics = (
            tuple(each.child for each in processes if each.runs)
            for processes in (self._edges, self._control, self._metrics)
        )
        return msgspec.structs.replace(self._handed, edges=edges, control=control, metrics=metrics)

    async def stop_control(self) -> None:
        """Stop the control process, or the one that follows a control plane."""
        await _stop(self._control)

    def leave(self) -> None:
        """Let health checks of load balancers fail."""
        self._board.leave()

    async def stop(self) -> None:
        """Drain the workers, then stop the control process, which responds until then."""
        self._board.stop()
        await _stop(self._edges)
        await self.stop_control()
        await _stop(self._metrics)
        if self._handed.shared >= 0:
            os.close(self._handed.shared)
        self._board.close()


async def _stop(processes: Iterable[AdoptedProcess]) -> None:
    await asyncio.gather(*(each.stop() for each in processes), return_exceptions=True)
