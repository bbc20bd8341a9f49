"""The thread that serves edges on other machines, with an event loop of its own: it slows no API call down, and no API
call delays a snapshot."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

import uvloop

from keyfront.errors import SettingsError
from keyfront.fleet.remote.hub import EdgeHub

log = logging.getLogger("keyfront.control")


class EdgeServer:
    """Runs a hub in a thread.

    :param sock: a bound socket. It is closed at the end.
    """

    def __init__(self, hub: EdgeHub, sock: socket.socket) -> None:
        self._hub = hub
        self._sock = sock
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="edges", daemon=True)

    def start(self) -> None:
        """Return when edges can connect.

        :raises SettingsError: if they cannot.
        """
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise SettingsError(f"edges cannot be served: {self._error}")

    def stop(self) -> None:
        """Close all connections, and end the thread."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if not self._ready.is_set():
                self._error = error
            log.exception("edges on other machines are not served")
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # Connections that are lost at the wrong moment end up here. The hub's own tasks log their errors.
        self._loop.set_exception_handler(lambda _, context: log.debug("edges: %s", context.get("message")))
        await self._hub.run(self._sock, self._stop, self._ready.set)
