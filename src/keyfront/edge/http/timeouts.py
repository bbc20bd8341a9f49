"""Timeouts and sizes of a viewer's connection."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Seconds: for a whole request head, blank lines before it included; between requests; without progress of a
    request's body; without progress of an answer; for the open connections when the worker is told to stop; and without
    traffic on a WebSocket. `rate` is how many bytes a second a viewer must send of a request's body in each `body`
    seconds, and take of an answer in each `write` seconds, as long as it is the viewer who is waited for."""

    head: float = 30.0
    idle: float = 60.0
    body: float = 30.0
    write: float = 60.0
    drain: float = 30.0
    websocket_idle: float = 600.0
    rate: int = 256


PRESSED_IDLE = 5.0
"""Seconds between requests where connections are nearly used up: who does nothing makes room."""
