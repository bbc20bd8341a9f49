"""The states of a viewer's connection, and the legal moves between them.

A connection is one state machine with seven states, in the order of a connection's life. The parser has stages of its
own (`request_parser.Stage`); what matters here is only whether anything stands in the way of the next request:

- In `IDLE` nothing does: the parser is between two messages, no response is under way, and the connection neither
  drains nor is paused. Only here may the fast path answer a packet without parsing it. A packet that is parsed leaves
  the state as it is if all its requests were answered at once.
- In `BUSY` a request is incomplete, a response is under way, or reading or writing is paused.
- In `ENDING` no further request is taken: the last one was, or one was refused, or the viewer closed its half. The
  requests before it are still answered.

So a hit makes no move at all, parsed or not, and looking each move up costs nothing where it would count.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class State(IntEnum):
    """What a connection can still do. From `LINGERING` on, nothing is read or written any more."""

    OPENING = 0
    """The connection is not admitted yet, or its TLS handshake is not over."""
    IDLE = 1
    """The next request may be answered on the fast path."""
    BUSY = 2
    """Something stands in the way of the fast path."""
    ENDING = 3
    """No further request is taken; those taken are answered."""
    TUNNEL = 4
    """A WebSocket has the transport."""
    LINGERING = 5
    """Our half is closed. What the viewer still sends is read and dropped (RFC 9112 §9.6)."""
    CLOSING = 6
    """The transport closes as soon as what was written is out."""
    CLOSED = 7
    """The transport is aborted, or lost."""


# Module names, because in CPython 3.11 an enum's member costs a call of its own at each use.
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
"""From each state, the states that may follow it."""


class IllegalMove(RuntimeError):
    """A move that is not in `MOVES`: a bug in the connection, whatever the peer did."""

    def __init__(self, before: State, after: State) -> None:
        super().__init__(f"a connection cannot go from {before.name} to {after.name}")
