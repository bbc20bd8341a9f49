"""Child processes: start them, know when they are ready, start them again when they die, end them in order.

Each child holds one end of a pipe from its parent, its lifeline: when the parent is gone, however it went, the pipe
closes and the child drains and ends. Its other pipe says once that it is ready.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

from keyfront.errors import SettingsError

RESTART_AT_LEAST = 0.1
RESTART_AT_MOST = 10.0
"""Seconds between the end of a child and its next start; doubled each time it dies young."""
YOUNG = 5.0
READY_WITHIN = 60.0
END_WITHIN = 40.0


class Child:
    """One supervised process. `argv` is what to run; it is told its pipes' numbers in the environment, and gets of the
    variables those that `passes` says yes to."""

    def __init__(
        self,
        name: str,
        argv: list[str],
        on_death: Callable[[], None] | None = None,
        passes: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.name = name
        self.argv = argv
        self.pid = 0
        self.ready = asyncio.Event()
        self._on_death = on_death
        self._environment = {name: text for name, text in os.environ.items() if passes(name)}
        self._process: asyncio.subprocess.Process | None = None
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and return when it is ready.

        :raises SettingsError: if its first run ends before it was ready (it has said why on standard error), or takes
            too long.
        """
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(first))
        try:
            await asyncio.wait_for(first, READY_WITHIN)
        except TimeoutError:
            raise SettingsError(f"{self.name} was not ready within {READY_WITHIN:.0f} seconds") from None

    async def end(self) -> None:
        """SIGTERM, time to drain, and SIGKILL for one that does not end."""
        self._ending = True
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), END_WITHIN)
            except TimeoutError:
                process.kill()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _ended_on_purpose(self) -> bool:
        return self._ending

    async def _run(self, first: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        pause = RESTART_AT_LEAST
        while not self._ending:
            began = loop.time()
            lifeline, ours = os.pipe()
            ready_read, ready_write = os.pipe()
            try:
                self._process = process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(lifeline, ready_write),
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
                await asyncio.wait([ended, ready], return_when=asyncio.FIRST_COMPLETED)
                if ready.done() and ready.result():
                    self.ready.set()
                    if not first.done():
                        first.set_result(None)
                ready.cancel()
                await asyncio.gather(ready, return_exceptions=True)
                await ended
            finally:
                for fd in (lifeline, ours, ready_read, ready_write):
                    if fd >= 0:
                        os.close(fd)
            self.ready.clear()
            if self._ended_on_purpose():
                return
            if not first.done():
                first.set_exception(
                    SettingsError(f"{self.name} did not start (exit status {process.returncode})")
                )
                return
            if self._on_death is not None:
                self._on_death()
            print(
                f"keyfront: {self.name} (pid {self.pid}) ended with {process.returncode}; it is started again",
                file=sys.stderr,
                flush=True,
            )
            pause = min(pause * 2, RESTART_AT_MOST) if loop.time() - began < YOUNG else RESTART_AT_LEAST
            await asyncio.sleep(pause)


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
