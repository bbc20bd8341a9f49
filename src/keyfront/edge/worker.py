"""The worker process of the edge: one event loop, its own listening sockets (http, and https if configured), and one
edge.

Workers share a port through SO_REUSEPORT, and a cache through a memory segment that their parent creates
(`cache.shared_segment`). Each worker follows the feed and reports on its own. When a worker dies, only its open
connections are lost; `net.worker_sockets` describes which workers accept new ones.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from keyfront.edge.cache.shared_segment import Segment
from keyfront.edge.follower import Follower, FollowerSettings
from keyfront.edge.http.listener import Listener
from keyfront.edge.http.trusted_proxies import TrustedProxies
from keyfront.edge.logs.access_log import AccessLog
from keyfront.edge.logs.counters import Counts
from keyfront.edge.logs.spool import Spool
from keyfront.edge.net.certificates import Certificates
from keyfront.edge.net.open_files import OPEN_FILES, raise_open_files
from keyfront.edge.net.worker_sockets import Ports
from keyfront.edge.origin.shield_protocol import Secrets
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.measures import measure_certificates
from keyfront.edge.serving.shield_server import ShieldServer
from keyfront.edge.types.shield import SHIELD
from keyfront.edge.worker_settings import WorkerSettings
from keyfront.errors import SettingsError
from keyfront.fleet.counter_table import CounterTable
from keyfront.fleet.heartbeat import Trouble

logger = logging.getLogger("keyfront.edge")


def run_worker(settings: WorkerSettings, on_ready: Callable[[], None], lifeline: int | None = None) -> None:
    """Serve until SIGTERM, then drain. The worker also ends when `lifeline`, a pipe from the parent, is closed."""
    uvloop.run(_run(settings, on_ready, lifeline))


async def _run(settings: WorkerSettings, on_ready: Callable[[], None], lifeline: int | None) -> None:
    worker = _Worker(within_open_files(settings, raise_open_files()))
    await worker.listen()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        loop.add_reader(lifeline, stop.set)
    await worker.serve(stop, on_ready)
    if lifeline is not None:
        loop.remove_reader(lifeline)
    await worker.drain()


class _Worker:
    """All parts of a worker, connected. Created on its event loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        data = Path(settings.data)
        self._log = AccessLog(
            data / "logs" / "access.jsonl" if settings.access_log else None,
            Counts(_counter_table(settings)),
            spool=Spool(data, settings.spool),
            retention=settings.retention,
        )
        self._edge = edge = Edge(settings.edge, self._log, segment=_segment(settings))
        if edge.tiers.disk is not None:
            edge.tiers.disk.start()
        self._listeners: list[Listener] = []
        self._certificates: Certificates | None = None
        feed = Path(settings.feed) if settings.feed else None
        self._follower = Follower(
            edge,
            FollowerSettings(settings.name, data, feed, settings.region),
            lambda: sum(len(each.connections) for each in self._listeners),
        )
        self._follower.poll()
        self._ports = Ports(settings.inherited, self._trouble)
        self._follower.progress = self._ports.beat
        edge.health.stopping = lambda: self._ports.leaving

    def _trouble(self) -> Trouble:
        found = Trouble(0)
        if self._log.failing:
            found |= Trouble.ACCESS_LOG
        if not self._follower.reports:
            found |= Trouble.REPORT
        disk = self._edge.tiers.disk
        if disk is not None and disk.failing:
            found |= Trouble.CACHE_DISK
        return found

    async def listen(self) -> None:
        """Listen for viewers over HTTP, and if configured over HTTPS, and for edges whose Origin Shield this is."""
        settings, edge, ports = self._settings, self._edge, self._ports
        inherited, limits = settings.inherited, settings.limits
        proxies = TrustedProxies(settings.trusted_proxies)
        http = Listener(edge, peers=proxies, limits=limits)
        self._listeners.append(http)
        await ports.listen(
            http, inherited.http if inherited is not None else (), (settings.host, settings.port)
        )
        certificates = None
        if settings.tls is not None:
            certificates = self._certificates = Certificates(
                Path(settings.tls.certificates),
                time.time(),
                lambda text: logger.warning("%s: %s", settings.name, text),
                Path(settings.tls.local) if settings.tls.local else None,
                lambda name: edge.routing.offers_http2(name),  # noqa: PLW0108 - each snapshot has another routing
            )
            https = Listener(edge, scheme="https", peers=proxies, limits=limits, covers=certificates.cover)
            self._listeners.append(https)
            await ports.listen(
                lambda: https.secured(certificates.context),
                inherited.tls if inherited is not None else (),
                (settings.tls.host, settings.tls.port),
            )
        if settings.shield is not None:
            server = ShieldServer(edge, Secrets.of_file(settings.edge.shield_secret))
            shield = Listener(edge, handler=server, scheme=SHIELD, limits=limits)
            self._listeners.append(shield)
            await ports.listen(
                lambda: shield() if certificates is None else shield.secured(certificates.context),
                inherited.shield if inherited is not None else (),
                settings.shield,
            )

    async def serve(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Accept connections and follow the feed until `stop` is set."""
        self._follower.report()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._ports.start()
        on_ready()
        await self._follower.follow(stop, self._poll_certificates)

    def _poll_certificates(self) -> None:
        if self._certificates is None:
            return
        if self._certificates.poll(time.time()):
            logger.info("certificates reloaded")
        ends = {name: each.ends for name, each in self._certificates.loaded.items()}
        measure_certificates(self._edge, ends)

    async def drain(self) -> None:
        """Accept no more connections, let those in progress finish, and close everything."""
        self._ports.close()
        await asyncio.gather(*(listener.drain() for listener in self._listeners))
        await self._edge.aclose()
        self._log.close()
        self._follower.leave()
        await self._ports.end()


def within_open_files(settings: WorkerSettings, files: int) -> WorkerSettings:
    """The settings, with at most as many connections as a process with `files` open files can have. A process that runs
    out of files cannot accept any viewer at all."""
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
    """The memory that all workers share, or None if it is not available: then this worker has a cache of its own."""
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


def _counter_table(settings: WorkerSettings) -> CounterTable | None:
    """The counters that a port for metrics shows, or None if there is no such port: then this worker only reports
    them."""
    inherited = settings.inherited
    if inherited is None or inherited.counters < 0:
        return None
    try:
        return CounterTable.attached(inherited.counters, inherited.counter_slot)
    except (OSError, ValueError) as error:
        logger.warning("%s is missing from the port for metrics: %s", settings.name, error)
        return None
