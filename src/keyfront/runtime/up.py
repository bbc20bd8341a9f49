"""`keyfront up`: the control process and the edge workers of one machine, under one supervisor.

The supervisor owns what must survive any one process: the lock on the data folder, the ports and their listening
sockets, the heartbeat board, and the memory that workers share.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keyfront.backup.restore.lock import lock_data_folder, refuse_half_restored
from keyfront.custody.default_paths import Installation, own_custody
from keyfront.errors import KeyfrontError, SettingsError
from keyfront.fleet.heartbeat import Board
from keyfront.runtime.data_format import claim
from keyfront.runtime.installation import local_url, url_host, write_installation
from keyfront.runtime.logs import adjust_logging
from keyfront.runtime.reload import Result, UpSettings, needs_restart, reloaded, write_pid, write_result
from keyfront.runtime.settings import (
    ControlInherited,
    ControlSettings,
    FeedSettings,
    store_url,
    without_any_password,
)
from keyfront.runtime.supervisor import AFTER_DRAIN, EXIT_TIMEOUT, MAX_RESTART_DELAY, Child, Watchdog
from keyfront.runtime.systemd import (
    READY,
    STOPPING,
    notify,
    reloading,
    stay_alive,
    watchdog_interval,
)

if TYPE_CHECKING:
    from keyfront.edge.net.listeners import Listeners
    from keyfront.edge.worker_settings import WorkerSettings
    from keyfront.fleet.file_feed import FileFeed

logger = logging.getLogger("keyfront.supervisor")

CATCH_UP_LOOKS = 250
CATCH_UP_INTERVAL = 0.02
"""Seconds between two checks of what edges have applied, and the number of checks before `ready` is printed anyway."""


async def run_up(given: UpSettings, reread: Callable[[], UpSettings]) -> None:
    """Run all processes until SIGTERM or SIGINT, and print one line when they are ready. SIGHUP reloads the settings.

    :param given: if `given.worker.feed` is set, there are only workers, and `given.control` is not used.
    :param reread: reads the settings again; it raises KeyfrontError if they cannot be used.
    :raises SettingsError: if the data folder or a port cannot be used, or a process does not start.
    """
    from keyfront.edge.net.open_files import raise_open_files
    from keyfront.fleet.file_feed import FileFeed

    folder = given.data
    with contextlib.ExitStack() as held:
        lock = lock_data_folder(folder, f"another keyfront uses the data folder {folder}")
        held.callback(os.close, lock)
        write_pid(lock)
        refuse_half_restored(folder)
        claim(folder)
        ports = held.enter_context(ReservedPorts())
        running = reserve_ports(given, ports)
        stop, reload = on_signals()
        raise_open_files()
        remove_old_reports(FileFeed(running.worker.feed or folder), edge_prefix(running.worker))
        machine = Machine(running)
        alive = asyncio.create_task(stay_alive(watchdog_interval(os.environ, os.getpid())))
        try:
            if not await _until_stopped(stop, machine.start()):
                return
            await _describe(folder, described(folder, running.worker, running.control, time.time()))
            print(ready_line(folder, running.worker, running.control), flush=True)
            notify(READY)
            await _reload_until(stop, reload, machine, given, reread)
            stop.clear()  # the next signal ends the wait
            await _until_stopped(stop, machine.leave())
        finally:
            notify(STOPPING)
            await machine.stop()
            alive.cancel()


async def _reload_until(
    stop: asyncio.Event,
    reload: asyncio.Event,
    machine: Machine,
    given: UpSettings,
    reread: Callable[[], UpSettings],
) -> None:
    """Reload whenever `reload` is set, until `stop` is."""
    while await _until_stopped(stop, _wait_for(reload)):
        reload.clear()
        began = time.monotonic()
        notify(reloading(began))
        error = ""
        restart: tuple[str, ...] = ()
        try:
            wanted = reread()
            restart = tuple(needs_restart(given, wanted))
            if not await _until_stopped(stop, machine.replace(reloaded(machine.running, wanted))):
                return
            await _describe(
                given.data,
                described(given.data, machine.running.worker, machine.running.control, time.time()),
            )
        except (KeyfrontError, OSError) as failure:
            error, restart = str(failure), ()
            logger.error("the settings are not reloaded, and the ones before stay in use: %s", error)
        else:
            logger.info("settings reloaded", extra={"seconds": round(time.monotonic() - began, 3)})
            if restart:
                logger.warning("a restart is needed for %s", ", ".join(restart))
        try:
            write_result(given.data, Result(began, error, restart))
        except OSError as failure:
            logger.warning("`keyfront reload` cannot get the result: %s", failure)
        notify(READY)


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


def edge_prefix(edge: WorkerSettings) -> str:
    """The prefix of the names of this machine's edges."""
    return edge_name(edge.port) if edge.feed else "edge"


