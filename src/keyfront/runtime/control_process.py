"""The control plane's process under `keyfront up`: the control plane itself, with the edges' metrics in addition to its
own, or a stand-in that responds with 503 while the control plane cannot run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from keyfront.console.mount import console_routes
from keyfront.control.alarms.plane import AlarmSettings
from keyfront.control.identity.credentials import load
from keyfront.control.identity.session_credentials import SessionCredentials
from keyfront.control.process import ControlPlaneSettings, Supervision, run_control
from keyfront.control.store.store import Store
from keyfront.control.wire.health import EdgeWorkers
from keyfront.control.wire.unavailable import Unavailable
from keyfront.errors import KeyfrontError, SettingsError
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.heartbeat import Board
from keyfront.fleet.regions import Regions, RemoteEdges, open_regions, remember
from keyfront.lifecycle.hooks import HookFile, read_hook_file
from keyfront.monitoring.edge_metrics import families, fleet_families
from keyfront.monitoring.exposition import BuildInfo
from keyfront.monitoring.metrics_access import Audience
from keyfront.runtime.delivery_collector import DeliveryCollector, DeliveryMeasurements
from keyfront.runtime.explanation import SnapshotExplainer
from keyfront.runtime.machine_trouble import machine_trouble
from keyfront.runtime.restarts import Restarts
from keyfront.runtime.settings import ControlInherited, ControlSettings, read_token, store_url

log = logging.getLogger("keyfront.control")


def console(api: ASGIApp, sessions: SessionCredentials) -> Sequence[BaseRoute]:
    """The routes of the console, as a client of `api`."""

    def make() -> ASGIApp:
        from keyfront.console.app import Console  # imports the templates' engine

        return Console(api, sessions).application()

    return console_routes(make)


class EdgeReports(Collector):
    """Metrics that the live edges report."""

    def __init__(self, feed: Regions) -> None:
        self._feed = feed

    def on_remote(self, remote: RemoteEdges) -> None:
        """Also show the edges that follow over a network."""
        self._feed.remotes.append(remote)

    def collect(self) -> Iterable[Metric]:
        reports = self._feed.full_reports()
        yield from families((r.name, r.number, r.counters) for r in reports)
        yield from fleet_families(reports)


def main(settings: ControlSettings) -> None:
    """Serve until SIGTERM, or until the parent exits.

    If the control plane cannot run while edges already serve a snapshot, the port responds with 503 and the reason
    until it can. Without a snapshot the process exits, because nothing would work.

    :raises SettingsError: if the process was not started by `keyfront up`.
    """
    inherited = settings.inherited
    if inherited is None:
        raise SettingsError("the control process is started by `keyfront up`")
    lifeline, ready = int(os.environ["KEYFRONT_LIFELINE"]), int(os.environ["KEYFRONT_READY"])
    process = ControlProcess(settings, inherited, lifeline, ready)
    while True:
        try:
            process.run()
            return
        except Exception as error:
            if process.has_worked or not process.edges_serve():
                raise
            if not isinstance(error, KeyfrontError | OSError):
                log.exception("the control plane cannot start")
            reason = str(error) or type(error).__name__
        log.error(
            "the control plane cannot work; edges serve the last snapshot that they accepted: %s", reason
        )
        if not process.stand_in(reason):
            return
        log.warning("the control plane tries to start again")


class ControlProcess:
    """One process that runs the control plane or, while that is impossible, its stand-in.

    :param lifeline: the pipe from the supervisor.
    :param ready: the pipe to write to once, when the port responds.
    """

    def __init__(
        self, settings: ControlSettings, inherited: ControlInherited, lifeline: int, ready: int
    ) -> None:
        self._settings = settings
        self._data = Path(settings.data)
        self._socket = inherited.socket
        self._shown_elsewhere = inherited.edge_metrics
        self._edge_socket = inherited.edges
        self._lifeline = lifeline
        self._ready = ready
        self._board = Board(inherited.board, len(inherited.workers) + 1)
        self._slot = len(inherited.workers)
        self._names = (*inherited.workers, "control")
        self._audience = Audience(settings.metrics, read_token(settings.metrics_token))
        self._edges = EdgeWorkers(
            self._board, inherited.workers, open_regions(self._data, settings.region, ()).own
        )
        self.has_worked = False
        """Whether the control plane itself has responded in this process."""

    def edges_serve(self) -> bool:
        """Whether there is a snapshot that edges serve without the control plane. Checked when it fails, because a new
        installation has none when the supervisor starts."""
        return FileFeed(self._data, self._settings.region).servable() is not None

    def _edge_certificate(self) -> tuple[Path, Path | None] | None:
        chain, key = self._settings.edge_certificate, self._settings.edge_key
        return (Path(chain), Path(key) if key else None) if chain else None

    def run(self) -> None:
        """Run the control plane."""
        settings = self._settings
        self._refuse_lost_store()
        remember(self._data, settings.region, settings.region_feeds)
        registry, reports = self._registry()
        hooks = read_hook_file(Path(settings.hooks)) if settings.hooks else HookFile()
        run_control(
            ControlPlaneSettings(
                data=self._data,
                domain=settings.domain,
                account=settings.account,
                store=store_url(settings.store),
                password_file=self._password_file(),
                audit_reads=settings.audit_reads,
                trusted_proxies=settings.trusted_proxies,
                quotas=settings.quotas,
                region=settings.region,
                region_feeds=settings.region_feeds,
                records=settings.records,
                rotation=settings.rotation,
                hooks=hooks.hook,
                alarms=AlarmSettings(settings.alarm_interval, hooks.action, os.environ),
                log_delivery=DeliveryMeasurements(self._data),
                sharing=settings.sharing,
                metrics_for=self._audience,
                edge_lifetime=settings.edge_lifetime,
                edge_certificate=self._edge_certificate(),
                nats=settings.nats,
                nats_replicas=settings.nats_replicas,
                console=console if settings.console else None,
                explainer=SnapshotExplainer(self._data, settings.region),
            ),
            self._listener(),
            self._on_working,
            Supervision(
                self._lifeline,
                self._edges,
                self._beat,
                self._edge_listener(),
                on_remote=reports.on_remote,
                has_successor=lambda: not self._board.stopping,
                trouble=lambda: machine_trouble(self._data),
            ),
            registry,
        )

    def stand_in(self, reason: str) -> bool:
        """Respond with 503 until the store and the credentials can be opened. Returns False if the process must
        exit."""

        def beat() -> None:
            self._edges.note_heartbeats(time.monotonic())
            self._beat()

        instead = Unavailable(
            reason,
            {"edges": self._edges.reasons},
            self._registry()[0],
            self._audience,
        )
        return asyncio.run(
            instead.serve(self._listener(), self._on_ready, self._try_to_open, beat, self._lifeline)
        )

    def _on_working(self) -> None:
        self.has_worked = True
        self._on_ready()

    def _on_ready(self) -> None:
        if self._ready >= 0:
            with contextlib.suppress(BrokenPipeError):  # the parent is gone: the lifeline ends this process
                os.write(self._ready, b"ready\n")
            os.close(self._ready)
            self._ready = -1

    def _beat(self) -> None:
        self._board.beat(self._slot, time.monotonic())

    def _listener(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self._socket))

    def _edge_listener(self) -> socket.socket | None:
        return None if self._edge_socket < 0 else socket.socket(fileno=os.dup(self._edge_socket))

    def _password_file(self) -> Path | None:
        return Path(self._settings.store_password_file) if self._settings.store_password_file else None

    def _registry(self) -> tuple[CollectorRegistry, EdgeReports]:
        feeds = open_regions(self._data, self._settings.region, self._settings.region_feeds)
        registry, reports = CollectorRegistry(), EdgeReports(feeds)
        registry.register(reports)
        registry.register(BuildInfo())
        if not self._shown_elsewhere:
            registry.register(Restarts(self._board, self._names))
            registry.register(DeliveryCollector(self._data))
        return registry, reports

    def _try_to_open(self) -> None:
        """:raises KeyfrontError: the error with which the control plane would fail to start."""
        self._refuse_lost_store()
        load(self._data / "credentials", self._settings.account)
        url = store_url(self._settings.store)
        Store(url or self._data / "keyfront.db", password_file=self._password_file()).close()

    def _refuse_lost_store(self) -> None:
        """Refuse to create a new store in place of a lost one: edges still serve what the lost store contained."""
        path = self._data / "keyfront.db"
        if store_url(self._settings.store) or (path.exists() and path.stat().st_size):
            return
        published = FileFeed(self._data, self._settings.region).servable()
        if published is not None:
            raise SettingsError(
                f"the store {path} is {'empty' if path.exists() else 'gone'}, but snapshot {published.number} with "
                f"{len(published.distributions)} distributions is published: restore a backup, copy the lost store "
                "here, or remove the files `snapshot` and `snapshot.accepted` to start over"
            )
