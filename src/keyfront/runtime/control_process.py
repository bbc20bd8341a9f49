"""The control plane's process under `keyfront up`: its own shell, and the edges' metrics beside its own."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from keyfront.cli.settings import ControlInherited
from keyfront.control.identity.credentials import load
from keyfront.control.process import ControlPlaneSettings, Supervision, run_control
from keyfront.control.store.store import Store
from keyfront.control.wire.health import EdgeWorkers
from keyfront.control.wire.metrics_access import Audience
from keyfront.control.wire.unavailable import Unavailable
from keyfront.errors import KeyfrontError, SettingsError
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.heartbeat import Board
from keyfront.fleet.regions import Regions, open_regions, remember
from keyfront.lifecycle.hooks import read_hooks
from keyfront.monitoring.edge_metrics import families, places
from keyfront.runtime.settings import ControlSettings, located

log = logging.getLogger("keyfront.control")


class Edges(Collector):
    """What the live edges report."""

    def __init__(self, feed: Regions) -> None:
        self._feed = feed

    def collect(self) -> Iterable[Metric]:
        reports = self._feed.reports()
        yield from families((r.name, r.number, r.counters) for r in reports)
        yield from places((r.name, r.region) for r in reports)


class Processes(Collector):
    """How often the supervisor had to start each process again.

    :param names: of the processes, in the order of their slots.
    """

    def __init__(self, board: Board, names: Sequence[str]) -> None:
        self._board = board
        self._names = names

    def collect(self) -> Iterable[Metric]:
        found = CounterMetricFamily(
            "keyfront_process_restarts",
            "Restarts of a process: it ended by itself, or was killed because it was stuck.",
            labels=["process", "reason"],
        )
        for slot, name in enumerate(self._names):
            restarts, killed = self._board.restarts(slot)
            found.add_metric([name, "ended"], restarts - killed)
            found.add_metric([name, "stuck"], killed)
        yield found


def main(settings: ControlSettings) -> None:
    """Serve until SIGTERM, or until the parent is gone.

    If the control plane cannot work, and edges serve a snapshot already, its port answers 503 with the reason until it
    can; without a snapshot the process ends, as nothing works then.
    """
    logging.basicConfig(format="keyfront: %(message)s", level=logging.WARNING)
    inherited = settings.inherited
    if inherited is None:
        raise SettingsError("the control plane's process is started by `keyfront up`")
    lifeline, ready = int(os.environ["KEYFRONT_LIFELINE"]), int(os.environ["KEYFRONT_READY"])
    running = _Running(settings, inherited, lifeline, ready)
    while True:
        try:
            running.run()
            return
        except Exception as error:
            if running.answered or not running.edges_serve():
                raise
            if not isinstance(error, KeyfrontError | OSError):
                log.exception("the control plane cannot start")
            why = str(error) or type(error).__name__
        log.error(
            "the control plane cannot work, and edges serve the last snapshot that they accepted: %s", why
        )
        if not running.stand_in(why):
            return
        log.warning("the control plane tries to start again")


class _Running:
    """One process of the control plane, which works or says why it cannot."""

    def __init__(
        self, settings: ControlSettings, inherited: ControlInherited, lifeline: int, ready: int
    ) -> None:
        self._settings = settings
        self._data = Path(settings.data)
        self._socket = inherited.socket
        self._lifeline = lifeline
        self._ready = ready
        self._board = Board(inherited.board, len(inherited.workers) + 1)
        self._slot = len(inherited.workers)
        self._names = (*inherited.workers, "control")
        self._edges = EdgeWorkers(
            self._board, inherited.workers, open_regions(self._data, settings.region, ()).own
        )
        self.answered = False
        """Has the control plane itself answered?"""

    def edges_serve(self) -> bool:
        """Is there a snapshot that edges serve without the control plane? Asked when it fails, since on a new
        installation there is none when the supervisor starts."""
        return FileFeed(self._data, self._settings.region).servable() is not None

    def _on_ready(self) -> None:
        if self._ready >= 0:
            os.write(self._ready, b"ready\n")
            os.close(self._ready)
            self._ready = -1

    def _works(self) -> None:
        self.answered = True
        self._on_ready()

    def _beat(self) -> None:
        self._board.beat(self._slot, time.monotonic())

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(Edges(open_regions(self._data, self._settings.region, self._settings.region_feeds)))
        registry.register(Processes(self._board, self._names))
        return registry

    def run(self) -> None:
        """Be the control plane."""
        settings = self._settings
        self._refuse_lost()
        remember(self._data, settings.region, settings.region_feeds)
        run_control(
            ControlPlaneSettings(
                data=self._data,
                domain=settings.domain,
                account=settings.account,
                store=located(settings.store),
                password_file=Path(settings.store_password_file) if settings.store_password_file else None,
                audit_reads=settings.audit_reads,
                trusted_proxies=settings.trusted_proxies,
                quotas=settings.quotas,
                region=settings.region,
                region_feeds=settings.region_feeds,
                records=settings.records,
                rotation=settings.rotation,
                hooks=read_hooks(Path(settings.hooks)) if settings.hooks else (),
                metrics_for=settings.metrics,
            ),
            socket.socket(fileno=os.dup(self._socket)),
            self._works,
            Supervision(self._lifeline, self._edges, self._beat),
            self._registry(),
        )

    def stand_in(self, why: str) -> bool:
        """Answer 503 until the store and the credentials can be opened. False if the process is to end."""

        def beat() -> None:
            self._edges.look(time.monotonic())
            self._beat()

        instead = Unavailable(
            why,
            {"edges": self._edges.reasons},
            self._registry(),
            Audience(self._settings.metrics),
        )
        sock = socket.socket(fileno=os.dup(self._socket))
        return asyncio.run(instead.serve(sock, self._on_ready, self._open, beat, self._lifeline))

    def _open(self) -> None:
        """Raises what the control plane would fail by."""
        settings = self._settings
        self._refuse_lost()
        load(self._data / "credentials", settings.account)
        Store(
            located(settings.store) or self._data / "keyfront.db",
            password_file=Path(settings.store_password_file) if settings.store_password_file else None,
        ).close()

    def _refuse_lost(self) -> None:
        """Do not make a new store where one was lost: edges serve what it held."""
        path = self._data / "keyfront.db"
        if located(self._settings.store) or (path.exists() and path.stat().st_size):
            return
        published = FileFeed(self._data, self._settings.region).servable()
        if published is not None:
            raise SettingsError(
                f"the store {path} is {'empty' if path.exists() else 'gone'}, but snapshot {published.number} with "
                f"{len(published.distributions)} distributions is published: restore a backup, copy the lost store "
                "here, or remove the files `snapshot` and `snapshot.accepted` to begin anew"
            )
