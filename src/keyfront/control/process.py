"""The control plane's process: what it is made of, and what it does besides answering.

follow     what others committed, or could not be published, comes to the edges
gather     what edges have counted of the use of keys is added up
watch      what keys call for is told in the log
rotations  steps of rotations that are due are taken (`rotations.py`)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path

from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from keyfront.control.audit.refused_calls import FLUSH, RefusalLog, Refusals
from keyfront.control.identity.credentials import load
from keyfront.control.identity.directory import CallerDirectory
from keyfront.control.identity.sealing import sealer
from keyfront.control.keys.rotations import Rotations
from keyfront.control.keys.usage import KeyUsageCollector
from keyfront.control.keys.watch import WATCH, KeyMetrics, KeyWatch
from keyfront.control.operations.service import Service
from keyfront.control.store.store import Store
from keyfront.control.wire.app import build_app, serve
from keyfront.control.wire.extensions import ExtensionApi
from keyfront.control.wire.health import CALLS_STUCK, Calls, EdgeWorkers, Health, Look, committable, writable
from keyfront.control.wire.metrics_access import LOCAL, Audience
from keyfront.custody.schemes import open_records
from keyfront.errors import ApiError
from keyfront.fleet.heartbeat import BEAT
from keyfront.fleet.regions import open_regions
from keyfront.lifecycle.hooks import Hook
from keyfront.model.kinds import Quotas

log = logging.getLogger("keyfront.control")

FOLLOW = 1.0
"""Seconds between two tries to publish what could not be published."""
FOLLOW_OTHERS = 0.2
"""Seconds between two looks at what other control planes have committed."""
THREADS = 40
"""Calls that can be at work at once: anyio's default."""
GATHER = 2.0
"""Seconds between two looks at what edges have counted of the use of keys."""