def edge_name(port: int) -> str:
    """The prefix of the names of this machine's edges on this port, different from those of any other machine."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40].strip("-")
    return f"at-{host or os.getpid()}-{port}"


def on_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Return an event that SIGTERM and SIGINT set, and one that SIGHUP sets."""
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    return stop, reload


# ---- ports


class ReservedPorts:
    """Bound sockets that hold the ports of this installation across process restarts. Use as a context manager."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> ReservedPorts:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()

    def reserve(self, option: str, host: str, port: int) -> int:
        """Reserve a port and return its number. With port 0, the system chooses one.

        :param option: the option that names the address, for the error message.
        :raises SettingsError: if the address cannot be used.
        """
        from keyfront.edge.net.listen import reserve

        try:
            bound = reserve(host, port)
        except OSError as error:
            raise SettingsError(
                f"--{option} {url_host(host)}:{port} cannot be used: {error.strerror}"
            ) from error
        self._sockets.append(bound)
        number: int = bound.getsockname()[1]
        return number


def reserve_ports(given: UpSettings, ports: ReservedPorts) -> UpSettings:
    """Reserve all ports. Returns the settings with the port numbers."""
    edge, control = reserve_edge_ports(given.worker, ports), given.control
    if not edge.feed:
        control, edge = reserve_control_port(control, edge, ports)
    return msgspec.structs.replace(given, worker=edge, control=control)


def reserve_edge_ports(edge: WorkerSettings, ports: ReservedPorts) -> WorkerSettings:
    """Reserve the ports for viewers and for other edges. Returns the settings with the port numbers."""
    replace = msgspec.structs.replace
    edge = replace(edge, port=ports.reserve("edge", edge.host, edge.port))
    if edge.tls is not None:
        tls = replace(edge.tls, port=ports.reserve("tls", edge.tls.host, edge.tls.port))
        edge = replace(edge, tls=tls, edge=replace(edge.edge, https_port=tls.port))
    if edge.shield is not None:
        host, port = edge.shield
        edge = replace(edge, shield=(host, ports.reserve("shield", host, port)))
    return edge


def reserve_control_port(
    control: ControlSettings, edge: WorkerSettings, ports: ReservedPorts
) -> tuple[ControlSettings, WorkerSettings]:
    """Reserve the API's port, to which no worker ever connects as an origin. Returns both settings with its number."""
    replace = msgspec.structs.replace
    control = replace(control, port=ports.reserve("control", control.host, control.port))
    if control.edges is not None:
        host, port = control.edges
        control = replace(control, edges=(host, ports.reserve("edges", host, port)))
    egress = replace(edge.edge.egress, control_port=control.port)
    return control, replace(edge, edge=replace(edge.edge, egress=egress))


def ready_line(folder: Path, edge: WorkerSettings, control: ControlSettings) -> str:
    """The line on standard output that says where everything listens."""
    words = ["keyfront ready", f"edge=http://{url_host(edge.host)}:{edge.port}"]
    if edge.tls is not None:
        words.append(f"tls=https://{url_host(edge.tls.host)}:{edge.tls.port}")
    if edge.shield is not None:
        words.append(f"shield={url_host(edge.shield[0])}:{edge.shield[1]}")
    words.append(
        f"feed={edge.feed}" if edge.feed else f"control=http://{url_host(control.host)}:{control.port}"
    )
    if control.edges is not None and not edge.feed:
        words.append(f"edges=https://{url_host(control.edges[0])}:{control.edges[1]}")
    return " ".join([*words, f"data={folder}"])


