"""`keyfront up`: the control process and the edge workers of one machine, under one supervisor.

The supervisor owns what must survive any one process: the lock on the data folder, the ports and their listening
sockets, the heartbeat board, and the memory that workers share.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from keyfront.errors import SettingsError
from keyfront.fleet.heartbeat import Board
from keyfront.runtime.installation import local_url, url_host, write_installation
from keyfront.runtime.logs import LogSettings
from keyfront.runtime.settings import (
    ControlInherited,
    ControlSettings,
    FeedSettings,
    Supervision,
    store_url,
    without_any_password,
)
from keyfront.runtime.supervisor import AFTER_DRAIN, EXIT_TIMEOUT, Child, Watchdog

if TYPE_CHECKING:
    from keyfront.edge.worker_settings import WorkerSettings
    from keyfront.fleet.file_feed import FileFeed

logger = logging.getLogger("keyfront.supervisor")

CATCH_UP_LOOKS = 250
CATCH_UP_INTERVAL = 0.02
"""Seconds between two checks of what edges have applied, and the number of checks before `ready` is printed anyway."""


async def run_up(
    folder: Path,
    edge: WorkerSettings,
    control: ControlSettings,
    supervision: Supervision,
    log: LogSettings = LogSettings(),
) -> None:
    """Run all processes until SIGTERM or SIGINT, and print one line when they are ready.

    :param folder: the data folder.
    :param edge: settings of every worker. If `edge.feed` is set, there are only workers, and `control` is not used.
    :raises SettingsError: if the data folder or a port cannot be used, or a process does not start.
    """
    from keyfront.edge.net.open_files import raise_open_files
    from keyfront.fleet.file_feed import FileFeed
    from keyfront.fleet.remote import is_enrolled

    with contextlib.ExitStack() as held:
        held.callback(os.close, lock_data_folder(folder, f"another keyfront uses the data folder {folder}"))
        refuse_half_restored(folder)
        ports = held.enter_context(ReservedPorts())
        edge = reserve_edge_ports(edge, ports)
        if not edge.feed:
            control, edge = reserve_control_port(control, edge, ports)
        stop = stop_on_signal()
        remote = is_enrolled(folder)
        feed = FileFeed(edge.feed or folder)
        prefix = edge_name(edge.port) if edge.feed else "edge"
        remove_old_reports(feed, prefix)
        # Without a control plane, edges can serve a snapshot that they have already applied.
        edges_first = (remote or not edge.feed) and FileFeed(
            edge.feed or folder, edge.region
        ).servable() is not None
        raise_open_files()
        memory, shared = share_memory(edge.edge.memory, supervision.workers, folder)
        edge = msgspec.structs.replace(edge, edge=msgspec.structs.replace(edge.edge, memory=memory))
        board = held.enter_context(contextlib.closing(Board.create(supervision.workers + 1)))
        processes = Processes(board, supervision, log)
        try:
            names = [f"{prefix}-{number}" for number in range(1, supervision.workers + 1)]
            if not edge.feed:
                processes.add_control(control, names)
            elif remote:
                processes.add_feed(folder, len(names))
            processes.add_edges(edge, names, feed, shared)
            if not await _until_stopped(stop, processes.start(feed, edges_first=edges_first)):
                return
            await _describe(folder, described(folder, edge, control, time.time()))
            print(ready_line(folder, edge, control), flush=True)
            await stop.wait()
        finally:
            await processes.stop()


def edge_name(port: int) -> str:
    """The prefix of the names of this machine's edges on this port, different from those of any other machine."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40].strip("-")
    return f"at-{host or os.getpid()}-{port}"


def stop_on_signal() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


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


class Processes:
    """All child processes, and the sockets that they listen on."""

    def __init__(self, board: Board, supervision: Supervision, log: LogSettings) -> None:
        self._board = board
        self._supervision = supervision
        self._log = log
        self._sockets: list[socket.socket] = []
        self._control: list[Child] = []
        self._edges: list[Child] = []

    def add_control(self, settings: ControlSettings, workers: list[str]) -> None:
        """:param workers: the names of the edge workers, in the order of their slots."""
        (listener,) = self._listen(settings.host, settings.port, 1)
        (edges,) = self._listen(*settings.edges, 1) if settings.edges is not None else (-1,)
        slot = len(workers)
        inherited = ControlInherited(self._board.fd, listener, tuple(workers), edges)
        settings = msgspec.structs.replace(settings, inherited=inherited)
        self._control.append(
            Child(
                "control",
                self._command("control-process", settings),
                fds=(self._board.fd, listener, *([edges] if edges >= 0 else [])),
                watchdog=Watchdog(self._board, slot, self._supervision.stuck_after),
            )
        )

    def add_feed(self, data: Path, slot: int) -> None:
        """Add the process that follows a control plane over HTTPS for the workers.

        :param data: the data folder of the enrolled edge.
        """
        settings = FeedSettings(str(data), self._board.fd, slot, self._board.slots)
        self._control.append(
            Child(
                "feed",
                self._command("feed-process", settings),
                fds=(self._board.fd,),
                watchdog=Watchdog(self._board, slot, self._supervision.stuck_after),
            )
        )

    def add_edges(self, settings: WorkerSettings, names: list[str], feed: FileFeed, cache: int) -> None:
        """Add a worker for each name.

        :param feed: where the workers report; the report of one that exited is removed from it.
        :param cache: see `share_memory`.
        """
        from keyfront.edge.net.worker_sockets import Inherited

        count = len(names)
        tls, shield = settings.tls, settings.shield
        shared = Inherited(
            board=self._board.fd,
            slots=self._board.slots,
            slot=0,
            http=self._listen(settings.host, settings.port, count),
            tls=self._listen(tls.host, tls.port, count) if tls is not None else (),
            shield=self._listen(*shield, count) if shield is not None else (),
            cache=cache,
        )
        for slot, name in enumerate(names):
            inherited = msgspec.structs.replace(shared, slot=slot)
            worker = msgspec.structs.replace(settings, name=name, inherited=inherited)
            self._edges.append(
                Child(
                    name,
                    self._command("edge-worker", worker),
                    _report_remover(feed, name),
                    environment=edge_environment(os.environ),
                    fds=inherited.fds,
                    watchdog=Watchdog(self._board, slot, self._supervision.stuck_after, range(count)),
                    exit_timeout=max(EXIT_TIMEOUT, settings.limits.drain + AFTER_DRAIN),
                )
            )

    async def start(self, feed: FileFeed, *, edges_first: bool) -> None:
        """Start all processes, and return when they are ready.

        :param edges_first: start edges without waiting for the control plane, then wait for them to apply what it
            publishes. Without a snapshot, edges have nothing to serve until the control plane is up.
        """
        if edges_first:
            await asyncio.gather(*(child.start() for child in (*self._edges, *self._control)))
            await _caught_up(feed, [child.name for child in self._edges])
        else:
            for child in self._control:
                await child.start()
            await asyncio.gather(*(child.start() for child in self._edges))

    async def stop(self) -> None:
        """Stop accepting connections, drain the workers, then stop the control process, which responds until then."""
        self._board.stop()
        for one in self._sockets:
            one.close()
        await asyncio.gather(*(child.stop() for child in self._edges), return_exceptions=True)
        for child in self._control:
            await child.stop()

    def _listen(self, host: str, port: int, count: int) -> tuple[int, ...]:
        """File descriptors of `count` listening sockets, which this process keeps open."""
        from keyfront.edge.net.worker_sockets import listening

        made = [listening(host, port) for _ in range(count)]
        self._sockets.extend(made)
        return tuple(one.fileno() for one in made)

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