def run_control(
    data: Path,
    sock: socket.socket,
    domain: str,
    account: str,
    on_ready: Callable[[], None],
    *,
    store: str = "",
    password_file: Path | None = None,
    registry: CollectorRegistry | None = None,
    lifeline: int | None = None,
    audit_reads: bool = True,
    trusted_proxies: Sequence[str] = (),
    quotas: Quotas | None = None,
    region: str = "",
    region_feeds: Sequence[tuple[str, str]] = (),
    records: str = "",
    rotation: bool = True,
    hooks: Sequence[Hook] = (),
    metrics_for: Sequence[str] = (LOCAL,),
    edges: EdgeWorkers | None = None,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Serve the control plane of the folder `data` until SIGTERM or SIGINT, then drain and return.

    :param sock: bound; the caller may keep its own reference to hold the port.
    :param domain: suffix of the distributions' names.
    :param account: the twelve digits of the account that owns everything.
    :param on_ready: called once, when requests are answered.
    :param store: a connection URI of PostgreSQL's; by default the store is a file in `data`.
    :param password_file: holds PostgreSQL's password, where the URI does not.
    :param registry: what `/metrics` shows beside the control plane's own counts.
    :param lifeline: a pipe from the parent; when its other end is closed the control plane drains and ends too.
    :param audit_reads: whether reads that succeed are recorded as well.
    :param trusted_proxies: networks (CIDR) whose X-Forwarded-For and X-Forwarded-Proto are believed.
    :param quotas: of the account, of one distribution and of one policy; by default CloudFront's.
    :param region: where the edges are that follow the data folder; empty: in none.
    :param region_feeds: other regions, each with the folder of its feed.
    :param records: the custody that keeps the records of rotations, the same one for all control planes that are told
        so; by default the folder `custody` in `data`, which is this one's own.
    :param rotation: whether steps of rotations that are due are taken.
    :param hooks: called before and after each of them.
    :param metrics_for: who may read `/metrics`; see `Audience`.
    :param edges: the workers on this machine, for `/healthz`.
    :param beat: called several times a second while the process can answer.
    :raises SettingsError: if the credentials or the store cannot be used.
    :raises CustodyError: if `records` can be none.
    :raises ApiError: ServiceUnavailable if the store does not answer.
    """
    credentials = load(data / "credentials", account)
    feeds = open_regions(data, region, region_feeds)
    kept = open_records(records or f"file:{data}/custody/")
    memory = Store(store or data / "keyfront.db", password_file=password_file)
    try:
        access = CallerDirectory(memory, credentials, account, lambda: sealer(data, os.environ, make=False))
        service = Service(
            memory,
            feeds.own,
            elsewhere=feeds.others,
            domain_suffix=domain,
            account=account,
            quotas=quotas,
            audit_reads=audit_reads,
        )
        gatherer = KeyUsageCollector(memory, *feeds.feeds)
        others = ExtensionApi(memory, gatherer, random.SystemRandom(), audit_reads=audit_reads)
        rotations = None
        if rotation:
            owner, secret = next(iter(credentials))
            rotations = Rotations(
                memory,
                kept,
                account,
                own_url(sock),
                (owner.access_key_id, secret),
                hooks,
                shared=memory.shared and bool(records),
            )
        watch = KeyWatch(memory, kept, tells=lambda: rotations is None or rotations.leads)
        registry = registry or CollectorRegistry()
        registry.register(KeyMetrics(memory, watch))
        service.start(time.time())
        access.current(time.time())  # what is wrong with keys or policies is told at the start
        calls = Calls(THREADS)
        refusals = Refusals(random.SystemRandom())
        app = build_app(
            service,
            access,
            health=_health(data, memory, service, edges, calls),
            registry=registry,
            others=others,
            calls=calls,
            refused=refusals.add,
            metrics_for=Audience(metrics_for),
        )
        process = _Process(
            service,
            gatherer,
            watch,
            rotations,
            RefusalLog(memory, refusals),
            FOLLOW_OTHERS if memory.shared else FOLLOW,
        )

        def go_on() -> None:
            now = time.monotonic()
            if edges is not None:
                edges.look(now)
            if calls.held_up(now) < CALLS_STUCK:
                beat()

        asyncio.run(_beating(go_on, process.run(app, sock, on_ready, lifeline, trusted_proxies)))
    finally:
        memory.close()


def own_url(sock: socket.socket) -> str:
    """Where whoever is on this machine reaches the bound `sock`."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - what it is bound to, not what is bound
        host = "::1" if host == "::" else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Process:
    def __init__(
        self,
        service: Service,
        gatherer: KeyUsageCollector,
        watch: KeyWatch,
        rotations: Rotations | None,
        refusals: RefusalLog,
        follow: float,
    ) -> None:
        self._refusals = refusals
        self._service = service
        self._gatherer = gatherer
        self._watch = watch
        self._rotations = rotations
        self._follow = follow

    async def run(
        self,
        app: Starlette,
        sock: socket.socket,
        on_ready: Callable[[], None],
        lifeline: int | None,
        trusted_proxies: Sequence[str],
    ) -> None:
        loop = asyncio.get_running_loop()
        asked, stop = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked.set)
        if lifeline is not None:
            loop.add_reader(lifeline, asked.set)

        def ready() -> None:
            on_ready()
            if self._rotations is not None:
                self._rotations.start()

        besides = [
            asyncio.create_task(each)
            for each in (
                self._end(asked, stop),
                _every(self._follow, self._service.follow, "what was committed is not published yet"),
                _every(GATHER, self._gatherer.gather, "what edges have counted is not added up yet"),
                _every(FLUSH, self._refusals.write, "refused calls are not in the audit log yet"),
                _every(WATCH, self._watch.tell, "what keys call for is not known", abandon=True),
            )
        ]
        try:
            await serve(app, sock, ready, stop=stop, trusted_proxies=trusted_proxies)
        finally:
            for task in besides:
                task.cancel()
            with contextlib.suppress(ApiError, OSError):  # what edges counted last, which have ended by now
                await to_thread.run_sync(self._gatherer.gather, time.time())
            with contextlib.suppress(ApiError):
                await to_thread.run_sync(lambda: self._refusals.write(time.time(), everything=True))
            with contextlib.suppress(ApiError):
                await to_thread.run_sync(self._service.leave)
            if lifeline is not None:
                loop.remove_reader(lifeline)

    async def _end(self, asked: asyncio.Event, stop: asyncio.Event) -> None:
        """First the rotations, whose steps are calls to this very process."""
        await asked.wait()
        if self._rotations is not None:
            await to_thread.run_sync(self._rotations.stop)
        stop.set()


def _health(data: Path, store: Store, service: Service, edges: EdgeWorkers | None, calls: Calls) -> Health:
    def publishing() -> Iterable[str]:
        if not service.follow(time.time()):
            yield "a change that was accepted is not published yet"

    def audited() -> Iterable[str]:
        if service.audit_trouble:
            yield f"the last record could not be written: {service.audit_trouble}"

    checks: dict[str, Look] = {
        "data folder": lambda: writable(data),
        "store": lambda: committable(store),
        "audit": audited,
        "publishing": publishing,
        "calls": calls.reasons,
    }
    if edges is None:
        return Health(checks)
    return Health({"edges": edges.reasons, **checks}, edges.details)


async def _beating(beat: Callable[[], None], work: Coroutine[None, None, None]) -> None:
    """Do the work, and beat as long as the event loop turns."""

    async def go_on() -> None:
        while True:
            beat()
            await asyncio.sleep(BEAT)

    beating = asyncio.create_task(go_on())
    try:
        await work
    finally:
        beating.cancel()


async def _every(
    pause: float, work: Callable[[float], object], trouble: str, *, abandon: bool = False
) -> None:
    """Do `work`, which takes the time in epoch seconds, again and again.

    :param abandon: whether nobody waits for it at the end: custody may be slow to answer.
    """
    own_thread = CapacityLimiter(1)  # not one of those that calls may all be waiting in
    while True:
        await asyncio.sleep(pause)
        try:
            await to_thread.run_sync(work, time.time(), limiter=own_thread, abandon_on_cancel=abandon)
        except ApiError:
            pass  # the store does not answer, and has said so in the log
        except Exception:
            log.exception("%s", trouble)
