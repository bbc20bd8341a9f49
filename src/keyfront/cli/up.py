"""`keyfront up`: the control plane and the edge's workers on one machine, from one command."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from keyfront.backup.running import refuse_half_restored
from keyfront.cli.account import describe
from keyfront.cli.limits import EdgeLimits, limits_options
from keyfront.cli.origins import is_public, origins_options
from keyfront.cli.settings import (
    SUFFIX,
    ControlInherited,
    ControlSettings,
    address,
    audience,
    default_data,
    location,
    networks,
    quotas,
    size,
    suffix,
)
from keyfront.cli.store import checked, store_options
from keyfront.cli.supervise import AFTER_DRAIN, END_WITHIN, Child, Watched, open_files
from keyfront.cli.tiers import edge_name, tiers, tiers_options
from keyfront.cli.websockets import websocket_options
from keyfront.custody.home import RECORDS_VARIABLE
from keyfront.errors import SettingsError
from keyfront.fleet.heartbeat import STUCK, Board

if TYPE_CHECKING:
    from keyfront.edge.egress import EgressSettings
    from keyfront.edge.serve import WorkerSettings
    from keyfront.fleet.file import FileFeed


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="The data folder.  [default: the user's]")
@click.option("--edge", default="127.0.0.1:8080", show_default=True, help="Where viewers connect.")
@click.option("--tls", metavar="HOST:PORT", help="Where viewers connect by https; needs --certificates.")
@click.option(
    "--certificates",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of certificates and their keys, chosen by the name that a viewer asks for.",
)
@click.option("--control", default="127.0.0.1:8081", show_default=True, help="Where the API listens.")
@store_options
@click.option("--workers", type=click.IntRange(1, 256), help="Edge processes.  [default: one a core]")
@click.option("--domain", default=SUFFIX, show_default=True, help="Suffix of the distributions' names.")
@click.option(
    "--trusted-proxies", default="", metavar="CIDR,…", help="Whose X-Forwarded-* headers are believed."
)
@click.option(
    "--memory",
    type=click.IntRange(1, 1 << 20),
    default=256,
    show_default=True,
    help="MiB of cache for each worker; several workers share a part of it.",
)
@click.option(
    "--max-object",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="MiB of the largest body held whole; larger ones are cut into slices.",
)
@click.option(
    "--cache-disk",
    default="10G",
    show_default=True,
    metavar="SIZE",
    help="Size of the cache on disk, under the data folder; 0 for none.",
)
@click.option(
    "--origin-ca", type=click.Path(exists=True, dir_okay=False), help="PEM file of further CAs for origins."
)
@click.option(
    "--origin-credentials",
    type=click.Path(exists=True, dir_okay=False),
    help="AWS-style credentials to sign requests to origins with.  [default: DIR/origin-credentials]",
)
@click.option(
    "--country-db",
    type=click.Path(exists=True, dir_okay=False),
    help="A MaxMind DB file to look countries up in.",
)
@click.option(
    "--audit-reads/--no-audit-reads",
    default=True,
    show_default=True,
    help="Record also calls of the API that only read.",
)
@click.option(
    "--quota",
    multiple=True,
    metavar="NAME=NUMBER",
    help="How many there may be of something, such as public-keys=100.  [default: CloudFront's quotas]",
)
@click.option(
    "--records",
    default="",
    metavar="URI",
    help="The custody that keeps the records of key rotations.  [default: KEYFRONT_RECORDS, or DIR/custody/]",
)
@click.option(
    "--rotation/--no-rotation",
    default=True,
    show_default=True,
    help="Take the steps of rotations that are due.",
)
@click.option(
    "--hooks",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Who is told before and after each step of a rotation.  [default: DIR/hooks.toml, if there is one]",
)
@click.option(
    "--metrics",
    default="local",
    show_default=True,
    metavar="WHO",
    help="Who may read /metrics on the control port: local, all, off, or networks (CIDR,…).",
)
@click.option(
    "--stuck-after",
    type=click.FloatRange(0, 3600),
    default=STUCK,
    show_default=True,
    metavar="SECONDS",
    help="Kill and restart a process without a heartbeat for that long; 0 for never.",
)
@click.option("--pop", default="KFR50-P1", show_default=True, help="Name of this edge location.")
@click.option(
    "--cache-status", is_flag=True, help="Tell in Cache-Status what the cache did for each answer (RFC 9211)."
)
@limits_options
@websocket_options
@origins_options
@tiers_options
def up(
    data: Path | None,
    edge: str,
    tls: str | None,
    certificates: str | None,
    control: str,
    store: str,
    store_password_file: Path | None,
    workers: int | None,
    domain: str,
    trusted_proxies: str,
    memory: int,
    max_object: int,
    cache_disk: str,
    origin_ca: str | None,
    origin_credentials: str | None,
    country_db: str | None,
    audit_reads: bool,
    quota: tuple[str, ...],
    records: str,
    rotation: bool,
    hooks: Path | None,
    metrics: str,
    stuck_after: float,
    pop: str,
    cache_status: bool,
    websockets: int,
    websocket_idle: int,
    feed: Path | None,
    origin_shield: tuple[str, ...],
    shield: str | None,
    shield_secret: Path | None,
    region: str,
    region_feed: tuple[str, ...],
    egress: EgressSettings,
    edge_limits: EdgeLimits,
) -> None:
    """Run everything on this machine until SIGTERM or Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until `_up` has a way of its own to end, there is nothing to be ended.
        signal.signal(number, lambda *_: sys.exit(0))
    # The edge's modules are loaded here, not with `keyfront sign`, which must start quickly.
    from keyfront.edge.certificates import Certificates
    from keyfront.edge.edge import EdgeSettings
    from keyfront.edge.http1 import Limits
    from keyfront.edge.origin_credentials import read_file
    from keyfront.edge.serve import TlsSettings, WorkerSettings

    if (tls is None) != (certificates is None):
        raise SettingsError("--tls and --certificates are given together or not at all")
    tls_settings = None
    if tls is not None and certificates is not None:
        tls_settings = TlsSettings(*address(tls), str(Path(certificates).absolute()))
        # Only to fail early: the workers read them again, and say what is wrong with which.
        Certificates(Path(certificates), time.time(), lambda _: None)
    tier = tiers(feed, origin_shield, shield, shield_secret, region, region_feed)
    folder = (data or default_data()).absolute()
    if any(Path(where).resolve() == folder.resolve() for _, where in tier.region_feeds):
        raise SettingsError(
            "--region-feed: the data folder itself is the feed of this machine's own edges only"
        )
    secrets = Path(origin_credentials).absolute() if origin_credentials else folder / "origin-credentials"
    if secrets.exists():
        read_file(secrets)  # likewise
    edge_host, edge_port = address(edge)
    control_host, control_port = address(control)
    listens = [(edge_host, edge_port)]
    listens += [(tls_settings.host, tls_settings.port)] if tls_settings is not None else []
    listens += [tier.shield] if tier.shield is not None else []
    settings = WorkerSettings(
        data=str(folder),
        name="",
        host=edge_host,
        port=edge_port,
        trusted_proxies=networks(trusted_proxies),
        tls=tls_settings,
        edge=EdgeSettings(
            memory=memory << 20,
            max_object=max_object << 20,
            cache_dir=str(folder / "cache"),
            cache_disk=size(cache_disk),
            pop=location(pop),
            ca_file=str(Path(origin_ca).absolute()) if origin_ca else None,
            origin_credentials=str(secrets),
            country_db=str(Path(country_db).absolute()) if country_db else None,
            cache_status=cache_status,
            shields=tier.shields,
            shield_secret=tier.secret,
            websockets=websockets,
            egress=msgspec.structs.replace(egress, public=is_public(listens)),
            viewers=edge_limits.viewers,
            uploads=edge_limits.uploads,
            origins=edge_limits.origins,
        ),
        # Which member takes what is in cli/limits.py.
        limits=Limits(**edge_limits.times, websocket_idle=websocket_idle),  # type: ignore[arg-type]
        feed=tier.feed,
        shield=tier.shield,
        region=tier.region,
    )
    api = ControlSettings(
        str(folder),
        control_host,
        control_port,
        suffix(domain),
        audit_reads=audit_reads,
        trusted_proxies=settings.trusted_proxies,
        store=checked(store),
        store_password_file=str(store_password_file.absolute()) if store_password_file else "",
        quotas=quotas(quota),
        records="" if tier.feed else _records(records),
        rotation=rotation,
        hooks="" if tier.feed else _hooks(hooks, folder),
        region=tier.region,
        region_feeds=tier.region_feeds,
        metrics=audience(metrics),
    )
    if 0 < stuck_after < 2:
        raise SettingsError("--stuck-after: less than 2 seconds would kill healthy processes; 0 is for never")
    count = workers or len(os.sched_getaffinity(0))
    asyncio.run(_up(folder, settings, api, Supervision(count, stuck_after)))