# ---- processes


class Machine:
    """The processes of this machine, of one generation except during a reload, and the sockets that they listen on.

    A reload starts a new generation of edge workers on the same sockets, replaces the control process, and then lets
    the old workers drain. Connections to the control plane wait in its socket's queue while its process is replaced.

    :param running: the settings, with port numbers.
    """

    def __init__(self, running: UpSettings) -> None:
        from keyfront.edge.net.listeners import Listeners

        self.running = running
        self._listeners = Listeners()
        self._current = self._generation(running, 0)
        self._number = 0
        self._next: Processes | None = None
        self._draining: asyncio.Task[None] | None = None

    def _generation(self, settings: UpSettings, number: int) -> Processes:
        return Processes(settings, self._listeners, number)

    async def start(self) -> None:
        """:raises SettingsError: if a process does not start."""
        from keyfront.fleet.file_feed import FileFeed

        edge = self.running.worker
        # Without a control plane, edges can serve a snapshot that they have already applied.
        edges_first = (
            self._current.has_control
            and FileFeed(edge.feed or self.running.data, edge.region).servable() is not None
        )
        await self._current.start(edges_first=edges_first)

    async def replace(self, wanted: UpSettings) -> None:
        """Replace all processes by processes with these settings. If that is impossible, the ones before stay.

        :raises SettingsError: if a process does not start.
        """
        if self._draining is not None:
            await asyncio.shield(self._draining)  # the next generation takes the names of the one that drains
        self._number += 1
        old, new = self._current, self._generation(wanted, self._number)
        self._next = new
        try:
            await new.start_edges()
            await old.stop_control()
            try:
                await new.start_control()
            except SettingsError:
                await old.restart_control()
                raise
        except SettingsError:
            self._next = None
            await new.stop()
            raise
        self.running, self._current, self._next = wanted, new, None
        adjust_logging(wanted.logs, "up")
        self._draining = asyncio.create_task(old.stop())

    async def leave(self) -> None:
        """Let health checks of load balancers fail for a while, and serve as before, so that viewers go elsewhere."""
        for each in (self._next, self._current):
            if each is not None:
                each.leave()
        delay = self.running.supervision.shutdown_delay
        if delay:
            logger.info("health checks fail from now on; stopping in %g seconds", delay)
            await asyncio.sleep(delay)

    async def stop(self) -> None:
        """Stop accepting connections, and stop all processes."""
        self._listeners.close()
        generations = [one.stop() for one in (self._next, self._current) if one is not None]
        draining = [self._draining] if self._draining is not None else []
        await asyncio.gather(*generations, *draining, return_exceptions=True)


