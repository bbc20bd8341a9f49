"""Reports that are larger than a NATS server accepts: cut into pieces, each a signed message, and put together again.

A piece has the serial number of its report, its place, and the number of pieces. What a sender can make a control plane
keep is bounded: OPEN reports that are not complete, of MAX_SIZE bytes each.
"""

from __future__ import annotations

from typing import Final

import msgspec

from keyfront.errors import SettingsError
from keyfront.fleet.remote.messages import MAX_TO_CONTROL

MAX_PIECES: Final = 256
"""Maximum number of pieces of a report."""
MAX_SIZE: Final = MAX_TO_CONTROL
"""Maximum bytes of a report, as it travels."""
OPEN: Final = 2
"""Reports of an edge that may be incomplete at the same time: one that is stored in NATS, and one that arrives."""


class Piece(msgspec.Struct, frozen=True, tag=True):
    """:param at: when the report was sent, epoch seconds.
    :param number: from 0.
    :param data: of the report's body, as `sealed.Report` has it.
    """

    serial: int
    at: float
    number: int
    count: int
    data: bytes


def cut(body: bytes, serial: int, at: float, room: int) -> list[Piece]:
    """The pieces of a report's body.

    :param room: bytes of each piece.
    :raises SettingsError: if it would have too many.
    """
    count = -(-len(body) // room)
    if count > MAX_PIECES or len(body) > MAX_SIZE:
        raise SettingsError(f"it has {len(body)} bytes, which are more than {MAX_PIECES} messages")
    return [Piece(serial, at, n, count, body[n * room : (n + 1) * room]) for n in range(count)]


class Assembly:
    """The incomplete reports of one edge."""

    def __init__(self) -> None:
        self._open: dict[int, dict[int, Piece]] = {}

    def add(self, piece: Piece) -> bytes | None:
        """The body of the report whose last missing piece this is; None if it is not complete.

        :raises SettingsError: if the piece cannot be an honest edge's.
        """
        pieces = self._open.setdefault(piece.serial, {})
        pieces[piece.number] = piece
        if len(self._open) > OPEN:
            del self._open[min(self._open)]
        size = sum(len(each.data) for each in pieces.values())
        counts = {each.count for each in pieces.values()}
        if size > MAX_SIZE or counts != {piece.count} or not 0 <= piece.number < piece.count <= MAX_PIECES:
            self._open.pop(piece.serial, None)
            raise SettingsError("the pieces of a report do not belong together, or are too large")
        if len(pieces) < piece.count:
            return None
        self._open.pop(piece.serial, None)
        return b"".join(pieces[number].data for number in range(piece.count))
