"""uvicorn as part of a process that controls its own shutdown."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn


class StoppableServer(uvicorn.Server):
    """uvicorn without its signal handlers. Those would end the process by the signal, and not with exit status 0.

    :param on_ready: called once the server accepts connections.
    """

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Accept no more connections, and let `serve` return when the requests in progress have ended."""
        self.should_exit = True
