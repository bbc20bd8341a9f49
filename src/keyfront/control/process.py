"""Composition of the control plane, which runs in one process. Besides answering calls, it does recurring work:

follow      publish what other control planes committed, and what could not be published earlier
usage       add up the key usage that edges report
refusals    write audit records of calls from unknown callers
watch       log what public keys and key groups need
sharing     find signed URLs and cookies that are used from many places (`sharing/watch.py`)
alarms      store the metrics of the last minute, and evaluate the alarms on them (`alarms/plane.py`)
rotations   take the due steps of key rotations (`keys/rotations.py`, in separate threads)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shlex
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from keyfront.control.alarms.plane import AlarmMetrics, Alarms, AlarmSettings
from keyfront.control.alarms.plane_measurements import (
    CertificateMeasurements,
    EdgeMeasurements,
    KeyMeasurements,
)
from keyfront.control.audit.refused_calls import FLUSH, RefusalLog, Refusals
from keyfront.control.identity.credentials import Credentials, load, new_access_key
from keyfront.control.identity.directory import CallerDirectory
from keyfront.control.identity.sealing import sealer
from keyfront.control.identity.session_credentials import SessionCredentials
from keyfront.control.keys.rotations import Rotations, RotationSettings
from keyfront.control.keys.store_api import StoreApi
from keyfront.control.keys.usage import KeyUsageCollector
from keyfront.control.keys.watch import WATCH, KeyMetrics, KeyWatch
from keyfront.control.metrics import PlaneMetrics
from keyfront.control.own_operations.audit_events import lookup_events
from keyfront.control.own_operations.contract import OwnOperation
from keyfront.control.own_operations.key_use import get_key_use
from keyfront.control.own_operations.requests import Explainer, RequestOperations
from keyfront.control.own_operations.rotations import RotationOperations
from keyfront.control.own_operations.sessions import session_operations
from keyfront.control.own_operations.shared_links import list_shared_links
from keyfront.control.own_operations.status import get_status
from keyfront.control.own_operations.traffic import get_traffic
from keyfront.control.own_operations.users import list_users
from keyfront.control.service import Service, ServiceSettings
from keyfront.control.sharing.watch import GATHER as GATHER_SHARING
from keyfront.control.sharing.watch import SharingWatch
from keyfront.control.store.lease import RENEW
from keyfront.control.store.store import Store
from keyfront.control.wire.app import Observability, OtherApis, build_app, serve
from keyfront.control.wire.extensions import ExtensionApi
from keyfront.control.wire.health import CALLS_STUCK, Calls, Check, EdgeWorkers, Health, committable, writable
from keyfront.custody.contract import Records
from keyfront.custody.schemes import open_records
from keyfront.errors import ApiError
from keyfront.fleet.heartbeat import BEAT
from keyfront.fleet.jetstream.access import NatsAccess
from keyfront.fleet.regions import Regions, RemoteEdges, open_regions
from keyfront.lifecycle.findings import Commands
from keyfront.lifecycle.hooks import Hook
from keyfront.model.kinds import Quotas
from keyfront.monitoring.anomalies import SharingThresholds
from keyfront.monitoring.metric_series import MeasurementSource
from keyfront.monitoring.metrics_access import Audience

if TYPE_CHECKING:
    from keyfront.control.edges.registry import EdgeRegistry
    from keyfront.control.edges.server import EdgeServer
    from keyfront.fleet.remote.hub import EdgeHub

log = logging.getLogger("keyfront.control")

FOLLOW = 1.0
"""Seconds between two attempts to publish what could not be published before."""
FOLLOW_OTHERS = 0.2
"""Seconds between two checks for commits of other control planes."""
THREADS = 40
"""Maximum number of concurrent calls: anyio's default."""
GATHER = 2.0
"""Seconds between two collections of reported key usage."""

ConsoleRoutes = Callable[[ASGIApp, SessionCredentials], Sequence[BaseRoute]]
"""Gets the API and the credentials of sessions, and returns the routes of a client in this process."""


