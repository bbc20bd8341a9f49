"""A worker process of the edge: one event loop, listening sockets of its own (http, and https if wanted), one edge.

Workers share a port by SO_REUSEPORT, and their cache by a segment of memory that their parent has made (`segment`).
Each reads the feed for itself and reports for itself. A worker that dies takes only its open connections with it;
`ports.py` says who accepts new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from keyfront.edge.accesslog import AccessLog
from keyfront.edge.certificates import Certificates, unraisable
from keyfront.edge.changes import Changes
from keyfront.edge.edge import SHIELD, Edge, EdgeSettings
from keyfront.edge.http1 import Limits, Listener, Peers
from keyfront.edge.metrics import sums
from keyfront.edge.parent import Shield
from keyfront.edge.ports import Inherited, Ports
from keyfront.edge.removals import Removal
from keyfront.edge.segment import Segment
from keyfront.edge.shield import Secrets
from keyfront.errors import SettingsError, SnapshotRefused
from keyfront.fleet.file import FileFeed
from keyfront.fleet.heartbeat import Trouble

logger = logging.getLogger("keyfront.edge")

POLL = 0.05
"""Seconds between two looks at the feed; a look without news is one `stat`."""
REPORT = 1.0
"""Seconds between two reports without news, and between two looks at certificates and credentials."""


class TlsSettings(msgspec.Struct, frozen=True):
    """Where to listen for https, and the folder of the certificates (see `tls`)."""

    host: str
    port: int
    certificates: str


class WorkerSettings(msgspec.Struct, frozen=True):
    """What one worker is told at its start. `data` is the data folder, `trusted_proxies` are networks in CIDR form;
    `access_log` is false where records are only counted; without `tls` there is only http. `feed` is the folder of the
    feed, if that is another one; `shield` is where other edges connect whose Origin Shield this one is, by TLS if there
    is any; `region` is where the edge is, empty if it is in none. `inherited` holds the sockets, the heartbeat board
    and the shared memory of its supervisor; without it the worker listens for itself."""

    data: str
    name: str
    host: str
    port: int
    trusted_proxies: tuple[str, ...] = ()
    access_log: bool = True
    tls: TlsSettings | None = None
    edge: EdgeSettings = EdgeSettings()
    limits: Limits = Limits()
    feed: str = ""
    shield: tuple[str, int] | None = None
    region: str = ""
    inherited: Inherited | None = None


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


class Follower:
    """What a worker does besides answering: it obeys a feed and reports to it under its name, hears from others what
    was removed though it has no request, and looks after its operator's credentials for origins."""

    def __init__(
        self,
        edge: Edge,
        feed: Path,
        data: Path,
        name: str,
        connections: Callable[[], int],
        region: str = "",
    ) -> None:
        self._edge = edge
        self._feed = FileFeed(feed, region)
        self._changes = Changes(data / "changes", edge.segment.name)
        edge.tell_others = self._changes.tell
        self._name = name
        self._connections = connections
        self._refused = ""
        self._run = os.urandom(12).hex()
        self.reports = True
        """Could the last report be written?"""
        self.progress: Callable[[], None] = lambda: None
        """Called again and again while a snapshot is taken over, which takes seconds if it is large."""

    def look(self) -> bool:
        """Take over what was published since, if it can be accepted. True if there is something to report."""
        edge = self._edge
        edge.memory.hear()
        for key, query in self._changes.news():
            edge.forget(Removal(key, query))
        try:
            snapshot = self._feed.poll(edge.routing.snapshot if edge.routing.number else None)
        except SnapshotRefused as why:
            self._refused = str(why)
            logger.warning("%s refused a snapshot and keeps the old one: %s", self._name, why)
            return True
        self.progress()
        if snapshot is None:
            return False
        self._refused = ""
        edge.use(snapshot, self.progress)
        self.progress()
        return True

    def report(self) -> None:
        edge = self._edge
        counted = sums(
            edge.log.counts,
            connections=self._connections(),
            cache=(edge.memory.bytes, len(edge.memory), edge.memory.evictions),
            lost=edge.log.lost,
            disk=(edge.disk.used, edge.disk.evictions) if edge.disk is not None else (0, 0),
            shared=edge.arena.counts if edge.arena is not None else (0, 0, 0),
            run=self._run,
            limited=edge.reached.counts,
            gauges=edge.gauges(),
            websockets=(edge.websockets.taken, edge.websockets.handshakes, edge.websockets.opened),
        )
        try:
            self._feed.report(
                self._name, edge.routing.number, refused=self._refused, at=time.time(), counters=counted
            )
            self.reports = True
        except OSError as error:
            if self.reports:  # once, not every second
                logger.warning("%s cannot report: %s", self._name, error)
            self.reports = False

    async def follow(self, stop: asyncio.Event, besides: Callable[[], object] | None = None) -> None:
        """Look and report until `stop` is set. `besides` is called about once a second."""
        clock = asyncio.get_running_loop().time
        reported = clock()
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), POLL)
            except TimeoutError:
                pass
            due = clock() - reported >= REPORT
            if due:
                self._edge.access.poll()
                self._edge.log.retry()
                if besides is not None:
                    besides()
            if self.look() or due:
                self.report()
                reported = clock()

    def leave(self) -> None:
        """Take the report away, with the last counts in it: this edge is no longer one."""
        self.report()
        with contextlib.suppress(OSError):  # it goes stale in some seconds
            self._feed.remove_report(self._name)
        self._changes.close()


