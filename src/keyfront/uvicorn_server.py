"""uvicorn as part of a process that controls its own shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn

TICK: Final = 0.02
"""Seconds between two checks of whether connections are left."""


class StoppableServer(uvicorn.Server):
    """uvicorn without its signal handlers. Those would end the process by the signal, and not with exit status 0.

    :param on_ready: called once the server accepts connections.
    """

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._linger = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self, linger: float = 0.0) -> None:
        """Accept no more connections, and let `serve` return when the requests in progress have ended.

        :param linger: seconds for which idle connections stay open, since requests may be on their way.
        """
        self._linger = linger
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        state = self.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        ends = time.monotonic() + self._linger
        while state.connections and time.monotonic() < ends:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(TICK)
        await super().shutdown(sockets)
