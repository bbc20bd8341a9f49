"""A worker process of the edge: one event loop, one listening socket of its own, one edge.

Workers share a port by SO_REUSEPORT and share nothing else: each has its cache, reads the feed for itself and
reports for itself. A worker that dies takes only its open connections with it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from keyfront.edge.accesslog import AccessLog
from keyfront.edge.edge import Edge, EdgeSettings
from keyfront.edge.http1 import Limits, Listener, Peers
from keyfront.edge.metrics import sums
from keyfront.errors import SnapshotRefused
from keyfront.fleet.file import FileFeed

logger = logging.getLogger("keyfront.edge")

POLL = 0.05
"""Seconds between two looks at the feed; a look without news is one `stat`."""
REPORT = 1.0


class WorkerSettings(msgspec.Struct, frozen=True):
    """What one worker is told at its start. `data` is the data folder, `trusted_proxies` are networks in CIDR form;
    `access_log` is false where records are only counted."""

    data: str
    name: str
    host: str
    port: int
    trusted_proxies: tuple[str, ...] = ()
    access_log: bool = True
    edge: EdgeSettings = EdgeSettings()
    limits: Limits = Limits()


def reserve(host: str, port: int) -> socket.socket:
    """Bind `host:port` for workers to share, without listening; port 0 becomes a free one. The socket that is
    returned keeps the port ours while workers come and go.

    :raises OSError: if somebody else listens there already.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))  # fails where another program listens, even one that shares its port
        port = probe.getsockname()[1]
    finally:
        probe.close()
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    return held


def run_worker(settings: WorkerSettings, on_ready: Callable[[], None], lifeline: int | None = None) -> None:
    """Serve until SIGTERM, then drain. Ends too when `lifeline`, a pipe from the parent, is closed."""
    uvloop.run(_work(settings, on_ready, lifeline))


async def _work(settings: WorkerSettings, on_ready: Callable[[], None], lifeline: int | None) -> None:
    loop = asyncio.get_running_loop()
    data = Path(settings.data)
    log = AccessLog(data / "logs" / "access.jsonl" if settings.access_log else None)
    edge = Edge(settings.edge, log)
    feed = FileFeed(data)
    refused = ""

    def look() -> bool:
        nonlocal refused
        try:
            snapshot = feed.poll(edge.routing.snapshot if edge.routing.number else None)
        except SnapshotRefused as why:
            refused = str(why)
            logger.warning("%s refused a snapshot and keeps the old one: %s", settings.name, why)
            return True
        if snapshot is None:
            return False
        refused = ""
        edge.use(snapshot)
        return True

    look()
    listener = Listener(edge, peers=Peers(settings.trusted_proxies), limits=settings.limits)
    server = await loop.create_server(listener, sock=_listen(settings.host, settings.port))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        loop.add_reader(lifeline, stop.set)

    def report() -> None:
        counted = sums(
            log.counts,
            connections=len(listener.connections),
            cache=(edge.memory.bytes, len(edge.memory), edge.memory.evictions),
            lost=log.lost,
        )
        try:
            feed.report(settings.name, edge.routing.number, refused=refused, at=time.time(), counters=counted)
        except OSError as error:
            logger.warning("%s cannot report: %s", settings.name, error)

    report()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    on_ready()
    reported = loop.time()
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), POLL)
        except TimeoutError:
            pass
        if look() or loop.time() - reported >= REPORT:
            report()
            reported = loop.time()

    if lifeline is not None:
        loop.remove_reader(lifeline)
    server.close()
    await listener.drain()
    await edge.aclose()
    log.close()
    feed.remove_report(settings.name)


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.bind((host, port))
    listening.listen(min(4096, _somaxconn()))
    listening.setblocking(False)
    return listening


def _somaxconn() -> int:
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 128


def main(argument: str) -> None:
    """The entry of a worker's process. `argument` is its settings as JSON; two inherited pipes are named in the
    environment: its lifeline, and the one to say on that it is ready."""
    logging.basicConfig(format="keyfront: %(message)s", level=logging.WARNING)
    lifeline, ready = int(os.environ["KEYFRONT_LIFELINE"]), int(os.environ["KEYFRONT_READY"])

    def on_ready() -> None:
        os.write(ready, b"ready\n")
        os.close(ready)

    run_worker(msgspec.json.decode(argument, type=WorkerSettings), on_ready, lifeline)