async def _work(settings: WorkerSettings, on_ready: Callable[[], None], lifeline: int | None) -> None:
    loop = asyncio.get_running_loop()
    data = Path(settings.data)
    settings = within_open_files(settings, raise_open_files())
    log = AccessLog(data / "logs" / "access.jsonl" if settings.access_log else None)
    edge = Edge(settings.edge, log, segment=_segment(settings))
    if edge.disk is not None:
        edge.disk.start()
    listeners = [Listener(edge, peers=Peers(settings.trusted_proxies), limits=settings.limits)]
    feed = Path(settings.feed) if settings.feed else data
    follower = Follower(
        edge,
        feed,
        data,
        settings.name,
        lambda: sum(len(each.connections) for each in listeners),
        settings.region,
    )
    follower.look()

    def trouble() -> Trouble:
        found = Trouble(0)
        if log.failing:
            found |= Trouble.ACCESS_LOG
        if not follower.reports:
            found |= Trouble.REPORT
        if edge.disk is not None and edge.disk.failing:
            found |= Trouble.CACHE_DISK
        return found

    inherited = settings.inherited
    ports = Ports(inherited, trouble)
    follower.progress = ports.beat
    await ports.listen(
        listeners[0], inherited.http if inherited is not None else (), (settings.host, settings.port)
    )
    look_at_certificates = None
    certificates = None
    if settings.tls is not None:
        certificates = Certificates(
            Path(settings.tls.certificates),
            time.time(),
            lambda text: logger.warning("%s: %s", settings.name, text),
        )
        listeners.append(
            Listener(edge, scheme="https", peers=Peers(settings.trusted_proxies), limits=settings.limits)
        )
        await ports.listen(
            lambda: listeners[1].secured(certificates.context),
            inherited.tls if inherited is not None else (),
            (settings.tls.host, settings.tls.port),
        )

        def look_at_certificates() -> None:
            certificates.poll(time.time())

    if settings.shield is not None:
        edge.shield = Shield(edge, Secrets.of_file(settings.edge.shield_secret))
        below = Listener(edge, scheme=SHIELD, limits=settings.limits)
        listeners.append(below)
        context = None if certificates is None else certificates.context
        await ports.listen(
            lambda: below() if context is None else below.secured(context),
            inherited.shield if inherited is not None else (),
            settings.shield,
        )

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        loop.add_reader(lifeline, stop.set)

    follower.report()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    ports.start()
    on_ready()
    await follower.follow(stop, look_at_certificates)

    if lifeline is not None:
        loop.remove_reader(lifeline)
    ports.close()
    await asyncio.gather(*(listener.drain() for listener in listeners))
    await edge.aclose()
    log.close()
    follower.leave()
    await ports.end()


OPEN_FILES = 0.75
"""The share of all files that a process may open which viewers' connections may take; the rest is for origins and for
the cache on disk."""


def raise_open_files() -> int:
    """Let this process open as many files as it is allowed to allow itself. Returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def within_open_files(settings: WorkerSettings, files: int) -> WorkerSettings:
    """The settings with no more connections than a process with so many files can have: one that can open no more
    accepts no viewer at all."""
    viewers = settings.edge.viewers
    most = int(files * OPEN_FILES)
    if files == resource.RLIM_INFINITY or 0 < viewers.connections <= most:
        return settings
    if viewers.connections:
        logger.warning(
            "%s may open %d files, so it takes %d connections at a time and not %d; see `ulimit -n`",
            settings.name,
            files,
            most,
            viewers.connections,
        )
    edge = msgspec.structs.replace(settings.edge, viewers=msgspec.structs.replace(viewers, connections=most))
    return msgspec.structs.replace(settings, edge=edge)


def _segment(settings: WorkerSettings) -> Segment | None:
    """The memory that all workers share, None if it cannot be had: then this worker's cache is its own."""
    inherited = settings.inherited
    if inherited is None or inherited.cache < 0:
        return None
    try:
        return Segment.attach(inherited.cache, inherited.slot)
    except (OSError, ValueError, SettingsError) as error:
        logger.warning(
            "%s cannot use the memory that workers share, so it does not see at once what the others store or "
            "remove: %s",
            settings.name,
            error,
        )
        return None


def main(argument: str) -> None:
    """The entry of a worker's process. `argument` is its settings as JSON; two inherited pipes are named in the
    environment: its lifeline, and the one to say on that it is ready."""
    logging.basicConfig(format="keyfront: %(message)s", level=logging.WARNING)
    sys.unraisablehook = unraisable
    lifeline, ready = int(os.environ["KEYFRONT_LIFELINE"]), int(os.environ["KEYFRONT_READY"])

    def on_ready() -> None:
        os.write(ready, b"ready\n")
        os.close(ready)

    run_worker(msgspec.json.decode(argument, type=WorkerSettings), on_ready, lifeline)
