"""`keyfront up`: which processes run, with which settings."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.backup.restore.lock import refuse_half_restored
from keyfront.cli.account import describe
from keyfront.cli.settings import ControlInherited
from keyfront.errors import SettingsError
from keyfront.fleet.heartbeat import Board
from keyfront.runtime.settings import ControlSettings
from keyfront.runtime.supervisor import AFTER_DRAIN, END_WITHIN, Child, Watched, open_files

if TYPE_CHECKING:
    from keyfront.edge.worker_settings import WorkerSettings
    from keyfront.fleet.file_feed import FileFeed


def edge_name(port: int) -> str:
    """What reports of edges on this machine, on this port, begin with: no two machines' are alike."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40].strip("-")
    return f"at-{host or os.getpid()}-{port}"


class Supervision(msgspec.Struct, frozen=True):
    """How many edge workers there are, and after how many seconds without a heartbeat a process is killed."""

    workers: int
    stuck_after: float


async def _up(folder: Path, settings: WorkerSettings, api: ControlSettings, wanted: Supervision) -> None:
    from keyfront.edge.net.listen import reserve
    from keyfront.edge.net.worker_sockets import Inherited, listening
    from keyfront.fleet.file_feed import FileFeed

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"the data folder {folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SettingsError(f"another keyfront uses the data folder {folder}") from None
    refuse_half_restored(folder)

    def hold(option: str, host: str, port: int) -> socket.socket:
        try:
            return reserve(host, port)
        except OSError as error:
            raise SettingsError(
                f"--{option} {_show(host)}:{port} cannot be used: {error.strerror}"
            ) from error

    edge_held = hold("edge", settings.host, settings.port)
    tls_held = hold("tls", settings.tls.host, settings.tls.port) if settings.tls is not None else None
    shield_held = hold("shield", *settings.shield) if settings.shield is not None else None
    edge_port = edge_held.getsockname()[1]
    secure = ""
    if settings.tls is not None and tls_held is not None:
        tls = msgspec.structs.replace(settings.tls, port=tls_held.getsockname()[1])
        inside = msgspec.structs.replace(settings.edge, https_port=tls.port)
        settings = msgspec.structs.replace(settings, tls=tls, edge=inside)
        secure = f" tls=https://{_show(tls.host)}:{tls.port}"
    if settings.shield is not None and shield_held is not None:
        at = (settings.shield[0], shield_held.getsockname()[1])
        settings = msgspec.structs.replace(settings, shield=at)
        secure += f" shield={_show(at[0])}:{at[1]}"

    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    feed = FileFeed(settings.feed or folder)
    own = edge_name(edge_port) if settings.feed else "edge"
    for report in feed.last_reports():
        if report.name.startswith(f"{own}-"):
            feed.remove_report(report.name)
    # What edges of this folder have accepted once, they can serve without the control plane.
    edges_serve = not settings.feed and FileFeed(folder, settings.region).servable() is not None
    open_files()

    def listen(host: str, port: int) -> tuple[int, ...]:
        """A socket for each worker, which this process keeps open."""
        made = [listening(host, port) for _ in range(workers)]
        sockets.extend(made)
        return tuple(one.fileno() for one in made)

    sockets: list[socket.socket] = []
    workers = wanted.workers
    board = Board.create(workers + 1)
    children: list[Child] = []
    control_held = None
    said = f"feed={settings.feed}"
    if not settings.feed:
        control_held = hold("control", api.host, api.port)
        control_socket = listening(api.host, control_held.getsockname()[1])
        sockets.append(control_socket)
        api = msgspec.structs.replace(
            api,
            port=control_held.getsockname()[1],
            inherited=ControlInherited(
                board.fd,
                control_socket.fileno(),
                tuple(f"{own}-{number}" for number in range(1, workers + 1)),
            ),
        )
        children.append(
            Child(
                "control",
                _argv("control-process", msgspec.json.encode(api)),
                fds=(board.fd, control_socket.fileno()),
                watched=Watched(board, workers, wanted.stuck_after),
            )
        )
        said = f"control=http://{_show(api.host)}:{api.port}"
        egress = msgspec.structs.replace(settings.edge.egress, control_port=api.port)
        inside = msgspec.structs.replace(settings.edge, egress=egress)
        settings = msgspec.structs.replace(settings, edge=inside)
    memory, cache = shared_memory(settings.edge.memory, workers, folder)
    settings = msgspec.structs.replace(settings, edge=msgspec.structs.replace(settings.edge, memory=memory))
    shared = Inherited(
        board=board.fd,
        slots=board.slots,
        slot=0,
        http=listen(settings.host, edge_port),
        tls=listen(settings.tls.host, settings.tls.port) if settings.tls is not None else (),
        shield=listen(*settings.shield) if settings.shield is not None else (),
        cache=cache,
    )
    edges = []
    for number in range(1, workers + 1):
        inherited = msgspec.structs.replace(shared, slot=number - 1)
        worker = msgspec.structs.replace(
            settings, name=f"{own}-{number}", port=edge_port, inherited=inherited
        )
        # A dead worker's report would count as a live edge for some seconds, so it goes with the worker.
        edges.append(
            Child(
                worker.name,
                _argv("edge-worker", msgspec.json.encode(worker)),
                lambda name=worker.name: feed.remove_report(name),  # type: ignore[misc]
                passes=edge_environment,
                fds=inherited.fds,
                watched=Watched(board, number - 1, wanted.stuck_after, range(workers)),
                end_within=max(END_WITHIN, settings.limits.drain + AFTER_DRAIN),
            )
        )

    async def start() -> None:
        if edges_serve:
            await asyncio.gather(*(child.start() for child in (*edges, *children)))
            await _caught_up(feed, [child.name for child in edges])
        else:
            for child in children:
                await child.start()
            await asyncio.gather(*(child.start() for child in edges))

    try:
        if not await _unless(stop, start()):
            return
        if not settings.feed:
            try:
                await asyncio.to_thread(describe, folder, api.host, api.port, api.records)
            except OSError as error:  # a full disk: what is served needs no such file
                click.echo(
                    f"keyfront: commands will not find this Keyfront by its data folder: {error}", err=True
                )
        print(
            f"keyfront ready edge=http://{_show(settings.host)}:{edge_port}{secure} {said} data={folder}",
            flush=True,
        )
        await stop.wait()
    finally:
        # From here on nobody listens but for those who drain, and no worker takes over for another.
        board.stop()
        for one in sockets:
            one.close()
        # Workers first: the control plane still answers while they drain.
        await asyncio.gather(*(child.end() for child in edges), return_exceptions=True)
        for child in children:
            await child.end()
        for held in (edge_held, tls_held, shield_held, control_held):
            if held is not None:
                held.close()
        board.close()
        os.close(lock)


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Do the work. False if `stop` was set before it was done; then it is given up.

    :raises Exception: what the work raises.
    """
    stopped, done = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(work)
    try:
        await asyncio.wait([stopped, done], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        done.cancel()
        await asyncio.gather(stopped, done, return_exceptions=True)
    if done.cancelled():
        return False
    done.result()
    return True


async def _caught_up(feed: FileFeed, names: list[str]) -> None:
    """Wait a moment for the edges to obey what the control plane published when it started. One that refuses it has
    said so in the log, and is not waited for."""
    for _ in range(250):
        published = feed.published_at()
        numbers = {report.name: report.number for report in feed.last_reports() if not report.refused}
        if published is None or all(numbers.get(name, published[0]) >= published[0] for name in names):
            return
        await asyncio.sleep(0.02)


def shared_memory(memory: int, workers: int, folder: Path) -> tuple[int, int]:
    """Divide the memory of so many workers, each with `memory` bytes, in equal parts: one for each worker, and one that
    they share. Returns the bytes of a part, and the file descriptor of the shared memory; -1 if there is one worker, or
    if it cannot be had."""
    from keyfront.edge.cache.shared_segment import create

    if workers == 1:
        return memory, -1
    part = memory * workers // (workers + 1)
    try:
        return part, create(workers, part, folder)
    except (OSError, ValueError) as error:
        click.echo(
            f"keyfront: no memory for workers to share ({error}): each has a cache of its own, and does not see at "
            "once what the others remove; use --workers 1 if that matters",
            err=True,
        )
        return memory, -1


_OF_A_PROCESS = frozenset({"HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV"})


_FAMILIES = (
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


def edge_environment(variable: str) -> bool:
    """Is it of use to an edge? It meets the world, so it gets what a process needs, and what it may sign requests to
    origins with (AWS_…), but none of the control plane's secrets, whatever their owner calls them."""
    return variable in _OF_A_PROCESS or variable.startswith(_FAMILIES)


def _show(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _argv(command: str, settings: bytes) -> list[str]:
    return [sys.executable, "-m", "keyfront", command, settings.decode()]
