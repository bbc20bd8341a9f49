"""Reports in pieces."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from keyfront.errors import SettingsError
from keyfront.fleet.jetstream.pieces import MAX_PIECES, MAX_SIZE, Assembly, Piece, cut
from tests.rows import rows

BODY = bytes(range(250))
PIECES = cut(BODY, 7, 1.0, 100)


@rows("order", list(itertools.permutations(range(3))))
def test_in_any_order(order: tuple[int, ...]) -> None:
    assembly = Assembly()
    found = [assembly.add(PIECES[number]) for number in order]
    assert found == [None, None, BODY]
    assert [assembly.add(PIECES[number]) for number in order] == found  # nothing is left of it


def test_a_piece_may_arrive_twice() -> None:
    assembly = Assembly()
    assert [assembly.add(PIECES[number]) for number in (0, 0, 1, 1, 2)] == [None] * 4 + [BODY]


def test_two_reports_may_arrive_at_once_and_no_third() -> None:
    assembly = Assembly()
    others = {serial: cut(BODY, serial, 1.0, 100) for serial in (8, 9, 10)}
    for serial in (8, 9):
        assert assembly.add(others[serial][0]) is None
    assert [assembly.add(each) for each in others[8][1:]] == [None, BODY]
    for serial in (8, 10):
        assembly.add(others[serial][0])  # the older one of the three is forgotten
    assert [assembly.add(each) for each in others[8][1:]] == [None, None]
    assert [assembly.add(each) for each in others[10][1:]] == [None, BODY]


@rows(
    ("first", "second"),
    [
        (PIECES[0], msgspec.structs.replace(PIECES[1], count=4)),
        (PIECES[0], msgspec.structs.replace(PIECES[1], number=3)),
        (PIECES[0], msgspec.structs.replace(PIECES[1], number=-1)),
        (PIECES[0], msgspec.structs.replace(PIECES[1], data=bytes(MAX_SIZE))),
    ],
)
def test_pieces_that_do_not_belong_together(first: Piece, second: Piece) -> None:
    assembly = Assembly()
    assembly.add(first)
    with pytest.raises(SettingsError, match="do not belong together"):
        assembly.add(second)
    assert [assembly.add(each) for each in PIECES] == [None, None, BODY]


def test_there_are_at_most_so_many() -> None:
    with pytest.raises(SettingsError, match="more than 256 messages"):
        cut(bytes(MAX_PIECES + 1), 1, 1.0, 1)
    with pytest.raises(SettingsError, match="do not belong together"):
        Assembly().add(Piece(1, 1.0, 0, MAX_PIECES + 1, b""))
