"""What a worker does besides answering requests."""

from __future__ import annotations

import os
import time
from pathlib import Path

from keyfront.edge.follower import Follower, FollowerSettings
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.net.worker_sockets import Inherited, Ports
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.settings import EdgeSettings
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.heartbeat import Board
from keyfront.model.snapshot import Behavior, Distribution, Origin, Snapshot


def many(count: int, number: int) -> Snapshot:
    return Snapshot(
        number,
        0.0,
        distributions=tuple(
            Distribution(
                f"E{each:013d}",
                f"arn:aws:cloudfront::111122223333:distribution/E{each:013d}",
                f"d{each:013d}.cloudfront.net",
                origins=(Origin("app", "127.0.0.1"),),
                behaviors=(Behavior("*", "app"),),
            )
            for each in range(count)
        ),
    )


async def test_a_worker_beats_while_it_takes_over_a_large_snapshot(tmp_path: Path) -> None:
    """Ten thousand distributions take seconds, and on a busy machine longer than the limit for a stuck worker."""
    board = Board.create(1)
    ports = Ports(Inherited(board=board.fd, slots=1, slot=0, workers=1, http=()))
    edge = Edge(EdgeSettings(), AccessLog(None))
    follower = Follower(edge, FollowerSettings("edge-1", tmp_path), lambda: 0)
    beats: list[float] = []

    def progress() -> None:
        board.clear(0)
        ports.beat()
        beats.append(board.last(0))

    follower.progress = progress
    try:
        began = time.monotonic()
        FileFeed(tmp_path).publish(many(200, 1))
        assert follower.poll()
        assert edge.routing.number == 1
        assert len(beats) >= 200
        assert began <= beats[0] <= beats[-1] <= time.monotonic()
        assert beats == sorted(beats)
    finally:
        await edge.aclose()
        ports.close()
        os.close(board.fd)
