"""The process that follows a control plane over HTTPS or NATS, for the workers of an enrolled edge's machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from keyfront.fleet.heartbeat import BEAT, Board
from keyfront.fleet.remote.enrollment import EdgeFiles
from keyfront.runtime.settings import FeedSettings

if TYPE_CHECKING:
    from keyfront.fleet.jetstream.follower import NatsFollower
    from keyfront.fleet.remote.follower import Follower

log = logging.getLogger("keyfront.fleet")

FIRST, AGAIN = 10.0, 2.0
"""Seconds that a start waits for what the control plane has published, without and with a snapshot on disk: then the
edge is ready with what there is."""


def main(settings: FeedSettings) -> None:
    """Follow until SIGTERM, or until the parent exits. Two inherited pipes are named in the environment: the lifeline,
    and the one to write to when the workers can start.

    :raises SettingsError: if the edge is not enrolled.
    """
    lifeline, ready = int(os.environ["KEYFRONT_LIFELINE"]), int(os.environ["KEYFRONT_READY"])
    asyncio.run(_run(settings, lifeline, ready))


def _follower(files: EdgeFiles) -> Follower | NatsFollower:
    if files.edge().nats is None:
        from keyfront.fleet.remote.follower import Follower

        return Follower(files)
    from keyfront.fleet.jetstream.follower import NatsFollower  # a part of an extra

    return NatsFollower(files)


async def _run(settings: FeedSettings, lifeline: int, ready: int) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(lifeline, stop.set)
    board = Board(settings.board, settings.slots)
    follower = _follower(EdgeFiles(Path(settings.data)))
    patience = AGAIN if follower.number else FIRST

    async def beat() -> None:
        while True:
            board.beat(settings.slot, time.monotonic())
            await asyncio.sleep(BEAT)

    async def announce() -> None:
        try:
            await asyncio.wait_for(follower.current.wait(), patience)
        except TimeoutError:
            log.warning("no control plane has responded yet; this edge serves snapshot %s", follower.number)
        with contextlib.suppress(BrokenPipeError):  # the parent is gone: the lifeline ends this process
            os.write(ready, b"ready\n")
        os.close(ready)

    besides = [asyncio.create_task(beat()), asyncio.create_task(announce())]
    try:
        await follower.run(stop)
    finally:
        for task in besides:
            task.cancel()
        loop.remove_reader(lifeline)
