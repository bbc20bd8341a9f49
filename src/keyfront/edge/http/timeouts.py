"""Timeouts and limits of a viewer's connection."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Limits of a viewer's connection. The timeouts are in seconds: for a whole request head, including blank lines
    before it; between requests; without progress of a request body; without progress of a response; for open
    connections to finish when the worker is told to stop; and without traffic on a WebSocket. `rate` is the minimum
    bytes per second: what a viewer must send of a request body in each period of `body` seconds, and accept of a
    response in each period of `write` seconds, counting only time spent waiting for the viewer."""

    head: float = 30.0
    idle: float = 60.0
    body: float = 30.0
    write: float = 60.0
    drain: float = 30.0
    websocket_idle: float = 600.0
    rate: int = 256


PRESSED_IDLE = 5.0
"""Seconds between requests when connections are nearly exhausted: idle connections make room."""
