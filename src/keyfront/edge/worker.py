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
from keyfront.edge.net.certificates import Certificates
from keyfront.edge.net.open_files import OPEN_FILES, raise_open_files
from keyfront.edge.net.worker_sockets import Ports
from keyfront.edge.origin.shield_protocol import Secrets
from keyfront.edge.serving.edge import Edge
from keyfront.edge.serving.shield_server import ShieldServer
from keyfront.edge.types.shield import SHIELD
from keyfront.edge.worker_settings import WorkerSettings
from keyfront.errors import SettingsError
from keyfront.fleet.heartbeat import Trouble

logger = logging.getLogger("keyfront.edge")


def run_worker(settings: WorkerSettings, on_ready: Callable[[], None], lifeline: int | None = None) -> None:
    """Serve until SIGTERM, then drain. The worker also ends when `lifeline`, a pipe from the parent, is closed."""
    uvloop.run(_work(settings, on_ready, lifeline))


async def _work(settings: WorkerSettings, on_ready: Callable[[], None], lifeline: int | None) -> None:
    loop = asyncio.get_running_loop()
    data = Path(settings.data)
    settings = within_open_files(settings, raise_open_files())
    log = AccessLog(data / "logs" / "access.jsonl" if settings.access_log else None)
    edge = Edge(settings.edge, log, segment=_segment(settings))
    if edge.tiers.disk is not None:
        edge.tiers.disk.start()
    listeners = [Listener(edge, peers=TrustedProxies(settings.trusted_proxies), limits=settings.limits)]
    feed = Path(settings.feed) if settings.feed else None
    follower = Follower(
        edge,
        FollowerSettings(settings.name, data, feed, settings.region),
        lambda: sum(len(each.connections) for each in listeners),
    )
    follower.poll()

    def trouble() -> Trouble:
        found = Trouble(0)
        if log.failing:
            found |= Trouble.ACCESS_LOG
        if not follower.reports:
            found |= Trouble.REPORT
        if edge.tiers.disk is not None and edge.tiers.disk.failing:
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
            Listener(
                edge, scheme="https", peers=TrustedProxies(settings.trusted_proxies), limits=settings.limits
            )
        )
        await ports.listen(
            lambda: listeners[1].secured(certificates.context),
            inherited.tls if inherited is not None else (),
            (settings.tls.host, settings.tls.port),
        )

        def look_at_certificates() -> None:
            if certificates.poll(time.time()):
                logger.info("certificates reloaded")

    if settings.shield is not None:
        server = ShieldServer(edge, Secrets.of_file(settings.edge.shield_secret))
        below = Listener(edge, handler=server, scheme=SHIELD, limits=settings.limits)
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