class Processes:
    """One generation of child processes.

    :param settings: with port numbers.
    :param number: 0, 1, 2, …; two generations in succession have different names for their workers.
    """

    def __init__(self, settings: UpSettings, listeners: Listeners, number: int) -> None:
        from keyfront.fleet.file_feed import FileFeed
        from keyfront.fleet.remote import is_enrolled

        workers = settings.supervision.workers
        self._supervision = settings.supervision
        self._log = settings.logs
        self._listeners = listeners
        self._feed = FileFeed(settings.worker.feed or settings.data)
        self._board = Board.create(workers + 1)
        memory, self._shared = share_memory(settings.worker.edge.memory, workers, settings.data)
        edge = msgspec.structs.replace(
            settings.worker, edge=msgspec.structs.replace(settings.worker.edge, memory=memory)
        )
        first = 1 + number % 2 * workers
        names = [f"{edge_prefix(edge)}-{each}" for each in range(first, first + workers)]
        self._make_control: Callable[[], Child] | None = None
        if not edge.feed:
            self._make_control = functools.partial(self._control_child, settings.control, names)
        elif is_enrolled(settings.data):
            self._make_control = functools.partial(self._feed_child, settings.data, workers)
        self._control = [] if self._make_control is None else [self._make_control()]
        self._edges: list[Child] = []
        self._add_edges(edge, names)

    @property
    def has_control(self) -> bool:
        """Whether there is a control process, or one that follows a control plane."""
        return self._make_control is not None

    def _control_child(self, settings: ControlSettings, workers: list[str]) -> Child:
        """:param workers: the names of the edge workers, in the order of their slots."""
        (listener,) = self._listeners.of(settings.host, settings.port, 1)
        (edges,) = self._listeners.of(*settings.edges, 1) if settings.edges is not None else (-1,)
        slot = len(workers)
        inherited = ControlInherited(self._board.fd, listener, tuple(workers), edges)
        settings = msgspec.structs.replace(settings, inherited=inherited)
        return Child(
            "control",
            self._command("control-process", settings),
            fds=(self._board.fd, listener, *([edges] if edges >= 0 else [])),
            watchdog=Watchdog(self._board, slot, self._supervision.stuck_after),
        )

    def _feed_child(self, data: Path, slot: int) -> Child:
        """The process that follows a control plane over HTTPS for the workers.

        :param data: the data folder of the enrolled edge.
        """
        settings = FeedSettings(str(data), self._board.fd, slot, self._board.slots)
        return Child(
            "feed",
            self._command("feed-process", settings),
            fds=(self._board.fd,),
            watchdog=Watchdog(self._board, slot, self._supervision.stuck_after),
        )

    def _add_edges(self, settings: WorkerSettings, names: list[str]) -> None:
        """Add a worker for each name."""
        from keyfront.edge.net.worker_sockets import Inherited

        count = len(names)
        tls, shield = settings.tls, settings.shield
        shared = Inherited(
            board=self._board.fd,
            slots=self._board.slots,
            slot=0,
            http=self._listeners.of(settings.host, settings.port, count),
            tls=self._listeners.of(tls.host, tls.port, count) if tls is not None else (),
            shield=self._listeners.of(*shield, count) if shield is not None else (),
            cache=self._shared,
        )
        for slot, name in enumerate(names):
            inherited = msgspec.structs.replace(shared, slot=slot)
            worker = msgspec.structs.replace(settings, name=name, inherited=inherited)
            self._edges.append(
                Child(
                    name,
                    self._command("edge-worker", worker),
                    _report_remover(self._feed, name),
                    environment=edge_environment(os.environ),
                    fds=inherited.fds,
                    watchdog=Watchdog(self._board, slot, self._supervision.stuck_after, range(count)),
                    exit_timeout=max(EXIT_TIMEOUT, settings.limits.drain + AFTER_DRAIN),
                )
            )

    async def start(self, *, edges_first: bool) -> None:
        """Start all processes, and return when they are ready.

        :param edges_first: start edges without waiting for the control plane, then wait for them to apply what it
            publishes. Without a snapshot, edges have nothing to serve until the control plane is up.
        """
        if edges_first:
            await asyncio.gather(self.start_edges(), self.start_control())
            await _caught_up(self._feed, [child.name for child in self._edges])
        else:
            await self.start_control()
            await self.start_edges()

    async def start_edges(self) -> None:
        """:raises SettingsError: if one of them does not start."""
        await asyncio.gather(*(child.start() for child in self._edges))

    async def start_control(self) -> None:
        """:raises SettingsError: if it does not start."""
        for child in self._control:
            await child.start()

    async def stop_control(self) -> None:
        """Stop the control process, or the one that follows a control plane."""
        for child in self._control:
            await child.stop()

    async def restart_control(self) -> None:
        """Start it again after `stop_control`, however many attempts that takes."""
        while self._make_control is not None:
            self._control = [self._make_control()]
            try:
                await self.start_control()
                return
            except SettingsError as error:
                logger.error("%s; trying again", error)
                await asyncio.sleep(MAX_RESTART_DELAY)

    def leave(self) -> None:
        """Let health checks of load balancers fail."""
        self._board.leave()

    async def stop(self) -> None:
        """Drain the workers, then stop the control process, which responds until then. Nothing can start again."""
        self._board.stop()
        await asyncio.gather(*(child.stop() for child in self._edges), return_exceptions=True)
        await self.stop_control()
        if self._shared >= 0:
            os.close(self._shared)
        self._board.close()

    def _command(self, name: str, settings: msgspec.Struct) -> list[str]:
        arguments = [msgspec.json.encode(each).decode() for each in (settings, self._log)]
        return [sys.executable, "-m", "keyfront", name, *arguments]


