"""uvicorn's HTTP/1.1 protocol on h11, with a timeout for request heads.

uvicorn limits how long a connection may be idle after a response, but not how long a request's head may take: a client
that sends half a head, or an occasional byte, could hold a connection forever. The timeout runs from the start of the
connection, and later from the first byte of each head. Further bytes do not extend it.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT = 20.0
"""Seconds within which a request's head must arrive."""


class HeadTimeoutH11Protocol(H11Protocol):
    """Closes a connection whose next head does not arrive in time."""

    head_timeout = HEAD_TIMEOUT

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.head_timeout, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._update_timer(ended=True)
        super().connection_lost(exc)

    def _update_timer(self, *, ended: bool = False) -> None:
        """Run the timer while a head has begun and is incomplete."""
        begun = not ended and self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not begun and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif begun and self._timer is None:
            self._timer = self.loop.call_later(self.head_timeout, self.timeout_keep_alive_handler)
