"""The processes of one machine under `keyfront up`, and what they share."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keyfront.errors import SettingsError
from keyfront.fleet.counter_table import BANK, CounterMemory
from keyfront.fleet.heartbeat import Board
from keyfront.runtime.adopted import AdoptedProcesses
from keyfront.runtime.handover import HandedProcesses
from keyfront.runtime.logs import adjust_logging
from keyfront.runtime.reload import UpSettings
from keyfront.runtime.settings import (
    ControlInherited,
    ControlSettings,
    FeedSettings,
    MetricsInherited,
    MetricsSettings,
)
from keyfront.runtime.supervisor import AFTER_DRAIN, EXIT_TIMEOUT, MAX_RESTART_DELAY, Child, Watchdog

if TYPE_CHECKING:
    from keyfront.edge.net.listeners import Listeners
    from keyfront.edge.worker_settings import WorkerSettings
    from keyfront.fleet.file_feed import FileFeed

logger = logging.getLogger("keyfront.supervisor")

CATCH_UP_LOOKS = 250
CATCH_UP_INTERVAL = 0.02
"""Seconds between two checks of what edges have applied, and the number of checks before `ready` is printed anyway."""


def edge_prefix(edge: WorkerSettings) -> str:
    """The prefix of the names of this machine's edges."""
    return edge_name(edge.port) if edge.feed else "edge"


