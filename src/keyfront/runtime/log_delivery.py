"""The supervisor's part in the delivery of standard logs: start the process once there is something to deliver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from keyfront.errors import SettingsError
from keyfront.runtime.machine import edge_environment
from keyfront.runtime.reload import UpSettings
from keyfront.runtime.supervisor import Child

if TYPE_CHECKING:
    from keyfront.runtime.logs import LogSettings

logger = logging.getLogger("keyfront.supervisor")

INTERVAL: Final = 1.0
"""Seconds between two checks whether there is something to deliver, or the settings have changed."""
RETRY: Final = 60.0
"""The same after a check that failed."""


class LogDelivery:
    """:param running: returns the current settings."""

    def __init__(self, running: Callable[[], UpSettings]) -> None:
        self._running = running
        self._child: Child | None = None
        self._with: tuple[object, LogSettings] | None = None
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Run until canceled. The process then still runs: see `stop`."""
        from keyfront.edge.logs.delivery import has_work

        while True:
            wait = INTERVAL
            async with self._lock:
                settings = self._running()
                if self._child is not None and self._with != (settings.delivery, settings.logs):
                    await self.stop()
                try:
                    if self._child is None and has_work(settings.data):
                        await self._start(settings)
                except OSError as error:  # such as a folder that may not be read
                    logger.warning("standard logs are not delivered: %s", error)
                    wait = RETRY
            await asyncio.sleep(wait)

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Within the context, the process does not run."""
        async with self._lock:
            await self.stop()
            yield

    async def _start(self, settings: UpSettings) -> None:
        assert settings.delivery is not None  # noqa: S101 - `keyfront up` always has them
        arguments = [msgspec.json.encode(each).decode() for each in (settings.delivery, settings.logs)]
        child = Child(
            "logs",
            [sys.executable, "-m", "keyfront", "log-process", *arguments],
            environment=edge_environment(os.environ),
        )
        try:
            await child.start()
        except SettingsError as error:
            logger.warning("standard logs are not delivered: %s", error)
            return
        self._child, self._with = child, (settings.delivery, settings.logs)

    async def stop(self) -> None:
        """Let the process deliver what there is, as far as that is possible in a moment, and end it."""
        if self._child is not None:
            child, self._child = self._child, None
            await child.stop()

    async def finish(self) -> None:
        """The last delivery, after all workers have stopped."""
        from keyfront.edge.logs.delivery import has_work

        settings = self._running()
        if self._child is None and has_work(Path(settings.data)):
            await self._start(settings)
        await self.stop()
