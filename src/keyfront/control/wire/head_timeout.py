"""uvicorn's HTTP/1.1 on h11, with a bound on the time that a request's head may take.

uvicorn bounds how long a connection may rest after an answer, and not how long a request may take to begin: whoever
opens connections and sends half a head, or a byte now and then, keeps them for ever. The time runs from the
connection's beginning, and afterwards from the first byte of each head; no byte that follows prolongs it.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT = 20.0
"""Seconds for a request's head."""


class HeadTimeoutH11Protocol(H11Protocol):
    """Closes a connection whose next head is late."""

    head_timeout = HEAD_TIMEOUT

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(self.head_timeout, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look(ended=True)
        super().connection_lost(exc)

    def _look(self, *, ended: bool = False) -> None:
        """Let the time run while a head has begun and is not whole."""
        begun = not ended and self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not begun and self._late is not None:
            self._late.cancel()
            self._late = None
        elif begun and self._late is None:
            self._late = self.loop.call_later(self.head_timeout, self.timeout_keep_alive_handler)