def edge_name(port: int) -> str:
    """The prefix of the names of this machine's edges on this port, different from those of any other machine."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40].strip("-")
    return f"at-{host or os.getpid()}-{port}"


class Machine:
    """The processes of this machine, of one generation except during a reload or restart, and the sockets that they
    listen on.

    A reload starts a new generation of edge workers on the same sockets, replaces the control process, and then lets
    the old workers drain. Connections to the control plane wait in its socket's queue while its process is replaced.
    If only the control plane's settings differ, and no file that workers read at their start, the workers stay.
    After a restart, the program does the same with the generation that the program before it has started.

    :param running: the settings, with port numbers.
    :param adopted: the generation that serves now; None if there is none yet.
    """

    def __init__(
        self, running: UpSettings, listeners: Listeners, adopted: AdoptedProcesses | None = None
    ) -> None:
        self.running = running
        self._listeners = listeners
        self._counters: CounterMemory | None = None
        if adopted is not None and adopted.counters >= 0:
            self._counters = CounterMemory(adopted.counters)
        self._current = adopted or self._processes(running, bank=0)
        self._next: Processes | None = None
        self._draining: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None

    def _processes(self, settings: UpSettings, taken: Collection[str] = (), *, bank: int) -> Processes:
        """:param taken: the names of the workers that drain meanwhile.
        :param bank: the bank of counters that those do not use."""
        if settings.metrics is not None and self._counters is None:
            self._counters = CounterMemory.create()
        return Processes(settings, self._listeners, taken, self._counters, bank)

    @property
    def is_adopted(self) -> bool:
        """Whether processes serve that this program did not start."""
        return not self._current.can_restart

    async def start(self) -> None:
        """:raises SettingsError: if a process does not start."""
        from keyfront.fleet.file_feed import FileFeed

        assert isinstance(self._current, Processes)  # noqa: S101 - an adopted generation has started
        edge = self.running.worker
        # Without a control plane, edges can serve a snapshot that they have already applied.
        edges_first = (
            self._current.has_control
            and FileFeed(edge.feed or self.running.data, edge.region).servable() is not None
        )
        await self._current.start(edges_first=edges_first)

    async def drained(self) -> None:
        """Wait until the generation before this one has ended."""
        if self._draining is not None:
            await asyncio.shield(self._draining)

    async def replace(self, wanted: UpSettings) -> None:
        """Replace all processes by processes with these settings. If that is impossible, the ones before stay.

        Only a control process that another program has started cannot be started again: its successor is then tried
        until it starts, and the new workers serve.

        :raises SettingsError: if a process does not start.
        """
        await self.drained()
        if self._recovering is not None:
            self._recovering.cancel()
        only_control = not wanted.worker.feed and wanted == msgspec.structs.replace(
            self.running, control=wanted.control
        )
        if (
            only_control
            and wanted != self.running
            and isinstance(self._current, Processes)
            and self._current.files == files_of(wanted.worker)
        ):
            await self._current.replace_control(wanted.control)
            self.running = wanted
            return
        old = self._current
        new = self._processes(wanted, old.names, bank=1 - old.bank)
        self._next = new
        try:
            await new.start_edges()
            await old.stop_control()
            try:
                await new.start_control()
            except SettingsError:
                if isinstance(old, AdoptedProcesses):
                    self._commit(wanted, new)
                    self._recovering = asyncio.create_task(new.restart_control())
                else:
                    await old.restart_control()
                raise
        except SettingsError:
            if self._next is not None:
                self._next = None
                await new.stop()
            raise
        self._commit(wanted, new)

    def _commit(self, wanted: UpSettings, new: Processes) -> None:
        self._draining = asyncio.create_task(self._current.stop())
        self.running, self._current, self._next = wanted, new, None
        adjust_logging(wanted.logs, "up")

    def handed(self) -> HandedProcesses:
        """The processes that serve, for the program that takes over."""
        return self._current.handed()

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
        if self._recovering is not None:
            self._recovering.cancel()
        generations = [one.stop() for one in (self._next, self._current) if one is not None]
        draining = [self._draining] if self._draining is not None else []
        await asyncio.gather(*generations, *draining, return_exceptions=True)
        if self._counters is not None:
            self._counters.close()


class Processes:
    """One generation of child processes. `files` are those that the workers have read.

    :param settings: with port numbers.
    :param taken: the names of the workers that drain meanwhile.
    :param counters: the memory of the workers' counters, used if there is a port for metrics.
    :param bank: the bank of its slots that these workers use.
    """

    can_restart = True

    def __init__(
        self,
        settings: UpSettings,
        listeners: Listeners,
        taken: Collection[str],
        counters: CounterMemory | None,
        bank: int,
    ) -> None:
        from keyfront.fleet.file_feed import FileFeed
        from keyfront.fleet.remote import is_enrolled

        workers = settings.supervision.workers
        self.files = files_of(settings.worker)
        self._supervision = settings.supervision
        self._log = settings.logs
        self._listeners = listeners
        self._feed = FileFeed(settings.worker.feed or settings.data)
        self._board = Board.create(workers + 2)
        self._counters = counters.fd if counters is not None and settings.metrics is not None else -1
        self.bank = bank
        self._data = str(settings.data)
        memory, self._shared = share_memory(settings.worker.edge.memory, workers, settings.data)
        edge = msgspec.structs.replace(
            settings.worker, edge=msgspec.structs.replace(settings.worker.edge, memory=memory)
        )
        free = (name for number in count(1) if (name := f"{edge_prefix(edge)}-{number}") not in taken)
        self.names = names = list(islice(free, workers))
        self._make_control: Callable[[], Child] | None = None
        if not edge.feed:
            self._make_control = functools.partial(self._control_child, settings.control, names)
        elif is_enrolled(settings.data):
            self._make_control = functools.partial(self._feed_child, settings.data, workers)
        self._control = [] if self._make_control is None else [self._make_control()]
        self._metrics = [] if settings.metrics is None else [self._metrics_child(settings.metrics)]
        self._edges: list[Child] = []
        self._issue_certificates = _certificate_issuer(settings)
        self._add_edges(edge, names)

    @property
    def has_control(self) -> bool:
        """Whether there is a control process, or one that follows a control plane."""
        return self._make_control is not None

    def _control_child(self, settings: ControlSettings, workers: list[str]) -> Child:
        """:param workers: the names of the edge workers, in the order of their slots."""
        listener, *_ = self._listeners.of(settings.host, settings.port, 1)
        edges, *_ = self._listeners.of(*settings.edges, 1) if settings.edges is not None else (-1,)
        slot = len(workers)
        shown = self._counters >= 0
        inherited = ControlInherited(self._board.fd, listener, tuple(workers), edges, edge_metrics=shown)
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

    def _metrics_child(self, settings: MetricsSettings) -> Child:
        """The process that shows the workers' counters."""
        listener, *_ = self._listeners.of(settings.host, settings.port, 1)
        control = "" if not self._control else self._control[0].name
        processes = (*self.names, control, "metrics")
        slot = len(processes) - 1
        inherited = MetricsInherited(
            self._data, processes, self._counters, listener, self._board.fd, slot, self._board.slots
        )
        return Child(
            "metrics",
            self._command("metrics-process", msgspec.structs.replace(settings, inherited=inherited)),
            environment=edge_environment(os.environ),
            fds=(self._counters, listener, self._board.fd),
            watchdog=Watchdog(self._board, slot, self._supervision.stuck_after),
        )

    def _add_edges(self, settings: WorkerSettings, names: list[str]) -> None:
        """Add a worker for each name."""
        from keyfront.edge.net.worker_sockets import Inherited

        workers = len(names)
        tls, shield = settings.tls, settings.shield
        shared = Inherited(
            board=self._board.fd,
            slots=self._board.slots,
            slot=0,
            workers=workers,
            http=self._listeners.of(settings.host, settings.port, workers),
            tls=self._listeners.of(tls.host, tls.port, workers) if tls is not None else (),
            shield=self._listeners.of(*shield, workers) if shield is not None else (),
            cache=self._shared,
            counters=self._counters,
        )
        for slot, name in enumerate(names):
            inherited = msgspec.structs.replace(shared, slot=slot, counter_slot=self.bank * BANK + slot)
            worker = msgspec.structs.replace(settings, name=name, inherited=inherited)
            self._edges.append(
                Child(
                    name,
                    self._command("edge-worker", worker),
                    _report_remover(self._feed, name),
                    environment=edge_environment(os.environ),
                    fds=inherited.fds,
                    watchdog=Watchdog(self._board, slot, self._supervision.stuck_after, range(workers)),
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
        """:raises SettingsError: if one of them does not start, or has no certificate."""
        if self._issue_certificates is not None:
            await asyncio.to_thread(self._issue_certificates)
        await asyncio.gather(*(child.start() for child in (*self._edges, *self._metrics)))

    async def start_control(self) -> None:
        """:raises SettingsError: if it does not start."""
        for child in self._control:
            await child.start()

    async def stop_control(self) -> None:
        """Stop the control process, or the one that follows a control plane."""
        for child in self._control:
            await child.stop()

    async def replace_control(self, wanted: ControlSettings) -> None:
        """Replace the control process by one with these settings. If it does not start, one with the settings before is
        started again.

        :raises SettingsError: if it does not start.
        """
        before = self._make_control
        await self.stop_control()
        self._make_control = functools.partial(self._control_child, wanted, self.names)
        self._control = [self._make_control()]
        try:
            await self.start_control()
        except SettingsError:
            self._make_control = before
            await self.restart_control()
            raise

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

    def handed(self) -> HandedProcesses:
        """What the program that takes over needs to know about the running processes."""
        edges, control, metrics = (
            tuple(handed for child in children if (handed := child.handed()) is not None)
            for children in (self._edges, self._control, self._metrics)
        )
        return HandedProcesses(
            self._board.fd,
            self._board.slots,
            self._shared,
            edges,
            control,
            self._counters,
            self.bank,
            metrics,
        )

    def leave(self) -> None:
        """Let health checks of load balancers fail."""
        self._board.leave()

    async def stop(self) -> None:
        """Drain the workers, then stop the control process and that for metrics, which respond until then. Nothing can
        start again."""
        self._board.stop()
        await asyncio.gather(*(child.stop() for child in self._edges), return_exceptions=True)
        await self.stop_control()
        await asyncio.gather(*(child.stop() for child in self._metrics), return_exceptions=True)
        if self._shared >= 0:
            os.close(self._shared)
        self._board.close()

    def _command(self, name: str, settings: msgspec.Struct) -> list[str]:
        arguments = [msgspec.json.encode(each).decode() for each in (settings, self._log)]
        return [sys.executable, "-m", "keyfront", name, *arguments]


def files_of(edge: WorkerSettings) -> tuple[tuple[int, ...], ...]:
    """The identities of the files that a worker reads only when it starts."""
    found: list[tuple[int, ...]] = []
    for path in (edge.edge.ca_file, edge.edge.country_db, edge.edge.shield_secret):
        try:
            status = os.stat(path or "")
        except OSError:
            found.append(())
        else:
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _certificate_issuer(settings: UpSettings) -> Callable[[], object] | None:
    if settings.worker.tls is None or not settings.worker.tls.local:
        return None
    from keyfront.runtime.local_authority import cover  # loads what nobody else here needs

    return lambda: cover(settings, time.time())


def remove_old_reports(feed: FileFeed, prefix: str) -> None:
    """Remove reports left behind by workers of an earlier run."""
    for report in feed.last_reports():
        if report.name.startswith(f"{prefix}-"):
            feed.remove_report(report.name)


def _report_remover(feed: FileFeed, name: str) -> Callable[[], None]:
    """A callback that removes a dead worker's report at once; the report would count as a live edge for some
    seconds."""
    return lambda: feed.remove_report(name)


async def _caught_up(feed: FileFeed, names: Iterable[str]) -> None:
    """Wait briefly for the edges to apply what the control plane published at startup, except for edges that have
    rejected it and logged that."""
    for _ in range(CATCH_UP_LOOKS):
        published = feed.published_at()
        numbers = {report.name: report.number for report in feed.last_reports() if not report.refused}
        if published is None or all(numbers.get(name, published[0]) >= published[0] for name in names):
            return
        await asyncio.sleep(CATCH_UP_INTERVAL)


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
