"""A thread that serves edges on other machines, with an event loop of its own: it slows no API call down, and no API
call delays a snapshot."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from keyfront.errors import SettingsError

log = logging.getLogger("keyfront.control")


class EdgeServer:
    """Runs a hub in a thread.

    :param run: serves until its event is set, and calls its callback once, when edges can connect.
    :param name: of the thread.
    """

    def __init__(
        self,
        run: Callable[[asyncio.Event, Callable[[], None]], Coroutine[Any, Any, None]],
        name: str = "edges",
    ) -> None:
        self._run_hub = run
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

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
        await self._run_hub(self._stop, self._ready.set)
