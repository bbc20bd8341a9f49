"""Heartbeats in memory shared by several processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from keyfront.fleet.heartbeat import AWAY, Board, Silence, Trouble
from tests.rows import rows


def test_a_slot_is_its_own() -> None:
    board = Board.create(3)
    board.beat(1, 100.5)
    board.accept(1, True)
    board.set_trouble(1, Trouble.REPORT)
    assert board.silence(1, 102.0) == 1.5
    assert board.silence(0, 102.0) == board.silence(2, 102.0) == float("inf")
    assert (board.last(1), board.last(0)) == (100.5, 0.0)
    assert board.trouble(1) == Trouble.REPORT
    assert board.trouble(0) == board.trouble(2) == Trouble(0)
    assert board.accepts(1, 100.5 + AWAY)
    assert not board.accepts(1, 100.6 + AWAY)
    assert not board.accepts(0, 100.5)
    board.count(1, killed=True)
    board.count(1, killed=False)
    board.clear(1)
    assert board.silence(1, 102.0) == float("inf")
    assert not board.accepts(1, 100.5)
    assert board.restarts(1) == (2, 1)
    board.close()


def test_the_end_reaches_every_viewer() -> None:
    board = Board.create(1)
    assert (board.leaving, board.stopping) == (False, False)
    board.leave()
    assert (board.leaving, board.stopping) == (True, False)
    board.stop()
    assert (board.leaving, board.stopping) == (True, True)
    board.close()


@rows("slot", [-1, 3, 1000])
def test_there_is_no_other_slot(slot: int) -> None:
    board = Board.create(3)
    with pytest.raises(IndexError):
        board.beat(slot, 1.0)
    assert not board.stopping
    board.close()


def test_a_clock_that_seems_to_go_back_is_no_silence() -> None:
    board = Board.create(1)
    board.beat(0, 100.0)
    assert board.silence(0, 99.0) == 0.0
    board.close()


def test_another_process_writes_and_this_one_reads() -> None:
    board = Board.create(2)
    text = f"from keyfront.fleet.heartbeat import Board; Board({board.fd}, 2).beat(1, 77.0)"
    subprocess.run([sys.executable, "-c", text], pass_fds=(board.fd,), check=True)
    assert board.last(1) == 77.0
    fd = board.fd
    board.close()
    with pytest.raises(OSError):
        os.fstat(fd)


@rows(
    ("looks", "seconds"),
    [
        ([(0.0, 11.0), (0.0, 12.0)], 2.0),  # no heartbeat yet
        ([(10.5, 11.0), (10.5, 12.0), (10.5, 13.0)], 2.5),
        ([(10.5, 11.0), (10.5, 12.0), (12.9, 13.0)], 13.0 - 12.9),
        ([(10.9, 11.0), (10.9, 100.0), (10.9, 101.0)], 1.1),  # nobody looked, perhaps because nothing ran
        ([(10.9, 11.0), (10.9, 100.0), (100.5, 101.0), (100.5, 102.0)], 1.5),
        ([(10.9, 11.0), (99.9, 100.0)], 0.1),
    ],
)
def test_silence_while_one_looks_each_second(looks: list[tuple[float, float]], seconds: float) -> None:
    silence = Silence(10.0, 1.0)
    assert [silence.seconds(last, now) for last, now in looks][-1] == pytest.approx(seconds)