def _records(said: str) -> str:
    """Where the records of rotations are, if somebody has said so. It is opened here only to fail early: the control
    plane opens it again."""
    uri = said or os.environ.get(RECORDS_VARIABLE, "")
    if uri:
        from keyfront.custody.schemes import open_records

        open_records(uri)
    return uri


def _hooks(said: Path | None, folder: Path) -> str:
    """The file of hooks, if there is one; read here only to fail early."""
    from keyfront.lifecycle.hooks import read_hooks

    file = (said or folder / "hooks.toml").absolute()
    if said is None and not file.exists():
        return ""
    read_hooks(file)
    return str(file)


class Supervision(msgspec.Struct, frozen=True):
    """How many edge workers there are, and after how many seconds without a heartbeat a process is killed."""

    workers: int
    stuck_after: float


async def _up(folder: Path, settings: WorkerSettings, api: ControlSettings, wanted: Supervision) -> None:
    from keyfront.edge.ports import Inherited, listening
    from keyfront.edge.serve import reserve
    from keyfront.fleet.file import FileFeed

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
                passes=_for_edges,
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
    from keyfront.edge.segment import create

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


def _for_edges(variable: str) -> bool:
    """Is it of use to an edge? It meets the world, so it gets what a process needs, and what it may sign requests to
    origins with (AWS_…), but none of the control plane's secrets, whatever their owner calls them."""
    return variable in _OF_A_PROCESS or variable.startswith(_FAMILIES)


def _show(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _argv(command: str, settings: bytes) -> list[str]:
    return [sys.executable, "-m", "keyfront", command, settings.decode()]


@click.command(hidden=True, name="edge-worker")
@click.argument("settings")
def edge_worker(settings: str) -> None:
    """One worker; `keyfront up` starts it."""
    from keyfront.edge import serve

    serve.main(settings)


@click.command(hidden=True, name="control-process")
@click.argument("settings")
def control_process(settings: str) -> None:
    """The control plane's process; `keyfront up` starts it. It serves the edges' metrics beside its own."""
    from keyfront.cli.control import main

    main(msgspec.json.decode(settings, type=ControlSettings))