class ControlPlaneSettings(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's settings for a control plane.

    :param data: the data folder.
    :param domain: the suffix of the distributions' own names.
    :param account: the 12-digit number of the account that owns everything.
    :param store: a connection URI of PostgreSQL; empty: a SQLite file in `data`.
    :param password_file: contains PostgreSQL's password, if the URI does not.
    :param audit_reads: whether to record successful reads as well.
    :param trusted_proxies: networks (CIDR) whose X-Forwarded-For and X-Forwarded-Proto are trusted.
    :param quotas: for the account, for one distribution, and for one policy; by default CloudFront's.
    :param region: the region of the edges that follow the data folder; empty: none.
    :param region_feeds: other regions to serve: name, and folder of the feed.
    :param records: URI of the custody that holds rotation records, the same for all control planes that share the
        store; empty: the folder `custody` in `data`, which no other control plane uses.
    :param rotation: whether to take due rotation steps.
    :param hooks: called before and after each rotation step.
    :param alarms: see `AlarmSettings`.
    :param log_delivery: measures the delivery of this machine's standard logs; None: nothing is delivered here.
    :param sharing: from when on signed URLs and cookies count as shared.
    :param metrics_for: who may read `/metrics`; see `Audience`.
    :param edge_lifetime: seconds for which certificates of edges on other machines are valid.
    :param edge_certificate: the certificate that these edges see, and its key: two paths. The key's is None if it is in
        the same file. None: a certificate of Keyfront's own authority.
    :param nats: where to publish for edges that follow over NATS; None: nowhere. `nats_replicas`: the number of servers
        that store the bucket, when it is created.
    :param console: returns the routes of the console; None: there is none.
    :param explainer: the rules of the edges, for the operations on requests; None: there are no edges here, and none
        of these operations.
    """

    data: Path
    domain: str
    account: str
    store: str = ""
    password_file: Path | None = None
    audit_reads: bool = True
    trusted_proxies: Sequence[str] = ()
    quotas: Quotas = Quotas()
    region: str = ""
    region_feeds: Sequence[tuple[str, str]] = ()
    records: str = ""
    rotation: bool = True
    hooks: Sequence[Hook] = ()
    alarms: AlarmSettings = AlarmSettings()
    log_delivery: MeasurementSource | None = None
    sharing: SharingThresholds = SharingThresholds()
    metrics_for: Audience = msgspec.field(default_factory=Audience)
    edge_lifetime: float = 30 * 86_400.0
    edge_certificate: tuple[Path, Path | None] | None = None
    nats: NatsAccess | None = None
    nats_replicas: int = 1
    console: ConsoleRoutes | None = None
    explainer: Explainer | None = None


class Supervision(msgspec.Struct, frozen=True):
    """The process's connection to its supervisor.

    :param lifeline: a pipe from the parent. When its other end closes, the control plane drains and exits.
    :param edges: the edge workers of this machine, for `/healthz`.
    :param beat: called several times a second while the process can answer calls.
    :param edge_listener: a bound socket for edges on other machines; None: there are none.
    :param on_remote: called with these edges once they can connect.
    :param has_successor: returns, when the process is to exit, whether another one will serve on the same sockets.
    :param trouble: returns what is wrong with this machine, a sentence each, for GetStatus.
    """

    lifeline: int | None = None
    edges: EdgeWorkers | None = None
    beat: Callable[[], None] = lambda: None
    edge_listener: socket.socket | None = None
    on_remote: Callable[[RemoteEdges], None] = lambda _: None
    has_successor: Callable[[], bool] = lambda: False
    trouble: Callable[[], Iterable[str]] = lambda: ()


def run_control(
    settings: ControlPlaneSettings,
    sock: socket.socket,
    on_ready: Callable[[], None],
    supervision: Supervision = Supervision(),
    registry: CollectorRegistry | None = None,
) -> None:
    """Run the control plane until SIGTERM or SIGINT, then drain and return.

    :param sock: a bound socket; the caller may keep its own reference to hold the port.
    :param on_ready: called once, when the control plane answers requests.
    :param registry: metrics that `/metrics` shows in addition to the control plane's own.
    :raises SettingsError: if the credentials or the store cannot be used.
    :raises CustodyError: if the custody of the rotation records cannot be used.
    :raises ApiError: ServiceUnavailable if the store does not respond.
    """
    data = settings.data
    credentials = load(data / "credentials", settings.account)
    feeds = open_regions(data, settings.region, settings.region_feeds)
    rotation_records = open_records(settings.records or f"file:{data}/custody/")
    store = Store(settings.store or data / "keyfront.db", password_file=settings.password_file)
    servers: list[EdgeServer] = []
    try:
        if supervision.edge_listener is not None:
            servers.append(_over_https(settings, store, feeds, supervision.edge_listener))
        if settings.nats is not None:
            servers.append(_over_nats(settings, settings.nats, store, feeds))
        resources = Resources(credentials, feeds, rotation_records, store, sock)
        plane = ControlPlane(settings, resources, supervision, registry or CollectorRegistry())
        for server in servers:
            server.start()
        for hub in feeds.remotes:
            supervision.on_remote(hub)
        asyncio.run(_beating(plane.beat, plane.run(sock, on_ready)))
    finally:
        for server in servers:
            server.stop()
        store.close()


def _over_https(
    settings: ControlPlaneSettings, store: Store, feeds: Regions, listener: socket.socket
) -> EdgeServer:
    from keyfront.control.edges.server import EdgeServer  # only who serves edges loads it

    hub = edge_hub(settings, store)
    feeds.remotes.append(hub)
    return EdgeServer(lambda stop, on_ready: hub.run(listener, stop, on_ready))


def _over_nats(
    settings: ControlPlaneSettings, access: NatsAccess, store: Store, feeds: Regions
) -> EdgeServer:
    from keyfront.control.edges.server import EdgeServer  # only who serves edges loads it
    from keyfront.fleet.jetstream.hub import NatsHub  # a part of an extra

    hub = NatsHub(access, edge_registry(settings, store), settings.nats_replicas)
    feeds.remotes.append(hub)
    return EdgeServer(hub.run, "nats")


def edge_hub(settings: ControlPlaneSettings, store: Store) -> EdgeHub:
    """The feeds of the edges on other machines.

    :raises SettingsError: if the keys cannot be opened.
    :raises ApiError: ServiceUnavailable if the store does not respond.
    """
    from keyfront.fleet.remote.hub import EdgeHub
    from keyfront.fleet.remote.own_certificate import OwnCertificate

    own = OwnCertificate(*settings.edge_certificate) if settings.edge_certificate else None
    return EdgeHub(edge_registry(settings, store), certificate=own)


def edge_registry(settings: ControlPlaneSettings, store: Store) -> EdgeRegistry:
    """The enrolled edges, and the keys of their authority, which are made if there are none.

    :raises SettingsError: if the keys cannot be opened.
    :raises ApiError: ServiceUnavailable if the store does not respond.
    """
    from keyfront.control.edges.registry import EdgeRegistry

    registry = EdgeRegistry(
        store,
        settings.account,
        lambda: sealer(settings.data, os.environ, make=not store.shared),
        by="keyfront up",
        lifetime=settings.edge_lifetime,
    )
    registry.prepare(time.time())
    return registry


def own_url(sock: socket.socket) -> str:
    """The URL that reaches the bound `sock` from this machine."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not bound to
        host = "::1" if host == "::" else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Resources(msgspec.Struct, frozen=True):
    """The resources that a control plane holds open."""

    credentials: Credentials
    feeds: Regions
    rotation_records: Records
    store: Store
    sock: socket.socket


class ControlPlane:
    """All parts of a control plane, connected."""

    def __init__(
        self,
        settings: ControlPlaneSettings,
        resources: Resources,
        supervision: Supervision,
        registry: CollectorRegistry,
    ) -> None:
        store, credentials = resources.store, resources.credentials
        self._settings = settings
        self._store = store
        self._supervision = supervision
        data, account, rng = settings.data, settings.account, random.SystemRandom()
        callers = CallerDirectory(store, credentials, account, lambda: sealer(data, os.environ, make=False))
        self._service = Service(
            store,
            resources.feeds,
            ServiceSettings(
                account=account,
                domain_suffix=settings.domain,
                quotas=settings.quotas,
                audit_reads=settings.audit_reads,
            ),
        )
        feeds = resources.feeds
        self._remotes = feeds.remotes
        self.alarms = Alarms(
            store,
            account,
            settings.alarms,
            self._service.audit,
            rng,
            (*feeds.feeds, *feeds.remotes),
            audit_reads=settings.audit_reads,
        )
        self._usage = KeyUsageCollector(
            store, *feeds.feeds, *feeds.remotes, before_forgetting=self.alarms.sampler.sample
        )
        self.rotations: Rotations | None = None
        if settings.rotation:
            owner, secret = next(iter(credentials))
            self.rotations = Rotations(
                store,
                resources.rotation_records,
                RotationSettings(
                    account,
                    own_url(resources.sock),
                    (owner.access_key_id, secret),
                    tuple(settings.hooks),
                    os.environ,
                ),
                self._service.audit,
                shared=store.shared and bool(settings.records),
            )
        self._watch = KeyWatch(
            store,
            resources.rotation_records,
            is_leader=self._leads,
            commands=Commands.of_keyfront(f" --data {shlex.quote(str(settings.data))}"),
        )
        sources = self.alarms.sampler.sources
        sources += [EdgeMeasurements(store, feeds), KeyMeasurements(self._watch.terms)]
        if settings.edge_certificate:
            sources.append(CertificateMeasurements(settings.edge_certificate[0]))
        if settings.log_delivery is not None:
            sources.append(settings.log_delivery)
        self._sharing = SharingWatch(store, feeds, settings.sharing)
        sources.append(self._sharing)
        registry.register(self._sharing)
        registry.register(AlarmMetrics(store, self.alarms.runner))
        registry.register(KeyMetrics(store, self._watch))
        registry.register(
            PlaneMetrics(
                store,
                feeds.own,
                lambda: self._service.audit.trouble,
                settings.edge_certificate[0] if settings.edge_certificate else None,
                has_enrolled_edges=bool(feeds.remotes),
            )
        )
        self._service.start(time.time())
        callers.current(time.time())  # logs problems with keys or policies at startup
        self._calls = Calls(THREADS)
        refusals = Refusals(rng)
        self._refusals = RefusalLog(store, refusals)
        self.health = self._health()
        sessions = SessionCredentials(callers, new_access_key)
        console = settings.console
        self.own_operations = self._own_operations(resources, sessions)
        self.app: Starlette = build_app(
            self._service,
            callers if console is None else sessions,
            others=OtherApis(
                alarms=self.alarms.api,
                extensions=ExtensionApi(
                    self.own_operations,
                    self._service.audit,
                    audit_reads=settings.audit_reads,
                ),
            ),
            beside=lambda api: () if console is None else console(api, sessions),
            on_refused=refusals.add,
            observability=Observability(
                health=self.health,
                calls=self._calls,
                registry=registry,
                metrics_for=settings.metrics_for,
            ),
        )

    def _own_operations(self, resources: Resources, sessions: SessionCredentials) -> list[OwnOperation]:
        """Keyfront's own operations of the API."""
        store, records = resources.store, resources.rotation_records
        rotations = RotationOperations(
            StoreApi(store, own_url(resources.sock), self._service.deployed, time.time),
            records,
            self._watch,
            () if self.rotations is None else self.rotations.hooks(),
            records.uri,
        )
        settings = self._settings
        requests = (
            ()
            if settings.explainer is None
            else RequestOperations(settings.data / "logs", settings.explainer).operations()
        )
        return [
            get_key_use(store, self._usage),
            get_status(resources.feeds, self._watch, self._trouble, self.alarms.ringing),
            list_users(store, resources.credentials, self._settings.account),
            lookup_events(store),
            get_traffic(store),
            list_shared_links(store),
            *requests,
            *rotations.operations(),
            *session_operations(sessions),
        ]

    def _leads(self) -> bool:
        return self.rotations is None or self.rotations.leads

    def beat(self) -> None:
        """Send a heartbeat, unless all calls are stuck."""
        now = time.monotonic()
        if self._supervision.edges is not None:
            self._supervision.edges.note_heartbeats(now)
        if self._calls.held_up(now) < CALLS_STUCK:
            self._supervision.beat()

    async def run(self, sock: socket.socket, on_ready: Callable[[], None]) -> None:
        """Answer requests and do the recurring work until a signal arrives or the lifeline closes."""
        loop = asyncio.get_running_loop()
        ending, stop = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        lifeline = self._supervision.lifeline
        if lifeline is not None:
            loop.add_reader(lifeline, ending.set)

        def ready() -> None:
            on_ready()
            if self.rotations is not None:
                self.rotations.start()

        follow = FOLLOW_OTHERS if self._store.shared else FOLLOW
        tasks = [
            asyncio.create_task(each)
            for each in (
                self._end(ending, stop),
                _every(follow, self._service.follow, "committed changes are not published yet"),
                _every(GATHER, self._usage.gather, "the key usage that edges report is not added up yet"),
                _every(FLUSH, self._refusals.write, "refused calls are not in the audit log yet"),
                _every(WATCH, self._watch.check, "the state of keys is not known", abandon=True),
                _every(
                    RENEW, lambda _: self.alarms.lease.renew(), "the lease on the alarms could not be renewed"
                ),
                _every(GATHER_SHARING, self._sharing.gather, "shared links are not looked for"),
                *(
                    _aligned(self.alarms.interval, lag, work, "the alarms are not evaluated yet")
                    for lag, work in self.alarms.work()
                ),
            )
        ]
        try:
            await serve(
                self.app,
                sock,
                ready,
                stop=stop,
                has_successor=self._supervision.has_successor,
                trusted_proxies=self._settings.trusted_proxies,
            )
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(ApiError, OSError):  # the last reports of edges that have exited
                await to_thread.run_sync(self._usage.gather, time.time())
            await to_thread.run_sync(self.alarms.stop)
            with contextlib.suppress(ApiError):
                await to_thread.run_sync(lambda: self._refusals.write(time.time(), everything=True))
            with contextlib.suppress(ApiError):
                await to_thread.run_sync(self._service.leave)
            if lifeline is not None:
                loop.remove_reader(lifeline)

    async def _end(self, ending: asyncio.Event, stop: asyncio.Event) -> None:
        """Stop the rotations first: their steps call this same process."""
        await ending.wait()
        if self.rotations is not None:
            await to_thread.run_sync(self.rotations.stop)
        stop.set()

    def _health(self) -> Health:
        service, data, store = self._service, self._settings.data, self._store

        def publishing() -> Iterable[str]:
            if not service.follow(time.time()):
                yield "a change that was accepted is not published yet"

        def audited() -> Iterable[str]:
            if trouble := service.audit.trouble:
                yield f"the last record could not be written: {trouble}"

        checks: dict[str, Check] = {
            "data folder": lambda: writable(data),
            "store": lambda: committable(store),
            "audit": audited,
            "publishing": publishing,
            "calls": self._calls.reasons,
        }
        edges = self._supervision.edges
        if edges is None:
            return Health(checks)
        return Health({"edges": edges.reasons, **checks}, lambda: edges.details(self._remote_trouble()))

    def _trouble(self) -> Iterable[str]:
        """What is wrong with the control plane itself and its machine, a sentence each."""
        yield from self._supervision.trouble()
        if trouble := self._service.audit.trouble:
            yield f"the last audit record could not be written: {trouble}"
        yield from self._remote_trouble()
        yield from self._calls.reasons()

    def _remote_trouble(self) -> list[str]:
        """What prevents edges on other machines from getting snapshots, for the notes of `/healthz`."""
        return [one.trouble for one in self._remotes if one.trouble]


async def _beating(beat: Callable[[], None], work: Coroutine[None, None, None]) -> None:
    """Await `work`, and call `beat` periodically while the event loop runs."""

    async def heartbeat() -> None:
        while True:
            beat()
            await asyncio.sleep(BEAT)

    beating = asyncio.create_task(heartbeat())
    try:
        await work
    finally:
        beating.cancel()


async def _every(
    pause: float, work: Callable[[float], object], trouble: str, *, abandon: bool = False
) -> None:
    """Call `work` repeatedly in a thread, with the current time (epoch seconds).

    :param pause: seconds between two calls.
    :param trouble: the message logged with an exception.
    :param abandon: whether shutdown abandons a running call instead of waiting for it, since custody may be slow.
    """
    own_thread = CapacityLimiter(1)  # separate from the threads that API calls may occupy
    while True:
        await asyncio.sleep(pause)
        await _attempt(work, trouble, own_thread, abandon=abandon)


async def _aligned(interval: float, lag: float, work: Callable[[float], object], trouble: str) -> None:
    """Like `_every`, at times that are `lag` seconds after a multiple of `interval` (seconds)."""
    own_thread = CapacityLimiter(1)
    while True:
        await asyncio.sleep(interval - (time.time() - lag) % interval)
        await _attempt(work, trouble, own_thread, abandon=False)


async def _attempt(
    work: Callable[[float], object], trouble: str, own_thread: CapacityLimiter, *, abandon: bool
) -> None:
    try:
        await to_thread.run_sync(work, time.time(), limiter=own_thread, abandon_on_cancel=abandon)
    except ApiError:
        pass  # the store does not respond, which is already logged
    except Exception:
        log.exception("%s", trouble)
