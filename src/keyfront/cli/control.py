"""The control plane's process under `keyfront up`: its own shell, and the edges' metrics beside its own."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from keyfront.cli.settings import ControlSettings
from keyfront.cli.store import located
from keyfront.control.health import EdgeWorkers
from keyfront.control.process import run_control
from keyfront.edge.metrics import families, places
from keyfront.errors import SettingsError
from keyfront.fleet.heartbeat import Board
from keyfront.fleet.regions import Regions, open_regions, remember
from keyfront.lifecycle.hooks import read_hooks


class Edges(Collector):
    """What the live edges report."""

    def __init__(self, feed: Regions) -> None:
        self._feed = feed

    def collect(self) -> Iterable[Metric]:
        reports = self._feed.reports()
        yield from families((r.name, r.number, r.counters) for r in reports)
        yield from places((r.name, r.region) for r in reports)


def main(settings: ControlSettings) -> None:
    """Serve until SIGTERM, or until the parent is gone."""
    logging.basicConfig(format="keyfront: %(message)s", level=logging.WARNING)
    data = Path(settings.data)
    registry = CollectorRegistry()
    remember(data, settings.region, settings.region_feeds)
    registry.register(Edges(open_regions(data, settings.region, settings.region_feeds)))
    lifeline, ready = int(os.environ["KEYFRONT_LIFELINE"]), int(os.environ["KEYFRONT_READY"])

    def on_ready() -> None:
        os.write(ready, b"ready\n")
        os.close(ready)

    inherited = settings.inherited
    if inherited is None:
        raise SettingsError("the control plane's process is started by `keyfront up`")
    listening = socket.socket(fileno=inherited.socket)
    board = Board(inherited.board, len(inherited.workers) + 1)
    run_control(
        data,
        listening,
        settings.domain,
        settings.account,
        on_ready,
        store=located(settings.store),
        password_file=Path(settings.store_password_file) if settings.store_password_file else None,
        registry=registry,
        lifeline=lifeline,
        audit_reads=settings.audit_reads,
        trusted_proxies=settings.trusted_proxies,
        quotas=settings.quotas,
        region=settings.region,
        region_feeds=settings.region_feeds,
        records=settings.records,
        rotation=settings.rotation,
        hooks=read_hooks(Path(settings.hooks)) if settings.hooks else (),
        metrics_for=settings.metrics,
        edges=EdgeWorkers(board, inherited.workers, open_regions(data, settings.region, ()).own),
        beat=lambda: board.beat(len(inherited.workers), time.monotonic()),
    )
