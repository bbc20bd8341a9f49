"""The scheduler takes the steps that are due, reports each problem once, and retries."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from keyfront.control.keys import scheduler as scheduling
from keyfront.control.keys.scheduler import Scheduler
from keyfront.custody.contract import Record
from keyfront.lifecycle.executor import RotationExecutor
from tests.lifecycle.simulated_cloudfront import World


class Turn:
    """A lease that the test grants and revokes."""

    def __init__(self, *, held: bool = True) -> None:
        self.held = held
        self.released = False

    def renew(self) -> bool:
        return self.held

    def release(self) -> None:
        self.released = True


class Running:
    """A scheduler in its own thread, in an environment where time advances when something waits."""

    def __init__(self, world: World, turn: Turn) -> None:
        self.world = world
        self.turn = turn
        self.made = 0
        self.stopping = threading.Event()
        self.scheduler = Scheduler(world, self._executor, turn, self.stopping, lambda: world.now)
        self.thread = threading.Thread(target=self.scheduler.run, daemon=True)
        self.thread.start()

    def _executor(self) -> RotationExecutor:
        self.made += 1
        return self.world.executor()

    def until(self, true: Callable[[], bool], *, tick: float = 20.0) -> None:
        ends = time.monotonic() + 20
        while not true():
            assert time.monotonic() < ends, (self.world.stages(), self.world.events[-3:])
            self.world.obey()
            self.world.now += tick
            time.sleep(0.005)

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(scheduling, "LOOK_ELSEWHERE", 0.02)
    return World()


@pytest.fixture
def running(world: World) -> Iterator[Running]:
    made = Running(world, Turn())
    yield made
    made.stop()


def test_what_is_due_is_done(running: Running, world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert running.made == 0, "there is nothing to rotate yet"
    with caplog.at_level(logging.WARNING):
        world.start()
        running.until(lambda: "1 SIGNING" in world.stages())
        world.now += 91 * 86400
        running.until(lambda: "2 SIGNING" in world.stages())
    assert running.made == 1
    assert "1 DRAINING" in world.stages()
    log_lines = [line for line in caplog.messages if line.startswith("rotation of photos: ")]
    assert [line.split()[3] for line in log_lines if "confirm" not in line][:4] == [
        "create",
        "register",
        "publish",
        "switch",
    ]


def test_an_order_is_noticed(running: Running, world: World) -> None:
    world.start()
    running.until(lambda: "1 SIGNING" in world.stages())
    world.executor().rotate("photos")
    running.until(lambda: "2 SIGNING" in world.stages())


def test_what_fails_is_told_once_and_comes_up_again(
    running: Running, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        world.custody_down = True
        world.start()
        running.until(lambda: sum(each.moment == "failed" for each in world.events) >= 3, tick=10)
        assert len([line for line in caplog.messages if "create" in line and "failed" in line]) == 1
        world.custody_down = False
        running.until(lambda: "1 SIGNING" in world.stages(), tick=10)


def test_a_record_that_cannot_be_read_holds_up_nobody(
    running: Running, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        world.texts["broken"] = Record("broken", b"{", "1")
        world.start()
        running.until(lambda: "1 SIGNING" in world.stages())
    assert len([line for line in caplog.messages if line.startswith("the rotation of broken: ")]) == 1
    del world.texts["broken"]


def test_a_clock_that_is_set_back_stalls_nothing(running: Running, world: World) -> None:
    day = 86_400.0
    world.now += 365 * day  # a clock that is far ahead, with which custody cannot be called
    world.custody_down = True
    world.start()
    running.until(lambda: any(each.moment == "failed" for each in world.events), tick=0)
    world.now -= 300.0
    world.custody_down = False
    running.until(
        lambda: any(each.action == "create" and each.moment == "after" for each in world.events), tick=0
    )


def test_who_does_not_lead_does_nothing(running: Running, world: World) -> None:
    running.turn.held = False
    time.sleep(0.3)  # it may have begun a poll
    world.start()
    time.sleep(0.3)
    assert world.stages() == ""
    running.turn.held = True
    running.until(lambda: "1 SIGNING" in world.stages())
    running.stop()
    assert running.turn.released
