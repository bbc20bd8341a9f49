"""The states of a viewer's connection, and the valid transitions between them.

A connection is one state machine, whose states are listed in the order of a connection's life. The parser has stages of
its own (`request_parser.Stage`); what matters here is only whether anything blocks the next request:

- In `IDLE` nothing does: the parser is between two messages, no response is in progress, and the connection is neither
  draining nor paused. Only in this state may the fast path answer a packet without parsing it. A packet that is parsed
  leaves the state unchanged if all its requests were answered immediately.
- In `BUSY` a request is incomplete, a response is in progress, or reading or writing is paused.
- In `ENDING` no further request is accepted: the last one has arrived, one was refused, or the viewer closed its half.
  Earlier requests are still answered.

A hit therefore causes no transition at all, parsed or not, and checking each transition costs nothing on the hot path.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class State(IntEnum):
    """What a connection can still do. From `LINGERING` on, no more requests are read and no responses are written."""

    OPENING = 0
    """The connection is not admitted yet, or its TLS handshake is not complete."""
    IDLE = 1
    """The next request may be answered on the fast path."""
    BUSY = 2
    """Something blocks the fast path."""
    ENDING = 3
    """No further request is accepted; those already accepted are answered."""
    TUNNEL = 4
    """A WebSocket uses the transport."""
    LINGERING = 5
    """Our half is closed. Data that the viewer still sends is read and dropped (RFC 9112 §9.6)."""
    CLOSING = 6
    """The transport closes as soon as pending data is sent."""
    CLOSED = 7
    """The transport is aborted, or lost."""


# Module constants, because in CPython 3.11 each access to an enum member costs a call.
OPENING: Final = State.OPENING
IDLE: Final = State.IDLE
BUSY: Final = State.BUSY
ENDING: Final = State.ENDING
TUNNEL: Final = State.TUNNEL
LINGERING: Final = State.LINGERING
CLOSING: Final = State.CLOSING
CLOSED: Final = State.CLOSED

MOVES: Final[dict[State, frozenset[State]]] = {
    OPENING: frozenset({IDLE, CLOSING, CLOSED}),
    IDLE: frozenset({BUSY, ENDING, CLOSING, CLOSED}),
    BUSY: frozenset({IDLE, ENDING, TUNNEL, LINGERING, CLOSING, CLOSED}),
    ENDING: frozenset({TUNNEL, LINGERING, CLOSING, CLOSED}),
    TUNNEL: frozenset({CLOSED}),
    LINGERING: frozenset({CLOSING, CLOSED}),
    CLOSING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}
"""For each state, the states that may follow it."""


class IllegalMove(RuntimeError):
    """A transition that is not in `MOVES`: a bug in the connection, regardless of what the peer did."""

    def __init__(self, before: State, after: State) -> None:
        super().__init__(f"a connection cannot go from {before.name} to {after.name}")