def remove_old_reports(feed: FileFeed, prefix: str) -> None:
    """Remove reports left behind by workers of an earlier run."""
    for report in feed.last_reports():
        if report.name.startswith(f"{prefix}-"):
            feed.remove_report(report.name)


def _report_remover(feed: FileFeed, name: str) -> Callable[[], None]:
    """A callback that removes a dead worker's report at once; the report would count as a live edge for some
    seconds."""
    return lambda: feed.remove_report(name)


async def _until_stopped(stop: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Await `work`. Returns False if `stop` was set first; the work is then canceled.

    :raises Exception: what the work raises.
    """
    stopped, finished = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(work)
    try:
        await asyncio.wait([stopped, finished], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        finished.cancel()
        await asyncio.gather(stopped, finished, return_exceptions=True)
    if finished.cancelled():
        return False
    finished.result()
    return True


async def _caught_up(feed: FileFeed, names: Iterable[str]) -> None:
    """Wait briefly for the edges to apply what the control plane published at startup, except for edges that have
    rejected it and logged that."""
    for _ in range(CATCH_UP_LOOKS):
        published = feed.published_at()
        numbers = {report.name: report.number for report in feed.last_reports() if not report.refused}
        if published is None or all(numbers.get(name, published[0]) >= published[0] for name in names):
            return
        await asyncio.sleep(CATCH_UP_INTERVAL)


def described(folder: Path, edge: WorkerSettings, control: ControlSettings, now: float) -> Installation:
    """What commands need to know about this installation.

    :param now: epoch seconds.
    """
    viewers = Installation(
        feed=edge.feed,
        edge=local_url("http", edge.host, edge.port),
        tls=local_url("https", edge.tls.host, edge.tls.port) if edge.tls is not None else "",
        certificates=edge.tls.certificates if edge.tls is not None else "",
        version=version("keyfront"),
        started=now,
    )
    if edge.feed:
        return viewers
    return msgspec.structs.replace(
        viewers,
        control=local_url("http", control.host, control.port),
        records=control.records or own_custody(folder),
        rotation=control.rotation,
        store=without_any_password(store_url(control.store)),
        store_password_file=control.store_password_file,
    )


async def _describe(folder: Path, found: Installation) -> None:
    try:
        await asyncio.to_thread(write_installation, folder, found)
    except OSError as error:  # a full disk does not prevent Keyfront from serving
        logger.warning("commands will not find this Keyfront by its data folder: %s", error)


# ---- memory and environment


def share_memory(memory: int, workers: int, folder: Path) -> tuple[int, int]:
    """Divide the cache memory of all workers into equal parts: one for each worker, and one that they share.

    :param memory: bytes per worker.
    :returns: the bytes of one part, and the file descriptor of the shared part. One worker shares nothing, and if no
        shared memory is available, each worker keeps all of its own memory: in both cases the descriptor is -1.
    """
    from keyfront.edge.cache.shared_segment import create

    if workers == 1:
        return memory, -1
    part = memory * workers // (workers + 1)
    try:
        return part, create(workers, part, folder)
    except (OSError, ValueError) as error:
        logger.warning(
            "workers have no memory to share (%s): each has a cache of its own, and does not see immediately what the "
            "others purge; use --workers 1 if that matters",
            error,
        )
        return memory, -1


_VARIABLES = frozenset({"HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV"})
_PREFIXES = (
    "AWS_",
    "COV_",
    "COVERAGE_",
    "GLIBC_",
    "LC_",
    "LD_",
    "MALLOC_",
    "OPENSSL_",
    "PYTHON",
    "SSL_CERT_",
    "UV_",
)


def edge_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that an edge worker gets: what any process needs, and the credentials with which it may
    sign requests to origins (`AWS_…`). A worker is exposed to the Internet, so it gets none of the control plane's
    secrets, whatever their variables are named."""
    return {
        name: value for name, value in environment.items() if name in _VARIABLES or name.startswith(_PREFIXES)
    }
